"""A release that cannot be installed: its guests run on, the rollout says why and what to do."""
import os
import stat

from cluster_case import ClusterCase
from support import Scratch

from lab import refusing_qemu

COUNT = iter(range(1, 1000))


class BadQEMU(ClusterCase, Scratch):
    """Scratch gives the directory; the guest is db-1, alone on host b."""

    def setUp(self):
        Scratch.setUp(self)
        ClusterCase.setUp(self)

    def program(self, text, mode=0o755):
        """A stand-in for QEMU."""
        path = self.directory / "qemu"
        path.write_text(text)
        path.chmod(mode)
        os.chmod(self.directory, stat.S_IRWXU | 0o055)
        return path

    def roll_bad(self, path, *words, sha256=None, held=False):
        """Rolls out the file at `path`, which fails with a reason that says `words`."""
        release = f"bad-{next(COUNT)}"
        before = self.versions()["db-1"]
        arguments = ["release", "add", release, "--version", f"9.9.{release}", "--path", path,
                     "--module-directory", self.cluster.old["moduleDirectory"]]
        for directory in self.cluster.old["dataDirectories"]:
            arguments += ["--data-directory", directory]
        self.cluster.cli_json(*arguments, *(["--sha256", sha256] if sha256 else []))
        done = self.cluster.cli("rollout", "start", "--release", release, "--host", "b",
                                "--deadline", "10s", "--watch")
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        rollout = self.show(self.cluster.cli_json("rollout", "list")[-1]["id"])
        self.assertEqual(rollout["state"], "failed", rollout)
        (step,) = self.steps(rollout, "db-1")
        self.assertEqual(step["outcome"], "failed", step)
        for word in words:
            self.assertIn(word, step["reason"])
            self.assertIn(word, done.stdout, "the reason is shown to who watches")
        self.assertEqual(len(step["holds"]), 1 if held else 0, step)
        self.assertRuns("db-1")
        self.assertEqual(self.versions()["db-1"], before)
        self.assertEqual(self.cluster.cli_json("locks"), [])
        return step

    def test_a_missing_one(self):
        self.roll_bad(self.directory / "nothing", "does not exist", sha256="0" * 64)

    def test_one_that_is_not_executable(self):
        self.roll_bad(self.program("#!/bin/sh\n", 0o644), "not executable")

    def test_one_of_another_digest(self):
        self.roll_bad(self.cluster.new["path"], "SHA-256", sha256="1" * 64)

    def test_one_that_exits_at_once(self):
        self.roll_bad(self.program("#!/bin/sh\necho 'qemu: no such luck' >&2\nexit 3\n"),
                      "no such luck")

    def test_one_that_refuses_the_device_state(self):
        path = self.program(refusing_qemu(self.cluster.old["path"]))
        step = self.roll_bad(path, "refused", held=True)
        (hold,) = step["holds"]
        self.assertEqual(hold["outcome"], "failed")
        self.assertLess(hold["holdMilliseconds"], 10_000)
        self.assertEqual(hold["hypervisorAfter"], hold["hypervisorBefore"])

    def test_after_a_failure_the_right_one_goes_through(self):
        self.roll_bad(self.directory / "nothing", "does not exist", sha256="0" * 64)
        self.assertEqual(self.roll(self.next_release("db-1"), "b")["state"], "succeeded")
