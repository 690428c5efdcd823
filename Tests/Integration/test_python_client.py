"""The client in Python, written from the specification alone, against a real server process.

With scripted agents, so that no guest is needed; a rollout of real guests is in
test_python_client_rollout.py.
"""
import json
import pathlib
import subprocess
import sys

from support import (  # first: it sets the path for the others
    FERMATA, ROOT, Scratch, fermata, make_pki, wait_until)

from scripted_agent import ScriptedAgent, wait_finished

CLIENT = ROOT / "proto-spec" / "python" / "fermata_client.py"


class ServerCase(Scratch):
    """A server of cluster `test` on a port of its own, and how to ask it."""

    def setUp(self):
        super().setUp()
        self.pki = make_pki(self.directory / "pki", "test")
        self.operator = self.pki / "operator-alice"
        self.address = "127.0.0.1:0"
        self.start_server()

    def start_server(self):
        with open(self.directory / "server.log", "ab") as log:
            self.server = subprocess.Popen(
                [FERMATA, "server", "--credentials", self.pki / "server-s", "--data",
                 self.directory / "data", "--listen", self.address], stdout=subprocess.PIPE,
                stderr=log, text=True)
        self.addCleanup(self.end_server, self.server)
        line = self.server.stdout.readline()
        self.assertIn("fermata server ready on ", line)
        self.address = line.split(" ready on ")[1].split()[0]

    def end_server(self, server):
        server.kill()
        server.wait()
        server.stdout.close()

    def fermata_json(self, *arguments):
        result = fermata(*arguments, "--credentials", self.operator, "--server", self.address,
                         "--output", "json")
        self.assertEqual(result.code, 0, str(result))
        return result.json

    def add_release(self, name, version):
        self.fermata_json("release", "add", name, "--version", version, "--path", "/bin/true")

    def client_command(self, *arguments, credentials=None):
        return [sys.executable, CLIENT, "--server", self.address, "--credentials",
                credentials or self.operator, *map(str, arguments)]

    def client(self, *arguments, code=0, credentials=None):
        done = subprocess.run(self.client_command(*arguments, credentials=credentials),
                              capture_output=True, text=True, timeout=90, check=False)
        self.assertEqual(done.returncode, code, f"{arguments}\n{done.stdout}\n{done.stderr}")
        return done.stdout if code == 0 else done.stderr

    def client_json(self, *arguments):
        return json.loads(self.client(*arguments, "--json"))

    def roll(self, release):
        """Starts a rollout and waits for its end."""
        rollout = self.fermata_json("rollout", "start", "--release", release)["rollout"]
        return wait_finished(self.fermata_json, rollout)

    def background(self, *arguments):
        """A client that follows; what it writes is read by the caller."""
        process = subprocess.Popen(self.client_command(*arguments), stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True)

        def end():
            process.kill()
            process.communicate()
        self.addCleanup(end)
        return process


class PythonClient(ServerCase):
    def test_it_says_hello_and_asks_for_everything(self):
        hello = self.client_json("hello")
        self.assertEqual((hello["server"], hello["version"], hello["is_leader"]), ("s", 1, True))
        self.assertEqual(self.client_json("status")["cluster"], "test")
        for what in ("hosts", "guests", "sets", "locks", "releases", "rollouts"):
            self.assertEqual(self.client_json(what), [], what)
            self.assertEqual(len(self.client(what).splitlines()), 1, what)
        self.add_release("r", "2")
        (release,) = self.client_json("releases")
        self.assertEqual(release["release"]["id"], "r")
        self.assertEqual(release["added_by"], "alice")
        self.assertIn("/bin/true", self.client("releases"))

    def test_it_lists_what_fermata_lists(self):
        with ScriptedAgent(self.address, self.pki / "agent-a", ["g-1", "g-2"]):
            ours, theirs = self.client_json("guests"), self.fermata_json("guests")
            self.assertEqual([(g["report"]["id"], g["host"], g["report"]["state"]) for g in ours],
                             [(g["id"], g["host"], g["state"]) for g in theirs])
            self.assertEqual([g["report"]["id"] for g in ours], ["g-1", "g-2"])
            (host,) = self.client_json("hosts")
            self.assertEqual((host["id"], host["connected"], host["guest_count"]), ("a", True, 2))
            self.assertIn("1 of 1 connected", self.client("status"))

    def test_it_follows_a_rollout_and_a_restarted_server_without_gap_or_repetition(self):
        follower = self.background("follow", "--json", "--progress", "--count", "8", "--verbose")
        self.wait_session(follower)
        self.add_release("two", "2")
        self.add_release("three", "3")
        with ScriptedAgent(self.address, self.pki / "agent-a", ["g-1"]):
            self.assertEqual(self.roll("two")["state"], "succeeded")
        lines = []
        while sum("sequence" in line for line in lines) < 4:
            lines.append(json.loads(follower.stdout.readline()))
        self.server.kill()
        self.server.wait()
        self.start_server()
        self.assertIn("connecting again", self.wait_session(follower))
        with ScriptedAgent(self.address, self.pki / "agent-a", ["g-1"], version="2"):
            self.assertEqual(self.roll("three")["state"], "succeeded")
            out, err = follower.communicate(timeout=90)
        self.assertEqual(follower.returncode, 0, err)
        lines += [json.loads(line) for line in out.splitlines()]
        events = [line for line in lines if "sequence" in line]
        self.assertEqual([each["sequence"] for each in events], list(range(1, 9)))
        kinds = ["rollout_started", "step_granted", "hold_finished", "rollout_changed"]
        self.assertEqual([next(k for k in kinds if k in each) for each in events], kinds * 2)
        self.assertEqual([e["hold_finished"]["version"] for e in events if "hold_finished" in e],
                         ["2", "3"])
        hold = events[2]["hold_finished"]["record"]
        self.assertEqual((hold["guest"], hold["hold_microseconds"], hold["outcome"]),
                         ("g-1", 12_500, "succeeded"))
        self.assertEqual(hold["clock_error_before_microseconds"], -7)
        phases = [line["progress"]["phase"] for line in lines if "progress" in line]
        self.assertEqual(phases, ["preparing", "held", "resumed"] * 2)
        # Whoever comes later gets the same, and from any number on.
        again = [json.loads(line) for line in
                 self.client("follow", "--json", "--after", "5", "--count", "3").splitlines()]
        self.assertEqual(again, events[5:])
        self.assertIn("guest g-1 on host a held for 12.5 ms, succeeded",
                      self.client("follow", "--after", "2", "--count", "1"))

    def wait_session(self, follower):
        """Until a follower with --verbose has a session: progress is only for who is there. What it
        has said before."""
        said = ""
        for line in follower.stderr:
            if "session with s" in line:
                return said
            said += line
        raise AssertionError(f"the follower has ended: {said}")

    def test_a_session_outlives_the_silence(self):
        # The server closes after 3 s without a byte: only pings keep these two in touch.
        follower = self.background("follow", "--count", "1", "--verbose")
        self.wait_session(follower)
        self.add_release("two", "2")
        log = self.directory / "server.log"
        waited = wait_until(lambda: self.seconds_since_start(follower) > 5, 10, "five seconds")
        self.assertTrue(waited)
        self.assertNotIn("TIMEOUT", log.read_text())
        with ScriptedAgent(self.address, self.pki / "agent-a", ["g-1"]):
            self.roll("two")
        out, err = follower.communicate(timeout=90)
        self.assertEqual((follower.returncode, err), (0, ""))
        self.assertIn("rollout 1 started", out)

    def seconds_since_start(self, process):
        """How long a process has been there, by the kernel's clock."""
        ticks = int(pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(")")[1].split()[19])
        up = float(pathlib.Path("/proc/uptime").read_text().split()[0])
        return up - ticks / 100

    def test_wrong_credentials_have_the_exit_code_of_the_specification(self):
        other = make_pki(self.directory / "other", "test", ("operator-alice",))
        self.assertIn("certificate", self.client("status", code=77,
                                                 credentials=other / "operator-alice"))
        self.assertIn("agent", self.client("status", code=77, credentials=self.pki / "agent-a"))
        self.end_server(self.server)
        self.assertIn(self.address, self.client("status", "--timeout", "0.5", code=69))
