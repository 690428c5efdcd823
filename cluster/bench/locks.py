#!/usr/bin/python3
"""`make bench-locks`: locks granted a second, in a log on three etcd members, against etcd's own locks.

    locks.py --fermata BIN --bench BIN --cache DIR [--clients 64] [--guests 64] [--seconds 10]

Three servers and three etcd members, each in a network namespace of its own, every write with fsync. In turn:

- etcd: CLIENTS clients lock and unlock by etcd's lock API (JSON gateway, v3lock), each a lock of its own
  under a lease that it has already: nobody waits for anybody.
- ours, of one guest: CLIENTS hosts, each with an agent over mutual TLS and a rollout over its GUESTS guests,
  one by one. For each step the lock is granted and replicated, the directive sent and accepted, and the
  agent's report replicated, which releases the lock.
- ours, of a host: a rollout that holds all GUESTS guests of the host in one step, each of another
  availability set, so that it takes GUESTS locks at once or none: as a release of the network does. Then
  the next rollout. Each is asked for by an operator, and kept in the audit record.

The hosts are scripted (hosts-bench); sessions, servers and log are the real ones. The last line is JSON.
Exits 1 if the locks of whole hosts are less than 20 times etcd's.
"""
import argparse
import json
import pathlib
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from ha_lab import HACluster  # noqa: E402
from lab import LabError  # noqa: E402

RATIO_MIN = 20
# etcd's own default.
QUOTA_BYTES = 2 << 30


class Hosts:
    """hosts-bench in the middle of the network: scripted hosts that always have a rollout."""

    def __init__(self, cluster, bench, count, guests, milliseconds, scope):
        pki = cluster.directory / "pki"
        for name in ["operator-bench"] + [f"agent-h{number}" for number in range(count)]:
            if not (pki / f"{name}.pem").exists():
                cluster.run(cluster.fermata, "pki", "issue", *name.split("-"), "--directory", pki)
        self.process = subprocess.Popen(
            cluster.inside("middle") + [str(bench), cluster.server_address, str(pki), str(count),
                                        str(guests), str(milliseconds), scope],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
            env=cluster.environment)

    def line(self):
        line = self.process.stdout.readline()
        if not line:
            raise LabError(f"hosts-bench ended with {self.process.wait()}")
        return line.strip()

    def wait_ready(self):
        while self.line() != "ready":
            pass

    def counts(self):
        """What was finished since `ready`."""
        self.process.stdin.write("\n")
        while not (line := self.line()).startswith("{"):
            pass
        return json.loads(line)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def etcd_locks(cluster, bench, clients, seconds):
    """Of etcd itself, per second."""
    urls = ",".join(m.client for m in cluster.members.values())
    done = subprocess.run(
        cluster.inside("middle") + [str(bench), "etcd-locks", urls, str(clients), str(seconds)],
        capture_output=True, text=True, check=True, env=cluster.environment)
    found = json.loads(done.stdout)
    if found["failures"]:
        raise LabError(f"etcd's locks: {found}")
    return found["locks"] / found["seconds"]


def our_locks(cluster, bench, clients, guests, seconds, scope):
    """Steps and locks per second, once it runs evenly."""
    with Hosts(cluster, bench, clients, guests, 0, scope) as hosts:
        hosts.wait_ready()
        time.sleep(1)
        first = hosts.counts()
        time.sleep(seconds)
        last = hosts.counts()
    span = last["seconds"] - first["seconds"]
    return {key: round((last[key] - first[key]) / span, 1) for key in ("steps", "locks")}


def run(options):
    with HACluster(options.fermata, options.cache, [], cluster="bench", quota=QUOTA_BYTES,
                   log_level="warning") as cluster:
        cluster.prepare()
        cluster.start_server()
        found = {"clients": options.clients, "guestsPerHost": options.guests}
        # Twice and in turn, since others use this computer too.
        peer = [etcd_locks(cluster, options.bench, options.clients, options.seconds // 2)]
        found["ofOneGuest"] = our_locks(cluster, options.bench, options.clients, options.guests,
                                        options.seconds, "guest")
        print(json.dumps(found), flush=True)
    # The scripted hosts of the first part had other guests.
    with HACluster(options.fermata, options.cache, [], cluster="bench", quota=QUOTA_BYTES,
                   log_level="warning") as cluster:
        cluster.prepare()
        cluster.start_server()
        found["ofWholeHosts"] = our_locks(cluster, options.bench, options.clients, options.guests,
                                          options.seconds, "host")
        peer.append(etcd_locks(cluster, options.bench, options.clients, options.seconds // 2))
    found["etcdLocksPerSecond"] = round(sum(peer) / len(peer), 1)
    found["ratioOfSteps"] = round(found["ofOneGuest"]["locks"] / found["etcdLocksPerSecond"], 1)
    found["ratio"] = round(found["ofWholeHosts"]["locks"] / found["etcdLocksPerSecond"], 1)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fermata", required=True)
    parser.add_argument("--bench", required=True, help="hosts-bench")
    parser.add_argument("--cache", required=True)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--guests", type=int, default=64, help="of a host; 64 is the most of a step")
    parser.add_argument("--seconds", type=int, default=10)
    options = parser.parse_args()
    options.bench = pathlib.Path(options.bench).resolve()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        found = run(options)
    except LabError as error:
        sys.exit(f"bench-locks: {error}")
    print(json.dumps(found))
    sys.exit(0 if found["ratio"] >= RATIO_MIN else 1)


if __name__ == "__main__":
    main()
