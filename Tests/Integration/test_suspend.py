"""A host that is suspended in a hold: guard and agent know it as soon as it wakes.

A suspend is what makes CLOCK_BOOTTIME run ahead of CLOCK_MONOTONIC, and this machine cannot be
suspended: a shim in the agent and its guard adds seconds to the one clock while they run.
"""
import os
import pathlib
import signal
import struct
import subprocess
import tempfile
import time
import unittest

from fault_case import GUEST, HOST, FaultCase

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

int clock_gettime(clockid_t clock, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    static volatile const long long *seconds;
    if (!real) {
        const char *path = getenv("TEST_SUSPENDED_SECONDS");
        int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
        void *page = file < 0 ? MAP_FAILED : mmap(0, 8, PROT_READ, MAP_SHARED, file, 0);
        if (page != MAP_FAILED) seconds = page;
        *(void **)&real = dlsym(RTLD_NEXT, "clock_gettime");
    }
    int result = real(clock, time);
    if (clock == CLOCK_BOOTTIME && seconds) time->tv_sec += *seconds;
    return result;
}
"""


class Suspended(FaultCase):
    def setUp(self):
        super().setUp()
        directory = tempfile.TemporaryDirectory(prefix="fm-suspend-", dir="/tmp")
        self.addCleanup(directory.cleanup)
        self.seconds = pathlib.Path(directory.name, "seconds")
        self.seconds.write_bytes(struct.pack("q", 0))
        shim = pathlib.Path(directory.name, "shim.so")
        subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", shim, "-x", "c", "-", "-ldl"],
                       input=SHIM, text=True, check=True)
        self.environment = {"LD_PRELOAD": str(shim), "TEST_SUSPENDED_SECONDS": str(self.seconds)}
        self.addCleanup(self.restart_plainly)

    def restart_plainly(self):
        if self.agent.is_running:
            self.go_on()
        self.restart_agent(HOST)

    def suspend(self, seconds):
        """As if the host had just woken after so long."""
        with open(self.seconds, "r+b") as file:
            file.write(struct.pack("q", seconds))

    def test_guard_continues_at_once_when_the_deadline_passed_in_the_suspend(self):
        self.restart_agent(HOST, FERMATA_TEST_PAUSE_AT="moved:stop", **self.environment)
        rollout = self.start(self.next_release(GUEST), HOST, deadline="30s")
        self.wait_stopped("moved")
        woken = time.monotonic()
        self.suspend(60)
        # The agent still stands: it is the guard that looks at the hold clock.
        self.wait(lambda: not self.agent.is_running, 20, "the guard to end the agent")
        self.assertRuns(GUEST)
        self.assertLess(time.monotonic() - woken, 20, "far from the 30 s that would be left")
        self.agent.start(environment=self.environment)
        hold = self.ended(rollout, "failed", "the agent ended during the hold")
        self.assertEqual(hold["resumedBy"], "guard")

    def test_agent_takes_the_hold_back_when_the_deadline_passed_in_the_suspend(self):
        """The new QEMU stands still, so the move cannot end; the agent would wait its 30 s."""
        self.restart_agent(HOST, FERMATA_TEST_PAUSE_AT="armed:stop", **self.environment)
        rollout = self.start(self.next_release(GUEST), HOST, deadline="30s")
        self.wait_stopped("armed")
        os.kill(self.pair()[1], signal.SIGSTOP)
        self.go_on()
        self.wait(lambda: [g["state"] for g in self.cluster.cli_json("guests")
                           if g["id"] == GUEST] == ["held"], 20, "the hold")
        woken = time.monotonic()
        self.suspend(26)
        self.assertRuns(GUEST)
        self.assertLess(time.monotonic() - woken, 20)
        hold = self.ended(rollout, "failed")
        self.assertIn(hold["resumedBy"], ("agent", "guard"))


if __name__ == "__main__":
    unittest.main()
