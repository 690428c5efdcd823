#!/usr/bin/python3
"""Runs the integration tests, several modules at a time: most of their time is spent waiting.

    run_side_by_side.py [--at-once N] [MODULE…]     (default: all of this directory, two at a time)

A module's output comes when it has ended. The last lines are those of unittest, over all modules, so
that whoever counts tests reads one result: `Ran N tests in S s`, then `OK` or `FAILED (…)`.
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

# Seconds on an idle machine, of those that take long: they begin first. What they have to wait for by
# the clock makes most of it.
LONG = collections.defaultdict(lambda: 5, {
    "test_ha_leader": 180, "test_ha_store": 170, "test_faults_processes": 110, "test_faults_restart": 80,
    "test_agent_dies": 90, "test_host_components": 90, "test_examples": 80, "test_adoption": 75,
    "test_preflight": 60, "test_faults_monitor": 60, "test_faults_guest_agent": 60,
    "test_rollout": 60, "test_health": 50, "test_faults_resources": 50, "test_systemd": 40, "test_notifier_dies": 45,
    "test_clocks_of_host": 30, "test_hostile_tls": 30, "test_bad_qemu": 30,
})


def run(module):
    """(module, its output, its exit code, seconds)"""
    started = time.monotonic()
    done = subprocess.Popen(
        [sys.executable, "-m", "unittest", "-v", module], cwd=HERE, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    running.add(done)
    output, _ = done.communicate()
    running.discard(done)
    return module, output, done.returncode, time.monotonic() - started


running = set()


def stop(number, _):
    """Each module cleans up after an interrupt."""
    for process in list(running):
        process.send_signal(signal.SIGINT)
    sys.exit(128 + number)


def counts(output):
    """ran, failures, errors, skipped of one module"""
    ran = re.findall(r"^Ran (\d+) tests? in", output, re.M)
    last = re.findall(r"^(?:OK|FAILED)(?: \((.*)\))?$", output, re.M)
    words = dict(re.findall(r"(failures|errors|skipped)=(\d+)", last[-1])) if last else {}
    return (int(ran[-1]) if ran else 0,
            *(int(words.get(name, 0)) for name in ("failures", "errors", "skipped")))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--at-once", type=int, default=2, metavar="N")
    parser.add_argument("modules", nargs="*", metavar="MODULE")
    arguments = parser.parse_args()
    modules = arguments.modules or [p.stem for p in HERE.glob("test_*.py")]
    modules.sort(key=lambda m: (-LONG[m], m))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    started = time.monotonic()
    total = [0, 0, 0, 0]
    with concurrent.futures.ThreadPoolExecutor(arguments.at_once) as pool:
        for done in concurrent.futures.as_completed([pool.submit(run, m) for m in modules]):
            module, output, code, seconds = done.result()
            print(f"---- {module}: {seconds:.0f} s\n{output}", flush=True)
            found = list(counts(output))
            # A module that could not be run at all, or was killed, is one error.
            if code != 0 and not found[1] and not found[2]:
                found[2] = 1
            total = [a + b for a, b in zip(total, found)]
    ran, failures, errors, skipped = total
    print(f"Ran {ran} tests in {time.monotonic() - started:.3f}s\n")
    words = [f"{name}={count}" for name, count in
             (("failures", failures), ("errors", errors), ("skipped", skipped)) if count]
    note = f" ({', '.join(words)})" if words else ""
    print(("FAILED" if failures or errors else "OK") + note)
    return 1 if failures or errors else 0


if __name__ == "__main__":
    sys.exit(main())
