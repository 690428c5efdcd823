"""A whole Fermata cluster on this computer: for the demo, the benchmarks and the integration tests.

Happy path: `with Cluster(fermata, cache, guests) as c: c.start()` makes a PKI, a network namespace for
the middle and one for each host, host files, disks; starts server, notifier and agents; waits until
every guest answers; then `c.cli("status")`, `c.server.kill()`, `c.ask("db-0", "verify")`, …

As root the guests hang on taps:

    middle (server, notifier, CLI, watcher)   bridge br0 10.77.0.1/16, server at :7450
       │ veth                 │ veth                │ veth
    host a: br0 10.77.0.11    host b: .12           host c: .13      agent, QEMUs
       │ taps                 │                     │
    guests 10.77.1.10 and up

Without root there are no namespaces: everything is on 127.0.0.1 and the guests have QEMU's user-mode
networking with forwarded ports.

Failure modes: whatever goes wrong, `close()` ends every process that came from here (known by pid, or
by the mark FERMATA_LAB or the run directory in its environment), deletes the namespaces, and removes
both directories. At its end the process that made the cluster closes it, unless `leave` has been
called. `end(DIRECTORY)` does the same for a cluster that somebody left running.

Everything lives below one directory, /tmp/fm-XXXXXXXX; what has to be on tmpfs (RAM, sockets) below
/dev/shm/fm-XXXXXXXX.
"""
import atexit
import contextlib
import ctypes
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
CLONE_NEWNET = 0x40000000
# Whoever waits for something on a busy computer waits at least this long.
PATIENCE_SECONDS = 90
libc = ctypes.CDLL(None, use_errno=True)


class LabError(Exception):
    """The cluster could not be made or does not do what it should; says what and where to look."""


def wait_until(condition, seconds=30, what="the condition", interval=0.05):
    """Asks again and again until `condition()` is true, and returns what it gave.

    `seconds` is what a computer with time to spare needs at most. One that is busy is given more:
    what must be so within a time is measured and asserted by the test that wants it.
    """
    began = time.monotonic()
    patience = max(seconds, PATIENCE_SECONDS)
    while True:
        value = condition()
        waited = time.monotonic() - began
        if value:
            if waited > seconds:
                print(f"slow: {waited:.1f} s, not {seconds}: {what}", file=sys.stderr, flush=True)
            return value
        if waited > patience:
            raise LabError(f"waited {patience:.0f} s in vain: {what}")
        time.sleep(interval)


def tail(path, count=15):
    """The last lines of a log, for messages."""
    try:
        with open(path, errors="replace") as file:
            return "".join(file.readlines()[-count:]).rstrip()
    except OSError:
        return ""


# ---- processes -------------------------------------------------------------------------------


def processes(matches):
    """(pid, environment) of every process whose environment (a dict) matches."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            raw = pathlib.Path("/proc", name, "environ").read_bytes()
        except OSError:
            continue
        environment = dict(entry.split("=", 1) for entry in raw.decode(errors="replace").split("\0")
                           if "=" in entry)
        if matches(environment):
            found.append((int(name), environment))
    return found


def kill(pid, matches):
    """SIGKILL, through a pidfd, to the process that still matches. Returns whether there was one."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if pid in [p for p, _ in processes(matches)]:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            return True
    except OSError:
        pass
    finally:
        os.close(descriptor)
    return False


def state_of(pid):
    """The letter of /proc/PID/stat: R, S, T (stopped), Z, …; None if there is no such process."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return None


def is_gone(pid):
    """It has ended; perhaps nobody has waited for it."""
    return state_of(pid) in (None, "Z", "X")


class Daemon:
    """One process of the cluster that stays: started, killed, stopped, started again.

    Its output goes to DIRECTORY/log/NAME.out and .err, over all its lives.
    """

    def __init__(self, cluster, name, arguments, ready=None, namespace=None):
        self.cluster, self.name, self.arguments = cluster, name, arguments
        self.ready_text, self.namespace = ready, namespace
        self.process = None
        self.out = cluster.directory / "log" / f"{name}.out"
        self.err = cluster.directory / "log" / f"{name}.err"
        self.begun_at = 0                       # where this life's output begins

    def start(self, wait=True, seconds=60, environment=None):
        """Starts it and, unless told otherwise, waits for its ready line."""
        assert not self.is_running, f"{self.name} runs already"
        self.begun_at = self.out.stat().st_size if self.out.exists() else 0
        with open(self.out, "ab") as out, open(self.err, "ab") as err:
            self.process = subprocess.Popen(
                self.cluster.inside(self.namespace) + [str(a) for a in self.arguments],
                stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True,
                cwd="/", env=self.cluster.environment | (environment or {}))
        self.cluster.save()
        if wait:
            self.wait_ready(seconds)
        return self

    def wait_ready(self, seconds=60):
        """Waits for the line that says it is ready; returns that line."""
        return self.wait_line(self.ready_text, seconds)

    def wait_line(self, text, seconds=60):
        """Waits until a line of this life's stdout has `text`; returns it."""
        def look():
            line = next((l for l in self.output().splitlines() if text in l), None)
            if line is None and self.process.poll() is not None:
                raise LabError(f"{self.name} ended with {self.process.returncode} before it was "
                               f"ready:\n{tail(self.err)}")
            return line
        try:
            return wait_until(look, seconds, f"{self.name} to say '{text}'")
        except LabError as error:
            raise LabError(f"{error}\n{tail(self.err)}") from None

    def output(self):
        """This life's stdout."""
        with open(self.out, errors="replace") as file:
            file.seek(self.begun_at)
            return file.read()

    @property
    def pid(self):
        return self.process.pid

    @property
    def is_running(self):
        return self.process is not None and self.process.poll() is None

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        """kill −9, and waits for the end."""
        if self.is_running:
            self.process.kill()
        return self.wait()

    def stop(self, seconds=10):
        """SIGTERM, and waits for the end; kill −9 if it takes too long."""
        if self.is_running:
            self.process.terminate()
            try:
                return self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.wait()

    def wait(self, seconds=30):
        """Waits for its end; returns the exit code, negative for a signal."""
        return self.process.wait(seconds) if self.process else None


# ---- what a cluster is made of ---------------------------------------------------------------


class Guest:
    """One guest as it will stand in its host's file. memory and pattern in MiB.

    update_domain None leaves the place to the leader, set None makes it a guest of no set;
    agent False leaves the guest agent out of guest and file; `file_agent` tells the file something
    else than the truth. tick: µs between two looks at the clock inside the guest; an emulated guest
    that looks each millisecond takes a third of a core for it. `words` go onto its kernel's command
    line. `extra` is appended to the guest's entry, YAML with 4 spaces.
    """

    def __init__(self, name, host, set=None, update_domain=None, memory=256, pattern=32,
                 agent=True, file_agent=None, disk=True, extra="", probe=True, tick=4000, words=""):
        self.name, self.host, self.set, self.update_domain = name, host, set, update_domain
        self.memory, self.pattern, self.agent, self.disk = memory, pattern, agent, disk
        self.file_agent = agent if file_agent is None else file_agent
        self.extra, self.probe, self.tick, self.words = extra, probe, tick, words
        self.address = None                     # (address, port) of its probe, as we reach it
        self.ip = None


def free_port(taken=set()):  # noqa: B006 (shared on purpose: no port is given out twice)
    """A TCP port of 127.0.0.1 that nobody listens on."""
    while True:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        if port not in taken:
            taken.add(port)
            return port


def installation(cache, name):
    """One of the two QEMU installations, "old" or "new": what install.sh wrote into its env.json."""
    with open(pathlib.Path(cache) / "qemu" / name / "env.json") as file:
        return json.load(file)


def refusing_qemu(program):
    """The text of a script that is this QEMU, but with other PCI registers for the disk: it starts and
    waits, and then the state of a guest does not fit."""
    return ("#!/usr/bin/python3\nimport os, sys\na = sys.argv[1:]\n"
            "i = next(i for i, w in enumerate(a) if w.startswith('virtio-blk-pci'))\n"
            "a[i] += ',disable-modern=on'\n"
            f"os.execv({program!r}, ['qemu'] + a)\n")


def may_use_taps():
    """Whether namespaces, bridges and taps can be had; else user-mode networking it is."""
    return os.geteuid() == 0 and os.path.exists("/dev/net/tun") and shutil.which("ip") is not None


class Cluster:
    """Server, notifier, hosts with their agents, guests, and a watcher. See the top of this file."""

    def __init__(self, fermata, cache, guests, net=None, update_domains=None, cluster="demo",
                 say=lambda text: None, log_level="info", keep_directory=False, directory=None):
        self.fermata, self.cache = str(pathlib.Path(fermata).resolve()), pathlib.Path(cache).resolve()
        self.guests = {g.name: g for g in guests}
        self.hosts = sorted({g.host for g in guests})
        self.net = net or ("tap" if may_use_taps() else "user")
        self.update_domains, self.name = update_domains or {}, cluster
        self.say, self.log_level, self.keep_directory = say, log_level, keep_directory
        self.old, self.new = installation(self.cache, "old"), installation(self.cache, "new")
        self.directory = pathlib.Path(directory or tempfile.mkdtemp(prefix="fm-", dir="/tmp"))
        self.tag = self.directory.name
        self.shm = pathlib.Path("/dev/shm", self.tag)
        self.namespaces, self.mounts = [], []
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("FERMATA")}
        self.environment["FERMATA_LAB"] = self.tag
        self.server = self.notifier = self.watcher = None
        self.agents = {}
        self.server_address = None
        self.closed, self.owner = False, os.getpid()
        if directory is None:
            # unittest runs no cleanup after a KeyboardInterrupt; this is run after whatever it was.
            atexit.register(self.close)

    def leave(self):
        """It stays when this process ends."""
        atexit.unregister(self.close)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # ---- making ----

    def start(self):
        """Everything, until every guest answers."""
        self.prepare()
        self.start_server()
        self.start_notifier()
        self.start_agents()
        self.start_watcher()
        self.wait_guests()
        return self

    def prepare(self):
        """Directories, network, PKI, disks and host files; starts nothing."""
        for path in ("log", "watch"):
            (self.directory / path).mkdir()
        self.shm.mkdir(mode=0o700)
        self.save()
        if self.net == "tap":
            self.make_network()
        self.address_guests()
        self.make_pki()
        for guest in self.guests.values():
            if guest.disk:
                self.run("qemu-img", "create", "-q", "-f", "qcow2", self.disk(guest), "64M")
        for host in self.hosts:
            self.host_file(host).write_text(self.host_file_text(host))

    def run(self, *arguments, namespace=None):
        """A command that has to succeed."""
        command = self.inside(namespace) + [str(a) for a in arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False,
                              stdin=subprocess.DEVNULL, env=self.environment)
        if done.returncode != 0:
            raise LabError(f"{' '.join(command)}\n  ended with {done.returncode}: "
                           f"{done.stderr.strip()}")
        return done.stdout

    def inside(self, namespace):
        """The beginning of a command line that is to run in a namespace of ours."""
        if namespace is None or self.net != "tap":
            return []
        # `ip` gives it a /sys of its own, without the cgroups that agents make for commands. These
        # are named by step, and another cluster of this computer has steps of that name, too.
        return ["ip", "netns", "exec", f"{self.tag}-{namespace}", "sh", "-c",
                "mount -t cgroup2 none /sys/fs/cgroup 2>/dev/null; "
                f"mkdir -p /sys/fs/cgroup/{self.tag} && echo 0 > /sys/fs/cgroup/{self.tag}/cgroup.procs; "
                "exec \"$@\"", "sh"]

    def make_network(self):
        self.add_namespace("middle")
        self.ip("middle", "link add br0 address 02:fe:00:00:00:01 type bridge",
                "addr add 10.77.0.1/16 dev br0", "link set br0 up")
        for number, host in enumerate(self.hosts, start=11):
            self.add_namespace(host)
            self.ip("middle", f"link add to-{host} type veth peer name uplink netns {self.tag}-{host}",
                    f"link set to-{host} master br0 up")
            # The bridge's address is fixed: a tap that joins could change it otherwise.
            self.ip(host, f"link add br0 address 02:fe:00:00:00:{number:02x} type bridge",
                    "link set uplink master br0 up", f"addr add 10.77.0.{number}/16 dev br0",
                    "link set br0 up")

    def add_namespace(self, name):
        self.namespaces.append(f"{self.tag}-{name}")
        self.save()
        self.run("ip", "netns", "add", f"{self.tag}-{name}")
        self.ip(name, "link set lo up")

    def ip(self, namespace, *commands):
        for command in commands:
            self.run("ip", *command.split(), namespace=namespace)

    def address_guests(self):
        for number, guest in enumerate(self.guests.values(), start=10):
            if self.net == "tap":
                guest.ip, guest.address = f"10.77.1.{number}", (f"10.77.1.{number}", 7000)
            else:
                guest.ip, guest.address = "dhcp", ("127.0.0.1", free_port())

    def make_pki(self):
        pki = self.directory / "pki"
        self.run(self.fermata, "pki", "init", "--directory", pki, "--cluster", self.name)
        for role, name in [("server", "s1"), ("notifier", "n1"), ("operator", "alice")] \
                + [("agent", host) for host in self.hosts]:
            self.run(self.fermata, "pki", "issue", role, name, "--directory", pki)

    def credentials(self, name):
        return self.directory / "pki" / name

    # ---- host files ----

    def disk(self, guest):
        return self.directory / f"{guest.name}.qcow2"

    def host_file(self, host):
        return self.directory / f"host-{host}.yaml"

    def run_directory(self, host):
        return self.shm / host

    def hypervisor_text(self, installed):
        return (f"  path: {installed['path']}\n  version: \"{installed['version']}\"\n"
                f"  moduleDirectory: {installed['moduleDirectory']}\n"
                f"  dataDirectories: [{', '.join(installed['dataDirectories'])}]\n")

    def host_file_text(self, host):
        sets = "".join(f"  {name}: {{updateDomains: {count}}}\n"
                       for name, count in self.update_domains.items())
        text = (f"host: {host}\nrunDirectory: {self.run_directory(host)}\n"
                f"stateDirectory: {self.directory}/state-{host}\n"
                f"memoryDirectory: {self.run_directory(host)}/memory\naccelerator: tcg\n"
                f"hypervisor:\n{self.hypervisor_text(self.old)}"
                + (f"availabilitySets:\n{sets}" if sets else "") + "guests:\n")
        return text + "".join(self.guest_text(g) for g in self.guests.values() if g.host == host)

    def guest_text(self, guest):
        images = self.cache / "guest"
        command_line = (images / "cmdline").read_text().strip()
        command_line += f" fermata.ip={guest.ip}{'/16' if guest.ip != 'dhcp' else ''}"
        command_line += f" fermata.pattern={guest.pattern} fermata.tick={guest.tick}" + ("" if guest.agent
                                                               else " fermata.agent=off")
        command_line += f" {guest.words}" if guest.words else ""
        lines = [f"  - id: {guest.name}"]
        if guest.set is not None:
            lines.append(f"    set: {guest.set}")
        if guest.update_domain is not None:
            lines.append(f"    updateDomain: {guest.update_domain}")
        lines += [f"    memory: {guest.memory}MiB", f"    kernel: {images}/vmlinuz",
                  f"    initrd: {images}/initrd", f"    commandLine: \"{command_line}\""]
        if guest.disk:
            lines += ["    disks:", f"      - {{path: {self.disk(guest)}, format: qcow2}}"]
        lines.append("    nics:")
        if self.net == "tap":
            lines.append(f"      - {{tap: {self.tap(guest)}, bridge: br0}}")
        else:
            lines.append(f"      - user: {{forwards: [\"127.0.0.1:{guest.address[1]}-:7000\"]}}")
        if not guest.file_agent:
            lines.append("    guestAgent: false")
        if guest.probe:
            lines.append(f"    probe: {{tcp: \"{guest.address[0]}:{guest.address[1]}\", "
                         "timeout: 10s}")
        return "\n".join(lines) + "\n" + guest.extra

    def tap(self, guest):
        return f"fm-{guest.name}"[:15]

    # ---- starting ----

    def start_server(self, listen=None):
        if listen is None:
            listen = "10.77.0.1:7450" if self.net == "tap" else f"127.0.0.1:{free_port()}"
        self.server_address = listen
        self.server = Daemon(
            self, "server", [self.fermata, "server", "--credentials", self.credentials("server-s1"),
                             "--data", self.directory / "server", "--listen", listen,
                             "--log-level", self.log_level],
            "fermata server ready", "middle")
        return self.server.start()

    def start_notifier(self):
        self.notifier = self.make_notifier()
        return self.notifier.start()

    def make_notifier(self):
        return Daemon(
            self, "notifier",
            [self.fermata, "notifier", "--credentials", self.credentials("notifier-n1"),
             "--server", self.server_address, "--database", self.database,
             "--append", self.directory / "annotations.jsonl", "--log-level", self.log_level],
            "fermata notifier ready", "middle")

    @property
    def database(self):
        return self.directory / "notifier.sqlite"

    def start_agents(self, hosts=None):
        """All at once, since a guest takes seconds to boot."""
        for host in hosts or self.hosts:
            self.agents[host] = self.make_agent(host).start(wait=False)
        for host in hosts or self.hosts:
            self.agents[host].wait_ready()

    def make_agent(self, host):
        return Daemon(
            self, f"agent-{host}",
            [self.fermata, "agent", "--host-file", self.host_file(host), "--credentials",
             self.credentials(f"agent-{host}"), "--server", self.server_address, "--log-level",
             self.log_level],
            "fermata agent ready", host)

    # Seconds without an answer after which the watcher connects again: a hold may last 30 s.
    watcher_silence = 60

    def start_watcher(self):
        targets = [f"{g.name}={g.address[0]}:{g.address[1]}" for g in self.guests.values()]
        self.watcher = Daemon(
            self, "watcher", ["/usr/bin/python3", HERE / "guest_watch.py",
                              "--silence", self.watcher_silence, "--stay", self.directory / "watch", *targets], namespace="middle")
        self.watcher.start(wait=False)

    def wait_guests(self, seconds=120):
        """Until the probe of every guest answers and the leader knows every guest as running."""
        for guest in self.guests:
            wait_until(lambda g=guest: self.try_ask(g, "report"), seconds,
                       f"guest {guest} to answer at {self.guests[guest].address}")
        wait_until(lambda: self.cli_json("status")["runningGuestCount"] == len(self.guests),
                   seconds, "the leader to know every guest as running")
        if self.watcher:
            wait_until(lambda: all(g["connected"] for g in self.watch_status().values()), seconds,
                       "the watcher to be connected to every guest")

    # ---- asking ----

    def cli(self, *arguments, timeout=120):
        """A client command as operator alice, in the middle; CompletedProcess with text."""
        environment = self.environment | self.client_environment()
        return subprocess.run(
            self.inside("middle") + [self.fermata, *map(str, arguments)], capture_output=True,
            text=True, stdin=subprocess.DEVNULL, env=environment, timeout=timeout, check=False)

    def client_environment(self):
        return {"FERMATA_SERVER": self.server_address,
                "FERMATA_CREDENTIALS": str(self.credentials("operator-alice")),
                "FERMATA_NOTIFIER_DATABASE": str(self.database)}

    def cli_json(self, *arguments, timeout=120):
        """A client command that has to succeed, with --output json."""
        done = self.cli(*arguments, "--output", "json", timeout=timeout)
        if done.returncode != 0:
            raise LabError(f"fermata {' '.join(map(str, arguments))}\n"
                           f"  ended with {done.returncode}: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def add_release(self, name, installed, **changes):
        """`release add` for one of the installations; `changes` replace what it says."""
        r = installed | changes
        arguments = ["release", "add", name, "--component", "hypervisor", "--version", r["version"],
                     "--path", r["path"], "--sha256", r["sha256"]]
        if r.get("moduleDirectory"):
            arguments += ["--module-directory", r["moduleDirectory"]]
        for directory in r["dataDirectories"]:
            arguments += ["--data-directory", directory]
        return self.cli_json(*arguments)

    def annotations(self):
        """What the notifier has recorded."""
        return self.cli_json("annotations", "--limit", "100000")

    @contextlib.contextmanager
    def in_namespace(self, name):
        """This thread is in a namespace of ours: what it connects or binds is there."""
        if self.net != "tap":
            yield
            return
        with open("/proc/thread-self/ns/net") as here, \
                open(f"/run/netns/{self.tag}-{name}") as there:
            if libc.setns(there.fileno(), CLONE_NEWNET) != 0:
                raise LabError(f"cannot enter the namespace {name}: {os.strerror(ctypes.get_errno())}")
            try:
                yield
            finally:
                libc.setns(here.fileno(), CLONE_NEWNET)

    def ask(self, guest, line, seconds=60):
        """One request to a guest's probe over a connection of its own; its answer."""
        with self.in_namespace("middle"):
            connection = socket.create_connection(self.guests[guest].address, 5)
        with connection:
            connection.settimeout(seconds)
            connection.sendall(line.encode() + b"\n")
            answer = connection.makefile().readline()
        if not answer:
            raise ConnectionError(f"{guest} closed the connection")
        return json.loads(answer) if answer.startswith("{") else answer.strip()

    def try_ask(self, guest, line):
        """The same, None if it does not answer."""
        try:
            return self.ask(guest, line, 5)
        except (OSError, ValueError):
            return None

    def watch_status(self):
        """What the watcher sees of each guest."""
        try:
            with open(self.directory / "watch" / "status.json") as file:
                return json.load(file)["guests"]
        except (OSError, ValueError):
            return {g: {"connected": False, "connections": 0, "answers": 0} for g in self.guests}

    def watch_gaps(self):
        """Every gap so far: {"guest", "from" (µs), "milliseconds"}."""
        with open(self.directory / "watch" / "gaps.jsonl") as file:
            return [json.loads(line) for line in file]

    def qemus(self, guest=None):
        """(pid, environment) of the QEMU processes of this cluster, or of one guest of it."""
        return [(pid, e) for pid, e in processes(
            lambda e: e.get("FERMATA_RUN", "").startswith(f"{self.shm}/"))
            if guest in (None, e.get("FERMATA_GUEST"))]

    def guards(self):
        """The pids of the guards of this cluster."""
        found = []
        for pid, _ in processes(lambda e: e.get("FERMATA_LAB") == self.tag):
            try:
                words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"guard" in words[1:2] and not is_gone(pid):
                found.append(pid)
        return found

    # ---- ending ----

    def save(self):
        """What `end` needs, should this process not live to clean up."""
        (self.directory / "lab.json").write_text(json.dumps(
            {"tag": self.tag, "shm": str(self.shm), "namespaces": self.namespaces,
             "mounts": self.mounts}))

    def close(self):
        """Ends everything and removes it. Twice does no harm, nor in a child that was forked."""
        with uninterrupted():
            if self.closed or os.getpid() != self.owner:
                return
            self.closed = True
            self.end_parts()
            for daemon in self.everybody():
                if daemon.is_running:
                    daemon.process.kill()
            if self.directory.exists():             # else somebody has called `end`
                Cluster.save(self)                  # it may not have come to its first
                end(self.directory, self.keep_directory)
            for daemon in self.everybody():
                if daemon.process:
                    daemon.wait()

    def end_parts(self):
        """What a kind of cluster has to end of its own before all the rest."""

    def everybody(self):
        """Every daemon there is."""
        return [d for d in (self.watcher, *self.agents.values(), self.notifier, self.server) if d]


@contextlib.contextmanager
def uninterrupted():
    """SIGINT and SIGTERM wait until the end: cleaning up must not be cleaned up after."""
    numbers, came, handlers = (signal.SIGINT, signal.SIGTERM), [], {}
    old = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    if threading.current_thread() is threading.main_thread():
        # Another thread may be given the signal; Python's handler would run in this one all the same.
        handlers = {n: signal.signal(n, lambda number, _: came.append(number)) for n in numbers
                    if signal.getsignal(n) not in (signal.SIG_IGN, None)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
        if came:
            signal.raise_signal(came[0])


def remove_cgroups(tag, deadline):
    """Those of a cluster, wherever this computer shows cgroups. A process that was just killed may be
    in one until it has left, but not after `deadline`."""
    for line in pathlib.Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if kind == "cgroup2":
            while os.path.exists(f"{place}/{tag}"):
                for path, _, _ in os.walk(f"{place}/{tag}", topdown=False):
                    with contextlib.suppress(OSError):
                        os.rmdir(path)
                if time.monotonic() > deadline:
                    break
                time.sleep(0.02)


def end(directory, keep_directory=False):
    """Ends the cluster whose directory this is, whoever started it, and removes what it had.

    Throws a LabError, after all the rest, if processes do not end.
    """
    directory = pathlib.Path(directory)
    try:
        lab = json.loads((directory / "lab.json").read_text())
    except (OSError, ValueError) as error:
        raise LabError(f"{directory} is not the directory of a cluster: {error}") from None

    def is_ours(environment):
        return environment.get("FERMATA_LAB") == lab["tag"] \
            or environment.get("FERMATA_RUN", "").startswith(f"{lab['shm']}/")

    def daemons():
        """What else is in the namespaces: daemons that a release's commands have left there."""
        found = set()
        for namespace in lab["namespaces"]:
            done = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True,
                                  check=False)
            found |= set(map(int, done.stdout.split()))
        return found - {os.getpid()}

    # Again until none is left: a guard might just be starting.
    deadline = time.monotonic() + 20
    while left := processes(is_ours):
        for pid, _ in left:
            kill(pid, is_ours)
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    for pid in daemons():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for namespace in lab["namespaces"]:
        subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)
    remove_cgroups(lab["tag"], deadline)
    for mount in reversed(lab.get("mounts", ())):
        # A process that was just killed may still be leaving.
        while subprocess.run(["umount", mount], capture_output=True, check=False).returncode \
                and os.path.ismount(mount):
            if time.monotonic() > deadline:
                subprocess.run(["umount", "-l", mount], capture_output=True, check=False)
                break
            time.sleep(0.05)
    shutil.rmtree(lab["shm"], ignore_errors=True)
    if not keep_directory:
        shutil.rmtree(directory, ignore_errors=True)
    if left:
        raise LabError(f"these processes do not end: {[pid for pid, _ in left]}")
