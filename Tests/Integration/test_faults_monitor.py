"""A monitor that loses a reply, drowns it in events, answers garbage or nothing, in a hold: that of
the old QEMU, then that of the new one. Which of them goes on is in the name."""
from fault_case import GUEST, HOST
from relay_case import RelayCase

from lab import refusing_qemu

DEADLINE_MILLISECONDS = 10_000
# When the agent gives a hand-over up, with 3 s left for the undo.
UNDO_MILLISECONDS = 7_000
NOISE = {
    "no JSON": {"text": "{{{]\xff\x00 not a reply\r\n"},
    "a reply to nothing": {"text": '{"return": {}, "id": 4711}\r\n'},
    "a line without end": {"text": "[" * 4096, "isEndless": True},
}
# Such an event makes the agent ask for the guest's state.
FLOOD = {"act": "flood", "count": 20_000, "event": "BLOCK_IO_ERROR"}


class MonitorCase(RelayCase):
    def check(self, rollout, outcome, *words):
        """The guest has been held once and goes on; its record."""
        hold = self.ended(rollout, outcome, *words)
        self.assertEqual(hold["outcome"], outcome, hold)
        self.assertWithin(hold, DEADLINE_MILLISECONDS)
        self.assertRuns(GUEST)
        self.assertTold(hold)
        return hold


class OldMonitor(MonitorCase):
    """At the command that begins the hand-over."""

    def start_with(self, **fault):
        relayed = self.on_relayed()
        relayed.will(socket="qmp", command="migrate", **fault)
        rollout = self.start(self.next_release(GUEST), HOST)
        self.wait(lambda: relayed.marks == [fault["act"]], 60, "the fault")
        return rollout

    def hand_over(self, **fault):
        return self.check(self.start_with(**fault), "succeeded")

    def test_that_loses_the_reply_makes_no_difference(self):
        self.hand_over(act="drop")

    def test_that_drowns_the_reply_in_events_makes_no_difference(self):
        self.hand_over(**FLOOD)

    def test_that_answers_garbage_is_connected_to_again(self):
        for name, noise in NOISE.items():
            with self.subTest(name):
                self.assertWithin(self.hand_over(act="garbage", **noise), UNDO_MILLISECONDS)

    def test_that_says_nothing_any_more_is_connected_to_again(self):
        hold = self.hand_over(act="mute")
        self.assertWithin(hold, UNDO_MILLISECONDS)

    def test_that_says_nothing_for_good_the_guard_continues_the_old_one(self):
        rollout = self.start_with(act="mute", forGood=True)
        self.wait(lambda: not self.agent.is_running, 30, "the guard to kill the agent")
        self.assertRuns(GUEST)
        self.behave()
        self.agent.start()
        hold = self.check(rollout, "failed", "took longer")
        self.assertEqual(hold["resumedBy"], "guard")
        self.assertGreater(hold["holdMilliseconds"], UNDO_MILLISECONDS)


class OldMonitorInUndo(MonitorCase):
    """At the command that continues the old one after a failed hand-over."""

    def refused(self):
        """A release that waits, and then does not take the state."""
        path = self.cluster.directory / "refusing"
        path.write_text(refusing_qemu(self.cluster.old["path"]))
        path.chmod(0o755)
        if "refusing" not in [r["id"] for r in self.cluster.cli_json("release", "list")]:
            self.cluster.add_release("refusing", self.cluster.old, version="0-refusing",
                                     path=str(path),
                                     sha256=self.cluster.run("sha256sum", path).split()[0])
        return "refusing"

    def undo(self, **fault):
        relayed = self.on_relayed()
        relayed.will(socket="qmp", **{"command": "query-migrate", "after": "migrate"} | fault)
        self.check(self.start(self.refused(), HOST), "failed", "refused")
        self.assertEqual(relayed.marks, [fault["act"]])

    def test_that_answers_garbage_the_old_one_goes_on(self):
        self.undo(act="garbage", **NOISE["no JSON"])

    def test_that_says_nothing_any_more_the_old_one_goes_on(self):
        self.undo(act="mute")

    def test_that_did_not_tell_of_the_stop_the_hold_is_told_all_the_same(self):
        self.undo(act="mute", command="migrate", after=None)


class NewMonitor(MonitorCase):
    """At the command that continues the new one, the old one having been killed."""

    def hand_over(self, **fault):
        relayed = self.new_relayed()
        relayed.will(socket="qmp", **{"command": "cont"} | fault)
        hold = self.check(self.start(relayed.name, HOST), "succeeded")
        self.assertEqual(relayed.marks, [fault["act"]])
        return hold

    def test_that_loses_the_reply_makes_no_difference(self):
        self.hand_over(act="drop")

    def test_that_drowns_the_reply_in_events_makes_no_difference(self):
        self.hand_over(**FLOOD)

    def test_that_answers_garbage_is_connected_to_again(self):
        for name, noise in NOISE.items():
            with self.subTest(name):
                self.hand_over(act="garbage", **noise)

    def test_that_says_nothing_any_more_is_connected_to_again(self):
        self.hand_over(act="mute")


class NewMonitorBeforeTheHold(MonitorCase):
    """At the command that makes the new one wait: nobody is held."""

    def prepare(self, *words, **fault):
        relayed = self.new_relayed()
        relayed.will(socket="qmp", command="migrate-incoming", **fault)
        self.ended(self.start(relayed.name, HOST, deadline="5s"), "failed", *words, held=0)
        self.assertEqual(relayed.marks, [fault["act"]])
        self.assertRuns(GUEST)
        self.only()

    def test_that_loses_the_reply_ends_the_preparation_at_its_limit(self):
        self.prepare("preparing took longer than 20 s", act="drop")

    def test_that_answers_garbage_ends_the_preparation(self):
        self.prepare("migrate-incoming", act="garbage", **NOISE["no JSON"])


del MonitorCase, RelayCase
