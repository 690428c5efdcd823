"""The examples of cluster/examples, with their own files: only paths, versions and names are replaced, as a
reader would. Host c's guests (db-2, mute) are held, each with the watcher's TCP connection into it."""
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

from cluster_case import ClusterCase  # first: it sets the path for the others

import demo_report

from lab import Daemon, HERE as CLUSTER, is_gone

EXAMPLES = CLUSTER / "examples"


def started_at(pid):
    """When a process was started, in µs since 1970, give or take 10 ms."""
    ticks = int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return (time.time() - age) * 1e6


class ExampleCase(ClusterCase):
    name = None                          # the directory below cluster/examples

    def setUp(self):
        super().setUp()
        if self.cluster.net != "tap":
            self.fail("needs namespaces: run the tests as root")
        # Of each test its own: who has a version of a component already is left alone.
        self.component = f"{self.name}-{int(time.monotonic() * 1e6)}"
        self.directory = self.cluster.directory / self.component
        self.directory.mkdir()

    def release(self, name, replaced):
        """`release add` of the example's release file with some of its texts replaced."""
        text = (EXAMPLES / self.name / "release.yaml").read_text()
        for old, new in replaced.items():
            self.assertIn(old, text)
            text = text.replace(old, str(new))
        file = self.directory / f"{name}.yaml"
        file.write_text(text)
        release = f"{name}-{self.component}"
        self.cluster.cli_json("release", "add", release, "--component", self.component, "--file", file)
        return release

    def run_on_c(self, release):
        (step,) = self.roll(release, "c", deadline="30s")["steps"]
        return step

    def die_in_apply(self, release):
        """The agent dies while apply runs, and is started again; the step."""
        self.restart_agent("c", FERMATA_TEST_PAUSE_AT="running-apply")
        rollout = self.start(release, "c", deadline="30s")
        agent = self.cluster.agents["c"]
        self.wait(lambda: not agent.is_running, 60, "the agent to die")
        agent.start()
        (step,) = self.finish(rollout)["steps"]
        self.assertEqual(step["outcome"], "failed", step)
        self.assertEqual({h["resumedBy"] for h in step["holds"]}, {"guard"}, step)
        return step

    def assertHeld(self, step, outcome):
        """Both guests were held, and the step ended so."""
        self.assertEqual(step["outcome"], outcome, step)
        self.assertEqual(sorted(h["guest"] for h in step["holds"]), ["db-2", "mute"], step)
        for hold in step["holds"]:
            self.assertEqual((hold["outcome"], hold["resumedBy"]), (outcome, "agent"), hold)

    def assertWithin(self, at, step, slack=50_000):
        """The moment (µs) is in every guest's hold."""
        for hold in step["holds"]:
            begin = demo_report.microseconds(hold["heldAt"])
            self.assertGreater(at, begin - slack, hold)
            self.assertLess(at, begin + hold["holdMilliseconds"] * 1e3 + slack, hold)

    def assertBefore(self, at, step):
        for hold in step["holds"]:
            self.assertLess(at, demo_report.microseconds(hold["heldAt"]), hold)


class BridgeMove(unittest.TestCase):
    """move.sh by itself, in namespaces of its own; test_host_components moves real guests with it."""

    BEGIN = """set -e
mount -t sysfs sysfs /sys
ip link add up0 type veth peer name peer0
ip link add eth1 type veth peer name peer1
for link in lo up0 peer0 eth1 peer1; do ip link set $link up; done
ip link add br0 type bridge
ip link set up0 master br0
ip link set br0 up
ip addr add 172.16.0.1/24 dev eth1
ip addr add 10.1.0.2/24 brd + dev br0
ip addr add 10.2.0.2/32 dev br0
ip addr add 10.3.0.2 peer 10.3.0.1/32 dev br0
ip addr add 169.254.169.254/32 dev br0 scope link
ip route add 192.0.2.1 dev br0 scope link src 10.2.0.2
ip route add default via 192.0.2.1 dev br0
ip route add 10.50.0.0/16 via 10.1.0.1 metric 7
ip route add 10.60.0.0/16 nexthop via 10.1.0.1 dev br0 weight 2 nexthop via 172.16.0.9 dev eth1
ip route add default dev br0 table 100
for n in 1 2; do ip -6 addr add 2001:db8:$n::2/64 dev br0 nodad; done
ip -6 route add 2001:db8:8::/48 via 2001:db8:1::1
ip -6 route add default via fe80::1 dev br0 metric 512
# What hangs on bridge $1.
all() {
    for family in -4 -6; do
        ip -o $family route show table all | grep -v -e 'table local' -e '^fe80' -e ' eth1 proto' | sort
        ip -o $family addr show dev $1 | grep -v fe80
    done | sed "s/^[0-9]*: //; s/\\<$1\\>/BRIDGE/g"
    ls /sys/class/net/$1/brif
}
before=$(all br0)
same() { [ "$(all $1)" = "$before" ] || { printf '%s\n' "$2: on $1:" "$(all $1)" "before:" "$before"; exit 1; } }
"""

    def inside(self, text, **environment):
        script = EXAMPLES / "bridge-move" / "move.sh"
        done = subprocess.run(["unshare", "--net", "--mount", "sh", "-c", self.BEGIN + text, script],
                              capture_output=True, text=True, check=False, timeout=300,
                              env=os.environ | environment)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_addresses_and_routes_move_and_come_back(self):
        self.inside("""
$0 apply br0 br1; same br1 applied; $0 check br0 br1
$0 apply br0 br1; same br1 "applied twice"
$0 undo br0 br1; same br0 undone
""")

    def test_from_wherever_it_was_killed_it_goes_on_or_back(self):
        with tempfile.TemporaryDirectory(prefix="fm-move-") as directory:
            ip = pathlib.Path(directory) / "ip"
            ip.write_text('#!/bin/sh\nleft=$(($(cat "$LEFT") - 1)); echo $left >"$LEFT"\n'
                          f'[ $left -ge 0 ] || {{ kill -9 $PPID; exit 9; }}\nexec {shutil.which("ip")} "$@"\n')
            ip.chmod(0o755)
            self.inside("""
for what in apply undo; do
    [ $what = apply ] && there=br1 || there=br0
    count=0
    until echo $count >"$LEFT"; PATH="$KILLER:$PATH" $0 apply br0 br1; do
        $0 $what br0 br1; same $there "$what after $count"; $0 undo br0 br1
        count=$((count + 1))
    done
    $0 undo br0 br1
    [ $count -gt 15 ]
done
""", LEFT=f"{directory}/left", KILLER=directory)


class PackageSwitch(ExampleCase):
    """The package is Debian's dnsmasq-base, built again from the installed files as several versions."""

    name = "package-switch"

    def setUp(self):
        super().setUp()
        self.root = self.directory / "dnsmasq"
        self.config = self.directory / "guests.conf"
        self.config.write_text("bind-interfaces\nlisten-address=10.77.0.13\nno-resolv\nno-hosts\n"
                               "address=/gateway.guests/10.77.0.13\n")
        self.script = shutil.copy2(EXAMPLES / self.name / "switch.sh", self.directory)
        self.addCleanup(self.end_daemons)

    def daemons(self):
        """pid → version of each dnsmasq that runs from our packages."""
        found = {}
        for link in pathlib.Path("/proc").glob("[0-9]*/exe"):
            try:
                program = pathlib.Path(os.readlink(link))
            except OSError:
                continue
            if self.root in program.parents:
                found[int(link.parts[2])] = program.relative_to(self.root).parts[0]
        return found

    def end_daemons(self):
        for pid in self.daemons():
            os.kill(pid, signal.SIGKILL)

    def package(self, version, program=None):
        """A .deb of this version; `program` is a script that stands in for the real dnsmasq."""
        tree = self.directory / f"tree-{version}"
        listed = subprocess.run(["dpkg-query", "-L", "dnsmasq-base"], capture_output=True, text=True,
                                check=True).stdout.split()
        sums = []
        for path in filter(os.path.isfile, listed):
            copy = tree / path[1:]
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy)
            if program is not None and path == "/usr/sbin/dnsmasq":
                copy.write_text(program)
            sums.append(subprocess.run(["md5sum", path[1:]], cwd=tree, capture_output=True, text=True,
                                       check=True).stdout)
        control = tree / "DEBIAN"
        control.mkdir()
        (control / "md5sums").write_text("".join(sums))
        (control / "control").write_text(
            f"Package: dnsmasq-base\nVersion: {version}\nArchitecture: all\nSection: net\n"
            "Maintainer: nobody <nobody@example.org>\nDescription: dnsmasq of a test\n")
        file = self.directory / f"dnsmasq-base_{version}.deb"
        subprocess.run(["dpkg-deb", "--build", "--root-owner-group", tree, file], check=True,
                       capture_output=True)
        return file

    def version(self, version, *, file=None, ask="gateway.guests", **package):
        """The release of one version."""
        return self.release(f"v{version[0]}", {
            '"2.90-4~deb12u2"': f'"{version}"',
            "/var/cache/fermata/dnsmasq-base.deb": file or self.package(version, **package),
            "/usr/local/lib/fermata": self.directory, "/opt/dnsmasq": self.root,
            "/etc/dnsmasq-guests.conf": self.config, "ASK: gateway.guests": f"ASK: {ask}"})

    def first(self):
        """Version 1-1 is in use; the pid of its daemon."""
        self.assertHeld(self.run_on_c(self.version("1-1")), "succeeded")
        ((pid, version),) = self.daemons().items()
        self.assertEqual(version, "1-1")
        return pid

    def switch(self, command, version, file=""):
        """The script, run by hand on the host."""
        return subprocess.run(
            self.cluster.inside("c") + [self.script, command], capture_output=True, text=True,
            check=False, env=os.environ | {
                "ROOT": str(self.root), "PROGRAM": "usr/sbin/dnsmasq", "CONFIG": str(self.config),
                "ASK": "gateway.guests", "FERMATA_VERSION": version, "FERMATA_ARTIFACT": str(file)})

    def assertOld(self, before):
        """Version 1-1 runs and answers; the same process, or another than `before`."""
        self.assertEqual(list(self.daemons().values()), ["1-1"])
        self.assertEqual(os.readlink(self.root / "current"), "1-1")
        self.assertIsNot(is_gone(before), list(self.daemons()) == [before])
        checked = self.switch("check", "1-1")
        self.assertEqual(checked.returncode, 0, checked)

    def test_staged_before_the_hold_and_switched_within(self):
        old = self.first()
        step = self.run_on_c(self.version("2-1~test+1"))
        self.assertHeld(step, "succeeded")
        ((pid, version),) = self.daemons().items()
        self.assertEqual(version, "2-1~test+1")
        self.assertTrue(is_gone(old))
        self.assertBefore((self.root / version / ".package").stat().st_mtime * 1e6, step)
        self.assertWithin(started_at(pid), step)
        (host,) = [h for h in self.cluster.cli_json("hosts") if h["id"] == "c"]
        self.assertIn({"component": self.component, "version": version}, host["software"])

    def test_a_version_that_does_not_answer_is_taken_back(self):
        old = self.first()
        step = self.run_on_c(self.version("3-1", ask="nobody.guests"))
        self.assertHeld(step, "failed")
        self.assertIn("check", step["reason"])
        self.assertIn("does not resolve nobody.guests", step["reason"])
        self.assertOld(old)
        self.assertTrue(is_gone(old), "the new version was never there")

    def test_a_version_that_does_not_start_or_hangs_is_taken_back(self):
        for number, (end, reason) in enumerate((("exit 3", "ended with"),
                                                ("exec sleep 1000", "longer than 4000 ms")), start=4):
            with self.subTest(end):
                old = next(iter(self.daemons()), None) or self.first()
                program = f"#!/bin/sh\ncase $1 in --test) exit 0;; esac\n{end}\n"
                step = self.run_on_c(self.version(f"{number}-1", program=program))
                self.assertHeld(step, "failed")
                self.assertIn(reason, step["reason"])
                self.assertOld(old)

    def test_a_step_to_the_version_in_use_goes_nowhere_back(self):
        self.first()
        new = self.package("2-1")
        self.assertHeld(self.run_on_c(self.version("2-1", file=new)), "succeeded")
        before = self.daemons()
        self.assertEqual(list(before.values()), ["2-1"])
        for command in ("prepare", "apply", "undo"):
            done = self.switch(command, "2-1", new)
            self.assertEqual(done.returncode, 0, done)
            self.assertEqual(self.daemons(), before, command)
        self.assertEqual(os.readlink(self.root / "current"), "2-1")

    def test_the_agent_dies_while_it_is_applied(self):
        old = self.first()
        self.die_in_apply(self.version("6-1"))
        self.assertOld(old)

    def test_what_prepare_finds_holds_nobody(self):
        old = self.first()
        changed = self.package("6-1")
        of_another_digest = self.version("6-1", file=changed)
        with open(changed, "ab") as file:
            file.write(b"\n")
        broken = "#!/bin/sh\necho libgone.so.7: cannot open shared object file >&2\nexit 127\n"
        for release, reason in (
                (of_another_digest, "SHA-256"),
                (self.version("7-1", file=self.package("7-2")), "is version 7-2"),
                (self.version("8-1", program=broken), "libgone.so.7")):
            with self.subTest(reason):
                step = self.run_on_c(release)
                self.assertEqual((step["outcome"], step["holds"]), ("failed", []), step)
                self.assertIn(reason, step["reason"])
                self.assertEqual(self.daemons(), {old: "1-1"})

    def test_check_is_not_content_with_the_old_daemon(self):
        old = self.first()
        shutil.copytree(self.root / "1-1", self.root / "9-1")
        (self.root / "current").unlink()
        (self.root / "current").symlink_to("9-1")
        checked = self.switch("check", "9-1")
        self.assertNotEqual(checked.returncode, 0)
        self.assertIn("not 9-1 alone runs, but", checked.stderr)
        # And undo finds its way from there, twice.
        (self.root / "before").write_text("1-1\n")
        for _ in range(2):
            undone = self.switch("undo", "9-1")
            self.assertEqual(undone.returncode, 0, undone)
            self.assertEqual(list(self.daemons().values()), ["1-1"])
        self.assertOld(old)


class AgentUpgrade(ExampleCase):
    """The agents of b and c run from copies of the program, started and started again as the example's unit
    says; this test is their systemd."""

    name = "agent-upgrade"

    def setUp(self):
        super().setUp()
        self.pids = {}
        for host in ("b", "c"):
            self.from_copy(host)

    def from_copy(self, host):
        program = self.program(host)
        program.parent.mkdir()
        shutil.copy2(self.cluster.fermata, program)
        before = self.cluster.agents[host]
        before.stop()
        agent = Daemon(self.cluster, f"agent-{host}", self.command(host), before.ready_text, host)
        self.cluster.agents[host] = agent.start()
        self.addCleanup(self.back, host, before)
        self.wait_connected(host)
        self.pids[host] = agent.pid

    def back(self, host, before):
        self.cluster.agents[host].stop()
        self.cluster.agents[host] = before.start()
        self.wait_connected(host)

    def program(self, host):
        return self.directory / host / "fermata"

    def unit(self, key):
        """What the unit says of a key, once."""
        lines = (EXAMPLES / "systemd" / "fermata-agent.service").read_text().splitlines()
        (value,) = [line.partition("=")[2] for line in lines if line.startswith(f"{key}=")]
        return value

    def command(self, host):
        """The unit's ExecStart with the paths of the lab."""
        command = self.unit("ExecStart")
        for old, new in {"/usr/local/sbin/fermata": self.program(host),
                         "/etc/fermata/host.yaml": self.cluster.host_file(host),
                         "/etc/fermata/agent-%l": self.cluster.credentials(f"agent-{host}"),
                         "10.0.0.1:7450": self.cluster.server_address}.items():
            self.assertIn(old, command)
            command = command.replace(old, str(new))
        return command.split()

    def upgrade(self, version, content, *hosts, copy=""):
        """Runs upgrade.sh to its end, and starts agents again meanwhile; its exit code and output. `copy` are
        lines for the command that copies."""
        self.assertEqual(self.unit("Restart"), "always")
        new = self.directory / f"new-{version}"
        new.write_bytes(content)
        new.chmod(0o755)
        staged = self.directory / "staged"
        staged.mkdir(exist_ok=True)
        # There is one file system for all hosts here.
        scp = self.directory / "scp"
        scp.write_text(f'#!/bin/sh\n{copy}\nexec cp "$1" "${{2#*:}}"\n')
        scp.chmod(0o755)
        with open(self.directory / "out", "w+") as out:
            script = subprocess.Popen(
                self.cluster.inside("middle")
                + [EXAMPLES / self.name / "upgrade.sh", version, new, *hosts],
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                env=self.cluster.environment | self.cluster.client_environment()
                | {"FERMATA": self.cluster.fermata, "COPY": str(scp), "DIRECTORY": str(staged)})

            def look():
                for host in hosts:
                    if not self.cluster.agents[host].is_running:
                        self.cluster.agents[host].start(wait=False)
                return script.poll() is not None
            try:
                self.wait(look, 120, "upgrade.sh to end")
            finally:
                script.kill()
                script.wait()
            out.seek(0)
            return script.returncode, out.read()

    def running(self, host):
        return pathlib.Path(f"/proc/{self.cluster.agents[host].pid}/exe").read_bytes()

    def version_of(self, host):
        (found,) = [h for h in self.cluster.cli_json("hosts") if h["id"] == host]
        return {s["component"]: s["version"] for s in found["software"]}["agent"]

    def upgrades(self, version):
        """The steps to this version, first ones first."""
        rollouts = [self.show(r["id"]) for r in self.cluster.cli_json("rollout", "list")]
        return [step for r in sorted(rollouts, key=lambda r: r["startedAt"])
                if r["release"] == f"agent-{version}" for step in r["steps"]]

    def test_one_host_first_then_the_others(self):
        version, new = self.component, self.program("b").read_bytes() + b"another one"
        code, output = self.upgrade(version, new, "c", "b")
        self.assertEqual(code, 0, output)
        for host in ("b", "c"):
            self.assertEqual(self.cluster.agents[host].pid, self.pids[host])
            self.assertEqual(self.running(host), new)
            self.assertEqual(self.version_of(host), version)
        steps = self.upgrades(version)
        self.assertEqual([(s["host"], s["outcome"], s["holds"]) for s in steps],
                         [("c", "succeeded", []), ("b", "succeeded", [])])
        # The new ones do what an agent is for.
        done = self.roll(self.next_release("db-1"), "b")
        self.assertEqual(done["state"], "succeeded", done)

    def test_one_that_does_not_come_up_stays_on_the_first_host(self):
        version, old = self.component, self.running("c")
        bad = b"#!/bin/sh\ncase \"$*\" in *--version*|*--check*) exit 0;; esac\nexit 9\n"
        code, output = self.upgrade(version, bad, "c", "b")
        self.assertEqual(code, 1, output)
        self.assertIn("did not come up", output)
        self.assertIn("c keeps the agent it had", output)
        self.wait_connected("c")
        self.assertEqual(self.running("c"), old)
        self.assertEqual([(s["host"], s["outcome"]) for s in self.upgrades(version)],
                         [("c", "failed")])
        self.assertEqual(self.cluster.agents["b"].pid, self.pids["b"])
        self.assertEqual(self.running("b"), old)

    def test_a_host_that_cannot_be_reached_stops_it_before_anything_has_changed(self):
        code, output = self.upgrade(self.component, self.running("c"), "c", "b",
                                    copy='[ "${2%%:*}" != b ] || { echo no route to b >&2; exit 1; }')
        self.assertNotEqual(code, 0)
        self.assertIn("no route to b", output)
        self.assertNotIn(f"agent-{self.component}",
                         [r["id"] for r in self.cluster.cli_json("release", "list")])


class OpenVSwitch(ExampleCase):
    """Host c's guests hang on an Open vSwitch bridge with the userspace datapath, which needs no kernel module:

        middle ── uplink ── br0 (the agent's address) ── to-ovs = from-br ── ovs0 ── taps of db-2 and mute
    """

    name = "openvswitch"

    INSTALLED = "/usr/lib/openvswitch-switch/ovs-vswitchd"
    FLOWS = ("priority=7,cookie=0x7,actions=normal", "priority=9,cookie=0x9,udp,tp_dst=9,actions=drop")

    def setUp(self):
        super().setUp()
        self.script = shutil.copy2(EXAMPLES / self.name / "restart.sh", self.directory)
        self.old = self.directory / "old" / "ovs-vswitchd"
        self.new = self.directory / "new" / "ovs-vswitchd"
        for program in (self.old, self.new):
            program.parent.mkdir()
            shutil.copy2(self.INSTALLED, program)
        self.run_directory = self.directory / "run"
        self.run_directory.mkdir()
        self.taps = [self.cluster.tap(self.cluster.guests[g]) for g in ("db-2", "mute")]
        self.addCleanup(self.end_switch)
        self.start_switch()

    def on_c(self, *command):
        """A command with this switch's run directory; its output."""
        return self.cluster.run("env", f"OVS_RUNDIR={self.run_directory}", *command, namespace="c")

    def start_switch(self):
        run = self.run_directory
        self.on_c("ovsdb-tool", "create", run / "conf.db", "/usr/share/openvswitch/vswitch.ovsschema")
        self.on_c("ovsdb-server", run / "conf.db", f"--remote=punix:{run}/db.sock", "--pidfile",
                  f"--log-file={run}/ovsdb-server.log", "--detach")
        # Guests and veths leave checksums to the next one; without this the userspace datapath would
        # send such packets on as they are.
        self.on_c("ovs-vsctl", "--no-wait", "set", "Open_vSwitch", ".",
                  "other_config:userspace-tso-enable=true")
        self.on_c(self.old, f"unix:{run}/db.sock", "--pidfile", f"--log-file={run}/ovs-vswitchd.log",
                  "--detach")
        self.on_c("ovs-vsctl", "add-br", "ovs0", "--", "set", "bridge", "ovs0", "datapath_type=netdev")
        self.cluster.ip("c", "link add to-ovs type veth peer name from-br", "link set from-br up",
                        "link set to-ovs master br0 up", "addr add 10.78.0.13/24 dev ovs0",
                        "link set ovs0 up")
        self.on_c("ovs-ofctl", "-O", "OpenFlow14", "del-flows", "ovs0")
        for flow in self.FLOWS:
            self.on_c("ovs-ofctl", "-O", "OpenFlow14", "add-flow", "ovs0", flow)
        for port in ("from-br", *self.taps):
            if port in self.taps:
                self.cluster.ip("c", f"link set {port} nomaster")
            self.on_c("ovs-vsctl", "add-port", "ovs0", port)
        self.flows = self.dump_flows()
        for guest in ("db-2", "mute"):
            self.assertRuns(guest)

    def end_switch(self):
        """The guests are back on br0, and nothing of the switch is left."""
        for pid in self.switches():
            os.kill(pid, signal.SIGKILL)
        for tap in self.taps:
            self.cluster.ip("c", f"link set {tap} master br0")
        self.wait(lambda: not self.switches(), 10, "Open vSwitch to be gone")
        links = self.cluster.run("ip", "-o", "link", "show", namespace="c")
        # The last two are taps of ovs-vswitchd's that outlive it.
        for link in ("to-ovs", "ovs0", "ovs-netdev"):
            if f" {link}:" in links or f" {link}@" in links:
                self.cluster.ip("c", f"link del {link}")

    def switches(self):
        """pid → program of what runs of Open vSwitch in host c."""
        found = {}
        for pid in self.cluster.run("ip", "netns", "pids", f"{self.cluster.tag}-c").split():
            try:
                program = os.readlink(f"/proc/{pid}/exe")
            except OSError:
                continue
            if "/ovs" in program:
                found[int(pid)] = program
        return found

    def daemon(self):
        """(pid, program) of the one ovs-vswitchd."""
        (found,) = [(p, program) for p, program in self.switches().items() if "vswitchd" in program]
        return found

    def dump_flows(self):
        return self.on_c("ovs-ofctl", "-O", "OpenFlow14", "--no-stats", "dump-flows", "ovs0")

    def version(self, program, version="3.1.0"):
        """The release of one program: a path, or a script that stands in for a bad one."""
        if isinstance(program, str):
            path = self.directory / "bad" / "ovs-vswitchd"
            path.parent.mkdir(exist_ok=True)
            path.write_text("#!/bin/sh\ncase $1 in --version) echo bad 3.1.0; exit;; esac\n" + program)
            path.chmod(0o755)
            program = path
        return self.release(f"ovs-{int(time.monotonic() * 1e6)}", {
            'version: "3.1.0"': f'version: "{version}"',
            "/opt/openvswitch-3.1.0/usr/lib/openvswitch-switch/ovs-vswitchd": program,
            "/var/lib/fermata/openvswitch": self.directory / "state",
            "/var/run/openvswitch": self.run_directory, "/usr/local/lib/fermata": self.directory})

    def assertWhole(self, program):
        """This program runs, with all ports and flows and the bridge's address."""
        self.assertEqual(self.daemon()[1], str(program))
        self.assertEqual(self.on_c("ovs-vsctl", "list-ports", "ovs0").split(),
                         sorted(["from-br", *self.taps]))
        self.assertEqual(self.dump_flows(), self.flows)
        self.assertIn("10.78.0.13/24", self.cluster.run("ip", "addr", "show", "ovs0", namespace="c"))
        self.assertNotIn("flow-restore-wait",
                         self.on_c("ovs-vsctl", "get", "Open_vSwitch", ".", "other_config"))

    def test_restarted_within_the_hold_with_its_ports_and_flows(self):
        step = self.run_on_c(self.version(self.new))
        self.assertHeld(step, "succeeded")
        self.assertWhole(self.new)
        self.assertWithin(started_at(self.daemon()[0]), step)

    def test_one_that_does_not_start_or_hangs_is_taken_back(self):
        for bad, reason in (("exit 3", "ended with"), ("exec sleep 1000", "longer than 6000 ms")):
            with self.subTest(bad):
                before, _ = self.daemon()
                step = self.run_on_c(self.version(bad))
                self.assertHeld(step, "failed")
                self.assertIn(reason, step["reason"])
                self.assertWhole(self.old)
                self.assertTrue(is_gone(before))

    def test_another_program_than_promised_is_taken_back(self):
        step = self.run_on_c(self.version(f'exec {self.new} "$@"'))
        self.assertHeld(step, "failed")
        self.assertIn("bad/ovs-vswitchd runs, but", step["reason"])
        self.assertWhole(self.old)

    def test_the_agent_dies_while_it_is_applied(self):
        self.die_in_apply(self.version(self.new))
        self.assertWhole(self.old)

    def test_what_cannot_be_saved_is_not_restarted(self):
        before = self.daemon()
        text = pathlib.Path(self.script).read_text()
        name = "/usr/share/openvswitch/scripts/ovs-save"
        self.assertIn(name, text)
        pathlib.Path(self.script).write_text(text.replace(name, "/bin/true"))
        step = self.run_on_c(self.version(self.new))
        self.assertHeld(step, "failed")
        self.assertIn("has not saved the flows", step["reason"])
        self.assertEqual(self.daemon(), before)
        self.assertWhole(self.old)

    def test_what_prepare_finds_holds_nobody(self):
        before = self.daemon()
        for release, reason in ((self.version(self.new, version="3.2.0"), "is not 3.2.0"),
                                (self.version(self.old), "runs already")):
            with self.subTest(reason):
                step = self.run_on_c(release)
                self.assertEqual((step["outcome"], step["holds"]), ("failed", []), step)
                self.assertIn(reason, step["reason"])
                self.assertEqual(self.daemon(), before)


if __name__ == "__main__":
    unittest.main()
