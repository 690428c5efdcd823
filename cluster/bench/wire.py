#!/usr/bin/python3
"""`make bench-wire`: the codec, the memory of an idle session, and handshakes a second.

    wire.py --fermata BIN --bench BIN [--sessions 2000] [--handshakes 3000]

- codec: millions of heartbeat-sized frames and messages a second on one core, each way, and the
  allocations for each (counted by a preloaded malloc). Peer: copyFloor, an allocation and a copy.
- sessions: what SESSIONS idle, mutually authenticated sessions add to the server's private memory.
- storm: SESSIONS/4 sessions at once, and when a tenth is in an urgent one: what it waits, and the last of the
  others.
- handshakes: completed TLS 1.3 handshakes with both certificates for each second of the server's own CPU
  time. Peer: `openssl s_server` with the same certificates and the same client, in turn.

The last line is JSON. Exits 1 if a figure misses its bound: 3 million frames a second each way with at most
one allocation, 24 KiB a session, 400 handshakes a second.
"""
import argparse
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from lab import wait_until  # noqa: E402


def run(*words):
    return subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True)


def codec(bench, directory):
    library = directory / "count_malloc.so"
    run("gcc", "-O2", "-shared", "-fPIC", "-o", library, HERE / "count_malloc.c")
    plain = json.loads(run(bench, "codec").stdout)
    counted = subprocess.run([bench, "codec"], check=True, capture_output=True, text=True,
                             env={**os.environ, "LD_PRELOAD": str(library)}).stdout
    for name, figure in json.loads(counted).items():
        plain[name]["allocations"] = round(figure["allocations"], 3)
        plain[name]["millionsPerSecond"] = round(plain[name]["millionsPerSecond"], 2)
    return plain


def private_bytes(pid):
    """Memory that only this process has."""
    text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    return 1024 * sum(int(line.split()[1]) for line in text.splitlines()
                      if line.startswith(("Private_Clean:", "Private_Dirty:")))


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Server:
    """A fermata server without hosts."""

    def __init__(self, fermata, pki, directory):
        self.process = subprocess.Popen(
            [fermata, "server", "--credentials", pki / "server-s", "--data", directory / "data",
             "--listen", "127.0.0.1:0", "--sessions-per-address", "100000",
             "--half-open-per-address", "1000", "--log-level", "error"],
            stdout=subprocess.PIPE, text=True)
        self.address = self.process.stdout.readline().split(" ready on ")[1].split()[0]
        self.pid = self.process.pid

    def close(self):
        self.process.kill()
        self.process.wait()


class Connected:
    """Sessions held open by the load generator."""

    def __init__(self, bench, address, credentials, count):
        self.process = subprocess.Popen(
            [bench, "connect", address, credentials, str(count), "32"], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True)
        self.result = json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def sessions(bench, server, credentials, count):
    # The first ones make the server's pools and caches, which are no session's.
    first = Connected(bench, server.address, credentials, 100)
    time.sleep(3)                     # idle: past a round of pings, so that their buffers count too
    before = private_bytes(server.pid)
    load = Connected(bench, server.address, credentials, count)
    time.sleep(5)
    after = private_bytes(server.pid)
    cpu = cpu_seconds(server.pid)
    time.sleep(5)
    cpu = cpu_seconds(server.pid) - cpu
    load.close()
    first.close()
    return {"count": count, "failed": load.result["failed"],
            "kibibytesEach": round((after - before) / count / 1024, 2),
            "openedPerSecond": round(count / load.result["seconds"]),
            "idleCpuPercent": round(100 * cpu / 5, 1)}


def storm(bench, address, credentials, count):
    """What an urgent session waits that begins when a tenth of the storm is through."""
    urgent, others = (
        subprocess.Popen([str(word) for word in (bench, *words)], stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE, text=True)
        for words in (("urgent", address, credentials),
                      ("storm", address, credentials, count, count // 10)))
    try:
        for process, line in ((urgent, "ready\n"), (others, "open\n")):
            said = process.stdout.readline()
            assert said == line, said
        urgent.stdin.write("\n")
        urgent.stdin.flush()
        return {**json.loads(others.stdout.readline()), **json.loads(urgent.stdout.readline())}
    finally:
        for process in (urgent, others):
            process.kill()
            process.communicate()


def handshakes(bench, pid, address, credentials, count):
    before = cpu_seconds(pid)
    result = json.loads(run(bench, "handshake", address, credentials, count, 4).stdout)
    used = cpu_seconds(pid) - before
    assert result["failed"] == 0, result
    return round(count / used)


def openssl_server(pki):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-tls1_3", "-quiet",
         "-cert", pki / "server-s.pem", "-key", pki / "server-s.key", "-CAfile", pki / "ca.pem",
         "-Verify", "2", "-verify_return_error", "-alpn", "fermata/1", "-num_tickets", "0",
         "-no_cache"],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def answers():
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return True
        except OSError:
            return False
    wait_until(answers, 20, "openssl s_server to listen")
    return process, f"127.0.0.1:{port}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fermata", required=True)
    parser.add_argument("--bench", required=True)
    parser.add_argument("--sessions", type=int, default=2000)
    parser.add_argument("--handshakes", type=int, default=3000)
    options = parser.parse_args()
    fermata, bench = (os.path.abspath(path) for path in (options.fermata, options.bench))
    with tempfile.TemporaryDirectory(prefix="fermata-bench-") as name:
        directory = pathlib.Path(name)
        pki = directory / "pki"
        run(fermata, "pki", "init", "--directory", pki, "--cluster", "bench")
        for role, who in (("server", "s"), ("operator", "alice")):
            run(fermata, "pki", "issue", role, who, "--directory", pki)
        report = {"codec": codec(bench, directory)}
        print("codec measured", file=sys.stderr)
        server = Server(fermata, pki, directory)
        try:
            report["sessions"] = sessions(bench, server, pki / "operator-alice", options.sessions)
            print("sessions measured", file=sys.stderr)
            report["storm"] = storm(bench, server.address, pki / "operator-alice",
                                    options.sessions // 4)
            print("storm measured", file=sys.stderr)
            peer, peer_address = openssl_server(pki)
            try:
                # In turn, so that a busy spell of the machine meets both.
                third = max(1, options.handshakes // 3)
                ours, theirs = [], []
                for _ in range(3):
                    ours.append(handshakes(bench, server.pid, server.address,
                                           pki / "operator-alice", third))
                    theirs.append(handshakes(bench, peer.pid, peer_address,
                                             pki / "operator-alice", third))
            finally:
                peer.kill()
                peer.wait()
        finally:
            server.close()
    report["handshakes"] = {
        "perCpuSecond": sorted(ours)[1], "opensslPerCpuSecond": sorted(theirs)[1],
        "ratio": round(sorted(ours)[1] / sorted(theirs)[1], 2)}
    misses = list(problems(report))
    for line in misses:
        print(f"bench-wire: {line}", file=sys.stderr)
    print(json.dumps(report))
    return 1 if misses else 0


def problems(report):
    """What misses its bound."""
    for name in ("encodeFrame", "decodeFrame", "encodeMessage", "decodeMessage"):
        figure = report["codec"][name]
        if figure["millionsPerSecond"] < 3:
            yield f"{name}: {figure['millionsPerSecond']} million a second, fewer than 3"
        if figure["allocations"] > 1.01:
            yield f"{name}: {figure['allocations']} allocations, more than 1"
    if report["storm"]["urgentMilliseconds"] * 4 > report["storm"]["lastMilliseconds"]:
        yield f"an urgent peer waits too long in a storm: {report['storm']}"
    if report["sessions"]["failed"]:
        yield f"{report['sessions']['failed']} sessions failed"
    if report["sessions"]["kibibytesEach"] > 24:
        yield f"a session costs {report['sessions']['kibibytesEach']} KiB, more than 24"
    if report["handshakes"]["perCpuSecond"] < 400:
        yield f"{report['handshakes']['perCpuSecond']} handshakes a CPU second, fewer than 400"


if __name__ == "__main__":
    sys.exit(main())
