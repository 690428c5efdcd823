"""What a hold does to a guest's clock: measured, set, read back, and published."""
import json
import socket
import time

from cluster_case import ClusterCase  # first: it sets the path for the others


class GuestAgent:
    """The guest agent's socket, as somebody else than the Fermata agent uses it."""

    def __init__(self, cluster, guest):
        environment = cluster.qemus(guest)[0][1]
        path = (cluster.run_directory(cluster.guests[guest].host) / "g" / guest
                / environment["FERMATA_GENERATION"] / "ga")
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(str(path))
        self.file = self.socket.makefile("rb")
        self.socket.sendall(b'\xff{"execute":"guest-sync-delimited","arguments":{"id":4711}}\n')
        while b"4711" not in self.file.readline():
            pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()
        self.socket.close()

    def ask(self, command, **arguments):
        line = json.dumps({"execute": command, "arguments": arguments})
        self.socket.sendall(line.encode() + b"\n")
        return json.loads(self.file.readline())

    def error(self):
        """Guest minus host in seconds, by the quickest of 15 answers: on a busy computer one of them
        alone may be late by more than what is measured."""
        answers = []
        for _ in range(15):
            before = time.time()
            guest = self.ask("guest-get-time")["return"] / 1e9
            after = time.time()
            answers.append((after - before, guest - (before + after) / 2))
        return min(answers)[1]


class Clock(ClusterCase):
    def hold(self, guest, host):
        rollout = self.roll(self.next_release(guest), host)
        self.assertEqual(rollout["state"], "succeeded", rollout)
        (step,) = self.steps(rollout, guest)
        (hold,) = step["holds"]
        return hold

    def test_a_clock_that_is_off_is_corrected_whatever_its_error(self):
        for guest, host, offset in (("db-0", "a", 3600), ("db-1", "b", -90)):
            with self.subTest(guest=guest):
                with GuestAgent(self.cluster, guest) as agent:
                    answer = agent.ask("guest-set-time",
                                       time=int((time.time() + offset) * 1e9))
                    self.assertEqual(answer, {"return": {}})
                    self.assertAlmostEqual(agent.error(), offset, delta=1)
                hold = self.hold(guest, host)
                self.assertAlmostEqual(hold["clockErrorMillisecondsBefore"], offset * 1000,
                                       delta=1500)
                self.assertLess(abs(hold["clockErrorMillisecondsAfter"]), 50, hold)
                # What was published is true, by an observer of its own.
                with GuestAgent(self.cluster, guest) as agent:
                    self.assertLess(abs(agent.error()), 0.1)
                annotation = self.wait(lambda: next(
                    (a for a in self.cluster.annotations()
                     if (a["guest"], a["heldAt"]) == (guest, hold["heldAt"])), None),
                    15, "the annotation")
                self.assertEqual(annotation["clockErrorMillisecondsAfter"],
                                 hold["clockErrorMillisecondsAfter"])

    def test_a_guest_without_guest_agent_is_reported_as_such(self):
        hold = self.hold("mute", "c")
        self.assertEqual(hold["outcome"], "succeeded", hold)
        self.assertIsNone(hold["clockErrorMillisecondsBefore"])
        self.assertIsNone(hold["clockErrorMillisecondsAfter"])
        self.assertEqual(hold["clockNote"], "not measured: the guest has no guest agent")
