#!/usr/bin/python3
"""`make bench-takeover`: from the death of the leader to the next directive that an agent accepts.

    takeover.py --fermata BIN --bench BIN --cache DIR [--kills 100] [--hosts 16] [--holds 10] [--seed S]

Three servers and three etcd members, each in a network namespace of its own. HOSTS scripted hosts
(hosts-bench: real sessions, no guests) always have a rollout, whose steps take 200 ms, so that directives
go out all the time, one in about 15 ms. The leader is killed (kill -9) at a random moment, KILLS times; counted is the time
until an agent accepts a directive that it has not had before, from the new leader. Then the dead one is
started again, and the next moment is drawn once both standbys have watched the new leader for a second.

A real guest on a real host shows what is added to a hold: HOLDS holds with the leader killed in the
middle, and as many without, in turn. A hold is the agent's own work, so the difference has to be noise.

The last line is JSON. Exits 1 if the 99th percentile is above 1 s, a hold did not succeed, or the median
hold with a kill is more than 20 ms longer than the longest without.
"""
import argparse
import json
import os
import pathlib
import random
import signal
import statistics
import sys
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from ha_lab import HACluster  # noqa: E402
from lab import Guest, LabError, wait_until  # noqa: E402
from locks import QUOTA_BYTES, Hosts  # noqa: E402

P99_MILLISECONDS_MAX = 1000
ADDED_MILLISECONDS_MAX = 20
APPLY = "0.6"
STEP_MILLISECONDS = 200
GUESTS = 32


class Accepted:
    """Reads what hosts-bench says, for ever: when each directive was accepted, and in which term."""

    def __init__(self, hosts):
        self.hosts, self.newest, self.lock = hosts, {}, threading.Condition()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        for line in self.hosts.process.stdout:
            words = line.split()
            if words[:1] == ["accepted"]:
                with self.lock:
                    # Of each term the first one.
                    self.newest.setdefault(int(words[2]), int(words[1]))
                    self.lock.notify_all()

    def first_after(self, term, seconds):
        """When the first directive of a term above this one was accepted, in seconds."""
        with self.lock:
            if not self.lock.wait_for(lambda: max(self.newest, default=0) > term, seconds):
                raise LabError(f"no directive was accepted within {seconds} s after term {term}")
            return min(at for t, at in self.newest.items() if t > term) / 1e6


def standbys_of(server, term):
    """How many sessions of other servers it has got since it led in this term."""
    with open(server.err, errors="replace") as file:
        text = file.read().rpartition(f"term={term} [LeaderShell] leading")[2]
    return len({l.split("/server/")[1].split()[0] for l in text.splitlines()
                if "/server/" in l and "session open" in l})


def takeovers(cluster, bench, options, chance):
    """Milliseconds from each kill to the next accepted directive."""
    found = []
    with Hosts(cluster, bench, options.hosts, GUESTS, STEP_MILLISECONDS, "guest") as hosts:
        hosts.wait_ready()
        accepted = Accepted(hosts)
        for number in range(options.kills):
            leader = cluster.leader()
            term = cluster.servers[leader].terms()[-1]
            accepted.first_after(term - 1, 20)
            # Until the others have stood by for a second: of a leader that dies sooner they wait for
            # the silence, see Succession.
            wait_until(lambda s=cluster.servers[leader], t=term: standbys_of(s, t) >= 2, 20,
                       "both standbys to watch the leader", 0.02)
            time.sleep(1 + chance.uniform(0, 1))
            began = time.monotonic()
            cluster.servers[leader].kill()
            found.append((accepted.first_after(term, 60) - began) * 1000)
            cluster.servers[leader].start()
            print(f"{number + 1:3}: {leader} killed, {found[-1]:.0f} ms", flush=True)
    return found


def release(cluster, number):
    """A release whose command takes a while in the hold."""
    script = cluster.directory / "apply"
    script.write_text(f"#!/bin/sh\ntouch {cluster.directory}/begun\nexec sleep {APPLY}\n")
    script.chmod(0o755)
    file = cluster.directory / "release.yaml"
    file.write_text(f'version: "{number}"\napply: {{path: {script}, limit: 10s}}\n'
                    "undo: {path: /bin/true, limit: 1s}\n")
    name = f"wait-{number}"
    cluster.cli_json("release", "add", name, "--component", "software", "--file", file)
    return name


def one_hold(cluster, number, kills):
    """One hold's length in milliseconds."""
    (cluster.directory / "begun").unlink(missing_ok=True)
    rollout = cluster.cli_json("rollout", "start", "--release", release(cluster, number),
                               "--host", "a")["rollout"]
    wait_until((cluster.directory / "begun").exists, 20, "the hold", 0.005)
    if kills:
        leader = cluster.leader()
        cluster.servers[leader].kill()
        cluster.servers[leader].start()

    def over():
        try:
            shown = cluster.cli_json("rollout", "show", rollout)
        except LabError:
            return None
        return shown if shown["finishedAt"] else None
    (step,) = wait_until(over, 60, f"{rollout} to be over")["steps"]
    (hold,) = step["holds"]
    if hold["outcome"] != "succeeded":
        raise LabError(f"a hold did not succeed: {hold}")
    return hold["holdMilliseconds"]


def holds(cluster, count):
    """Lengths of holds without and with a kill."""
    cluster.start_agents()
    wait_until(lambda: cluster.try_ask("guest", "report"), 120, "the guest to answer")
    wait_until(lambda: cluster.cli_json("status")["runningGuestCount"] >= 1, 60, "the guest to run")
    without, killed = [], []
    for number in range(count):
        without.append(one_hold(cluster, 2 * number, False))
        killed.append(one_hold(cluster, 2 * number + 1, True))
        print(f"hold: {without[-1]:.1f} ms, with the leader killed {killed[-1]:.1f} ms", flush=True)
    return without, killed


def run(options, chance):
    guests = [Guest("guest", "a", memory=128, pattern=16, tick=20_000)]
    with HACluster(options.fermata, options.cache, guests, cluster="bench", quota=QUOTA_BYTES,
                   keep_directory=bool(os.environ.get("FERMATA_KEEP_LOGS"))) as cluster:
        cluster.prepare()
        cluster.start_server()
        without, killed = holds(cluster, options.holds) if options.holds else ([0], [0])
        took = sorted(takeovers(cluster, options.bench, options, chance))
    return {
        "kills": len(took), "medianMilliseconds": round(statistics.median(took)),
        "p99Milliseconds": round(took[max(0, -(-99 * len(took) // 100) - 1)]),
        "longestMilliseconds": round(took[-1]),
        "holds": len(without), "holdMedianMilliseconds": round(statistics.median(without), 1),
        "holdLongestMilliseconds": round(max(without), 1),
        "holdWithKillMedianMilliseconds": round(statistics.median(killed), 1),
        "holdWithKillLongestMilliseconds": round(max(killed), 1),
        "addedToHoldMilliseconds": round(
            statistics.median(killed) - statistics.median(without), 1)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fermata", required=True)
    parser.add_argument("--bench", required=True, help="hosts-bench")
    parser.add_argument("--cache", required=True)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--hosts", type=int, default=16)
    parser.add_argument("--holds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    options.bench = pathlib.Path(options.bench).resolve()
    print(f"seed {options.seed}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        found = run(options, random.Random(options.seed))
    except LabError as error:
        sys.exit(f"bench-takeover: {error}")
    print(json.dumps(found))
    sys.exit(0 if found["p99Milliseconds"] <= P99_MILLISECONDS_MAX
             and found["holdWithKillMedianMilliseconds"]
             <= found["holdLongestMilliseconds"] + ADDED_MILLISECONDS_MAX else 1)


if __name__ == "__main__":
    main()
