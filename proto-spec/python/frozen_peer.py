"""Plays the frozen peers of vectors/peer-v1.json: bytes of version 1 that are never made anew.

It knows the frame's header and Protocol Buffers' encoding, and no schema: a field whose number or type
changes is found, whatever fermata.proto says by then. TLS is fermata_wire's, the ALPN is the frozen one.

    player = Player(script["steps"], alpn, connect=("127.0.0.1", 7450), credentials="pki/")
    player.play()                         # raises Mismatch at the first step that comes out otherwise
"""

import os
import socket

import fermata_wire as wire

CLOSE, PING, PONG, EVENT_BATCH = 3, 4, 5, 41
PONG_FRAME = "000000150005" "0000" "{correlation}09{nonce}"


class Mismatch(AssertionError):
    """A step that did not come out as it did when it was frozen."""


def decode(body):
    """The fields of a message by number: a list of (wire type, value) for each."""
    fields, at = {}, 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = body[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(body):
        key = varint()
        number, kind = key >> 3, key & 7
        if kind == 0:
            value = varint()
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            value = int.from_bytes(body[at:at + size], "little")
            at += size
        elif kind == 2:
            size = varint()
            value = body[at:at + size]
            at += size
        else:
            raise Mismatch(f"field {number} has wire type {kind}")
        fields.setdefault(number, []).append((kind, value))
    return fields


def look_up(body, path):
    """(wire type, value) at a path such as 1.6, or None."""
    found = (2, body)
    for number in path.split("."):
        if found[0] != 2:
            raise Mismatch(f"{path}: not a message")
        values = decode(found[1]).get(int(number))
        if values is None:
            return None
        found = values[0]
    return found


def check_fields(body, expected, what):
    for path, wanted in expected.items():
        found = look_up(body, path)
        if not is_as_wanted(found, wanted):
            raise Mismatch(f"{what}: field {path} is {found}, not {wanted}")


def is_as_wanted(found, wanted):
    # Absent is 0, empty or false, as the encoding has it.
    if wanted is None:
        return found is None
    if isinstance(wanted, dict) and "min" not in wanted and "zigzag" not in wanted:
        if found is None or found[0] != 2:
            return False
        (rule, value), = wanted.items()
        return {"present": True, "text": rule == "text" and found[1].decode() != "",
                "hex": found[1].hex() == value, "bytes": len(found[1]) == value}[rule]
    if isinstance(wanted, str):
        return found is not None and found == (2, wanted.encode())
    kind, value = found or (0, 0)
    if kind == 2:
        return False
    if isinstance(wanted, dict):
        if "zigzag" in wanted:
            return (value >> 1) ^ -(value & 1) == wanted["zigzag"]
        return value >= wanted["min"]
    return value == wanted


class _Connection:
    """TLS with a frame decoder, and what was expected last, for the placeholders."""

    def __init__(self, stream):
        self.stream = stream
        self.decoder = wire.FrameDecoder(wire.LIMIT)
        self.last = None
        self.correlation_of = {}
        self.batches = []

    def send(self, text, kind=None):
        frame = self.last
        if "{correlation}" in text:
            correlation = frame.correlation if kind is None else self.correlation_of[kind]
            text = text.replace("{correlation}", f"{correlation:016x}")
        if "{nonce}" in text:
            text = text.replace("{nonce}", frame.body[1:9].hex())
        self.stream.sendall(bytes.fromhex(text))

    def frame(self):
        """The next frame, or None at the end."""
        while True:
            frame = self.decoder.next()
            if frame is not None:
                return frame
            try:
                data = self.stream.recv(65536)
            except socket.timeout:
                raise Mismatch("nothing came in time") from None
            except OSError:
                data = b""
            if not data:
                return None
            self.decoder.append(data)

    def expect(self, kind):
        """The next frame that matters. Unless expected, pings are answered, pongs skipped, and event
        batches, which come when they like, are kept for later."""
        if kind == EVENT_BATCH and self.batches:
            return self.batches.pop(0)
        while True:
            frame = self.frame()
            if frame is None:
                raise Mismatch(f"the connection has ended instead of kind {kind}")
            if frame.kind == kind:
                break
            if frame.kind == PING:
                before, self.last = self.last, frame
                self.send(PONG_FRAME)
                self.last = before
            elif frame.kind == EVENT_BATCH:
                self.batches.append(frame)
            elif frame.kind != PONG:
                raise Mismatch(f"kind {frame.kind} instead of {kind}: {frame.body!r}")
        self.last = frame
        self.correlation_of[kind] = frame.correlation
        return frame


class Player:
    """Plays steps. As a client it connects to `connect`, as a server it accepts from `listener`
    (a listening socket) with the certificate `server`."""

    def __init__(self, steps, alpn, credentials, connect=None, listener=None, server=None,
                 seconds=15):
        self.steps, self.alpn, self.credentials = steps, alpn, str(credentials)
        self.connect_to, self.listener, self.server = connect, listener, server
        self.seconds = seconds
        self.connections = {}

    def play(self):
        try:
            for number, step in enumerate(self.steps):
                try:
                    self._step(step)
                except (Mismatch, OSError, wire.FrameError, IndexError) as error:
                    raise Mismatch(
                        f"step {number} ({step['session']}: {step['what']}): {error!r}") from error
        finally:
            for connection in self.connections.values():
                connection.stream.close()

    def _step(self, step):
        name = step["session"]
        if "connect" in step or "accept" in step:
            self.connections[name] = self._open(step)
            return
        connection = self.connections[name]
        if "send" in step:
            connection.send(step["send"], step.get("correlation_of"))
        elif "expect" in step:
            wanted = step["expect"]
            frame = connection.expect(wanted["kind"])
            if wanted.get("correlation", frame.correlation) != frame.correlation:
                raise Mismatch(f"correlation {frame.correlation} instead of {wanted['correlation']}")
            check_fields(frame.body, wanted.get("fields", {}), f"kind {frame.kind}")
        elif "expect_events" in step:
            self._expect_events(connection, step["expect_events"])
        elif "end" in step:
            frame = connection.frame()
            while frame is not None and frame.kind in (PING, PONG):
                frame = connection.frame()
            if frame is not None and step["end"] == "with or without a Close" \
                    and frame.kind == CLOSE:
                frame = connection.frame()
            if frame is not None:
                raise Mismatch(f"kind {frame.kind} instead of the end")
        else:
            raise ValueError(f"a step of no known form: {step}")

    def _expect_events(self, connection, wanted):
        events = []
        while len(events) < len(wanted["events"]):
            frame = connection.expect(EVENT_BATCH)
            if frame.correlation != wanted["correlation"]:
                raise Mismatch(f"a batch of follow {frame.correlation}")
            events += [value for _, value in decode(frame.body).get(1, [])]
        if len(events) > len(wanted["events"]):
            raise Mismatch(f"{len(events)} events")
        for index, (event, fields) in enumerate(zip(events, wanted["events"])):
            check_fields(event, fields, f"event {index}")

    def _open(self, step):
        is_server = "accept" in step
        prefix = os.path.join(self.credentials, self.server if is_server else step["connect"])
        context = wire.tls_context(prefix, is_server)
        context.set_alpn_protocols([self.alpn])
        if is_server:
            self.listener.settimeout(self.seconds)
            plain, _ = self.listener.accept()
            plain.settimeout(self.seconds)
        else:
            plain = socket.create_connection(self.connect_to, self.seconds)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream = context.wrap_socket(plain, server_side=is_server)
        if stream.selected_alpn_protocol() != self.alpn:
            raise Mismatch(f"ALPN {stream.selected_alpn_protocol()} instead of {self.alpn}")
        return _Connection(stream)
