"""Wrong certificates, clusters, roles and versions, ports in use: a clear message, the documented
exit code, and a server that goes on for everybody else."""
import os
import socket
import subprocess
import threading

from support import (  # first: it sets the path for the others
    CANNOT_CREATE, FERMATA, NOT_PERMITTED, PROTOCOL, UNAVAILABLE, Scratch, fermata, make_pki)

import fermata_wire as wire

HOST_FILE = """\
host: {host}
runDirectory: {directory}/run
stateDirectory: {directory}/state
memoryDirectory: {directory}/memory
hypervisor: {{path: /bin/true, version: "1"}}
"""


class Identity(Scratch):
    """A server of cluster `test` without hosts, on a port of its own."""

    def setUp(self):
        super().setUp()
        self.pki = make_pki(self.directory / "pki", "test")
        self.server, self.address = self.start_server(self.directory / "data")

    def start_server(self, data, listen="127.0.0.1:0"):
        process = subprocess.Popen(
            [FERMATA, "server", "--credentials", self.pki / "server-s", "--data", data, "--listen",
             listen], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

        def end():
            process.kill()
            process.communicate()
        self.addCleanup(end)
        line = process.stdout.readline()
        self.assertIn("fermata server ready on ", line)
        return process, line.split(" ready on ")[1].split()[0]

    def status(self, credentials, address=None):
        return fermata("status", "--credentials", credentials, "--server",
                       address or self.address, "--timeout", "10", "--output", "json")

    def agent(self, host, credentials):
        path = self.write("host.yaml", HOST_FILE.format(host=host, directory=self.directory))
        return fermata("agent", "--host-file", path, "--credentials", credentials, "--server",
                       self.address)

    def notifier(self, credentials):
        return fermata("notifier", "--credentials", credentials, "--server", self.address,
                       "--database", self.directory / "notifier.db")

    def tearDown(self):
        # Whatever happened, the server serves the next one.
        good = self.status(self.pki / "operator-alice")
        self.assertEqual(good.code, 0, str(good))
        self.assertEqual(good.json["cluster"], "test")
        self.assertIsNone(self.server.poll())

    def test_an_operator_of_another_authority(self):
        other = make_pki(self.directory / "other", "test", ("operator-alice",))
        self.assertFails(self.status(other / "operator-alice"), NOT_PERMITTED, "certificate",
                         "pki show")

    def test_an_operator_of_another_cluster_with_the_same_authority(self):
        # The same key, so TLS is content, but another name: only the hello can tell.
        prefix = self.other_name("fermata://elsewhere/operator/alice")
        self.assertFails(self.status(prefix), NOT_PERMITTED, "cluster")

    def other_name(self, uri):
        """A certificate of our authority with any URI name, made by openssl."""
        prefix = self.pki / "stranger"
        extensions = self.write("extensions", f"subjectAltName=URI:{uri}\n")
        run = lambda *words: subprocess.run(["openssl", *map(str, words)], check=True,
                                            capture_output=True)
        run("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj",
            "/CN=stranger", "-keyout", f"{prefix}.key", "-out", f"{prefix}.csr")
        run("x509", "-req", "-in", f"{prefix}.csr", "-CA", self.pki / "ca.pem", "-CAkey",
            self.pki / "ca.key", "-CAcreateserial", "-days", "1", "-extfile", extensions, "-out",
            f"{prefix}.pem")
        os.chmod(f"{prefix}.key", 0o600)
        return prefix

    def test_a_certificate_of_the_wrong_role_for_each_command(self):
        for result in (self.status(self.pki / "agent-a"), self.agent("a", self.pki / "operator-alice"),
                       self.notifier(self.pki / "operator-alice"),
                       fermata("server", "--credentials", self.pki / "agent-a", "--data",
                               self.directory / "data2", "--listen", "127.0.0.1:0")):
            self.assertFails(result, NOT_PERMITTED, "role")

    def test_an_agent_and_a_notifier_of_another_authority(self):
        other = make_pki(self.directory / "other", "test", ("agent-a", "notifier-n"))
        self.assertFails(self.agent("a", other / "agent-a"), NOT_PERMITTED, "certificate")
        self.assertFails(self.notifier(other / "notifier-n"), NOT_PERMITTED, "certificate")

    def test_an_agent_with_the_certificate_of_another_host(self):
        self.assertFails(self.agent("a", self.pki / "agent-b"), NOT_PERMITTED, "host b", "host a")

    def test_a_peer_that_claims_another_name_than_its_certificate(self):
        host, _, port = self.address.rpartition(":")
        for changes, code in (({"name": "bob"}, "WRONG_IDENTITY"),
                              ({"cluster": "other"}, "WRONG_CLUSTER")):
            with wire.connect(host, int(port), str(self.pki / "operator-alice")) as session:
                with self.assertRaises(wire.SessionClosed) as closed:
                    session.hello(**changes)
                self.assertEqual(closed.exception.code, code)

    def test_a_peer_of_another_version_is_told_so_by_the_server(self):
        host, _, port = self.address.rpartition(":")
        with wire.connect(host, int(port), str(self.pki / "operator-alice")) as session:
            with self.assertRaises(wire.SessionClosed) as closed:
                session.hello(version_min=8, version_max=9)
            self.assertEqual(closed.exception.code, "VERSION_MISMATCH")

    def test_a_server_of_another_version_is_told_by_the_command(self):
        with wire.Listener(str(self.pki / "server-s")) as listener:
            def serve():
                with listener.accept(30) as session:
                    session.receive_hello()
                    session.close("VERSION_MISMATCH", "this server speaks versions 8 to 9")
            thread = threading.Thread(target=serve, daemon=True)
            thread.start()
            result = self.status(self.pki / "operator-alice", f"127.0.0.1:{listener.port}")
            thread.join()
        self.assertFails(result, PROTOCOL, "8 to 9", "same release")

    def test_bytes_that_are_no_tls_do_not_disturb_the_server(self):
        host, _, port = self.address.rpartition(":")
        for data in (b"GET / HTTP/1.1\r\n\r\n", b"\0" * 4096, b""):
            with socket.create_connection((host, int(port)), 5) as stream:
                stream.sendall(data)

    def test_a_port_in_use(self):
        result = fermata("server", "--credentials", self.pki / "server-s", "--data",
                         self.directory / "data2", "--listen", self.address)
        self.assertFails(result, UNAVAILABLE, self.address)

    def test_a_data_directory_in_use(self):
        result = fermata("server", "--credentials", self.pki / "server-s", "--data",
                         self.directory / "data", "--listen", "127.0.0.1:0")
        self.assertFails(result, UNAVAILABLE, "data")

    def test_a_data_directory_that_cannot_be_made(self):
        result = fermata("server", "--credentials", self.pki / "server-s", "--data",
                         self.directory / "pki" / "ca.pem" / "data", "--listen", "127.0.0.1:0")
        self.assertFails(result, CANNOT_CREATE, "data")

    def test_an_operator_may_not_speak_as_an_agent(self):
        host, _, port = self.address.rpartition(":")
        with wire.connect(host, int(port), str(self.pki / "operator-alice")) as session:
            session.hello()
            session.send(wire.pb.HostReport(host="a", boot_id="x", agent_version="1"))
            with self.assertRaises(wire.SessionClosed) as closed:
                session.receive()
            self.assertEqual(closed.exception.code, "NOT_PERMITTED")
        self.assertEqual(self.status(self.pki / "operator-alice").json["hostCount"], 0)

    def test_a_killed_server_has_what_it_acknowledged(self):
        pki, data = self.pki / "operator-alice", self.directory / "data"
        for number in range(3):
            added = fermata("release", "add", f"r-{number}", "--version", "1", "--path", "/bin/true",
                            "--credentials", pki, "--server", self.address)
            self.assertEqual(added.code, 0, str(added))
            self.server.kill()
            self.server.wait()
            # The system lets the port be taken again at once; no condition to wait for.
            self.server, self.address = self.start_server(data, self.address)
            releases = fermata("release", "list", "--credentials", pki, "--server", self.address,
                               "--output", "json").json
            self.assertEqual([r["id"] for r in releases], [f"r-{n}" for n in range(number + 1)])

    def test_refusals_say_what_to_do(self):
        client = ["--credentials", self.pki / "operator-alice", "--server", self.address]
        result = fermata("rollout", "start", "--release", "nothing", *client)
        self.assertFails(result, 1, "nothing", "release")
        self.assertFails(fermata("rollout", "show", "rollout-9", *client), 1, "rollout-9")
        self.assertFails(fermata("locks", "release", "db", "--reason", "x", *client), 1, "db")

    def test_every_list_is_json(self):
        client = ["--credentials", self.pki / "operator-alice", "--server", self.address,
                  "--output", "json"]
        for command in (["hosts"], ["guests"], ["sets"], ["locks"], ["release", "list"],
                        ["rollout", "list"]):
            result = fermata(*command, *client)
            self.assertEqual(result.code, 0, str(result))
            self.assertEqual(result.json, [], str(result))
