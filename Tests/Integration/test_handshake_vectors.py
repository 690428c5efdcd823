"""identities.json and handshakes.json against a real server: certificates with every such URI, and every
first byte that a client may send, over real TLS."""
import json
import os
import socket
import ssl
import subprocess

from support import ROOT, Scratch, make_pki  # first: it sets the path for the others
from test_oldest_peer import start_server

import fermata_wire as wire

pb = wire.pb
VECTORS = ROOT / "proto-spec" / "vectors"

# How a server may end with whose certificate names nobody: the specification leaves it open.
NOBODY = ({"outcome": "alert"}, {"outcome": "closed"},
          {"outcome": "close", "code": "WRONG_IDENTITY"})


def vectors(name):
    return json.loads((VECTORS / name).read_text())["vectors"]


def der(tag, content):
    """One value of ASN.1."""
    size = len(content)
    length = bytes([size]) if size < 128 else bytes([0x81, size]) if size < 256 \
        else bytes([0x82, size >> 8, size & 255])
    return bytes([tag]) + length + content


class HandshakeVectors(Scratch):
    maxDiff = None

    def setUp(self):
        super().setUp()
        self.pki = make_pki(self.directory / "pki", "demo", ("server-s1",))
        self.made = {}
        _, self.pair = start_server(self)

    def openssl(self, *words):
        subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)

    def credentials(self, *uris):
        """A certificate of the server's authority with these URIs, whatever they are. The extension
        is written as bytes: openssl's own syntax does not take all of them."""
        if uris not in self.made:
            prefix = self.pki / f"peer-{len(self.made)}"
            names = der(0x30, b"".join(der(0x86, uri.encode()) for uri in uris))
            extensions = self.write("extensions", f"subjectAltName=DER:{names.hex(':')}\n"
                                    if uris else "basicConstraints=CA:FALSE\n")
            if not self.made:
                self.openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
                             "-nodes", "-subj", "/CN=peer", "-keyout", self.pki / "peer.key",
                             "-out", self.pki / "peer.csr")
            self.openssl("x509", "-req", "-in", self.pki / "peer.csr", "-CA", self.pki / "ca.pem",
                         "-CAkey", self.pki / "ca.key", "-CAcreateserial", "-days", "1",
                         "-extfile", extensions, "-out", f"{prefix}.pem")
            os.link(self.pki / "peer.key", f"{prefix}.key")
            self.made[uris] = str(prefix)
        return self.made[uris]

    def first_frame(self, uris, data, seconds=60):
        """The server's first frame; "alert" or "end" if TLS or the connection ends before it, and
        None if nothing comes."""
        context = wire.tls_context(self.credentials(*uris), False)
        decoder = wire.FrameDecoder(wire.LIMIT)
        try:
            with socket.create_connection(self.pair, 10) as plain, \
                    context.wrap_socket(plain) as stream:
                stream.settimeout(seconds)
                try:
                    stream.sendall(data)
                except OSError:
                    pass                    # refused already: the alert says so
                while (frame := decoder.next()) is None:
                    read = stream.recv(65536)
                    if not read:
                        return "end"
                    decoder.append(read)
                return frame
        except socket.timeout:
            return None
        except (ssl.SSLError, ConnectionError):
            return "alert"

    def outcome(self, uris, data, seconds=60):
        """What handshakes.json tells of it."""
        frame = self.first_frame(uris, data, seconds)
        if frame is None:
            return {"outcome": "waits"}, ""
        if isinstance(frame, str):
            return {"outcome": "closed" if frame == "end" else frame}, ""
        message = wire.parse(frame.kind, frame.body)
        if isinstance(message, pb.HelloAccepted):
            return {"outcome": "accepted", "version": message.version}, ""
        self.assertIsInstance(message, pb.Close)
        return {"outcome": "close", "code": wire.close_code_name(message.code)}, message.reason

    def test_the_server_does_what_every_handshake_vector_says(self):
        for vector in vectors("handshakes.json"):
            with self.subTest(vector["name"]):
                # A server that waits does so until its 5 s are over; half a second tells enough.
                waits = vector["outcome"] == "waits"
                found, reason = self.outcome((vector["peer"],), bytes.fromhex(vector["bytes"]),
                                             0.5 if waits else 10)
                self.assertEqual(found, {key: vector[key] for key in ("outcome", "version", "code")
                                         if key in vector}, reason)
                # Its last part: whether `hello.` comes before it is another test's matter.
                self.assertIn(vector.get("field", "").rpartition(".")[2], reason)

    def test_a_server_that_waits_for_a_hello_closes_after_five_seconds(self):
        (vector,) = [v for v in vectors("handshakes.json") if v["name"] == "the header only"]
        found, _ = self.outcome((vector["peer"],), bytes.fromhex(vector["bytes"]))
        self.assertEqual(found, {"outcome": "close", "code": "TIMEOUT"})

    def hello(self, cluster="demo", role="agent", name="a"):
        return wire.encode_message(pb.Hello(
            magic=wire.MAGIC, version_min=1, version_max=1, cluster=cluster, role=role, name=name,
            instance=bytes(16)))

    def test_a_certificate_is_who_the_identity_vectors_say_or_nobody(self):
        for vector in vectors("identities.json"):
            with self.subTest(vector["name"], uri=vector["uri"]):
                identity = vector["identity"]
                found, _ = self.outcome((vector["uri"],), self.hello(**(identity or {})))
                if identity is None:
                    self.assertIn(found, NOBODY)
                elif identity["cluster"] != "demo":
                    self.assertEqual(found, {"outcome": "close", "code": "WRONG_CLUSTER"})
                else:
                    self.assertEqual(found, {"outcome": "accepted", "version": 1})

    def test_no_uri_and_two_uris_are_nobody(self):
        good = "fermata://demo/agent/a"
        self.assertEqual(self.outcome((good,), self.hello())[0]["outcome"], "accepted")
        for uris in ((), (good, "fermata://demo/agent/b"), (good, good),
                     (good, "https://example.invalid/")):
            with self.subTest(uris):
                found, _ = self.outcome(uris, self.hello())
                self.assertIn(found, NOBODY)
