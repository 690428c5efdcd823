#!/usr/bin/python3
"""`make bench-hold`: Fermata's hold against a bare QMP script that does the same hand-over.

    hold.py --fermata BIN --cache DIR [--count 20] [--memory 256] [--fill 0]

One guest belongs to a Fermata cluster (server, agent, guard; each hand-over is a rollout), another of
the same making to the bare script of bare_handover.py. They are handed over in turn, one at a time, to
the other QEMU and back. Compared is what QEMU itself stamps: from STOP on the old to RESUME on the new;
and the longest gap between two ticks that the guest itself has seen around it. With --fill, that much of
the guest's RAM is written before.
The last line is JSON: ratioMedian (of each pair's ratio), holdMillisecondsMedian,
bareMillisecondsMedian, both lists, and the same of the gaps. Exits 1 if a guest did not survive intact,
or if the ratio is above --limit (default 1.5).
"""
import argparse
import json
import math
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from lab import Cluster, Guest, LabError, wait_until  # noqa: E402


class Bare:
    """The bare script in a process of its own, since it moves into a network namespace."""

    def __init__(self, cache, memory, net):
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--worker", cache, str(memory), net],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.read()                             # the guest is up

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise LabError("the bare script ended; its message is above")
        return json.loads(line)

    def ask(self, word):
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return self.read()

    def close(self):
        try:
            self.process.stdin.close()          # ends it, with its guest
            self.process.wait(20)
        except (OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()


def worker(cache, memory, net):
    """The other side of Bare: hands its guest over once for each line it reads."""
    import bare_handover
    # Whoever is interrupted is the parent; the end of its pipe ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    both = bare_handover.installations(f"{cache}/qemu")
    guest = bare_handover.BareGuest(f"{cache}/guest", net, memory, port=17199,
                                    command_line="fermata.tick=5000")
    try:
        print(json.dumps(guest.start(both[0])), flush=True)
        count = 0
        for line in sys.stdin:
            if line.strip() == "hand-over":
                count += 1
                print(json.dumps(guest.hand_over(both[count % 2])), flush=True)
            else:
                print(json.dumps(guest.ask(line.strip())), flush=True)
    finally:
        guest.close()


def our_hand_over(cluster, release):
    """One rollout; the hold's length as Fermata reports it, in ms."""
    rollout = cluster.cli_json("rollout", "start", "--release", release)["rollout"]
    over = wait_until(
        lambda: (lambda r: r if r["finishedAt"] else None)(
            cluster.cli_json("rollout", "show", rollout)), 120, f"{rollout} to be over", 0.2)
    holds = [h for s in over["steps"] for h in s["holds"]]
    if over["state"] != "succeeded" or len(holds) != 1:
        raise LabError(f"{rollout} is {over['state']}: {over['reason']}; {len(holds)} holds")
    return holds[0]["holdMilliseconds"]


def measure(cluster, bare, count, pause):
    """[(ours, bare)] in ms: of the holds, and of the gaps that the guests saw."""
    pairs, gaps = [], []
    for number in range(count):
        # In turn who begins, so that neither always follows the other's wake.
        turns = {"ours": lambda: our_hand_over(cluster, ("to-new", "to-old")[number % 2]),
                 "bare": lambda: bare.ask("hand-over")["eventMilliseconds"]}
        asks = {"ours": lambda line: cluster.ask("ours", line), "bare": bare.ask}
        found, gap = {}, {}
        for who in sorted(turns, reverse=number % 2 == 0):
            time.sleep(pause)                   # lets the guests settle: not waiting for anything
            asks[who]("reset")
            found[who] = turns[who]()
            gap[who] = asks[who]("report")["maxGapMilliseconds"]
        pairs.append((found["ours"], found["bare"]))
        gaps.append((gap["ours"], gap["bare"]))
        print(f"{number + 1:3}  fermata {found['ours']:7.2f} ms   bare {found['bare']:7.2f} ms   "
              f"ratio {found['ours'] / found['bare']:.2f}   guest's gap {gap['ours']:6.1f} and "
              f"{gap['bare']:6.1f} ms", flush=True)
    return pairs, gaps


def percentile(values, part):
    """The smallest value that `part` of all do not exceed."""
    values = sorted(values)
    return values[max(0, math.ceil(part * len(values)) - 1)]


def intact(first, last):
    return last["memoryIntact"] and last["diskOk"] and first["bootId"] == last["bootId"]


def bench(options):
    guest = Guest("ours", "a", memory=options.memory, tick=5000, probe=False)
    with Cluster(options.fermata, options.cache, [guest]) as cluster:
        cluster.prepare()
        cluster.start_server()
        cluster.start_notifier()
        cluster.start_agents()
        cluster.wait_guests()
        cluster.add_release("to-new", cluster.new)
        cluster.add_release("to-old", cluster.old)
        bare = Bare(str(cluster.cache), options.memory, cluster.net)
        try:
            first = cluster.ask("ours", "report"), bare.ask("report")
            if options.fill:
                for ask in (lambda line: cluster.ask("ours", line, 600), bare.ask):
                    ask(f"fill {options.fill}")
            pairs, gaps = measure(cluster, bare, options.count, options.pause)
            last = cluster.ask("ours", "report"), bare.ask("report")
        finally:
            bare.close()
        return pairs, gaps, all(intact(a, b) for a, b in zip(first, last)), cluster.net


def main():
    if sys.argv[1:2] == ["--worker"]:
        return worker(sys.argv[2], int(sys.argv[3]), sys.argv[4])
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fermata", required=True)
    parser.add_argument("--cache", required=True)
    parser.add_argument("--count", type=int, default=20, help="hand-overs of each")
    parser.add_argument("--memory", type=int, default=256, help="MiB")
    parser.add_argument("--fill", type=int, default=0, help="MiB of the guest's RAM to write before")
    parser.add_argument("--pause", type=float, default=1.0, help="seconds before each hand-over")
    parser.add_argument("--limit", type=float, default=1.5, help="highest median ratio that passes")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        pairs, gaps, is_intact, net = bench(options)
    except LabError as error:
        sys.exit(f"bench-hold: {error}")
    ratio = statistics.median(ours / bare for ours, bare in pairs)
    if not is_intact:
        print("bench-hold: a guest did not survive intact", file=sys.stderr)
    if ratio > options.limit:
        print(f"bench-hold: the median ratio {ratio:.2f} is above {options.limit}", file=sys.stderr)
    print(json.dumps({
        "ratioMedian": round(ratio, 3),
        "holdMillisecondsMedian": round(statistics.median(p[0] for p in pairs), 3),
        "bareMillisecondsMedian": round(statistics.median(p[1] for p in pairs), 3),
        "holdMilliseconds": [p[0] for p in pairs],
        "bareMilliseconds": [round(p[1], 3) for p in pairs],
        "guestGapMillisecondsMedian": round(statistics.median(g[0] for g in gaps), 3),
        "bareGapMillisecondsMedian": round(statistics.median(g[1] for g in gaps), 3),
        "guestGapMillisecondsP99": round(percentile([g[0] for g in gaps], 0.99), 3),
        "bareGapMillisecondsP99": round(percentile([g[1] for g in gaps], 0.99), 3),
        "count": len(pairs), "fillMebibytes": options.fill, "memoryMebibytes": options.memory, "network": net,
        "processors": os.cpu_count(), "intact": is_intact}))
    return sys.exit(0 if is_intact and ratio <= options.limit else 1)


if __name__ == "__main__":
    main()
