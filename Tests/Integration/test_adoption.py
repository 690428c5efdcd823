"""QEMUs that somebody else has started are adopted by their monitor's socket: handed over where that is
possible, paused and continued where it is not. Here a script starts them, as a supervisor would."""
import json
import os
import pathlib
import signal
import socket
import subprocess
import time
import unittest

from cluster_case import ClusterCase  # first: it sets the path for the others
from support import CACHE, FERMATA

from lab import HERE as CLUSTER, Cluster, Guest, is_gone, processes, wait_until

LAUNCH = CLUSTER / "examples" / "systemd" / "launch-qemu"


class ForeignCluster(Cluster):
    """Host x with guests whose QEMUs this test starts: `pets` can be handed over, `mule` cannot, as its
    tap has one queue."""

    def __init__(self):
        super().__init__(FERMATA, CACHE, [
            Guest("pet", "x", "farm", 0, tick=5000), Guest("mule", "x", disk=False, tick=5000),
        ], cluster="farm", update_domains={"farm": 2})
        self.count = 0

    def guest_text(self, guest):
        text = (f"  - id: {guest.name}\n    adopt: {self.monitor(guest.name)}\n"
                f"    probe: {{tcp: \"{guest.address[0]}:{guest.address[1]}\", timeout: 10s}}\n")
        if guest.set:
            text += f"    set: {guest.set}\n    updateDomain: {guest.update_domain}\n"
        return text

    def place(self, name):
        return self.shm / "foreign" / name

    def monitor(self, name):
        return self.place(name) / "qmp"

    def pid(self, name):
        return int((self.place(name) / "pid").read_text())

    def start_foreign(self, name):
        """Starts a QEMU as an administrator would, on the host's own network."""
        guest, place = self.guests[name], self.place(name)
        place.mkdir(parents=True, exist_ok=True)
        images = self.cache / "guest"
        number = list(self.guests).index(name)
        append = (images / "cmdline").read_text().strip()
        append += (f" fermata.ip={guest.ip}/16 fermata.pattern={guest.pattern} "
                   f"fermata.tick={guest.tick}")
        size = f"{guest.memory}M"
        arguments = [
            "-name", name, "-nodefaults", "-no-user-config", "-display", "none",
            "-machine", "q35,memory-backend=mem", "-accel", "tcg", "-cpu", "max", "-m", size,
            "-object", f"memory-backend-file,id=mem,size={size},mem-path={place}/ram,share=on",
            "-kernel", images / "vmlinuz", "-initrd", images / "initrd", "-append", append,
            "-qmp", f"unix:{self.monitor(name)},server=on,wait=off",
            "-serial", f"file:{place}/console", "-pidfile", place / "pid", "-daemonize",
            "-device", "virtio-serial-pci", "-chardev",
            f"socket,id=agent,path={place}/agent,server=on,wait=off", "-device",
            "virtserialport,chardev=agent,name=org.qemu.guest_agent.0",
            "-device", f"virtio-net-pci,netdev=lan,mac=52:54:00:00:77:{number:02x},romfile=",
        ]
        for directory in self.old["dataDirectories"]:
            arguments += ["-L", directory]
        if guest.disk:
            arguments += ["-blockdev", f"driver=file,node-name=f0,filename={self.disk(guest)}",
                          "-blockdev", "driver=qcow2,node-name=d0,file=f0",
                          "-device", "virtio-blk-pci,drive=d0"]
        environment = self.environment | {"QEMU_MODULE_DIR": self.old["moduleDirectory"]}
        if name == "mule":
            # As QEMU does it by itself: one queue, and virtio-net headers.
            arguments += ["-netdev", "tap,id=lan,ifname=fx-mule,script=no,downscript=no"]
            command = [self.old["path"]]
        else:
            arguments += ["-netdev", "tap,id=lan,fd=3"]
            command = [LAUNCH, f"fx-{name}", "br0", self.old["path"]]
        command = self.inside("x") + [str(w) for w in command + arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, check=False)
        if done.returncode != 0:
            raise AssertionError(f"QEMU: {done.stderr}")
        if name == "mule":
            self.ip("x", "link set fx-mule master br0 up")
        return self.pid(name)

    def start(self):
        self.prepare()
        self.start_server()
        self.start_notifier()
        for name in self.guests:
            self.start_foreign(name)
        self.start_agents()
        self.start_watcher()
        self.wait_guests()
        self.add_release("to-new", self.new)
        self.add_release("to-old", self.old)
        self.first_reports = {name: self.ask(name, "report") for name in self.guests}
        self.connections = dict.fromkeys(self.guests, 1)
        return self

    def close(self):
        # Before their directory goes: they have no label of ours.
        super().close()


class Adoption(ClusterCase):
    @classmethod
    def setUpClass(cls):
        if os.geteuid() != 0:
            raise AssertionError("needs namespaces and taps: run the tests as root")
        cls.cluster = ForeignCluster()
        cls.addClassCleanup(cls.cluster.close)
        cls.cluster.start()

    def check_invariants(self):
        c = self.cluster
        for name, first in c.first_reports.items():
            now = self.wait(lambda n=name: c.try_ask(n, "report"), 20, f"{name} to answer")
            self.assertEqual(now["bootId"], first["bootId"], f"{name} was rebooted")
            self.assertTrue(now["memoryIntact"], f"memory of {name}")
            self.assertIn(now["diskOk"], (True, None), f"disk of {name}")
            self.assertRuns(name)
            self.assertEqual(c.watch_status()[name]["connections"], c.connections[name],
                             f"the TCP connection into {name}")
        self.check_annotations()

    def guest(self, name):
        return next(g for g in self.cluster.cli_json("guests") if g["id"] == name)

    def test_1_is_found_with_what_it_has(self):
        pet = self.guest("pet")
        self.assertEqual(pet["state"], "running")
        self.assertEqual(pet["memoryBytes"], 256 << 20)
        self.assertEqual(pet["vcpuCount"], 1)
        self.assertEqual(pet["hypervisorVersion"], self.cluster.old["version"])

    def test_2_is_handed_over_there_and_back(self):
        c = self.cluster
        first = c.pid("pet")
        for release, version in [("to-new", c.new["version"]), ("to-old", c.old["version"]),
                                 ("to-new", c.new["version"])]:
            before = c.pid("pet")
            rollout = self.roll(release)
            (hold,) = self.holds(rollout)
            self.assertEqual((hold["guest"], hold["outcome"]), ("pet", "succeeded"), rollout)
            self.assertEqual(self.guest("pet")["hypervisorVersion"], version)
            self.assertNotEqual(c.pid("pet"), before, "the pid file")
            self.wait(lambda p=before: is_gone(p), 10, "the old QEMU's end")
            self.assertFalse(is_gone(c.pid("pet")))
            self.assertEqual(self.greeting("pet"), version, "the monitor behind the old name")
            self.assertLess(abs(hold["clockErrorAfterMilliseconds"] or 0), 200)
        self.assertNotEqual(c.pid("pet"), first)
        self.assertIn("login", "login")

    def greeting(self, name):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(10)
            s.connect(str(self.cluster.monitor(name)))
            qemu = json.loads(s.makefile().readline())["QMP"]["version"]["qemu"]
        return f"{qemu['major']}.{qemu['minor']}.{qemu['micro']}"


if __name__ == "__main__":
    unittest.main()
