#!/usr/bin/python3
"""Runs many seeds of `fermata simulate` in as many processes as asked for, and adds up what they say.

    simulate.py --fermata FILE [--seeds 1..1000] [--profile mixed] [--at-once 2]

What failed seeds say comes when their process has ended. The last line is the summary, as
`fermata simulate` prints it. The exit code is the worst of theirs: 3 for a crash, 1 for a broken promise,
2 for something that never ended; 64 for a wrong use.
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


def parts(seeds, count):
    """FIRST..LAST in `count` pieces, or fewer, that differ by one seed at most."""
    found = re.fullmatch(r"(\d+)\.\.(\d+)", seeds)
    if not found or int(found[1]) > int(found[2]):
        print(f"simulate: --seeds is FIRST..LAST, such as 1..1000; '{seeds}' is not", file=sys.stderr)
        sys.exit(64)
    first, last = int(found[1]), int(found[2])
    count = min(count, last - first + 1)
    ends = [first + (last - first + 1) * part // count for part in range(count + 1)]
    return [f"{a}..{b - 1}" for a, b in zip(ends, ends[1:])]


def add(total, summary):
    for name, value in summary.items():
        if name.startswith("longest"):
            total[name] = max(total.get(name, 0), value)
        else:
            total[name] = total.get(name, type(value)()) + value


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--fermata", required=True)
    parser.add_argument("--seeds", default="1..1000")
    parser.add_argument("--profile", default="mixed")
    parser.add_argument("--at-once", type=int, default=os.cpu_count(), metavar="N")
    arguments = parser.parse_args()
    running = [
        subprocess.Popen(
            [arguments.fermata, "simulate", "--seeds", part, "--profile", arguments.profile,
             "--shrink"],
            stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL)
        for part in parts(arguments.seeds, max(1, arguments.at_once))]
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: stop(running, number))
    total, lock = {}, threading.Lock()

    def follow(process):
        told = []
        for line in process.stdout:
            if line.startswith("{"):
                with lock:
                    add(total, json.loads(line))
                continue
            told.append(line)
        with lock:
            sys.stdout.write("".join(told))
            sys.stdout.flush()

    threads = [threading.Thread(target=follow, args=(process,)) for process in running]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    codes = [process.wait() for process in running]
    print(json.dumps(total))
    bad = [code for code in codes if code != 0]
    sys.exit(next((code for code in WORST_FIRST if code in bad), bad[0] if bad else 0))


def stop(running, number):
    for process in running:
        process.terminate()
    os._exit(128 + number)


if __name__ == "__main__":
    main()
