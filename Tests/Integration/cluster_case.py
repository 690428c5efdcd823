"""One cluster with real guests, booted once and shared by all tests that need guests.

Every test gets it whole (setUp starts what an earlier test has killed) and is asked the same at its
end: never were two update domains of a set out at once, no hold was longer than its deadline, clocks are
right or said not to be, no guest was rebooted or lost memory, disk or its TCP connection, and every
hold there ever was has exactly one annotation.
"""
import json
import os
import unittest

from support import CACHE, FERMATA

import demo_report
from soak import CLOCK_ERROR_MILLISECONDS_MAX

from lab import Cluster, Guest, LabError, wait_until

_shared = None


def begin_sharing(cluster):
    """Starts a cluster that many tests share; it ends with this process."""
    cluster.start()
    cluster.add_release("to-new", cluster.new)
    cluster.add_release("to-old", cluster.old)
    cluster.first_reports = {name: cluster.ask(name, "report") for name in cluster.guests}
    # How often the watcher had to connect; more only after a test that loses a guest on purpose.
    cluster.connections = dict.fromkeys(cluster.guests, 1)


def shared_cluster():
    """The cluster; made on the first call."""
    global _shared
    if _shared is None:
        guests = [
            Guest("db-0", "a", "db", 0, tick=5000), Guest("db-1", "b", "db", 1, tick=5000),
            # Names no update domain, so the leader places it.
            Guest("db-2", "c", "db", tick=5000),
            Guest("mute", "c", agent=False, tick=5000),
        ]
        cluster = Cluster(FERMATA, CACHE, guests, update_domains={"db": 3}, cluster="test",
                          keep_directory=bool(os.environ.get("FERMATA_KEEP_LOGS")))
        begin_sharing(cluster)
        _shared = cluster
    return _shared


class ClusterCase(unittest.TestCase):
    """A test on the shared cluster."""

    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.cluster = shared_cluster()

    def setUp(self):
        self.heal()
        self.addCleanup(self.check_invariants)

    # ---- the state before and after each test ----

    def heal(self):
        """Everything runs, is connected, and nothing is in flight."""
        c = self.cluster
        if not c.server.is_running:
            c.server.start()
        if not c.notifier.is_running:
            c.notifier.start()
        for agent in c.agents.values():
            if not agent.is_running:
                agent.start()
        for rollout in c.cli_json("status")["activeRollouts"]:
            c.cli("rollout", "abort", rollout, "--reason", "the test is over")
        self.wait(lambda: self.is_whole(c.cli_json("status")), 60,
                  "the cluster to be whole")
        for lock in c.cli_json("locks"):
            if lock["stuck"]:
                c.cli("locks", "release", lock["set"], "--reason", "the test is over")

    def is_whole(self, status):
        return status["connectedHostCount"] == len(self.cluster.hosts) \
            and status["runningGuestCount"] == len(self.cluster.guests) \
            and not status["activeRollouts"]

    def check_invariants(self):
        c = self.cluster
        if not c.server.is_running or not c.notifier.is_running:
            self.heal()
        rollouts = self.rollouts()
        self.check_one_update_domain(rollouts)              # 1
        self.check_holds(rollouts)                          # 2, 8
        self.check_guests()                                 # 3, 4
        self.check_annotations(rollouts)                    # 6

    def rollouts(self):
        return [self.show(r["id"]) for r in self.cluster.cli_json("rollout", "list")]

    # Nobody could end a hold while the host slept.
    suspended_milliseconds = 0

    def check_one_update_domain(self, rollouts):
        """By the holds' own records, on the clocks of the agents, which are one clock here."""
        rows = []
        for step in (step for rollout in rollouts for step in rollout["steps"]):
            confirmed = [p["at"] for p in step["phases"] if p["phase"] == "confirmed"]
            rows += [hold | {"availabilitySet": pair["set"], "updateDomain": pair["updateDomain"],
                             "confirmedAt": confirmed[-1] if confirmed else None}
                     for hold in step["holds"] for pair in step["pairs"]]
        self.assertEqual(demo_report.overlaps(rows), [])

    def check_holds(self, rollouts):
        """None was longer than its deadline, and what is left of each clock's error is little, or said."""
        for rollout in rollouts:
            deadline = rollout["policy"]["deadlineMilliseconds"] + self.suspended_milliseconds
            for hold in self.holds(rollout):
                # A guest that never went on has no length.
                self.assertLessEqual(hold["holdMilliseconds"] or 0, deadline, hold)
                left = hold["clockErrorMillisecondsAfter"]
                if left is not None and not hold["clockNote"]:
                    self.assertLess(abs(left), CLOCK_ERROR_MILLISECONDS_MAX, hold)
                if hold["outcome"] == "succeeded":
                    self.assertTrue(left is not None or hold["clockNote"], hold)

    def check_guests(self):
        c = self.cluster
        for name, first in c.first_reports.items():
            self.wait(lambda n=name: c.try_ask(n, "report"), 20, f"{name} to answer")
            now = c.ask(name, "report")
            self.assertEqual(now["bootId"], first["bootId"], f"{name} was rebooted")
            self.assertGreater(now["counter"], first["counter"], f"{name} stands still")
            self.assertTrue(now["memoryIntact"], f"memory of {name}")
            self.assertIs(now["diskOk"], True, f"disk of {name}")
            self.assertEqual(len(c.qemus(name)), 1, f"QEMU processes of {name}: {c.qemus(name)}")
            if c.net == "tap":
                status = c.watch_status()[name]
                self.assertEqual(status["connections"], c.connections[name],
                                 f"TCP connection into {name}: {status}")

    def check_annotations(self, rollouts=None):
        """Exactly one for each hold of every rollout, with the hold's own times."""
        def rows(items):
            # A guest that never went on has no length.
            return sorted(((i["guest"], i["heldAt"], i["holdMilliseconds"], i["outcome"])
                           for i in items), key=lambda r: (r[0], r[1], r[2] or -1.0, r[3]))
        c = self.cluster
        rollouts = self.rollouts() if rollouts is None else rollouts
        holds = [hold for rollout in rollouts for hold in self.holds(rollout)]
        try:
            self.wait(lambda: len(c.annotations()) >= len(holds), 15, "the annotations")
        except LabError:
            pass
        annotations = c.annotations()
        self.assertEqual(rows(annotations), rows(holds))
        ids = [a["annotationId"] for a in annotations]
        self.assertEqual(len(ids), len(set(ids)), ids)
        lines = c.directory / "annotations.jsonl"

        def appended():
            text = lines.read_text() if lines.exists() else ""
            # The last one may be half written.
            return sorted(json.loads(line)["annotationId"] for line in text.split("\n")[:-1])
        try:
            # They come after the record.
            self.wait(lambda: appended() == sorted(ids), 15, "the lines")
        except LabError:
            pass
        self.assertEqual(appended(), sorted(ids), "the appended lines")

    # ---- doing things ----

    def wait(self, condition, seconds, what):
        return wait_until(condition, seconds, what)

    def versions(self):
        return {g["id"]: g["hypervisorVersion"] for g in self.cluster.cli_json("guests")}

    def next_release(self, guest):
        """The release that changes the QEMU of this guest."""
        current = self.versions()[guest]
        return "to-old" if current == self.cluster.new["version"] else "to-new"

    def start(self, release, *hosts, deadline="10s", **options):
        """Starts a rollout; its id."""
        arguments = ["rollout", "start", "--release", release, "--deadline", deadline]
        for host in hosts:
            arguments += ["--host", host]
        for name, value in options.items():
            arguments += [f"--{name.replace('_', '-')}", value]
        return self.cluster.cli_json(*arguments)["rollout"]

    def show(self, rollout):
        return self.cluster.cli_json("rollout", "show", rollout)

    def finish(self, rollout, seconds=90):
        """Waits until a rollout is over; the whole of it."""
        def look():
            try:
                found = self.show(rollout)
            except LabError:
                return None              # the server is just being killed
            return found if found["finishedAt"] else None
        return self.wait(look, seconds, f"{rollout} to be over")

    def roll(self, release, *hosts, **options):
        return self.finish(self.start(release, *hosts, **options))

    def holds(self, rollout):
        return [hold for step in rollout["steps"] for hold in step["holds"]]

    def steps(self, rollout, guest):
        return [step for step in rollout["steps"] if guest in step["guests"]]

    def assertRuns(self, guest, seconds=60):
        """The guest executes: its counter goes on."""
        first = self.wait(lambda: self.cluster.try_ask(guest, "report"), seconds,
                          f"{guest} to answer")
        self.wait(lambda: (self.cluster.try_ask(guest, "report") or first)["counter"]
                  > first["counter"], seconds, f"{guest} to go on")

    def restart_agent(self, host, **environment):
        """Stops an agent and starts it, for example to die at a certain point of its next step."""
        agent = self.cluster.agents[host]
        agent.stop()
        agent.start(environment=environment)
        self.wait_connected(host)

    def wait_connected(self, host):
        self.wait(lambda: any(h["id"] == host and h["connected"]
                              for h in self.cluster.cli_json("hosts")), 30,
                  f"the agent of {host} to be connected")
