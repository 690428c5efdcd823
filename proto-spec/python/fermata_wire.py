"""The wire of Fermata in Python: frames, messages, sessions over TLS.

Written from proto-spec/README.md, apart from the Swift code, so that each checks the other. Used by
check_vectors.py, and by integration tests that need a peer which does what no real one would: a
false leader, a later version, a slow reader.

Needs Python 3.9 or later with google.protobuf (Debian: python3-protobuf) and protoc (Debian:
protobuf-compiler). The message classes are generated on import, into a temporary directory.

    import fermata_wire as wire
    with wire.connect("127.0.0.1", 7450, "pki/operator-alice") as session:
        session.hello()
        answer = session.request(wire.pb.Query(status=wire.pb.Empty()))
        print(answer.message.status.cluster)

    listener = wire.Listener("pki/server-s1")         # a scripted leader
    with listener.accept() as session:
        hello = session.receive_hello()
        session.accept_hello()
        report = session.receive()                    # .kind, .correlation, .message
        session.send(wire.pb.HostReportCommitted(index=1), report.correlation)
"""

import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections import namedtuple

try:
    from google.protobuf import message as _protobuf
except ImportError:
    raise SystemExit(
        f"{sys.executable} has no google.protobuf: run apt-get install python3-protobuf and use "
        "/usr/bin/python3")

PROTO_DIRECTORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def _load_messages():
    protoc = shutil.which("protoc")
    if protoc is None:
        raise SystemExit("protoc is not installed: run apt-get install protobuf-compiler")
    with tempfile.TemporaryDirectory(prefix="fermata-pb-") as directory:
        subprocess.run(
            [protoc, f"--proto_path={PROTO_DIRECTORY}", f"--python_out={directory}",
             os.path.join(PROTO_DIRECTORY, "fermata.proto")], check=True)
        sys.path.insert(0, directory)
        try:
            import fermata_pb2
        finally:
            sys.path.remove(directory)
    return fermata_pb2


pb = _load_messages()

# ---- Numbers ----------------------------------------------------------------------------------

MAGIC = 0x4D524546
LIMIT_BEFORE_HELLO = 4 * 1024
LIMIT = 1024 * 1024
MESSAGE_LIMIT = 64 * 1024 * 1024
HEADER = 12
MORE = 1
MANDATORY = 2
TEXT_MAX = 4096
ALPN = "fermata/1"

KINDS = {
    1: pb.Hello, 2: pb.HelloAccepted, 3: pb.Close, 4: pb.Ping, 5: pb.Pong,
    16: pb.HostReport, 17: pb.HostReportCommitted, 18: pb.Directive, 19: pb.DirectiveAnswer,
    20: pb.StepProgress, 21: pb.StepReport, 22: pb.StepReportCommitted,
    32: pb.Command, 33: pb.CommandAccepted, 34: pb.Refused, 35: pb.Query, 36: pb.QueryResult,
    40: pb.FollowEvents, 41: pb.EventBatch, 42: pb.AcknowledgeEvents,
}
KIND_OF = {message.DESCRIPTOR.name: kind for kind, message in KINDS.items()}
CONTROL = {KIND_OF["Close"], KIND_OF["Ping"], KIND_OF["Pong"]}


class FrameError(Exception):
    """The stream breaks the rules of frames. `rule` is the vectors' word for which."""

    def __init__(self, rule):
        super().__init__(rule)
        self.rule = rule


class MessageError(Exception):
    """A message has a value that is not allowed. `field` says where."""

    def __init__(self, field, problem):
        super().__init__(f"{field}: {problem}")
        self.field = field


# ---- Frames -----------------------------------------------------------------------------------

Frame = namedtuple("Frame", "kind flags correlation body")


def encode_frame(kind, body=b"", correlation=0, flags=0):
    """One frame. Checks nothing: tests want to send what is forbidden."""
    return ((HEADER + len(body)).to_bytes(4, "big") + kind.to_bytes(2, "big")
            + flags.to_bytes(2, "big") + correlation.to_bytes(8, "big") + body)


def encode_message(message, correlation=0, limit=LIMIT):
    """A message as one frame, or as chunks if it is longer than a frame may be."""
    kind = KIND_OF[message.DESCRIPTOR.name]
    body = message.SerializeToString(deterministic=True)
    size = limit - HEADER
    pieces = [body[start:start + size] for start in range(0, len(body), size)] or [b""]
    return b"".join(
        encode_frame(kind, piece, correlation, MORE if index + 1 < len(pieces) else 0)
        for index, piece in enumerate(pieces))


class FrameDecoder:
    """Cuts a byte stream into frames; `next()` gives None if more bytes are needed."""

    def __init__(self, limit=LIMIT_BEFORE_HELLO):
        self.limit = limit
        self.buffer = bytearray()

    def append(self, data):
        self.buffer += data

    def next(self):
        if len(self.buffer) < 4:
            return None
        length = int.from_bytes(self.buffer[:4], "big")
        if length < HEADER:
            raise FrameError("tooShort")
        if length > self.limit:
            raise FrameError("tooLong")
        if len(self.buffer) < 4 + length:
            return None
        kind = int.from_bytes(self.buffer[4:6], "big")
        flags = int.from_bytes(self.buffer[6:8], "big")
        if kind == 0:
            raise FrameError("kindZero")
        if flags & ~(MORE | MANDATORY):
            raise FrameError("unknownFlags")
        frame = Frame(
            kind, flags, int.from_bytes(self.buffer[8:16], "big"),
            bytes(self.buffer[16:4 + length]))
        del self.buffer[:4 + length]
        return frame


class Assembler:
    """Puts chunks together; `add()` gives a whole frame without MORE, or None."""

    def __init__(self):
        self.partial = None

    def add(self, frame):
        more = frame.flags & MORE
        if more and not frame.body:
            raise FrameError("emptyChunk")
        if self.partial is None:
            if not more:
                return frame
            self.partial = frame
            return None
        first = self.partial
        if (frame.kind, frame.correlation) != (first.kind, first.correlation):
            if frame.kind in CONTROL and not more:
                return frame
            raise FrameError("interleaved")
        whole = first._replace(body=first.body + frame.body)
        if len(whole.body) > MESSAGE_LIMIT:
            raise FrameError("messageTooLong")
        if more:
            self.partial = whole
            return None
        self.partial = None
        return whole._replace(flags=whole.flags & ~MORE)


# ---- Messages ---------------------------------------------------------------------------------

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")
_ROLES = ("server", "agent", "operator", "notifier")


def _lower_first(text):
    return text[:1].lower() + text[1:]


def parse(kind, body):
    """Reads and checks a body. Raises MessageError with the field at fault."""
    message_class = KINDS[kind]
    path = _lower_first(message_class.DESCRIPTOR.name)
    message = message_class()
    try:
        message.ParseFromString(body)
    except (_protobuf.DecodeError, UnicodeDecodeError):
        raise MessageError(path, "unreadable")
    check(message, path)
    return message


def check(message, path):
    """Checks a message as README.md, "Values", says; raises MessageError."""
    name = message.DESCRIPTOR.full_name[len("fermata.v1."):]
    rules = _RULES.get(name, {})
    # In this order, which the vectors rely on only where two things are wrong at once.
    for field, rule in rules.items():
        rule(message, field, path)
    for descriptor in message.DESCRIPTOR.fields:
        where = f"{path}.{descriptor.name}"
        value = getattr(message, descriptor.name)
        repeated = descriptor.label == descriptor.LABEL_REPEATED
        if descriptor.type == descriptor.TYPE_MESSAGE:
            if repeated:
                for index, element in enumerate(value):
                    check(element, f"{where}[{index}]")
            elif message.HasField(descriptor.name):
                check(value, where)
        elif descriptor.type == descriptor.TYPE_ENUM and name != "Close":
            if descriptor.has_presence and not message.HasField(descriptor.name):
                continue
            if value == 0 or value not in descriptor.enum_type.values_by_number:
                raise MessageError(where, f"unknown value {value}")


def _present(message, field):
    descriptor = message.DESCRIPTOR.fields_by_name[field]
    return message.HasField(field) if descriptor.has_presence else True


def _name(message, field, path):
    if _present(message, field) and not _NAME.match(getattr(message, field)):
        raise MessageError(f"{path}.{field}", "not a name")


def _names(message, field, path):
    for index, text in enumerate(getattr(message, field)):
        if not _NAME.match(text):
            raise MessageError(f"{path}.{field}[{index}]", "not a name")


def _need(message, field, path):
    if not message.HasField(field):
        raise MessageError(f"{path}.{field}", "missing")


def _range(low, high):
    def rule(message, field, path):
        if _present(message, field) and not low <= getattr(message, field) <= high:
            raise MessageError(f"{path}.{field}", f"not within {low} to {high}")
    return rule


def _ascending(key):
    def rule(message, field, path):
        keys = [key(element).encode() for element in getattr(message, field)]
        for index in range(1, len(keys)):
            if keys[index - 1] >= keys[index]:
                raise MessageError(f"{path}.{field}[{index}]", "not ascending")
    return rule


def _length(count):
    def rule(message, field, path):
        if len(getattr(message, field)) != count:
            raise MessageError(f"{path}.{field}", f"not {count} bytes")
    return rule


def _count(low, high):
    def rule(message, field, path):
        if not low <= len(getattr(message, field)) <= high:
            raise MessageError(f"{path}.{field}", f"not {low} to {high} elements")
    return rule


def _text(message, field, path):
    if len(getattr(message, field).encode()) > TEXT_MAX:
        raise MessageError(f"{path}.{field}", "too long")


def _oneof(message, field, path):
    if message.WhichOneof(field) is None:
        raise MessageError(f"{path}.{field}", "missing")


def _all(*rules):
    def rule(message, field, path):
        for each in rules:
            each(message, field, path)
    return rule


def _magic(message, field, path):
    if message.magic != MAGIC:
        raise MessageError(f"{path}.{field}", "wrong")


def _versions(message, field, path):
    if not 1 <= message.version_min <= message.version_max:
        raise MessageError(f"{path}.{field}", "not a range")


def _role(message, field, path):
    if message.role not in _ROLES:
        raise MessageError(f"{path}.{field}", "unknown")


def _silence(message, field, path):
    if not message.keepalive_milliseconds < message.silence_milliseconds <= 60_000:
        raise MessageError(f"{path}.{field}", "not above keepalive")


def _no_hosts_with_all(message, field, path):
    if message.all_hosts and message.hosts:
        raise MessageError(f"{path}.{field}", "not empty with all_hosts")
    _names(message, field, path)
    _ascending(str)(message, field, path)


def _ids(message, field, path):
    for index, element in enumerate(getattr(message, field)):
        _name(element, "id", f"{path}.{field}[{index}]")


_number = _range(1, 2**64 - 1)
_domain = _range(0, 19)
_by_id = _ascending(lambda element: element.id)

_RULES = {
    "Hello": {
        "magic": _magic, "version_min": _versions, "instance": _length(16), "cluster": _name,
        "role": _role, "name": _name},
    "HelloAccepted": {
        "server": _name, "keepalive_milliseconds": _range(100, 60_000),
        "silence_milliseconds": _silence},
    "StepRef": {"number": _number, "rollout": _number},
    "SetPair": {"set": _name, "update_domain": _domain},
    "Hypervisor": {"version": _text, "path": _text, "module_directory": _text},
    "Release": {
        "sha256": _length(32), "id": _name, "component": _name, "hypervisor": _need},
    "Selection": {"hosts": _no_hosts_with_all},
    "GuestReport": {"id": _name, "set": _name, "update_domain": _domain},
    "SetDefinition": {"id": _name, "update_domain_count": _range(1, 20)},
    "HostReport": {
        "host": _name, "guests": _all(_count(0, 4096), _ids, _by_id), "sets": _all(_ids, _by_id)},
    "HoldRecord": {"guest": _name, "hold_microseconds": _range(0, 2**63 - 1)},
    "Directive": {
        "guests": _all(_count(1, 64), _names, _ascending(str)),
        "deadline_milliseconds": _range(500, 30_000), "step": _need, "token": _number,
        "host": _name, "release": _need},
    "DirectiveAnswer": {
        "step": _need, "token": _number, "stale_accepted_token": _number, "answer": _oneof},
    "StepProgress": {"step": _need, "token": _number},
    "StepReport": {"holds": _count(0, 64), "step": _need, "token": _number},
    "StepReportCommitted": {"step": _need, "token": _number},
    "Command": {"command": _oneof},
    "StartRollout": {"release": _name, "selection": _need},
    "AbortRollout": {"rollout": _number},
    "ReleaseLock": {"set": _name},
    "CommandAccepted": {"rollout": _number},
    "Query": {"query": _oneof, "rollout": _number},
    "QueryResult": {"result": _oneof},
    "HostView": {"id": _name},
    "GuestView": {"report": _need, "host": _name, "update_domain": _domain},
    "SetView": {
        "id": _name, "update_domain_count": _range(1, 20), "locked_update_domain": _domain},
    "SetView.Domain": {"update_domain": _domain, "guests": _names},
    "LockView": {
        "set": _name, "update_domain": _domain, "step": _need, "token": _number, "host": _name,
        "guests": _names},
    "ReleaseView": {"release": _need},
    "Skipped": {"guest": _name, "host": _name},
    "PlanView": {"policy": _need, "release": _name},
    "PlanView.Step": {"host": _name, "guests": _names},
    "StepView": {"id": _need, "host": _name, "guests": _names, "token": _number},
    "RolloutView": {
        "policy": _need, "id": _number, "release": _name, "component": _name,
        "selection": _need},
    "FinishedHold": {
        "record": _need, "host": _name, "step": _need, "token": _number, "release": _name,
        "component": _name},
    "FleetEvent": {"sequence": _number, "body": _oneof},
    "FleetEvent.RolloutStarted": {"rollout": _number, "release": _name},
    "FleetEvent.RolloutChanged": {"rollout": _number},
    "FleetEvent.StepGranted": {"step": _need, "host": _name, "guests": _names},
    "FleetEvent.StepEndedWithoutHold": {"step": _need, "host": _name},
    "FleetEvent.LockReleased": {"set": _name},
}

# ---- Sessions ---------------------------------------------------------------------------------

Received = namedtuple("Received", "kind correlation message")


class SessionClosed(Exception):
    """The peer has closed: with a Close (`code` is its name, `reason` its words) or without."""

    def __init__(self, code, reason):
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


def _context(prefix, server_side):
    context = ssl.SSLContext(
        ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the name that counts is the URI, checked by the caller
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(os.path.join(os.path.dirname(prefix) or ".", "ca.pem"))
    context.load_cert_chain(prefix + ".pem", prefix + ".key")
    context.set_alpn_protocols([ALPN])
    return context


def identity_of(prefix):
    """(cluster, role, name) of the certificate PREFIX.pem."""
    certificate = ssl._ssl._test_decode_cert(prefix + ".pem")
    return _identity(certificate)


def _identity(certificate):
    uris = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"]
    if len(uris) != 1 or not uris[0].startswith("fermata://"):
        raise ValueError(f"not a Fermata certificate: {uris}")
    cluster, role, name = uris[0][len("fermata://"):].split("/")
    return cluster, role, name


class Session:
    """One side of a connection whose TLS is established. Blocking; answers pings by itself
    whenever something is received, so a script that waits should wait in `receive`."""

    def __init__(self, stream, prefix, timeout=10):
        self.stream = stream
        self.own = identity_of(prefix)
        self.peer = _identity(stream.getpeercert())
        self.timeout = timeout
        self.decoder = FrameDecoder()
        self.assembler = Assembler()
        self.answers_pings = True
        self._correlation = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close_connection()

    def send_bytes(self, data):
        self.stream.settimeout(self.timeout)
        self.stream.sendall(data)

    def send(self, message, correlation=0):
        self.send_bytes(encode_message(message, correlation))

    def receive_frame(self, timeout=None):
        """The next frame, whatever it is. socket.timeout after `timeout` seconds."""
        end = time.monotonic() + (self.timeout if timeout is None else timeout)
        while True:
            frame = self.decoder.next()
            if frame is not None:
                return frame
            left = end - time.monotonic()
            if left <= 0:
                raise socket.timeout("nothing came in time")
            self.stream.settimeout(left)
            data = self.stream.recv(65536)
            if not data:
                raise SessionClosed("END_OF_FILE", "the peer has closed without a Close")
            self.decoder.append(data)

    def receive(self, timeout=None):
        """The next message that is no ping or pong. SessionClosed if the peer closes."""
        end = time.monotonic() + (self.timeout if timeout is None else timeout)
        while True:
            frame = self.assembler.add(self.receive_frame(max(0, end - time.monotonic())))
            if frame is None or frame.kind not in KINDS:
                continue
            message = parse(frame.kind, frame.body)
            name = message.DESCRIPTOR.name
            if name == "Ping":
                if self.answers_pings:
                    self.send(pb.Pong(nonce=message.nonce), frame.correlation)
            elif name == "Close":
                code = pb.CloseCode.Name(message.code)[len("CLOSE_CODE_"):]
                raise SessionClosed(code, message.reason)
            elif name != "Pong":
                return Received(name, frame.correlation, message)

    def request(self, message, timeout=None):
        """Sends a message and waits for the answer; other messages meanwhile are dropped."""
        self._correlation += 1
        correlation = self._correlation
        self.send(message, correlation)
        end = time.monotonic() + (self.timeout if timeout is None else timeout)
        while True:
            received = self.receive(max(0, end - time.monotonic()))
            if received.correlation == correlation:
                return received

    # -- connecting side

    def hello(self, **changes):
        """Says hello and waits for HelloAccepted. `changes` replace fields, to say wrong things."""
        cluster, role, name = self.own
        fields = dict(
            magic=MAGIC, version_min=1, version_max=1, cluster=cluster, role=role, name=name,
            instance=os.urandom(16), software="fermata_wire.py")
        fields.update(changes)
        self.send(pb.Hello(**fields))
        received = self.receive()
        if received.kind != "HelloAccepted":
            raise AssertionError(f"{received.kind} instead of HelloAccepted")
        self.decoder.limit = LIMIT
        return received.message

    # -- server side

    def receive_hello(self):
        received = self.receive()
        if received.kind != "Hello":
            raise AssertionError(f"{received.kind} instead of Hello")
        return received.message

    def accept_hello(self, **changes):
        fields = dict(
            version=1, server=self.own[2], is_leader=True, term=1, keepalive_milliseconds=1000,
            silence_milliseconds=3000, servers=[], software="fermata_wire.py")
        fields.update(changes)
        self.send(pb.HelloAccepted(**fields))
        self.decoder.limit = LIMIT

    def close(self, code="NORMAL", reason=""):
        """Sends Close and closes the connection."""
        self.send(pb.Close(code=pb.CloseCode.Value("CLOSE_CODE_" + code), reason=reason))
        self.close_connection()

    def close_connection(self):
        try:
            self.stream.settimeout(1)
            self.stream.unwrap()
        except (OSError, ValueError):
            pass
        self.stream.close()


def connect(host, port, prefix, timeout=10):
    """Connects with the credentials PREFIX.pem, PREFIX.key and ca.pem beside them."""
    plain = socket.create_connection((host, port), timeout)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        return Session(_context(prefix, False).wrap_socket(plain), prefix, timeout)
    except BaseException:
        plain.close()
        raise


class Listener:
    """Accepts connections one by one, as the server whose credentials PREFIX names."""

    def __init__(self, prefix, host="127.0.0.1", port=0):
        self.prefix = prefix
        self.context = _context(prefix, True)
        self.socket = socket.create_server((host, port))
        self.port = self.socket.getsockname()[1]

    def accept(self, timeout=10):
        self.socket.settimeout(timeout)
        plain, _ = self.socket.accept()
        plain.settimeout(timeout)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            return Session(self.context.wrap_socket(plain, server_side=True), self.prefix, timeout)
        except BaseException:
            plain.close()
            raise

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
