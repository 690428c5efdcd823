"""Members of an etcd cluster, each in a network namespace of its own, and what can go wrong with them.

Happy path: `member = EtcdMember(cluster, "e1", "10.77.0.31", everyone)` for each, `start(wait=False)` for
all, then `wait_ready()` for each: a member is ready when it answers and knows a leader. `cluster` is a
`lab.Cluster` whose namespaces have the members' names.

Faults besides kill, stop and cut (ha_lab.py): `slow_disk` delays every fsync and fdatasync, by a tracer
under which the member is started again; `small_disk` gives the member a file system of its own that
`fill_disk` fills to the last byte; `alarm` fills the database up to its quota, which makes the whole
cluster of members read-only, and `disarm` makes room again.
"""
import base64
import contextlib
import http.client
import json
import os
import subprocess

from lab import Daemon, LabError, is_gone, tail, wait_until

CLIENT_PORT, PEER_PORT = 2379, 2380
# Room for a log of tests, and filled in a second.
QUOTA_BYTES = 32 << 20


class EtcdMember(Daemon):
    """One process of etcd."""

    def __init__(self, cluster, name, address, members, quota=QUOTA_BYTES, arguments=()):
        self.address, self.client = address, f"http://{address}:{CLIENT_PORT}"
        self.data = cluster.directory / f"etcd-{name}"
        self.disk = None
        everyone = ",".join(f"{n}=http://{a}:{PEER_PORT}" for n, a in members.items())
        super().__init__(cluster, name, [
            "etcd", "--name", name, "--data-dir", self.data / "member-data",
            "--listen-peer-urls", f"http://{address}:{PEER_PORT}",
            "--initial-advertise-peer-urls", f"http://{address}:{PEER_PORT}",
            "--listen-client-urls", self.client, "--advertise-client-urls", self.client,
            "--initial-cluster", everyone, "--initial-cluster-token", cluster.tag,
            "--quota-backend-bytes", quota, "--logger", "zap", "--log-level", "warn", *arguments],
            namespace=name)
        self.data.mkdir(exist_ok=True)

    def ask(self, path, body=None, seconds=10, method="POST"):
        """One request to this member's JSON gateway, from its own namespace; the answer."""
        with self.cluster.in_namespace(self.namespace):
            connection = http.client.HTTPConnection(self.address, CLIENT_PORT, timeout=seconds)
            connection.connect()
        with contextlib.closing(connection):
            connection.request(method, path, json.dumps(body or {}) if method == "POST" else None)
            answer = connection.getresponse()
            text = answer.read()
        if answer.status != 200:
            raise LabError(f"{self.name}{path}: {answer.status} {text.decode(errors='replace')}")
        return json.loads(text)

    def insist(self, path, body, seconds=30):
        """The same, again and again until it succeeds: the members may just be electing a leader."""
        def look():
            with contextlib.suppress(OSError, LabError, http.client.HTTPException):
                return self.ask(path, body)
        return wait_until(look, seconds, f"{self.name} to answer {path}")

    def put(self, key, value, seconds=10):
        return self.ask("/v3/kv/put", {"key": encoded(key), "value": encoded(value)}, seconds)

    def get(self, key, seconds=10):
        """The value, None if there is none; through the members' consensus."""
        found = self.ask("/v3/kv/range", {"key": encoded(key)}, seconds).get("kvs")
        return base64.b64decode(found[0].get("value", "")) if found else None

    def is_healthy(self):
        """It runs, has a leader, and no alarm."""
        try:
            return self.ask("/health", method="GET", seconds=3)["health"] == "true"
        except (OSError, LabError, http.client.HTTPException, ValueError):
            return False

    def leads(self):
        """Whether it is the leader among the members."""
        leader, own = self.leader()
        return leader != "0" and leader == own

    def leader(self):
        """The ids of the leader, "0" if it knows of none, and of itself."""
        try:
            status = self.ask("/v3/maintenance/status", seconds=3)
        except (OSError, LabError, http.client.HTTPException, ValueError):
            return "0", "0"
        return status.get("leader", "0"), status["header"]["member_id"]

    def wait_ready(self, seconds=30):
        def look():
            if not self.is_running:
                raise LabError(f"{self.name} has ended:\n{tail(self.err)}")
            # Its own word on its health is "false" when its disk is slow.
            return self.leader()[0] != "0"
        return wait_until(look, seconds, f"{self.name} to answer")

    # ---- a slow disk ----

    def slow_disk(self, milliseconds):
        """Starts it again such that every fsync and fdatasync takes so much longer, until `fast_disk`.

        The tracer is no parent of it, so that its pid is its own, and sees no other system call.
        """
        self.restart(["strace", "-D", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null",
                      "-e", "trace=fsync,fdatasync",
                      "-e", f"inject=fsync,fdatasync:delay_enter={milliseconds * 1000}"])
        if not traced_by(self.pid):
            raise LabError(f"{self.name} is not traced: {tail(self.err)}")

    def fast_disk(self):
        if self.is_running and traced_by(self.pid):
            self.restart([])

    def restart(self, before):
        """Ends it and starts it behind these words; one member at a time leaves a majority."""
        self.stop()
        plain = self.arguments
        self.arguments = before + plain
        try:
            self.start()
        finally:
            self.arguments = plain

    # ---- a full disk ----

    def small_disk(self, mebibytes=256):
        """Its data get a file system of their own, before it is started for the first time. etcd
        alone takes two log files of 64 MiB."""
        self.disk = self.cluster.directory / f"disk-{self.name}.img"
        self.cluster.run("truncate", "-s", f"{mebibytes}M", self.disk)
        self.cluster.run("mkfs.ext4", "-q", "-O", "^has_journal", "-m", "0", self.disk)
        self.cluster.mounts.append(str(self.data))
        self.cluster.save()
        self.cluster.run("mount", "-o", "loop", self.disk, self.data)

    def fill_disk(self):
        """Writes until there is no room left on its file system."""
        free = os.statvfs(self.data)
        subprocess.run(["fallocate", "-l", str(free.f_bavail * free.f_frsize),
                        self.data / "filler"], capture_output=True, check=False)
        with contextlib.suppress(OSError), open(self.data / "filler-2", "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def end_by_full_disk(self, other, seconds=60):
        """Fills the disk and writes through another member until this one has ended of it."""
        self.fill_disk()

        def look():
            with contextlib.suppress(OSError, LabError, http.client.HTTPException):
                other.put("junk", os.urandom(50_000).hex())
            return not self.is_running
        wait_until(look, seconds, f"{self.name} to end of its full disk", 0.01)
        other.insist("/v3/kv/deleterange", {"key": encoded("junk")})

    def free_disk(self):
        for name in ("filler", "filler-2"):
            (self.data / name).unlink(missing_ok=True)

    # ---- a full database ----

    def alarm(self):
        """Fills the database until the members raise their NOSPACE alarm."""
        for number in range(1000):
            try:
                self.put(f"filler/{number}", os.urandom(1 << 20).hex()[:1 << 20])
            except LabError as error:
                if "space" in str(error):
                    return
                raise
        raise LabError(f"{self.name} takes all it is given; is its quota set?")

    def has_alarm(self):
        return bool(self.ask("/v3/maintenance/alarm", {"action": "GET"}).get("alarms"))

    def disarm(self, members):
        """Removes what `alarm` has written, compacts, defragments every member, ends the alarm."""
        self.ask("/v3/kv/deleterange", {"key": encoded("filler/"), "range_end": encoded("filler0")})
        revision = self.ask("/v3/kv/range", {"key": encoded("filler/")})["header"]["revision"]
        self.ask("/v3/kv/compaction", {"revision": revision, "physical": True}, 60)
        for member in members:
            member.ask("/v3/maintenance/defragment", seconds=60)
        for alarm in self.ask("/v3/maintenance/alarm", {"action": "GET"}).get("alarms", []):
            self.ask("/v3/maintenance/alarm", {"action": "DEACTIVATE", "alarm": "NOSPACE",
                                               "memberID": alarm["memberID"]})


def encoded(text):
    """As the JSON gateway wants keys and values."""
    return base64.b64encode(text if isinstance(text, bytes) else text.encode()).decode()


def traced_by(pid):
    """The pid of the tracer of a process, 0 if there is none."""
    if is_gone(pid):
        return 0
    with open(f"/proc/{pid}/status") as file:
        return next(int(l.split()[1]) for l in file if l.startswith("TracerPid:"))
