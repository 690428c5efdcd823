"""The faults of ha_lab.py and etcd_lab.py do what they say: without that, no test of what is survived
could fail."""
import subprocess
import time
import unittest

from ha_case import HACase  # first: it sets the path for the others

from lab import LabError


class TheFaults(HACase):
    def connects(self, place, part):
        """Whether a connection from `place` to a member comes about within a second."""
        c = self.cluster
        done = subprocess.run(
            c.inside(place) + ["timeout", "1", "bash", "-c",
                               f"exec 3<>/dev/tcp/{c.addresses[part]}/2379"],
            capture_output=True, check=False)
        return done.returncode == 0

    def assertConnects(self, place, part):
        self.wait(lambda: self.connects(place, part), 10, f"{part} to be reached from {place}")

    def seconds_of_put(self, member):
        began = time.monotonic()
        member.insist("/v3/kv/put", {"key": "eA==", "value": "eA=="})
        return time.monotonic() - began

    def test_a_cut_is_between_two_and_each_way_by_itself(self):
        c = self.cluster
        self.assertConnects("middle", "e1")
        for one, other in (("middle", "e1"), ("e1", "middle")):
            c.cut(one, other, both=False)
            self.assertFalse(self.connects("middle", "e1"), f"{other} hears nothing of {one}")
            self.assertConnects("middle", "e2")
            self.assertConnects("s1", "e1")
            c.heal(one, other)
            self.assertConnects("middle", "e1")

    def test_a_cut_from_all(self):
        c = self.cluster
        c.cut("e1")
        self.assertFalse(self.connects("middle", "e1"))
        self.assertFalse(self.connects("e1", "e2"))
        self.assertConnects("e2", "e3")
        c.heal("e1")
        self.assertConnects("middle", "e1")
        self.assertEqual(c.cuts, set())

    def test_a_disk_is_as_slow_as_it_should_be(self):
        members = self.cluster.members.values()

        def wait_fast():
            # None of those that a slow disk delays is ever as quick as that.
            self.wait(lambda: min(self.seconds_of_put(m) for m in members) < 0.5, 10, "a quick put")
        wait_fast()
        for member in members:
            member.slow_disk(500)
        self.assertGreater(min(self.seconds_of_put(m) for m in members), 0.5)
        for member in members:
            member.fast_disk()
        wait_fast()

    def test_a_full_database_takes_nothing_until_it_is_mended(self):
        c = self.cluster
        member = c.members["e1"]
        member.alarm()
        self.assertTrue(member.has_alarm())
        for other in c.members.values():
            with self.assertRaisesRegex(LabError, "space"):
                other.put("x", "x")
        member.disarm(c.members.values())
        self.assertFalse(member.has_alarm())
        self.seconds_of_put(member)

    def test_a_clock_is_off_by_as_much_as_it_should_be(self):
        environment = self.cluster.environment | self.cluster.wrong_clock(3600)
        done = subprocess.run(["date", "+%s"], env=environment, capture_output=True, text=True,
                              check=True)
        self.assertAlmostEqual(int(done.stdout) - time.time(), 3600, delta=5)


if __name__ == "__main__":
    unittest.main()
