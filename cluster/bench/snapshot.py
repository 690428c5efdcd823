#!/usr/bin/python3
"""`make bench-snapshot`: a snapshot of a large state, written beside commits, and loading it.

    snapshot.py --bench BIN [--hosts 100000] [--guests 10]

A log with HOSTS hosts of GUESTS guests each (in sets of five), and a rollout with a step for each guest, is made in
a directory of its own. A second process loads it, commits reports of hosts one after the other, and goes on while a
snapshot is written:

- longestStallMilliseconds: the longest time in which a timer of 1 ms on the loop did not fire. A commit is part of it, so
  there is a figure for the time before the snapshot too.
- longestEncodeMilliseconds: the longest single call that makes a chunk.
- …CpuMilliseconds: the same in CPU time, which does not grow when others use the cores.
- loadMilliseconds: from the first look at the file until the term is durable.

The last line is JSON. Exits 1 if the loop stalled for more than 50 ms while the snapshot was written, or loading took
more than 10 s, or a chunk is longer than 256 KiB.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

STALL_MILLISECONDS_MAX = 50
LOAD_MILLISECONDS_MAX = 10_000
CHUNK_BYTES_MAX = 256 * 1024


def run(*words):
    done = subprocess.run([str(word) for word in words], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"bench-snapshot: {words[0]} {words[1]} ended with {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def rounded(value):
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    return round(value, 3) if isinstance(value, float) else value


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bench", required=True)
    parser.add_argument("--hosts", type=int, default=100_000)
    parser.add_argument("--guests", type=int, default=10, help="of each host")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        made = run(options.bench, "make", directory, options.hosts, options.guests)
        print(f"made: {made['hosts']} hosts, {made['guests']} guests, {made['steps']} steps",
              flush=True)
        figures = run(options.bench, "run", directory)
    during = figures["during"]
    problems = []
    if during["longestStallMilliseconds"] > STALL_MILLISECONDS_MAX:
        problems.append(f"the loop stood still for {during['longestStallMilliseconds']:.0f} ms, "
                        f"more than {STALL_MILLISECONDS_MAX}")
    if figures["loadMilliseconds"] > LOAD_MILLISECONDS_MAX:
        problems.append(f"loading took {figures['loadMilliseconds'] / 1000:.1f} s, more than "
                        f"{LOAD_MILLISECONDS_MAX / 1000:.0f}")
    if figures["longestChunkBytes"] > CHUNK_BYTES_MAX:
        problems.append(f"a chunk has {figures['longestChunkBytes']} bytes")
    for problem in problems:
        print(f"bench-snapshot: {problem}", file=sys.stderr)
    print(json.dumps(rounded({"made": made, **figures, "processors": os.cpu_count()})))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
