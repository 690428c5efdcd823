#!/usr/bin/python3
"""`make bench-guard`: what the guard costs, and how soon it acts.

    guard.py --fermata BIN --cache DIR [--count 20]

Memory: of the armed guard of a real step, from /proc/PID/smaps_rollup. Latency: the agent is killed
(SIGKILL) in a hold, in turn with the guest just stopped and with its state moved; counted from just
before the kill to QEMU's RESUME, whose time stands in the guard's notes on the hold's clock.
The last line is JSON. Exits 1 if the private memory is above 8 MiB, a latency above 100 ms, or a guest
did not survive intact.
"""
import argparse
import json
import os
import pathlib
import signal
import statistics
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from lab import Cluster, Guest, LabError, state_of, wait_until  # noqa: E402

PRIVATE_KIBIBYTES_MAX = 8 * 1024
LATENCY_MILLISECONDS_MAX = 100
PHASES = ("stopped", "moved")


def memory_of(pid):
    """Kibibytes by their name in smaps_rollup."""
    lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {name.rstrip(":"): int(size) for name, size, *_ in map(str.split, lines)}
    return {"privateKibibytes": sizes["Private_Clean"] + sizes["Private_Dirty"],
            "privateDirtyKibibytes": sizes["Private_Dirty"], "residentKibibytes": sizes["Rss"]}


def hold_clock():
    """Microseconds on the clock that Fermata measures holds by."""
    read = time.clock_gettime_ns
    suspended = read(time.CLOCK_BOOTTIME) - read(time.CLOCK_MONOTONIC)
    return (read(time.CLOCK_MONOTONIC_RAW) + max(0, suspended)) / 1e3


def resumed_at(cluster):
    """Microseconds on the hold clock, from the guard's notes; None if not there yet."""
    try:
        lines = (cluster.run_directory("a") / "guard.notes").read_text().splitlines()
    except OSError:
        return None
    for fields in (line.split("\t") for line in lines):
        if fields[0] == "resumed":
            return int(fields[3])
    return None


def one(cluster, phase, release):
    """One killed agent; (milliseconds until the guest ran, memory of the guard)."""
    agent = cluster.agents["a"]
    agent.stop()
    agent.start(environment={"FERMATA_TEST_PAUSE_AT": f"{phase}:stop"})
    rollout = cluster.cli_json("rollout", "start", "--release", release)["rollout"]
    wait_until(lambda: state_of(agent.pid) == "T", 60, f"the agent to stop at {phase}", 0.01)
    (guard,) = cluster.guards()
    memory = memory_of(guard)
    began = hold_clock()
    os.kill(agent.pid, signal.SIGKILL)
    at = wait_until(lambda: resumed_at(cluster), 30, "the guard to continue the guest", 0.01)
    agent.wait()
    agent.start()
    wait_until(lambda: cluster.cli_json("rollout", "show", rollout)["finishedAt"], 60,
               f"{rollout} to be over", 0.2)
    wait_until(lambda: cluster.cli_json("status")["runningGuestCount"] == 1, 60,
               "the guest to be known as running", 0.2)
    return (at - began) / 1e3, memory


def bench(options):
    with Cluster(options.fermata, options.cache, [Guest("one", "a", tick=5000)]) as cluster:
        cluster.prepare()
        cluster.start_server()
        cluster.start_notifier()
        cluster.start_agents()
        cluster.wait_guests()
        cluster.add_release("to-new", cluster.new)
        first = cluster.ask("one", "report")
        latencies, memories = [], []
        for number in range(options.count):
            # A hold that the guard ends before the commit leaves the old QEMU: so always `to-new`.
            latency, memory = one(cluster, PHASES[number % 2], "to-new")
            print(f"{number + 1:3}  {PHASES[number % 2]:8} {latency:7.2f} ms   private "
                  f"{memory['privateKibibytes']} KiB", flush=True)
            latencies.append(latency)
            memories.append(memory)
        last = cluster.ask("one", "report")
        intact = last["memoryIntact"] and last["diskOk"] and first["bootId"] == last["bootId"]
        return latencies, memories, intact


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fermata", required=True)
    parser.add_argument("--cache", required=True)
    parser.add_argument("--count", type=int, default=20, help="agents killed")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        latencies, memories, intact = bench(options)
    except LabError as error:
        sys.exit(f"bench-guard: {error}")
    memory = {name: max(m[name] for m in memories) for name in memories[0]}
    problems = []
    if memory["privateKibibytes"] > PRIVATE_KIBIBYTES_MAX:
        problems.append(f"the guard has {memory['privateKibibytes']} KiB of private memory, more "
                        f"than {PRIVATE_KIBIBYTES_MAX}")
    if max(latencies) > LATENCY_MILLISECONDS_MAX:
        problems.append(f"once {max(latencies):.0f} ms passed until the guest ran, more than "
                        f"{LATENCY_MILLISECONDS_MAX}")
    if not intact:
        problems.append("the guest did not survive intact")
    for problem in problems:
        print(f"bench-guard: {problem}", file=sys.stderr)
    print(json.dumps(memory | {
        "latencyMillisecondsMedian": round(statistics.median(latencies), 3),
        "latencyMillisecondsMax": round(max(latencies), 3),
        "latencyMilliseconds": [round(l, 3) for l in latencies],
        "count": len(latencies), "processors": os.cpu_count(), "intact": intact}))
    return sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
