"""The agent replaces its own program: it goes on as the new one, or the old one comes back. This test is
the supervisor that starts an agent again when it has ended."""
import os
import pathlib
import shutil
import signal
import time
import unittest

from cluster_case import ClusterCase  # first: it sets the path for the others

from lab import Daemon


class AgentUpgrade(ClusterCase):
    """Host c's agent runs from a copy of the program, so that it may be replaced."""

    def setUp(self):
        super().setUp()
        self.directory = self.cluster.directory / "programs"
        self.directory.mkdir(exist_ok=True)
        self.program = self.directory / "fermata"
        shutil.copy2(self.cluster.fermata, self.program)
        self.before = self.cluster.agents["c"]
        self.before.stop()
        self.agent = Daemon(self.cluster, "agent-c", [self.program] + self.before.arguments[1:],
                            self.before.ready_text, self.before.namespace)
        self.agent.start()
        self.cluster.agents["c"] = self.agent
        self.wait_connected("c")
        self.addCleanup(self.back)

    def back(self):
        self.agent.stop()
        self.cluster.agents["c"] = self.before
        self.before.start()
        self.wait_connected("c")

    def release(self, content, *, mode=0o755):
        name = f"agent-{int(time.monotonic() * 1e6)}"
        path = self.directory / name
        path.write_bytes(content)
        path.chmod(mode)
        self.cluster.cli_json("release", "add", name, "--component", "agent", "--version", name,
                              "--path", path)
        return name

    def running(self):
        return pathlib.Path(f"/proc/{self.agent.pid}/exe").read_bytes()

    def supervised(self, rollout, seconds=120):
        """Starts the agent whenever it has ended, until the rollout is over."""
        def look():
            if not self.agent.is_running:
                self.agent.start(wait=False)
            found = self.show(rollout)
            return found if found["finishedAt"] else None
        (step,) = self.wait(look, seconds, "the rollout to be over")["steps"]
        return step

    def test_the_new_program_goes_on_under_the_same_pid(self):
        new = self.program.read_bytes() + b"another one"
        name = self.release(new)
        pid = self.agent.pid
        step = self.supervised(self.start(name, "c"))
        self.assertEqual((step["outcome"], step["holds"]), ("succeeded", []), step)
        self.assertEqual(self.agent.pid, pid)
        self.assertEqual(self.running(), new)
        self.wait_connected("c")
        (host,) = [h for h in self.cluster.cli_json("hosts") if h["id"] == "c"]
        self.assertIn({"component": "agent", "version": name}, host["software"])
        self.assertEqual(self.cluster.cli_json("plan", "--release", name, "--host", "c")["steps"], [])
        # It still does what an agent is for.
        done = self.roll(self.next_release("db-2"), "c")
        self.assertEqual(done["state"], "succeeded", done)

    def test_a_program_that_cannot_say_its_version_is_not_taken(self):
        old = self.running()
        step = self.supervised(self.start(self.release(b"#!/bin/sh\nexit 9\n"), "c"))
        self.assertEqual(step["outcome"], "failed", step)
        self.assertIn("--version", step["reason"])
        self.assertEqual(self.running(), old)

    def test_a_program_that_ends_at_once_is_taken_back(self):
        old = self.running()
        name = self.release(b"#!/bin/sh\ncase \"$*\" in *--version*|*--check*) exit 0;; esac\nexit 9\n")
        step = self.supervised(self.start(name, "c"))
        self.assertEqual(step["outcome"], "failed", step)
        self.assertIn("did not come up", step["reason"])
        self.assertEqual(self.running(), old)
        self.assertEqual(self.program.read_bytes(), old)

    def test_it_dies_right_before_it_becomes_the_new_one(self):
        old = self.running()
        self.agent.stop()
        self.agent.start(environment=dict(FERMATA_TEST_PAUSE_AT="replaced"))
        self.wait_connected("c")
        step = self.supervised(self.start(self.release(old + b"another one"), "c"))
        self.assertEqual(step["outcome"], "failed", step)
        self.assertEqual(self.running(), old)
        self.assertEqual(self.program.read_bytes(), old)

    def test_a_program_that_the_kernel_refuses_leaves_the_old_one_alive(self):
        old = self.running()
        self.agent.stop()
        self.agent.start(environment=dict(FERMATA_TEST_PAUSE_AT="replaced:stop"))
        self.wait_connected("c")
        pid = self.agent.pid
        rollout = self.start(self.release(old + b"another one"), "c")
        state = lambda: pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        self.wait(lambda: state() == "T", 60, "the program to be replaced")
        self.program.chmod(0o644)
        os.kill(pid, signal.SIGCONT)
        (step,) = self.finish(rollout)["steps"]
        self.assertEqual(step["outcome"], "failed", step)
        time.sleep(2)                    # the watcher had killed it by then
        self.assertTrue(self.agent.is_running)
        self.assertEqual(self.agent.pid, pid)
        self.assertEqual(self.program.read_bytes(), old)

    def test_it_dies_before_it_replaces_itself_by_what_it_is(self):
        """An agent that was never replaced has nothing to go back to, also not what was left long ago."""
        for leftover in (None, b"an old program"):
            previous = self.program.with_name("fermata.previous")
            previous.unlink(missing_ok=True)
            if leftover:
                previous.write_bytes(leftover)
            self.agent.stop()
            self.agent.start(environment=dict(FERMATA_TEST_PAUSE_AT="accepted"))
            self.wait_connected("c")
            old = self.running()
            step = self.supervised(self.start(self.release(old), "c"), 60)
            self.assertEqual(step["outcome"], "failed", step)
            self.assertIn("before the exec", step["reason"])
            self.assertEqual(self.program.read_bytes(), old)


if __name__ == "__main__":
    unittest.main()
