"""Tests of fermata_wire and fermata_client against scripted servers: no Fermata process is needed.

    /usr/bin/python3 -m unittest discover -s proto-spec/python

Certificates are made with the openssl command. A script runs in a thread and plays the server; what
goes wrong in it fails the test.
"""

import contextlib
import io
import itertools
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import fermata_client as client  # noqa: E402
import fermata_wire as wire  # noqa: E402

pb = wire.pb


class Authority:
    """A certificate authority in a directory; `issue` makes NAME.pem and NAME.key in it."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir()
        self._openssl("req", "-x509", *self._key("ca"), "-out", "ca.pem", "-days", "1", "-subj",
                      "/CN=ca")

    def _key(self, name):
        return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout",
                f"{name}.key")

    def _openssl(self, *arguments):
        done = subprocess.run(["openssl", *arguments], cwd=self.directory, capture_output=True,
                              text=True, check=False)
        assert done.returncode == 0, done.stderr

    def issue(self, name, *uris):
        self._openssl("req", *self._key(name), "-out", "csr", "-subj", f"/CN={name}")
        (self.directory / "extensions").write_text(
            "subjectAltName=" + ",".join(f"URI:{uri}" for uri in uris) + "\n")
        self._openssl("x509", "-req", "-in", "csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-days",
                      "1", "-CAcreateserial", "-extfile", "extensions", "-out", f"{name}.pem")
        os.chmod(self.directory / f"{name}.key", 0o600)
        return str(self.directory / name)


class Case(unittest.TestCase):
    """A test with an authority of cluster `demo`: operator alice, server s1."""

    @classmethod
    def setUpClass(cls):
        directory = pathlib.Path(tempfile.mkdtemp(prefix="fm-py-"))
        cls.addClassCleanup(shutil.rmtree, directory)
        cls.authority = Authority(directory / "pki")
        cls.other_authority = Authority(directory / "other")
        issue = cls.authority.issue
        cls.server = issue("server-s1", "fermata://demo/server/s1")
        cls.second = issue("server-s2", "fermata://demo/server/s2")
        cls.operator = issue("operator-alice", "fermata://demo/operator/alice")

    def serve(self, script, prefix=None):
        """Runs `script(listener)` in a thread; the address to reach it under."""
        listener = wire.Listener(prefix or self.server)
        failures = []

        def play():
            try:
                script(listener)
            except BaseException as error:  # told to the test below, not lost with the thread
                failures.append(error)
                # A client that follows would come again for ever.
                with contextlib.suppress(OSError):
                    while True:
                        with listener.accept(3) as session:
                            session.close("REPLACED", "the script has failed")

        thread = threading.Thread(target=play, daemon=True)
        thread.start()

        def end():
            thread.join(20)
            listener.close()
            if failures:
                raise failures[0]
            self.assertFalse(thread.is_alive(), "the script has not come to its end")

        self.addCleanup(end)
        return f"127.0.0.1:{listener.port}"

    def connect(self, address):
        host, port = client.parse_address(address)
        session = wire.connect(host, port, self.operator)
        self.addCleanup(session.close_connection)
        return session

    def assertCloses(self, code, act, by_peer=False):
        with self.assertRaises(wire.SessionClosed) as closed:
            act()
        self.assertEqual((closed.exception.code, closed.exception.by_peer), (code, by_peer),
                         str(closed.exception))
        return closed.exception


def accepted(listener, **changes):
    """The server's side of a session that has been opened."""
    session = listener.accept()
    session.receive_hello()
    session.accept_hello(**changes)
    return session


def raw_close(session):
    """The code of the Close that the client sends next, whatever state its session is in."""
    frame = session.receive_frame()
    assert frame.kind == wire.KIND_OF["Close"], frame
    return wire.close_code_name(wire.parse(frame.kind, frame.body).code)


class Texts(unittest.TestCase):
    def test_words_of_a_peer_are_cut_between_characters_and_lose_control_characters(self):
        self.assertEqual(wire.for_people("a\x1b[31mb\nc\x7f\x85d\u2028"), "a\ufffd[31mb\ufffdc\ufffd\ufffdd\ufffd")
        self.assertEqual(wire.for_people("ö" * 600), "ö" * 512)
        self.assertEqual(wire.for_people("a" + "ö" * 600), "a" + "ö" * 511)

    def test_unknown_close_codes_are_read_as_internal(self):
        self.assertEqual([wire.close_code_name(n) for n in (0, 1, 14, 15, 2**31 - 1)],
                         ["INTERNAL", "NORMAL", "INTERNAL", "INTERNAL", "INTERNAL"])

    def test_pauses_double_up_to_five_seconds_and_half_of_each_is_chance(self):
        for chance, factor in ((0, 0.5), (1, 1)):
            pauses = wire.pauses(lambda c=chance: c)
            self.assertEqual([round(next(pauses), 6) for _ in range(8)],
                             [each * factor for each in (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5)])

    def test_addresses(self):
        self.assertEqual(client.parse_address("h:1"), ("h", 1))
        self.assertEqual(client.parse_address("[::1]:65535"), ("::1", 65535))
        for text in ("", "h", "h:", ":1", "h:0", "h:65536", "h:x", "::1", "::1:7450", "h:+1", "h:1 ",
                     "h:\u0663"):
            with self.assertRaises(ValueError, msg=text):
                client.parse_address(text)

    def test_a_message_as_json_has_names_for_enums_and_no_absent_fields(self):
        view = pb.GuestView(report=pb.GuestReport(id="g", state=2), host="a")
        self.assertEqual(client.plain(view), {
            "report": {"id": "g", "memory_bytes": 0, "vcpu_count": 0, "state": "running",
                       "hypervisor_version": "", "has_guest_agent": False,
                       "hand_over_problem": "", "addresses": []},
            "host": "a", "placed_by_leader": False, "host_connected": False})
        self.assertEqual(client.plain(pb.Release(sha256=b"\1\2"))["sha256"], "0102")

    def test_every_kind_of_event_has_words(self):
        for field in pb.FleetEvent.DESCRIPTOR.oneofs_by_name["body"].fields:
            event = pb.FleetEvent(sequence=1)
            getattr(event, field.name).SetInParent()
            if field.name == "rollout_changed":
                event.rollout_changed.state = 4
            self.assertTrue(client.event_words(event).strip(), field.name)

    def test_every_query_has_columns_for_its_list(self):
        for name in client.COLUMNS:
            self.assertIn(name, pb.Query.DESCRIPTOR.fields_by_name)
            result = pb.QueryResult.DESCRIPTOR.fields_by_name[name].message_type
            self.assertIn(name, result.fields_by_name)

    def test_the_directions_are_those_of_the_table(self):
        # One line for each of section 6, to be compared by eye: kinds, sender, receivers.
        wanted = set()
        for kinds, sender, receivers in (
                ((1, 3, 4, 5), "agent operator notifier server", "server"),
                ((2, 3, 4, 5), "server", "agent operator notifier server"),
                ((16, 19, 20, 21), "agent", "server"), ((17, 18, 22), "server", "agent"),
                ((20,), "server", "operator notifier"), ((32, 35), "operator notifier", "server"),
                ((33, 36), "server", "operator notifier"), ((34,), "server", "agent operator notifier"),
                ((40,), "operator notifier", "server"), ((41,), "server", "operator notifier"),
                ((42, 43, 45, 46), "notifier", "server"), ((44,), "server", "notifier")):
            wanted |= {(kind, s, r) for kind in kinds for s in sender.split()
                       for r in receivers.split()}
        self.assertEqual(wire.DIRECTIONS, wanted)


class TheHello(Case):
    def test_a_server_with_the_certificate_of_an_agent_gets_no_hello(self):
        agent = self.authority.issue("agent-s1", "fermata://demo/agent/s1")

        def script(listener):
            with listener.accept() as session:
                self.assertEqual(raw_close(session), "WRONG_IDENTITY")
        session = self.connect(self.serve(script, agent))
        self.assertCloses("WRONG_IDENTITY", session.hello)

    def test_a_server_of_another_cluster_gets_no_hello(self):
        other = self.authority.issue("elsewhere", "fermata://elsewhere/server/s1")

        def script(listener):
            with listener.accept() as session:
                self.assertEqual(raw_close(session), "WRONG_CLUSTER")
        session = self.connect(self.serve(script, other))
        self.assertCloses("WRONG_CLUSTER", session.hello)

    def test_an_answer_that_does_not_fit_is_closed(self):
        for code, changes in (("VERSION_MISMATCH", {"version": 2}),
                              ("VERSION_MISMATCH", {"version": 0}),
                              ("WRONG_IDENTITY", {"server": "s2"}),
                              ("VERSION_MISMATCH", {"version": 9, "server": "s2"}),
                              ("BAD_FRAME", {"silence_milliseconds": 1000}),
                              ("BAD_FRAME", {"keepalive_milliseconds": 99})):
            with self.subTest(changes):
                def script(listener):
                    with accepted(listener, **changes) as session:
                        self.assertEqual(raw_close(session), code)
                self.assertCloses(code, self.connect(self.serve(script)).hello)
                self.doCleanups()  # the script sees this loop's variables

    def test_other_frames_before_the_answer_are_closed(self):
        ping = pb.Ping(nonce=1).SerializeToString()
        for code, data in (
                ("WRONG_STATE", wire.encode_frame(4, ping)),
                ("WRONG_STATE", wire.encode_frame(999, b"")),
                ("WRONG_STATE", wire.encode_frame(1, b"")),
                ("BAD_FRAME", wire.encode_frame(2, b"x", flags=wire.MORE)),
                ("BAD_FRAME", wire.encode_frame(2, b"\xff")),
                ("BAD_FRAME", wire.encode_frame(2, b"x" * 4085))):
            with self.subTest(code=code, data=data[:20].hex()):
                def script(listener):
                    with listener.accept() as session:
                        session.receive_hello()
                        session.send_bytes(data)
                        session.decoder.limit = wire.LIMIT
                        self.assertEqual(raw_close(session), code)
                self.assertCloses(code, self.connect(self.serve(script)).hello)
                self.doCleanups()  # the script sees this loop's variables

    def test_no_answer_in_time_is_closed(self):
        def script(listener):
            with listener.accept() as session:
                session.receive_hello()
                self.assertEqual(raw_close(session), "TIMEOUT")
        session = self.connect(self.serve(script))
        session.hello_deadline = time.monotonic() + 0.1
        self.assertCloses("TIMEOUT", session.hello)

    def test_certificates_without_one_identity_are_nobodys(self):
        for number, uris in enumerate((["fermata://demo/server/s1", "fermata://demo/server/s2"],
                                       ["fermata://demo/king/s1"], ["https://demo/server/s1"])):
            with self.subTest(uris), self.assertRaises(ValueError):
                wire.identity_of(self.authority.issue(f"nobody-{number}", *uris))


class TheSession(Case):
    def test_pings_are_answered_and_unknown_kinds_ignored(self):
        def script(listener):
            with accepted(listener) as session:
                session.send_bytes(wire.encode_frame(999, b"?", 5)
                                   + wire.encode_frame(999, b"?", 5, wire.MORE)
                                   + wire.encode_frame(999, b"", 5))
                session.send(pb.Ping(nonce=2**64 - 1), 77)
                frame = session.receive_frame()
                self.assertEqual((frame.kind, frame.correlation, frame.body),
                                 (5, 77, bytes.fromhex("09ffffffffffffffff")))
                session.send(pb.QueryResult(hosts=pb.HostViews()), 1)
        session = self.connect(self.serve(script))
        session.hello()
        self.assertEqual(session.receive().kind, "QueryResult")

    def test_what_breaks_a_rule_is_closed_with_its_code(self):
        hello = pb.Hello(magic=wire.MAGIC).SerializeToString()
        step = pb.StepRef(rollout=1, number=1)
        committed = pb.StepReportCommitted(step=step, token=1).SerializeToString()
        for code, data in (
                ("BAD_FRAME", bytes(4)),
                ("BAD_FRAME", (wire.LIMIT + 1).to_bytes(4, "big")),
                ("BAD_FRAME", wire.encode_frame(0, b"")),
                ("BAD_FRAME", wire.encode_frame(4, b"", flags=0x10)),
                ("BAD_FRAME", wire.encode_frame(36, b"", 1, wire.MORE)),
                ("BAD_FRAME", wire.encode_frame(41, b"x", 1, wire.MORE)
                 + wire.encode_frame(36, b"", 2)),
                ("BAD_FRAME", wire.encode_frame(36, b"", 1)),
                ("UNKNOWN_KIND", wire.encode_frame(999, b"", 0, wire.MANDATORY)),
                ("WRONG_STATE", wire.encode_frame(1, hello)),
                ("WRONG_STATE", wire.encode_frame(2, b"")),
                ("NOT_PERMITTED", wire.encode_frame(35, b"\xff")),
                ("NOT_PERMITTED", wire.encode_frame(22, committed))):
            with self.subTest(code=code, data=data[:24].hex()):
                def script(listener):
                    with accepted(listener) as session:
                        session.send_bytes(data)
                        self.assertEqual(raw_close(session), code)
                session = self.connect(self.serve(script))
                session.hello()
                self.assertCloses(code, session.receive)
                self.doCleanups()

    def test_a_close_is_not_answered_and_its_reason_is_safe_to_show(self):
        def script(listener):
            with accepted(listener) as session:
                session.send(pb.Close(code=12, reason="bye\x1b[2J"))
                with self.assertRaises((wire.SessionClosed, OSError)):
                    session.receive_frame()
        session = self.connect(self.serve(script))
        session.hello()
        closed = self.assertCloses("SHUTTING_DOWN", session.receive, by_peer=True)
        self.assertEqual(closed.reason, "bye\ufffd[2J")
        session.close_connection()

    def test_a_silent_server_is_pinged_and_then_closed(self):
        pings = []

        def script(listener):
            with accepted(listener, keepalive_milliseconds=100, silence_milliseconds=450) as session:
                while True:
                    frame = session.receive_frame()
                    if frame.kind != wire.KIND_OF["Ping"]:
                        break
                    pings.append(frame)
                closing = wire.parse(frame.kind, frame.body)
                self.assertEqual(wire.close_code_name(closing.code), "TIMEOUT")
        session = self.connect(self.serve(script))
        session.hello()
        self.assertCloses("TIMEOUT", session.receive)
        self.doCleanups()
        self.assertEqual(len(pings), 4)  # after 100, 200, 300 and 400 ms

    def test_a_server_that_answers_pings_is_never_silent(self):
        def script(listener):
            with accepted(listener, keepalive_milliseconds=100, silence_milliseconds=300) as session:
                for _ in range(8):
                    ping = session.receive_frame()
                    session.send(pb.Pong(nonce=wire.parse(4, ping.body).nonce), ping.correlation)
                session.send(pb.QueryResult(hosts=pb.HostViews()), 1)
        session = self.connect(self.serve(script))
        session.hello()
        self.assertEqual(session.receive().kind, "QueryResult")

    def test_a_stopped_process_does_not_take_its_own_pause_for_silence(self):
        # The server is the silent one here only while the client is stopped (SIGSTOP).
        def script(listener):
            with accepted(listener, keepalive_milliseconds=200, silence_milliseconds=600) as session:
                session.receive_frame()                # a ping: the client waits in receive
                os.kill(process.pid, signal.SIGSTOP)
                time.sleep(1.5)                        # a pause that is the thing under test
                os.kill(process.pid, signal.SIGCONT)
                while session.receive().kind != "Query":
                    pass
                session.send(pb.QueryResult(hosts=pb.HostViews()), 2)
        code = ("import sys; sys.path.insert(0, sys.argv[1]); import fermata_wire as w\n"
                "s = w.connect('127.0.0.1', int(sys.argv[2]), sys.argv[3]); s.hello()\n"
                "import socket\n"
                "try: s.receive(1)\n"
                "except socket.timeout: pass\n"
                "s._correlation = 1\n"
                "print(s.request(w.pb.Query(hosts=w.pb.Empty())).kind)\n")
        listening = threading.Event()

        def wait_then_play(listener):
            listening.wait(10)
            script(listener)
        address = self.serve(wait_then_play)
        process = subprocess.Popen(
            [sys.executable, "-c", code, os.path.dirname(wire.__file__), address.split(":")[1],
             self.operator], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        listening.set()
        out, err = process.communicate(timeout=20)
        self.assertEqual(out, "QueryResult\n", err)


class CommandCase(Case):
    def run_client(self, *arguments, server=None, credentials=None):
        """(exit code, stdout, stderr) of the command."""
        def too_long(*_):
            raise AssertionError(f"{arguments} does not end\n{err.getvalue()}")
        signal.signal(signal.SIGALRM, too_long)
        signal.alarm(30)
        self.addCleanup(signal.alarm, 0)
        out, err = io.StringIO(), io.StringIO()
        extra = ["--server", server] if server else []
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = client.main([*extra, "--credentials", credentials or self.operator, *arguments])
        return code, out.getvalue(), err.getvalue()

    def answer(self, result):
        """The address of a server that answers one query with `result`."""
        def script(listener):
            with accepted(listener) as session:
                query = session.receive()
                session.send(result, query.correlation)
                self.assertEqual(raw_close(session), "NORMAL")
        return self.serve(script)


class TheCommand(CommandCase):
    def test_a_status_is_shown_and_fields_of_a_later_server_are_skipped(self):
        # Field 200 of StatusView and 201 of QueryResult: text that this schema does not have.
        view = pb.StatusView.FromString(
            pb.StatusView(cluster="demo", server="s1", warnings=["a\x1bb"]).SerializeToString()
            + bytes.fromhex("c20c036e6577"))
        result = pb.QueryResult.FromString(
            pb.QueryResult(status=view).SerializeToString() + bytes.fromhex("ca0c036e6577"))
        self.assertIn(b"new", result.SerializeToString())
        code, out, err = self.run_client("status", server=self.answer(result))
        self.assertEqual((code, err), (0, ""))
        self.assertIn("cluster   demo\n", out)
        self.assertIn("warning: a\ufffdb\n", out)
        code, out, err = self.run_client("--json", "status", server=self.answer(result))
        self.assertEqual(json.loads(out)["warnings"], ["a\x1bb"])

    def test_a_list_is_a_table_or_a_document(self):
        guests = pb.QueryResult(guests=pb.GuestViews(guests=[pb.GuestView(
            report=pb.GuestReport(id="db-0", set="db", state=2, memory_bytes=2**30), host="a",
            update_domain=0, host_connected=True)]))
        code, out, _ = self.run_client("guests", server=self.answer(guests))
        title, line = out.splitlines()
        self.assertEqual(line.split()[:5], ["db-0", "a", "db", "0", "running"])
        self.assertEqual(title.index("STATE"), line.index("running"))
        code, out, _ = self.run_client("guests", "--json", server=self.answer(guests))
        self.assertEqual((code, [g["report"]["id"] for g in json.loads(out)]), (0, ["db-0"]))

    def test_a_message_of_several_chunks_is_put_together(self):
        hosts = pb.QueryResult(hosts=pb.HostViews(hosts=[pb.HostView(id=f"h{n}") for n in range(50)]))

        def script(listener):
            with accepted(listener) as session:
                query = session.receive()
                data = wire.encode_message(hosts, query.correlation, limit=64)
                session.send_bytes(data[:64 + 4] + wire.encode_frame(4, b"\x09" + bytes(8))
                                   + wire.encode_frame(999, b"later", 3) + data[64 + 4:])
                self.assertEqual(session.receive_frame().kind, wire.KIND_OF["Pong"])
        code, out, _ = self.run_client("hosts", "--json", server=self.serve(script))
        self.assertEqual((code, len(json.loads(out))), (0, 50))

    def test_a_refusal_says_what_and_what_to_do(self):
        refused = pb.Refused(code=1, message="no\tsuch thing", advice="Do that.")
        code, out, err = self.run_client("hosts", server=self.answer(refused))
        self.assertEqual((code, out), (1, ""))
        self.assertIn("no\ufffdsuch thing", err)
        self.assertIn("Do that.", err)

    def test_every_close_code_has_the_exit_code_of_the_table(self):
        # From README.md, section 5. Where a client should connect again, it does until --timeout.
        wanted = {"VERSION_MISMATCH": 76, "WRONG_CLUSTER": 77, "WRONG_IDENTITY": 77,
                  "NOT_PERMITTED": 77, "REPLACED": 77}
        for value in pb.CloseCode.DESCRIPTOR.values[1:]:
            code = value.name[len("CLOSE_CODE_"):]
            attempts = []

            def script(listener):
                while not attempts or (code not in wanted and len(attempts) < 2):
                    with listener.accept() as session:
                        attempts.append(1)
                        session.receive_hello()
                        session.close(code, "because")
                listener.close()
            with self.subTest(code):
                exit_code, _, err = self.run_client(
                    "status", "--timeout", "3", server=self.serve(script))
                self.doCleanups()
                self.assertEqual(exit_code, wanted.get(code, 69), err)
                self.assertEqual(len(attempts), 1 if code in wanted else 2)
                if code in wanted:
                    self.assertIn(f"{code}: because", err)

    def test_a_query_that_was_cut_off_is_asked_again_and_a_close_not_answered(self):
        def script(listener):
            with accepted(listener) as session:
                session.receive()
                session.send(pb.Close(code=12, reason="new software"))
                with self.assertRaises(wire.SessionClosed) as closed:
                    session.receive_frame()
                self.assertEqual(closed.exception.code, "END_OF_FILE")
            with accepted(listener) as session:
                session.send(pb.QueryResult(hosts=pb.HostViews()), session.receive().correlation)
        code, _, err = self.run_client("hosts", server=self.serve(script))
        self.assertEqual((code, err), (0, ""))

    def test_a_standby_names_the_leader_and_is_left_at_once(self):
        def leader(listener):
            with accepted(listener) as session:
                session.send(pb.QueryResult(hosts=pb.HostViews()), session.receive().correlation)
        leading = self.serve(leader, self.second)

        def standby(listener):
            with accepted(listener, is_leader=False,
                          servers=["not an address", leading]) as session:
                self.assertEqual(raw_close(session), "NOT_LEADER")
        code, _, err = self.run_client("hosts", server=self.serve(standby))
        self.assertEqual((code, err), (0, ""))

    def test_two_standbys_that_name_each_other_are_not_asked_in_a_circle(self):
        addresses, asked = [], []

        def standby(listener):
            while True:
                try:
                    session = listener.accept(3)
                except OSError:
                    return
                with session:
                    session.receive_hello()
                    session.accept_hello(is_leader=False, servers=addresses)
                    asked.append(time.monotonic())
                    raw_close(session)
        addresses += [self.serve(standby), self.serve(standby)]
        code, _, err = self.run_client("hosts", "--timeout", "1", server=addresses[0])
        self.assertEqual(code, 69, err)
        self.assertIn("standby", err)
        # Rounds of two, with pauses of 50 to 100, 100 to 200 ms, … between them.
        self.assertLess(len(asked), 14)

    def test_no_server_and_wrong_use_and_credentials_that_will_not_do(self):
        with socket.create_server(("127.0.0.1", 0)) as unused:
            address = f"127.0.0.1:{unused.getsockname()[1]}"
        agent = self.authority.issue("agent-a", "fermata://demo/agent/a")
        open_key = self.authority.issue("operator-open", "fermata://demo/operator/open")
        os.chmod(open_key + ".key", 0o640)
        for wanted, word, arguments in (
                (69, address, ["status", "--timeout", "0.3", "--server", address]),
                (64, "--help", ["nonsense"]), (64, "host:port", ["status", "--server", "foo"]),
                (64, "--after", ["status", "--after", "1"]), (64, "count", ["follow", "--count", "0"]),
                (77, "agent", ["status", "--credentials", agent]),
                (77, "0640", ["status", "--credentials", open_key]),
                (77, "none.pem", ["status", "--credentials", "none"])):
            with self.subTest(arguments):
                code, out, err = self.run_client(*arguments)
                self.assertEqual((code, out), (wanted, ""), err)
                self.assertIn(word, err)

    def test_a_server_of_another_authority_is_refused(self):
        other = self.other_authority.issue("server-s1", "fermata://demo/server/s1")

        def script(listener):
            with self.assertRaises(OSError):
                listener.accept()
        code, _, err = self.run_client("status", server=self.serve(script, other))
        self.assertEqual(code, 77, err)
        self.assertIn("certificate", err)

    def test_an_operator_of_another_authority_hears_why(self):
        other = self.other_authority.issue("operator-alice", "fermata://demo/operator/alice")
        # It trusts our server, but our server does not trust it.
        shutil.copy(self.authority.directory / "ca.pem", self.other_authority.directory / "ca.pem")

        def script(listener):
            with self.assertRaises(OSError):
                listener.accept()
        code, _, err = self.run_client("status", server=self.serve(script), credentials=other)
        self.assertEqual(code, 77, err)
        self.assertIn("refuses our certificate", err)

    def test_a_server_without_our_protocol_is_of_another_version(self):
        def script(listener):
            listener.context.set_alpn_protocols(["fermata/9"])
            try:
                listener.accept().close_connection()
            except OSError:
                pass
        code, _, err = self.run_client("status", server=self.serve(script))
        self.assertEqual(code, 76, err)


def event(sequence):
    return pb.FleetEvent(sequence=sequence, at_microseconds=1, lock_released=pb.FleetEvent.LockReleased(
        set="db", by="alice", reason=f"number {sequence}"))


class Following(CommandCase):
    def follow(self, address, *arguments):
        code, out, err = self.run_client("follow", "--json", *arguments, server=address)
        return code, [json.loads(line) for line in out.splitlines()], err

    def batch(self, session, correlation, *sequences, last=None):
        session.send(pb.EventBatch(events=[event(n) for n in sequences],
                                   last_sequence=last or max(sequences)), correlation)

    def test_a_lost_connection_costs_no_event_and_repeats_none(self):
        def script(listener):
            with accepted(listener) as session:
                follow = session.receive()
                self.assertEqual((follow.message.after_sequence, follow.message.progress), (3, False))
                self.batch(session, follow.correlation, 4, 5)
                session.close("SHUTTING_DOWN", "new software")
            with accepted(listener) as session:
                follow = session.receive()
                self.assertEqual(follow.message.after_sequence, 5)
                self.batch(session, follow.correlation, 6)
                session.stream.close()  # without a Close
            with accepted(listener) as session:
                follow = session.receive()
                self.assertEqual(follow.message.after_sequence, 6)
                # A server that repeats some: the follower knows them by number.
                self.batch(session, follow.correlation, 5, 6, 7)
                self.batch(session, follow.correlation, 7, 8, 9)
                self.assertEqual(raw_close(session), "NORMAL")
        code, lines, err = self.follow(self.serve(script), "--after", "3", "--count", "5")
        self.assertEqual(code, 0, err)
        self.assertEqual([line["sequence"] for line in lines], [4, 5, 6, 7, 8])
        self.assertEqual(lines[0]["lock_released"]["reason"], "number 4")
        self.assertIn("SHUTTING_DOWN", err)
        self.assertIn("after event 6", err)

    def test_a_gap_is_told_and_ends_with_1(self):
        def script(listener):
            with accepted(listener) as session:
                follow = session.receive()
                self.batch(session, follow.correlation, 1, 2)
                self.batch(session, follow.correlation, 5)
                raw_close(session)
        code, lines, err = self.follow(self.serve(script), "--count", "3")
        self.assertEqual((code, [line["sequence"] for line in lines]), (1, [1, 2, 5]))
        self.assertIn("events 3 to 4 are missing", err)

    def test_a_server_that_knows_fewer_events_than_we_have_seen_is_told(self):
        def script(listener):
            with accepted(listener) as session:
                follow = session.receive()
                session.send(pb.EventBatch(last_sequence=7), follow.correlation)
                self.batch(session, follow.correlation, 101)
                raw_close(session)
        code, lines, err = self.follow(self.serve(script), "--after", "100", "--count", "1")
        self.assertEqual((code, [line["sequence"] for line in lines]), (1, [101]))
        self.assertIn("another log", err)

    def test_batches_of_another_follow_are_left_alone(self):
        def script(listener):
            with accepted(listener) as session:
                follow = session.receive()
                self.batch(session, follow.correlation + 1, 1, 2)
                self.batch(session, follow.correlation, 1)
                raw_close(session)
        code, lines, err = self.follow(self.serve(script), "--count", "1")
        self.assertEqual((code, [line["sequence"] for line in lines]), (0, [1]), err)

    def test_progress_is_shown_if_asked_for_and_is_no_event(self):
        progress = pb.StepProgress(step=pb.StepRef(rollout=1, number=2), token=3, phase=5)

        def script(listener):
            with accepted(listener) as session:
                follow = session.receive()
                self.assertTrue(follow.message.progress)
                session.send(progress)
                self.batch(session, follow.correlation, 1)
                raw_close(session)
        code, lines, _ = self.follow(self.serve(script), "--progress", "--count", "1")
        self.assertEqual(lines[0]["progress"]["phase"], "held")
        self.assertEqual(lines[0]["progress"]["step"], {"rollout": 1, "number": 2})
        self.assertEqual((code, lines[1]["sequence"]), (0, 1))

    def test_a_replaced_follower_stops(self):
        def script(listener):
            with accepted(listener) as session:
                session.receive()
                session.close("REPLACED", "a newer session")
        code, lines, err = self.follow(self.serve(script))
        self.assertEqual((code, lines), (77, []), err)

    def test_text_has_one_line_for_an_event(self):
        def script(listener):
            with accepted(listener) as session:
                self.batch(session, session.receive().correlation, 1)
                raw_close(session)
        code, out, _ = self.run_client("follow", "--count", "1", server=self.serve(script))
        self.assertEqual(out, "     1  1970-01-01T00:00:00.000Z  lock of set db released by alice: "
                         "number 1\n")

    def test_a_closed_output_ends_it_quietly(self):
        def script(listener):
            with accepted(listener) as session:
                follow = session.receive()
                # Until the client goes: it notices when it writes, not when its reader leaves.
                with contextlib.suppress(OSError):
                    for sequence in itertools.count(1):
                        self.batch(session, follow.correlation, sequence)
        process = subprocess.Popen(
            [sys.executable, client.__file__, "--server", self.serve(script), "--credentials",
             self.operator, "follow"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.assertIn("number 1", process.stdout.readline())
        process.stdout.close()
        self.assertEqual(process.stderr.read(), "")
        process.stderr.close()
        self.assertEqual(process.wait(10), 0)


class KeyLog(Case):
    def test_the_secrets_of_a_session_are_appended_for_their_owner_only(self):
        def script(listener):
            for _ in range(2):
                accepted(listener).close_connection()
        address = self.serve(script)
        path = os.path.join(os.path.dirname(self.operator), "keys")
        host, port = client.parse_address(address)
        sizes = []
        for _ in range(2):
            with wire.connect(host, port, self.operator, key_log=path) as session:
                session.hello()
            sizes.append(os.path.getsize(path))
        with open(path, encoding="ascii") as stream:
            self.assertIn("CLIENT_TRAFFIC_SECRET_0 ", stream.read())
        self.assertGreater(sizes[1], sizes[0])
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)


if __name__ == "__main__":
    unittest.main()
