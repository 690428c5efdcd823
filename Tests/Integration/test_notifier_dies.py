"""Notifier and leader are killed at every point between a hold and its delivery, with a real guest.

FERMATA_TEST_PAUSE_AT=POINT lets a process kill itself when it comes there; `Sources/UvLoop/TestPause.swift`
has the points. After each: one annotation of each hold in the record, one line in the file, and a webhook
that got each hold under one idempotency key, however often.
"""
import itertools
import json
import os
import signal
import threading
import unittest

from support import CACHE, FERMATA, wait_until  # first: it sets the path for the others

import lab
from sink_case import Web, well

NOTIFIERS = ("heard", "stored", "acknowledged", "delivering-hook", "taken-hook", "delivering-lines",
             "taken-lines", "marked", "reported")
LEADERS = ("granted", "committed", "directed", "reported", "recorded")


class NotifierDies(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cluster = lab.Cluster(
            FERMATA, CACHE, [lab.Guest("db-0", "a", "db", 0, tick=5000)], cluster="test",
            keep_directory=bool(os.environ.get("FERMATA_KEEP_LOGS")))
        cls.addClassCleanup(cls.cluster.close)
        c = cls.cluster
        c.prepare()
        c.start_server()
        with c.in_namespace("middle"):
            cls.hook = Web(cls.answer)
        cls.addClassCleanup(cls.hook.close)
        cls.on_hook = None
        cls.lines = c.directory / "lines.jsonl"
        sinks = c.directory / "sinks.yaml"
        sinks.write_text(f"""sinks:
  - name: hook
    webhook: {{url: {cls.hook.url}}}
    retry: {{first: 50ms, longest: 200ms}}
  - name: lines
    file: {{path: {cls.lines}}}
""")
        c.notifier = c.make_notifier()
        c.notifier.arguments += ["--sinks", sinks]
        c.notifier.start()
        c.start_agents()
        c.wait_guests()
        c.add_release("to-new", c.new)
        c.add_release("to-old", c.old)
        cls.first_report = c.ask("db-0", "report")
        cls.count, cls.over = 0, {}

    @classmethod
    def answer(cls, handler, body):
        assert json.loads(body)["id"] == handler.headers["Idempotency-Key"]
        on_hook, cls.on_hook = cls.on_hook, None
        if on_hook:
            on_hook()
        well(handler, body)

    def start(self):
        """A rollout that holds the guest once."""
        self.count += 1
        type(self).count = self.count
        release = "to-new" if self.count % 2 else "to-old"

        def look():
            done = self.cluster.cli("rollout", "start", "--release", release, "--output", "json")
            if done.returncode == 0:
                return json.loads(done.stdout)["rollout"]
            # A leader that dies of it may have it in its log all the same.
            return next((r["id"] for r in self.rollouts() if int(r["id"].split("-")[1]) == self.count),
                        None)
        return wait_until(look, 60, f"rollout {self.count} to be there", interval=0.2)

    def rollouts(self):
        done = self.cluster.cli("rollout", "list", "--output", "json")
        return json.loads(done.stdout) if done.returncode == 0 else []

    def finish(self):
        def look():
            found = self.rollouts()
            return len(found) == self.count and all(r["finishedAt"] for r in found) and found
        found = wait_until(look, 60, "the rollouts to be over", interval=0.1)
        self.assertEqual({r["state"] for r in found}, {"succeeded"})

    def restart(self, daemon, **environment):
        daemon.stop()
        daemon.start(environment=environment)

    def wait_death(self, daemon, point):
        wait_until(lambda: not daemon.is_running, 60, f"{daemon.name} to die at {point}")
        self.assertEqual(daemon.process.returncode, -signal.SIGKILL)

    def check(self):
        """What holds whenever all is at rest; the id of the last annotation."""
        c = self.cluster
        for rollout in self.rollouts():
            if rollout["id"] not in self.over:  # what is over does not change
                steps = c.cli_json("rollout", "show", rollout["id"])["steps"]
                self.over[rollout["id"]] = [hold for step in steps for hold in step["holds"]]
        holds = sorted((h["guest"], h["heldAt"], h["holdMilliseconds"])
                       for found in self.over.values() for h in found)
        self.assertEqual(len(holds), self.count)
        kept = wait_until(lambda: (lambda a: len(a) >= self.count and a)(c.annotations()), 60,
                          "the annotations", interval=0.1)
        self.assertEqual(sorted((a["guest"], a["heldAt"], a["holdMilliseconds"]) for a in kept), holds)
        ids = sorted(a["annotationId"] for a in kept)
        wait_until(lambda: set(self.hook.keys) == set(ids), 60, "the webhook to have all")

        def lines():
            return sorted(json.loads(line)["id"] for line in self.lines.read_text().splitlines()) \
                if self.lines.exists() else []
        wait_until(lambda: lines() == ids, 60, "the file to have each once")
        now = wait_until(lambda: c.try_ask("db-0", "report"), 60, "the guest to answer")
        self.assertEqual(now["bootId"], self.first_report["bootId"])
        self.assertTrue(now["memoryIntact"])
        return max(kept, key=lambda a: a["heldAt"])["annotationId"]

    def test_each_is_killed_at_each_of_its_points(self):
        """In one hold the leader and then the notifier, and at those points that are left the notifier."""
        c = self.cluster
        for leaders, notifiers in itertools.zip_longest(LEADERS, NOTIFIERS):
            with self.subTest(leader=leaders, notifier=notifiers):
                self.restart(c.notifier, FERMATA_TEST_PAUSE_AT=notifiers)
                if leaders:
                    self.restart(c.server, FERMATA_TEST_PAUSE_AT=leaders)
                    self.wait_connected()
                starting = threading.Thread(target=self.start, daemon=True)
                starting.start()
                if leaders:
                    self.wait_death(c.server, leaders)
                    c.server.start()
                self.wait_death(c.notifier, notifiers)
                starting.join(60)
                c.notifier.start()
                self.finish()
                self.check()
        # What was marked, or written to a file, came once; the others may have come twice.
        for key in set(self.hook.keys):
            self.assertLessEqual(self.hook.keys.count(key), 2)

    def test_the_notifier_is_killed_between_a_delivery_and_its_answer(self):
        c = self.cluster
        self.restart(c.notifier)
        type(self).on_hook = c.notifier.kill
        self.start()
        self.wait_death(c.notifier, "the webhook")
        # The leader too, which does not know yet that it was delivered.
        self.restart(c.server)
        c.notifier.start()
        self.finish()
        last = self.check()
        self.assertEqual(self.hook.keys.count(last), 2, "it came again, under the same key")

    def wait_connected(self):
        wait_until(lambda: self.cluster.cli_json("status")["connectedHostCount"] == 1, 60,
                   "the agent to be connected", interval=0.1)


if __name__ == "__main__":
    unittest.main()
