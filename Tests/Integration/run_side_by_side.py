#!/usr/bin/python3
"""Runs the integration tests, several modules at a time: most of their time is spent waiting.

    run_side_by_side.py [--at-once N] [MODULE…]     (default: all of this directory, two at a time)

A module's output comes when it has ended. A module that failed is run once more when all the others
are done, with nothing beside it: up to AGAIN_MAX of them. If it passes then, the computer was too busy
for it (a hold lasts 30 s by the clock, whatever else runs), which is said, with what failed, at the
end.

Interrupted (SIGINT, SIGTERM), it interrupts the modules and ends when they have: they clean up.

The end repeats every failure, since a log may be cut in the middle. The last lines are those of
unittest, over all modules, so that whoever counts tests reads one result: `Ran N tests in S s`, then
`OK` or `FAILED (…)`.
"""
import argparse
import collections
import concurrent.futures
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent

# More than this, and it is not the load.
AGAIN_MAX = 3

# Seconds on an idle machine, of those that take long: they begin first. What they have to wait for by
# the clock makes most of it.
LONG = collections.defaultdict(lambda: 5, {
    "test_ha_leader": 180, "test_ha_store": 170, "test_faults_processes": 110, "test_faults_restart": 80,
    "test_agent_dies": 90, "test_host_components": 90, "test_examples": 150, "test_adoption": 75,
    "test_preflight": 60, "test_faults_monitor": 60, "test_faults_guest_agent": 60,
    "test_rollout": 60, "test_health": 50, "test_faults_resources": 50, "test_systemd": 40,
    "test_notifier_dies": 45, "test_notifiers": 95,
    "test_clocks_of_host": 30, "test_hostile_tls": 30, "test_bad_qemu": 30,
})


def run(module):
    """(module, its output, its exit code, seconds)"""
    started = time.monotonic()
    done = subprocess.Popen(
        [sys.executable, "-m", "unittest", "-v", module], cwd=HERE, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    running.add(done)
    if stopped:
        done.send_signal(signal.SIGINT)
    try:
        output, _ = done.communicate()
    finally:
        # Interrupted in here (`again` runs in the main thread), it is still waited for.
        if not done.stdout.closed:
            done.stdout.read()
        done.wait()
    running.discard(done)
    return module, output, done.returncode, time.monotonic() - started


running, stopped = set(), []


def counts(output):
    """ran, failures, errors, skipped of one module"""
    ran = re.findall(r"^Ran (\d+) tests? in", output, re.M)
    last = re.findall(r"^(?:OK|FAILED)(?: \((.*)\))?$", output, re.M)
    words = dict(re.findall(r"(failures|errors|skipped)=(\d+)", last[-1])) if last else {}
    return (int(ran[-1]) if ran else 0,
            *(int(words.get(name, 0)) for name in ("failures", "errors", "skipped")))


def failures_of(output):
    """What unittest says of each test that failed."""
    rule = "=" * 70
    return "".join(f"{rule}\n{part}" for part in output.split(rule + "\n")[1:])


class Total:
    """ran, failures, errors, skipped, over all modules; and what failed."""

    def __init__(self):
        self.counts, self.failed, self.words = [0, 0, 0, 0], {}, {}

    def take(self, module, output, code, seconds):
        """A module has ended. If it had been run before, only this counts."""
        print(f"---- {module}: {seconds:.0f} s\n{output}", flush=True)
        found = list(counts(output))
        # A module that could not be run at all, or was killed, is one error.
        if code != 0 and not found[1] and not found[2]:
            found[2] = 1
        before = self.failed.pop(module, [0, 0, 0, 0])
        self.counts = [a + b - c for a, b, c in zip(self.counts, found, before)]
        if found[1] or found[2]:
            self.failed[module] = found
            self.words[module] = failures_of(output) or output
        return not (found[1] or found[2])

    def again(self):
        """Those that failed, alone."""
        modules = list(self.failed)
        if len(modules) > AGAIN_MAX:
            return
        for module in modules:
            print(f"---- {module}: again, alone", flush=True)
            if self.take(*run(module)):
                print(f"run_side_by_side: {module} passed only when run alone", flush=True)

    def say(self, seconds):
        """The last lines."""
        for module, words in self.words.items():
            how = "failed" if module in self.failed else "failed, and passed when run again alone"
            print(f"---- {module} {how}:\n{words}")
        ran, failures, errors, skipped = self.counts
        print(f"Ran {ran} tests in {seconds:.3f}s\n")
        words = [f"{name}={count}" for name, count in
                 (("failures", failures), ("errors", errors), ("skipped", skipped)) if count]
        note = f" ({', '.join(words)})" if words else ""
        print(("FAILED" if self.failed else "OK") + note, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--at-once", type=int, default=2, metavar="N")
    parser.add_argument("modules", nargs="*", metavar="MODULE")
    arguments = parser.parse_args()
    modules = arguments.modules or [p.stem for p in HERE.glob("test_*.py")]
    modules.sort(key=lambda m: (-LONG[m], m))
    pool = concurrent.futures.ThreadPoolExecutor(arguments.at_once)

    def stop(number, _):
        """No other module begins; those that run clean up after an interrupt."""
        stopped.append(number)
        pool.shutdown(wait=False, cancel_futures=True)
        for process in list(running):
            process.send_signal(signal.SIGINT)
        sys.exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    started = time.monotonic()
    total = Total()
    with pool:
        for done in concurrent.futures.as_completed([pool.submit(run, m) for m in modules]):
            total.take(*done.result())
    total.again()
    total.say(time.monotonic() - started)
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main())
