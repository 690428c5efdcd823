"""Three servers, three etcd members and the hosts of lab.py, each in a network namespace of its own.

Happy path: `with HACluster(fermata, cache, guests) as c: c.start()`; then `c.leader()`,
`c.servers["s1"].kill()`, `c.cut("s1", "e1")`, `c.heal()`, `c.members["e2"].slow_disk(500)`, …

    middle (notifier, CLI, watcher)  bridge br0 10.77.0.1/16
       │ veth to each of
    hosts a, b, c    10.77.0.11, .12, …   agent, QEMUs
    servers s1 … s3  10.77.0.21, .22, …   fermata server, port 7450
    etcd e1 … e3     10.77.0.31, .32, …   client port 2379, peer port 2380

A cut is a rule of the receiving side's firewall that drops what comes from the other: nobody is told, as
when a cable is pulled, and each direction can be cut alone. Wants root.

Failure modes: as lab.py, whose `end` also unmounts. A cluster that somebody left running is taken up
again by `HACluster.load(DIRECTORY)`.
"""
import json
import os
import pathlib
import signal
import subprocess
import time

import lab
from etcd_lab import EtcdMember
from lab import Cluster, Daemon, LabError, may_use_taps, wait_until

PORT = 7450
SERVERS = ("s1", "s2", "s3")
MEMBERS = ("e1", "e2", "e3")

# What the wall clock says to a process, its certificates' checks included, is off by so many seconds.
CLOCK_SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static long long off(void) {
    static long long seconds;
    static int known;
    if (!known) {
        const char *text = getenv("LAB_CLOCK_OFF");
        seconds = text ? atoll(text) : 0;
        known = 1;
    }
    return seconds;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) now->tv_sec += off();
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec time;
    int result = clock_gettime(CLOCK_REALTIME, &time);
    (void)zone;
    now->tv_sec = time.tv_sec;
    now->tv_usec = time.tv_nsec / 1000;
    return result;
}

time_t time(time_t *to) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (to) *to = now.tv_sec;
    return now.tv_sec;
}
"""


class ServerPart(Daemon):
    """One of several servers: ready as the leader or as a standby."""

    def __init__(self, cluster, name, address, arguments):
        super().__init__(cluster, name, arguments, "fermata server ready", name)
        self.address = address

    def last_word(self):
        """The last line by which it said in this life whether it leads; "" if there is none."""
        lines = [l for l in self.output().splitlines() if l.startswith("fermata server ")]
        return lines[-1] if lines else ""

    def has_led(self):
        """In this life, up to its last word; it may have died since."""
        return "term " in self.last_word()

    def says_it_leads(self):
        return self.is_running and self.has_led()

    def terms(self):
        """The terms in which it led, over all its lives."""
        with open(self.out, errors="replace") as file:
            return [int(l.rpartition("term ")[2].rstrip(")\n")) for l in file
                    if l.startswith("fermata server ") and "term " in l]


class HACluster(Cluster):
    """See the top of this file."""

    def __init__(self, fermata, cache, guests, server_names=SERVERS, member_names=MEMBERS,
                 server_arguments=(), quota=None, small_disks=(), **options):
        if not may_use_taps():
            raise LabError("several servers need root: each has a network namespace of its own")
        super().__init__(fermata, cache, guests, net="tap", **options)
        self.server_arguments, self.quota = list(server_arguments), quota
        self.small_disks, self.cuts = small_disks, set()
        self.members, self.servers, self.environments = {}, {}, {}
        self.addresses = {"middle": "10.77.0.1"}
        for base, names in ((11, self.hosts), (21, server_names), (31, member_names)):
            self.addresses |= {name: f"10.77.0.{n}" for n, name in enumerate(names, start=base)}
        self.server_names, self.member_names = list(server_names), list(member_names)
        self.server_address = ",".join(f"{self.addresses[s]}:{PORT}" for s in server_names)

    # ---- making ----

    def make_network(self):
        super().make_network()
        for name in self.server_names + self.member_names:
            self.add_namespace(name)
            number = int(self.addresses[name].rpartition(".")[2])
            self.ip("middle", f"link add to-{name} type veth peer name eth0 netns {self.tag}-{name}",
                    f"link set to-{name} master br0 up")
            self.ip(name, f"link set eth0 address 02:fe:00:00:00:{number:02x}",
                    f"addr add {self.addresses[name]}/16 dev eth0", "link set eth0 up")

    def make_pki(self):
        super().make_pki()
        for name in self.server_names:
            if name != "s1":                        # lab.py has issued that one
                self.run(self.fermata, "pki", "issue", "server", name, "--directory",
                         self.directory / "pki")

    def prepare(self):
        super().prepare()
        if not self.member_names:
            return
        addresses = {name: self.addresses[name] for name in self.member_names}
        options = {} if self.quota is None else {"quota": self.quota}
        for name, address in addresses.items():
            self.members[name] = EtcdMember(self, name, address, addresses, **options)
            if name in self.small_disks:
                self.members[name].small_disk()

    def start_members(self, *names):
        """Several at once: the first one alone would wait for the others."""
        for name in names or self.member_names:
            if not self.members[name].is_running:
                self.members[name].start(wait=False)
        for name in names or self.member_names:
            self.members[name].wait_ready()

    def make_server(self, name):
        """The server `name`, with the others as its peers and all members as its store."""
        address = f"{self.addresses[name]}:{PORT}"
        arguments = [self.fermata, "server", "--credentials", self.credentials(f"server-{name}"),
                     "--data", self.directory / name, "--listen", address,
                     "--log-level", self.log_level, *self.server_arguments]
        if self.member_names:
            arguments += ["--store", "etcd:" + ",".join(m.client for m in self.members.values()),
                          "--advertise", address]
            for other in self.server_names:
                if other != name:
                    arguments += ["--peer", f"{self.addresses[other]}:{PORT}"]
        return ServerPart(self, name, address, arguments)

    def start_server(self, listen=None):
        """All members, then all servers, until one leads and the others stand by."""
        self.start_members()
        for name in self.server_names:
            self.servers[name] = self.make_server(name)
            self.servers[name].start(wait=False)
        for server in self.servers.values():
            server.wait_ready()
        self.leader()

    # ---- who is who ----

    def leader(self, seconds=30, but=()):
        """The name of the server that leads, by its own last word, when exactly one says so of
        those that run and are not in `but` (stopped ones still say what they said last)."""
        def look():
            names = [n for n, s in self.servers.items()
                     if n not in but and s.says_it_leads() and lab.state_of(s.pid) != "T"]
            return names[0] if len(names) == 1 else None
        return wait_until(look, seconds, "exactly one server to lead")

    def standbys(self):
        """The names of the other servers that run."""
        first = self.leader()
        return [n for n, s in self.servers.items() if n != first and s.is_running]

    def part(self, name):
        """Server, etcd member, agent (`agent-a`, or its host `a`), notifier or watcher."""
        parts = self.parts()
        found = parts.get(name) or parts.get(f"agent-{name}")
        if found is None:
            raise LabError(f"there is no part {name}; these are: {', '.join(parts)}")
        return found

    def parts(self):
        """Every process that was started, by name."""
        found = dict(self.members) | dict(self.servers)
        found |= {d.name: d for d in self.agents.values()}
        return found | {d.name: d for d in (self.notifier, self.watcher) if d}

    def place(self, name):
        """The namespace of a part, or of a host, or `middle`."""
        if name in self.addresses:
            return name
        return self.part(name).namespace

    # ---- cuts ----

    def cut(self, one, other=None, both=True):
        """`one` and `other` hear nothing of each other any more; with `both` false only `other`
        hears nothing of `one`. Without `other`, `one` hears nobody and nobody hears it."""
        one = self.place(one)
        others = [self.place(other)] if other else [n for n in self.addresses if n != one]
        for name in others:
            self._cut(one, name)
            if both:
                self._cut(name, one)
        self.save()

    def _cut(self, sender, receiver):
        if (sender, receiver) in self.cuts:
            return
        self.cuts.add((sender, receiver))
        self._rule("-A", sender, receiver)

    def heal(self, one=None, other=None):
        """The opposite; without names, every cut."""
        one, other = one and self.place(one), other and self.place(other)
        for pair in sorted(self.cuts):
            if (one is None or one in pair) and (other is None or other in pair):
                self.cuts.discard(pair)
                self._rule("-D", *pair)
        self.save()

    def _rule(self, action, sender, receiver):
        self.run("iptables", "-w", action, "INPUT", "-s", self.addresses[sender], "-j", "DROP",
                 namespace=receiver)

    # ---- clocks ----

    def wrong_clock(self, seconds):
        """The environment of a process whose wall clock is off by so much."""
        shim = self.directory / "clock.so"
        if not shim.exists():
            subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", shim, "-x", "c", "-", "-ldl"],
                           input=CLOCK_SHIM, text=True, check=True)
        return {"LD_PRELOAD": str(shim), "LAB_CLOCK_OFF": str(seconds)}

    # ---- ending, and going on with one that runs ----

    def save(self):
        parts = {}
        for name, daemon in (self.parts() if self.directory.exists() else {}).items():
            if daemon.process is not None:
                parts[name] = {"pid": daemon.process.pid, "begun": daemon.begun_at}
        (self.directory / "lab.json").write_text(json.dumps({
            "tag": self.tag, "shm": str(self.shm), "namespaces": self.namespaces,
            "mounts": self.mounts, "parts": parts, "cuts": sorted(self.cuts),
            "fermata": self.fermata, "cache": str(self.cache), "cluster": self.name,
            "guests": [g.__dict__ for g in self.guests.values()],
            "update_domains": self.update_domains, "server_names": self.server_names,
            "member_names": self.member_names, "quota": self.quota,
            "server_arguments": self.server_arguments}, default=str))

    @classmethod
    def load(cls, directory):
        """A cluster that another process has started and left running."""
        directory = pathlib.Path(directory)
        try:
            kept = json.loads((directory / "lab.json").read_text())
            guests = []
            for entry in kept["guests"]:
                guest = lab.Guest(entry["name"], entry["host"])
                guest.__dict__.update(entry, address=tuple(entry["address"]))
                guests.append(guest)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise LabError(f"{directory} has no cluster of several servers: {error!r}") from None
        cluster = cls(kept["fermata"], kept["cache"], guests, kept["server_names"],
                      kept["member_names"], kept["server_arguments"], kept["quota"],
                      update_domains=kept["update_domains"], cluster=kept["cluster"],
                      directory=directory)
        cluster.namespaces, cluster.mounts = kept["namespaces"], kept["mounts"]
        cluster.cuts = {tuple(pair) for pair in kept["cuts"]}
        addresses = {name: cluster.addresses[name] for name in cluster.member_names}
        cluster.members = {n: EtcdMember(cluster, n, a, addresses) for n, a in addresses.items()}
        cluster.servers = {n: cluster.make_server(n) for n in cluster.server_names}
        cluster.agents = {h: cluster.make_agent(h) for h in cluster.hosts}
        cluster.notifier = cluster.make_notifier()
        for name, part in cluster.parts().items():
            if name in kept["parts"]:
                part.process = ForeignProcess(kept["parts"][name]["pid"], cluster.tag)
                part.begun_at = kept["parts"][name]["begun"]
        return cluster

    def everybody(self):
        return list(self.parts().values())


class ForeignProcess:
    """A process of the cluster that is not our child, with what `Daemon` needs of Popen."""

    def __init__(self, pid, tag):
        self.pid, self.tag = pid, tag
        self.returncode = None

    def poll(self):
        """None while it runs; its exit code nobody knows."""
        if lab.is_gone(self.pid) or not self.is_ours():
            self.returncode = 0
        return self.returncode

    def is_ours(self):
        try:
            environment = pathlib.Path(f"/proc/{self.pid}/environ").read_bytes().split(b"\0")
        except OSError:
            return False
        return f"FERMATA_LAB={self.tag}".encode() in environment

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def wait(self, timeout=30):
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(0.02)
        return self.returncode
