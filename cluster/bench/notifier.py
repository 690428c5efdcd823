#!/usr/bin/env python3
"""`make bench-notifier`: how soon annotations are there, and how fast a backlog of them drains.

    notifier.py --fermata BIN [--holds 300] [--count 100000]

- Latency: a real server and a real notifier with one webhook, and a scripted agent whose guests are held
  one by one, about twenty a second. From the resume, by the hold's own record, until another process can read
  the annotation in the notifier's database (looked at every 2 ms), and until the webhook has the request;
  what it has is in the record, so whichever is earlier counts for that.
- Drain: COUNT annotations are put into the outbox in the notifier's own database while none runs; then a
  notifier is started, and the requests that come are counted.

Exits 1 if a figure is missed: recorded within 100 ms, delivered within 250 ms (p99), 2,000 a second.
"""
import argparse
import asyncio
import multiprocessing
import sqlite3
import sys
import time

from notifier_lab import NotifierLab, cpu_seconds, load, spread

RECORDED_SECONDS, DELIVERED_SECONDS, DRAIN_RATE = 0.1, 0.25, 2_000


class Hook(asyncio.Protocol):
    """As little HTTP as there can be, so that the notifier is what is measured."""
    taken = {}
    first = last = None

    @classmethod
    async def start(cls):
        cls.taken, cls.first, cls.last = {}, None, None
        server = await asyncio.get_running_loop().create_server(cls, "127.0.0.1", 0)
        return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    def connection_made(self, transport):
        self.transport, self.buffer = transport, b""

    def data_received(self, data):
        self.buffer += data
        while True:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self.buffer[:end]
            fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
            size = end + 4 + int(fields[b"Content-Length"])
            if len(self.buffer) < size:
                return
            self.buffer = self.buffer[size:]
            Hook.last = time.monotonic()
            Hook.first = Hook.first or Hook.last
            Hook.taken.setdefault(fields[b"Idempotency-Key"].decode(), time.time())
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


def watch(path, count, ready, seen):
    """In a process of its own: when each annotation was in the database, and its resume."""
    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
    last, found = 0, {}
    ready.set()
    while len(found) < count:
        for number, name, resumed in database.execute(
                "SELECT number, annotationId, heldAtMicroseconds + holdMicroseconds FROM annotation"
                " WHERE number > ?", (last,)):
            found[name] = (resumed / 1e6, time.time())
            last = number
        time.sleep(0.002)
    seen.put(found)


async def until(condition, seconds, what):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"{what}: not in {seconds} s")
        await asyncio.sleep(0.05)


async def latency(options):
    with NotifierLab(options.fermata) as lab:
        lab.start_server()
        # Serving guests as well, since that is in its way.
        notifier, _ = lab.start_notifier(await Hook.start(), listens=True)
        ready, seen = multiprocessing.Event(), multiprocessing.Queue()
        watcher = multiprocessing.Process(
            target=watch, args=(lab.database, options.holds, ready, seen), daemon=True)
        watcher.start()
        ready.wait(30)
        lab.cli("release", "add", "r", "--version", "2", "--path", "/bin/true")
        before = cpu_seconds(notifier.pid)
        guests = [f"g{number}" for number in range(options.holds)]
        with lab.agent("a", guests):
            await asyncio.to_thread(lab.cli, "rollout", "start", "--release", "r")
            await until(lambda: len(Hook.taken) >= options.holds, options.holds, "deliveries")
        found = await asyncio.to_thread(seen.get, True, 60)
        watcher.join(10)
        cpu = cpu_seconds(notifier.pid) - before
    recorded, recorded_p99 = spread(
        [min(at, Hook.taken[name]) - resumed for name, (resumed, at) in found.items()])
    delivered, delivered_p99 = spread(
        [Hook.taken[name] - resumed for name, (resumed, _) in found.items()])
    print(f"{options.holds} holds one after the other, load {load()}; the notifier used "
          f"{cpu / options.holds * 1e3:.2f} ms of CPU for each")
    print(f"recorded after the resume: {recorded}")
    print(f"delivered after the resume: {delivered}", flush=True)
    return [f"{name} within {limit * 1e3:.0f} ms" for name, p99, limit in (
        ("recorded", recorded_p99, RECORDED_SECONDS),
        ("delivered", delivered_p99, DELIVERED_SECONDS)) if p99 > limit]


def fill(path, count):
    database = sqlite3.connect(path)
    with database:
        for number in range(1, count + 1):
            name, guest = f"rollout-1.{number}-t{number}-g{number % 1000}", f"g{number % 1000}"
            database.execute(
                "INSERT INTO annotation VALUES (?, ?, 0, ?, 'a', 'db', 0, 1, ?, ?, 'q', 'hypervisor',"
                " '2', 1000000, 14200, 'succeeded', '', 'agent', -14000, 100, '', '1', '2', ?)",
                (number, name, guest, number, number, time.time_ns() // 1000))
            database.execute(
                "INSERT INTO bulletin (number, bulletinId, state, history, sequence, atMicroseconds, guest,"
                " host, availabilitySet, updateDomain, rollout, step, token, release, component, version,"
                " notBeforeMicroseconds, reason, recordedAtMicroseconds) VALUES (?, ?, 'succeeded', 1, 0, 1000000, ?, 'a', 'db', 0, 1, ?,"
                " ?, 'q', 'hypervisor', '2', NULL, '', ?)",
                (number, name, guest, number, number, time.time_ns() // 1000))
            database.execute("INSERT INTO outbox (bulletin, sink) VALUES (?, 'hook')", (number,))
    database.close()


async def drain(options):
    with NotifierLab(options.fermata) as lab:
        lab.start_server()
        url = await Hook.start()
        first, _ = lab.start_notifier(url)
        lab.stop(first)
        fill(lab.database, options.count)
        notifier, _ = lab.start_notifier(url)
        before = cpu_seconds(notifier.pid)
        if options.pid_file:
            with open(options.pid_file, "w") as file:
                file.write(str(notifier.pid))
        await until(lambda: len(Hook.taken) >= options.count, options.count / 100, "deliveries")
        cpu = cpu_seconds(notifier.pid) - before
        await asyncio.sleep(1)
        with sqlite3.connect(f"file:{lab.database}?mode=ro", uri=True) as database:
            (left,) = database.execute("SELECT count(*) FROM outbox WHERE"
                                       " deliveredAtMicroseconds IS NULL").fetchone()
    rate = options.count / (Hook.last - Hook.first)
    print(f"drained {options.count} in {Hook.last - Hook.first:.1f} s: {rate:.0f}/s, load {load()}; "
          f"the notifier used {cpu:.1f} s of CPU, {cpu / options.count * 1e6:.0f} µs for each")
    if left:
        raise SystemExit(f"{left} are delivered and not marked")
    return [] if rate >= DRAIN_RATE else [f"{DRAIN_RATE} a second"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fermata", required=True)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--holds", type=int, default=300)
    parser.add_argument("--pid-file", help="where the notifier's pid goes, for a profiler")
    options = parser.parse_args()
    missed = (asyncio.run(latency(options)) if options.holds else []) + asyncio.run(drain(options))
    if missed:
        print(f"missed: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
