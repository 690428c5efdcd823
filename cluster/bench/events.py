#!/usr/bin/python3
"""`make bench-events`: 10,000 guests that poll once a second, server and clients on a core each.

    events.py --bench BIN [--fermata BIN] [--guests 10000] [--seconds 20]

- The web server alone, with documents made by events-bench: what an unchanged answer costs of CPU, how soon
  requests are answered, while nothing changes and while all documents do at once.
- With --fermata, all of it: a leader, a notifier and three scripted agents, each with a third of the guests, in
  one availability set. A rollout with a notice time tells of one guest of each set, and so changes the documents
  of all guests; aborting it changes them again.

How soon a change is visible has two figures. *Served*: from the leader's commit until the notifier gives the
new document to whoever asks. *Seen*: from the commit until the last of the pollers has it, in which there is
up to a second until that one asks, whoever serves it.

Exits 1 if a figure is missed: p99 50 ms; 20 µs an unchanged answer; served within 1 s of the commit, and
seen by the last poller within the second from then on, plus 50 ms for its answer.
"""
import argparse
import contextlib
import json
import pathlib
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time

from notifier_lab import NotifierLab, cpu_seconds, load

POLLER = pathlib.Path(__file__).resolve().parents[2] / "Benchmarks" / "Events" / "poller.c"
HOSTS, STEPS, ROUNDS = 3, 50, 2
ANSWER_SECONDS, CPU_MICROSECONDS, SERVED_SECONDS = 0.05, 20, 1


def resident_mib(pid):
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


def on_core(core, words):
    return ["taskset", "-c", str(core), *map(str, words)]


class Pollers:
    """poller.c on a core of its own. `result` after `wait`."""

    def __init__(self, poller, guests, port, seconds):
        self.process = subprocess.Popen(on_core(1, [poller, guests, port, seconds]),
                                        stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "connected\n"

    def wait(self, guests, changes):
        """What it measured, and when the last guest saw each change, on the monotonic clock."""
        lines = self.process.stdout.read().splitlines()
        assert self.process.wait() == 0
        seen = [tuple(map(int, line.split()[1:])) for line in lines[:-1]]
        if [count for _, count in seen] != [guests] * changes:
            raise SystemExit(f"of {changes} changes of {guests} guests was seen: {seen}")
        return json.loads(lines[-1]), [at / 1e9 for at, _ in seen]


def alone(bench, poller, guests, seconds, changes):
    """The web server without leader and notifier."""
    server = subprocess.Popen(on_core(0, [bench, guests, 0]), stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True)
    try:
        port = server.stdout.readline().split()[1]
        pollers = Pollers(poller, guests, port, seconds)
        # The first answers carry the document; the figure is of those behind them.
        time.sleep(2)
        before, since = cpu_seconds(server.pid), time.monotonic()
        made = []
        for _ in range(changes):
            time.sleep(seconds / (changes + 1))
            server.stdin.write("\n")
            server.stdin.flush()
            _, at, folded = server.stdout.readline().split()
            made.append((int(at) / 1e9, int(folded) / 1e6))
        if not changes:
            select.select([pollers.process.stdout], [], [], max(0.1, seconds - 3))
        used, passed = cpu_seconds(server.pid) - before, time.monotonic() - since
        result, seen = pollers.wait(guests, changes)
        return result | {"cpuMicroseconds": used / (passed * guests) * 1e6,
                         "residentMiB": resident_mib(server.pid),
                         "served": [folded for _, folded in made],
                         "seen": [at - since for at, (since, _) in zip(seen, made)]}
    finally:
        server.kill()
        server.wait()


class Stream:
    """A guest that follows `/v1/events`: when it was told each number of its document."""

    def __init__(self, address, port):
        self.socket = socket.create_connection(("127.0.0.1", port), 10, (address, 0))
        self.told, self.newest = {}, 0
        self.socket.sendall(
            b"GET /v1/events HTTP/1.1\r\nHost: n\r\nAccept: text/event-stream\r\n\r\n")
        threading.Thread(target=self._run, daemon=True).start()

    @classmethod
    def when_known(cls, address, port):
        """The notifier asks for the inventory when an address asks that it does not know."""
        for _ in range(100):
            stream = cls(address, port)
            time.sleep(0.2)
            if stream.told:
                stream.newest = max(stream.told)
                return stream
            stream.close()
        raise SystemExit(f"{address} is not served")

    def _run(self):
        with contextlib.suppress(OSError):
            for line in self.socket.makefile("rb"):
                if line.startswith(b"id: "):
                    self.told.setdefault(int(line[4:]), time.time())

    def has_news(self):
        return max(self.told) > self.newest

    def close(self):
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


def guest_address(number):
    return f"127.1.{number // 250}.{number % 250 + 1}"


def served(streams, commits):
    """Of a change of all documents: from the leader's commit until the last of them was served; and the
    commit, on the monotonic clock."""
    end = time.monotonic() + 60
    while not all(stream.has_news() for stream in streams):
        if time.monotonic() > end:
            raise SystemExit("a change has not come in a minute")
        time.sleep(0.01)
    time.sleep(0.5)
    took, committed = 0, []
    for stream in streams:
        stream.newest = max(stream.told)
        # A document's number is that of the event that changed it, + 1.
        committed.append(commits.times[stream.newest - 1])
        took = max(took, stream.told[stream.newest] - committed[-1])
    return took, min(committed) + time.monotonic() - time.time()


def whole(fermata, poller, guests, seconds):
    """Through a leader and a notifier."""
    with NotifierLab(fermata, cores={"notifier": 0, "server": 1}) as lab, \
            contextlib.ExitStack() as stack:
        lab.start_server()
        notifier, port = lab.start_notifier(listens=True)
        commits = stack.enter_context(lab.follow())
        shares = [range(guests * h // HOSTS, guests * (h + 1) // HOSTS) for h in range(HOSTS)]
        for host, share in enumerate(shares):
            # No set is on two hosts, so that no step waits for another's. A whole update domain is told at
            # once: the first has one guest, so that documents are as small as they mostly are. Most guests are
            # not part of the rollout: its 10,000 steps would keep this script busy, and so its pollers.
            more = {f"g{n}": {"addresses": [guest_address(n)], "set": f"set-{host}",
                              "update_domain": 1 + n % 4 if n > share[0] else 0,
                              "hand_over_problem": "" if n < share[0] + STEPS else "none of it"}
                    for n in share}
            stack.enter_context(lab.agent(f"h{host}", more, more=more))
        lab.cli("release", "add", "r", "--version", "2", "--path", "/bin/true")
        streams = [Stream.when_known(guest_address(share[0]), port) for share in shares]
        pollers = Pollers(poller, guests, port, seconds + 5)
        time.sleep(3)
        before, since = cpu_seconds(notifier.pid), time.monotonic()
        made = []
        for _ in range(ROUNDS):
            rollout = lab.cli("rollout", "start", "--release", "r", "--notice", "15m",
                              "--parallelism", HOSTS)["rollout"]
            made.append(served(streams, commits))
            time.sleep(seconds / ROUNDS / 2 - 1.5)
            lab.cli("rollout", "abort", rollout, "--reason", "another round")
            made.append(served(streams, commits))
            time.sleep(seconds / ROUNDS / 2 - 1.5)
        used, passed = cpu_seconds(notifier.pid) - before, time.monotonic() - since
        result, seen = pollers.wait(guests, 2 * ROUNDS)
        for stream in streams:
            stream.close()
        return result | {"served": [took for took, _ in made],
                         "seen": [at - commit for at, (_, commit) in zip(seen, made)],
                         "cpuMicroseconds": used / (passed * guests) * 1e6,
                         "residentMiB": resident_mib(notifier.pid)}


def tell(name, figures):
    print(f"{name}: {figures['answers']} answers, {figures['unchanged']} of them 304, "
          f"{figures['errors']} refused, {figures['late']} skipped; "
          f"{figures['cpuMicroseconds']:.1f} µs of CPU an answer, {figures['residentMiB']:.0f} MiB, "
          f"load {load()}")
    print(f"  answered: p50 {figures['p50'] / 1000:.1f} ms, p99 {figures['p99'] / 1000:.1f} ms, "
          f"max {figures['max'] / 1000:.1f} ms")
    if figures["seen"]:
        print("  changes of all documents, served after "
              + ", ".join(f"{t * 1e3:.0f} ms" for t in figures["served"])
              + "; seen by the last poller after "
              + ", ".join(f"{t:.2f} s" for t in figures["seen"]), flush=True)


def missed(name, figures):
    """What is not as it shall be."""
    if figures["errors"]:
        yield f"{name}: {figures['errors']} refused"
    if figures["p99"] > ANSWER_SECONDS * 1e6:
        yield f"{name}: p99"
    if any(t > SERVED_SECONDS for t in figures["served"]):
        yield f"{name}: served"
    if any(seen > took + SERVED_SECONDS + ANSWER_SECONDS
           for seen, took in zip(figures["seen"], figures["served"])):
        yield f"{name}: seen"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bench", required=True)
    parser.add_argument("--fermata")
    parser.add_argument("--guests", type=int, default=10_000)
    parser.add_argument("--seconds", type=int, default=20)
    options = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as directory:
        poller = pathlib.Path(directory) / "poller"
        subprocess.run(["gcc", "-O2", "-o", poller, POLLER], check=True)
        for name, changes in (("unchanged", 0), ("all documents change", 3)):
            found[name] = alone(options.bench, poller, options.guests, options.seconds, changes)
            tell(name, found[name])
        if options.fermata:
            name = "through a leader and a notifier"
            found[name] = whole(options.fermata, poller, options.guests, options.seconds)
            tell(name, found[name])
    problems = [problem for name, figures in found.items() for problem in missed(name, figures)]
    if found["unchanged"]["cpuMicroseconds"] > CPU_MICROSECONDS:
        problems.append("CPU of an unchanged answer")
    if problems:
        print(f"missed: {', '.join(problems)}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
