"""Strangers: what must never become a session. Each is refused by name, counted, and costs the server
next to nothing, while an honest agent is served all the time."""
import contextlib
import datetime
import resource
import socket
import ssl
import threading
import time
import unittest

from hostile import HostileCase
from support import fermata, make_pki, wait_until

import fermata_wire as wire


def record(content, body):
    """A TLS record."""
    return bytes([content, 3, 1]) + len(body).to_bytes(2, "big") + body


# What a connection without a certificate costs the server, with room for chance; in bytes. README.md,
# section 9, has the measured figures.
PARTIAL_HELLO_COST_MAX = 8 * 1024
HELLO_COST_MAX = 96 * 1024


class FloodCase(HostileCase):
    def flood(self, count, address):
        """Connections that say nothing. Keeps them open."""
        streams = []
        self.addCleanup(lambda: [stream.close() for stream in streams])
        for number in range(count):
            stream = socket.socket()
            streams.append(stream)
            stream.bind((address(number), 0))
            stream.connect(("127.0.0.1", self.port))
        return streams


class HostileTLS(FloodCase):
    def refused(self, context, reason, *alerts):
        """A handshake that the server refuses and counts; the client hears one of these alerts."""
        said = self.assertCounts("connections_refused", reason, lambda: self.handshake(context))
        if alerts:
            self.assertTrue(any(alert in said for alert in alerts), said)
        return said

    # ---- no TLS, or not ours

    def test_plaintext(self):
        for data in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\0" * 4096, b"\x00\x00\x00\x46\x00\x01"):
            with self.subTest(data=data[:8]):
                def send():
                    stream = self.plain()
                    stream.sendall(data)
                    stream.settimeout(60)
                    self.assertEqual(stream.recv(100), b"")
                self.assertCounts("connections_refused", "plaintext", send)

    def test_tls_1_2(self):
        context = self.context(self.pki / "operator-alice")
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        self.refused(context, "tlsVersion", "PROTOCOL_VERSION")

    def test_another_protocol_or_none(self):
        for protocols in (["h2"], []):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.load_verify_locations(self.pki / "ca.pem")
            context.load_cert_chain(f"{self.pki}/operator-alice.pem", f"{self.pki}/operator-alice.key")
            if protocols:
                context.set_alpn_protocols(protocols)
            with self.subTest(protocols=protocols):
                self.refused(context, "wrongProtocol")

    def test_records_that_are_no_handshake(self):
        for data, reason in (
                (record(22, b"\x01\x00\x00\x05hello"), "other"),
                (record(22, b"\xff" * 300), "sendsTooMuch"), (record(21, b"\x02\x28"), "other"),
                (record(22, b""), "ended"), (b"\x16\x03\x01\xff\xff" + b"x" * 100, "sendsTooMuch")):
            with self.subTest(data=data[:8].hex()):
                def send():
                    stream = self.plain()
                    stream.sendall(data)
                    stream.shutdown(socket.SHUT_WR)
                    stream.settimeout(60)
                    with contextlib.suppress(OSError):
                        while stream.recv(4096):
                            pass
                self.assertCounts("connections_refused", reason, send)

    def refused_count(self):
        return sum(self.status()["counters"].get("connections_refused", {}).values())

    def test_a_handshake_one_byte_at_a_time(self):
        """The client's certificate comes in a thousand pieces, each of which takes a turn."""
        before = self.counter("connections_refused", "tooLong")
        stream = self.plain()
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream.settimeout(60)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        secure = self.context(self.pki / "operator-alice").wrap_bio(incoming, outgoing)

        def trickle():
            for byte in outgoing.read():
                stream.sendall(bytes([byte]))

        while True:
            try:
                secure.do_handshake()
                break
            except ssl.SSLWantReadError:
                trickle()
                incoming.write(stream.recv(65536))
        # It is in: what is judged next is a frame.
        secure.write((2**32 - 1).to_bytes(4, "big"))
        trickle()
        wait_until(lambda: self.counter("connections_refused", "tooLong") > before, 30, "it to be counted")

    # ---- certificates

    def test_no_certificate(self):
        self.refused(self.context(), "noCertificate", "CERTIFICATE_REQUIRED")

    def test_another_authority(self):
        other = make_pki(self.directory / "other", "test", ("operator-alice",))
        self.refused(self.context(other / "operator-alice"), "wrongAuthority", "UNKNOWN_CA")

    def test_a_certificate_that_signed_itself(self):
        from hostile import openssl
        prefix = self.pki / "self"
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                "-subj", "/CN=self", "-addext", "subjectAltName=URI:fermata://test/operator/alice",
                "-keyout", f"{prefix}.key", "-out", f"{prefix}.pem", "-days", "1")
        self.refused(self.context(prefix), "wrongAuthority", "UNKNOWN_CA", "BAD_CERTIFICATE")

    NAME = "subjectAltName=URI:fermata://test/operator/alice\n"

    def test_expired_and_not_yet_valid(self):
        def day(offset):
            moment = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(offset)
            return moment.strftime("%Y%m%d%H%M%SZ")
        for name, begin, end, reason in (("expired", -9, -1, "expired"), ("early", 2, 9, "notYetValid")):
            prefix = self.authority.issue(
                name, self.NAME, days=("-not_before", day(begin), "-not_after", day(end)))
            with self.subTest(reason=reason):
                self.refused(self.context(prefix), reason, "EXPIRED", "BAD_CERTIFICATE")

    def test_an_authority_as_leaf(self):
        prefix = self.authority.issue(
            "leafca", "basicConstraints=critical,CA:TRUE\n" + self.NAME)
        self.refused(self.context(prefix), "authorityAsLeaf")
        self.refused(self.context(self.pki / "ca"), "authorityAsLeaf")

    def test_a_certificate_issued_by_a_leaf(self):
        prefix = self.authority.issue("grandchild", self.NAME, issuer=self.pki / "operator-alice")
        with open(f"{prefix}.pem", "a") as chain:
            chain.write((self.pki / "operator-alice.pem").read_text())
        self.refused(self.context(prefix), "wrongAuthority")

    def test_no_uri_name_and_two(self):
        for name, extensions in (("none", "subjectAltName=DNS:alice.example\n"), ("bare", "nsComment=x\n"),
                                 ("two", self.NAME[:-1] + ",URI:fermata://test/agent/a\n"),
                                 ("same", self.NAME[:-1] + ",URI:fermata://test/operator/alice\n")):
            prefix = self.authority.issue(name, extensions)
            with self.subTest(name=name):
                self.refused(self.context(prefix), "uriNames")

    def test_a_name_that_is_no_identity(self):
        for name, uri in (("root", "fermata://test/root/alice"), ("http", "https://test/operator/alice"),
                          ("long", "fermata://test/operator/" + "a" * 64),
                          ("ca-name", "fermata://test/authority/ca"),
                          ("deep", "fermata://test/operator/alice/x")):
            prefix = self.authority.issue(name, f"subjectAltName=URI:{uri}\n")
            with self.subTest(uri=uri):
                self.refused(self.context(prefix), "notAnIdentity", "not fermata://CLUSTER/ROLE/NAME")

    def test_another_cluster_of_the_same_authority(self):
        prefix = self.authority.issue("abroad", "subjectAltName=URI:fermata://abroad/operator/alice\n")
        self.assertCloses(lambda: wire.connect("127.0.0.1", self.port, str(prefix), 20), "WRONG_CLUSTER", "wrongCluster", name="connections_refused",
                          send=wire.encode_message(wire.pb.Hello(
                              magic=wire.MAGIC, version_min=1, version_max=1, cluster="abroad",
                              role="operator", name="alice", instance=b"i" * 16)))

    def test_a_server_may_only_watch(self):
        """A standby has a session to learn whether the leader lives; it can ask for nothing in it."""
        self.assertCloses(lambda: self.open("server-s"), "NOT_PERMITTED", "notPermitted",
                          send=wire.encode_message(wire.pb.Query(status=wire.pb.Empty()), 1))

    # ---- replay

    def test_what_was_recorded_of_another_session_is_worthless(self):
        """Everything a client has sent, played again: TLS's random numbers are others now."""
        recorded = self.record_a_session()
        released = fermata("release", "list", "--server", self.address, "--credentials",
                           self.pki / "operator-alice", "--output", "json").json
        self.assertEqual([r["id"] for r in released], ["replayed"])
        before = self.refused_count()
        for pieces in (recorded, [b"".join(recorded)], recorded[:1] + recorded[2:]):
            stream = self.plain()
            stream.settimeout(60)
            try:
                for piece in pieces:
                    stream.sendall(piece)
                    time.sleep(0.02)       # not a condition: only to keep the pieces apart
                while stream.recv(65536):
                    pass
            except OSError:
                pass
            stream.close()
        wait_until(lambda: self.refused_count() >= before + 3, 20, "the replays to be refused")
        audit = (self.directory / "data" / "audit.jsonl").read_text()
        self.assertEqual(audit.count('"replayed"'), 1)

    def record_a_session(self):
        """Bytes that a client sends through a relay, piece by piece."""
        pieces = []
        relay = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(relay.close)

        def run():
            client, _ = relay.accept()
            server = socket.create_connection(("127.0.0.1", self.port))

            def back():
                while data := server.recv(65536):
                    client.sendall(data)
                client.close()
            threading.Thread(target=back, daemon=True).start()
            try:
                while data := client.recv(65536):
                    pieces.append(data)
                    server.sendall(data)
            except OSError:
                pass
            server.close()
        threading.Thread(target=run, daemon=True).start()
        with wire.connect("127.0.0.1", relay.getsockname()[1], str(self.pki / "operator-alice")) as session:
            session.hello()
            answer = session.request(wire.pb.Command(add_release=wire.pb.Release(
                id="replayed", component="hypervisor", sha256=b"h" * 32,
                hypervisor=wire.pb.Hypervisor(version="1", path="/bin/true"))))
            self.assertEqual(answer.kind, "CommandAccepted")
        return list(pieces)

    # ---- silence and floods

    def test_silence_after_connect_and_half_a_hello(self):
        started = time.monotonic()
        silent, partial = self.plain(), self.plain()
        partial.sendall(record(22, b"\x01\x00\x01\x00" + b"\x03\x03")[:-1])
        # A good certificate, but no hello of ours inside.
        mute = self.connect("operator-alice")
        for stream in (silent, partial):
            stream.settimeout(60)
            self.assertEqual(stream.recv(100), b"", "closed")
        with self.assertRaises(wire.SessionClosed) as closed:
            mute.receive()
        self.assertEqual(closed.exception.code, "TIMEOUT")
        self.assertGreater(time.monotonic() - started, 4)
        counters = self.status()["counters"]["connections_refused"]
        self.assertGreaterEqual(counters["timedOut"], 2)
        self.assertGreaterEqual(counters["timeout"], 1)

    def test_ten_thousand_half_open_connections(self):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.assertGreater(hard, 12_000, "this test needs 12,000 descriptors: raise the hard limit "
                           "(ulimit -Hn) and run it again")
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        before = self.counter("connections_refused", "halfOpenMax")
        descriptors = self.descriptor_count()
        self.flood(10_000, lambda number: "127.0.0.1")
        # From the very address of the flood, too, an honest peer is served.
        status = self.status()
        self.assertLessEqual(status["halfOpenCount"], 128)
        self.assertLess(self.descriptor_count(), descriptors + 400)
        self.assertGreaterEqual(
            status["counters"]["connections_refused"]["halfOpenMax"] - before, 9_000)
        self.assertLess(self.memory(), self.memory_before + (16 << 20))
        self.bystander.check()

    def test_a_flood_from_many_addresses(self):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        self.flood(5_000, lambda number: f"127.0.{1 + number % 100}.1")
        status = self.status()
        self.assertLessEqual(status["halfOpenCount"], 2_048)
        self.assertLess(self.memory(), self.memory_before + (32 << 20))
        self.bystander.check()

    def test_a_first_message_that_says_it_is_long(self):
        # OpenSSL would reserve what it says at once.
        for data in (record(22, b"\x01\x02\x01\x44" + b"\x03\x03"),
                     b"".join(record(22, bytes([byte])) for byte in b"\x01\x02\x01\x44")):
            def send():
                stream = self.plain()
                stream.sendall(data)
                stream.settimeout(60)
                with contextlib.suppress(OSError):
                    self.assertEqual(stream.recv(100), b"")
            self.assertCounts("connections_refused", "sendsTooMuch", send)

    def descriptor_count(self):
        import os
        return len(os.listdir(f"/proc/{self.server.pid}/fd"))

    def test_a_flood_is_logged_as_a_number(self):
        self.flood(600, lambda number: "127.0.200.1")
        self.assertCounts("connections_refused", "halfOpenMax",
                          lambda: self.flood(100, lambda number: "127.0.200.1"))
        self.assertLogsNoFlood("connection", 2_000)


class Strangers(FloodCase):
    """On a server of its own: one that has been through floods has room to give away."""

    def strangers(self, count, data):
        """What each of so many connections costs that have sent this much and wait. In bytes."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        before = self.memory()
        streams = self.flood(count, lambda number: f"127.0.{1 + number // 100}.1")
        for stream in streams:
            with contextlib.suppress(OSError):
                stream.sendall(data)
        time.sleep(0.5)             # not a condition: only until they have been read
        cost = max(0, self.memory() - before) / count
        for stream in streams:
            stream.close()
        return cost

    def whole_hello(self):
        outgoing = ssl.MemoryBIO()
        secure = self.context().wrap_bio(ssl.MemoryBIO(), outgoing)
        with contextlib.suppress(ssl.SSLWantReadError):
            secure.do_handshake()
        return outgoing.read()

    def test_what_a_stranger_costs_before_it_is_authenticated(self):
        hello = self.whole_hello()
        self.assertLess(len(hello), 4096)
        partial = record(22, b"\x01\x00\x0f\xff" + b"x" * 3_000)
        for name, count, data, cost_max in (
                ("part of a hello", 1_000, partial, PARTIAL_HELLO_COST_MAX),
                ("a whole hello", 500, hello, HELLO_COST_MAX)):
            with self.subTest(name=name):
                cost = self.strangers(count, data)
                print(f"{name} costs the server {cost / 1024:.1f} KiB", flush=True)
                self.assertLess(cost, cost_max)
        self.bystander.check()


class FewSessions(HostileCase):
    options = ("--sessions-per-address", "4", "--half-open-per-address", "20")

    def test_sessions_of_one_address_are_bounded(self):
        # The bystander has one of the four, the status that counts needs another for a moment.
        before = self.counter("connections_refused", "sessionsMax")
        kept = [self.open() for _ in range(2)]
        full = self.open()

        def one_more():
            with self.assertRaises((OSError, wire.SessionClosed)):
                session = self.connect("operator-alice")
                session.hello()
        one_more()
        full.close()
        def count():
            # The one of the command before may not be over.
            with contextlib.suppress(AssertionError):
                return self.status()["sessionCount"]
        wait_until(lambda: count() == 4, 20, "the room to be free again")
        self.assertGreater(self.counter("connections_refused", "sessionsMax"), before)
        for session in kept:
            session.close()


if __name__ == "__main__":
    unittest.main()
