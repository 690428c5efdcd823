"""Peers with a good certificate that send what the protocol forbids: a named error, a closed session,
a count, and nothing lost for anybody else."""
import random
import threading
import unittest

from hostile import GROWTH_MAX, HostileCase
from support import fermata, wait_until

import fermata_wire as wire

pb = wire.pb
QUERY = pb.Query(status=pb.Empty())


def hello(session, **changes):
    """The bytes of the hello that this session's owner would send."""
    cluster, role, name = session.own
    fields = dict(magic=wire.MAGIC, version_min=1, version_max=1, cluster=cluster, role=role, name=name,
                  instance=b"i" * 16, software="hostile")
    fields.update(changes)
    return wire.encode_message(pb.Hello(**fields))


def padded(message, kind, length):
    """A frame of exactly this length: the message with a field that nobody knows."""
    body = message.SerializeToString()
    room = length - wire.HEADER - len(body)
    # Field 100, length-delimited: two bytes of tag, then the length and as many bytes.
    for size in range(max(0, room - 8), room):
        field = b"\xa2\x06" + varint(size) + b"x" * size
        if len(field) == room:
            return wire.encode_frame(kind, body + field, 5)
    raise AssertionError(f"no field of {room} bytes")


def varint(number):
    out = b""
    while True:
        byte, number = number & 0x7F, number >> 7
        out += bytes([byte | (0x80 if number else 0)])
        if not number:
            return out


class HostileFrames(HostileCase):
    def query(self, session):
        answer = session.request(QUERY)
        self.assertEqual(answer.kind, "QueryResult")
        return answer.message.status

    # ---- lengths

    def test_lengths_before_the_hello(self):
        for length, fault in ((0, "tooShort"), (1, "tooShort"), (11, "tooShort"), (4097, "tooLong"),
                              (1 << 20, "tooLong"), (2**31, "tooLong"), (2**32 - 1, "tooLong")):
            with self.subTest(length=length):
                # Nothing follows the length: it must be judged before anything is waited for.
                self.assertCloses(lambda: self.connect("operator-alice"), "BAD_FRAME", fault,
                                  name="connections_refused", send=length.to_bytes(4, "big"))

    def test_lengths_in_an_open_session(self):
        for length, fault in ((0, "tooShort"), (1, "tooShort"), ((1 << 20) + 1, "tooLong"),
                              (2**32 - 1, "tooLong")):
            with self.subTest(length=length):
                self.assertCloses(self.open, "BAD_FRAME", fault, send=length.to_bytes(4, "big"))

    def test_a_frame_of_exactly_the_limit_is_taken(self):
        session = self.connect("operator-alice")
        cluster, role, name = session.own
        session.send_bytes(padded(
            pb.Hello(magic=wire.MAGIC, version_min=1, version_max=1, cluster=cluster, role=role,
                     name=name, instance=b"i" * 16), 1, wire.LIMIT_BEFORE_HELLO))
        self.assertEqual(session.receive().kind, "HelloAccepted")
        session.decoder.limit = wire.LIMIT
        session.is_ready = True
        session.send_bytes(padded(QUERY, wire.KIND_OF["Query"], wire.LIMIT))
        self.assertEqual(session.receive().kind, "QueryResult")
        session.close()

    def test_truncation_at_every_byte(self):
        probe = self.connect("operator-alice")
        whole = hello(probe)
        probe.close_connection()
        query = wire.encode_message(QUERY, 1)
        before = self.status()["sessionCount"]
        for cut in range(len(whole)):
            session = self.connect("operator-alice")
            session.send_bytes(whole[:cut])
            session.close_connection()
        for cut in range(len(query)):
            session = self.open()
            session.send_bytes(query[:cut])
            session.close_connection()
        self.assertCounts("sessions_closed", "lost", lambda: self.open().close_connection())
        self.assertLessEqual(self.status()["sessionCount"], before + 1)

    def test_one_byte_at_a_time(self):
        session = self.connect("operator-alice")
        for byte in hello(session):
            session.send_bytes(bytes([byte]))
        self.assertEqual(session.receive().kind, "HelloAccepted")
        session.is_ready = True
        session.decoder.limit = wire.LIMIT
        for byte in wire.encode_message(QUERY, 7):
            session.send_bytes(bytes([byte]))
        self.assertEqual(session.receive()[:2], ("QueryResult", 7))
        session.close()

    # ---- frames and bodies

    def test_wrong_magic_version_and_kind(self):
        for changes, code, fault in (
                ({"magic": 1}, "BAD_FRAME", "badMessage"),
                ({"version_min": 0}, "BAD_FRAME", "badMessage"),
                ({"version_min": 3, "version_max": 2}, "BAD_FRAME", "badMessage"),
                ({"version_min": 2, "version_max": 9}, "VERSION_MISMATCH", "versionMismatch"),
                ({"cluster": "other"}, "WRONG_CLUSTER", "wrongCluster"),
                ({"name": "bob"}, "WRONG_IDENTITY", "wrongIdentity"),
                ({"role": "agent"}, "WRONG_IDENTITY", "wrongIdentity"),
                ({"role": "root"}, "BAD_FRAME", "badMessage"),
                ({"instance": b"short"}, "BAD_FRAME", "badMessage")):
            with self.subTest(changes=changes):
                self.assertCloses(lambda: self.connect("operator-alice"), code, fault,
                                  name="connections_refused",
                                  send=lambda session: hello(session, **changes))

    def test_kinds_and_flags(self):
        for frame, code, fault in (
                (wire.encode_frame(0), "BAD_FRAME", "kindZero"),
                (wire.encode_frame(35, flags=4), "BAD_FRAME", "unknownFlags"),
                (wire.encode_frame(35, flags=0x8000), "BAD_FRAME", "unknownFlags"),
                (wire.encode_frame(35, flags=wire.MORE), "BAD_FRAME", "emptyChunk"),
                (wire.encode_frame(999, flags=wire.MANDATORY), "UNKNOWN_KIND", "unknownKind")):
            with self.subTest(frame=frame):
                self.assertCloses(self.open, code, fault, send=frame)
        session = self.open()
        session.send_bytes(wire.encode_frame(999, b"whatever", 3))
        self.query(session)
        session.close()

    def test_a_message_between_the_chunks_of_another(self):
        chunk = wire.encode_frame(35, b"\x0a", 1, wire.MORE)
        self.assertCloses(self.open, "BAD_FRAME", "interleaved",
                          send=chunk + wire.encode_message(QUERY, 2))

    def test_a_message_longer_than_any_may_be(self):
        session = self.open("agent-a")
        chunk = wire.encode_frame(16, b"\x00" * (wire.LIMIT - wire.HEADER), 1, wire.MORE)

        def send():
            try:
                for _ in range(wire.MESSAGE_LIMIT // wire.LIMIT + 2):
                    session.send_bytes(chunk)
            except OSError:
                pass
            session.close_connection()
        self.assertCounts("sessions_closed", "messageTooLong", send)

    def test_bodies_that_are_no_message(self):
        seed = random.Random(3)
        bodies = [
            b"\xff" * 20,                                        # a tag that never ends
            b"\x0a" + varint(2**63 - 1),                         # a field longer than memory
            b"\x0a" + varint(2**64 - 1),
            b"\x0a" + varint(2**32) + b"x",
            b"\x0a\x05ab",                                       # shorter than it says
            b"\x0b" * 200,                                       # groups within groups
            b"\x4a" + varint(3) + b"\x0a\x01\xff",               # invalid UTF-8 in plan.release
            QUERY.SerializeToString() + b"\x07",                 # trailing bytes: no wire type 7
            QUERY.SerializeToString() + b"\x00\x00",             # field 0
        ]
        deep = b""
        for _ in range(400):
            deep = b"\x4a" + varint(len(deep)) + deep            # plan in plan in plan
        bodies.append(b"\x13" * 5_000 + deep)
        for body in bodies:
            with self.subTest(body=body[:12].hex()):
                self.assertCloses(self.open, "BAD_FRAME", "badMessage",
                                  send=wire.encode_frame(35, body, 1), words=("query",))
        for _ in range(40):
            # Whatever it is: an answer or a named close, and the server goes on.
            session = self.open()
            session.send_bytes(wire.encode_frame(35, seed.randbytes(seed.randrange(60)), 1))
            try:
                session.receive()
            except wire.SessionClosed as closed:
                self.assertEqual(closed.code, "BAD_FRAME")
            session.close_connection()

    def test_invalid_utf8_in_a_name_and_in_a_reason(self):
        # An agent's report of a host whose name is no text; a Close whose reason is none.
        self.assertCloses(lambda: self.open("agent-a"), "BAD_FRAME", "badMessage",
                          send=wire.encode_frame(16, b"\x0a\x01\xff", 1), words=("hostReport",))
        self.assertCloses(self.open, "BAD_FRAME", "badMessage",
                          send=wire.encode_frame(3, b"\x08\x01\x12\x02\xc3\x28"))

    def test_bytes_after_a_close_are_ignored(self):
        session = self.open()
        close = wire.encode_message(pb.Close(code=1, reason="done"))
        self.assertCounts("sessions_closed", "closedByPeer",
                          lambda: session.send_bytes(close + b"\xff" * 5000))
        session.close_connection()

    # ---- order

    def test_frames_in_the_wrong_state(self):
        for first in (QUERY, pb.Ping(nonce=1), pb.HelloAccepted(version=1), pb.Refused()):
            with self.subTest(first=first.DESCRIPTOR.name):
                self.assertCloses(lambda: self.connect("operator-alice"), "WRONG_STATE", "wrongState",
                                  name="connections_refused", send=wire.encode_message(first, 1))
        self.assertCloses(lambda: self.connect("operator-alice"), "WRONG_STATE", "wrongState",
                          name="connections_refused", send=wire.encode_frame(999))
        self.assertCloses(lambda: self.connect("operator-alice"), "BAD_FRAME", "chunkBeforeHello",
                          name="connections_refused", send=lambda session: wire.encode_frame(
                              1, hello(session)[16:40], 0, wire.MORE))
        self.assertCloses(self.open, "WRONG_STATE", "wrongState", send=hello)
        self.assertCloses(self.open, "WRONG_STATE", "wrongState",
                          send=wire.encode_message(pb.HelloAccepted(version=1)))

    def test_sixty_four_requests_at_once_are_all_answered_in_order(self):
        session = self.open()
        session.send_bytes(b"".join(wire.encode_message(QUERY, n) for n in range(1, 65)))
        self.assertEqual([session.receive()[:2] for _ in range(64)],
                         [("QueryResult", n) for n in range(1, 65)])
        session.close()

    def test_thousands_of_requests_at_once_are_all_answered_too(self):
        session = self.open()
        session.send_bytes(b"".join(wire.encode_message(QUERY, n) for n in range(1, 3001)))
        self.assertEqual([session.receive()[:2] for _ in range(3000)],
                         [("QueryResult", n) for n in range(1, 3001)])
        session.close()

    def test_correlations_that_name_no_answer(self):
        self.assertCloses(self.open, "BAD_FRAME", "badCorrelation",
                          send=wire.encode_message(QUERY, 0))
        self.assertCloses(self.open, "BAD_FRAME", "badCorrelation",
                          send=wire.encode_message(QUERY, 9) * 2)

    def test_a_peer_that_does_not_read_is_closed_and_costs_no_memory(self):
        def flood():
            session = self.open()
            session.stream.settimeout(60)
            data = b"".join(wire.encode_message(QUERY, n) for n in range(1, 2001))
            try:
                for _ in range(2_000):
                    session.stream.sendall(data)
                    # Correlations may come again, but not while they wait: these are answered.
            except OSError:
                pass
            self.assertLess(self.memory(), self.memory_before + GROWTH_WHILE_SLOW)
            session.stream.close()
        self.assertCounts("sessions_closed", "tooSlow", flood)

    def test_pings_whose_pongs_nobody_reads(self):
        pings = wire.encode_message(pb.Ping(nonce=7)) * 40_000          # a megabyte
        peak = 0

        def flood():
            nonlocal peak
            session = self.open()
            session.stream.settimeout(60)
            with self.assertRaises(OSError):
                for _ in range(64):
                    session.stream.sendall(pings)
                    peak = max(peak, self.memory())
            session.stream.close()
        self.assertCounts("sessions_closed", "tooSlow", flood)
        self.assertLess(peak, self.memory_before + GROWTH_WHILE_SLOW)

    def test_millions_of_empty_elements(self):
        """Two bytes each, which would be a hundred and more once they are decoded."""
        for name, prefix, element in (("HostReport", "agent-a", b"\x32\x00"),
                                      ("HostReport", "agent-a", b"\x42\x00"),
                                      ("StepReport", "agent-a", b"\x2a\x00")):
            with self.subTest(kind=name, element=element):
                kind = wire.KIND_OF[name]
                limit = wire.message_limit(kind)
                body = element * (limit // 2)
                size = wire.LIMIT - wire.HEADER
                pieces = [body[start:start + size] for start in range(0, len(body), size)]
                frames = [wire.encode_frame(kind, piece, 1, wire.MORE if piece is not pieces[-1] else 0)
                          for piece in pieces]
                peak = [self.memory()]
                is_over = threading.Event()

                def watch():
                    while not is_over.wait(0.02):
                        peak.append(self.memory())
                watcher = threading.Thread(target=watch)
                watcher.start()
                try:
                    self.assertCloses(lambda: self.open(prefix), "BAD_FRAME", "badMessage",
                                      send=b"".join(frames), words=("elements",))
                finally:
                    is_over.set()
                    watcher.join()
                # Some copies of the bytes, and not what they stand for.
                self.assertLess(max(peak), self.memory_before + 4 * limit + GROWTH_MAX)

    def test_a_kind_is_not_longer_than_its_own_limit(self):
        for prefix, name in (("agent-a", "DirectiveAnswer"), ("agent-a", "StepReport"),
                             ("operator-alice", "Command"), ("operator-alice", "FollowEvents")):
            with self.subTest(kind=name):
                kind = wire.KIND_OF[name]
                chunk = wire.encode_frame(kind, b"\x00" * (wire.LIMIT - wire.HEADER), 1, wire.MORE)
                count = wire.message_limit(kind) // wire.LIMIT + 1
                self.assertCloses(lambda: self.open(prefix), "BAD_FRAME", "messageTooLong",
                                  send=chunk * count)

    def test_refusals_are_counted_and_not_all_logged(self):
        report = wire.encode_message(pb.HostReport(
            host="a", boot_id="x", agent_version="1", accepted_token=2**62), 0)

        def flood():
            session = self.open("agent-a")
            session.send_bytes(report * 2_000)
            for _ in range(2_000):
                self.assertEqual(session.receive().kind, "Refused")
            session.close()
        self.assertCounts("requests_refused", "invalid", flood, 2_000)
        self.assertLogsNoFlood("request", 500)

    def test_a_peer_that_falls_silent_is_found_dead(self):
        session = self.open()
        session.answers_pings = session.keeps_alive = False

        def wait():
            # It hears the server's pings, and then why it is closed.
            with self.assertRaises(wire.SessionClosed) as closed:
                session.receive(timeout=90)
            self.assertEqual(closed.exception.code, "TIMEOUT")
            session.close_connection()
        self.assertCounts("sessions_closed", "timeout", wait)

    # ---- who may say what

    def test_a_kind_that_the_role_may_not_send(self):
        for prefix, message in (
                ("agent-a", QUERY), ("agent-a", pb.Command(abort_rollout=pb.AbortRollout(rollout=1))),
                ("notifier-n", pb.Command(abort_rollout=pb.AbortRollout(rollout=1))),
                ("notifier-n", pb.HostReport(host="n")),
                ("operator-alice", pb.HostReport(host="a")),
                ("operator-alice", pb.Directive()), ("agent-a", pb.FollowEvents()),
                ("operator-alice", pb.AcknowledgeEvents(sequence=1))):
            with self.subTest(prefix=prefix, kind=message.DESCRIPTOR.name):
                self.assertCloses(lambda: self.open(prefix), "NOT_PERMITTED", "notPermitted",
                                  send=wire.encode_message(message, 1))

    def test_host_a_speaks_for_host_b(self):
        report = pb.HostReport(host="b-2", boot_id="x", agent_version="1")
        self.assertCloses(lambda: self.open("agent-a"), "NOT_PERMITTED", "notPermitted",
                          send=wire.encode_message(report, 1), words=("host a", "b-2"))
        self.assertNotIn("b-2", [host["id"] for host in self.hosts()])

    def hosts(self):
        return fermata("hosts", "--server", self.address, "--credentials",
                       self.pki / "operator-alice", "--output", "json").json

    def test_a_second_session_of_an_agent_replaces_the_first(self):
        first = self.open("agent-b")

        def again():
            with self.open("agent-b") as second:
                with self.assertRaises(wire.SessionClosed) as closed:
                    first.receive()
                self.assertEqual(closed.exception.code, "REPLACED")
                self.assertIn("127.0.0.1", closed.exception.reason)
                self.assertEqual(second.request(pb.HostReport(
                    host="b", boot_id="x", agent_version="1")).kind, "HostReportCommitted")
        self.assertCounts("sessions_closed", "replaced", again)


# The queue of one peer that does not read may hold 16 MiB, and TLS, libuv and malloc as much again.
GROWTH_WHILE_SLOW = 96 << 20

if __name__ == "__main__":
    unittest.main()
