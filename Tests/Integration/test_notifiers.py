"""Two notifiers of one cluster: each hold once in the record of each, each delivery once in all.

Real servers, notifiers and webhooks; the holds are those of scripted agents. `delivered by` below is a
header that each notifier's file of sinks sets.
"""
import json
import signal
import sqlite3
import subprocess
import threading
import time
import unittest

from support import FERMATA, fermata, start_etcd, wait_until  # first: it sets the path for the others

from lab import free_port
from scripted_agent import ScriptedAgent, wait_finished
from test_python_client import ServerCase
from test_sinks import Answer, Hook

# The leader hands the lease on when its holder has been silent for 3 s and then away for 10 s.
HAND_OVER_SECONDS = 60


class SlowHook(Hook):
    """Takes webhooks one after the other, each in `pace` seconds; while `is_open` is clear, none."""

    def __init__(self):
        self.pace, self.is_open, self.turn = 0, threading.Event(), threading.Lock()
        self.is_open.set()
        super().__init__()
        self.RequestHandlerClass = SlowAnswer

    def by(self, name):
        """The ids that one notifier has delivered."""
        return [h["Idempotency-Key"] for h, _, _ in list(self.requests) if h["X-From"] == name]


class SlowAnswer(Answer):
    def do_POST(self):
        self.server.is_open.wait(60)
        with self.server.turn:
            time.sleep(self.server.pace)
        super().do_POST()


class NotifiersCase(ServerCase):
    names = ("n", "m")

    def setUp(self):
        super().setUp()
        done = fermata("pki", "issue", "notifier", "m", "--directory", self.pki)
        self.assertEqual(done.code, 0, str(done))
        self.hook = SlowHook()
        self.addCleanup(self.hook.close)
        self.running = {}

    def database(self, name):
        return self.directory / f"{name}.db"

    def lines(self, name):
        path = self.directory / f"{name}.jsonl"
        return path.read_text().splitlines() if path.exists() else []

    def start(self, *names, shared=True):
        """Notifiers, each with a database and a file of its own, and the webhook that all share."""
        for name in names:
            hook = f"""
  - name: ops
    webhook: {{url: "{self.hook.url}", headers: {{X-From: {name}}}, timeout: 60s}}
    inFlight: 4
    retry: {{first: 100ms, longest: 500ms}}""" if shared else ""
            sinks = self.write(f"{name}.yaml", f"""
sinks:
  - name: lines
    file: {{path: {self.directory}/{name}.jsonl}}{hook}
""")
            with open(self.directory / f"{name}.log", "ab") as log:
                process = subprocess.Popen(
                    [FERMATA, "notifier", "--server", self.address, "--credentials",
                     self.pki / f"notifier-{name}", "--database", self.database(name), "--quiet",
                     "--sinks", sinks, "--log-level", "debug"],
                    stdout=subprocess.PIPE, stderr=log, text=True)
            self.addCleanup(self.end_server, process)
            self.assertIn("fermata notifier ready", process.stdout.readline())
            self.running[name] = process

    def stop(self, name):
        self.running[name].terminate()
        self.assertEqual(self.running[name].wait(30), 0)

    def signal(self, name, number):
        self.running[name].send_signal(number)

    def hold(self, version, count):
        """A rollout that holds `count` guests once each."""
        self.add_release("r" + version, version)
        with ScriptedAgent(self.address, self.pki / "agent-a", [f"g{i}" for i in range(count)]):
            started = self.fermata_json("rollout", "start", "--release", "r" + version)
            wait_finished(self.fermata_json, started["rollout"], 60)

    def hold_for_a_drain(self, count):
        """The same, and none of it has been delivered; then all of it is about to be, slowly."""
        self.hook.is_open.clear()
        self.hold("2", count)
        self.assertEqual(self.hook.requests, [])
        self.hook.pace = 0.1
        self.hook.is_open.set()

    def ids(self):
        """Those of all holds there were, by the server."""
        found = []
        for rollout in self.fermata_json("rollout", "list"):
            for step in self.fermata_json("rollout", "show", rollout["id"])["steps"]:
                found += [f"{step['id']}-t{step['token']}-{h['guest']}"
                          for h in step["holds"]]
        return sorted(found)

    def recorded(self, name):
        done = fermata("annotations", "--database", self.database(name), "--output", "json",
                       "--limit", "1000")
        return sorted(a["annotationId"] for a in done.json)

    def rows(self, name, condition, sink="ops"):
        """Ids of the bulletins whose rows of one sink are such."""
        with sqlite3.connect(f"file:{self.database(name)}?mode=ro", uri=True, timeout=10) as base:
            return [row[0] for row in base.execute(
                "SELECT bulletinId FROM outbox JOIN bulletin ON bulletin.number = outbox.bulletin"
                f" WHERE sink = ? AND {condition}", (sink,))]

    def pending(self, name):
        return self.rows(name, "deliveredAtMicroseconds IS NULL AND deadAtMicroseconds IS NULL")

    def delivered(self, name):
        return self.rows(name, "deliveredAtMicroseconds IS NOT NULL")

    def holder(self):
        """Who has delivered; the other one."""
        wait_until(lambda: self.hook.requests, what="a delivery")
        name = self.hook.requests[0][0]["X-From"]
        return name, ("m" if name == "n" else "n")

    def wait_delivered(self, ids, seconds=HAND_OVER_SECONDS):
        wait_until(lambda: set(self.hook.taken()) == set(ids), seconds, "the webhook to have all")

    def assertEachOnce(self, ids):
        """In the record and the file of each notifier, and none waits for the webhook any more."""
        for name in self.names:
            wait_until(lambda n=name: self.recorded(n) == ids, what=f"all in the record of {name}")
            wait_until(lambda n=name: len(self.lines(n)) == len(ids), what=f"all in {name}'s file")
            self.assertEqual(len(set(self.lines(name))), len(ids))
            wait_until(lambda n=name: not self.pending(n), what=f"{name} to know what is delivered")


class TwoNotifiers(NotifiersCase):
    def test_each_record_once_in_each_and_each_delivery_once_in_all(self):
        self.start("n", "m")
        self.hold("2", 12)
        ids = self.ids()
        self.assertEqual(len(ids), 12)
        self.wait_delivered(ids)
        self.assertEachOnce(ids)
        holder, other = self.holder()
        self.assertEqual(self.hook.by(other), [])
        # One that stops in order hands over at once, and what it was about is not sent again.
        self.hook.is_open.clear()
        self.hold("3", 6)
        self.assertEqual(len(self.hook.taken()), 12)
        self.hook.pace = 0.3
        threading.Timer(0.3, self.hook.is_open.set).start()
        self.stop(holder)
        began = time.monotonic()
        wait_until(lambda: self.hook.by(other), what=f"{other} to deliver")
        self.assertLess(time.monotonic() - began, 9)
        self.start(holder)
        ids = self.ids()
        self.wait_delivered(ids)
        self.assertEachOnce(ids)
        self.assertEqual(sorted(self.hook.taken()), ids, "one was delivered twice")

    def test_killed_in_the_middle_of_a_drain(self):
        self.start("n", "m")
        self.hold_for_a_drain(40)
        holder, other = self.holder()
        wait_until(lambda: len(self.hook.taken()) >= 10, what="the drain to be under way")
        # Further ones stand until it is dead.
        self.hook.is_open.clear()
        wait_until(lambda: len(self.delivered(other)) >= 5, what="the other to know of some")
        known = set(self.delivered(other))
        self.signal(holder, signal.SIGKILL)
        self.running[holder].wait()
        ids = self.ids()
        left = set(ids) - set(self.hook.taken())
        self.assertTrue(left, "it was not in the middle")
        self.hook.is_open.set()
        wait_until(lambda: self.hook.by(other), HAND_OVER_SECONDS, f"{other} to deliver")
        self.wait_delivered(ids)
        # What the leader had been told is not sent again; the rest is, under the same key.
        self.assertEqual(known & set(self.hook.by(other)), set())
        self.assertLessEqual(left, set(self.hook.by(other)))
        self.assertEqual(len(self.hook.by(other)), len(set(self.hook.by(other))))
        self.start(holder)
        self.assertEachOnce(ids)
        self.hold("3", 3)
        ids = self.ids()
        self.wait_delivered(ids)
        self.assertEachOnce(ids)

    def test_one_that_was_stopped_wakes_and_delivers_nothing_twice(self):
        self.start("n", "m")
        self.hold_for_a_drain(40)
        holder, other = self.holder()
        wait_until(lambda: len(self.hook.taken()) >= 5, what="some deliveries")
        self.signal(holder, signal.SIGSTOP)
        self.addCleanup(self.signal, holder, signal.SIGCONT)
        ids = self.ids()
        self.assertGreater(len(self.pending(holder)), 10, "it was not in the middle")
        self.wait_delivered(ids)
        wait_until(lambda: not self.pending(other), what="all to be marked")
        before = len(self.hook.requests)
        self.signal(holder, signal.SIGCONT)
        self.assertEachOnce(ids)
        self.assertEqual(self.hook.requests[before:], [])
        self.hold("3", 4)
        ids = self.ids()
        self.wait_delivered(ids)
        self.assertEachOnce(ids)
        late = [h["X-From"] for h, _, _ in self.hook.requests[before:]]
        self.assertEqual(late, [other] * 4)

    def test_the_server_is_killed_in_the_middle_of_a_drain(self):
        """Its holder keeps the lease, and the other one does not begin."""
        self.start("n", "m")
        self.hold_for_a_drain(60)
        holder, other = self.holder()
        self.server.kill()
        self.server.wait()
        self.assertLess(len(self.hook.taken()), 60, "it was not in the middle")
        self.start_server()
        ids = self.ids()
        self.wait_delivered(ids)
        self.assertEachOnce(ids)
        self.assertEqual(sorted(self.hook.taken()), ids, "one was delivered twice")
        self.assertEqual(self.hook.by(other), [])

    def test_dead_letters_replayed_while_it_is_down_are_sent(self):
        """The leader knows that they were over once; that they are due again only this notifier knows."""
        self.start("n", "m")
        self.hook.script = [404] * 6
        self.hold("2", 2)
        holder, other = self.holder()
        wait_until(lambda: len(self.rows(holder, "deadAtMicroseconds IS NOT NULL")) == 2,
                   what="two dead letters")
        wait_until(lambda: len(self.delivered(other)) == 2, what="the leader to know it")
        self.stop(holder)
        done = fermata("notifier", "dead-letters", "replay", "--database", self.database(holder))
        self.assertEqual(done.out, "2 will be sent again\n", str(done))
        self.start(holder)
        # It sends them when the deliveries are its own.
        self.stop(other)
        self.wait_delivered(self.ids())
        self.assertEqual(len(self.hook.by(holder)), 8)

    def test_one_without_shared_sinks_keeps_no_lease(self):
        self.start("n")
        self.hold("2", 1)
        self.assertEqual(self.holder()[0], "n")
        self.signal("n", signal.SIGKILL)
        self.running["n"].wait()
        self.start("n", shared=False)
        self.start("m")
        self.hold("3", 1)
        self.wait_delivered(self.ids())
        self.assertTrue(self.hook.by("m"))


class ForgottenNotifier(NotifiersCase):
    """One that is gone for good: an operator has no more events kept for it."""

    # More than the server keeps for whoever begins to watch.
    GUESTS = 1_200

    def pile_up(self):
        """As many events as there are guests: a rollout that is aborted before it begins."""
        with ScriptedAgent(self.address, self.pki / "agent-a",
                           [f"h{i:04}" for i in range(self.GUESTS)]):
            wait_until(lambda: len(self.fermata_json("guests")) == self.GUESTS, what="the guests")
        self.add_release("none", "9")
        self.ask("rollout", "start", "--release", "none")
        self.ask("rollout", "abort", str(len(self.fermata_json("rollout", "list"))),
                 "--reason", "enough")

    def ask(self, *arguments, code=0):
        done = fermata(*arguments, "--credentials", self.operator, "--server", self.address)
        self.assertEqual(done.code, code, str(done))
        return done.out + done.err

    def notifier(self, name):
        found = [n for n in self.fermata_json("status")["notifiers"] if n["name"] == name]
        return found[0] if found else None

    def warnings(self):
        return [w for w in self.fermata_json("status")["warnings"] if "notifier" in w]

    def forget(self, name, code=0):
        return self.ask("notifier", "forget", name, "--reason", "replaced by m", code=code)

    def wait_forgotten(self, name):
        """In the first 10 s of its term a server waits for those that may be about to come back."""
        while "may be about to come back" in (said := fermata(
                "notifier", "forget", name, "--reason", "replaced by m", "--credentials",
                self.operator, "--server", self.address)).err:
            time.sleep(0.5)
        self.assertEqual(said.code, 0, str(said))
        return said.out

    def test_its_events_go_and_it_comes_back_as_a_new_one(self):
        self.start("n")
        self.hold("2", 3)
        self.wait_delivered(self.ids())
        self.start("m")
        wait_until(lambda: self.notifier("m"), what="m to acknowledge")
        self.assertIn("notifier n is connected", self.forget("n", code=1))
        self.assertIn("a notifier nobody", self.forget("nobody", code=1))
        self.assertEqual(self.warnings(), [])

        # It has the lease; another one must be given it all the same.
        self.running["n"].kill()
        self.running["n"].wait()
        self.pile_up()
        wait_until(lambda: self.notifier("m")["eventsBehind"] == 0, what="m to have all")
        gone = self.notifier("n")
        self.assertGreater(gone["eventsBehind"], self.GUESTS)
        self.assertFalse(gone["connected"])
        self.assertTrue(self.notifier("m")["connected"])
        (warning,) = self.warnings()
        self.assertIn("notifier n, which is not connected,", warning)
        self.assertIn("fermata notifier forget n", warning)
        self.assertIn(f"fermata_events_kept {gone['lastSequence'] - gone['acknowledgedSequence']}",
                      self.ask("metrics"))
        self.assertIn('fermata_notifier_connected{notifier="n"} 0', self.ask("metrics"))

        self.assertIn("notifier n is forgotten", self.wait_forgotten("n"))
        self.assertIsNone(self.notifier("n"))
        self.assertEqual(self.fermata_json("status")["keptEventCount"], 1_000)
        self.assertEqual(self.warnings(), [])
        self.assertIn("a notifier n", self.forget("n", code=1))
        audit = [json.loads(line) for line in
                 (self.directory / "data" / "audit.jsonl").read_text().splitlines()]
        self.assertEqual(
            {(a["command"]["notifier"], a["result"]["outcome"]) for a in audit
             if a["command"]["command"] == "forgetNotifier"},
            {("n", "refused"), ("nobody", "refused"), ("n", "accepted")})

        # What it knew, it keeps; what is gone, it says once; then it goes on like any other.
        before = self.recorded("n")
        self.start("n")
        wait_until(lambda: (self.notifier("n") or {}).get("eventsBehind") == 0, what="n to be back")
        self.hold("3", 2)
        ids = self.ids()
        self.wait_delivered(ids)
        self.assertTrue(set(before) < set(ids))
        self.assertEachOnce(ids)
        self.assertEqual(sorted(self.hook.taken()), ids, "one was delivered twice")
        self.assertEqual((self.directory / "n.log").read_text().count("EVENTS ARE MISSING"), 1)
        self.assertNotIn("EVENTS ARE MISSING", (self.directory / "m.log").read_text())
        self.assertEqual(self.fermata_json("status")["keptEventCount"], 1_000)


class Takeover(NotifiersCase):
    """Two servers on one etcd: the second leads in the middle of a drain."""

    def start_server(self):
        if self.address == "127.0.0.1:0":
            self.etcd = start_etcd(self, self.directory / "etcd")
            done = fermata("pki", "issue", "server", "t", "--directory", self.pki)
            self.assertEqual(done.code, 0, str(done))
            self.addresses = {name: f"127.0.0.1:{free_port()}" for name in "st"}
        self.servers = {}
        for name in "st":
            self.start_one(name)
        self.address = ",".join(self.addresses.values())

    def start_one(self, name):
        other = "t" if name == "s" else "s"
        with open(self.directory / f"server-{name}.log", "ab") as log, \
                open(self.directory / f"server-{name}.out", "ab") as out:
            self.servers[name] = subprocess.Popen(
                [FERMATA, "server", "--credentials", self.pki / f"server-{name}", "--data",
                 self.directory / name, "--listen", self.addresses[name], "--advertise",
                 self.addresses[name], "--peer", self.addresses[other], "--store",
                 f"etcd:{self.etcd}"], stdout=out, stderr=log, text=True)
        self.addCleanup(self.servers[name].wait)
        self.addCleanup(self.servers[name].kill)
        if name == "s":
            # Alone: the other one might be the first to lead.
            wait_until(lambda: "term " in self.words("s"), 60, "the first server to lead")

    def words(self, name):
        path = self.directory / f"server-{name}.out"
        return path.read_text() if path.exists() else ""

    def hold(self, version, count):
        """By an agent of the server that leads."""
        addresses, self.address = self.address, self.addresses[self.leader]
        super().hold(version, count)
        self.address = addresses

    leader = "s"

    def test_the_lease_outlives_the_leader(self):
        self.start("n", "m")
        self.hold_for_a_drain(60)
        holder, other = self.holder()
        self.servers["s"].kill()
        self.servers["s"].wait()
        self.assertLess(len(self.hook.taken()), 60, "it was not in the middle")
        wait_until(lambda: "term " in self.words("t"), 60, "the second server to lead")
        self.leader = "t"
        self.address = self.addresses["t"]
        ids = self.ids()
        self.wait_delivered(ids)
        self.hold("3", 4)
        ids = self.ids()
        self.wait_delivered(ids)
        self.assertEachOnce(ids)
        self.assertEqual(sorted(self.hook.taken()), ids, "one was delivered twice")
        self.assertEqual(self.hook.by(other), [])


if __name__ == "__main__":
    unittest.main()
