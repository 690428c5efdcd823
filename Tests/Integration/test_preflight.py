"""Preflight: what cannot be handed over is named, skipped by plans and rollouts, and never held."""
import contextlib
import json
import os
import pathlib
import signal
import socket
import stat
import subprocess
import unittest

from cluster_case import ClusterCase  # first: it sets the path for the others
from support import BAD_INPUT, CACHE, FERMATA, UNAVAILABLE, USAGE, fermata

from lab import Cluster, Guest, wait_until

# Takes the lock with which an image tool says "nobody else may write": the QEMU that runs does not
# notice, but the next one would be refused.
LOCKER = """
import fcntl, struct, sys, time
file = open(sys.argv[1], "rb")
F_OFD_SETLK, byte = 37, 201
fcntl.fcntl(file, F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, byte, 1, 0))
print("locked", flush=True)
time.sleep(600)
"""


class IdleHost(Cluster):
    """A cluster of one host whose guests idle in their firmware: some can be handed over."""

    ARGUMENTS = {
        "good": "",
        "unshared": "",
        "nvme": "[-blockdev, \"driver=null-co,node-name=n0\", -device, \"nvme,serial=x,drive=n0\"]",
        "lost": "",
    }

    def __init__(self):
        super().__init__(FERMATA, CACHE, [Guest(n, "z", disk=False) for n in self.ARGUMENTS],
                         net="user", cluster="idle")

    def prepare(self):
        super().prepare()
        base, disk = self.directory / "base.qcow2", self.directory / "good.qcow2"
        self.run("qemu-img", "create", "-q", "-f", "qcow2", base, "8M")
        self.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", disk)

    def hypervisor_text(self, installed):
        # Somebody's wrapper that spoils the RAM of one guest: a host file cannot.
        wrapper = self.directory / "qemu"
        wrapper.write_text(
            "#!/usr/bin/python3\nimport os, sys\na = sys.argv[1:]\n"
            "if 'unshared' in a: a = [w.replace('share=on', 'share=off') for w in a]\n"
            f"os.execv({installed['path']!r}, ['qemu'] + a)\n")
        wrapper.chmod(0o755)
        return super().hypervisor_text(installed | {"path": str(wrapper)})

    def guest_text(self, guest):
        text = f"  - {{id: {guest.name}, memory: 32MiB, guestAgent: false"
        if guest.name == "good":
            text += f", disks: [{{path: {self.directory}/good.qcow2, format: qcow2}}]"
        if self.ARGUMENTS[guest.name]:
            text += f", arguments: {self.ARGUMENTS[guest.name]}"
        return text + "}\n"

    def start(self):
        self.prepare()
        self.start_server()
        self.start_agents()
        self.add_release("to-new", self.new)
        self.add_release("to-old", self.old)
        return self


class Asking:
    """How a preflight is asked for."""

    def preflight(self, *arguments, host="z", code=None, namespace=None):
        command = self.cluster.inside(namespace) + [
            FERMATA, "preflight", "--host-file", str(self.cluster.host_file(host)), "--json",
            *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False,
                              stdin=subprocess.DEVNULL)
        self.assertIn(done.returncode, (0, 1) if code is None else (code,),
                      done.stdout + done.stderr)
        return json.loads(done.stdout)

    def findings(self, guest, **options):
        """{name: finding} of one guest."""
        (found,) = self.preflight("--guest", guest, **options)["guests"]
        self.assertEqual(found["id"], guest)
        for finding in found["findings"]:
            self.assertIn(finding["severity"], ("blocks", "warns"))
            self.assertTrue(finding["problem"] and finding["advice"], finding)
        self.assertEqual(found["canBeHandedOver"],
                         not any(f["severity"] == "blocks" for f in found["findings"]))
        return {f["check"]: f for f in found["findings"]}

    def assertBlocked(self, guest, check, *words, **options):
        """This check blocks the guest, nothing else does, and its problem says all of `words`."""
        found = self.findings(guest, code=1, **options)
        self.assertEqual([c for c, f in found.items() if f["severity"] == "blocks"], [check], found)
        for word in words:
            self.assertIn(str(word), found[check]["problem"])

    def assertPasses(self, guest, **options):
        found = self.findings(guest, code=0, **options)
        self.assertLessEqual(set(found), {"guestagent"}, found)


class PreflightOfRealGuests(Asking, ClusterCase):
    """Guests with taps, disks and guest agents."""

    def test_healthy_guests_pass_with_and_without_an_agent(self):
        release = ["--release-binary", self.cluster.new["path"],
                   "--module-directory", self.cluster.new["moduleDirectory"]]
        # The guest agent of a guest that has only just started may take some time to answer.
        self.wait(lambda: not any(
            finding["check"] == "guestagent" and guest["id"] != "mute"
            for host in self.cluster.hosts
            for guest in self.preflight(*release, host=host, namespace=host)["guests"]
            for finding in guest["findings"]), 60, "the guest agents to answer")
        for host in self.cluster.hosts:
            found = self.preflight(*release, host=host, code=0, namespace=host)
            self.assertEqual(found["host"], host)
            for guest in found["guests"]:
                names = [f["check"] for f in guest["findings"]]
                self.assertEqual(names, ["guestagent"] if guest["id"] == "mute" else [], guest)
        self.cluster.agents["c"].kill()
        found = self.preflight(host="c", code=0, namespace="c")
        self.assertEqual({g["id"]: [f["check"] for f in g["findings"]] for g in found["guests"]},
                         {"db-2": [], "mute": ["guestagent"]})


class Preflight(Asking, unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.cluster = IdleHost()
        cls.addClassCleanup(cls.cluster.close)
        cls.cluster.start()
        wait_until(lambda: cls.cluster.cli_json("status")["runningGuestCount"] == 4, 30,
                   "the guests to run")

    def setUp(self):
        agent = self.cluster.agents["z"]
        if not agent.is_running:
            agent.start()
            wait_until(lambda: self.cluster.cli_json("status")["connectedHostCount"] == 1, 30,
                       "the agent to be connected")

    def roll(self):
        """A rollout of a release that the guests do not run, to its end."""
        versions = {g["id"]: g["hypervisorVersion"] for g in self.cluster.cli_json("guests")}
        release = "to-old" if versions["good"] == self.cluster.new["version"] else "to-new"
        self.cluster.cli("rollout", "start", "--release", release, "--deadline", "10s", "--watch")
        return self.cluster.cli_json("rollout", "show",
                                     self.cluster.cli_json("rollout", "list")[-1]["id"])

    def known_problem(self, guest):
        """What the leader has been told."""
        return {g["id"]: g["handOverProblem"]
                for g in self.cluster.cli_json("guests")}[guest]

    def test_what_cannot_be_handed_over_is_named_skipped_and_not_held(self):
        self.assertPasses("good")
        self.assertBlocked("unshared", "memory", "32 MiB", "ram0")
        self.assertBlocked("nvme", "blocker", "nvme")
        for guest, word in (("unshared", "memory: "), ("nvme", "blocker: ")):
            wait_until(lambda g=guest, w=word: w in self.known_problem(g), 20,
                       f"the leader to know of {guest}")
        # Asking has told the leader too, should an earlier test have left something mended.
        wait_until(lambda: self.known_problem("good") == "", 20, "the leader to know of good")
        plan = self.cluster.cli_json("plan", "--release", "to-new")
        skipped = {s["guest"]: s["reason"] for s in plan["skipped"]}
        self.assertIn("memory: ", skipped["unshared"])
        self.assertIn("nvme", skipped["nvme"])
        self.assertIn("good", [g for s in plan["steps"] for g in s["guests"]])
        # Only the guest that can be handed over is held.
        rollout = self.roll()
        held = [h["guest"] for s in rollout["steps"] for h in s["holds"]]
        self.assertIn("good", held)
        self.assertFalse({"unshared", "nvme"} & set(held), rollout)
        self.assertPasses("good")

    def test_a_text_for_people(self):
        done = fermata("preflight", "--host-file", self.cluster.host_file("z"))
        self.assertEqual(done.code, 1, str(done))
        self.assertRegex(done.out, r"(?m)^nvme +blocker +blocks +QEMU says: .*nvme")
        self.assertRegex(done.out, r"\d of 4 guests of host z can be handed over")

    def test_a_release_is_asked_what_it_knows(self):
        new = self.cluster.new
        modules = ["--module-directory", new["moduleDirectory"]]
        self.findings_of("good", 0, "--release-binary", new["path"], *modules)
        found = self.findings_of("good", 1, "--release-binary", "/nowhere/qemu")
        self.assertIn("program", found)
        found = self.findings_of("good", 1, "--release-binary", "/bin/false")
        self.assertIn("does not start", found["program"]["problem"])
        found = self.findings_of("good", 1, "--release-binary", new["path"],
                                 "--module-directory", "/nowhere")
        self.assertIn("modules", found)
        found = self.findings_of("good", 1, "--release-binary", new["path"], *modules,
                                 "--data-directory", "/nowhere")
        self.assertIn("firmware", found)
        left = [p for p in os.listdir(self.cluster.run_directory("z")) if p.startswith("probe-")]
        self.assertEqual(left, [])

    def findings_of(self, guest, code, *arguments):
        (found,) = self.preflight("--guest", guest, *arguments, code=code)["guests"]
        return {f["check"]: f for f in found["findings"]}

    def test_a_lock_of_another_process_stops_the_hold_before_it_begins(self):
        for image in ("good.qcow2", "base.qcow2"):
            path = self.cluster.directory / image
            with subprocess.Popen(["/usr/bin/python3", "-c", LOCKER, path], text=True,
                                  stdout=subprocess.PIPE) as locker:
                try:
                    self.assertEqual(locker.stdout.readline(), "locked\n")
                    # Nobody writes to a base image, so forbidding it harms nobody.
                    if image == "base.qcow2":
                        self.assertPasses("good")
                        continue
                    rollout = self.roll()
                    (step,) = [s for s in rollout["steps"] if "good" in s["guests"]]
                    self.assertEqual(step["outcome"], "failed", step)
                    self.assertEqual(step["holds"], [])
                    self.assertIn("lock: ", step["reason"])
                    self.assertIn(f"pid {locker.pid}", step["reason"])
                    # Only now: asking tells the leader, whose rollout would skip the guest.
                    self.assertBlocked("good", "lock", image, f"pid {locker.pid}")
                finally:
                    locker.kill()
        self.assertPasses("good")

    def test_files_that_are_not_what_qemu_has_open(self):
        for name, check in (("good.qcow2", "image"), ("base.qcow2", "backing")):
            path = self.cluster.directory / name
            aside = path.with_suffix(".aside")
            path.rename(aside)
            try:
                self.assertBlocked("good", check, name, "not there")
                path.write_bytes(aside.read_bytes())
                self.assertBlocked("good", check, name, "another file")
            finally:
                aside.rename(path)
        self.assertPasses("good")

    def test_a_guest_whose_memory_file_is_gone_is_not_handed_over(self):
        # The new QEMU would make an empty one, and the guest would wake up in it.
        ram = self.cluster.run_directory("z") / "memory" / "lost.ram"
        aside = ram.with_suffix(".aside")
        self.assertPasses("lost")
        ram.rename(aside)
        try:
            self.assertBlocked("lost", "ramfile", "lost.ram")
        finally:
            aside.rename(ram)
        self.assertPasses("lost")

    def generation(self, guest):
        place = self.cluster.run_directory("z") / "g" / guest
        return place / (place / "current").read_text()

    @contextlib.contextmanager
    def connected(self, path):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            yield

    def test_an_occupied_monitor(self):
        self.assertPasses("good")
        with self.connected(self.generation("good") / "guard"):
            self.assertBlocked("good", "monitor", "guard")
        wait_until(lambda: not [f for f in self.findings("good") if f == "monitor"], 10,
                   "the monitor to be free")
        self.cluster.agents["z"].stop()
        with self.connected(self.generation("good") / "qmp"):
            self.assertBlocked("good", "monitor")

    def test_a_stopped_qemu_does_not_answer(self):
        (pid, _), = self.cluster.qemus("good")
        os.kill(pid, signal.SIGSTOP)
        try:
            self.assertBlocked("good", "monitor", "does not answer")
        finally:
            os.kill(pid, signal.SIGCONT)
        self.assertPasses("good")

    def test_without_an_agent_it_looks_itself(self):
        for end in ("stop", "kill"):        # the second leaves a stale socket
            getattr(self.cluster.agents["z"], end)()
            self.assertPasses("good")
            self.assertBlocked("nvme", "blocker")
            self.setUp()
            self.assertPasses("good")

    def test_only_the_agents_user_may_ask(self):
        path = self.cluster.run_directory("z") / "control"
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)

    def test_nonsense_on_the_control_socket(self):
        path = str(self.cluster.run_directory("z") / "control")
        for line in (b"\xff\x00\n", b"{}\n", b'{"preflight":{"guests":["../x"]}}\n', b"[" * 60000 +
                     b"\n"):
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(60)
                client.connect(path)
                client.sendall(line)
                self.assertIn("error", json.loads(client.makefile().readline()))
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(60)
            client.connect(path)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                client.sendall(b"x" * 200_000)
                self.assertEqual(client.recv(1), b"", "too much is not answered")
        self.assertPasses("good")

    def test_wrong_use(self):
        file = self.cluster.host_file("z")
        for code, arguments in (
                (BAD_INPUT, ["--host-file", file, "--guest", "nobody"]),
                (BAD_INPUT, ["--host-file", "/nowhere/host.yaml"]),
                (USAGE, ["--host-file", file, "--release-binary", "qemu"]),
                (USAGE, ["--host-file", file, "--module-directory", "/x"]), (USAGE, [])):
            done = fermata("preflight", *arguments)
            self.assertEqual(done.code, code, str(done))
            self.assertTrue(done.err, str(done))

    def test_an_agent_that_cannot_be_asked_is_not_robbed_of_its_monitors(self):
        agent = self.cluster.agents["z"]
        control = pathlib.Path(self.cluster.run_directory("z") / "control")
        control.rename(control.with_suffix(".aside"))
        try:
            done = fermata("preflight", "--host-file", self.cluster.host_file("z"))
            self.assertEqual(done.code, UNAVAILABLE, str(done))
        finally:
            control.with_suffix(".aside").rename(control)
        self.assertTrue(agent.is_running)
        self.assertPasses("good")
