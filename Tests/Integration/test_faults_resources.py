"""Faults of what a host has to give: descriptors, processes, room in its directories; a QEMU or a
guest agent that does not answer. The outcome of each is in its name.
"""
import contextlib
import os
import pathlib
import resource
import socket
import stat
import subprocess

from fault_case import GUEST, HOST, FaultCase
from support import CACHE, FERMATA, Scratch, wait_until

from lab import Cluster, Guest, state_of

COUNT = iter(range(1, 1000))


class BadStart(FaultCase, Scratch):
    """A release whose QEMU does not become ready. Scratch gives the directory."""

    def setUp(self):
        Scratch.setUp(self)
        FaultCase.setUp(self)
        self.directory.chmod(stat.S_IRWXU | 0o055)

    def add(self, text):
        """A release whose QEMU is this script; its name."""
        path = self.directory / "qemu"
        path.write_text(text)
        path.chmod(0o755)
        name = f"wrapped-{os.getpid()}-{next(COUNT)}"
        self.cluster.add_release(name, self.cluster.old, version=f"7.2-{name}", path=str(path),
                                 sha256=self.cluster.run("sha256sum", path).split()[0])
        return name

    def test_that_hangs_holds_nobody_and_fails_once_its_process_ends(self):
        rollout = self.start(self.add("#!/bin/sh\nexec sleep 1000\n"), HOST)
        self.wait(lambda: len(self.cluster.qemus(GUEST)) == 2, 30, "the new QEMU to hang")
        own, hung = sorted(self.cluster.qemus(GUEST),
                           key=lambda q: int(q[1]["FERMATA_GENERATION"]))
        self.assertRuns(GUEST)
        self.kill(hung[0])
        self.ended(rollout, "failed", "new QEMU ended", held=0)
        self.assertEqual(self.only(), own[0])

    def test_that_hangs_for_good_holds_nobody_and_fails_at_the_limit_of_the_preparation(self):
        own = self.only()
        rollout = self.start(self.add("#!/bin/sh\nexec sleep 1000\n"), HOST, deadline="2s")
        self.wait(lambda: len(self.cluster.qemus(GUEST)) == 2, 30, "the new QEMU to hang")
        self.assertRuns(GUEST)
        self.ended(rollout, "failed", "preparing took longer than 10 s", held=0)
        self.wait(lambda: len(self.cluster.qemus(GUEST)) == 1, 10, "the hung one to be killed")
        self.assertEqual(self.only(), own)

    def test_whose_monitor_answers_garbage_is_refused_and_the_guest_runs_on(self):
        release = self.add(
            "#!/usr/bin/python3\nimport socket, sys, time\n"
            "paths = [w.split('path=')[1].split(',')[0] for w in sys.argv if 'path=' in w "
            "and w.split('path=')[1].split(',')[0].endswith(('/qmp', '/guard'))]\n"
            "s = socket.socket(socket.AF_UNIX)\ns.bind(next(p for p in paths if p.endswith('/qmp')))\n"
            "s.listen(5)\nfor _ in range(40):\n"
            "    c, _ = s.accept()\n    c.sendall(b'{{{]\\xff\\x00 not a greeting\\n' * 50)\n"
            "    c.close()\n"
            "sys.exit('enough of this')\n")
        rollout = self.start(release, HOST)
        self.ended(rollout, "failed", "new QEMU ended", held=0)
        self.assertRuns(GUEST)


class GuestAgent(FaultCase):
    def test_that_is_not_there_makes_no_difference_to_the_hold(self):
        release = self.next_release("mute")
        rollout = self.finish(self.start(release, "c"))
        (step,) = self.steps(rollout, "mute")
        self.assertEqual(step["outcome"], "succeeded", step)

    def test_that_hangs_leaves_the_guest_running_on_the_new_one_and_is_said(self):
        # Its socket is taken by somebody who says nothing, so the agent gets no answer.
        rollout = self.stop_at("armed", deadline="30s")
        _, new = self.pair()
        number = max(int(e["FERMATA_GENERATION"]) for _, e in self.cluster.qemus(GUEST))
        path = self.cluster.run_directory(HOST) / "g" / GUEST / str(number) / "ga"
        with socket.socket(socket.AF_UNIX) as taken:
            taken.connect(str(path))
            self.go_on()
            self.wait(lambda: [q[0] for q in self.cluster.qemus(GUEST)] == [new], 20, "the move")
            self.assertRuns(GUEST)
            hold = self.finish(rollout, 150)["steps"][0]["holds"][0]
        self.assertEqual(hold["hypervisorAfter"], self.versions()[GUEST])
        self.assertEqual(hold["outcome"], "unhealthy", hold)
        self.assertIn("the guest agent", hold["reason"])
        self.assertIn("not measured", hold["clockNote"])


class Exhausted(FaultCase):
    def count_descriptors(self):
        return len(os.listdir(f"/proc/{self.agent.pid}/fd"))

    def limit_descriptors(self, count):
        soft, hard = resource.prlimit(self.agent.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(self.agent.pid, resource.RLIMIT_NOFILE, (count, hard))
        return soft

    def look_again(self):
        """Preflight has told the leader of the lack, and looks again at once when it is asked."""
        self.cluster.run(FERMATA, "preflight", "--host-file", self.cluster.host_file(HOST),
                         namespace=HOST)
        self.wait(lambda: self.cluster.cli_json("plan", "--release", self.next_release(GUEST),
                                                "--host", HOST)["steps"], 20, "a step to be planned")

    def test_of_descriptors_before_the_hold_the_step_fails_and_the_next_succeeds(self):
        self.restart_agent(HOST)
        # The token can perhaps still be kept with one descriptor free; a QEMU cannot be started.
        before = self.limit_descriptors(self.count_descriptors() + 1)
        try:
            (step,) = self.finish(self.start(self.next_release(GUEST), HOST))["steps"]
        finally:
            self.limit_descriptors(before)
        self.assertEqual(step["holds"], [], step)
        self.assertNotEqual(step["outcome"], "succeeded", step)
        self.assertTrue(step["reason"], step)
        self.assertRuns(GUEST)
        self.assertTrue(self.agent.is_running)
        self.look_again()
        self.ended(self.start(self.next_release(GUEST), HOST), "succeeded")

    def test_of_descriptors_in_the_hold_it_is_finished(self):
        rollout = self.stop_at("stopped")
        before = self.limit_descriptors(1)
        self.go_on()
        try:
            self.assertRuns(GUEST)
        finally:
            self.limit_descriptors(before)
        hold = self.finish(rollout)["steps"][0]["holds"][0]
        self.assertNotEqual(hold["outcome"], "lost")
        self.assertWithin(hold, 30_000)

    def test_of_descriptors_at_the_start_no_guest_is_taken_for_absent(self):
        enough = self.count_descriptors() + 8
        qemus = self.cluster.qemus(GUEST)
        self.agent.stop()
        arguments = self.agent.arguments
        said = self.agent.err.stat().st_size
        ends = 0
        try:
            for count in range(10, enough):
                self.agent.arguments = ["prlimit", f"--nofile={count}:{count}", *arguments]
                self.agent.start(wait=False)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.agent.process.wait(2)
                ends += not self.agent.is_running
                self.agent.stop()
                self.assertEqual(self.cluster.qemus(GUEST), qemus)
        finally:
            self.agent.arguments = arguments
            self.agent.start()
        self.assertNotIn(b"not started", self.agent.err.read_bytes()[said:])
        self.assertGreater(ends, 0)
        self.assertRuns(GUEST)
        self.wait_connected(HOST)

    def groups_of_pids(self):
        """The cgroup by which the agent's processes are counted, and a new one for the agent alone."""
        places = {controllers: path for _, controllers, path in (
            line.split(":", 2) for line in
            pathlib.Path(f"/proc/{self.agent.pid}/cgroup").read_text().splitlines())}
        if "pids" in places:                    # version 1: a tree for them alone
            own = pathlib.Path("/sys/fs/cgroup/pids" + places["pids"])
            group = own / self.cluster.tag
        else:
            # Version 2: beside its own, as one with processes of its own is bound in what it may have below.
            own = pathlib.Path("/sys/fs/cgroup" + places[""])
            group = own.with_name(f"{self.cluster.tag}-pids")
            (group.parent / "cgroup.subtree_control").write_text("+pids")
        group.mkdir()
        return own, group

    @contextlib.contextmanager
    def no_more_processes(self):
        """The agent can start nothing any more, by cgroup: no limit for root would bite."""
        try:
            own, group = self.groups_of_pids()
        except OSError as error:
            self.fail(f"no cgroup of pids can be made here: {error}")
        try:
            (group / "cgroup.procs").write_text(str(self.agent.pid))
            (group / "pids.max").write_text((group / "pids.current").read_text())
            yield
        finally:
            for pid in (group / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    (own / "cgroup.procs").write_text(pid)
            group.rmdir()

    def test_of_processes_the_step_fails_and_the_next_succeeds(self):
        self.restart_agent(HOST)
        with self.no_more_processes():
            (step,) = self.finish(self.start(self.next_release(GUEST), HOST))["steps"]
            self.assertEqual((step["outcome"], step["holds"]), ("failed", []), step)
            # Where the agent sees the limit, preflight has said so.
            self.assertRegex(step["reason"], "could not be started|threads, and 0 more")
            self.assertRuns(GUEST)
        self.look_again()
        self.ended(self.start(self.next_release(GUEST), HOST), "succeeded")


class Full(Scratch):
    """A cluster of its own, whose run directory and memory are file systems that can be filled."""

    def setUp(self):
        super().setUp()
        if os.geteuid() != 0:
            self.skipTest("mounting wants root")
        self.cluster = c = Cluster(FERMATA, CACHE, [Guest("one", "a", memory=128, pattern=16)],
                                   keep_directory=bool(os.environ.get("FERMATA_KEEP_LOGS")))
        self.addCleanup(c.close)
        c.prepare()
        self.run_directory = c.run_directory("a")
        self.mount(self.run_directory, "16m")
        self.mount(self.run_directory / "memory", "160m")
        c.start_server()
        c.start_notifier()
        c.start_agents()
        c.wait_guests()
        c.add_release("to-new", c.new)

    def mount(self, path, size):
        path.mkdir(parents=True, exist_ok=True)
        self.cluster.mounts.append(str(path))
        self.cluster.save()
        self.cluster.run("mount", "-t", "tmpfs", "-o", f"size={size}", "fermata-test", path)

    def fill(self, directory):
        """Not a byte is left below `directory`; the file that takes it all."""
        path = directory / "filler"
        with open(path, "wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        return path

    def roll(self):
        c = self.cluster
        return c.cli_json("rollout", "start", "--release", "to-new")["rollout"]

    def finish(self, rollout):
        look = lambda: self.cluster.cli_json("rollout", "show", rollout)  # noqa: E731
        wait_until(lambda: look()["finishedAt"], 60, f"{rollout} to be over")
        (step,) = look()["steps"]
        return step

    def check(self, first):
        now = self.cluster.ask("one", "report")
        self.assertEqual(now["bootId"], first["bootId"])
        self.assertTrue(now["memoryIntact"] and now["diskOk"], now)
        self.assertGreater(now["counter"], first["counter"])
        self.assertEqual(len(self.cluster.qemus("one")), 1)
        wait_until(lambda: self.cluster.cli_json("status")["runningGuestCount"] == 1, 30, "running")

    def test_run_directory_before_and_in_a_hold_and_memory_directory(self):
        c = self.cluster
        first = c.ask("one", "report")
        with self.subTest("the run directory, before: refused, the guest runs on"):
            filler = self.fill(self.run_directory)
            step = self.finish(self.roll())
            self.check(first)
            filler.unlink()
            if step["outcome"] == "succeeded":      # a socket and an empty directory may need none
                self.assertEqual(len(step["holds"]), 1)
            else:
                self.assertEqual(step["holds"], [], step)
        with self.subTest("the run directory, in the hold: the guard continues the guest"):
            c.agents["a"].stop()
            c.agents["a"].start(environment={"FERMATA_TEST_PAUSE_AT": "stopped:stop"})
            release = "to-new" if c.cli_json("guests")[0]["hypervisorVersion"] \
                == c.old["version"] else "to-old"
            if release == "to-old":
                c.add_release("to-old", c.old)
            rollout = c.cli_json("rollout", "start", "--release", release)["rollout"]
            pid = c.agents["a"].pid
            wait_until(lambda: state_of(pid) == "T", 60, "the agent to stop")
            filler = self.fill(self.run_directory)
            c.agents["a"].kill()
            wait_until(lambda: c.try_ask("one", "report"), 20, "the guard to continue the guest")
            c.agents["a"].start()
            step = self.finish(rollout)
            self.check(first)
            filler.unlink()
            self.assertEqual([h["outcome"] for h in step["holds"]], ["failed"], step)
        with self.subTest("the memory directory: a hand-over needs no more of it"):
            # The guest's own file has all its pages first, or the guest could not touch a new one.
            (ram,) = (self.run_directory / "memory").glob("*.ram")
            c.run("fallocate", "-l", "128M", ram)
            filler = self.fill(self.run_directory / "memory")
            rollout = c.cli_json("rollout", "start", "--release", release)["rollout"]
            step = self.finish(rollout)
            self.check(first)
            filler.unlink()
            self.assertEqual(step["outcome"], "succeeded", step)
