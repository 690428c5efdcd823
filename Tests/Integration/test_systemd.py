"""Guests in units of systemd, adopted and handed over: the units of cluster/examples/systemd under a real
systemd, which is the first process of a PID namespace with a cgroup tree of its own."""
import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import unittest

from cluster_case import ClusterCase  # first: it sets the path for the others
from support import CACHE, FERMATA

from lab import HERE as CLUSTER, Cluster, Guest, is_gone, wait_until

EXAMPLE = CLUSTER / "examples" / "systemd"
SYSTEMD = "/lib/systemd/systemd"

# The first process of the namespaces: a place of its own in the cgroup tree, then systemd.
START = """
set -e
mount --make-rprivate /
mkdir -p "$1/cgroup"
mount -t cgroup2 none "$1/cgroup"
mkdir -p "$1/cgroup/$2"
echo 0 > "$1/cgroup/$2/cgroup.procs"
exec unshare --cgroup sh -ec '
umount -l /sys/fs/cgroup; umount -l "$1/cgroup"
mkdir -p /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 none /sys/fs/cgroup
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system
cp "$1"/units/* /run/systemd/system/
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=fermata-test \
    /lib/systemd/systemd --unit=lab.target --log-target=console --show-status=no
' sh "$@"
"""

# The cgroups that are left when it has ended, empty ones.
END = """
mount -t cgroup2 none "$1"
for round in 1 2 3 4 5; do
    find "$1/$2" -depth -type d -exec rmdir {} + 2>/dev/null
    [ -e "$1/$2" ] || break
    sleep 0.2
done
"""


class UnitCluster(Cluster):
    """Host y under systemd: guest@pet.service and fermata-agent.service."""

    def __init__(self):
        self.systemd = self.init = None
        super().__init__(FERMATA, CACHE, [Guest("pet", "y", "farm", 0, tick=5000)], cluster="units",
                         update_domains={"farm": 2})

    def guest_text(self, guest):
        return (f"  - id: pet\n    adopt: /run/guests/pet/qmp\n    set: farm\n    updateDomain: 0\n"
                f"    probe: {{tcp: \"{guest.address[0]}:{guest.address[1]}\", timeout: 10s}}\n")

    def write_units(self):
        """The example's own, with this cluster's paths in the place of a host's."""
        units = self.directory / "units"
        units.mkdir()
        paths = {"/usr/local/sbin/fermata ": f"{self.fermata} ",
                 "/etc/fermata/host.yaml": str(self.host_file("y")),
                 "/etc/fermata/agent-%l": str(self.credentials("agent-y")),
                 "10.0.0.1:7450": self.server_address,
                 "/etc/guests/": f"{self.directory}/guest-", "/dev/shm/": f"{self.shm}/",
                 "/usr/local/lib/fermata/launch-qemu": str(EXAMPLE / "launch-qemu"),
                 "/usr/bin/qemu-system-x86_64": self.old["path"]}
        for name in ("guest@.service", "fermata-agent.service"):
            text = (EXAMPLE / name).read_text()
            for old, new in paths.items():
                self.assertIn(old, (EXAMPLE / "guest@.service").read_text()
                              + (EXAMPLE / "fermata-agent.service").read_text())
                text = text.replace(old, new)
            # Nothing of a whole system is there to be waited for.
            text = text.replace("[Unit]\n", "[Unit]\nDefaultDependencies=no\n")
            text = text.replace("Wants=network-online.target\n", "")
            (units / name).write_text(text)
        (units / "lab.target").write_text("[Unit]\nDescription=Fermata's test\n")
        guest, images = self.guests["pet"], self.cache / "guest"
        append = (images / "cmdline").read_text().strip()
        append += f" fermata.ip={guest.ip}/16 fermata.pattern=32 fermata.tick=5000"
        libraries = " ".join(f"-L {d}" for d in self.old["dataDirectories"])
        (self.directory / "guest-pet.conf").write_text(
            f"TAP=vm-pet\nBRIDGE=br0\nMEMORY={guest.memory}M\n"
            f"QEMU_MODULE_DIR={self.old['moduleDirectory']}\n"
            f"ARGUMENTS=-cpu max -accel tcg {libraries} -kernel {images}/vmlinuz "
            f"-initrd {images}/initrd -append '{append}' "
            f"-drive file={self.disk(guest)},format=qcow2,if=virtio -serial file:{self.shm}/console\n")

    @staticmethod
    def assertIn(part, whole):
        if part not in whole:
            raise AssertionError(f"the example's units do not have {part} any more")

    def start(self):
        self.prepare()
        self.start_server()
        self.start_notifier()
        self.write_units()
        with open(self.directory / "systemd.log", "w") as log:
            self.systemd = subprocess.Popen(
                self.inside("y") + ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh",
                                    "-c", START, "sh", str(self.directory), self.tag],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment)
        self.init = wait_until(self.find_init, 30, "systemd to start")
        wait_until(lambda: self.systemctl("is-system-running") == "running", 30,
                   "systemd to be up")
        self.systemctl("start", "guest@pet.service", check=True)
        self.systemctl("start", "fermata-agent.service", check=True)
        self.start_watcher()
        self.wait_guests()
        self.add_release("to-new", self.new)
        self.add_release("to-old", self.old)
        self.first_reports = {"pet": self.ask("pet", "report")}
        self.connections = {"pet": 1}
        return self

    def find_init(self):
        """The pid of systemd, as this process sees it: at the end of unshare's line of children."""
        pid = self.systemd.pid
        try:
            while os.readlink(f"/proc/{pid}/exe") != os.path.realpath(SYSTEMD):
                pid = int(pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
        except (OSError, IndexError):
            return None                 # one of them is just becoming the next program
        return pid

    def systemctl(self, *arguments, check=False):
        done = subprocess.run(["nsenter", "-t", str(self.init), "-m", "-p", "-C", "systemctl",
                               *arguments], capture_output=True, text=True, check=False)
        if check and done.returncode != 0:
            log = (self.directory / "systemd.log").read_text()[-2000:]
            raise AssertionError(f"systemctl {arguments}: {done.stderr}\n{log}")
        return done.stdout.strip()

    def show(self, unit, key):
        return self.systemctl("show", unit, "--property", key, "--value")

    def end_parts(self):
        # Ends every process of its namespace.
        if self.init:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.init, signal.SIGKILL)
        if self.systemd:
            self.systemd.kill()
            self.systemd.wait()
            subprocess.run(["unshare", "--mount", "sh", "-c", END, "sh",
                            str(self.directory / "cgroup"), self.tag], check=False)


class Systemd(ClusterCase):
    @classmethod
    def setUpClass(cls):
        if os.geteuid() != 0:
            raise AssertionError("needs namespaces: run the tests as root")
        if not os.path.exists(SYSTEMD) or not shutil.which("nsenter"):
            raise AssertionError("install the packages systemd and util-linux")
        cls.cluster = UnitCluster()
        cls.addClassCleanup(cls.cluster.close)
        cls.cluster.start()

    def heal(self):
        """systemd does it."""

    def check_invariants(self):
        if not self.cluster.qemus("pet") and self.has_ended_pet:
            return self.check_annotations()
        now = self.wait(lambda: self.cluster.try_ask("pet", "report"), 20, "pet to answer")
        self.assertEqual(now["bootId"], self.cluster.first_reports["pet"]["bootId"])
        self.assertTrue(now["memoryIntact"])
        self.assertIs(now["diskOk"], True)
        self.assertEqual(self.cluster.watch_status()["pet"]["connections"], 1)
        self.check_annotations()

    has_ended_pet = False

    def pid_of_unit(self):
        """Of the guest's unit, as systemd's namespace counts it."""
        return int(self.cluster.show("guest@pet.service", "MainPID"))

    def assertUnitIsUp(self):
        c = self.cluster
        self.assertEqual(c.show("guest@pet.service", "ActiveState"), "active")
        self.assertEqual(c.show("guest@pet.service", "NRestarts"), "0")
        members = c.systemctl("show", "guest@pet.service", "--property", "ControlGroup", "--value")
        self.assertIn("guest@pet.service", members)

    def test_1_unit_stays_up_through_hand_overs(self):
        c = self.cluster
        for release in ("to-new", "to-old"):
            before = self.pid_of_unit()
            (hold,) = self.holds(self.roll(release))
            self.assertEqual(hold["outcome"], "succeeded", hold)
            self.wait(lambda b=before: self.pid_of_unit() not in (0, b), 10,
                      "systemd to follow the new QEMU")
            self.assertUnitIsUp()
            # It is in the guest's unit, not in the agent's: stopping that would end nothing else.
            ((pid, _),) = c.qemus("pet")
            self.assertIn("guest@pet.service", pathlib.Path(f"/proc/{pid}/cgroup").read_text())

    def test_2_agent_is_killed_in_a_hold_and_systemd_starts_the_next(self):
        c = self.cluster
        c.systemctl("set-environment", "FERMATA_TEST_PAUSE_AT=stopped", check=True)
        self.addCleanup(c.systemctl, "unset-environment", "FERMATA_TEST_PAUSE_AT")
        c.systemctl("restart", "fermata-agent.service", check=True)
        self.wait_connected("y")
        rollout = self.start(self.next_release("pet"))
        self.wait(lambda: c.show("fermata-agent.service", "NRestarts") != "0", 60,
                  "systemd to start the agent again")
        (hold,) = self.holds(self.finish(rollout))
        self.assertEqual(hold["outcome"], "failed", hold)
        self.assertEqual(hold["resumedBy"], "guard", hold)
        self.assertUnitIsUp()

    def test_3_who_stops_the_unit_ends_the_guest(self):
        """The last test: the guest is gone after it."""
        c = self.cluster
        if not c.qemus("pet"):
            self.roll(self.next_release("pet"))
        ((pid, _),) = c.qemus("pet")
        self.check_invariants()
        self.has_ended_pet = True
        c.systemctl("stop", "guest@pet.service", check=True)
        self.wait(lambda: is_gone(pid), 20, "the QEMU's end")
        self.wait(lambda: [g["state"] for g in c.cli_json("guests")] == ["stopped"], 20,
                  "its end to be told")


if __name__ == "__main__":
    unittest.main()
