#!/usr/bin/python3
"""`make test-compose`: builds the images with podman and lives through a rollout and a server's death in
both clusters, with the very Dockerfile and compose files that a person would use.

    test.py --cache DIR [--only single|ha] [--build-only] [--no-build]

In each cluster: everything becomes healthy; all six guests move to the other QEMU, none boots or
loses memory, one annotation for each hold; then every host's guests are held for twelve seconds, and the
leader's container is killed in the first of these holds: it ends in time without a server, and the
rollout ends well, in `single` when the server is started again, in `ha` under another leader. At last one
host is killed and started again: its guests boot, and those of the others notice nothing.

Needs root and `scripts/install-dependencies.sh compose`. Whatever happens, nothing is left running;
images stay in CACHE/compose for the next time (some 2 GB).
"""
import argparse
import datetime
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import time

import engine
from engine import ROOT, Engine, EngineError

sys.path.insert(0, str(ROOT / "cluster"))
import lab  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
GUESTS = {f"{kind}-{n}": f"10.80.1.{base + n}" for kind, base in (("db", 10), ("web", 20))
          for n in range(3)}
SERVERS = {"single": ["server"], "ha": ["server-1", "server-2", "server-3"]}
IMAGES = {"fermata": "localhost/fermata:0.1.0", "fermata-agent": "localhost/fermata-agent:0.1.0"}
IMAGE_MEGABYTES_MAX = 150
PAUSE_SECONDS = 12
DEADLINE_MILLISECONDS = 25_000
STARTED = time.monotonic()


def say(text):
    print(f"[{time.monotonic() - STARTED:6.1f} s] {text}", flush=True)


def check(condition, what):
    """One promise."""
    if not condition:
        raise EngineError(f"broken: {what}")
    say(f"ok: {what}")


def wait_until(condition, seconds, what, interval=0.2):
    """Each look starts a program or two."""
    return lab.wait_until(condition, seconds, what, interval)


def pinned(kind):
    """The images that Dockerfile and compose file name: of Debian, Swift and etcd."""
    text = (ROOT / "Dockerfile").read_text()
    etcd = re.search(r"image: (quay\.io/\S+)", (HERE / "ha" / "docker-compose.yml").read_text())
    return {"debian": re.search(r"^ARG DEBIAN_IMAGE=(\S+)", text, re.MULTILINE)[1],
            "swift": re.search(r"^ARG SWIFT_IMAGE=(\S+)", text, re.MULTILINE)[1],
            "etcd": etcd[1]}[kind]


def instant(text):
    """RFC 3339, with as many digits as it likes, to seconds."""
    match = re.fullmatch(r"(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)", text)
    offset = match[3].replace("Z", "+00:00")
    return datetime.datetime.fromisoformat(match[1] + offset).timestamp() + float(match[2] or 0)


class Compose:
    """One of the two clusters."""

    def __init__(self, podman, kind):
        self.podman, self.kind = podman, kind
        self.directory = HERE / kind
        self.servers = SERVERS[kind]
        self.environment = podman.environment | {
            "FERMATA_CACHE": str(podman.cache), "COMPOSE_PROJECT_NAME": f"fermata-{kind}",
            "COMPOSE_HTTP_TIMEOUT": "300", "ENGINE": "podman", "COMPOSE": "docker-compose"}

    def run(self, *command, check_code=True, timeout=600, **options):
        done = subprocess.run([str(word) for word in command], cwd=self.directory,
                              env=self.environment, capture_output=True, text=True, check=False,
                              timeout=timeout, **options)
        if check_code and done.returncode != 0:
            raise EngineError(f"{' '.join(map(str, command))}\n  ended with {done.returncode}: "
                              f"{done.stdout.strip()}\n{done.stderr.strip()}")
        return done

    def compose(self, *arguments, **options):
        return self.run("docker-compose", "--ansi", "never", *arguments, **options)

    def chaos(self, *arguments):
        say(f"$ ../chaos {' '.join(arguments)}")
        return self.run("../chaos", *arguments)

    def container(self, service):
        return f"fermata-{self.kind}_{service}_1"

    def state(self, service):
        """What the engine says of a container: (running, health)."""
        text = self.podman.podman("inspect", self.container(service), check=False)
        state = json.loads(text)[0]["State"] if text and text.strip() != "[]" else {}
        health = state.get("Health") or state.get("Healthcheck") or {}
        return state.get("Running", False), health.get("Status", "")

    def ended_at(self, service):
        """When its container ended, in seconds."""
        text = self.podman.podman("inspect", "--format", "{{json .State.FinishedAt}}",
                                  self.container(service))
        return instant(json.loads(text))

    def execute(self, service, *command, **options):
        return self.compose("exec", "-T", service, *command, stdin=subprocess.DEVNULL, **options)

    def fermata(self, *arguments, service="operator", **options):
        """A client command; CompletedProcess."""
        return self.execute(service, "fermata", *arguments, **options)

    def json(self, *arguments, service="operator", **options):
        return json.loads(
            self.fermata(*arguments, "--output", "json", service=service, **options).stdout)

    def annotations(self):
        return self.json("annotations", "--limit", "1000", "--database",
                         "/var/lib/fermata/notifier.sqlite", service="notifier")

    def logs(self):
        done = self.compose("logs", "--tail", "40", check_code=False)
        return done.stdout + done.stderr

    # ---- the story ----

    def up(self):
        say(f"{self.kind}: docker-compose up")
        self.compose("up", "-d", "--no-build")
        services = self.compose("config", "--services").stdout.split()
        for service in sorted(set(services) - {"pki"}):
            wait_until(lambda s=service: self.state(s) == (True, "healthy"), 300,
                       f"{service} to be healthy")
        check(True, f"{self.kind}: all {len(services)} services are healthy")
        for service in ("notifier", "agent-a"):
            self.execute(service, "grep", "-q", "BEGIN CERTIFICATE", "/etc/ssl/certs/ca-certificates.crt")
        check(True, f"{self.kind}: both images know certificate authorities")
        wait_until(lambda: self.json("status", check_code=False)["runningGuestCount"] == 6
                   if self.fermata("status", check_code=False).returncode == 0 else False, 180,
                   "six running guests")
        for guest in GUESTS:
            wait_until(lambda g=guest: self.try_ask(g, "report"), 180, f"{guest} to answer")
        check(True, f"{self.kind}: six guests run and answer at their own addresses")

    def ask(self, guest, line, seconds=60):
        """One request to a guest's probe; its answer."""
        with socket.create_connection((GUESTS[guest], 7000), 5) as connection:
            connection.settimeout(seconds)
            connection.sendall(line.encode() + b"\n")
            answer = connection.makefile().readline()
        if not answer:
            raise ConnectionError(f"{guest} closed the connection")
        return json.loads(answer)

    def try_ask(self, guest, line):
        try:
            return self.ask(guest, line, 5)
        except (OSError, ValueError):
            return None

    def hypervisor_rollout(self):
        """All guests go to the other QEMU."""
        with open(self.podman.cache / "qemu" / "new" / "env.json") as file:
            new = json.load(file)
        before = {guest: self.ask(guest, "report") for guest in GUESTS}
        self.fermata("release", "add", "new", "--version", new["version"],
                     "--path", "/opt/qemu/new/bin/qemu-system-x86_64",
                     "--module-directory", "/opt/qemu/new/modules",
                     *[w for d in new["dataDirectories"] for w in ("--data-directory", d)])
        done = self.fermata("rollout", "start", "--release", "new", "--parallelism", "1",
                            "--watch", check_code=False)
        check(done.returncode == 0, f"{self.kind}: the rollout of QEMU {new['version']} succeeds "
              f"(exit code {done.returncode}) {done.stderr if done.returncode else ''}")
        self.check_guests(before)
        self.check_annotations(1, "hypervisor")
        versions = {g["hypervisorVersion"] for g in self.json("guests")}
        check(versions == {new["version"]}, f"{self.kind}: every guest runs on {new['version']}")

    def check_guests(self, before):
        after = {guest: self.ask(guest, "report") for guest in GUESTS}
        check(all(after[g]["bootId"] == before[g]["bootId"] for g in GUESTS),
              f"{self.kind}: no guest has booted")
        check(all(after[g]["counter"] > before[g]["counter"] for g in GUESTS),
              f"{self.kind}: every guest has counted on")
        check(all(self.ask(g, "verify")["memoryIntact"] for g in GUESTS),
              f"{self.kind}: the memory of every guest is intact")
        check(all(after[g]["diskOk"] is True for g in GUESTS), f"{self.kind}: and its disk")

    def check_annotations(self, rollout, what):
        """Exactly one for each guest and hold of the rollout."""
        holds = [(h["guest"], h["heldAt"], h["holdMilliseconds"])
                 for step in self.json("rollout", "show", str(rollout))["steps"]
                 for h in step["holds"]]
        check(sorted(g for g, _, _ in holds) == sorted(GUESTS),
              f"{self.kind}: every guest was held once ({what})")

        def mine():
            return [(a["guest"], a["heldAt"], a["holdMilliseconds"]) for a in self.annotations()
                    if a["rollout"] in (rollout, f"rollout-{rollout}")]
        wait_until(lambda: len(mine()) >= len(holds), 20, f"the annotations; there are {mine()}")
        check(sorted(mine()) == sorted(holds), f"{self.kind}: exactly one annotation for each hold")
        longest = max(milliseconds for _, _, milliseconds in holds)
        check(longest <= DEADLINE_MILLISECONDS, f"{self.kind}: the longest hold was "
              f"{longest:.0f} ms, the deadline {DEADLINE_MILLISECONDS} ms")
        return holds

    def leader(self):
        """The service that leads."""
        name = self.json("status")["leader" if self.kind == "ha" else "server"]
        return "server" if self.kind == "single" else f"server-{name.removeprefix('s')}"

    def death_in_a_hold(self):
        """Every host's guests are held for a while; in the first hold the leader's container dies."""
        before = {guest: self.ask(guest, "report") for guest in GUESTS}
        self.fermata("release", "add", "pause", "--component", "network", "--file",
                     "/releases/pause.yaml")
        leader = self.leader()
        self.fermata("rollout", "start", "--release", "pause", "--parallelism", "1", "--deadline",
                     f"{DEADLINE_MILLISECONDS // 1000}s")
        held = wait_until(self.held, 60, "the first hold", interval=0.05)
        self.chaos("kill", leader)
        check(not self.state(leader)[0], f"{self.kind}: {leader} is dead")
        killed_at = self.ended_at(leader)
        wait_until(lambda: not self.is_held(held), DEADLINE_MILLISECONDS / 1000,
                   f"{held} to go on")
        check(True, f"{self.kind}: {held} has gone on")
        if self.kind == "single":
            self.chaos("start", leader)
        else:
            wait_until(lambda: self.fermata("status", check_code=False).returncode == 0, 30,
                       "another server to lead")
            check(self.leader() != leader, f"ha: {self.leader()} leads now")
        self.finish_rollout(2)
        self.check_guests(before)
        holds = self.check_annotations(2, "the leader killed meanwhile")
        spans = [(instant(at), instant(at) + milliseconds / 1000) for _, at, milliseconds in holds]
        check(any(begin < killed_at < end for begin, end in spans),
              f"{self.kind}: {leader} died within a hold")
        shortest = min(milliseconds for _, _, milliseconds in holds)
        check(shortest >= PAUSE_SECONDS * 1000,
              f"{self.kind}: and its true length: none below {shortest:.0f} ms")
        if self.kind == "ha":
            self.chaos("start", leader)
            wait_until(lambda: self.state(leader) == (True, "healthy"), 60,
                       f"{leader} to be healthy again")
            check(True, f"ha: {leader} is back, as a standby")

    def death_of_a_host(self):
        """Its container is killed and started again, as a power cut does: its guests boot by themselves."""
        before = {guest: self.ask(guest, "report") for guest in GUESTS}
        self.chaos("kill", "agent-a")
        check(not self.state("agent-a")[0], f"{self.kind}: agent-a is dead, and its guests with it")
        self.chaos("start", "agent-a")
        mine = ("db-0", "web-0")
        for guest in mine:
            report = wait_until(lambda g=guest: self.try_ask(g, "report"), 180,
                                f"{guest} to answer again")
            check(report["bootId"] != before[guest]["bootId"], f"{self.kind}: {guest} has booted")
        wait_until(lambda: self.state("agent-a") == (True, "healthy"), 120,
                   "agent-a to be healthy again")
        wait_until(lambda: self.json("status")["runningGuestCount"] == 6, 60, "six running guests")
        others = {guest: report for guest, report in before.items() if guest not in mine}
        check(all(self.ask(g, "report")["bootId"] == r["bootId"] for g, r in others.items()),
              f"{self.kind}: agent-a is back, and no guest of another host has booted")

    def finish_rollout(self, number):
        def look():
            done = self.fermata("rollout", "show", str(number), "--output", "json",
                                check_code=False)
            rollout = json.loads(done.stdout) if done.returncode == 0 else {"state": "?"}
            return rollout if rollout["state"] in ("succeeded", "failed", "cancelled") else None
        rollout = wait_until(look, 180, "the rollout to end", interval=1)
        check(rollout["state"] == "succeeded", f"{self.kind}: the rollout goes on and succeeds "
              f"({rollout['state']} {rollout['reason'] or ''})")

    def held(self):
        """A guest that is held at this moment, or None: a slow one has a second try."""
        return next((g for g in GUESTS if self.is_held(g) and self.is_held(g)), None)

    def is_held(self, guest):
        """Whether it does not answer: no server and no agent is asked."""
        try:
            with socket.create_connection((GUESTS[guest], 7000), 0.7) as connection:
                connection.settimeout(0.7)
                connection.sendall(b"ping 1\n")
                return not connection.recv(100)
        except TimeoutError:
            return True
        except OSError:
            return False

    def down(self):
        say(f"{self.kind}: docker-compose down --volumes")
        self.compose("down", "--volumes", "--timeout", "5")
        left = self.podman.podman("ps", "--all", "--quiet").split()
        check(not left, f"{self.kind}: no container is left")


def story(directory, options):
    os.environ.pop("DOCKER_HOST", None)
    with Engine(directory, options.cache, say) as podman:
        podman.make_bases(pinned("debian"), pinned("swift"), pinned("etcd"))
        for target, name in IMAGES.items():
            if options.no_build and podman.has_image(name):
                continue
            say(f"building {name}")
            podman.build(name, target)
        sizes = {target: podman.image_megabytes(name) for target, name in IMAGES.items()}
        check(sizes["fermata"] <= IMAGE_MEGABYTES_MAX,
              f"the image fermata has {sizes['fermata']:.0f} MB (at most {IMAGE_MEGABYTES_MAX}); "
              f"fermata-agent {sizes['fermata-agent']:.0f} MB")
        if options.build_only:
            return 0
        podman.enter_network()
        podman.serve()
        for kind in [options.only] if options.only else ["single", "ha"]:
            cluster = Compose(podman, kind)
            try:
                cluster.up()
                cluster.hypervisor_rollout()
                cluster.death_in_a_hold()
                cluster.death_of_a_host()
            except BaseException:
                print(cluster.logs(), file=sys.stderr, flush=True)
                raise
            cluster.down()
    say("all is well")
    return 0


def run(directory, options):
    try:
        return story(directory, options)
    except (EngineError, lab.LabError, subprocess.TimeoutExpired) as error:
        print(f"test-compose: {error}", file=sys.stderr)
        return 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--cache", required=True, help="where `make lab` has put guest/ and qemu/")
    parser.add_argument("--only", choices=["single", "ha"], help="only this cluster")
    parser.add_argument("--build-only", action="store_true", help="only the images")
    parser.add_argument("--no-build", action="store_true", help="with the images that are there")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("test-compose: needs root, for namespaces")
    sys.exit(engine.isolated(run, (options,)))


if __name__ == "__main__":
    main()
