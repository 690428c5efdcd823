"""A server, notifiers and scripted agents for benches of what follows an event: real processes, no guests.

Happy path: `with NotifierLab(fermata) as lab:`, then `lab.start_server()`, `lab.start_notifier(...)`,
`lab.agent(...)`. Everything is on this computer, so its wall clock is one for all.
"""
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "proto-spec" / "python"), str(ROOT / "Tests" / "Integration")]

from scripted_agent import Listening, ScriptedAgent  # noqa: E402 (sets the path for the next)

import fermata_wire as wire  # noqa: E402

pb = wire.pb


class TimedAgent(ScriptedAgent):
    """Prepares for a moment, and reports a hold when it is over."""
    prepare_seconds = 0.03

    def times(self):
        time.sleep(self.prepare_seconds)
        return time.time_ns() // 1000 - 12_500, 12_500


class NotifierLab:
    def __init__(self, fermata, cores=None):
        """`cores`: by the name of a process (`server`, `notifier`), the core it is to run on."""
        self.fermata, self.cores = str(pathlib.Path(fermata).resolve()), cores or {}
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="fm-bench-"))
        self.processes, self.address = [], None
        self.pki = self.directory / "pki"

    def __enter__(self):
        self.run("pki", "init", "--directory", self.pki, "--cluster", "bench")
        for who in ("server s", "notifier n", "operator o"):
            self.issue(*who.split())
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def issue(self, role, name):
        self.run("pki", "issue", role, name, "--directory", self.pki)

    def run(self, *arguments):
        done = subprocess.run([self.fermata, *map(str, arguments)], capture_output=True, text=True,
                              check=False)
        if done.returncode:
            raise SystemExit(f"fermata {' '.join(map(str, arguments))}: {done.stderr}")
        return done.stdout

    def cli(self, *arguments):
        return json.loads(self.run(*arguments, "--credentials", self.pki / "operator-o",
                                   "--server", self.address, "--output", "json"))

    def start(self, *arguments, ready):
        """A process that stays, and the first line in which it says `ready`."""
        core = self.cores.get(arguments[0])
        pinned = ["taskset", "-c", str(core)] if core is not None else []
        with open(self.directory / f"{arguments[0]}.log", "ab") as log:
            process = subprocess.Popen(pinned + [self.fermata, *map(str, arguments)],
                                       stdout=subprocess.PIPE, stderr=log, text=True)
        self.processes.append(process)
        lines = []
        for word in ready:
            line = process.stdout.readline()
            while word not in line and line:
                line = process.stdout.readline()
            if not line:
                raise SystemExit((self.directory / f"{arguments[0]}.log").read_text()[-2000:])
            lines.append(line)
        return process, lines

    def start_server(self):
        server, (line,) = self.start(
            "server", "--credentials", self.pki / "server-s", "--data", self.directory / "data",
            "--listen", "127.0.0.1:0", "--log-level", "warning", ready=["server ready"])
        self.address = line.split(" ready on ")[1].split()[0]
        return server

    def start_notifier(self, hook=None, listens=False):
        """With one webhook, if its URL is given; and the port at which guests are served, or None."""
        options = []
        if hook:
            sinks = self.directory / "sinks.yaml"
            sinks.write_text(f"sinks:\n  - name: hook\n    webhook: {{url: '{hook}'}}\n")
            options = ["--sinks", sinks]
        # Which of the two lines comes first is not known.
        notifier, lines = self.start(
            "notifier", "--server", self.address, "--credentials", self.pki / "notifier-n",
            "--database", self.database, "--quiet", "--log-level", "warning", *options,
            *(["--listen", "127.0.0.1:0"] if listens else []),
            ready=["fermata notifier"] * (2 if listens else 1))
        ports = [line.rpartition(":")[2].strip() for line in lines if " listening on " in line]
        return notifier, int(ports[0]) if ports else None

    @property
    def database(self):
        return self.directory / "n.db"

    def stop(self, process):
        process.terminate()
        process.wait()
        self.processes.remove(process)

    def agent(self, name, guests, **options):
        self.issue("agent", name)
        return TimedAgent(self.address, self.pki / f"agent-{name}", guests, **options)

    def follow(self):
        return Commits(self.address, self.pki / "operator-o")


class Commits(Listening):
    """When the leader committed each event, by the event's own word: `times[sequence]`, in seconds."""

    def __init__(self, address, credentials):
        super().__init__(address, credentials)
        self.times = {}

    def begin(self):
        self.session.send(pb.FollowEvents(after_sequence=0, progress=False),
                          self.session.next_correlation())

    def on_message(self, received):
        if received.kind == "EventBatch":
            for event in received.message.events:
                self.times[event.sequence] = event.at_microseconds / 1e6


def cpu_seconds(pid):
    ticks = pathlib.Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    return (int(ticks[11]) + int(ticks[12])) / 100


def load():
    return pathlib.Path("/proc/loadavg").read_text().split()[0]


def spread(seconds):
    """`p50 1.2 ms, p99 3.4 ms, max 5.6 ms`, and the p99 in seconds."""
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
    return (f"p50 {ordered[len(ordered) // 2] * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms, "
            f"max {ordered[-1] * 1e3:.1f} ms"), p99
