"""A host that is suspended in a hold, and a wall clock that is stepped in one.

A suspend is what makes CLOCK_BOOTTIME run ahead of CLOCK_MONOTONIC. This machine can neither be suspended
nor have its clock set: a shim in the agent, its guard and the new QEMU adds seconds to the one clock or the
other while they run.
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
#include <sys/time.h>
#include <time.h>

static int (*real)(clockid_t, struct timespec *);
static volatile const long long *seconds;       /* of CLOCK_BOOTTIME, of CLOCK_REALTIME */

int clock_gettime(clockid_t clock, struct timespec *time) {
    if (!real) {
        const char *path = getenv("TEST_CLOCKS");
        int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
        void *page = file < 0 ? MAP_FAILED : mmap(0, 16, PROT_READ, MAP_SHARED, file, 0);
        if (page != MAP_FAILED) seconds = page;
        *(void **)&real = dlsym(RTLD_NEXT, "clock_gettime");
    }
    int result = real(clock, time);
    if (clock == CLOCK_BOOTTIME && seconds) time->tv_sec += seconds[0];
    if (clock == CLOCK_REALTIME && seconds) time->tv_sec += seconds[1];
    return result;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    struct timespec now;
    int result = clock_gettime(CLOCK_REALTIME, &now);
    (void)zone;
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return result;
}
"""


class Clocks(FaultCase):
    suspended_milliseconds = 60_000

    def setUp(self):
        super().setUp()
        directory = tempfile.TemporaryDirectory(prefix="fm-suspend-", dir="/tmp")
        self.addCleanup(directory.cleanup)
        self.seconds = pathlib.Path(directory.name, "seconds")
        self.seconds.write_bytes(struct.pack("qq", 0, 0))
        shim = pathlib.Path(directory.name, "shim.so")
        subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", shim, "-x", "c", "-", "-ldl"],
                       input=SHIM, text=True, check=True)
        self.environment = {"LD_PRELOAD": str(shim), "TEST_CLOCKS": str(self.seconds)}
        self.addCleanup(self.restart_plainly)

    def restart_plainly(self):
        if self.agent.is_running:
            self.go_on()
        self.restart_agent(HOST)

    def suspend(self, seconds):
        """As if the host had just woken after so long."""
        self.write(seconds, 0)

    def write(self, suspended, stepped):
        with open(self.seconds, "r+b") as file:
            file.write(struct.pack("qq", suspended, stepped))

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
        # The guard may have been first, and has ended the agent then.
        if not self.agent.is_running:
            self.agent.start(environment=self.environment)
        hold = self.ended(rollout, "failed")
        self.assertIn(hold["resumedBy"], ("agent", "guard"))

    def test_wall_clock_stepped_by_an_hour_changes_no_hold(self):
        # The new QEMU has the shim from its first moment, the old one is of a hand-over before.
        shimmed = self.cluster.directory / "shimmed-qemu"
        lines = "".join(f"export {key}='{value}'\n" for key, value in self.environment.items())
        shimmed.write_text(f"#!/bin/sh\n{lines}exec {self.cluster.old['path']} \"$@\"\n")
        shimmed.chmod(0o755)
        digest = self.cluster.run("sha256sum", shimmed).split()[0]
        for number, seconds in enumerate((3600, -3600)):
            for name in (f"before-{number}", f"step-{number}"):
                self.cluster.add_release(f"{name}-{os.getpid()}", self.cluster.old, version=name,
                                         path=str(shimmed), sha256=digest)
            self.write(0, 0)
            self.restart_agent(HOST, **self.environment)
            self.assertEqual(self.roll(f"before-{number}-{os.getpid()}", HOST)["state"], "succeeded")
            for phase in ("stopped", "moved"):
                with self.subTest(f"{seconds} s at {phase}"):
                    self.write(0, 0)
                    self.restart_agent(HOST, FERMATA_TEST_PAUSE_AT=f"{phase}:stop",
                                       **self.environment)
                    current = self.versions()[GUEST]
                    release = f"before-{number}" if current == f"step-{number}" \
                        else f"step-{number}"
                    rollout = self.start(f"{release}-{os.getpid()}", HOST, deadline="20s")
                    self.wait_stopped(phase)
                    self.write(0, seconds)
                    self.go_on()
                    hold = self.ended(rollout, "succeeded")
                    self.assertEqual(hold["resumedBy"], "agent")
                    self.assertGreaterEqual(hold["holdMilliseconds"], 0)
                    self.assertLess(hold["holdMilliseconds"], 20_000)
        self.write(0, 0)
        self.restart_plainly()
        self.assertEqual(self.roll("to-old", HOST)["state"], "succeeded")


if __name__ == "__main__":
    unittest.main()
