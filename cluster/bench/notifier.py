#!/usr/bin/env python3
"""`make bench-notifier`: how fast a notifier drains 100,000 pending annotations to a local webhook.

The outbox is filled in the notifier's own database, made by a first start, while none runs; then a notifier
is started beside a server without hosts, and the requests that come are counted.
"""
import argparse
import asyncio
import pathlib
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Hook(asyncio.Protocol):
    """As little HTTP as there can be, so that the notifier is what is measured."""
    ids = set()
    first = last = None

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
            Hook.ids.add(fields[b"Idempotency-Key"])
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


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
                "INSERT INTO bulletin VALUES (?, ?, 'succeeded', 1, 0, 1000000, ?, 'a', 'db', 0, 1, ?,"
                " ?, 'q', 'hypervisor', '2', NULL, '', ?)",
                (number, name, guest, number, number, time.time_ns() // 1000))
            database.execute("INSERT INTO outbox (bulletin, sink) VALUES (?, 'hook')", (number,))
    database.close()


async def measure(options, directory):
    def run(*arguments):
        subprocess.run([options.fermata, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)

    def start(*arguments, ready):
        process = subprocess.Popen([options.fermata, *map(str, arguments)], stdout=subprocess.PIPE,
                                   stderr=subprocess.DEVNULL, text=True)
        line = process.stdout.readline()
        assert ready in line, line
        return process, line

    pki = directory / "pki"
    run("pki", "init", "--directory", pki, "--cluster", "bench")
    run("pki", "issue", "server", "s", "--directory", pki)
    run("pki", "issue", "notifier", "n", "--directory", pki)
    server, line = start("server", "--credentials", pki / "server-s", "--data", directory / "data",
                         "--listen", "127.0.0.1:0", ready="server ready")
    address = line.split(" ready on ")[1].split()[0]
    hook = await asyncio.get_running_loop().create_server(Hook, "127.0.0.1", 0)
    port = hook.sockets[0].getsockname()[1]
    sinks = directory / "sinks.yaml"
    sinks.write_text(f"sinks:\n  - name: hook\n    webhook: {{url: 'http://127.0.0.1:{port}'}}\n")
    command = ("notifier", "--server", address, "--credentials", pki / "notifier-n", "--database",
               directory / "n.db", "--quiet", "--sinks", sinks)
    processes = [server]
    try:
        first, _ = start(*command, ready="notifier ready")
        first.terminate()
        first.wait()
        fill(directory / "n.db", options.count)
        notifier, _ = start(*command, ready="notifier ready")
        processes.append(notifier)
        began = time.monotonic()
        while len(Hook.ids) < options.count:
            await asyncio.sleep(0.05)
            if time.monotonic() - began > options.count / 100:
                raise SystemExit(f"only {len(Hook.ids)} of {options.count} came")
        took = Hook.last - Hook.first
        ticks = pathlib.Path("/proc", str(notifier.pid), "stat").read_text().split(") ")[1].split()
        cpu = (int(ticks[11]) + int(ticks[12])) / 100
        print(f"drained {options.count} in {took:.1f} s: {options.count / took:.0f}/s; "
              f"the notifier used {cpu:.1f} s of CPU")
        return options.count / took
    finally:
        for process in processes:
            process.kill()
            process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fermata", required=True)
    parser.add_argument("--count", type=int, default=100_000)
    options = parser.parse_args()
    directory = pathlib.Path(tempfile.mkdtemp(prefix="fm-bench-"))
    try:
        rate = asyncio.run(measure(options, directory))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return 0 if rate >= 2_000 else 1


if __name__ == "__main__":
    sys.exit(main())
