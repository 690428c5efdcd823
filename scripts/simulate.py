#!/usr/bin/python3
"""Runs many seeds of `fermata simulate` in as many processes as asked for, and adds up what they say.

    simulate.py --fermata FILE [--seeds 1..1000] [--profile mixed] [--at-once 2]

What failed seeds say comes when their process has ended. After a crash another process goes on with the seed
after the one that crashed. The last line is the summary, as `fermata simulate` prints it, with `notRun`: seeds
that were asked for and that nobody has run, since a process had enough failures or was killed. The exit code is
the worst of theirs: 3 for a crash, 1 for a broken promise, 2 for something that never ended; 64 for a wrong use.
"""
import argparse
import json
import os
import re
import signal
import subprocess
import sys
import threading

WORST_FIRST = [3, 1, 2]
# Of one process: whoever crashes with every seed need not do so a thousand times.
CRASHES_MAX = 5


def ends(seeds):
    found = re.fullmatch(r"(\d+)\.\.(\d+)", seeds)
    if not found or int(found[1]) > int(found[2]):
        print(f"simulate: --seeds is FIRST..LAST, such as 1..1000; '{seeds}' is not", file=sys.stderr)
        sys.exit(64)
    return int(found[1]), int(found[2])


def parts(first, last, count):
    """(first, last) of `count` pieces, or fewer, that differ by one seed at most."""
    count = min(count, last - first + 1)
    bounds = [first + (last - first + 1) * part // count for part in range(count + 1)]
    return [(a, b - 1) for a, b in zip(bounds, bounds[1:])]


def check(fermata, profile):
    """Ends with what `fermata` says if it does not know the profile: once, not for each process."""
    scenario = f"seed=1 profile={profile} servers=1 hosts=1 guests=1 seconds=1 faults=none commands=none"
    tried = subprocess.run(
        [fermata, "simulate", "--scenario", scenario], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, stdin=subprocess.DEVNULL)
    if tried.returncode == 64:
        reason = re.search(r"There is no profile .*", tried.stderr)
        print(f"simulate: {reason[0] if reason else tried.stderr}", file=sys.stderr)
        sys.exit(64)


def add(total, summary):
    for name, value in summary.items():
        if name.startswith("longest"):
            total[name] = max(total.get(name, 0), value)
        else:
            total[name] = total.get(name, type(value)()) + value


class Part:
    """Seeds that are run one after the other, by one process or, after a crash, by several."""
    total = {}
    lock = threading.Lock()

    def __init__(self, arguments, first, last):
        self.arguments, self.first, self.last = arguments, first, last
        self.codes, self.process = [], None
        self.thread = threading.Thread(target=self.run)
        self.start()
        self.thread.start()

    def start(self):
        self.process = subprocess.Popen(
            [self.arguments.fermata, "simulate", "--seeds", f"{self.first}..{self.last}", "--profile",
             self.arguments.profile, "--shrink"],
            stdout=subprocess.PIPE, text=True, errors="replace", stdin=subprocess.DEVNULL)

    def run(self):
        while True:
            told, summary = [], {}
            for line in self.process.stdout:
                if line.startswith("{"):
                    summary = json.loads(line)
                else:
                    told.append(line)
            self.codes.append(self.process.wait())
            with self.lock:
                add(self.total, summary)
                sys.stdout.write("".join(told))
                sys.stdout.flush()
            crashed = summary.get("crashedSeeds")
            if not crashed or crashed[-1] >= self.last or self.codes.count(3) >= CRASHES_MAX:
                return
            self.first = crashed[-1] + 1
            self.start()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--fermata", required=True)
    parser.add_argument("--seeds", default="1..1000")
    parser.add_argument("--profile", default="mixed")
    parser.add_argument("--at-once", type=int, default=os.cpu_count(), metavar="N")
    arguments = parser.parse_args()
    first, last = ends(arguments.seeds)
    check(arguments.fermata, arguments.profile)
    running = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: stop(running, number))
    for part in parts(first, last, max(1, arguments.at_once)):
        running.append(Part(arguments, *part))
    for part in running:
        part.thread.join()
    total = Part.total
    total["notRun"] = last - first + 1 - total.get("seeds", 0)
    print(json.dumps(total))
    bad = [code for part in running for code in part.codes if code != 0]
    sys.exit(next((code for code in WORST_FIRST if code in bad), bad[0] if bad else 0))


def stop(running, number):
    for part in running:
        part.process.terminate()
    os._exit(128 + number)


if __name__ == "__main__":
    main()
