"""One cluster of three servers, three etcd members and three hosts, shared by the tests of what they survive.

Guests: db-0 on host a and db-1 on host b, of set db; `free` on host c, of no set. `with self.held():`
starts a rollout over a and b whose command waits in the hold, so that db-0 (or db-1, whichever comes first)
is held, by an agent that is alive and connected, for as long as the test wants and its limit allows; the
other host waits for the lock of set db meanwhile. What happens to servers and members happens then.

After every test: the invariants of design.md, by what each server says, what the guests say, what the
watcher saw from outside, and what the notifier has; and everything that was ever acknowledged is there.
"""
import contextlib
import json
import os
import signal
import threading
import time

from cluster_case import ClusterCase, begin_sharing  # first: it sets the path for the others
from support import CACHE, FERMATA

import lab
from ha_lab import HACluster
from lab import Guest, LabError

# The commands of a host's release may take 20 s; what is left of 30 s is for resume and undo.
DEADLINE = "30s"
DEADLINE_MILLISECONDS = 30_000
# Of a hold that waits for its test.
HOLD_SECONDS_MAX = 18
HOSTS_OF_SET = ("a", "b")
# Longest that nobody may lead after the leader's end was plain to see (a closed connection), on a
# busy computer. bench-takeover measures it.
TAKEOVER_SECONDS = 6
# The same when nobody was told: 3 s of silence, and 3 s without a sign of life in the log.
SILENT_TAKEOVER_SECONDS = 20

_shared = None


def shared_ha_cluster():
    """The cluster; made on the first call."""
    global _shared
    if _shared is None:
        guests = [Guest("db-0", "a", "db", 0, memory=128, pattern=16, tick=20_000),
                  Guest("db-1", "b", "db", 1, memory=128, pattern=16, tick=20_000),
                  Guest("free", "c", memory=128, pattern=16, tick=20_000)]
        cluster = HACluster(FERMATA, CACHE, guests, update_domains={"db": 2}, cluster="test",
                            small_disks=("e3",),
                            keep_directory=bool(os.environ.get("FERMATA_KEEP_LOGS")))
        begin_sharing(cluster)
        cluster.acknowledged = {"release": {"to-new", "to-old"}, "rollout": set()}
        cluster.outcomes, cluster.tokens = {}, {}
        cluster.count = 0
        _shared = cluster
    return _shared


def close_shared_ha_cluster():
    """After the last of the tests that want it: its guests take a third of the processor."""
    global _shared
    if _shared is not None:
        _shared.close()
        _shared = None


class Hold:
    """A rollout over hosts a and b that stands in the hold of the first of them."""

    def __init__(self, rollout, directory, host):
        self.rollout, self.directory, self.host = rollout, directory, host
        self.is_over = False
        self.limit = threading.Timer(HOLD_SECONDS_MAX, self.expire)
        self.limit.daemon = True
        self.other = "b" if host == "a" else "a"
        self.guest = {"a": "db-0", "b": "db-1"}[host]
        self.other_guest = {"a": "db-0", "b": "db-1"}[self.other]

    def keeps_waiting(self):
        """Whether the other host has not been held, as long as this one is."""
        return not self.begun(self.other) or self.is_over

    def expire(self):
        """On a busy computer the test is slower than the limit of the release's command."""
        self.is_over = True
        self.let_go()

    def begun(self, host):
        """The command of this host's release has been started."""
        return (self.directory / f"begun-{host}").exists()

    def let_go(self, *hosts):
        if not hosts:
            self.limit.cancel()
        for host in hosts or HOSTS_OF_SET:
            (self.directory / f"go-{host}").touch()


class HACase(ClusterCase):
    """A test on the shared cluster."""

    @classmethod
    def setUpClass(cls):
        cls.cluster = shared_ha_cluster()

    def setUp(self):
        self.heal()
        self.addCleanup(self.check_invariants)
        self.addCleanup(self.heal)

    # ---- the state before and after each test ----

    def heal(self):
        """No cut, no slow disk, no alarm; every part runs and nothing is in flight."""
        c = self.cluster
        c.heal()
        self.ask_first(*c.servers)
        for member in c.members.values():
            member.fast_disk()
            member.free_disk()
        for part in c.parts().values():
            if part.is_running and lab.state_of(part.pid) == "T":
                part.signal(signal.SIGCONT)
        dead = [n for n, m in c.members.items() if not m.is_running]
        c.start_members(*dead)
        for server in c.servers.values():
            if not server.is_running:
                server.start(wait=False)
        for server in c.servers.values():
            server.wait_ready()
        for daemon in (c.notifier, *c.agents.values()):
            if not daemon.is_running:
                daemon.start()
        self.wait(self.is_whole, 60, "the cluster to be whole")

    def is_whole(self):
        """Everybody is connected, and what was not over is made to be."""
        c = self.cluster
        done = c.cli("status", "--output", "json", "--timeout", "5")
        if done.returncode:
            return False
        status = json.loads(done.stdout)
        for rollout in status["activeRollouts"]:
            for directory in c.directory.glob("release-*"):
                for host in HOSTS_OF_SET:
                    (directory / f"go-{host}").touch()
            c.cli("rollout", "abort", rollout, "--reason", "the test is over")
        return status["connectedHostCount"] == len(c.hosts) \
            and status["runningGuestCount"] == len(c.guests) and not status["activeRollouts"]

    # ---- invariants ----

    def check_invariants(self):
        rollouts = self.rollouts()
        self.check_one_update_domain(rollouts)              # 1
        self.check_deadlines(rollouts)                      # 2
        self.check_guests()                                 # 3, 4
        self.check_tokens(rollouts)                         # 5
        self.check_annotations(rollouts)                    # 6
        self.check_acknowledged(rollouts)                   # 7

    def check_deadlines(self, rollouts):
        self.check_holds(rollouts)
        for hold in (hold for rollout in rollouts for hold in self.holds(rollout)):
            self.assertIsNotNone(hold["holdMilliseconds"], hold)
        for gap in self.cluster.watch_gaps():
            self.assertLess(gap["milliseconds"], DEADLINE_MILLISECONDS + 1000, gap)

    def check_tokens(self, rollouts):
        """No two steps have one, a step keeps its own, and no host's accepted one ever falls."""
        tokens = [s["token"] for r in rollouts for s in r["steps"] if s["token"] is not None]
        self.assertEqual(len(tokens), len(set(tokens)))
        for host in self.cluster.cli_json("hosts"):
            before = self.cluster.tokens.get(host["id"], 0)
            self.assertGreaterEqual(host["acceptedToken"], before, host)
            self.cluster.tokens[host["id"]] = host["acceptedToken"]

    def check_acknowledged(self, rollouts):
        """Releases and rollouts that were accepted, and how each rollout that was over had ended."""
        c = self.cluster
        releases = {r["id"] for r in c.cli_json("release", "list")}
        self.assertLessEqual(c.acknowledged["release"], releases)
        found = {r["id"]: r for r in rollouts}
        self.assertLessEqual(c.acknowledged["rollout"], set(found))
        for rollout, outcome in c.outcomes.items():
            self.assertEqual(found[rollout], outcome, "the history has changed")
        c.outcomes = {i: r for i, r in found.items() if r["finishedAt"]}

    # ---- doing things ----

    def acknowledge(self, *options):
        """A release that the cluster accepts, and must never lose; its name."""
        c = self.cluster
        c.count += 1
        name = f"kept-{c.count}"
        done = c.cli("release", "add", name, "--component", "hypervisor", "--version", "1",
                     "--path", "/bin/true", "--sha256", "0" * 64, *options)
        self.assertEqual(done.returncode, 0, done.stderr)
        c.acknowledged["release"].add(name)
        return name

    def start(self, release, *hosts, deadline=DEADLINE):
        rollout = super().start(release, *hosts, deadline=deadline)
        self.cluster.acknowledged["rollout"].add(rollout)
        return rollout

    def rollout_ids(self):
        return [r["id"] for r in self.cluster.cli_json("rollout", "list")]

    def ask(self, release, host):
        """Asks for a rollout while the leader may die of it; then call `answered`."""
        before = set(self.rollout_ids())
        arguments = ["rollout", "start", "--release", release, "--host", host, "--deadline", "15s"]
        done = self.cluster.cli(*arguments, "--output", "json")
        if done.returncode == 0:
            self.cluster.acknowledged["rollout"].add(json.loads(done.stdout)["rollout"])
        return before, arguments

    def answered(self, asked):
        """The rollout that was asked for. Whether it was accepted is not known: if the next leader knows
        nothing of it, it is asked for again, as a person would."""
        before, arguments = asked
        found = [r for r in self.rollout_ids() if r not in before]
        if not found:
            self.wait_hosts("c")
            found = [self.cluster.cli_json(*arguments)["rollout"]]
        self.assertEqual(len(found), 1, found)
        self.cluster.acknowledged["rollout"].add(found[0])
        return found[0]

    def finish(self, rollout, seconds=60):
        return super().finish(rollout, seconds)

    def succeed(self, rollout, seconds=60):
        """Waits until it is over, and each of its steps has succeeded, with one hold for each guest."""
        found = self.finish(rollout, seconds)
        self.assertEqual(found["state"], "succeeded", found)
        for step in found["steps"]:
            self.assertEqual(step["outcome"], "succeeded", step)
            self.assertEqual([h["guest"] for h in step["holds"]], step["guests"], step)
        return found

    def next_release(self, guest="free"):
        return super().next_release(guest)

    def roll_free(self, seconds=60):
        """A whole hand-over of guest `free`, while others may be held."""
        return self.succeed(self.start(self.next_release(), "c", deadline="15s"), seconds)

    # ---- a hold as long as the test wants ----

    def host_release(self):
        """A release of commands whose `apply` waits for a file; its name and its directory."""
        c = self.cluster
        c.count += 1
        name = f"waiting-{c.count}"
        directory = c.directory / f"release-{name}"
        directory.mkdir()
        script = directory / "apply"
        script.write_text(f"#!/bin/sh\ntouch {directory}/begun-$FERMATA_HOST\n"
                          f"until [ -e {directory}/go-$FERMATA_HOST ]; do sleep 0.05; done\n")
        script.chmod(0o755)
        file = directory / "release.yaml"
        file.write_text(f'version: "{name}"\napply: {{path: {script}, limit: 21s}}\n'
                        "undo: {path: /bin/true, limit: 1s}\n")
        c.cli_json("release", "add", name, "--component", "software", "--file", file)
        c.acknowledged["release"].add(name)
        return name, directory

    @contextlib.contextmanager
    def held(self, let_go=True):
        """One guest of set db is held and the other waits for the lock, until the `with` ends; then
        both have been held, one after the other, and everything has succeeded."""
        name, directory = self.host_release()
        rollout = self.start(name, *HOSTS_OF_SET)
        host = self.wait(lambda: next((h for h in HOSTS_OF_SET
                                       if (directory / f"begun-{h}").exists()), None),
                         20, "one host to be held")
        hold = Hold(rollout, directory, host)
        hold.limit.start()
        try:
            yield hold
            # The lock has kept the other one waiting, whoever led.
            if not (directory / f"go-{host}").exists():
                self.assertTrue(hold.keeps_waiting(), "two update domains at once")
        finally:
            hold.let_go()
        if let_go:
            self.succeed(rollout)

    # ---- servers ----

    def status_of(self, server, *options):
        """`status` as this server alone answers or forwards it; None if it does not."""
        c = self.cluster
        done = c.cli("status", "--server", c.servers[server].address, "--timeout", "5",
                     "--output", "json", *options)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def server_pids(self):
        return {n: s.pid for n, s in self.cluster.servers.items() if s.is_running}

    def term(self):
        return self.cluster.cli_json("status")["term"]

    def lead(self, name, **environment):
        """Makes this server the leader, in a process with this environment, by planned hand-over."""
        c = self.cluster
        others = [n for n in c.servers if n != name]
        c.servers[name].stop()
        first = c.leader(but=(name,))
        for other in others:
            if other != first:
                c.servers[other].stop()
        begun = c.servers[first].err.stat().st_size
        c.servers[name].start(environment=environment)
        # It sees the end of a leader at once only if it has a session with it.
        self.wait(lambda: f"server/{name} " in self.log_since(first, begun), 10,
                  f"{name} to watch {first}")
        c.servers[first].stop()
        # With a point in the environment at which it dies, it may lead for some milliseconds only.
        self.wait(c.servers[name].has_led, TAKEOVER_SECONDS, f"{name} to lead")
        for other in others:
            c.servers[other].start()
        self.wait_hosts()
        return c.servers[name]

    def log_since(self, server, begun):
        with open(self.cluster.servers[server].err, errors="replace") as file:
            file.seek(begun)
            return file.read()

    def ask_first(self, *names):
        """Whom commands ask first: one that hangs would keep each of them waiting for 5 s."""
        c = self.cluster
        order = [*names, *(n for n in c.servers if n not in names)]
        c.server_address = ",".join(c.servers[n].address for n in order)

    def wait_hosts(self, *hosts, seconds=30):
        """Until the agents are connected to whoever leads."""
        def look():
            with contextlib.suppress(LabError):
                return all(h["connected"] for h in self.cluster.cli_json("hosts")
                           if not hosts or h["id"] in hosts)
        self.wait(look, seconds, "the agents to be connected")

    def assertTakenOver(self, old, seconds=TAKEOVER_SECONDS):
        """Another server leads; its name."""
        began = time.monotonic()
        new = self.cluster.leader(seconds, but=(old,))
        self.took = time.monotonic() - began
        self.ask_first(new)
        return new

    @contextlib.contextmanager
    def no_takeover(self):
        """Whoever leads goes on to, in the same term."""
        c = self.cluster
        leader = c.leader()
        before = {name: server.terms() for name, server in c.servers.items()}
        yield leader
        self.assertEqual({name: server.terms() for name, server in c.servers.items()}, before)
        self.assertEqual(c.leader(), leader)


class Repeatedly:
    """Calls something again and again in a thread, while the test does something else."""

    def __init__(self, call, pause=0.1):
        self.call, self.pause, self.error = call, pause, None
        self.ends = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self):
        try:
            while not self.ends.wait(self.pause):
                self.call()
        except BaseException as error:  # raised again at the end of the `with`
            self.error = error

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ends.set()
        self.thread.join(30)
        if self.error:
            raise self.error
