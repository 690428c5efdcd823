"""The client in Python against a cluster of real guests: the same lists, and a rollout's events."""
import json
import subprocess
import sys

from cluster_case import ClusterCase  # first: it sets the path for the others
from support import ROOT

CLIENT = ROOT / "proto-spec" / "python" / "fermata_client.py"


class PythonClientRollout(ClusterCase):
    def command(self, *arguments):
        c = self.cluster
        return c.inside("middle") + [
            sys.executable, str(CLIENT), "--server", c.server_address, "--credentials",
            str(c.credentials("operator-alice")), *arguments]

    def test_it_lists_the_same_guests_and_follows_a_rollout_in_order(self):
        done = subprocess.run(self.command("guests", "--json"), capture_output=True, text=True,
                              timeout=90, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        ours = {g["report"]["id"]: (g["host"], g["report"].get("set"), g.get("update_domain"),
                                    g["report"]["state"], g["report"]["hypervisor_version"])
                for g in json.loads(done.stdout)}
        theirs = {g["id"]: (g["host"], g["set"], g["updateDomain"], g["state"],
                            g["hypervisorVersion"]) for g in self.cluster.cli_json("guests")}
        self.assertEqual(ours, theirs)
        self.assertEqual(sorted(ours), sorted(self.cluster.guests))

        follower = subprocess.Popen(self.command("follow", "--json"), stdout=subprocess.PIPE,
                                    stderr=subprocess.PIPE, text=True)
        self.addCleanup(lambda: (follower.kill(), follower.communicate()))
        rollout = self.roll(self.next_release("db-1"), "b")
        self.assertEqual(rollout["state"], "succeeded", rollout)
        number = int(rollout["id"].removeprefix("rollout-"))
        events = []
        while not (events and events[-1].get("rollout_changed", {}).get("rollout") == number
                   and events[-1]["rollout_changed"]["state"] == "succeeded"):
            line = follower.stdout.readline()
            self.assertTrue(line, "the follower ended before the rollout did")
            events.append(json.loads(line))
        self.assertEqual([e["sequence"] for e in events], list(range(1, len(events) + 1)))
        mine = [e for e in events if number in (
            e.get("rollout_started", {}).get("rollout"), e.get("rollout_changed", {}).get("rollout"),
            e.get("step_granted", {}).get("step", {}).get("rollout"),
            e.get("hold_finished", {}).get("step", {}).get("rollout"))]
        self.assertEqual([next(k for k in e if k not in ("sequence", "at_microseconds"))
                          for e in mine],
                         ["rollout_started", "step_granted", "hold_finished", "rollout_changed"])
        self.assertEqual(mine[1]["step_granted"]["guests"], ["db-1"])
        (hold,) = self.holds(rollout)
        self.assertEqual(mine[2]["hold_finished"]["record"]["guest"], "db-1")
        self.assertEqual(mine[2]["hold_finished"]["record"]["hold_microseconds"] / 1000,
                         hold["holdMilliseconds"])
