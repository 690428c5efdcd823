"""Certificates from their issue to their revocation, with real processes: what is open stays open over
a renewal, what is revoked is closed and stays out, and a reload that fails changes nothing."""
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import threading
import time

from support import FERMATA, NOT_PERMITTED, Scratch, fermata, make_pki, wait_until

import fermata_wire as wire

HOST_FILE = """\
host: a
runDirectory: {directory}/run
stateDirectory: {directory}/state
memoryDirectory: {directory}/memory
hypervisor: {{path: /bin/true, version: "1"}}
"""


class Daemon:
    """A process that stays, with what it logs."""

    def __init__(self, test, *arguments):
        self.log = ""
        self.process = subprocess.Popen(
            [FERMATA, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()
        test.addCleanup(self.kill)
        self.ready = self.process.stdout.readline()
        test.assertIn(" ready", self.ready, self.log)

    def read(self):
        for line in self.process.stderr:
            self.log += line

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.reader.join(5)
        self.process.stdout.close()
        self.process.stderr.close()

    def wait_log(self, pattern, count=1):
        wait_until(lambda: len(re.findall(pattern, self.log)) >= count, 30,
                   f"{pattern!r} {count} times in the log:\n{self.log}")

    def reload(self):
        """Sends SIGHUP and waits for what comes of it: whether the new credentials are in use."""
        before = len(self.outcomes())
        self.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(self.outcomes()) > before, 30, "a reload")
        return self.outcomes()[-1] == "credentials reloaded"

    def outcomes(self):
        return re.findall(r"credentials (?:not )?reloaded", self.log)


class Pki(Scratch):

    def setUp(self):
        super().setUp()
        self.pki = make_pki(self.directory / "pki", "test")

    def do(self, *words):
        result = fermata("pki", *words)
        self.assertEqual(result.code, 0, str(result))
        return result

    def renew(self, role, name, *options):
        return self.do("renew", role, name, "--directory", self.pki, *options)

    def revoke(self, role, name, reason="keyCompromise"):
        return self.do("revoke", role, name, "--directory", self.pki, "--reason", reason)

    def test_show_of_a_file_with_two_authorities(self):
        other = make_pki(self.directory / "other", "test")
        both = self.directory / "both.pem"
        both.write_text((self.pki / "ca.pem").read_text() + (other / "ca.pem").read_text())
        shown = self.do("show", both, "--output", "json").json
        self.assertEqual([each["serial"] for each in shown],
                         [self.do("show", each / "ca.pem", "--output", "json").json["serial"]
                          for each in (self.pki, other)])
        text = self.do("show", both).out
        self.assertEqual(text.count("authority  yes"), 2)

    def listed(self):
        return self.do("list", "--directory", self.pki, "--output", "json").json

    def show(self, name):
        return self.do("show", self.pki / name, "--output", "json").json

    def openssl(self, *words):
        return subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True,
                              check=False)

    def verify(self, name):
        return self.openssl("verify", "-x509_strict", "-crl_check", "-CRLfile",
                            self.pki / "crl.pem", "-CAfile", self.pki / "ca.pem",
                            self.pki / f"{name}.pem")


class Fleet(Pki):
    """A server, a notifier, an agent without guests, and an operator who follows."""

    def setUp(self):
        super().setUp()
        self.server = Daemon(self, "server", "--credentials", self.pki / "server-s", "--data",
                             self.directory / "data", "--listen", "127.0.0.1:0")
        self.address = self.server.ready.split(" ready on ")[1].split()[0]

    def start_agent(self):
        path = self.write("host.yaml", HOST_FILE.format(directory=self.directory))
        agent = Daemon(self, "agent", "--host-file", path, "--credentials", self.pki / "agent-a",
                       "--server", self.address)
        self.wait_connected(True)
        return agent

    def start_notifier(self):
        return Daemon(self, "notifier", "--credentials", self.pki / "notifier-n", "--server",
                      self.address, "--database", self.directory / "notifier.db")

    def status(self, credentials="operator-alice"):
        return fermata("status", "--credentials", self.pki / credentials, "--server", self.address,
                       "--output", "json")

    def wait_connected(self, connected):
        def look():
            hosts = fermata("hosts", "--credentials", self.pki / "operator-bob", "--server",
                            self.address, "--output", "json")
            return hosts.code == 0 and [h["connected"] for h in hosts.json] == [connected]
        if not (self.pki / "operator-bob.pem").exists():
            self.do("issue", "operator", "bob", "--directory", self.pki)
        wait_until(look, 30, f"the agent to be {'connected' if connected else 'gone'}")

    def follow(self):
        """An operator's open session, which stays."""
        host, _, port = self.address.rpartition(":")
        session = wire.connect(host, int(port), str(self.pki / "operator-alice"))
        self.addCleanup(session.__exit__, None, None, None)
        session.hello()
        return session

    def assert_none_over(self, *names):
        for line in self.server.log.splitlines():
            if "session over" in line:
                for name in names:
                    self.assertNotIn(f"fermata://test/{name} ", line)

    def assert_alive(self, session):
        answer = session.request(wire.pb.Query(status=wire.pb.Empty()))
        self.assertEqual(answer.message.status.cluster, "test")

    def served(self):
        """The serial number of the server's certificate, as a new connection gets it."""
        host, _, port = self.address.rpartition(":")
        seen = self.openssl("s_client", "-connect", self.address, "-alpn", "fermata/1", "-cert",
                            self.pki / "operator-alice.pem", "-key",
                            self.pki / "operator-alice.key", "-showcerts")
        pem = self.write("seen.pem", seen.stdout[seen.stdout.index("-----BEGIN"):])
        return self.do("show", pem, "--output", "json").json["serial"]

    def test_renewal_under_way_keeps_sessions_open_and_is_used_by_new_ones(self):
        notifier, agent, alice = self.start_notifier(), self.start_agent(), self.follow()
        old = self.served()
        self.assertEqual(old, self.show("server-s.pem")["serial"])
        for role, name in (("server", "s"), ("agent", "a"), ("notifier", "n")):
            self.renew(role, name, "--new-key", "--days", "200")
        for daemon in (self.server, notifier, agent):
            self.assertTrue(daemon.reload(), daemon.log)
        self.assert_none_over("agent/a", "notifier/n", "operator/alice")
        self.assert_alive(alice)
        new = self.show("server-s.pem")
        self.assertEqual(self.served(), new["serial"])
        self.assertNotEqual(old, new["serial"])
        self.assertIn(f"until={new['notAfter'][:19]}Z", self.server.log)

        # Whoever connects again comes with the new one: the old is revoked, and nobody minds.
        first = next(c for c in self.listed() if c["uri"] == "fermata://test/agent/a")
        self.do("revoke", "--serial", first["serial"], "--directory", self.pki, "--reason",
                "superseded")
        self.assertTrue(self.server.reload())
        self.server.wait_log(f"certificate {first['serial']} has been revoked")
        # Its session was of the old certificate; what comes next is of the new one.
        self.assertTrue(agent.reload())
        self.wait_connected(True)
        self.assert_alive(alice)

    def test_a_revoked_agent_is_shut_out_until_it_has_a_new_key(self):
        agent, alice = self.start_agent(), self.follow()
        serial = self.show("agent-a.pem")["serial"]
        self.revoke("agent", "a")
        # The agent's own copy is not to know yet, as on a host of its own.
        self.assertTrue(self.server.reload())
        agent.wait_log(f"certificate {serial} has been revoked")
        self.wait_connected(False)
        self.assertIsNone(agent.process.poll(), "it may be in the middle of a hold: it stays")
        self.assert_alive(alice)
        self.assertFalse(agent.reload())
        self.assertIn("has been revoked", agent.log)
        self.renew("agent", "a", "--new-key")
        self.assertTrue(agent.reload())
        self.wait_connected(True)

    def test_new_connections_of_the_revoked_are_refused_with_a_clear_word(self):
        # A copy of what alice had, and no list beside it: what a thief has.
        thief = self.directory / "thief"
        thief.mkdir()
        for name in ("ca.pem", "operator-alice.pem", "operator-alice.key"):
            (thief / name).write_bytes((self.pki / name).read_bytes())
        os.chmod(thief / "operator-alice.key", 0o600)
        steal = lambda: fermata("status", "--credentials", thief / "operator-alice", "--server",
                                self.address)
        self.assertEqual(steal().code, 0)
        self.revoke("operator", "alice")
        self.assertEqual(steal().code, 0, "the server does not know yet")
        self.assertTrue(self.server.reload())
        self.assertFails(steal(), NOT_PERMITTED, "certificate_revoked", "revocation list",
                         "--new-key")
        self.server.wait_log("fermata://test/operator/alice, serial [0-9a-f]{32}.* has been "
                             "revoked")
        # With the list beside it, it is not even tried.
        self.assertFails(self.status(), NOT_PERMITTED, "operator-alice.pem has been revoked")
        self.renew("operator", "alice", "--new-key")
        self.assertEqual(self.status().code, 0)

    def test_a_server_that_is_revoked_is_not_trusted(self):
        self.revoke("server", "s")
        self.assertFails(self.status(), NOT_PERMITTED, "peer's certificate", "server/s",
                         "has been revoked")
        again = fermata("server", "--credentials", self.pki / "server-s", "--data",
                        self.directory / "data2", "--listen", "127.0.0.1:0")
        self.assertFails(again, NOT_PERMITTED, "server-s.pem has been revoked")

    def test_a_reload_that_fails_changes_nothing(self):
        alice = self.follow()
        served = self.served()
        older = (self.pki / "crl.pem").read_bytes()
        self.revoke("agent", "c")
        self.assertTrue(self.server.reload())
        newer = (self.pki / "crl.pem").read_bytes()
        other = make_pki(self.directory / "other", "test", ("server-s",))
        files = {
            "server-s.pem": [b"broken", (other / "server-s.pem").read_bytes()],
            "server-s.key": [b"broken", (other / "server-s.key").read_bytes()],
            "ca.pem": [b"", (other / "ca.pem").read_bytes()],
            "crl.pem": [b"broken", older, (other / "crl.pem").read_bytes()],
        }
        for name, contents in files.items():
            good = (self.pki / name).read_bytes()
            for bad in contents:
                (self.pki / name).write_bytes(bad)
                self.assertFalse(self.server.reload(), name)
                (self.pki / name).write_bytes(good)
            self.assertEqual(self.served(), served)
        self.assertIn("older revocation list (number 1) than the one in use (number 2)",
                      self.server.log)
        os.remove(self.pki / "crl.pem")
        self.assertFalse(self.server.reload())
        (self.pki / "crl.pem").write_bytes(newer)
        for name in ("pem", "key"):
            (self.pki / f"server-s.{name}").write_bytes(
                (self.pki / f"agent-b.{name}").read_bytes())
        self.assertFalse(self.server.reload(), "it must not become somebody else")
        self.assert_alive(alice)
        self.assertIsNone(self.server.process.poll())

    def test_what_ends_soon_is_warned_of_at_the_start_and_at_a_reload(self):
        self.assertNotIn("ends soon", self.server.log)
        self.renew("server", "s", "--days", "29")
        self.assertTrue(self.server.reload())
        self.server.wait_log("warning .*server-s.pem ends soon.*pki renew server s")
        self.renew("notifier", "n", "--days", "1")
        notifier = self.start_notifier()
        notifier.wait_log("warning .*notifier-n.pem ends soon")

    def test_many_reloads_at_once_disturb_no_session(self):
        agent = self.start_agent()
        for _ in range(20):
            agent.process.send_signal(signal.SIGHUP)
            self.server.process.send_signal(signal.SIGHUP)
        for daemon in (agent, self.server):
            daemon.wait_log("credentials reloaded")
            self.assertTrue(daemon.reload())
        self.assert_none_over("agent/a")

    def test_a_guard_does_not_notice_a_reload(self):
        ours, theirs = socket.socketpair()
        with ours, theirs, subprocess.Popen(
                [FERMATA, "guard", "--channel-descriptor", str(theirs.fileno())],
                pass_fds=[theirs.fileno()], stderr=subprocess.DEVNULL) as guard:
            theirs.close()
            status = pathlib.Path(f"/proc/{guard.pid}/status")
            caught = lambda: int(re.search(r"SigCgt:\s*(\w+)", status.read_text())[1], 16)
            wait_until(lambda: caught() >> (signal.SIGHUP - 1) & 1, 30, "the guard to be there")
            guard.send_signal(signal.SIGHUP)
            with self.assertRaises(subprocess.TimeoutExpired):
                guard.wait(0.5)
            ours.close()
            guard.wait(30)


class Files(Pki):

    def test_openssl_agrees_with_what_was_written(self):
        self.revoke("agent", "a", "keyCompromise")
        self.revoke("agent", "b", "cessationOfOperation")
        text = self.openssl("crl", "-in", self.pki / "crl.pem", "-CAfile", self.pki / "ca.pem",
                            "-verify", "-noout", "-text")
        self.assertIn("verify OK", text.stderr)
        for words in ("Version 2", "Issuer: O = test, OU = authority, CN = ca", "Key Compromise",
                      "Cessation Of Operation"):
            self.assertIn(words, text.stdout)
        self.assertRegex(text.stdout, r"X509v3 CRL Number: \n +3\n")
        ends = lambda kind, flag, name: self.openssl(
            kind, "-in", self.pki / name, "-noout", flag).stdout.split("=")[1]
        self.assertEqual(ends("crl", "-nextupdate", "crl.pem"), ends("x509", "-enddate", "ca.pem"))
        for name, good in (("agent-a", False), ("agent-b", False), ("agent-c", True),
                           ("server-s", True)):
            done = self.verify(name)
            self.assertEqual(done.returncode == 0, good, f"{name}: {done.stdout}{done.stderr}")
            if not good:
                self.assertIn("certificate revoked", done.stdout + done.stderr)
        entry = next(c for c in self.listed() if c["uri"].endswith("agent/b"))
        self.assertEqual((entry["state"], entry["reason"]), ("revoked", "cessationOfOperation"))

    def test_commands_at_once_lose_nothing(self):
        count = len(self.listed())
        started = [
            subprocess.Popen([FERMATA, "pki", *words, "--directory", self.pki],
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            for number in range(3)
            for words in (["issue", "agent", f"n{number}"], ["renew", "agent", "a"],
                          ["revoke", "agent", "b"])]
        for process in started:
            self.assertEqual((process.communicate()[1], process.returncode), (b"", 0))
        listed = self.listed()
        self.assertEqual(len(listed), count + 6)
        self.assertEqual(len({c["serial"] for c in listed}), len(listed))
        self.assertEqual(self.show("crl.pem")["number"], 2)

    def seconds_of_renewal(self):
        began = time.monotonic()
        self.renew("agent", "a", "--new-key")
        return time.monotonic() - began

    def test_a_command_killed_at_any_time_leaves_all_or_nothing(self):
        generator = random.Random(7)
        usual = min(self.seconds_of_renewal() for _ in range(5))    # the first ones are slower
        killed = 0
        for number in range(60):
            words = generator.choice([
                ["issue", "agent", f"k{number}"], ["renew", "agent", "a", "--new-key"],
                ["revoke", "agent", "c"] if number % 2 else ["renew", "server", "s", "--new-key"]])
            process = subprocess.Popen([FERMATA, "pki", *words, "--directory", self.pki],
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(generator.uniform(0, usual * 1.2))
            process.kill()
            killed += process.wait() != 0
        self.assertGreater(killed, 5)
        self.listed()  # finishes a change that was decided
        # Clears away also what had no name yet: a list, which anybody may ask for, leaves that.
        self.do("issue", "agent", "last", "--directory", self.pki)
        listed = self.listed()
        known = {c["serial"] for c in listed}
        names = {p.stem for p in self.pki.glob("*-*.pem")} | {p.stem for p in
                                                              self.pki.glob("*-*.key")}
        for name in names:
            self.assertIn(self.show(f"{name}.pem")["serial"], known)
            public = [self.openssl(*words).stdout for words in (
                ["x509", "-in", self.pki / f"{name}.pem", "-noout", "-pubkey"],
                ["pkey", "-in", self.pki / f"{name}.key", "-pubout"])]
            self.assertEqual(public[0], public[1], name)
        revoked = {c["serial"] for c in listed if c["state"] == "revoked"}
        self.assertEqual({e["serial"] for e in self.show("crl.pem")["entries"]}, revoked)
        remains = {p.name for p in self.pki.iterdir()} - {f"{n}.{k}" for n in names
                                                          for k in ("pem", "key")}
        self.assertEqual(remains, {"ca.pem", "ca.key", "crl.pem", "index.txt", "pki.lock"})

    def test_the_index_is_lines_that_people_can_read(self):
        lines = (self.pki / "index.txt").read_text().splitlines()
        self.assertEqual(lines[0], "fermata-index 1 1")
        self.assertEqual(len(lines), 1 + len(self.listed()))
        self.assertRegex(lines[1], r"^[0-9a-f]{32} fermata://test/server/s \S+Z \S+Z - -$")
        self.write("pki/index.txt", "\n".join(lines[:2] + ["nonsense"]) + "\n")
        self.assertFails(fermata("pki", "list", "--directory", self.pki), 65, "index.txt", "line 3")
