"""The agent dies or hangs around a hold: the guest runs on, and the hold is recorded once.

FERMATA_TEST_PAUSE_AT=PHASE lets an agent kill itself at that point of its next step, PHASE:stop stop
itself. The guest is db-1, alone on host b.
"""
import signal

from cluster_case import ClusterCase  # first: it sets the path for the others

import fermata_wire as wire

DEADLINE = "4s"
DEADLINE_MILLISECONDS = 4000


class AgentDies(ClusterCase):
    def die_at(self, phase):
        """A rollout in which the agent of host b dies at `phase`; its id, the agent being dead."""
        self.restart_agent("b", FERMATA_TEST_PAUSE_AT=phase)
        self.since = self.newest_gap()
        rollout = self.start(self.next_release("db-1"), "b", deadline=DEADLINE)
        agent = self.cluster.agents["b"]
        self.wait(lambda: not agent.is_running, 60, f"the agent to die at {phase}")
        self.assertEqual(agent.process.returncode, -signal.SIGKILL)
        return rollout

    def newest_gap(self):
        return max((g["from"] for g in self.cluster.watch_gaps()), default=0)

    def end(self, rollout):
        """Starts the agent again and waits for the end; the only step."""
        self.cluster.agents["b"].start()
        (step,) = self.finish(rollout)["steps"]
        self.assertLessEqual(len(step["holds"]), 1)
        self.wait(lambda: self.cluster.cli_json("locks") == [], 20, "the lock to be released")
        return step

    def assertGapWithinDeadline(self):
        """Seen from outside, nobody was away longer than the deadline and what a busy host adds. TCP sends
        again what it lost after twice the time that it has waited."""
        longest = max((g["milliseconds"] for g in self.cluster.watch_gaps()
                       if g["guest"] == "db-1" and g["from"] > self.since), default=0)
        self.assertLess(longest, 2 * DEADLINE_MILLISECONDS + 2000)

    def check(self, phase, held, resumed_by):
        rollout = self.die_at(phase)
        # Nobody has started it again, and the guest runs.
        self.assertRuns("db-1")
        self.assertGapWithinDeadline()
        step = self.end(rollout)
        self.assertEqual(len(step["holds"]), held, step)
        if held:
            (hold,) = step["holds"]
            self.assertIn(hold["resumedBy"], resumed_by, hold)
            self.assertLessEqual(hold["holdMilliseconds"], DEADLINE_MILLISECONDS, hold)
            self.assertIn(hold["outcome"], ("succeeded", "failed"), hold)
            expected = hold["hypervisorAfter"]
            self.wait(lambda: self.versions()["db-1"] == expected, 20, "the version in the record")
        return step

    def test_before_the_hold_right_after_accepting(self):
        self.check("accepted", 0, ())

    def test_before_the_hold_with_the_new_one_prepared(self):
        self.check("prepared", 0, ())

    def test_before_the_hold_with_the_guard_armed(self):
        self.check("armed", 0, ())

    def test_in_the_hold_stopped(self):
        step = self.check("stopped", 1, ("guard",))
        self.assertEqual(step["holds"][0]["outcome"], "failed")

    def test_in_the_hold_moved(self):
        step = self.check("moved", 1, ("guard",))
        self.assertEqual(step["holds"][0]["outcome"], "failed")

    def test_in_the_hold_at_the_commit(self):
        step = self.check("committing", 1, ("guard",))
        self.assertEqual(step["holds"][0]["outcome"], "succeeded")

    def test_in_the_hold_with_the_old_one_killed(self):
        step = self.check("killed", 1, ("guard",))
        self.assertEqual(step["holds"][0]["outcome"], "succeeded")

    def test_after_the_hold_continued(self):
        step = self.check("continued", 1, ("agent", "guard"))
        self.assertEqual(step["holds"][0]["outcome"], "succeeded")

    def test_after_the_hold_while_confirming(self):
        self.check("confirming", 1, ("agent",))

    def test_after_the_hold_with_the_report_kept_but_not_sent(self):
        self.check("finished", 1, ("agent",))

    def test_a_hung_agent_is_overtaken_by_the_guard_before_the_deadline(self):
        self.restart_agent("b", FERMATA_TEST_PAUSE_AT="moved:stop")
        self.since = self.newest_gap()
        rollout = self.start(self.next_release("db-1"), "b", deadline=DEADLINE)
        agent = self.cluster.agents["b"]
        # The guard kills it: so nothing it still might do can hurt.
        self.wait(lambda: not agent.is_running, 60, "the guard to kill the hung agent")
        self.assertRuns("db-1")
        self.assertGapWithinDeadline()
        step = self.end(rollout)
        (hold,) = step["holds"]
        self.assertEqual(hold["resumedBy"], "guard")
        self.assertLessEqual(hold["holdMilliseconds"], DEADLINE_MILLISECONDS, hold)
        self.assertGreater(hold["holdMilliseconds"], DEADLINE_MILLISECONDS / 2, hold)
        self.assertTrue(step["reason"], step)

    def test_an_agent_restarted_at_rest_finds_its_guests(self):
        pids = [pid for pid, _ in self.cluster.qemus("db-1")]
        agent = self.cluster.agents["b"]
        agent.kill()
        self.assertRuns("db-1")
        agent.start()
        self.wait_connected("b")
        self.assertEqual([pid for pid, _ in self.cluster.qemus("db-1")], pids)
        self.assertEqual(self.roll(self.next_release("db-1"), "b")["state"], "succeeded")


class FalseLeader(ClusterCase):
    def test_a_directive_with_an_old_token_is_refused_and_changes_nothing(self):
        self.assertEqual(self.roll(self.next_release("db-1"), "b")["state"], "succeeded")
        release = self.next_release("db-1")
        target = self.cluster.new if release == "to-new" else self.cluster.old
        pids = self.cluster.qemus("db-1")
        self.cluster.server.kill()
        address, _, port = self.cluster.server_address.rpartition(":")
        with self.cluster.in_namespace("middle"):
            listener = wire.Listener(str(self.cluster.credentials("server-s1")), address, int(port))
        try:
            accepted = self.play_leader(listener, target)
        finally:
            listener.close()
        self.assertGreater(accepted, 1)
        self.assertEqual(self.cluster.qemus("db-1"), pids)
        self.cluster.server.start()

    def play_leader(self, listener, target):
        """Waits for the agent of host b and sends it a directive with token 1; what it keeps."""
        while True:
            session = listener.accept(timeout=90)
            session.receive_hello()
            session.accept_hello()
            report = session.receive(timeout=10)
            if report.kind == "HostReport" and report.message.host == "b":
                break
            session.close()
        with session:
            session.send(wire.pb.HostReportCommitted(index=1), report.correlation)
            answer = session.request(wire.pb.Directive(
                step=wire.pb.StepRef(rollout=1, number=1), token=1, host="b", guests=["db-1"],
                deadline_milliseconds=5000,
                release=wire.pb.Release(
                    id="old-hat", component="hypervisor", sha256=bytes.fromhex(target["sha256"]),
                    hypervisor=wire.pb.Hypervisor(version=target["version"], path=target["path"],
                                                  module_directory=target["moduleDirectory"]))))
            self.assertEqual(answer.kind, "DirectiveAnswer")
            self.assertEqual(answer.message.WhichOneof("answer"), "stale_accepted_token",
                             answer.message)
            self.assertEqual(answer.message.stale_accepted_token, report.message.accepted_token)
            return report.message.accepted_token
