"""Scheduled events: a notice, its acknowledgement, the hold and the removal, as guests see them, over
restarts of leader and notifier; and the notifier's web server against clients of every kind."""
import contextlib
import json
import random
import signal
import socket
import sqlite3
import subprocess
import threading
import time
import unittest

from guest_service import EVENTS, METADATA, GuestServiceCase, Service  # first: it sets the path

from support import wait_until

FORM = METADATA | {"Content-Type": "application/x-www-form-urlencoded"}


class ScheduledEvents(GuestServiceCase):
    def setUp(self):
        if self.server.process.poll() is not None:
            self.server.start("fermata server ready")
        if self.notifier.process.poll() is not None:
            self.start_notifier()
        for agent in self.agents.values():
            agent.go.set()
        for rollout in self.cli_json("status")["activeRollouts"]:
            self.cli("rollout", "abort", rollout, "--reason", "the test is over")
            self.finish(rollout)
        self.wait_ready()

    def acknowledge(self, guest, document, **options):
        ids = [{"EventId": event["EventId"]} for event in document["Events"]]
        return self.ask(guest, "POST", body=json.dumps({"StartRequests": ids}), headers=FORM,
                        target=EVENTS.replace("2020-07-01", "2019-01-01"), **options)

    def assertNumbered(self, documents):
        """Each document that differs has a higher incarnation, and each that does not the same."""
        for before, after in zip(documents, documents[1:]):
            if before["Events"] == after["Events"]:
                self.assertEqual(before, after)
            else:
                self.assertLess(before["DocumentIncarnation"], after["DocumentIncarnation"])

    def test_notice_acknowledgement_hold_and_removal(self):
        self.agents["a"].go.clear()
        empty = self.document("db-1")
        self.assertEqual(empty["Events"], [])
        rollout = self.roll(self.next_release(), "--host", "a", "--notice", "10m",
                            "--acknowledgement", "shortens")
        noticed = self.wait_events("db-1", bool, "a notice")
        (event,) = noticed["Events"]
        self.assertEqual(event["Resources"], ["db-0"])
        self.assertEqual((event["EventType"], event["EventStatus"], event["ResourceType"],
                          event["EventSource"]), ("Freeze", "Scheduled", "VirtualMachine", "Platform"))
        self.assertGreater(event["DurationInSeconds"], 0)
        time.strptime(event["NotBefore"], "%a, %d %b %Y %H:%M:%S GMT")
        # The other set's guest sees its own step alone, the one of no set none.
        web = self.wait_events("web-0", bool, "a notice for web-0")
        self.assertEqual([e["Resources"] for e in web["Events"]], [["web-0"]])
        self.assertEqual(self.document("lone")["Events"], [])
        # The word of a guest that cannot see the event does not count, and is no error.
        self.assertEqual(self.acknowledge("web-0", noticed).status, 200)
        self.assertEqual(self.document("db-0")["Events"][0]["EventStatus"], "Scheduled")
        # A neighbour's does: a cluster drains one guest, and another says so.
        for guest in ("db-1", "db-0", "db-0"):
            self.assertEqual(self.acknowledge(guest, noticed).status, 200)
        started = self.wait_events(
            "db-1", lambda e: e and e[0]["EventStatus"] == "Started", "the hold to start")
        self.assertEqual(started["Events"][0]["NotBefore"], "")
        self.assertEqual(started["Events"][0]["EventId"], event["EventId"])
        self.acknowledge("web-0", web)
        self.agents["a"].go.set()
        removed = self.wait_events("db-1", lambda e: not e, "the event to be removed")
        self.assertEqual(self.finish(rollout)["state"], "succeeded")
        self.assertNumbered([empty, noticed, started, removed])
        # Its own record, and nobody else's.
        record = wait_until(
            lambda: self.ask("db-0", target="/v1/annotations").json, 20, "the record")
        self.assertEqual({r["guest"] for r in record}, {"db-0"})

    def test_an_aborted_rollout_takes_its_events_back(self):
        before = self.document("db-0")
        rollout = self.roll(self.next_release(), "--notice", "10m")
        noticed = self.wait_events("db-0", bool, "a notice")
        self.cli("rollout", "abort", rollout, "--reason", "a test")
        after = self.wait_events("db-0", lambda e: not e, "the event to be removed")
        self.assertNumbered([before, noticed, after])

    def test_the_number_never_goes_back_over_restarts(self):
        documents = [self.document("db-0")]
        rollout = self.roll(self.next_release(), "--notice", "10m", "--host", "a")
        documents.append(self.wait_events("db-0", bool, "a notice"))
        self.notifier.kill()
        self.start_notifier()
        self.wait_ready()
        documents.append(self.document("db-0"))
        self.server.kill()
        # Without its leader it serves what it knows, and keeps what guests say.
        documents.append(self.document("db-0"))
        self.assertEqual(self.acknowledge("db-0", documents[-1]).status, 200)
        self.notifier.kill()
        self.server.start("fermata server ready")
        self.restart_agents()
        self.start_notifier()
        self.wait_ready()
        documents.append(self.wait_events("db-0", lambda e: not e, "its step to be over", 60))
        self.cli("rollout", "abort", rollout, "--reason", "the test is over")
        self.finish(rollout)
        self.assertNumbered(documents)

    def restart_agents(self):
        for host in list(self.agents):
            self.agents[host].close()
            versions = self.agents[host].versions
            self.start_agent(host, self.hosts[host])
            self.agents[host].versions = versions
            self.agents[host].session.send(self.agents[host].report(),
                                           self.agents[host].session.next_correlation())

    def test_what_went_by_while_guests_were_not_served_is_not_told_as_the_truth(self):
        serving = self.make_notifier("serving", "m")
        self.addCleanup(serving.kill)
        self.start_notifier(serving)
        self.wait_ready(notifier=serving)
        rollout = self.roll(self.next_release(), "--notice", "10m", "--host", "a")
        noticed = self.wait_events("db-0", bool, "a notice", notifier=serving)
        self.assertEqual(serving.terminate(), 0)
        only_records = Service(
            self.directory, "only-records", "notifier", "--server", self.address, "--credentials",
            self.pki / "notifier-m", "--database", self.directory / "serving.db", "--quiet")
        self.addCleanup(only_records.kill)
        only_records.start("fermata notifier ready")
        self.cli("rollout", "abort", rollout, "--reason", "a test")
        self.finish(rollout)
        last = self.cli_json("notices")["lastSequence"]
        wait_until(lambda: any(n["name"] == "m" and n["acknowledgedSequence"] >= last
                               for n in self.cli_json("status")["notifiers"]), 20, "the record")
        self.assertEqual(only_records.terminate(), 0)
        self.start_notifier(serving)
        # The first that is told, not what comes after a while.
        first = wait_until(lambda: (lambda a: a.json if a.status == 200 else None)(
            self.ask("db-0", notifier=serving)), 30, "a document", interval=0.2)
        self.assertEqual(first["Events"], [])
        self.assertNumbered([noticed, first])

    def test_who_was_ready_for_a_notice_is_not_ready_for_the_one_after_it(self):
        rollout = self.roll(self.next_release(), "--host", "a", "--notice", "10m",
                            "--acknowledgement", "shortens")
        first = self.wait_events("db-0", bool, "a notice")
        self.server.kill()
        self.assertEqual(self.acknowledge("db-0", first).status, 200)
        self.notifier.kill()
        self.server.start("fermata server ready")
        self.restart_agents()
        self.cli_json("rollout", "pause", rollout, "--reason", "lunch")
        self.assertEqual(self.cli_json("notices")["notices"], [])
        self.cli_json("rollout", "resume", rollout)
        wait_until(lambda: any(n["guests"] == ["db-0"] for n in self.cli_json("notices")["notices"]),
                   20, "the next notice")
        self.start_notifier()
        self.wait_ready()
        wait_until(lambda: "did not take an acknowledgement" in self.notifier.err.read_text(), 20,
                   "the refusal")
        second = self.wait_events(
            "db-0", lambda e: e and e[0]["EventId"] != first["Events"][0]["EventId"], "the next")
        self.assertEqual(second["Events"][0]["EventStatus"], "Scheduled")
        self.assertFalse(any(n["acknowledgedBy"] for n in self.cli_json("notices")["notices"]))
        self.agents["a"].go.clear()
        self.assertEqual(self.acknowledge("db-0", second).status, 200)
        self.wait_events("db-0", lambda e: e and e[0]["EventStatus"] == "Started", "the start")

    def test_two_notifiers_give_the_same_numbers_and_one_of_a_host_serves_its_guests(self):
        other = self.make_notifier("of-host", "m", "--host", "b")
        self.addCleanup(other.kill)
        self.start_notifier(other)
        self.wait_ready("db-1", notifier=other)
        self.assertEqual(self.ask("db-0", notifier=other).status, 403)
        rollout = self.roll(self.next_release(), "--notice", "10m", "--host", "a")
        mine = self.wait_events("db-1", bool, "a notice")
        theirs = self.wait_events("db-1", bool, "a notice there", notifier=other)
        self.assertEqual(mine, theirs)
        self.cli("rollout", "abort", rollout, "--reason", "a test")
        self.assertEqual(self.wait_events("db-1", lambda e: not e, "its end"),
                         self.wait_events("db-1", lambda e: not e, "its end there", notifier=other))
        # It holds no events back: the leader has never heard of it as one that stores them.
        names = [n["name"] for n in self.cli_json("status")["notifiers"]]
        self.assertNotIn("m", names)
        # A guest's record is the same wherever it asks, also of holds before that notifier was there.
        self.finish(self.roll(self.next_release()))
        central = wait_until(
            lambda: self.ask("db-1", target="/v1/annotations").json, 20, "the record")
        same = lambda records: [(r["annotationId"], r["holdMilliseconds"], r["heldAt"]) for r in records]
        wait_until(lambda: same(self.ask("db-1", target="/v1/annotations", notifier=other).json)
                   == same(central), 20, "the same record there")
        # Of its own host alone, and nothing of what else its events say.
        late = self.make_notifier("of-host-late", "m", "--host", "b")
        other.kill()
        self.addCleanup(late.kill)
        self.start_notifier(late)
        self.wait_ready("db-1", notifier=late)
        wait_until(lambda: same(self.ask("db-1", target="/v1/annotations", notifier=late).json)
                   == same(central), 20, "the same record in a database begun later")
        with contextlib.closing(sqlite3.connect(self.directory / "of-host-late.db")) as database:
            rows = database.execute("SELECT host, state FROM bulletin").fetchall()
        self.assertEqual({host for host, _ in rows}, {"b"})
        self.assertLessEqual({state for _, state in rows}, {"succeeded", "failed"})
        self.assertNotIn("m", [n["name"] for n in self.cli_json("status")["notifiers"]])

    def test_a_host_that_is_none_and_an_address_that_is_taken_are_told(self):
        other = self.make_notifier("of-nobody", "m", "--host", "nope")
        self.addCleanup(other.kill)
        self.start_notifier(other)
        # It listens before it knows who asks, and says so: 503.
        status = wait_until(lambda: [s for s in [self.ask("db-0", notifier=other).status] if s != 503],
                            30, "it to know its guests", interval=0.2)
        self.assertEqual(status, [403])
        wait_until(lambda: "no guest of this host" in other.err.read_text(), 20, "a warning")
        self.assertIn("host=nope", other.err.read_text())
        self.assertEqual(other.terminate(), 0)
        self.assertNotIn("HummingbirdCore", other.err.read_text())
        taken = f"127.0.0.1:{self.notifier.port}"
        third = self.make_notifier("late", "m", "--host", "b", "--listen", taken)
        done = subprocess.run(third.arguments, capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 69, done)
        self.assertIn(f"cannot listen on {taken}: Address already in use", done.stderr)
        self.assertNotIn("ready", done.stdout)

    def test_a_tag_saves_the_body(self):
        answer = self.ask("db-0")
        tag = answer.headers["ETag"]
        unchanged = self.ask("db-0", headers=METADATA | {"If-None-Match": tag})
        self.assertEqual((unchanged.status, unchanged.body), (304, b""), unchanged)
        self.assertEqual(unchanged.headers["ETag"], tag)
        rollout = self.roll(self.next_release(), "--notice", "10m", "--host", "a")
        changed = wait_until(
            lambda: (lambda a: a if a.status == 200 else None)(
                self.ask("db-0", headers=METADATA | {"If-None-Match": tag})), 20, "a change")
        self.assertNotEqual(changed.headers["ETag"], tag)
        self.cli("rollout", "abort", rollout, "--reason", "a test")

    def test_a_stream_and_a_long_poll_hear_of_a_change(self):
        stream = socket.create_connection(("127.0.0.1", self.notifier.port), timeout=90,
                                          source_address=("127.9.0.1", 0))
        self.addCleanup(stream.close)
        stream.sendall(b"GET /v1/events HTTP/1.1\r\nHost: m\r\nAccept: text/event-stream\r\n\r\n")
        lines = stream.makefile("r", newline="\n")
        self.assertIn("200 OK", lines.readline())
        first = self.next_event(lines)
        self.assertEqual(first["events"], [])
        answers = []
        poll = threading.Thread(target=lambda: answers.append(self.ask(
            "db-0", target=f"/v1/events?after={first['incarnation']}&wait=50s")), daemon=True)
        poll.start()
        rollout = self.roll(self.next_release(), "--notice", "10m", "--host", "a")
        noticed = self.next_event(lines)
        poll.join(40)
        self.assertEqual(answers[0].json, noticed)
        self.assertEqual(noticed["events"][0]["guests"], ["db-0"])
        # Its own acknowledgement in our form.
        done = self.ask("db-0", "POST", f"/v1/events/{noticed['events'][0]['id']}/acknowledgement",
                        {}, b"")
        self.assertEqual(done.status, 200)
        # Of nothing, and of another's, there is nothing to say; the compatible form says so of neither.
        event = noticed["events"][0]["id"]
        for guest, name in (("db-0", "nonsense"), ("web-0", event)):
            told = self.ask(guest, "POST", f"/v1/events/{name}/acknowledgement", {}, b"")
            self.assertEqual((told.status, list(told.json)), (404, ["error"]))
        self.next_event(lines)
        self.cli("rollout", "abort", rollout, "--reason", "a test")
        # A stop ends the stream in order: the last chunk, then the end.
        self.finish(rollout)
        self.notifier.process.send_signal(signal.SIGTERM)
        rest = lines.read()
        self.assertTrue(rest.endswith("0\r\n\r\n"), rest)
        self.assertEqual(self.notifier.process.wait(20), 0)

    def next_event(self, lines):
        while True:
            line = lines.readline()
            self.assertTrue(line, "the stream has ended")
            if line.startswith("data: "):
                return json.loads(line.removeprefix("data: "))

    def test_a_poll_that_hears_nothing_is_answered_when_its_time_is_over(self):
        now = self.ask("lone", target="/v1/events").json
        answer = self.ask("lone", target=f"/v1/events?after={now['incarnation']}&wait=1s")
        self.assertEqual((answer.status, answer.json), (200, now))

    def test_a_guest_reads_about_itself(self):
        document = self.ask(
            "db-0", target="/metadata/instance?api-version=2021-12-13").json
        self.assertEqual(document["compute"]["name"], "db-0")
        name = self.ask(
            "db-0", target="/metadata/instance/compute/name?api-version=2019-08-01&format=text")
        self.assertEqual(name.body, b"db-0")

    def test_a_stranger_is_told_so(self):
        stranger = socket.create_connection(("127.0.0.1", self.notifier.port), timeout=90)
        with stranger:
            stranger.sendall(f"GET {EVENTS} HTTP/1.1\r\nHost: m\r\nMetadata: true\r\n\r\n".encode())
            self.assertIn(b"403 Forbidden", stranger.recv(4096))


class Hostile(GuestServiceCase):
    """Bytes that no honest client sends. After each, honest ones are served."""

    def setUp(self):
        self.wait_ready()
        self.addCleanup(lambda: self.assertEqual(self.ask("db-1").status, 200))

    def exchange(self, *pieces, seconds=60, address="127.9.0.1", pause=0.0, half=False):
        """Sends the pieces; what comes until the server closes, or a whole answer."""
        connection = socket.create_connection(
            ("127.0.0.1", self.notifier.port), timeout=seconds, source_address=(address, 0))
        with connection:
            for piece in pieces:
                try:
                    connection.sendall(piece if isinstance(piece, bytes) else piece.encode())
                except (BrokenPipeError, ConnectionResetError):
                    break
                time.sleep(pause)
            if half:
                connection.shutdown(socket.SHUT_WR)
            received = b""
            while True:
                try:
                    piece = connection.recv(65536)
                except ConnectionResetError:
                    break
                if not piece:
                    break
                received += piece
                head, end, body = received.partition(b"\r\n\r\n")
                length = [line for line in head.lower().split(b"\r\n")
                          if line.startswith(b"content-length:")]
                if end and length and len(body) >= int(length[0].split(b":")[1]):
                    break
            return received

    def status(self, *pieces, **options):
        received = self.exchange(*pieces, **options)
        self.assertTrue(received.startswith(b"HTTP/1.1 "), received)
        return int(received[9:12])

    def get(self, target, *headers, method="GET", version="HTTP/1.1", host="Host: m"):
        lines = [f"{method} {target} {version}", *([host] if host else []), "Metadata: true",
                 *headers, "", ""]
        return "\r\n".join(lines)

    def test_every_malformed_request_has_its_status(self):
        post = lambda body, *headers: self.get(  # noqa: E731
            EVENTS, f"Content-Length: {len(body)}", *headers, method="POST") + body
        many = "".join(f"X-{i}: 1\r\n" for i in range(2000))
        cases = {
            "no host": (self.get(EVENTS, host=None), 400),
            "two hosts": (self.get(EVENTS, "Host: n"), 400),
            "dots": (self.get("/metadata/../healthz"), 400),
            "encoded dots": (self.get("/metadata/%2e%2e/healthz"), 400),
            "NUL in the target": (self.get("/metadata\0/scheduledevents"), 400),
            "encoded NUL": (self.get("/metadata/scheduledevents%00"), 400),
            "NUL in a field": (self.get(EVENTS, "X-A: a\0b"), 400),
            "space in a name": (self.get(EVENTS, "X A: b"), 400),
            "no version": ("GET / \r\n\r\n", 400),
            "another version": (self.get(EVENTS, version="HTTP/3.7"), (400,)),
            "no protocol": ("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
            "unknown method": (self.get(EVENTS, method="BREW"), (400, 405)),
            "wrong method": (self.get(EVENTS, method="DELETE"), 405),
            "connect": ("CONNECT m:80 HTTP/1.1\r\nHost: m\r\n\r\n", (400, 404, 405)),
            "nothing there": (self.get("/metadata/identity/oauth2/token?api-version=1"), 404),
            "no api-version": (self.get("/metadata/scheduledevents"), 400),
            "old api-version": (self.get("/metadata/scheduledevents?api-version=1999-01-01"), 400),
            "no metadata header": ("GET " + EVENTS + " HTTP/1.1\r\nHost: m\r\n\r\n", 400),
            "forwarded": (self.get(EVENTS, "X-Forwarded-For: 10.0.0.1"), 400),
            "both lengths": (self.get(EVENTS, "Content-Length: 3", "Transfer-Encoding: chunked",
                                      method="POST") + "0\r\n\r\n", 400),
            "two lengths": (self.get(EVENTS, "Content-Length: 3", "Content-Length: 4",
                                     method="POST") + "abcd", 400),
            "negative length": (self.get(EVENTS, "Content-Length: -3", method="POST"), 400),
            "bad chunk": (self.get(EVENTS, "Transfer-Encoding: chunked", method="POST")
                          + "zz\r\nabc\r\n", 400),
            "huge chunk": (self.get(EVENTS, "Transfer-Encoding: chunked", method="POST")
                           + "ffffffffffffffffff\r\nabc", (400, 413)),
            "large header": (self.get(EVENTS, "X-A: " + "a" * 40_000), 431),
            "many headers": (self.get(EVENTS, many.rstrip()), 431),
            "long target": (self.get("/" + "a" * 40_000), 431),
            "large body": (self.get(EVENTS, "Content-Length: 9999999", method="POST"), 413),
            "large chunked body": (
                self.get(EVENTS, "Transfer-Encoding: chunked", method="POST")
                + ("4000\r\n" + "a" * 0x4000 + "\r\n") * 5, 413),
            "expects more": (self.get(EVENTS, "Expect: 200-ok"), 417),
            "no JSON": (post("StartRequests=1"), 400),
            "deep JSON": (post('{"StartRequests":' + "[" * 30_000), 400),
            "double key": (post('{"StartRequests":[],"StartRequests":[{"EventId":"a"}]}'), 400),
            "empty": (post(""), 400),
        }
        for name, (request, expected) in cases.items():
            with self.subTest(name):
                wanted = expected if isinstance(expected, tuple) else (expected,)
                status = self.status(request)
                if status == 429:
                    time.sleep(3)
                    status = self.status(request)
                self.assertIn(status, wanted)

    def test_405_names_what_is_possible(self):
        received = self.exchange(self.get(EVENTS, method="PUT"))
        self.assertIn(b"Allow: GET, HEAD, POST", received)

    def test_a_chunked_acknowledgement_and_one_that_asks_before_it_sends(self):
        body = '{"StartRequests":[{"EventId":"x"}]}'
        chunked = f"{len(body):x}\r\n{body}\r\n0\r\n\r\n"
        self.assertEqual(self.status(
            self.get(EVENTS, "Transfer-Encoding: chunked", method="POST"), chunked), 200)
        received = self.exchange(self.get(
            EVENTS, f"Content-Length: {len(body)}", "Expect: 100-continue", "Connection: close",
            method="POST"), body,
            pause=0.3)
        self.assertTrue(received.startswith(b"HTTP/1.1 100 Continue\r\n\r\n"), received)
        self.assertIn(b"HTTP/1.1 200 OK", received)

    def test_slow_headers_and_bodies_are_given_up(self):
        self.assertEqual(self.status("GET / HTTP/1.1\r\nHost: m\r\n", seconds=60), 408)
        self.assertEqual(self.status(
            self.get(EVENTS, "Content-Length: 30", method="POST"), "{", seconds=60), 408)

    def test_requests_sent_ahead_are_answered_in_their_order(self):
        pipeline = self.get("/healthz") + self.get(EVENTS) + self.get("/nothing", "Connection: close")
        connection = socket.create_connection(
            ("127.0.0.1", self.notifier.port), timeout=90, source_address=("127.9.0.2", 0))
        with connection:
            connection.sendall(pipeline.encode())
            received = b""
            while piece := connection.recv(65536):
                received += piece
        self.assertEqual([part[:3] for part in received.split(b"HTTP/1.1 ")[1:]],
                         [b"200", b"200", b"404"])

    def test_who_floods_is_asked_to_wait_and_others_are_served(self):
        statuses = []
        connection = socket.create_connection(
            ("127.0.0.1", self.notifier.port), timeout=90, source_address=("127.9.0.3", 0))
        with connection, connection.makefile("rb") as answers:
            for _ in range(2_000):
                connection.sendall(self.get(EVENTS).encode())
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    head += answers.readline()
                lower = head.lower()
                answers.read(int(lower.split(b"content-length: ")[1].split(b"\r\n")[0]))
                statuses.append(int(head[9:12]))
                if statuses[-1] == 429:
                    self.assertIn(b"retry-after: ", lower)
                    break
        self.assertIn(429, statuses)
        self.assertEqual(self.ask("db-1").status, 200)
        wait_until(lambda: self.ask("web-0").status == 200, 20, "it to be let in again",
                   interval=0.5)

    def test_one_address_cannot_have_all_connections(self):
        connections = []
        try:
            for _ in range(60):
                connections.append(socket.create_connection(
                    ("127.0.0.1", self.notifier.port), timeout=90,
                    source_address=("127.9.0.4", 0)))
            closed = 0
            for connection in connections:
                connection.settimeout(0.5)
                try:
                    closed += connection.recv(1) == b""
                except TimeoutError:
                    pass
                except ConnectionResetError:
                    closed += 1
            self.assertEqual(closed, 60 - 32)
        finally:
            for connection in connections:
                connection.close()

    def test_noise_is_never_more_than_refused(self):
        chance = random.Random(7)
        for _ in range(150):
            size = chance.randrange(1, 300)
            noise = bytes(chance.randrange(256) for _ in range(size)) + b"\r\n\r\n"
            received = self.exchange(noise, half=True, address="127.9.0.4")
            if received:
                self.assertIn(received[9:10], (b"4",), received)


if __name__ == "__main__":
    unittest.main()
