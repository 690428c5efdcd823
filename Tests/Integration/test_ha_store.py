"""Networks that are cut, etcd members that die, hang or fill up, and clocks that differ; a guest is held
while it happens."""
import time
import unittest

from ha_case import (  # first: it sets the path for the others
    HACase, SILENT_TAKEOVER_SECONDS, close_shared_ha_cluster)

import demo_report

MEMBERS = ("e1", "e2", "e3")


def tearDownModule():
    close_shared_ha_cluster()


class LeaderCutOff(HACase):
    def cut_off(self, *parts):
        """The leader hears none of these any more; another one leads."""
        with self.held() as hold:
            old = self.cluster.leader()
            for part in parts:
                self.cluster.cut(old, part)
            new = self.wait(lambda: next(
                (n for n, s in self.cluster.servers.items() if n != old and s.says_it_leads()),
                None), SILENT_TAKEOVER_SECONDS, "another one to lead")
            self.wait(lambda: not self.cluster.servers[old].says_it_leads(),
                      SILENT_TAKEOVER_SECONDS, "the one that is cut off to give up")
            self.wait_hosts()
            self.acknowledge()
            self.roll_free()
            self.assertTrue(hold.keeps_waiting())
        self.cluster.heal()
        self.roll_free()
        self.assertEqual(self.cluster.leader(), new)

    def test_from_etcd_but_not_from_agents(self):
        self.cut_off(*MEMBERS)

    def test_from_everybody_as_a_machine_without_power_is(self):
        # Nobody resets its connections: only its silence tells.
        self.cut_off(None)

    def test_from_agents_but_not_from_etcd(self):
        with self.held() as hold:
            old = self.cluster.leader()
            for host in self.cluster.hosts:
                self.cluster.cut(old, host)
            # The hold ends without a word from anybody.
            hold.let_go(hold.host)
            self.assertRuns(hold.guest)
            self.acknowledge()
            self.cluster.heal()
            self.wait_hosts()

    def test_from_the_standbys_only(self):
        with self.no_takeover() as leader, self.held():
            for standby in self.cluster.standbys():
                self.cluster.cut(leader, standby)
            self.roll_free()
            self.acknowledge()
            time.sleep(8)        # far beyond the silence that alone would not be enough

    def test_a_flapping_link_does_not_make_leadership_flap(self):
        with self.no_takeover() as leader, self.held():
            for _ in range(8):
                for part in (*self.cluster.standbys(), "e1"):
                    self.cluster.cut(leader, part)
                time.sleep(0.5)
                self.cluster.heal(leader)
                time.sleep(0.3)
            self.roll_free()


class Members(HACase):
    def etcd_leader(self):
        return self.wait(lambda: next((n for n in MEMBERS
                                       if self.cluster.members[n].is_running
                                       and self.cluster.members[n].leads()), None),
                         20, "a leader among the members")

    def test_one_killed(self):
        with self.no_takeover(), self.held():
            name = self.etcd_leader()
            self.cluster.members[name].kill()
            self.acknowledge()
            self.roll_free()
            self.cluster.members[name].start()

    def test_no_quorum_for_30_s(self):
        with self.held() as hold:
            lost = [self.etcd_leader()]
            lost.append(next(n for n in MEMBERS if n not in lost))
            kept = self.acknowledge()
            for name in lost:
                self.cluster.members[name].kill()
            began, wall = time.monotonic(), time.time()
            # The one that runs finishes without them, and no other one starts.
            hold.let_go()
            self.assertRuns(hold.guest)
            done = self.cluster.cli("rollout", "start", "--release", self.next_release_without(),
                                    "--host", "c", "--timeout", "3")
            self.assertNotEqual(done.returncode, 0, done.stdout)
            while time.monotonic() - began < 30:
                self.assertTrue(hold.keeps_waiting())
                for guest in self.cluster.guests:
                    self.assertTrue(self.cluster.try_ask(guest, "report"), guest)
                time.sleep(2)
            back = time.time()
            self.cluster.start_members(*lost)
            self.cluster.leader(SILENT_TAKEOVER_SECONDS)
            self.wait_hosts()
            self.assertIn(kept, [r["id"] for r in self.cluster.cli_json("release", "list")])
        for rollout in self.rollouts():
            for record in self.holds(rollout):
                held_at = demo_report.microseconds(record["heldAt"]) / 1e6
                self.assertFalse(wall + 1 < held_at < back, record)
        for rollout in self.cluster.cli_json("status")["activeRollouts"]:
            self.finish(rollout)         # started without a quorum, and never acknowledged

    def next_release_without(self):
        """Of guest `free`, by what its process is: there is nobody to ask."""
        import os
        ((pid, _),) = self.cluster.qemus("free")
        return "to-old" if os.readlink(f"/proc/{pid}/exe") == self.cluster.new["path"] else "to-new"

    def test_the_disk_of_one_full(self):
        with self.no_takeover(), self.held():
            broken = self.cluster.members["e3"]
            broken.end_by_full_disk(self.cluster.members["e1"])
            self.acknowledge()
            self.roll_free()
            broken.free_disk()
            broken.start()

    def test_the_database_of_all_full(self):
        with self.held() as hold:
            member = self.cluster.members["e1"]
            kept = self.acknowledge()
            member.alarm()
            hold.let_go()
            self.assertRuns(hold.guest)
            done = self.cluster.cli("release", "add", "too-late", "--component", "hypervisor",
                                    "--version", "1", "--path", "/bin/true", "--sha256", "0" * 64,
                                    "--timeout", "3")
            self.assertNotEqual(done.returncode, 0, done.stdout)
            time.sleep(3)
            self.assertTrue(hold.keeps_waiting(), "a new hold without a log")
            # Somebody says so.
            self.assertTrue(any("NOSPACE" in s.err.read_text() or "is full" in s.err.read_text()
                                for s in self.cluster.servers.values()))
            member.disarm(self.cluster.members.values())
            self.cluster.leader(SILENT_TAKEOVER_SECONDS)
            self.wait_hosts()
            self.assertIn(kept, [r["id"] for r in self.cluster.cli_json("release", "list")])

    def test_disks_that_take_500_ms(self):
        for member in self.cluster.members.values():
            member.slow_disk(500)
        self.cluster.leader()
        self.wait_hosts()
        with self.no_takeover(), self.held() as hold:
            self.acknowledge()
            self.roll_free(90)
            self.assertTrue(hold.keeps_waiting())


class Clocks(HACase):
    def test_the_clocks_of_the_servers_an_hour_apart(self):
        c = self.cluster
        self.addCleanup(self.restart_plainly)
        for number, name in enumerate(("s2", "s3"), start=1):
            c.servers[name].stop()
            c.servers[name].start(environment=c.wrong_clock(3600 * number))
        self.wait_hosts()
        with self.held() as hold:
            # From whoever leads through all of them: ahead, and back again.
            for _ in range(3):
                leader = c.leader()
                self.acknowledge()
                done = c.cli("server", "step-down")
                self.assertEqual(done.returncode, 0, done.stderr)
                self.wait(lambda old=leader: c.leader() != old, 10, "another one to lead")
                self.roll_free()
                self.assertTrue(hold.keeps_waiting())

    def restart_plainly(self):
        for server in self.cluster.servers.values():
            server.stop()
            server.start(wait=False)
        for server in self.cluster.servers.values():
            server.wait_ready()


if __name__ == "__main__":
    unittest.main()
