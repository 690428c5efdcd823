"""`fermata health`: whether a server, an agent or a notifier works, for health checks of containers and
load balancers. What hangs, is gone or is somebody else is not healthy."""
import os
import signal
import socket
import threading
import time
import unittest

from support import (BAD_INPUT, CACHE, FERMATA, NOT_PERMITTED, UNAVAILABLE, USAGE, Scratch, fermata,
                     make_pki)

from lab import Cluster, Guest, free_port, wait_until


class Idle(Cluster):
    """A cluster of one host, whose only guest idles in its firmware."""

    def __init__(self):
        super().__init__(FERMATA, CACHE, [Guest("g", "z", disk=False)], net="user",
                         cluster="health")

    def guest_text(self, guest):
        return f"  - {{id: {guest.name}, memory: 32MiB, guestAgent: false}}\n"


class HealthOfACluster(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cluster = Idle()
        cls.addClassCleanup(cls.cluster.close)
        cls.cluster.prepare()
        cls.cluster.start_server()
        cls.cluster.start_notifier()
        cls.cluster.start_agents()

    def health(self, *arguments, **options):
        return fermata("health", *arguments, **options)

    def server(self, credentials="operator-alice", *more):
        return self.health("--server", self.cluster.server_address, "--credentials",
                           self.cluster.credentials(credentials), *more)

    def assertHealthy(self, result, *words):
        self.assertEqual(result.code, 0, str(result))
        for word in words:
            self.assertIn(word, result.out, str(result))

    def assertIll(self, result, *words, code=UNAVAILABLE):
        self.assertEqual(result.code, code, str(result))
        self.assertEqual(result.out, "", str(result))
        for word in words:
            self.assertIn(word, result.err, str(result))

    # ---- server ----

    def test_a_server_that_leads_says_so(self):
        self.assertHealthy(self.server(), "server s1 at ", " leads (term ")

    def test_the_credentials_can_come_from_the_environment(self):
        self.assertHealthy(self.health(
            "--server", self.cluster.server_address,
            environment={"FERMATA_CREDENTIALS": str(self.cluster.credentials("operator-alice"))}))

    def test_a_server_is_asked_with_its_own_credentials(self):
        self.assertHealthy(self.server("server-s1"), " leads ")

    def test_an_agents_credentials_are_refused_and_its_session_stays(self):
        for name, role in (("agent-z", "agent"), ("notifier-n1", "notifier")):
            self.assertIll(self.server(name), role, code=NOT_PERMITTED)
        self.assertTrue(self.cluster.cli_json("hosts")[0]["connected"])

    def test_a_server_that_hangs_is_not_healthy_and_is_again_when_it_goes_on(self):
        self.cluster.server.signal(signal.SIGSTOP)
        try:
            started = time.monotonic()
            self.assertIll(self.server("operator-alice", "--timeout", "1"), "did not answer")
            self.assertLess(time.monotonic() - started, 30)
        finally:
            self.cluster.server.signal(signal.SIGCONT)
        wait_until(lambda: self.server().code == 0, 20, "the server to be healthy again")

    # ---- agent ----

    def test_an_agent_says_how_many_of_its_guests_run(self):
        host_file = self.cluster.host_file("z")
        wait_until(lambda: "1 of 1 guests run" in self.health("--host-file", host_file).out, 30,
                   "the guest to run")
        self.assertHealthy(self.health("--host-file", host_file), "the agent of host z works")

    def test_an_agent_that_hangs_is_not_healthy(self):
        agent = self.cluster.agents["z"]
        agent.signal(signal.SIGSTOP)
        try:
            self.assertIll(self.health("--host-file", self.cluster.host_file("z"), "--timeout",
                                       "500ms"), "gave no answer")
        finally:
            agent.signal(signal.SIGCONT)
        self.assertHealthy(self.health("--host-file", self.cluster.host_file("z")))

    def test_an_agent_that_was_killed_is_not_healthy(self):
        agent = self.cluster.agents["z"]
        agent.kill()
        try:
            self.assertIll(self.health("--host-file", self.cluster.host_file("z")),
                           "cannot be asked")
        finally:
            agent.start()
        self.assertHealthy(self.health("--host-file", self.cluster.host_file("z")))

    # ---- notifier ----

    def test_a_notifier_follows_and_is_ill_when_it_is_gone(self):
        self.assertHealthy(self.health("--database", self.cluster.database), "follows")
        self.cluster.notifier.kill()
        try:
            self.assertIll(self.health("--database", self.cluster.database), "no notifier uses")
        finally:
            self.cluster.notifier.start()
        self.assertHealthy(self.health("--database", self.cluster.database))

    def test_a_notifier_without_a_leader_is_ill_after_a_while(self):
        self.cluster.notifier.signal(signal.SIGSTOP)
        lock = f"{self.cluster.database}.lock"
        try:
            # As if it had not followed for a minute.
            os.utime(lock, (time.time() - 60, time.time() - 60))
            self.assertIll(self.health("--database", self.cluster.database),
                           "has had no leader for 6")
        finally:
            self.cluster.notifier.signal(signal.SIGCONT)
        wait_until(lambda: self.health("--database", self.cluster.database).code == 0, 20,
                   "the notifier to touch its lock")


class HealthOfNobody(Scratch):
    def setUp(self):
        super().setUp()
        self.pki = make_pki(self.directory / "pki", certificates=("operator-alice",))

    def ask(self, port, *more):
        return fermata("health", "--server", f"127.0.0.1:{port}", "--credentials",
                       self.pki / "operator-alice", *more)

    def test_nobody_there(self):
        self.assertFails(self.ask(free_port()), UNAVAILABLE, "127.0.0.1")

    def test_somebody_who_only_listens(self):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            result = self.ask(listener.getsockname()[1], "--timeout", "500ms")
        self.assertFails(result, UNAVAILABLE, "did not answer within")

    def test_somebody_who_speaks_something_else(self):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            def answer():
                connection, _ = listener.accept()
                with connection:
                    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            thread = threading.Thread(target=answer, daemon=True)
            thread.start()
            result = self.ask(listener.getsockname()[1])
            thread.join()
        self.assertNotEqual(result.code, 0, str(result))
        self.assertIn(result.code, (UNAVAILABLE, 76, NOT_PERMITTED), str(result))

    def test_one_thing_at_a_time(self):
        for arguments in ((), ("--server", "127.0.0.1:1", "--database", "x")):
            self.assertFails(fermata("health", *arguments), USAGE, "one of --server")

    def test_a_host_file_that_is_none(self):
        self.assertFails(fermata("health", "--host-file", self.directory / "none.yaml"), BAD_INPUT)

    def test_a_database_that_is_not_there(self):
        self.assertFails(fermata("health", "--database", self.directory / "none.sqlite"),
                         UNAVAILABLE, "no notifier uses")
