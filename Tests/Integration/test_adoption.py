"""QEMUs that somebody else has started are adopted by their monitor's socket: handed over where that is
possible, paused and continued where it is not. Here a script starts them, as a supervisor would."""
import json
import os
import signal
import socket
import subprocess
import time
import unittest

from cluster_case import ClusterCase  # first: it sets the path for the others
from support import CACHE, FERMATA
from test_preflight import Asking

from lab import HERE as CLUSTER, Cluster, Guest, is_gone

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
            "-device", "pcie-root-port,id=spare",
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


class Adoption(Asking, ClusterCase):
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
            self.assertIsNotNone(hold["clockErrorMillisecondsAfter"], hold)
        self.assertNotEqual(c.pid("pet"), first)

    def greeting(self, name):
        """The version that the QEMU behind a guest's monitor tells."""
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(60)
            s.connect(str(self.cluster.monitor(name)))
            qemu = json.loads(s.makefile().readline())["QMP"]["version"]["qemu"]
        return f"{qemu['major']}.{qemu['minor']}.{qemu['micro']}"

    def blocked(self, name):
        """What blocks one guest: {name: problem}."""
        found = self.findings(name, host="x", namespace="x")
        return {c: f["problem"] for c, f in found.items() if f["severity"] == "blocks"}

    def test_3_what_cannot_be_handed_over_is_named_and_left_alone(self):
        blocked = self.blocked("mule")
        self.assertEqual(set(blocked), {"tap"}, blocked)
        self.assertEqual(self.blocked("pet"), {})
        release = self.next_release("pet")
        plan = self.cluster.cli_json("plan", "--release", release)
        self.assertEqual([s["guests"] for s in plan["steps"]], [["pet"]], plan)
        self.assertIn("mule", json.dumps(plan["skipped"]))

    # ---- guests that are only paused: one monitor for agent and guard ----

    def software(self, name, **commands):
        """A release for the host under all its guests; its commands are a shell's."""
        lines = [f'version: "{name}"', "holdsGuests: true"]
        for kind, text in ({"undo": "true"} | commands).items():
            limit = {"apply": "4s", "check": "2s", "undo": "2s"}[kind]
            lines += [f"{kind}:", "  path: /bin/sh", f"  limit: {limit}",
                      f"  arguments: [\"-c\", \"{text}\"]"]
        file = self.cluster.directory / f"{name}.yaml"
        file.write_text("\n".join(lines) + "\n")
        self.cluster.cli_json("release", "add", name, "--component", "software", "--file", file)
        return name

    def unique(self, name):
        return f"{name}-{int(time.monotonic() * 1e6)}"

    def test_4_is_paused_under_a_command_again_and_again(self):
        # The socket's queue has room for two; each guard leaves a connection in it.
        for _ in range(4):
            rollout = self.roll(self.software(self.unique("host"), apply="sleep 0.2"),
                                deadline="10s")
            self.assertEqual(rollout["state"], "succeeded", rollout)
            self.assertEqual(sorted(h["guest"] for h in self.holds(rollout)), ["mule", "pet"])
            for hold in self.holds(rollout):
                self.assertGreaterEqual(hold["holdMilliseconds"], 200)
        # That its monitor was drained is never taken for a fault of the guest's.
        end = time.monotonic() + 2
        while time.monotonic() < end:
            problem = self.guest("mule")["handOverProblem"]
            self.assertTrue(problem.startswith("tap") and "monitor" not in problem, problem)

    def stop_agent_at(self, phase, how=""):
        self.restart_agent("x", FERMATA_TEST_PAUSE_AT=phase + how)
        self.addCleanup(self.forget_phase)

    def forget_phase(self):
        agent = self.cluster.agents["x"]
        if agent.is_running:
            agent.signal(signal.SIGCONT)
            agent.stop()
        agent.start()
        self.wait_connected("x")

    def agent_ends_in_hold(self, how, deadline):
        """The agent dies or hangs under a command that would take long. deadline: seconds."""
        c = self.cluster
        self.stop_agent_at("running-apply", how)
        rollout = self.start(self.software(self.unique("host"), apply="sleep 3"),
                             deadline=f"{deadline}s")
        self.wait(lambda: not c.agents["x"].is_running, 60, "the agent's end")
        for name in c.guests:
            self.assertRuns(name)
        c.agents["x"].start()
        rollout = self.finish(rollout)
        holds = self.holds(rollout)
        self.assertEqual(sorted(h["guest"] for h in holds), ["mule", "pet"], rollout)
        for hold in holds:
            self.assertEqual(hold["resumedBy"], "guard", hold)
            self.assertLessEqual(hold["holdMilliseconds"], deadline * 1000, hold)
        return holds

    def test_5_guard_continues_through_the_one_monitor_when_the_agent_dies(self):
        for hold in self.agent_ends_in_hold("", 20):
            # It sees the end and does not wait for the deadline, less 1 s.
            self.assertLessEqual(hold["holdMilliseconds"], 12_000, hold)

    def test_5_guard_ends_a_hung_agent_and_continues(self):
        self.agent_ends_in_hold(":stop", 10)

    # ---- hand-over that goes wrong ----

    def test_6_agent_dies_in_a_hand_over_of_a_foreign_qemu(self):
        c = self.cluster
        for phase, side in [("stopped", "old"), ("moved", "old"), ("killed", "new")]:
            if not any(e.get("FERMATA_GUEST") == "pet" for _, e in c.qemus()):
                self.assertFalse(is_gone(c.pid("pet")))
            before = self.versions()["pet"]
            pid = c.pid("pet")
            release = self.next_release("pet")
            self.stop_agent_at(phase)
            # A step of mule may be planned before the agent has found that it cannot be handed over.
            rollout = self.start(release, failures_max=2)
            self.wait(lambda: not c.agents["x"].is_running, 60, f"the agent to die at {phase}")
            self.assertRuns("pet")
            c.agents["x"].start()
            (hold,) = self.holds(self.finish(rollout))
            self.assertEqual(hold["hypervisorAfter"] == before, side == "old", (phase, hold))
            self.wait_connected("x")
            self.wait(lambda s=side, p=pid: (c.pid("pet") == p) == (s == "old"), 10,
                      f"the pid file after {phase}")
            self.wait(lambda: self.blocked("pet") == {}, 20, "pet to be as before")

    def test_7_new_qemu_that_fails_leaves_everything_as_it_was(self):
        c = self.cluster
        pid, before = c.pid("pet"), self.versions()["pet"]
        wrapper = c.directory / "bad-qemu"
        wrapper.write_text("#!/bin/sh\necho 'no such luck' >&2\nexit 1\n")
        wrapper.chmod(0o755)
        name = self.unique("bad")
        c.cli_json("release", "add", name, "--component", "hypervisor", "--version", name,
                   "--path", wrapper)
        (step,) = self.roll(name)["steps"]
        self.assertEqual(step["outcome"], "failed", step)
        self.assertIn("no such luck", step["reason"])
        self.assertEqual((c.pid("pet"), self.versions()["pet"]), (pid, before))
        left = [p.name for p in c.place("pet").iterdir() if "fermata" in p.name]
        self.assertEqual(left, [])

    def test_7_pid_file_that_names_somebody_else_is_left_alone(self):
        c = self.cluster
        file = c.place("pet") / "pid"
        kept = file.read_text()
        file.write_text("1\n")
        self.assertEqual(self.roll(self.next_release("pet"))["state"], "succeeded")
        self.assertEqual(file.read_text(), "1\n")
        ((pid, _),) = c.qemus("pet")
        self.assertNotEqual(str(pid), kept.strip())
        file.write_text(f"{pid}\n")

    def test_z_device_that_was_added_while_it_ran(self):
        # After a hand-over the old monitor is free for others.
        if self.versions()["pet"] == self.cluster.old["version"]:
            self.roll("to-new")
        answer = self.qmp("pet", {"execute": "device_add", "arguments": {
            "driver": "virtio-rng-pci", "id": "late", "bus": "spare"}})
        self.assertIn("return", answer)
        (step,) = self.roll(self.next_release("pet"))["steps"]
        self.assertEqual(step["outcome"], "failed", step)
        self.assertIn("hotplug", step["reason"])
        self.assertEqual(step["holds"], [])

    def qmp(self, name, command):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(60)
            s.connect(str(self.cluster.monitor(name)))
            lines = s.makefile("rw")
            lines.readline()
            for message in ({"execute": "qmp_capabilities"}, command):
                lines.write(json.dumps(message) + "\n")
                lines.flush()
                answer = json.loads(lines.readline())
            return answer

    # ---- coming and going ----

    def test_9_who_ends_it_and_starts_it_again_is_followed(self):
        c = self.cluster
        name = "mule"
        os.kill(c.pid(name), signal.SIGKILL)
        self.wait(lambda: self.guest(name)["state"] == "stopped", 20, "its end to be told")
        self.assertIn(str(c.monitor(name)), self.guest(name)["handOverProblem"])
        c.start_foreign(name)
        self.wait(lambda: self.guest(name)["state"] == "running", 60, "it to be found")
        c.first_reports[name] = self.wait(lambda: c.try_ask(name, "report"), 60, "it to boot")
        self.wait(lambda: c.watch_status()[name]["connections"] > c.connections[name], 60,
                  "the watcher to connect again")
        c.connections[name] = c.watch_status()[name]["connections"]

    def test_9_agent_is_started_before_the_qemu_and_beside_another_client(self):
        """Who has the monitor is not pushed out; the agent waits for its turn."""
        c = self.cluster
        agent = c.agents["x"]
        agent.stop()
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(60)
            s.connect(str(c.monitor("mule")))
            self.assertIn("QMP", s.makefile().readline())
            agent.start()
            self.wait_connected("x")
            self.wait(lambda: self.guest("pet")["state"] == "running", 20, "pet to be found")
            self.wait(lambda: self.guest("mule")["state"] != "running", 20, "mule not to be")
        self.wait(lambda: self.guest("mule")["state"] == "running", 30, "mule's monitor")


if __name__ == "__main__":
    unittest.main()
