"""Faults of processes, each at a chosen point of a hand-over: agent, guard, old and new QEMU.

The outcome of each is in its name. The invariants of cluster_case.py are asked after every one.
"""
import os
import pathlib
import re
import signal
import subprocess

from fault_case import GUEST, HOST, FaultCase

import test_agent_dies
from support import ROOT

from lab import is_gone, state_of


class AgentKilled(FaultCase):
    def test_at_every_phase_there_is_a_test(self):
        sources = "".join(p.read_text() for part in ("AgentShell", "AgentCore")
                          for p in (ROOT / "Sources" / part).glob("*.swift"))
        phases = set(re.findall(r'reached\("(\w+)"\)', sources))
        phases |= {f"running-{kind}" for kind in ("prepare", "apply", "check", "undo")}
        tests = pathlib.Path(test_agent_dies.__file__).read_text() \
            + pathlib.Path(__file__).read_text() \
            + pathlib.Path(__file__).with_name("test_agent_upgrade.py").read_text() \
            + pathlib.Path(__file__).with_name("test_host_components.py").read_text()
        killed = set(re.findall(r'(?:die_at\(|check\(|PAUSE_AT=)"([\w-]+)"', tests))
        killed |= {f"running-{kind}" for kind in re.findall(r'die_in\("(\w+)"', tests)}
        self.assertEqual(phases - killed, set())

    def test_as_the_hold_begins_the_guest_is_left_alone(self):
        rollout = self.die_at("holding")
        self.assertRuns(GUEST)
        self.agent.start()
        self.ended(rollout, "failed", "restarted", held=0)

    def test_with_all_confirmed_the_next_one_reports_the_same(self):
        before = self.versions()[GUEST]
        rollout = self.die_at("confirmed")
        self.assertRuns(GUEST)
        self.agent.start()
        hold = self.finish(rollout)["steps"][0]["holds"][0]
        self.assertEqual(hold["hypervisorBefore"], before)
        self.assertNotEqual(hold["hypervisorAfter"], before)

    def test_and_the_guard_too_in_the_hold_the_next_agent_continues_the_old_one(self):
        rollout = self.stop_at("stopped")
        old = self.pair()[0]
        os.kill(self.guard(), signal.SIGKILL)
        self.agent.kill()
        self.wait(lambda: not self.cluster.guards(), 10, "the guard's end")
        self.assertIsNone(self.cluster.try_ask(GUEST, "report"), "nobody continues it")
        self.agent.start()
        hold = self.ended(rollout, "failed", "the agent ended in the middle")
        self.assertEqual(hold["resumedBy"], "restartedAgent")
        self.assertEqual(self.only(), old)

    def test_and_the_guard_too_after_the_commit_the_next_agent_continues_the_new_one(self):
        rollout = self.stop_at("killed")
        new = max(self.cluster.qemus(GUEST), key=lambda q: int(q[1]["FERMATA_GENERATION"]))[0]
        os.kill(self.guard(), signal.SIGKILL)
        self.agent.kill()
        self.agent.start()
        hold = self.ended(rollout, "succeeded")
        self.assertEqual(hold["resumedBy"], "restartedAgent")
        self.assertEqual(self.only(), new)


class AgentHangs(FaultCase):
    def test_through_the_deadline_before_the_move_the_guard_continues_the_old_one(self):
        rollout = self.hang_at("holding", deadline="2s")
        self.wait(lambda: not self.agent.is_running, 60, "the guard to kill the hung agent")
        self.assertRuns(GUEST)
        self.agent.start()
        self.ended(rollout, "failed", held=0)

    def test_through_the_deadline_after_the_commit_the_guard_continues_the_new_one(self):
        rollout = self.hang_at("killed", deadline="2s")
        self.wait(lambda: not self.agent.is_running, 60, "the guard to kill the hung agent")
        self.assertRuns(GUEST)
        self.agent.start()
        hold = self.ended(rollout, "succeeded")
        self.assertEqual(hold["resumedBy"], "guard")
        self.assertWithin(hold, 2000)


class GuardKilled(FaultCase):
    def test_before_the_hold_the_step_is_abandoned_or_held_once(self):
        # Between `armed` and the hold there is no wait, so the agent may see the guard's end only
        # after the hold has begun. Then that one hold is finished and no other begins.
        rollout = self.stop_at("armed")
        self.kill(self.guard())
        self.go_on()
        (step,) = self.finish(rollout)["steps"]
        if step["holds"]:
            self.assertEqual(step["outcome"], "succeeded", step)
        else:
            self.assertEqual(step["outcome"], "failed", step)
            self.assertIn("guard", step["reason"])

    def test_in_the_hold_the_agent_finishes_it(self):
        rollout = self.stop_at("stopped")
        self.kill(self.guard())
        self.go_on()
        self.assertEqual(self.ended(rollout, "succeeded")["resumedBy"], "agent")


class NewQEMU(FaultCase):
    def test_killed_before_the_commit_the_old_one_goes_on(self):
        rollout = self.stop_at("moved")
        old, new = self.pair()
        self.kill(new)
        self.go_on()
        hold = self.ended(rollout, "failed")
        self.assertEqual(hold["outcome"], "failed")
        self.assertEqual(hold["hypervisorAfter"], hold["hypervisorBefore"])
        self.assertEqual(self.only(), old)

    def test_killed_right_after_the_commit_the_guest_is_lost_and_said_so(self):
        rollout = self.stop_at("killed")
        new = max(self.cluster.qemus(GUEST), key=lambda q: int(q[1]["FERMATA_GENERATION"]))[0]
        self.kill(new)
        self.go_on()
        whole = self.finish(rollout)
        self.assertNotEqual(whole["state"], "succeeded")
        (step,) = whole["steps"]
        self.assertEqual(step["outcome"], "lost", step)
        (hold,) = step["holds"]
        self.assertEqual(hold["outcome"], "lost")
        self.assertIn("ended", step["reason"])
        self.assertEqual(self.cluster.qemus(GUEST), [])
        self.start_lost_guest()

    def test_stopped_in_the_move_the_old_one_goes_on_before_the_deadline(self):
        rollout = self.stop_at("armed", deadline="8s")
        old, new = self.pair()
        os.kill(new, signal.SIGSTOP)
        self.go_on()
        hold = self.ended(rollout, "failed", "took longer")
        self.assertWithin(hold, 8000)
        self.assertEqual(self.only(), old)


class OldQEMU(FaultCase):
    def test_killed_with_its_state_complete_the_new_one_goes_on(self):
        rollout = self.stop_at("moved")
        old, new = self.pair()
        self.kill(old)
        self.go_on()
        self.ended(rollout, "succeeded")
        self.assertEqual(self.only(), new)

    def test_killed_before_its_state_has_left_the_guest_is_lost_and_said_so(self):
        rollout = self.stop_at("holding")
        self.kill(self.pair()[0])
        self.go_on()
        (step,) = self.finish(rollout)["steps"]
        self.assertEqual(step["outcome"], "lost", step)
        self.assertIn("ended", step["reason"])
        self.wait(lambda: self.cluster.qemus(GUEST) == [], 10, "the waiting new QEMU to be removed")
        self.start_lost_guest()

    def test_stopped_when_it_is_to_quit_it_is_killed_all_the_same(self):
        rollout = self.stop_at("moved")
        old, new = self.pair()
        os.kill(old, signal.SIGSTOP)
        self.wait(lambda: state_of(old) == "T", 5, "the old QEMU to stop")
        self.go_on()
        hold = self.ended(rollout, "succeeded")
        self.assertWithin(hold, 30_000)
        self.wait(lambda: is_gone(old), 10, "the old QEMU's end")
        self.assertEqual(self.only(), new)


class SecondQEMU(FaultCase):
    """Somebody else starts a QEMU for the same guest."""

    def test_on_its_disk_is_refused_by_the_disks_lock_and_the_hand_over_goes_on(self):
        rollout = self.stop_at("armed")
        disk = self.cluster.disk(self.cluster.guests[GUEST])
        done = subprocess.run(
            [self.cluster.old["path"], "-display", "none", "-M", "none", "-S", "-blockdev",
             f"driver=qcow2,node-name=d,file.driver=file,file.filename={disk}"],
            capture_output=True, text=True, timeout=90, check=False,
            env={"QEMU_MODULE_DIR": self.cluster.old["moduleDirectory"]})
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("lock", done.stderr)
        self.go_on()
        self.ended(rollout, "succeeded")

    def test_that_claims_to_be_a_later_one_is_removed_by_the_next_agent(self):
        own, environment = self.cluster.qemus(GUEST)[0]
        other = subprocess.Popen(["sleep", "600"], env=environment | {"FERMATA_GENERATION": "99"})
        self.addCleanup(other.wait)
        self.addCleanup(other.kill)
        self.restart_agent(HOST)
        self.assertEqual(other.wait(10), -signal.SIGKILL)
        self.assertEqual(self.only(), own)
        self.ended(self.start(self.next_release(GUEST), HOST), "succeeded")


class Leader(FaultCase):
    def test_silent_from_the_moment_of_the_hold_changes_nothing_for_the_guest(self):
        rollout = self.stop_at("holding")
        _, new = self.pair()
        server = self.cluster.server
        server.signal(signal.SIGSTOP)
        self.addCleanup(lambda: server.is_running and server.signal(signal.SIGCONT))
        self.go_on()
        self.wait(lambda: [q[0] for q in self.cluster.qemus(GUEST)] == [new], 20,
                  "the hand-over without the leader")
        self.assertRuns(GUEST)
        server.signal(signal.SIGCONT)
        hold = self.ended(rollout, "succeeded")
        self.assertWithin(hold, 30_000)
