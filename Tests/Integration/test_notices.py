"""Guests are told before they are held: on real processes, with a scripted agent instead of guests."""
import time
import unittest

from support import fermata, wait_until  # first: it sets the path for the others

from scripted_agent import ScriptedAgent, wait_finished
from test_python_client import ServerCase

import fermata_wire as wire

pb = wire.pb
# Longer than a few commands take on a slow machine.
NOTICE_SECONDS = 10


class Notices(ServerCase):
    def start(self, release, *options):
        return self.fermata_json("rollout", "start", "--release", release, *options)["rollout"]

    def notices(self):
        return self.fermata_json("notices")["notices"]

    def acknowledge(self, step, guest, code=0):
        result = fermata("notices", "acknowledge", step, guest, "--credentials", self.operator,
                         "--server", self.address)
        self.assertEqual(result.code, code, str(result))
        return result

    def steps(self, rollout):
        return self.fermata_json("rollout", "show", rollout)["steps"]

    def events(self):
        """All that there are, by what they are."""
        with_end = self.fermata_json("notices")["lastSequence"]
        session = wire.connect(*self.address.split(":"), str(self.operator))
        try:
            session.hello()
            session.send(pb.FollowEvents(after_sequence=0), session.next_correlation())
            events = []
            while len(events) < with_end:
                received = session.receive(5)
                if received.kind == "EventBatch":
                    events += received.message.events
            return events
        finally:
            session.close()

    def seconds(self, events, earlier, later):
        """From the first event of one kind to the first of another."""
        def at(kind):
            return next(e.at_microseconds for e in events if e.WhichOneof("body") == kind)
        return (at(later) - at(earlier)) / 1e6

    def test_a_step_starts_when_all_its_guests_have_acknowledged(self):
        self.add_release("two", "2")
        with ScriptedAgent(self.address, self.pki / "agent-a", ["g-1", "g-2"]):
            rollout = self.start("two", "--notice", "15m", "--parallelism", "1")
            self.assertEqual([(n["guests"], n["isStarted"]) for n in self.notices()],
                             [(["g-1"], False), (["g-2"], False)])
            self.assertEqual([s["phase"] for s in self.steps(rollout)], ["noticed"] * 2)
            # They have no address, so nobody in them reads of it: a plan says so before.
            self.add_release("three", "3")
            plan = ("plan", "--release", "three", "--notice", "15m")
            self.assertEqual(self.fermata_json(*plan)["guestsWithoutAddress"], ["g-1", "g-2"])
            text = fermata(*plan, "--credentials", self.operator, "--server", self.address).out
            self.assertIn("warning: 2 guests have no address in their host's file, and nobody there can "
                          "be told: g-1 and g-2\n", text)
            self.assertEqual(self.fermata_json(*plan[:3])["guestsWithoutAddress"], [])
            text = fermata("notices", "--credentials", self.operator, "--server", self.address)
            self.assertIn("noticed", text.out)
            self.assertIn("0/1", text.out)
            self.acknowledge(f"{rollout}.9", "g-1", code=1)
            self.acknowledge(f"{rollout}.1", "g-2", code=1)
            self.acknowledge(f"{rollout}.1", "g-1")
            wait_until(lambda: self.steps(rollout)[0]["phase"] == "finished", 20, "the first step")
            self.assertEqual([n["guests"] for n in self.notices()], [["g-2"]])
            self.acknowledge(f"{rollout}.2", "g-2")
            self.assertEqual(wait_finished(self.fermata_json, rollout)["state"], "succeeded")
            self.assertEqual(self.notices(), [])
        kinds = [event.WhichOneof("body") for event in self.events()]
        self.assertEqual(kinds, [
            "rollout_started", "step_noticed", "step_noticed",
            "notice_acknowledged", "step_granted", "hold_finished", "step_ended",
            "notice_acknowledged", "step_granted", "hold_finished", "step_ended",
            "rollout_changed"])

    def test_an_ignored_acknowledgement_does_not_shorten_the_notice(self):
        self.add_release("two", "2")
        with ScriptedAgent(self.address, self.pki / "agent-a", ["g-1"]):
            rollout = self.start("two", "--notice", f"{NOTICE_SECONDS}s", "--acknowledgement", "ignored")
            self.acknowledge(f"{rollout}.1", "g-1")
            self.assertEqual(wait_finished(self.fermata_json, rollout)["state"], "succeeded")
        events = self.events()
        self.assertEqual([event.WhichOneof("body") for event in events[1:4]],
                         ["step_noticed", "notice_acknowledged", "step_granted"])
        waited = self.seconds(events, "step_noticed", "step_granted")
        self.assertGreaterEqual(waited, NOTICE_SECONDS)
        # A fraction of a second on an idle machine.
        self.assertLess(waited, NOTICE_SECONDS + 30)

    def test_a_leader_that_is_killed_holds_to_the_time(self):
        self.add_release("two", "2")
        with ScriptedAgent(self.address, self.pki / "agent-a", ["g-1"]):
            rollout = self.start("two", "--notice", f"{NOTICE_SECONDS}s")
            (before,) = self.notices()
        self.server.kill()
        self.server.wait()
        self.start_server()
        (after,) = self.notices()
        self.assertEqual(after, before)
        with ScriptedAgent(self.address, self.pki / "agent-a", ["g-1"]):
            self.assertEqual(wait_finished(self.fermata_json, rollout)["state"], "succeeded")
        events = self.events()
        granted = next(e for e in events if e.WhichOneof("body") == "step_granted")
        noticed = next(e for e in events if e.WhichOneof("body") == "step_noticed").step_noticed
        late = (granted.at_microseconds - noticed.not_before_microseconds) / 1e6
        self.assertGreaterEqual(late, 0)
        self.assertLess(late, 60)  # a slow machine may need longer than the notice for the restart
        self.assertEqual(sum(e.WhichOneof("body") == "step_noticed" for e in events), 1)

    def test_an_abort_takes_the_notice_back(self):
        self.add_release("two", "2")
        with ScriptedAgent(self.address, self.pki / "agent-a", ["g-1"]):
            rollout = self.start("two", "--notice", "15m")
            self.assertEqual(len(self.notices()), 1)
            self.fermata_json("rollout", "abort", rollout, "--reason", "lunch")
            self.assertEqual(self.notices(), [])
            self.acknowledge(f"{rollout}.1", "g-1", code=1)
        kinds = [event.WhichOneof("body") for event in self.events()]
        self.assertEqual(kinds, ["rollout_started", "step_noticed", "notice_withdrawn",
                                 "step_ended_without_hold", "rollout_changed", "rollout_changed"])

    def test_the_bounds_of_a_notice_are_told(self):
        for text in ("500ms", "200h", "soon"):
            result = fermata("plan", "--release", "two", "--notice", text, "--credentials",
                             self.operator, "--server", self.address)
            self.assertEqual(result.code, 64, str(result))


class Deliveries(ServerCase):
    """The delivery lease, as notifiers see it."""

    def notifier(self, name):
        result = fermata("pki", "issue", "notifier", name, "--directory", self.pki)
        self.assertEqual(result.code, 0, str(result))
        return self.pki / f"notifier-{name}"

    def claim(self, credentials):
        session = wire.connect(*self.address.split(":"), str(credentials))
        self.addCleanup(session.close)
        session.hello()
        session.send(pb.ClaimDeliveries(), session.next_correlation())
        return session

    def lease(self, session, seconds=90):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            received = session.receive(deadline - time.monotonic())
            if received.kind == "DeliveryLease":
                return received.message
        raise AssertionError("no lease was told")

    def until_mine(self, session):
        lease = self.lease(session)
        while not lease.is_yours:
            lease = self.lease(session)
        return lease

    def test_one_delivers_and_another_goes_on_when_it_gives_up(self):
        one, two = self.notifier("n1"), self.notifier("n2")
        self.add_release("two", "2")
        with ScriptedAgent(self.address, self.pki / "agent-a", ["g-1"]):
            self.roll("two")
        first = self.claim(one)
        lease = self.until_mine(first)
        self.assertEqual((lease.holder, lease.number), ("n1", 1))
        second = self.claim(two)
        self.assertEqual((self.lease(second).holder), "n1")
        first.send(pb.ReportDelivered(number=1, sink="mail", sequence=2), first.next_correlation())
        second.send(pb.ReportDelivered(number=1, sink="mail", sequence=4),
                    second.next_correlation())
        while (received := second.receive(10)).kind != "Refused":
            pass
        self.assertEqual(received.message.code, pb.REFUSAL_CODE_CONFLICT)
        first.send(pb.GiveUpDeliveries(), first.next_correlation())
        lease = self.until_mine(second)
        self.assertGreater(lease.number, 1)
        self.assertEqual([(d.sink, d.sequence) for d in lease.delivered], [("mail", 2)])

    def test_a_notifier_may_ask_and_acknowledge_but_command_nothing_else(self):
        session = self.claim(self.notifier("n1"))
        answer = session.request(pb.Query(notices=pb.Empty()))
        self.assertEqual(answer.kind, "QueryResult")
        answer = session.request(pb.Command(acknowledge_notice=pb.AcknowledgeNotice(
            step=pb.StepRef(rollout=1, number=1), guest="g-1")))
        self.assertEqual((answer.kind, answer.message.code),
                         ("Refused", pb.REFUSAL_CODE_NOT_FOUND))
        session.send(pb.Command(abort_rollout=pb.AbortRollout(rollout=1)),
                     session.next_correlation())
        with self.assertRaises(Exception) as caught:
            while True:
                session.receive(10)
        self.assertIn("NOT_PERMITTED", str(caught.exception))


del ServerCase  # its own tests are in test_python_client.py

if __name__ == "__main__":
    unittest.main()
