"""Webhooks whose servers misbehave, beside one that does not."""
import re

from support import wait_until  # first: it sets the path for the others

from sink_case import (
    Web, break_off, dribble, flood, garbage, hang, slowly, well)
from test_sinks import SinkCase


class Misbehaving(SinkCase):
    def test_each_has_its_own_end_and_none_delays_another(self):
        good = Web(well)

        def redirect(handler, _):
            handler.say(307, Location=good.url + "/stolen")
        others = {
            "redirect": Web(redirect), "slow": Web(slowly), "dribble": Web(dribble),
            "flood": Web(flood), "break-off": Web(break_off), "garbage": Web(garbage),
            "hang": Web(hang)}
        for web in (good, *others.values()):
            self.addCleanup(web.close)
        limits = {"dribble": "1s", "hang": "600s"}
        self.start_notifier("sinks:\n" + "".join(f"""
  - name: {name}
    webhook: {{url: {web.url}, timeout: {limits.get(name, "30s")}}}
    retry: {{first: 10ms, longest: 20ms, attempts: 2, refusals: 2}}
""" for name, web in (others | {"good": good}).items()))
        guests = [f"db-{number}" for number in range(4)]
        self.hold(guests, "2")
        ids = sorted(a["annotationId"] for a in self.annotations(4))
        wait_until(lambda: sorted(good.keys) == ids, 60, "the good one to have all")
        wait_until(lambda: sorted(others["hang"].keys) == ids, 60, "the one that hangs to be asked")
        reasons = self.wait_dead(**{"redirect": 4, "dribble": 4, "break-off": 4, "garbage": 4})
        self.assertIn("307", reasons["redirect"][0])
        self.assertIn("timed out", reasons["dribble"][0])
        # Of the answer that broke off, and of the one that was none.
        self.assertRegex(reasons["break-off"][0], "(?i)transfer closed|remaining")
        self.assertRegex(reasons["garbage"][0], "(?i)http/0.9")
        for name in ("redirect", "dribble", "break-off", "garbage"):
            self.assertEqual(sorted(others[name].keys), sorted(ids * 2), name)
        # These said 200, one of them late, the other with a body that nobody wants.
        wait_until(lambda: self.pending() == {"hang": 4}, 60, "all but the one that hangs")
        for name in ("slow", "flood"):
            self.assertEqual(sorted(others[name].keys), ids, name)
        self.assertEqual({path for _, path in good.seen}, {"/"})
        with open(f"/proc/{self.notifier.pid}/status") as status:
            peak = int(re.search(r"VmHWM:\s+(\d+) kB", status.read())[1])
        self.assertLess(peak, 256 << 10, "it keeps no answer of 256 MiB")
        # The next ones do not wait for it either.
        self.hold(guests, "3")
        self.annotations(8)
        wait_until(lambda: len(set(good.keys)) == 8, 60, "the good one to have the next")


del SinkCase
