"""A leader, scripted hosts and a notifier that serves their guests on loopback addresses, and a client
that asks as one of the guests: what tests of scheduled events share."""
import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import threading
import unittest

from support import FERMATA, fermata, make_pki, new_directory, wait_until  # first: it sets the path for the others

import fermata_wire as wire
from scripted_agent import ScriptedAgent

pb = wire.pb
EVENTS = "/metadata/scheduledevents?api-version=2020-07-01"
METADATA = {"Metadata": "true"}


class Service:
    """A process of ours; its stdout goes to a file, so that lines can be waited for."""

    def __init__(self, directory, name, *arguments):
        self.name, self.arguments = name, [FERMATA, *map(str, arguments)]
        self.out, self.err = directory / f"{name}.out", directory / f"{name}.err"
        self.process = None

    def start(self, line):
        self.begun_at = self.out.stat().st_size if self.out.exists() else 0
        environment = {k: v for k, v in os.environ.items() if not k.startswith("FERMATA_")}
        with open(self.out, "ab") as out, open(self.err, "ab") as err:
            self.process = subprocess.Popen(self.arguments, stdin=subprocess.DEVNULL, stdout=out,
                                            stderr=err, env=environment)
        self.wait_line(line)
        return self

    def lines(self):
        return self.out.read_bytes()[self.begun_at:].decode().splitlines()

    def wait_line(self, text, seconds=60):
        def look():
            assert self.process.poll() is None, \
                f"{self.name} ended with {self.process.returncode}: {self.err.read_text()[-2000:]}"
            return next((line for line in self.lines() if text in line), None)
        return wait_until(look, seconds, f"{self.name} to say '{text}'")

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait(30)

    def terminate(self, seconds=60):
        self.process.terminate()
        return self.process.wait(seconds)


class Host(ScriptedAgent):
    """guests: {name: (set, update domain, address)}. A step waits until `go` is set."""

    def __init__(self, address, credentials, guests):
        super().__init__(address, credentials, guests)
        self.places = guests
        self.go = threading.Event()
        self.go.set()

    def report(self):
        report = super().report()
        sets = set()
        for guest in report.guests:
            name, domain, address = self.places[guest.id]
            if name:
                guest.set = name
                guest.update_domain = domain
                sets.add(name)
            guest.addresses.append(address)
        for name in sorted(sets):
            report.sets.add(id=name, update_domain_count=5)
        return report

    def _on_directive(self, directive, correlation):
        self.session.send(pb.DirectiveAnswer(
            accepted=pb.Empty(), step=directive.step, token=directive.token), correlation)
        # Nobody receives meanwhile, so nothing else says that it lives.
        while not self.go.wait(0.5) and not self.ends:
            self.session.send(pb.Ping(nonce=1))
        if not self.ends:
            super()._on_directive(directive, correlation)


class Answer:
    def __init__(self, response, body):
        self.status, self.headers, self.body = response.status, response.headers, body

    @property
    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return f"{self.status} {dict(self.headers)} {self.body!r}"


class GuestServiceCase(unittest.TestCase):
    """hosts: {host: {guest: (set, update domain, address)}}, for all tests of the class."""

    hosts = {"a": {"db-0": ("db", 0, "127.9.0.1"), "web-0": ("web", 0, "127.9.0.3")},
             "b": {"db-1": ("db", 1, "127.9.0.2"), "lone": ("", 0, "127.9.0.4")}}
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.directory = new_directory("fm-guests-")
        if not os.environ.get("FERMATA_KEEP_LOGS"):
            cls.addClassCleanup(shutil.rmtree, cls.directory, ignore_errors=True)
        cls.pki = make_pki(cls.directory / "pki", certificates=(
            "server-s", "operator-alice", "notifier-n", "notifier-m",
            *(f"agent-{host}" for host in cls.hosts)))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            cls.address = f"127.0.0.1:{probe.getsockname()[1]}"
        cls.server = Service(
            cls.directory, "server", "server", "--credentials", cls.pki / "server-s", "--data",
            cls.directory / "data", "--listen", cls.address)
        cls.addClassCleanup(lambda: cls.server.kill())
        cls.server.start("fermata server ready")
        cls.agents = {}
        for host, guests in cls.hosts.items():
            cls.start_agent(host, guests)
        cls.addClassCleanup(lambda: [agent.close() for agent in cls.agents.values()])
        for number in (1, 2):
            cls.add_release(f"qemu-{number}", str(number + 1))
        cls.notifier = cls.make_notifier("notifier", "n")
        cls.addClassCleanup(lambda: cls.notifier.kill())
        cls.start_notifier()

    @classmethod
    def start_agent(cls, host, guests):
        agent = Host(cls.address, cls.pki / f"agent-{host}", guests)
        agent.__enter__()

        def close():
            agent.ends = True
            agent.thread.join(10)
            with contextlib.suppress(OSError):
                agent.session.close()
        agent.close = close
        cls.agents[host] = agent

    @classmethod
    def make_notifier(cls, name, certificate, *options):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        service = Service(
            cls.directory, name, "notifier", "--server", cls.address, "--credentials",
            cls.pki / f"notifier-{certificate}", "--database", cls.directory / f"{name}.db",
            "--quiet", "--listen", f"127.0.0.1:{port}", *options)
        service.port = port
        return service

    @classmethod
    def start_notifier(cls, notifier=None):
        notifier = notifier or cls.notifier
        notifier.start("fermata notifier listening on 127.0.0.1:")
        notifier.wait_line("fermata notifier ready")

    @classmethod
    def cli(cls, *arguments):
        return fermata(*arguments, environment={
            "FERMATA_SERVER": cls.address, "FERMATA_CREDENTIALS": str(cls.pki / "operator-alice")})

    @classmethod
    def cli_json(cls, *arguments):
        done = cls.cli(*arguments, "--output", "json")
        assert done.code == 0, str(done)
        return done.json

    @classmethod
    def add_release(cls, name, version):
        path = cls.directory / name
        path.write_text("not run by scripted agents")
        digest = subprocess.run(["sha256sum", path], capture_output=True, text=True,
                                check=True).stdout.split()[0]
        file = cls.directory / f"{name}.yaml"
        done = cls.cli("release", "add", name, "--component", "hypervisor", "--version", version,
                       "--path", path, "--sha256", digest)
        assert done.code == 0, f"{done} {file}"

    # ---- asking as a guest ----

    def ask(self, guest, method="GET", target=EVENTS, headers=METADATA, body=None, notifier=None):
        address = next(places[guest][2] for places in self.hosts.values() if guest in places)
        connection = http.client.HTTPConnection(
            "127.0.0.1", (notifier or self.notifier).port, timeout=70,
            source_address=(address, 0))
        try:
            connection.request(method, target, body=body, headers=headers)
            response = connection.getresponse()
            return Answer(response, response.read())
        finally:
            connection.close()

    def document(self, guest, **options):
        answer = self.ask(guest, **options)
        self.assertEqual(answer.status, 200, answer)
        return answer.json

    def wait_events(self, guest, condition, what, seconds=60, **options):
        """Waits until the guest's document fits; the document."""
        def look():
            document = self.document(guest, **options)
            return document if condition(document["Events"]) else None
        # No faster than a guest may ask.
        return wait_until(look, seconds, what, interval=0.2)

    def wait_ready(self, guest="db-0", **options):
        wait_until(lambda: self.ask(guest, **options).status == 200, 30, f"{guest} to be served",
                   interval=0.2)

    def roll(self, release, *options):
        return self.cli_json("rollout", "start", "--release", release, *options)["rollout"]

    def finish(self, rollout, seconds=60):
        return wait_until(
            lambda: (lambda r: r if r["finishedAt"] else None)(
                self.cli_json("rollout", "show", rollout)), seconds, f"{rollout} to be over")

    def next_release(self, guest="db-0"):
        """One that changes this guest."""
        versions = {g["id"]: g["hypervisorVersion"] for g in self.cli_json("guests")}
        return "qemu-2" if versions[guest] == "2" else "qemu-1"
