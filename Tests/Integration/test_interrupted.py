"""What an interrupted test leaves: nothing, though unittest runs none of its cleanups then."""
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import unittest

from support import CACHE, FERMATA, Scratch, wait_until  # first: it sets the path for the others

import lab

HERE = pathlib.Path(__file__).resolve().parent

# A module of tests that has begun a cluster, a process and directories, and forked, and says so.
MODULE = """
import atexit, json, os, pathlib, subprocess, sys, time, unittest
from support import CACHE, FERMATA, Scratch
from lab import Cluster, Daemon, Guest

class Waits(Scratch):
    def test(self):
        c = Cluster(FERMATA, CACHE, [Guest("g", "a", disk=False)])
        self.addCleanup(c.close)
        c.prepare()
        Daemon(c, "sleeper", ["sleep", "1000"], namespace="middle").start(wait=False)
        child = subprocess.Popen(["sleep", "1001"])
        forked = os.fork()
        if forked == 0:
            atexit._run_exitfuncs()             # as a child that ends in order
            os._exit(0)
        os.waitpid(forked, 0)
        made = {"tag": c.tag, "namespaces": c.namespaces, "child": child.pid,
                "stand": c.directory.exists() and self.directory.exists(),
                "directories": [str(self.directory), str(c.directory), str(c.shm)]}
        pathlib.Path(os.environ["SAYS"] + ".new").write_text(json.dumps(made))
        os.rename(os.environ["SAYS"] + ".new", os.environ["SAYS"])
        time.sleep(1000)
"""


class Interrupted(Scratch):
    def begin(self, *command):
        """The process that runs the module, and what that has made."""
        self.write("test_waits.py", MODULE)
        says = self.directory / "says"
        says.unlink(missing_ok=True)
        environment = os.environ | {"SAYS": str(says), "PYTHONPATH": f"{HERE}:{self.directory}",
                                    "FERMATA": FERMATA, "FERMATA_CACHE": str(CACHE)}
        # A shell that starts something in the background has it ignore interrupts.
        process = subprocess.Popen(command, env=environment, cwd=self.directory,
                                   preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        wait_until(says.exists, 60, "the test to have begun everything")
        made = json.loads(says.read_text())
        self.addCleanup(self.end, process, made)
        return process, made

    def end(self, process, made):
        """Should the test have failed."""
        process.kill()
        process.wait()
        with contextlib.suppress(OSError):
            if b"1001" in pathlib.Path(f"/proc/{made['child']}/cmdline").read_bytes():
                os.kill(made["child"], signal.SIGKILL)
        with contextlib.suppress(lab.LabError):
            lab.end(made["directories"][1])

    def assertNothingIsLeft(self, made):
        self.assertTrue(made["stand"], "the forked child has removed them")
        self.assertEqual(lab.processes(lambda e: e.get("FERMATA_LAB") == made["tag"]), [])
        self.assertTrue(lab.is_gone(made["child"]))
        for path in made["directories"] + [f"/run/netns/{n}" for n in made["namespaces"]]:
            self.assertFalse(os.path.exists(path), path)

    def test_by_ctrl_c_or_sigterm_a_module_leaves_nothing(self):
        for number, repeated in ((signal.SIGINT, 1), (signal.SIGTERM, 1), (signal.SIGINT, 3)):
            with self.subTest(number=number, repeated=repeated):
                process, made = self.begin(sys.executable, "-m", "unittest", "test_waits")
                for _ in range(repeated):
                    process.send_signal(number)
                process.wait(60)
                self.assertNothingIsLeft(made)

    def test_run_side_by_side_ends_when_its_modules_have(self):
        process, made = self.begin(sys.executable, HERE / "run_side_by_side.py", "test_waits")
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(60), 128 + signal.SIGTERM)
        self.assertNothingIsLeft(made)


class Left(unittest.TestCase):
    def test_a_cluster_that_is_left_stays_until_somebody_ends_it(self):
        program = ("from support import CACHE, FERMATA\nfrom lab import Cluster, Guest\n"
                   "c = Cluster(FERMATA, CACHE, [Guest('g', 'a', disk=False)])\n"
                   "c.prepare()\nc.leave()\nprint(c.directory)\n")
        done = subprocess.run([sys.executable, "-c", program], cwd=HERE, capture_output=True, text=True,
                              check=True, env=os.environ | {"FERMATA": FERMATA, "FERMATA_CACHE": str(CACHE)})
        directory = pathlib.Path(done.stdout.strip())
        self.assertTrue((directory / "lab.json").exists())
        lab.end(directory)
        self.assertFalse(directory.exists())


if __name__ == "__main__":
    unittest.main()
