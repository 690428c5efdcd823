"""The oldest peer that has to be served: frozen bytes of version 1 (proto-spec/vectors/peer-v1.json)
against today's server, and today's clients against its server. If one of these fails, a fleet that is
upgraded step by step would break: mend the code, not the bytes."""
import json
import shlex
import socket
import subprocess
import sys

from support import (  # first: it sets the path for the others
    FERMATA, ROOT, Scratch, fermata, make_pki)

from frozen_peer import Mismatch, Player

FROZEN = json.loads((ROOT / "proto-spec" / "vectors" / "peer-v1.json").read_text())
CLIENT = ROOT / "proto-spec" / "python" / "fermata_client.py"
HOST_FILE = """\
host: a
runDirectory: {directory}/run
stateDirectory: {directory}/state
memoryDirectory: {directory}/memory
hypervisor: {{path: /bin/true, version: "1"}}
"""


def start_server(case):
    """A server `s1` with an empty log, until the test ends: its address, as text and as (host, port)."""
    server = subprocess.Popen(
        [FERMATA, "server", "--credentials", case.pki / "server-s1", "--data",
         case.directory / "data", "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True)

    def end():
        server.kill()
        server.communicate()
    case.addCleanup(end)
    line = server.stdout.readline()
    case.assertIn("fermata server ready on ", line)
    address = line.split(" ready on ")[1].split()[0]
    return address, (address.rpartition(":")[0], int(address.rpartition(":")[2]))


class OldestPeer(Scratch):
    def setUp(self):
        super().setUp()
        self.pki = make_pki(self.directory / "pki", "demo", (
            "server-s1", "operator-alice", "agent-a", "notifier-n1"))

    # ---- frozen clients ----

    def play_client(self, name, change=lambda steps: steps):
        address, pair = start_server(self)
        (script,) = [s for s in FROZEN["clients"] if s["name"] == name]
        Player(change(script["steps"]), FROZEN["alpn"], self.pki, connect=pair).play()
        return fermata("status", "--server", address, "--credentials", self.pki / "operator-alice",
                       "--output", "json").json

    def test_todays_server_serves_the_frozen_agent_operator_and_notifier(self):
        status = self.play_client("a rollout, seen by an agent, an operator and a notifier")
        self.assertEqual((status["hostCount"], status["guestCount"]), (1, 1))

    def test_a_step_that_comes_out_otherwise_is_noticed(self):
        # The player itself: a field, a correlation and a kind that are not as frozen.
        def with_other(what, **changes):
            def change(steps):
                steps = json.loads(json.dumps(steps))
                (first, *_) = [s for s in steps if s["what"] == what]
                first["expect"].update(changes)
                return steps
            return change
        name = "a rollout, seen by an agent, an operator and a notifier"
        for change in (with_other("one host, one guest", fields={"1.6": 2}),
                       with_other("one host, one guest", correlation=5),
                       with_other("one host, one guest", kind=34),
                       with_other("it is in the log", fields={"1": None})):
            with self.assertRaises(Mismatch):
                self.play_client(name, change)
            self.doCleanups()
            self.setUp()

    def test_todays_server_refuses_a_peer_without_a_common_version_and_knows_nothing_of_it(self):
        status = self.play_client("no version in common")
        self.assertEqual((status["hostCount"], status["connectedHostCount"]), (0, 0))

    # ---- frozen servers ----

    def command(self, text, address):
        """The command line of a client, and the certificate's name."""
        program, *words = shlex.split(text)
        role = words[0] if words[0] in ("agent", "notifier") else "operator"
        name = {"agent": "agent-a", "notifier": "notifier-n1", "operator": "operator-alice"}[role]
        if role == "agent":
            words += ["--host-file", self.write("host.yaml", HOST_FILE.format(
                directory=self.directory))]
        elif role == "notifier":
            words += ["--database", self.directory / "notifier.db"]
        start = [FERMATA] if program == "fermata" else [sys.executable, CLIENT]
        return [*map(str, start + words), "--server", address, "--credentials",
                str(self.pki / name)]

    def play_server(self, script, text):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = f"127.0.0.1:{listener.getsockname()[1]}"
            process = subprocess.Popen(
                self.command(text, address), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, text=True)
            try:
                Player(script["steps"], FROZEN["alpn"], self.pki, listener=listener,
                       server="server-s1").play()
                if script.get("stops"):
                    self.assertIsNone(process.poll(), "it has ended by itself")
                    process.terminate()
                out, err = process.communicate(timeout=90)
            except Mismatch as mismatch:
                process.kill()
                out, err = process.communicate()
                self.fail(f"{mismatch}\nstdout: {out}\nstderr: {err}")
            finally:
                process.kill()
                process.communicate()
        told = f"{text}: {process.returncode}\nstdout: {out}\nstderr: {err}"
        if "exit" in script:
            self.assertEqual(process.returncode, script["exit"], told)
        for word in script.get("stdout", []):
            self.assertIn(word, out, told)
        for word in script.get("stderr", []):
            self.assertIn(word, err, told)
        self.assertNotIn("Fatal error", err, told)


def add_server_tests():
    """One test for each script and client, so that each is named in the output."""
    for script in FROZEN["servers"]:
        for text in script["clients"]:
            def test(self, script=script, text=text):
                self.play_server(script, text)
            name = "_".join(["test_frozen_server", script["name"], "with", text])
            setattr(OldestPeer, "".join(c if c.isalnum() else "_" for c in name), test)


add_server_tests()
