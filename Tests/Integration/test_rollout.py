"""Rollouts on real guests: the whole way, and with server, notifier or agents missing meanwhile."""
import random
import time

from cluster_case import ClusterCase  # first: it sets the path for the others

import demo_report


class Rollout(ClusterCase):
    def setUp(self):
        super().setUp()
        # Other tests leave single guests on another QEMU: a rollout would skip them.
        if len(set(self.versions().values())) > 1:
            self.assertEqual(self.roll("to-old")["state"], "succeeded")

    def assertAllHeldOnce(self, rollout, release):
        """Every guest was held once, in order, and runs the release's QEMU now."""
        version = self.cluster.new["version"] if release == "to-new" else self.cluster.old["version"]
        self.assertEqual(rollout["state"], "succeeded", rollout)
        holds = self.holds(rollout)
        self.assertEqual(sorted(h["guest"] for h in holds), sorted(self.cluster.guests))
        self.wait(lambda: set(self.versions().values()) == {version}, 10, "the new versions")
        self.assertEqual(demo_report.overlaps(self.with_places(rollout)), [])
        for hold in holds:
            self.assertEqual(hold["outcome"], "succeeded", hold)
            self.assertLess(hold["holdMilliseconds"], 10_000)
            self.assertGreater(hold["holdMilliseconds"], 0)

    def with_places(self, rollout):
        """The holds as demo_report wants them."""
        rows = []
        for step in rollout["steps"]:
            confirmed = [p["at"] for p in step["phases"] if p["phase"] == "confirmed"]
            pair = step["pairs"][0] if step["pairs"] else {"set": None, "updateDomain": None}
            rows += [hold | {"availabilitySet": pair["set"], "updateDomain": pair["updateDomain"],
                             "confirmedAt": confirmed[-1] if confirmed else None}
                     for hold in step["holds"]]
        return rows

    def test_a_rollout_reaches_every_guest_one_update_domain_at_a_time(self):
        release = self.next_release("db-0")
        plan = self.cluster.cli_json("plan", "--release", release)
        self.assertEqual(plan["problems"], [])
        self.assertEqual(sorted(g for s in plan["steps"] for g in s["guests"]),
                         sorted(self.cluster.guests))
        done = self.cluster.cli("rollout", "start", "--release", release, "--watch")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("succeeded", done.stdout)
        rollout = self.show(self.cluster.cli_json("rollout", "list")[-1]["id"])
        self.assertAllHeldOnce(rollout, release)
        for name in self.cluster.guests:
            self.assertTrue(self.cluster.ask(name, "verify", 120)["memoryIntact"], name)
        for hold in self.holds(rollout):
            if hold["guest"] == "mute":
                continue
            self.assertIsNotNone(hold["clockErrorMillisecondsAfter"], hold)
            self.assertLess(abs(hold["clockErrorMillisecondsAfter"]), 250, hold)
        # Whoever has it already is skipped, and that is no failure.
        plan = self.cluster.cli_json("plan", "--release", release)
        self.assertEqual(plan["steps"], [])
        self.assertEqual(len(plan["skipped"]), len(self.cluster.guests))

    def test_a_guest_without_guest_agent_is_held_and_its_clock_left_alone(self):
        rollout = self.roll(self.next_release("mute"), "c")
        self.assertEqual(rollout["state"], "succeeded", rollout)
        (step,) = self.steps(rollout, "mute")
        (hold,) = step["holds"]
        self.assertEqual(hold["outcome"], "succeeded", hold)
        self.assertIsNone(hold["clockErrorMillisecondsAfter"])
        self.assertTrue(hold["clockNote"], hold)
        self.assertEqual(step["pairs"], [])

    def test_a_server_killed_at_random_moments_loses_nothing(self):
        seed = random.randrange(1 << 32)
        chance = random.Random(seed)
        with self.subTest(seed=seed):
            release = self.next_release("db-0")
            # What was acknowledged before a kill is there after it.
            self.cluster.add_release(f"kept-{seed}", self.cluster.new)
            rollout = self.start(release)
            for _ in range(5):
                steps = len(self.show(rollout)["steps"])
                time.sleep(chance.uniform(0, 1.5))
                self.cluster.server.kill()
                self.cluster.server.start()
                self.assertEqual(len(self.show(rollout)["steps"]), steps)
            self.assertAllHeldOnce(self.finish(rollout), release)
            self.assertIn(f"kept-{seed}",
                          [r["id"] for r in self.cluster.cli_json("release", "list")])

    def test_a_notifier_killed_again_and_again_records_each_hold_once(self):
        release = self.next_release("db-0")
        rollout = self.start(release)
        for count in range(1, 4):
            self.wait(lambda n=count: len(self.holds(self.show(rollout))) >= n, 60,
                      f"{count} holds")
            self.cluster.notifier.kill()
            self.cluster.notifier.start()
        self.assertAllHeldOnce(self.finish(rollout), release)
        # check_annotations, after every test, counts them.

    def test_agents_that_are_not_there_are_waited_for(self):
        release = self.next_release("db-0")
        for host in ("b", "c"):
            self.cluster.agents[host].stop()
        self.wait(lambda: self.cluster.cli_json("status")["connectedHostCount"] == 1, 30,
                  "the leader to notice")
        for name in self.cluster.guests:
            self.assertRuns(name)
        rollout = self.start(release)
        text = self.wait(
            lambda: (lambda t: t if "host b" in t and "not connected" in t else None)(
                self.cluster.cli("rollout", "show", rollout).stdout), 20,
            "rollout show to say for whom it waits")
        self.assertIn("host c", text)
        self.assertEqual(self.show(rollout)["state"], "running")
        for host in ("b", "c"):
            self.cluster.agents[host].start()
        self.assertAllHeldOnce(self.finish(rollout), release)

    def test_an_aborted_rollout_starts_no_further_step(self):
        rollout = self.start(self.next_release("db-0"))
        self.cluster.cli_json("rollout", "abort", rollout, "--reason", "a test")
        over = self.finish(rollout)
        self.assertEqual(over["state"], "aborted")
        self.assertIn("a test", over["reason"])
        for step in over["steps"]:
            self.assertIn(step["phase"], ("finished", "cancelled"), step)
