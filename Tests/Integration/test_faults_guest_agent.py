"""A guest agent that answers garbage, or an old request, after a hand-over. In every case the guest
goes on on the new QEMU, and what is said of its clock is true."""
import time

from fault_case import GUEST, HOST
from relay_case import RelayCase
from test_clock import GuestAgent


class GuestAgentAnswers(RelayCase):
    def hand_over(self, **fault):
        """The hold of a hand-over to a QEMU whose guest agent does that."""
        relayed = self.new_relayed()
        relayed.will(socket="ga", **fault)
        self.addCleanup(relayed.will_not)
        (step,) = self.finish(self.start(relayed.name, HOST), 150)["steps"]
        (hold,) = step["holds"]
        self.assertEqual(relayed.marks[0], fault["act"])
        self.assertWithin(hold, 10_000)
        self.assertEqual(hold["resumedBy"], "agent", hold)
        self.assertRuns(GUEST)
        self.assertTold(hold)
        return relayed, hold

    def assertClockIsRight(self, hold):
        self.assertIsNotNone(hold["clockErrorMillisecondsAfter"], hold)
        self.assertLess(abs(hold["clockErrorMillisecondsAfter"]), 1000, hold)

    def test_garbage_it_is_named_as_unhealthy(self):
        _, hold = self.hand_over(command="guest-ping", act="garbage", text="{{{]\xfe no reply\n")
        self.assertEqual(hold["outcome"], "unhealthy", hold)
        self.assertIn("the guest agent", hold["reason"])
        self.assertIn("not measured", hold["clockNote"])

    def test_garbage_instead_of_the_time_the_clock_counts_as_not_measured(self):
        _, hold = self.hand_over(command="guest-get-time", act="garbage", text="noon\n")
        self.assertEqual(hold["outcome"], "succeeded", hold)
        self.assertIn("not measured: the guest agent", hold["clockNote"])

    def test_old_requests_before_the_synchronisation_they_are_dropped(self):
        _, hold = self.hand_over(
            command="guest-sync-delimited", act="stale",
            text='{"return": 5}\n\xff{"return": 123, "id": 123}\n{"return": {}, "id": 4}\n{"ret')
        self.assertEqual(hold["outcome"], "succeeded", hold)
        self.assertEqual(hold["clockNote"], "")
        self.assertClockIsRight(hold)

    def test_a_request_too_late_its_answer_is_not_taken_for_the_next_one(self):
        # As an agent from before QEMU 4.0, whose replies do not say what they reply to.
        # It is set only if it is wrong.
        with GuestAgent(self.cluster, GUEST) as agent:
            agent.ask("guest-set-time", time=int((time.time() - 90) * 1e9))
        relayed, hold = self.hand_over(command="guest-set-time", act="late", stripsIDs=True)
        self.assertEqual(relayed.marks, ["late", "sent late"])
        self.assertEqual(hold["outcome"], "succeeded", hold)
        self.assertIn("guest-set-time took longer than 10", hold["clockNote"])
        self.assertNotIn("not read back", hold["clockNote"])
        self.assertClockIsRight(hold)


del RelayCase
