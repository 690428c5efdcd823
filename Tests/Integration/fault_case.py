"""What the tests of faults share: an agent stopped at a point of its step, and who its processes are.

The guest is db-1, alone on host b. An agent that stops itself (SIGSTOP) at a phase makes a fault at
exactly that point possible; after SIGCONT it meets what was done meanwhile.
"""
import os
import signal

from cluster_case import ClusterCase  # first: it sets the path for the others

from lab import is_gone, state_of

GUEST, HOST = "db-1", "b"


class FaultCase(ClusterCase):
    @property
    def agent(self):
        return self.cluster.agents[HOST]

    def setUp(self):
        super().setUp()
        # Whatever the test came to.
        self.addCleanup(lambda: self.agent.is_running and self.go_on())

    @classmethod
    def tearDownClass(cls):
        """The agent may still be set to stop at a phase, which no other test must meet."""
        agent = cls.cluster.agents[HOST]
        if agent.is_running:
            agent.signal(signal.SIGCONT)
            agent.stop()

    def stop_at(self, phase, deadline="30s", release=None):
        """A rollout whose agent has stopped itself at `phase`."""
        self.restart_agent(HOST, FERMATA_TEST_PAUSE_AT=f"{phase}:stop")
        rollout = self.start(release or self.next_release(GUEST), HOST, deadline=deadline)
        self.wait_stopped(phase)
        return rollout

    def hang_at(self, phase, deadline):
        """As `stop_at`, but nobody looks whether it has stopped: with a short deadline the guard has
        killed it by then on a busy machine."""
        self.restart_agent(HOST, FERMATA_TEST_PAUSE_AT=f"{phase}:stop")
        return self.start(self.next_release(GUEST), HOST, deadline=deadline)

    def die_at(self, phase, deadline="10s"):
        """A rollout whose agent has killed itself at `phase`."""
        self.restart_agent(HOST, FERMATA_TEST_PAUSE_AT=phase)
        rollout = self.start(self.next_release(GUEST), HOST, deadline=deadline)
        self.wait(lambda: not self.agent.is_running, 60, f"the agent to die at {phase}")
        return rollout

    def wait_stopped(self, phase):
        self.wait(lambda: state_of(self.agent.pid) == "T", 60, f"the agent to stop at {phase}")

    def go_on(self):
        self.agent.signal(signal.SIGCONT)

    def pair(self):
        """The pids of the guest's old and new QEMU."""
        found = sorted(self.cluster.qemus(GUEST), key=lambda q: int(q[1]["FERMATA_GENERATION"]))
        self.assertEqual(len(found), 2, found)
        return [pid for pid, _ in found]

    def only(self):
        """The pid of the guest's only QEMU."""
        ((pid, _),) = self.cluster.qemus(GUEST)
        return pid

    def kill(self, pid):
        os.kill(pid, signal.SIGKILL)
        self.wait(lambda: is_gone(pid), 20, f"{pid} to end")

    def guard(self):
        """The pid of the one guard."""
        (pid,) = self.cluster.guards()
        return pid

    def ended(self, rollout, outcome, *words, held=1):
        """The rollout's only step has this outcome and a reason with `words`; its hold, if any."""
        (step,) = self.finish(rollout)["steps"]
        self.assertEqual(step["outcome"], outcome, step)
        for word in words:
            self.assertIn(word, step["reason"], step)
        self.assertEqual(len(step["holds"]), held, step)
        return step["holds"][0] if held else None

    def assertWithin(self, hold, milliseconds):
        self.assertLessEqual(hold["holdMilliseconds"], milliseconds, hold)

    def start_lost_guest(self):
        """A guest that was lost as the test meant it: started afresh, and its new life counts."""
        self.agent.stop()
        guest = self.cluster.run_directory(HOST) / "g" / GUEST
        for marker in guest.rglob("started"):
            marker.unlink()
        self.agent.start()
        self.wait_connected(HOST)
        self.wait(lambda: self.cluster.try_ask(GUEST, "report"), 90, f"{GUEST} to boot")
        self.cluster.first_reports[GUEST] = self.cluster.ask(GUEST, "report")
        if self.cluster.net == "tap":
            # The watcher notices late that its connection is to a guest that is gone.
            known = self.cluster.connections
            self.wait(lambda: self.cluster.watch_status()[GUEST]["connections"] > known[GUEST], 60,
                      "the watcher to connect again")
            known[GUEST] = self.cluster.watch_status()[GUEST]["connections"]
