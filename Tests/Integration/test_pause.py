"""Rollouts that are paused and hosts that are cordoned, on real guests: nothing starts there, what works
goes on, and a server that is killed knows it all."""
from cluster_case import ClusterCase  # first: it sets the path for the others

AUDITED = ["cordonHost", "startRollout", "pauseRollout", "uncordonHost", "resumeRollout"]


class Pause(ClusterCase):
    def setUp(self):
        super().setUp()
        self.addCleanup(self.uncordon_all)
        # Other tests leave single guests on another QEMU: a rollout would skip them.
        if len(set(self.versions().values())) > 1:
            self.assertEqual(self.roll("to-old")["state"], "succeeded")

    def uncordon_all(self):
        for host in self.cluster.cli_json("hosts"):
            if host["cordon"]:
                self.cluster.cli("uncordon", host["id"])

    def done(self, *arguments):
        result = self.cluster.cli(*arguments)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        return result.stdout

    def cordons(self):
        return {h["id"]: h["cordon"]["reason"] for h in self.cluster.cli_json("hosts")
                if h["cordon"]}

    def test_a_cordoned_host_waits_and_a_paused_rollout_starts_nothing(self):
        release = self.next_release("db-0")
        refused = self.cluster.cli("cordon", "nowhere", "--reason", "why not")
        self.assertEqual(refused.returncode, 1, refused.stderr)
        self.assertIn("unknown host nowhere", refused.stderr)
        self.assertIn("host b is cordoned", self.done("cordon", "b", "--reason", "its disks"))
        self.assertIn("cordoned: b since", self.done("hosts"))
        problems = self.cluster.cli_json("plan", "--release", release)["problems"]
        self.assertEqual(len(problems), 1, problems)
        self.assertIn("host b is cordoned by", problems[0])

        rollout = self.start(release)
        self.wait(lambda: all(s["outcome"] or s["host"] == "b" for s in self.show(rollout)["steps"]),
                  90, "every step but that on b")
        (step,) = self.steps(self.show(rollout), "db-1")
        self.assertEqual(step["phase"], "waiting")
        self.assertIn("host b is cordoned by", step["reason"])
        self.assertIn("its disks", step["reason"])

        self.done("rollout", "pause", rollout, "--reason", "lunch")
        self.cluster.server.kill()
        self.cluster.server.start()
        self.wait_connected("b")
        self.assertEqual(self.cordons(), {"b": "its disks"})
        self.assertIn("may start", self.done("uncordon", "b"))
        self.assertEqual(self.cordons(), {})
        paused = self.show(rollout)
        self.assertEqual(paused["state"], "paused")
        self.assertIn(": lunch", paused["reason"])
        (step,) = self.steps(paused, "db-1")
        self.assertEqual((step["phase"], step["reason"]),
                         ("waiting", "waits: the rollout is paused"))
        self.assertNotEqual(self.versions()["db-1"], self.versions()["db-0"])

        self.done("rollout", "resume", rollout)
        self.assertEqual(self.finish(rollout)["state"], "succeeded")
        self.wait(lambda: len(set(self.versions().values())) == 1, 10, "the new versions")
        audit = self.cluster.directory / "server" / "audit.jsonl"
        self.assertTrue(audit.exists(), audit)
        text = audit.read_text()
        for command in AUDITED:
            self.assertIn(f'"command":"{command}"', text)

    def test_a_paused_rollout_can_be_aborted(self):
        self.done("cordon", "a", "--reason", "so that it waits")
        rollout = self.start(self.next_release("db-0"), "a")
        self.done("rollout", "pause", rollout)
        self.assertEqual(self.show(rollout)["state"], "paused")
        self.done("rollout", "abort", rollout, "--reason", "the wrong one")
        ended = self.finish(rollout)
        self.assertEqual(ended["state"], "aborted")
        self.assertEqual([s["phase"] for s in ended["steps"]], ["cancelled"])
        late = self.cluster.cli("rollout", "resume", rollout)
        self.assertEqual(late.returncode, 1)
        self.assertIn("does not go on", late.stderr)
