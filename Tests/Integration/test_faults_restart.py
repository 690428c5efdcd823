"""An agent that starts again and meets what does not answer: a QEMU at rest or in a step, a stopped
guard. The others go on, and what did not answer is taken up once it does."""
import os
import signal

from cluster_case import ClusterCase
from fault_case import GUEST, FaultCase
from relay_case import RelayCase

from lab import is_gone, state_of


class SilentQEMU(ClusterCase):
    """Host c has two guests, db-2 and mute."""

    def state(self, guest):
        (found,) = [g for g in self.cluster.cli_json("guests") if g["id"] == guest]
        return found["state"]

    def test_at_rest_keeps_the_agent_from_no_other_guest_and_is_found_later(self):
        agent = self.cluster.agents["c"]
        ((pid, _),) = self.cluster.qemus("db-2")
        os.kill(pid, signal.SIGSTOP)
        self.addCleanup(lambda: is_gone(pid) or os.kill(pid, signal.SIGCONT))
        agent.kill()
        agent.start(seconds=30)
        self.wait_connected("c")
        self.wait(lambda: self.state("db-2") == "unknown", 10, "db-2 to be reported as it is")
        self.wait(lambda: self.state("mute") == "running", 10, "mute to be found")
        self.assertEqual(state_of(pid), "T", "it is not for the agent to continue it")

        rollout = self.roll(self.next_release("mute"), "c")
        self.assertEqual([s["guests"] for s in rollout["steps"]], [["mute"]], rollout)
        self.assertEqual(rollout["steps"][0]["outcome"], "succeeded", rollout)

        os.kill(pid, signal.SIGCONT)
        self.wait(lambda: self.state("db-2") == "running", 20, "db-2 to be found")
        self.assertEqual([q[0] for q in self.cluster.qemus("db-2")], [pid])
        rollout = self.roll(self.next_release("db-2"), "c")
        self.assertEqual({s["outcome"] for s in self.steps(rollout, "db-2")}, {"succeeded"})


class SilentQEMUInAStep(RelayCase):
    """A hold of the whole of host c, whose agent and guard die while its guests are paused."""

    def release(self):
        name = f"paused-{os.getpid()}"
        for kind, text in (("apply", "sleep 3"), ("undo", "true")):
            path = self.cluster.directory / f"{name}-{kind}"
            path.write_text(f"#!/bin/sh\n{text}\n")
            path.chmod(0o755)
        file = self.cluster.directory / f"{name}.yaml"
        file.write_text(f"version: \"{name}\"\nholdsGuests: true\n" + "".join(
            f"{kind}:\n  path: {self.cluster.directory}/{name}-{kind}\n  limit: 5s\n"
            for kind in ("apply", "undo")))
        self.cluster.cli_json("release", "add", name, "--component", "software", "--file", file)
        return name

    def test_keeps_no_other_guest_held_and_is_continued_once_it_answers(self):
        relayed = self.new_relayed()
        rollout = self.roll(relayed.name, "c")
        self.assertEqual(rollout["state"], "succeeded", rollout)
        self.addCleanup(lambda: self.roll(self.next_release("db-2"), "c"))
        self.addCleanup(self.behave)
        agent = self.cluster.agents["c"]
        release = self.release()
        agent.stop()
        agent.start(environment={"FERMATA_TEST_PAUSE_AT": "running-apply:stop"})
        self.wait_connected("c")
        rollout = self.start(release, "c", deadline="20s")
        self.wait(lambda: state_of(agent.pid) == "T", 60, "the agent to stop")
        relayed.will(None, silences="/db-2/")
        (guard,) = self.cluster.guards()
        os.kill(guard, signal.SIGKILL)
        agent.kill()
        self.assertIsNone(self.cluster.try_ask("mute", "report"), "nobody continues it")

        agent.start(wait=False)
        self.assertRuns("mute")
        self.assertIsNone(self.cluster.try_ask("db-2", "report"), "nobody can reach it")
        agent.wait_ready(30)
        self.wait_connected("c")
        self.behave()
        self.assertRuns("db-2")
        (step,) = self.finish(rollout)["steps"]
        self.assertEqual(step["outcome"], "failed", step)
        self.assertEqual({h["resumedBy"] for h in step["holds"]}, {"restartedAgent"}, step)
        longer = {h["guest"]: h["holdMilliseconds"] for h in step["holds"]}
        self.assertGreater(longer["db-2"], longer["mute"] + 3000)


class StoppedGuard(FaultCase):
    def stopped_guard(self, phase):
        rollout = self.stop_at(phase)
        guard = self.guard()
        os.kill(guard, signal.SIGSTOP)
        self.wait(lambda: state_of(guard) == "T", 5, "the guard to stop")
        # Should the test fail before the agent kills it.
        self.addCleanup(lambda: is_gone(guard) or os.kill(guard, signal.SIGCONT))
        return rollout, guard

    def restart(self, phase, outcome):
        rollout, guard = self.stopped_guard(phase)
        self.agent.kill()
        self.agent.start(seconds=30)
        hold = self.ended(rollout, outcome)
        self.assertTrue(is_gone(guard))
        self.assertEqual(hold["resumedBy"], "restartedAgent")
        # It did not wait for the end of the deadline, 30 s. Its start alone may take seconds.
        self.assertWithin(hold, 20_000)

    def test_in_the_hold_is_killed_by_the_next_agent_which_continues_the_old_one(self):
        self.restart("stopped", "failed")

    def test_after_the_commit_is_killed_by_the_next_agent_which_continues_the_new_one(self):
        self.restart("killed", "succeeded")

    def test_of_an_agent_that_lives_does_not_hinder_its_next_step(self):
        rollout, guard = self.stopped_guard("stopped")
        self.go_on()
        self.assertEqual(self.ended(rollout, "succeeded")["resumedBy"], "agent")
        self.ended(self.start(self.next_release(GUEST), "b"), "succeeded")
        self.assertTrue(is_gone(guard))


del RelayCase
