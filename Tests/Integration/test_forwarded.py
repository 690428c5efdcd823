"""A reverse proxy asks for guests: the one that is named is believed, and nobody else."""
import http.client

from guest_service import EVENTS, METADATA, GuestServiceCase  # first: it sets the path

from support import USAGE, fermata, wait_until

PROXY = "127.9.2.100"


class Forwarded(GuestServiceCase):
    hosts = {"a": {"db-0": ("db", 0, "127.9.2.1")}, "b": {"web-0": ("web", 0, "127.9.2.2")}}

    @classmethod
    def make_notifier(cls, name, certificate, *options):
        return super().make_notifier(name, certificate, "--trust-forwarded-from", PROXY, *options)

    def connect(self, address):
        connection = http.client.HTTPConnection("127.0.0.1", self.notifier.port, timeout=60,
                                                source_address=(address, 0))
        self.addCleanup(connection.close)
        return connection

    def say(self, connection, forwarded=None, target="/v1/events", method="GET"):
        headers = dict(METADATA)
        if forwarded:
            headers["X-Forwarded-For"] = forwarded
        connection.request(method, target, headers=headers)
        response = connection.getresponse()
        return response.status, response.read().decode()

    def test_only_the_named_proxy_is_believed(self):
        self.wait_ready("db-0")
        self.agents["a"].go.clear()
        self.agents["b"].go.clear()
        self.addCleanup(lambda: [agent.go.set() for agent in self.agents.values()])
        self.roll(self.next_release())
        for guest in ("db-0", "web-0"):
            self.wait_events(guest, bool, f"{guest}'s event", seconds=60)
        proxy = self.connect(PROXY)
        for target in (EVENTS, "/v1/events"):
            # Over one connection for one guest and the other, whatever the client itself had written.
            for _ in range(2):
                for forwarded, sees, not_sees in (
                        ("127.9.2.1", "db-0", "web-0"), ("127.9.2.1, 127.9.2.2", "web-0", "db-0"),
                        (f"127.9.2.2, 127.9.2.1, {PROXY}", "db-0", "web-0")):
                    status, body = self.say(proxy, forwarded, target)
                    self.assertEqual(status, 200, body)
                    self.assertIn(sees, body)
                    self.assertNotIn(not_sees, body)
            self.assertEqual(self.say(proxy, None, target)[0], 400, "it has to say for whom")
            self.assertEqual(self.say(proxy, "127.9.2.1, unknown", target)[0], 400)
            status, body = self.say(proxy, "127.9.2.77", target)
            self.assertEqual(status, 403, body)
            self.assertIn("127.9.2.77", body)
        self.assertEqual(self.say(proxy, target="/healthz")[0], 200)
        # Somebody else who writes the header is who he is.
        stranger, guest = self.connect("127.9.2.99"), self.connect("127.9.2.2")
        self.assertEqual(self.say(stranger, "127.9.2.1")[0], 403)
        status, body = self.say(guest, "127.9.2.1")
        self.assertEqual(status, 200)
        self.assertIn("web-0", body)
        self.assertNotIn("db-0", body)
        self.assertEqual(self.say(self.connect("127.9.2.2"), "127.9.2.1", EVENTS)[0], 400)

    def test_the_limits_are_those_of_each_guest(self):
        self.wait_ready("db-0")
        proxy = self.connect(PROXY)

        def exhausted():
            return self.say(proxy, "127.9.2.1")[0] == 429
        wait_until(exhausted, 60, "db-0 to have asked too often", interval=0)
        self.assertEqual(self.say(proxy, "127.9.2.2")[0], 200)
        # More connections than a guest may have.
        many = [self.connect(PROXY) for _ in range(40)]
        for connection in many:
            connection.connect()
        self.assertEqual(self.say(many[-1], target="/healthz")[0], 200)

    def test_what_is_no_address_is_said(self):
        arguments = ["notifier", "--server", self.address, "--credentials", self.pki / "notifier-m",
                     "--database", self.directory / "other.db"]
        done = fermata(*arguments, "--listen", "127.0.0.1:0", "--trust-forwarded-from", "proxy")
        self.assertEqual(done.code, USAGE, str(done))
        self.assertIn("proxy is no IP address", done.err)
        done = fermata(*arguments, "--trust-forwarded-from", "10.0.0.1")
        self.assertEqual(done.code, USAGE, str(done))


del GuestServiceCase
