#!/usr/bin/python3
"""`make bench-hold`: Fermata's hold against a bare QMP script that does the same hand-over.

    hold.py --fermata BIN --cache DIR [--count 100] [--memory 256] [--fill 0] [--large MIB]

One guest belongs to a Fermata cluster (server, agent, guard; each hand-over is a rollout), another of
the same making to the bare script of bare_handover.py. They are handed over in turn, one at a time, to
the other QEMU and back. Compared is what QEMU itself stamps: from STOP on the old to RESUME on the new;
and the longest gap between two ticks that the guest itself has seen around it. With --fill, that much of
the guest's RAM is written before. With --large, the same is done afterwards with guests that have
written so much, and a fifth as often.
The last line is JSON: ratio (of the medians), gapRatioP99 (of the guests' gaps), growth (of our median
with --large), and all that was measured. Exits 1 if a guest did not survive intact, if ratio is above
--limit (1.2), gapRatioP99 above --gap-limit (2), or growth above --growth-limit (1.5).
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


def bench(options, memory, fill, count):
    guest = Guest("ours", "a", memory=memory, tick=5000, probe=False)
    with Cluster(options.fermata, options.cache, [guest]) as cluster:
        cluster.prepare()
        cluster.start_server()
        cluster.start_notifier()
        cluster.start_agents()
        cluster.wait_guests()
        cluster.add_release("to-new", cluster.new)
        cluster.add_release("to-old", cluster.old)
        bare = Bare(str(cluster.cache), memory, cluster.net)
        try:
            first = cluster.ask("ours", "report"), bare.ask("report")
            if fill:
                for ask in (lambda line: cluster.ask("ours", line, 600), bare.ask):
                    ask(f"fill {fill}")
            pairs, gaps = measure(cluster, bare, count, options.pause)
            last = cluster.ask("ours", "report"), bare.ask("report")
        finally:
            bare.close()
        return summary(pairs, gaps) | {
            "memoryMebibytes": memory, "fillMebibytes": fill, "network": cluster.net,
            "intact": all(intact(a, b) for a, b in zip(first, last))}


def summary(pairs, gaps):
    """Of (ours, bare) in ms."""
    ours, bare = [p[0] for p in pairs], [p[1] for p in pairs]
    our_gaps, bare_gaps = [g[0] for g in gaps], [g[1] for g in gaps]
    found = {"count": len(pairs)}
    for name, values in (("hold", ours), ("bare", bare), ("guestGap", our_gaps), ("bareGap", bare_gaps)):
        found[f"{name}MillisecondsMedian"] = round(statistics.median(values), 3)
        found[f"{name}MillisecondsP99"] = round(percentile(values, 0.99), 3)
        found[f"{name}Milliseconds"] = [round(value, 3) for value in values]
    return found | {
        "ratio": round(statistics.median(ours) / statistics.median(bare), 3),
        "ratioOfPairsMedian": round(statistics.median(o / b for o, b in pairs), 3),
        "gapRatioP99": round(percentile(our_gaps, 0.99) / percentile(bare_gaps, 0.99), 3)}


def main():
    if sys.argv[1:2] == ["--worker"]:
        return worker(sys.argv[2], int(sys.argv[3]), sys.argv[4])
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fermata", required=True)
    parser.add_argument("--cache", required=True)
    parser.add_argument("--count", type=int, default=100, help="hand-overs of each")
    parser.add_argument("--memory", type=int, default=256, help="MiB")
    parser.add_argument("--fill", type=int, default=0, help="MiB of the guest's RAM to write before")
    parser.add_argument("--large", type=int, default=0, help="MiB to write in guests that have an eighth more")
    parser.add_argument("--pause", type=float, default=1.0, help="seconds before each hand-over")
    parser.add_argument("--limit", type=float, default=1.2, help="highest ratio of medians that passes")
    parser.add_argument("--gap-limit", type=float, default=2, help="highest ratio of the gaps' p99")
    parser.add_argument("--growth-limit", type=float, default=1.5, help="highest growth with --large")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        found = bench(options, options.memory, options.fill, options.count)
        large = bench(options, options.large * 9 // 8, options.large, max(options.count // 5, 5)) \
            if options.large else None
    except LabError as error:
        sys.exit(f"bench-hold: {error}")
    problems = [] if found["intact"] and (not large or large["intact"]) \
        else ["a guest did not survive intact"]
    limits = [("ratio", options.limit), ("gapRatioP99", options.gap_limit)]
    if large:
        found["growth"] = round(large["holdMillisecondsMedian"] / found["holdMillisecondsMedian"], 3)
        limits.append(("growth", options.growth_limit))
    problems += [f"{name} is {found[name]}, above {limit}" for name, limit in limits
                 if found[name] > limit]
    for problem in problems:
        print(f"bench-hold: {problem}", file=sys.stderr)
    print(json.dumps(found | {"large": large, "processors": os.cpu_count()}))
    return sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
