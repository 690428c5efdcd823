"""The container files, without an engine: what docker-compose makes of them, and whether they keep what
they promise. `make test-compose` is what runs them."""
import ipaddress
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import time
import unittest

import yaml

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FERMATA = (ROOT / os.environ.get("FERMATA", ".build/debug/fermata")).resolve()
# A name with the registry, and a version with at least two numbers: no tag that moves.
PINNED = re.compile(r"^[a-z0-9.]+\.[a-z]+/[a-z0-9/.-]+:v?[a-z-]*\d+(\.\d+)+(-[a-z]+)?$"
                    r"|^[a-z0-9.]+\.[a-z]+/[a-z0-9/.-]+:[a-z]+-\d{8}(-[a-z]+)?$")
OURS = re.compile(r"^localhost/fermata(-agent)?:\d+\.\d+\.\d+$")


def config(kind):
    """The cluster's file as docker-compose understands it."""
    done = subprocess.run(["docker-compose", "config"], cwd=HERE / kind, capture_output=True,
                          text=True, check=False,
                          env=os.environ | {"FERMATA_CACHE": str(ROOT / ".cache")})
    if done.returncode != 0:
        raise AssertionError(f"{kind}: {done.stderr}")
    return yaml.safe_load(done.stdout)


CONFIGS = {}


class ComposeFiles(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        for kind in ("single", "ha"):
            CONFIGS[kind] = config(kind)

    def services(self):
        """(cluster, name, service) of all; what fails shows the service."""
        return [(kind, name, service) for kind, file in CONFIGS.items()
                for name, service in file["services"].items()]

    def test_the_clusters_have_what_they_are_to_have(self):
        agents = {"agent-a", "agent-b", "agent-c"}
        both = agents | {"pki", "notifier", "operator"}
        self.assertEqual(set(CONFIGS["single"]["services"]), both | {"server"})
        self.assertEqual(set(CONFIGS["ha"]["services"]), both | {
            f"{kind}-{n}" for kind in ("server", "etcd") for n in (1, 2, 3)})

    def test_every_image_is_pinned(self):
        for _, _, service in self.services():
            image = service["image"]
            self.assertTrue(OURS.match(image) or PINNED.match(image), image)
            self.assertEqual(bool(OURS.match(image)), "build" in service)

    def test_the_images_have_the_version_of_the_program(self):
        program = re.search(r'static let text = "(.*)"',
                            (ROOT / "Sources/fermata/Fermata.swift").read_text())[1]
        made = re.search(r"^VERSION = (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
        tested = (HERE / "test.py").read_text()
        used = {s["image"].split(":")[1] for _, _, s in self.services() if OURS.match(s["image"])}
        self.assertEqual(used | {made}, {program})
        for name in ("fermata", "fermata-agent"):
            self.assertIn(f'"localhost/{name}:{program}"', tested)

    def test_every_service_has_an_address_of_its_own_in_the_network(self):
        for kind, file in CONFIGS.items():
            subnet = ipaddress.ip_network(
                file["networks"]["cluster"]["ipam"]["config"][0]["subnet"])
            addresses = [s["networks"]["cluster"]["ipv4_address"]
                         for s in file["services"].values()]
            self.assertEqual(len(set(addresses)), len(file["services"]), kind)
            for address in addresses:
                self.assertIn(ipaddress.ip_address(address), subnet)
                # Those of the guests.
                self.assertNotIn(ipaddress.ip_address(address), ipaddress.ip_network("10.80.1.0/24"))

    def test_addresses_in_commands_are_those_of_the_services_they_mean(self):
        for kind, file in CONFIGS.items():
            ports = {"server": {"7450"}, "etcd": {"2379", "2380"}}
            known = {f"{s['networks']['cluster']['ipv4_address']}:{port}"
                     for name, s in file["services"].items()
                     for port in ports.get(name.split("-")[0], ())}
            for name, service in file["services"].items():
                words = " ".join(service.get("command") or []) + " " \
                    + str(service.get("environment") or "")
                for address in re.findall(r"10\.80\.\d+\.\d+:\d+", words):
                    self.assertIn(address, known, f"{kind}: {name}")

    def test_every_service_has_a_health_check_but_the_one_that_ends(self):
        for _, name, service in self.services():
            check = service["healthcheck"]
            self.assertTrue(check, name)
            if name == "pki":
                self.assertTrue(check.get("disable") or check["test"] == ["NONE"])
                self.assertEqual(service["restart"], "no")
            else:
                self.assertEqual(check["test"][0], "CMD")
                self.assertGreater(check["retries"], 1)
                self.assertEqual(service["restart"], "unless-stopped")

    def test_what_must_survive_a_container_is_in_a_volume_of_its_own(self):
        for kind, name, service in self.services():
            if name == "pki":
                continue
            named = [v for v in service["volumes"] if not v.startswith("/")]
            self.assertEqual([v.split(":")[0] for v in named], [name])
            self.assertIn(name, CONFIGS[kind]["volumes"])
            for mount in service["volumes"]:
                if mount not in named:
                    self.assertTrue(mount.endswith((":ro", ":ro,z")), mount)

    def test_each_key_is_only_in_the_volume_of_its_process(self):
        for kind, file in CONFIGS.items():
            pki = file["services"]["pki"]
            made = {word.replace("/", "-", 1) for word in pki["command"]}
            given = {v.split(":")[1].removeprefix("/volumes/"): v.split(":")[0]
                     for v in pki["volumes"] if "/volumes/" in v}
            self.assertEqual(set(given), made, kind)
            self.assertEqual(len(set(given.values())), len(given), kind)
            for name, service in file["services"].items():
                if name != "pki":
                    self.assertNotIn("authority", str(service["volumes"]), f"{kind}: {name}")
                text = str(service)
                for credentials in re.findall(r"/credentials/([a-z0-9-]+)", text):
                    self.assertEqual(given[credentials.removesuffix(".key")], name, kind)

    def test_only_hosts_have_rights(self):
        for _, name, service in self.services():
            self.assertNotIn("privileged", service)
            if name.startswith("agent-"):
                # Else a host that was killed would find in it that its guests have ended by themselves.
                self.assertEqual(service["tmpfs"], ["/run/fermata:mode=0700"])
                self.assertEqual(service["cap_add"], ["NET_ADMIN", "SYS_NICE", "IPC_LOCK"])
                self.assertEqual(service["devices"], ["/dev/net/tun"])
            else:
                self.assertNotIn("cap_add", service)
                self.assertNotIn("devices", service)
                self.assertEqual(service.get("user"), "0" if name == "pki" else None)

    def test_the_options_in_commands_exist(self):
        if not FERMATA.exists():
            self.skipTest(f"{FERMATA} is not built")
        known = {}
        for role in ("server", "notifier", "agent", "health"):
            # A notifier runs if it is told nothing else.
            words = [role, "run"] if role == "notifier" else [role]
            done = subprocess.run([FERMATA, "help", *words], capture_output=True, text=True,
                                  check=False)
            known[role] = set(re.findall(r"--[a-z-]+", done.stdout))
        if "--store" not in known["server"]:
            self.skipTest("this server has no --store")
        for _, name, service in self.services():
            command = service.get("command") or []
            if name.startswith("agent-"):
                command = ["agent", *command]
            check = service["healthcheck"].get("test") or []
            if "fermata" in check:
                self.check_options(known, check[check.index("fermata") + 1:])
            if command and command[0] in known:
                self.check_options(known, command)

    def check_options(self, known, words):
        for word in words[1:]:
            self.assertIn(word.split("=")[0], known[words[0]])

    def test_the_members_of_ha_know_each_other(self):
        services = CONFIGS["ha"]["services"]
        servers = {n: s["networks"]["cluster"]["ipv4_address"] + ":7450"
                   for n, s in services.items() if n.startswith("server-")}
        for name, address in servers.items():
            command = services[name]["command"]
            self.assertIn(f"--advertise={address}", command)
            self.assertEqual({w for w in command if w.startswith("--peer=")},
                             {f"--peer={a}" for a in servers.values() if a != address})
        everyone = ",".join(servers.values())
        for name in ("notifier", "agent-a", "agent-b", "agent-c"):
            self.assertIn(f"--server={everyone}", services[name]["command"])
        self.assertEqual(services["operator"]["environment"]["FERMATA_SERVER"], everyone)


class HostFiles(unittest.TestCase):
    def test_they_are_fine_once_filled_in(self):
        if not FERMATA.exists():
            self.skipTest(f"{FERMATA} is not built")
        addresses = set()
        with tempfile.TemporaryDirectory(prefix="fm-hosts-") as directory:
            here = pathlib.Path(directory)
            for path in ("kernel", "initrd"):
                (here / path).write_bytes(b"x")
            for host in "abc":
                text = (HERE / "hosts" / f"{host}.yaml").read_text()
                self.assertEqual(set(re.findall(r"@\w+@", text)), {"@VERSION@", "@CMDLINE@"})
                addresses |= set(re.findall(r"10\.80\.1\.\d+/16", text))
                for disk in re.findall(r"/var/lib/fermata/(\S+)\.img", text):
                    (here / f"{disk}.img").write_bytes(bytes(512))
                    service = CONFIGS["single"]["services"][f"agent-{host}"]
                    self.assertIn(disk, service["environment"]["DISKS"].split())
                for old, new in (
                        ("@VERSION@", "7.2.0"), ("@CMDLINE@", "quiet"),
                        ("/opt/qemu/old/bin/qemu-system-x86_64", "/bin/true"),
                        ("/opt/qemu/old/modules", "/usr"), ("/usr/lib/ipxe/qemu", "/usr"),
                        ("/usr/share/seabios", "/usr"), ("/usr/share/qemu", "/usr"),
                        ("/opt/guest/vmlinuz", f"{here}/kernel"),
                        ("/opt/guest/initrd", f"{here}/initrd"),
                        ("/var/lib/fermata", directory), (", bridge: br0", "")):
                    text = text.replace(old, new)
                file = here / f"{host}.yaml"
                file.write_text(text)
                done = subprocess.run([FERMATA, "agent", "--check", "--host-file", file],
                                      capture_output=True, text=True, check=False)
                self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(len(addresses), 6)


class AgentEntrypoint(unittest.TestCase):
    """The script as the first process of namespaces, with an agent that only says that it has begun."""

    AGENT = """#!/bin/sh
trap 'echo reloaded >>"$LOG"' HUP
echo begun >>"$LOG"
[ ! -e "$LOG.end" ] || exit 1
while :; do sleep 0.05; done
"""
    # `eth0` is what the engine gives a container; /run outlives it, as the container's own layer does.
    INSIDE = """set -e
mount --bind "$HERE/run" /run
mount --bind "$HERE/bin" /usr/local/bin
ip link add eth0 type veth peer name peer0
ip link set eth0 up
ip addr add 10.80.0.31/16 dev eth0
exec "$0"
"""

    def setUp(self):
        directory = tempfile.TemporaryDirectory(prefix="fm-entrypoint-")
        self.addCleanup(directory.cleanup)
        self.here = pathlib.Path(directory.name)
        for path in ("run", "bin", "qemu/old", "guest"):
            (self.here / path).mkdir(parents=True)
        (self.here / "qemu/old/VERSION").write_text("7.2.18\n")
        (self.here / "guest/cmdline").write_text("quiet\n")
        (self.here / "bin/fermata").write_text(self.AGENT)
        (self.here / "bin/fermata").chmod(0o755)
        self.log = self.here / "log"

    def start(self):
        """Starts a container's life; returns when its agent has begun."""
        self.log.unlink(missing_ok=True)
        outer = subprocess.Popen(
            ["unshare", "--map-root-user", "--mount", "--net", "--pid", "--fork", "--mount-proc",
             "--kill-child", "sh", "-c", self.INSIDE, HERE / "agent-entrypoint"],
            env=os.environ | {
                "HERE": str(self.here), "LOG": str(self.log), "HOST_FILE": str(HERE / "hosts/a.yaml"),
                "QEMU": str(self.here / "qemu"), "GUEST": str(self.here / "guest")},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(lambda: (outer.kill(), outer.wait()))
        self.wait_for("begun", outer)
        (first,) = pathlib.Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()
        return outer, int(first)

    def wait_for(self, word, outer, count=1, meanwhile=lambda: None):
        for _ in range(600):
            if self.log.exists() and self.log.read_text().split().count(word) >= count:
                return
            self.assertIsNone(outer.poll(), f"it has ended, before: {word}")
            meanwhile()
            time.sleep(0.1)
        self.fail(f"not within 60 s: {word}")

    def test_nothing_of_a_life_before_is_left_in_run(self):
        kept = self.here / "run/fermata/a/g/db-0/started"
        kept.parent.mkdir(parents=True)
        kept.write_text("the boot id, which is the real computer's\n")
        self.start()
        self.assertFalse(kept.exists())
        self.assertIn("7.2.18", (self.here / "run/fermata/host.yaml").read_text())

    def test_a_signal_to_reload_reaches_the_agent_and_ends_nothing_without_one(self):
        outer, first = self.start()
        # Again and again: the script may not know its agent yet when that has begun.
        self.wait_for("reloaded", outer, meanwhile=lambda: os.kill(first, signal.SIGHUP))
        # Agents that end at once, and SIGHUP again and again: most of them come between two lives.
        (self.here / "log.end").touch()
        (agent,) = self.agents(first)
        os.kill(agent, signal.SIGKILL)
        until = time.monotonic() + 2.5
        while time.monotonic() < until:
            self.assertIsNone(outer.poll(), "SIGHUP has ended the first process")
            os.kill(first, signal.SIGHUP)
            time.sleep(0.05)
        (self.here / "log.end").unlink()
        begun = self.log.read_text().split().count("begun")
        self.wait_for("begun", outer, begun + 1)

    def agents(self, first):
        children = pathlib.Path(f"/proc/{first}/task/{first}/children").read_text().split()
        return [int(c) for c in children
                if b"fermata" in pathlib.Path(f"/proc/{c}/cmdline").read_bytes()]


class DockerfileStages(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
        cls.lines = [line for line in cls.text.splitlines() if line and line[0] != "#"]

    def test_base_images_are_pinned(self):
        images = dict(re.findall(r"^ARG (\w+_IMAGE)=(\S+)$", self.text, re.MULTILINE))
        self.assertEqual(set(images), {"SWIFT_IMAGE", "DEBIAN_IMAGE"})
        for image in images.values():
            self.assertRegex(image, PINNED)
        # Nothing else is based on anything: each stage on these, on another stage, or on nothing.
        stages = [line.split()[1:] for line in self.lines if line.startswith("FROM")]
        names = {name for _, _, name in stages}
        self.assertLessEqual({"build", "fermata", "fermata-agent"}, names)
        for base, _, _ in stages:
            self.assertIn(base, {"${SWIFT_IMAGE}", "${DEBIAN_IMAGE}", "scratch"} | names)

    def stage(self, name):
        return re.split(r"^FROM ", self.text.split(f" AS {name}\n", 1)[1], flags=re.MULTILINE)[0]

    def test_the_server_is_not_root_and_both_images_have_a_health_check(self):
        for name, user in (("fermata", "fermata"), ("fermata-agent", "root")):
            stage = self.stage(name)
            self.assertEqual(re.findall(r"^USER (\w+)$", stage, re.MULTILINE), [user])
            self.assertRegex(stage, r"\nHEALTHCHECK .*fermata health ")
            self.assertRegex(stage, r"\nENTRYPOINT \[")
            self.assertRegex(stage, r"\nVOLUME /var/lib/fermata\n")

    def test_only_the_build_has_a_toolchain(self):
        self.assertIn("swift build", self.stage("build"))
        for name in ("runtime", "trimmed", "fermata", "fermata-agent"):
            self.assertNotRegex(self.stage(name), r"-dev\b|swift|gcc")

    def test_both_images_know_certificate_authorities(self):
        # Where libcurl looks for them is filled by this package, and both images come from `runtime`.
        self.assertRegex(self.stage("runtime"), r"apt-get install [^&]*\bca-certificates\b")
        for name, base in (("trimmed", "runtime"), ("fermata-agent", "runtime")):
            self.assertIn(f"FROM {base} AS {name}", self.text)
        self.assertIn("COPY --from=trimmed / /", self.stage("fermata"))

    def test_what_is_copied_is_in_the_context(self):
        ignored = (ROOT / ".dockerignore").read_text().splitlines()
        for line in self.lines:
            if line.startswith("COPY") and "--from" not in line:
                for source in line.split()[1:-1]:
                    self.assertTrue((ROOT / source).exists(), source)
                    self.assertIn(f"!{source.rstrip('/')}", ignored)


class Chaos(unittest.TestCase):
    def run_it(self, *arguments):
        return subprocess.run([HERE / "chaos", *arguments], capture_output=True, text=True,
                              check=False, cwd=HERE / "single")

    def test_it_explains_itself(self):
        done = self.run_it("--help")
        self.assertEqual(done.returncode, 0)
        for action in ("kill", "stop", "start", "restart", "pause", "unpause", "cut", "heal"):
            self.assertIn(f"  {action} SERVICE ", done.stdout)

    def test_it_refuses_what_it_does_not_know(self):
        for arguments in ((), ("kill",), ("bite", "server"), ("kill", "server", "agent-a")):
            done = self.run_it(*arguments)
            self.assertEqual(done.returncode, 64, arguments)
            self.assertIn("usage: chaos", done.stderr)


if __name__ == "__main__":
    unittest.main()
