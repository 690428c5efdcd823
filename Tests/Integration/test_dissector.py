"""The Wireshark dissector: on a real session, captured on loopback and decrypted with a key log, and on
made-up captures of every vector. Needs tshark, and the right to capture (root, or group wireshark)."""
import json
import re
import shutil
import signal
import socket
import struct
import subprocess
import unittest

from support import ROOT, Scratch, wait_until  # first: it sets the path for the others

import fermata_wire as wire
from scripted_agent import ScriptedAgent
from test_python_client import ServerCase

pb = wire.pb
LUA = ROOT / "proto-spec" / "fermata.lua"
VECTORS = ROOT / "proto-spec" / "vectors"
PORT = 7450


def vectors(name):
    return json.loads((VECTORS / name).read_text())["vectors"]


class DissectorCase(unittest.TestCase):
    maxDiff = None

    def tshark(self, capture, *arguments):
        """Decodes a capture; what tshark writes. Says on failure what to install."""
        if shutil.which("tshark") is None:
            self.fail("tshark is not installed: run scripts/install-dependencies.sh test")
        done = subprocess.run(
            ["tshark", "-X", f"lua_script:{LUA}", "-r", str(capture), *map(str, arguments)],
            capture_output=True, text=True, timeout=120, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertNotIn("Lua", done.stderr)
        self.assertNotIn("Lua Error", done.stdout)
        return done.stdout

    def packets(self, capture, *arguments):
        """For each packet of ours its fields by name, each a list of what was shown."""
        packets = json.loads(self.tshark(capture, *arguments, "-Y", "fermata", "-T", "json", "-J",
                                         "fermata", "--no-duplicate-keys") or "[]")
        found = []
        for packet in packets:
            values = {}
            self.collect(packet["_source"]["layers"].get("fermata", {}), values)
            found.append(values)
        return found

    def collect(self, node, values, name=None):
        if isinstance(node, dict):
            for key, value in node.items():
                self.collect(value, values, key)
        elif isinstance(node, list):
            for each in node:
                self.collect(each, values, name)
        else:
            values.setdefault(name, []).append(node)

    def infos(self, capture, *arguments):
        return self.tshark(capture, *arguments, "-Y", "fermata", "-T", "fields", "-e",
                           "_ws.col.Info").splitlines()

    def fields(self, capture, name, *arguments):
        """All values of one field, in order."""
        text = self.tshark(capture, *arguments, "-Y", name, "-T", "fields", "-e", name)
        return [value for line in text.splitlines() for value in line.split(",")]


# ---- Made-up captures ---------------------------------------------------------------------------


def write_capture(path, segments):
    """A pcap file of one TCP connection to port 7450 without TLS: (from the client?, bytes)…"""
    position = {True: 1, False: 1}
    with open(path, "wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 1 << 18, 101))  # raw IP
        for number, (is_client, data) in enumerate(segments):
            ports = (40000, PORT) if is_client else (PORT, 40000)
            packet = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 40 + len(data), number, 0, 64, 6, 0,
                                 bytes([127, 0, 0, 1]), bytes([127, 0, 0, 1]))
            packet += struct.pack(">HHIIBBHHH", *ports, position[is_client],
                                  position[not is_client], 0x50, 0x18, 65535, 0, 0) + data
            position[is_client] += len(data)
            file.write(struct.pack("<IIII", number, 0, len(packet), len(packet)) + packet)


SESSION = [bytes.fromhex(step["bytes"]) for step in vectors("session.json")]
OPEN = [(True, SESSION[0]), (False, SESSION[1])]


class MadeUp(Scratch, DissectorCase):
    def decode(self, segments, *arguments):
        path = self.directory / "made.pcap"
        write_capture(path, segments)
        return path

    def test_the_session_of_the_specification_is_told_line_by_line(self):
        steps = vectors("session.json")
        capture = self.decode([(s["from"] == "client", bytes.fromhex(s["bytes"])) for s in steps])
        wanted = ["Hello version_min=1 version_max=1 cluster=demo role=agent name=a",
                  "HelloAccepted version=1 server=s1 is_leader=yes term=3 servers=1",
                  "HostReport host=a accepted_token=41 sets=1 guests=2",
                  "HostReportCommitted index=300", "Ping nonce=1", "Pong nonce=1",
                  "Close code=SHUTTING_DOWN reason=stopped by an operator"]
        self.assertEqual(self.infos(capture), wanted)
        self.assertEqual(self.infos(capture, "-2"), wanted)  # every packet seen twice
        # Each field can be asked for.
        for text, count in (("fermata.kind == 16", 1), ("fermata.correlation == 1", 2),
                            ('fermata.guest_report.id == "db-0"', 1),
                            ("fermata.guest_report.state == 7", 1),
                            ('fermata.message == "Close"', 1), ("fermata.close.code == 12", 1),
                            ("fermata.length == 146", 1), ("fermata.flags.more == 1", 0),
                            ("fermata.malformed", 0)):
            lines = self.tshark(capture, "-Y", text).splitlines()
            self.assertEqual(len(lines), count, text)

    def test_every_message_vector_is_named_and_read(self):
        checked = 0
        valid = [v for v in vectors("messages.json") if "json" in v]
        segments = [(True, wire.encode_frame(v["kind"], bytes.fromhex(v["body"]), n))
                    for n, v in enumerate(valid) if v["kind"] != 2]
        packets = self.packets(self.decode(segments))
        shown = [v for v in valid if v["kind"] != 2]
        self.assertEqual(len(packets), len(shown))
        for vector, packet in zip(shown, packets):
            name = wire.KINDS[vector["kind"]].DESCRIPTOR.name
            self.assertEqual(packet["fermata.message"], [name], vector["name"])
            self.assertNotIn("fermata.rule", packet, vector["name"])
            for key, values in self.expected(
                    wire.parse(vector["kind"], bytes.fromhex(vector["body"]))).items():
                self.assertEqual(sorted(packet.get(key, [])), sorted(values),
                                 f"{vector['name']}: {key}")
                checked += 1
        self.assertGreater(checked, 200)

    def expected(self, message, found=None):
        """What must be shown of a message: by each field's name for filters, its values."""
        found = {} if found is None else found
        path = message.DESCRIPTOR.full_name[len("fermata.v1."):]
        path = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", path).lower()
        for field, value in message.ListFields():
            key = f"fermata.{path}.{field.name}"
            for each in value if wire.is_repeated(field) else [value]:
                if field.type == field.TYPE_MESSAGE:
                    self.expected(each, found)
                else:
                    found.setdefault(key, []).append(self.shown(field, each))
        return found

    def shown(self, field, value):
        """A value as tshark writes it into JSON."""
        if field.type == field.TYPE_BYTES:
            return ":".join(f"{byte:02x}" for byte in value)
        if field.type == field.TYPE_BOOL:
            return "1" if value else "0"
        return f"0x{value:08x}" if field.type == field.TYPE_FIXED32 else str(value)

    def test_frames_that_break_a_rule_are_malformed_and_say_which(self):
        tried = set()
        for vector in vectors("frames.json"):
            error = vector.get("error")
            if error is None or vector["limit"] != 4096:
                continue
            with self.subTest(vector["name"]):
                # Lengths are judged before the session is open, the rest after.
                before = [] if error in ("tooShort", "tooLong") else OPEN
                data = bytes.fromhex(vector["bytes"])
                capture = self.decode([*before, (True, data)] if before
                                      else [(True, SESSION[0] + data)])
                # The vectors' bodies are no messages.
                rules = self.fields(capture, "fermata.rule")
                self.assertEqual([r for r in rules if r != "unreadableBody"], [error])
                self.assertIn(f"[Malformed: {error}]", self.infos(capture)[-1])
                self.assertTrue(self.tshark(capture, "-Y", "fermata.malformed"))
            tried.add(error)
        self.assertEqual(tried, {"tooShort", "tooLong", "kindZero", "unknownFlags", "emptyChunk",
                                 "interleaved"})

    def test_bodies_that_cannot_be_read_are_malformed(self):
        for body in (b"\xff", b"\x08", b"\x0a\x05ab", b"\x12\x02\xc3\x28", b"\x00\x01",
                     b"\x0b\x0c", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"):
            with self.subTest(body.hex()):
                capture = self.decode([*OPEN, (True, wire.encode_frame(3, body))])
                self.assertEqual(self.fields(capture, "fermata.rule"), ["unreadableBody"])

    def test_nothing_is_read_behind_a_broken_frame(self):
        capture = self.decode([*OPEN, (True, bytes(4) + SESSION[2]), (True, SESSION[5]),
                               (False, SESSION[6])])
        self.assertEqual(self.infos(capture)[2:], [
            "[Malformed: tooShort]", "behind a broken frame",
            "Close code=SHUTTING_DOWN reason=stopped by an operator"])

    def test_the_rules_before_the_session_is_open(self):
        hello = wire.parse(1, SESSION[0][16:])
        hello.software = "x" * 4050
        for rule, data in (("tooLong", wire.encode_message(hello)),
                           ("chunkBeforeHello", SESSION[0] + wire.encode_frame(4, b"\1", 0, 1)),
                           ("unknownKind", SESSION[0] + wire.encode_frame(999, b"", 0, 2))):
            capture = self.decode([(True, data)])
            self.assertEqual(self.fields(capture, "fermata.rule"), [rule])

    def test_unknown_kinds_and_fields_are_shown_as_ignored(self):
        capture = self.decode([*OPEN, (True, wire.encode_frame(999, b"abc")),
                               (True, wire.encode_frame(4, b"\x09" + bytes(8) + b"\xc2\x0c\x01x")),
                               # A field of another type than the schema's is unknown as well.
                               (True, wire.encode_frame(4, b"\x0a\x01x"))])
        self.assertEqual(self.infos(capture)[2:], ["kind 999 (unknown, ignored)", "Ping nonce=0",
                                                   "Ping"])
        self.assertEqual(len(self.fields(capture, "fermata.unknown_field")), 2)
        self.assertEqual(self.fields(capture, "fermata.rule"), [])

    def test_chunks_are_put_together_however_tcp_has_cut_them(self):
        report = pb.HostReport(host="a", boot_id="b", agent_version="1", guests=[
            pb.GuestReport(id=f"g-{n:04}", state=2, hypervisor_version="7.2") for n in range(500)])
        chunks = wire.encode_message(report, 9, limit=4096)
        frames, decoder = [], wire.FrameDecoder()
        decoder.append(chunks)
        while (frame := decoder.next()) is not None:
            frames.append(wire.encode_frame(frame.kind, frame.body, frame.correlation, frame.flags))
        self.assertGreater(len(frames), 2)
        # A pong and a kind of a later version in between.
        stream = frames[0] + SESSION[5] + wire.encode_frame(999, b"x", 1, 1) \
            + b"".join(frames[1:]) + SESSION[5] + chunks
        for size in (700, 1460, 4099, 4100, len(stream)):
            for passes in ((), ("-2",)):
                with self.subTest(size=size, passes=passes):
                    cut = [(True, stream[at:at + size]) for at in range(0, len(stream), size)]
                    capture = self.decode([*OPEN, *cut])
                    text = ", ".join(self.infos(capture, *passes)[2:])
                    self.assertEqual(
                        text, ", ".join(["HostReport (chunk)", "Pong nonce=1",
                                         "kind 999 (unknown, ignored)"]
                                        + ["HostReport (chunk)"] * (len(frames) - 2)
                                        + [f"HostReport ({len(frames)} chunks) host=a guests=500",
                                           "Pong nonce=1"]
                                        # And the same message again.
                                        + ["HostReport (chunk)"] * (len(frames) - 1)
                                        + [f"HostReport ({len(frames)} chunks) host=a guests=500"]))
                    ids = self.fields(capture, "fermata.guest_report.id", *passes)
                    self.assertEqual(ids, [f"g-{n:04}" for n in range(500)] * 2)
                    self.assertEqual(self.fields(capture, "fermata.chunks", *passes),
                                     [str(len(frames))] * 2)

    def test_what_a_peer_says_cannot_move_the_cursor(self):
        capture = self.decode([*OPEN, (False, wire.encode_message(
            pb.Close(code=14, reason="a\x1b[2J\nb")))])
        self.assertEqual(self.infos(capture)[2], "Close code=INTERNAL reason=a.[2J.b")


class Schema(Scratch, DissectorCase):
    def test_a_missing_schema_is_told_with_what_to_do(self):
        shutil.copy(LUA, self.directory)
        write_capture(self.directory / "made.pcap", OPEN)
        done = subprocess.run(
            ["tshark", "-X", f"lua_script:{self.directory / 'fermata.lua'}", "-r",
             str(self.directory / "made.pcap")], capture_output=True, text=True, check=False)
        self.assertIn("copy fermata.proto beside fermata.lua", done.stderr)


# ---- A real session -----------------------------------------------------------------------------


class Captured(ServerCase, DissectorCase):
    def setUp(self):
        super().setUp()
        self.keys = self.directory / "keys"
        self.capture = self.directory / "session.pcapng"
        self.port = int(self.address.rpartition(":")[2])

    def start_capture(self):
        if shutil.which("dumpcap") is None:
            self.fail("tshark is not installed: run scripts/install-dependencies.sh test")
        process = subprocess.Popen(
            ["dumpcap", "-q", "-i", "lo", "-f", f"tcp port {self.port}", "-w", self.capture],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

        def end():
            process.kill()
            process.communicate()
        self.addCleanup(end)

        def is_capturing():
            self.assertIsNone(process.poll(), "no capture on lo: " + (
                process.stderr.read() if process.poll() is not None else ""))
            with socket.create_connection(("127.0.0.1", self.port), 5):
                pass
            return self.capture.exists() and self.capture.stat().st_size > 1000
        wait_until(is_capturing, 20, "dumpcap to see a connection")
        return process

    def end_capture(self, process, is_whole):
        """Ends it once it has all of the session."""
        wait_until(is_whole, 30, "the whole session to be in the capture", interval=0.5)
        process.send_signal(signal.SIGINT)
        process.wait(20)

    def decoded(self, name):
        """A field's values, as far as the capture has been written (its end may be cut)."""
        done = subprocess.run(
            ["tshark", "-X", f"lua_script:{LUA}", "-o", f"tls.keylog_file:{self.keys}", "-r",
             self.capture, "-Y", name, "-T", "fields", "-e", name], capture_output=True, text=True,
            timeout=90, check=False)
        return done.stdout.replace(",", "\n").splitlines()

    def test_a_session_of_the_python_client_is_decrypted_and_named(self):
        capture = self.start_capture()
        self.add_release("two", "2")
        agent = ScriptedAgent(self.address, self.pki / "agent-a", ["g-1", "g-2"],
                              key_log=str(self.keys))
        with agent:
            self.client("hello", "--key-log", self.keys)
            self.client("guests", "--key-log", self.keys)
            self.roll("two")
            self.client("follow", "--count", "6", "--progress", "--key-log", self.keys)
        self.end_capture(capture, lambda: self.decoded("fermata.close.code").count("1") >= 4)

        key_log = ("-o", f"tls.keylog_file:{self.keys}")
        kinds = set(self.fields(self.capture, "fermata.kind", *key_log))
        self.assertLessEqual({"1", "2", "3", "16", "17", "18", "19", "20", "21", "22", "35", "36",
                              "40", "41"}, kinds)
        for name, value in (("hello.cluster", "test"), ("hello.name", "alice"),
                            ("hello_accepted.server", "s"), ("host_report.host", "a"),
                            ("guest_report.id", "g-2"), ("directive.guests", "g-1"),
                            ("release.id", "two"), ("hold_record.hold_microseconds", "12500"),
                            ("hold_record.clock_error_before_microseconds", "-7"),
                            ("fleet_event.rollout_started.step_count", "2"),
                            ("fleet_event.sequence", "6")):
            self.assertIn(value, self.fields(self.capture, f"fermata.{name}", *key_log), name)
        self.assertEqual(self.fields(self.capture, "fermata.rule", *key_log), [])
        infos = ", ".join(self.infos(self.capture, *key_log))
        for words in ("Hello version_min=1 version_max=1 cluster=test role=operator name=alice",
                      "HostReport host=a guests=2", "Query guests", "QueryResult guests=2",
                      "FollowEvents progress=yes", "Close code=NORMAL",
                      "Directive step=1/1 token=1 host=a release guests=1"):
            self.assertIn(words, infos)
        # Without the secrets there is nothing of ours to be seen.
        self.assertEqual(self.infos(self.capture), [])

    def test_a_broken_frame_in_a_real_session_is_named_as_the_server_does(self):
        capture = self.start_capture()
        with wire.connect("127.0.0.1", self.port, str(self.operator),
                          key_log=str(self.keys)) as session:
            session.hello()
            session.send_bytes(wire.encode_frame(35, b"\x0a\x00", 1, 0x8000))
            with self.assertRaises(wire.SessionClosed) as closed:
                session.receive()
            self.assertEqual(closed.exception.code, "BAD_FRAME")
        self.end_capture(capture, lambda: "6" in self.decoded("fermata.close.code"))
        key_log = ("-o", f"tls.keylog_file:{self.keys}")
        self.assertEqual(self.fields(self.capture, "fermata.rule", *key_log), ["unknownFlags"])
        (broken,) = [info for info in self.infos(self.capture, *key_log) if "Malformed" in info]
        self.assertEqual(broken, "Query [Malformed: unknownFlags]")

    def test_a_message_of_many_tls_records_is_one(self):
        # 100 kB, so several records of TLS and many segments of TCP.
        capture = self.start_capture()
        guests = [f"g-{n:03}" for n in range(200)]
        with ScriptedAgent(self.address, self.pki / "agent-a", guests, key_log=str(self.keys),
                           problem="x" * 500):
            pass
        self.end_capture(capture, lambda: "1" in self.decoded("fermata.close.code"))
        ids = self.fields(self.capture, "fermata.guest_report.id", "-o",
                          f"tls.keylog_file:{self.keys}")
        self.assertEqual(ids, guests)
