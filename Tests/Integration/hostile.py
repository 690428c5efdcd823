"""What the tests of hostile peers share: one server for a whole class, a bystander whose session must
survive everything, the server's counters, and connections that do what no honest peer does."""
import os
import pathlib
import shutil
import socket
import ssl
import subprocess
import threading
import unittest

from support import FERMATA, fermata, make_pki, new_directory, wait_until  # first: it sets the path

import fermata_wire as wire

# A server may have this much more memory after an attack: buffers it keeps for the next one.
GROWTH_MAX = 48 << 20


def openssl(*words):
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)


class Authority:
    """Certificates that `fermata pki` would not make, by the openssl command."""

    def __init__(self, pki):
        self.pki = pki

    def issue(self, name, extensions, *, days=("-days", "1"), issuer=None, subject="/CN=stranger"):
        """PREFIX of a certificate with the given lines of OpenSSL's configuration."""
        prefix = self.pki / name
        config = self.pki / f"{name}.cnf"
        config.write_text(extensions)
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj",
                subject, "-keyout", f"{prefix}.key", "-out", f"{prefix}.csr")
        os.chmod(f"{prefix}.key", 0o600)
        issuer = issuer or self.pki / "ca"
        if "-not_before" in days:
            # Only `openssl ca` of OpenSSL 3.0 can set the day a certificate begins.
            self.issue_from(prefix, issuer, config, days[1], days[3])
        else:
            openssl("x509", "-req", "-in", f"{prefix}.csr", "-CA", f"{issuer}.pem", "-CAkey",
                    f"{issuer}.key", "-CAcreateserial", *days, "-extfile", config, "-out",
                    f"{prefix}.pem")
        return prefix

    def issue_from(self, prefix, issuer, extensions, begin, end):
        home = pathlib.Path(f"{prefix}.ca")
        home.mkdir()
        (home / "index").touch()
        (home / "serial").write_text("77\n")
        (home / "ca.cnf").write_text(
            f"[ca]\ndefault_ca=d\n[d]\ndatabase={home}/index\nserial={home}/serial\n"
            f"new_certs_dir={home}\ndefault_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n")
        openssl("ca", "-batch", "-config", home / "ca.cnf", "-cert", f"{issuer}.pem", "-keyfile",
                f"{issuer}.key", "-in", f"{prefix}.csr", "-out", f"{prefix}.pem", "-startdate", begin,
                "-enddate", end, "-extfile", extensions, "-notext")


class Bystander:
    """An honest agent that is there all the time; whatever others do, it must be served."""

    def __init__(self, session):
        self.session = session
        session.hello()
        self.count = 0
        self.problem = None
        self.is_over = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        report = wire.pb.HostReport(host="c", boot_id="x", agent_version="1")
        try:
            while not self.is_over.wait(0.1):
                answer = self.session.request(report, timeout=90)
                assert answer.kind == "HostReportCommitted", answer
                self.count += 1
        except Exception as error:  # told to whoever asks
            self.problem = error

    def check(self):
        """It is served now."""
        before = self.count
        wait_until(lambda: self.problem or self.count > before, 20, "the bystander to be served")
        assert self.problem is None, f"the bystander's session: {self.problem!r}"

    def end(self):
        self.is_over.set()
        self.thread.join()
        self.session.close_connection()


class HostileCase(unittest.TestCase):
    """One server and one bystander for all tests of the class."""

    options = ()

    @classmethod
    def setUpClass(cls):
        cls.directory = new_directory("fm-hostile-")
        cls.addClassCleanup(shutil.rmtree, cls.directory, ignore_errors=True)
        cls.pki = make_pki(cls.directory / "pki")
        cls.authority = Authority(cls.pki)
        cls.log = open(cls.directory / "server.log", "w+")
        cls.addClassCleanup(cls.log.close)
        cls.server = subprocess.Popen(
            [FERMATA, "server", "--credentials", cls.pki / "server-s", "--data",
             cls.directory / "data", "--listen", "127.0.0.1:0", *cls.options],
            stdout=subprocess.PIPE, stderr=cls.log, text=True)
        cls.addClassCleanup(cls.end)
        cls.address = cls.server.stdout.readline().split(" ready on ")[1].split()[0]
        cls.port = int(cls.address.rpartition(":")[2])
        cls.bystander = Bystander(cls.connect("agent-c"))
        cls.addClassCleanup(cls.bystander.end)

    @classmethod
    def end(cls):
        cls.server.kill()
        cls.server.wait()
        cls.server.stdout.close()

    # ---- looking at the server

    @classmethod
    def status(cls):
        done = fermata("status", "--server", cls.address, "--credentials", cls.pki / "operator-alice",
                       "--output", "json", "--timeout", "20")
        assert done.code == 0, str(done)
        return done.json

    @classmethod
    def counter(cls, name, reason):
        return cls.status()["counters"].get(name, {}).get(reason, 0)

    @classmethod
    def memory(cls):
        """Bytes of the server that are its own. Only what it has written: the pages of its program are
        "private" too, from the moment when no other process of the machine runs the same program."""
        text = pathlib.Path(f"/proc/{cls.server.pid}/smaps_rollup").read_text()
        return 1024 * sum(int(line.split()[1]) for line in text.splitlines()
                          if line.startswith("Private_Dirty"))

    def setUp(self):
        self.assertIsNone(self.server.poll(), "the server has ended before this test")
        self.memory_before = self.memory()

    def tearDown(self):
        self.assertIsNone(self.server.poll(), "the server has ended")
        self.bystander.check()
        wait_until(lambda: self.memory() < self.memory_before + GROWTH_MAX, 20,
                   f"memory to fall to about what it was ({self.memory_before >> 20} MiB)")

    def assertCounts(self, name, reason, action, at_least=1):
        """`action` makes a counter rise."""
        before = self.counter(name, reason)
        result = action()
        wait_until(lambda: self.counter(name, reason) >= before + at_least, 30,
                   f"{name}/{reason} to rise; counters: {self.status()['counters']}", 0.2)
        return result

    def assertCloses(self, opens, code, fault, *, name="sessions_closed", send=b"", words=()):
        """After `send` (bytes, or what makes them of the session) the server closes the session with this
        code, and counts it as `fault`. `opens` makes the session: one that had to wait while counters
        are read could be closed for its silence."""
        def act():
            session = opens()
            try:
                session.send_bytes(send(session) if callable(send) else send)
                with self.assertRaises(wire.SessionClosed) as closed:
                    while True:
                        session.receive(timeout=90)
                self.assertEqual(closed.exception.code, code, str(closed.exception))
                for word in words:
                    self.assertIn(word, closed.exception.reason)
            finally:
                session.close_connection()
        self.assertCounts(name, fault, act)

    def assertLogsNoFlood(self, what, lines_max):
        """Most refusals of such were logged as a number."""
        def log():
            self.log.flush()
            return (self.directory / "server.log").read_text()
        wait_until(lambda: f"refused more {what}s" in log(), 20, "the number of what was not logged")
        self.assertLess(log().count(f"refused a {what}"), lines_max)

    # ---- connections

    @classmethod
    def connect(cls, prefix, timeout=90):
        return wire.connect("127.0.0.1", cls.port, str(cls.pki / prefix), timeout)

    def open(self, prefix="operator-alice", **changes):
        session = self.connect(prefix)
        self.addCleanup(session.stream.close)
        session.hello(**changes)
        return session

    def plain(self, source="127.0.0.1"):
        stream = socket.create_connection(("127.0.0.1", self.port), 20, (source, 0))
        self.addCleanup(stream.close)
        return stream

    def context(self, prefix=None):
        """A TLS context that trusts our authority and offers `prefix`, whatever that is."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(self.pki / "ca.pem")
        context.set_alpn_protocols([wire.ALPN])
        if prefix:
            context.load_cert_chain(f"{prefix}.pem", f"{prefix}.key")
        return context

    def handshake(self, context):
        """What a TLS handshake comes to: the error's words, a Close's reason, or `closed`."""
        stream = self.plain()
        try:
            with context.wrap_socket(stream) as secure:
                secure.settimeout(60)
                decoder = wire.FrameDecoder()
                decoder.append(secure.recv(4096))
                frame = decoder.next()
                return wire.parse(frame.kind, frame.body).reason if frame else "closed"
        except (ssl.SSLError, OSError) as error:
            return str(error)
