"""The wire of Fermata in Python: frames, messages, sessions over TLS.

Written from proto-spec/README.md, apart from the Swift code, so that each checks the other. Used by
check_vectors.py, and by integration tests that need a peer which does what no real one would: a
false leader, a later version, a slow reader.

Needs Python 3.9 or later with google.protobuf (Debian: python3-protobuf, or protobuf of PyPI) and
protoc (Debian: protobuf-compiler). The message classes are made on import, from fermata.proto.

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
import random
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import unicodedata
from collections import namedtuple
from types import SimpleNamespace

try:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    from google.protobuf import message as _protobuf
    from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
except ImportError:
    raise SystemExit(
        f"{sys.executable} has no google.protobuf: run apt-get install python3-protobuf and use "
        "/usr/bin/python3")

PROTO_DIRECTORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def _load_messages():
    """The messages and enums of fermata.proto by name.

    From a descriptor set, not from generated Python: that must fit the version of the runtime, and
    Debian's protoc is years older than the protobuf of PyPI.
    """
    protoc = shutil.which("protoc")
    if protoc is None:
        raise SystemExit("protoc is not installed: run apt-get install protobuf-compiler")
    with tempfile.TemporaryDirectory(prefix="fermata-pb-") as directory:
        path = os.path.join(directory, "fermata.bin")
        subprocess.run(
            [protoc, f"--proto_path={PROTO_DIRECTORY}", f"--descriptor_set_out={path}",
             os.path.join(PROTO_DIRECTORY, "fermata.proto")], check=True)
        with open(path, "rb") as stream:
            files = descriptor_pb2.FileDescriptorSet.FromString(stream.read()).file
    pool = descriptor_pool.DescriptorPool()
    for file in files:
        pool.Add(file)
    described = pool.FindFileByName("fermata.proto")
    if hasattr(message_factory, "GetMessageClass"):
        class_of = message_factory.GetMessageClass
    else:  # protobuf before 4.22, such as Debian 12's
        class_of = message_factory.MessageFactory(pool).GetPrototype

    def with_nested(descriptor):
        message = class_of(descriptor)
        for nested in descriptor.nested_types:
            if not hasattr(message, nested.name):  # so in the C++ runtime of Debian 12
                setattr(message, nested.name, with_nested(nested))
        return message

    found = SimpleNamespace(DESCRIPTOR=described)
    for name, descriptor in described.message_types_by_name.items():
        setattr(found, name, with_nested(descriptor))
    for name, descriptor in described.enum_types_by_name.items():
        setattr(found, name, EnumTypeWrapper(descriptor))
        for value in descriptor.values:
            setattr(found, value.name, value.number)
    return found


pb = _load_messages()

# ---- Numbers ----------------------------------------------------------------------------------

MAGIC = 0x4D524546
LIMIT_BEFORE_HELLO = 4 * 1024
LIMIT = 1024 * 1024
MESSAGE_LIMIT = 64 * 1024 * 1024
SMALL_MESSAGE_LIMIT = 1024 * 1024
HEADER = 12
MORE = 1
MANDATORY = 2
TEXT_MAX = 4096
REASON_MAX = 1024
VERSIONS = (1, 1)
ALPN = "fermata/1"
HELLO_SECONDS = 5
PAUSE_MIN_SECONDS, PAUSE_MAX_SECONDS = 0.1, 5

KINDS = {
    1: pb.Hello, 2: pb.HelloAccepted, 3: pb.Close, 4: pb.Ping, 5: pb.Pong,
    16: pb.HostReport, 17: pb.HostReportCommitted, 18: pb.Directive, 19: pb.DirectiveAnswer,
    20: pb.StepProgress, 21: pb.StepReport, 22: pb.StepReportCommitted,
    32: pb.Command, 33: pb.CommandAccepted, 34: pb.Refused, 35: pb.Query, 36: pb.QueryResult,
    40: pb.FollowEvents, 41: pb.EventBatch, 42: pb.AcknowledgeEvents,
    43: pb.ClaimDeliveries, 44: pb.DeliveryLease, 45: pb.ReportDelivered, 46: pb.GiveUpDeliveries,
}
KIND_OF = {message.DESCRIPTOR.name: kind for kind, message in KINDS.items()}
CONTROL = {KIND_OF["Close"], KIND_OF["Ping"], KIND_OF["Pong"]}

# Longest bodies, by kind; all others have SMALL_MESSAGE_LIMIT.
MESSAGE_LIMITS = {
    KIND_OF["HostReport"]: 32 * 1024 * 1024, KIND_OF["Directive"]: 4 * 1024 * 1024,
    KIND_OF["StepReport"]: 4 * 1024 * 1024, KIND_OF["Command"]: 4 * 1024 * 1024,
    KIND_OF["Query"]: 4 * 1024 * 1024, KIND_OF["QueryResult"]: MESSAGE_LIMIT,
    KIND_OF["EventBatch"]: MESSAGE_LIMIT,
}


def message_limit(kind):
    """Longest body of a kind; one that is not known here is only measured."""
    return MESSAGE_LIMITS.get(kind, SMALL_MESSAGE_LIMIT if kind in KINDS else MESSAGE_LIMIT)


ROLES = ("server", "agent", "operator", "notifier")
_CLIENTS = ROLES[1:]


def _directions():
    """(kind, sender's role, receiver's role) for all that section 6 allows."""
    to_server = {
        "Hello": ROLES, "HostReport": ["agent"], "DirectiveAnswer": ["agent"],
        "StepProgress": ["agent"], "StepReport": ["agent"], "Command": ["operator", "notifier"],
        "Query": ["operator", "notifier"], "FollowEvents": ["operator", "notifier"],
        "AcknowledgeEvents": ["notifier"], "ClaimDeliveries": ["notifier"],
        "ReportDelivered": ["notifier"], "GiveUpDeliveries": ["notifier"]}
    from_server = {
        "HelloAccepted": ROLES, "HostReportCommitted": ["agent"], "Directive": ["agent"],
        "StepProgress": ["operator", "notifier"], "StepReportCommitted": ["agent"],
        "CommandAccepted": ["operator", "notifier"], "Refused": _CLIENTS,
        "QueryResult": ["operator", "notifier"], "DeliveryLease": ["notifier"],
        "EventBatch": ["operator", "notifier"]}
    for name in ("Close", "Ping", "Pong"):
        to_server[name] = from_server[name] = ROLES
    return ({(KIND_OF[name], role, "server") for name in to_server for role in to_server[name]}
            | {(KIND_OF[name], "server", role)
               for name in from_server for role in from_server[name]})


DIRECTIONS = _directions()


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
        if len(whole.body) > message_limit(frame.kind):
            raise FrameError("messageTooLong")
        if more:
            self.partial = whole
            return None
        self.partial = None
        return whole._replace(flags=whole.flags & ~MORE)


# ---- Messages ---------------------------------------------------------------------------------

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")


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
        repeated = is_repeated(descriptor)
        if descriptor.type == descriptor.TYPE_MESSAGE:
            if repeated:
                for index, element in enumerate(value):
                    check(element, f"{where}[{index}]")
            elif message.HasField(descriptor.name):
                check(value, where)
        elif descriptor.type == descriptor.TYPE_ENUM and descriptor.enum_type.name not in _OPEN:
            if descriptor.has_presence and not message.HasField(descriptor.name):
                continue
            if value == 0 or value not in descriptor.enum_type.values_by_number:
                raise MessageError(where, f"unknown value {value}")
        elif descriptor.type == descriptor.TYPE_STRING and descriptor.name not in rules:
            if descriptor.name in _FOR_PEOPLE and name != "Counter":
                continue  # cut, not refused
            for index, text in enumerate(value if repeated else [value]):
                if len(text.encode()) > TEXT_MAX:
                    raise MessageError(f"{where}[{index}]" if repeated else where, "too long")


# Enums of which every value is taken: one that is not known means what fermata.proto says.
_OPEN = {"CloseCode", "Acknowledgement"}

# Texts that a receiver cuts if they are too long.
_FOR_PEOPLE = {
    "reason", "refused_reason", "message", "advice", "clock_note", "warnings", "problems",
    "hand_over_problem", "software"}


def is_repeated(descriptor):
    """Whether a field is repeated, in every version of protobuf."""
    try:
        return descriptor.is_repeated
    except AttributeError:  # protobuf before 6.31; later ones have no label any more
        return descriptor.label == descriptor.LABEL_REPEATED


def _present(message, field):
    descriptor = message.DESCRIPTOR.fields_by_name[field]
    return message.HasField(field) if descriptor.has_presence else True


def _name(message, field, path):
    if _present(message, field) and not _NAME.match(getattr(message, field)):
        raise MessageError(f"{path}.{field}", "not a name")


def _name_or_nothing(message, field, path):
    if getattr(message, field):
        _name(message, field, path)


def _names(message, field, path):
    for index, text in enumerate(getattr(message, field)):
        if not _NAME.match(text):
            raise MessageError(f"{path}.{field}[{index}]", "not a name")


def _numbers(message, field, path):
    for index, number in enumerate(getattr(message, field)):
        if number < 1:
            raise MessageError(f"{path}.{field}[{index}]", "not at least 1")


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
    if message.role not in ROLES:
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


def _word(message, field, path):
    if "\0" in getattr(message, field):
        raise MessageError(f"{path}.{field}", "has a NUL byte")
    _text(message, field, path)


def _words(message, field, path):
    for index, word in enumerate(getattr(message, field)):
        if "\0" in word or len(word.encode()) > TEXT_MAX:
            raise MessageError(f"{path}.{field}[{index}]", "too long, or has a NUL byte")


def _texts(message, field, path):
    for index, text in enumerate(getattr(message, field)):
        if len(text.encode()) > TEXT_MAX:
            raise MessageError(f"{path}.{field}[{index}]", "too long")


def _path(message, field, path):
    if not getattr(message, field).startswith("/"):
        raise MessageError(f"{path}.{field}", "not an absolute path")
    _word(message, field, path)


def _path_or_nothing(message, field, path):
    if getattr(message, field):
        _path(message, field, path)


def _variable(message, field, path):
    _text(message, field, path)
    name = getattr(message, field)
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or name.startswith("FERMATA_"):
        raise MessageError(f"{path}.{field}", "not a variable's name")


def _digest_of_hypervisor(message, field, path):
    count = 32 if message.HasField("hypervisor") else 0
    if len(getattr(message, field)) != count:
        raise MessageError(f"{path}.{field}", f"not {count} bytes")


def _guests_of_work(message, field, path):
    count = len(getattr(message, field))
    work = message.release.WhichOneof("work")
    if work == "hypervisor" and count == 0:
        raise MessageError(f"{path}.{field}", "missing")
    is_held = work == "hypervisor" or message.release.host_work.holds_guests
    if message.release.WhichOneof("work") and not is_held and count:
        raise MessageError(f"{path}.{field}", "not empty, but the release holds no guest")


_number = _range(1, 2**64 - 1)
_token = _range(1, 2**63 - 1)
_accepted = _range(0, 2**63 - 1)
# Microseconds: the years 1 to 9999, and how far apart two such times can be.
_time = _range(-62_135_596_800_000_000, 253_402_300_799_999_999)
_length_of_time = _range(0, 253_402_300_799_999_999)
_clock_error = _range(-253_402_300_799_999_999, 253_402_300_799_999_999)
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
    "Hypervisor": {
        "data_directories": _all(_count(0, 64), _texts), "version": _text, "path": _text,
        "module_directory": _text},
    "Release": {
        "work": _oneof, "sha256": _digest_of_hypervisor, "id": _name, "component": _name},
    "ReleaseFile": {"path": _path, "sha256": _length(32)},
    "EnvironmentVariable": {"name": _variable, "value": _word},
    "HostCommand": {
        "arguments": _all(_count(0, 64), _words), "limit_milliseconds": _range(1, 3_600_000),
        "path": _path, "sha256": _length(32)},
    "HostWork": {
        "environment": _all(_count(0, 64), _ascending(lambda element: element.name)),
        "apply": _need, "user": _word, "working_directory": _path_or_nothing},
    "AgentProgram": {"program": _need},
    "InstalledSoftware": {"component": _name},
    "Selection": {"hosts": _all(_count(0, 60_000), _no_hosts_with_all)},
    "GuestReport": {
        "addresses": _all(_count(0, 32), _texts), "id": _name, "set": _name,
        "update_domain": _domain},
    "SetDefinition": {"id": _name, "update_domain_count": _range(1, 20)},
    "HostReport": {
        "host": _name, "guests": _all(_count(0, 4096), _ids, _by_id),
        "sets": _all(_count(0, 4096), _ids, _by_id), "accepted_token": _accepted,
        "abilities": _all(_count(0, 64), _names),
        "software": _all(_count(0, 256), _ascending(lambda element: element.component))},
    "PhaseTime": {"at_microseconds": _time},
    "HoldRecord": {
        "guest": _name, "held_at_microseconds": _time, "hold_microseconds": _length_of_time,
        "clock_error_before_microseconds": _clock_error,
        "clock_error_after_microseconds": _clock_error},
    "Directive": {
        "guests": _all(_count(0, 64), _names, _ascending(str), _guests_of_work),
        "deadline_milliseconds": _range(500, 30_000), "step": _need, "token": _token,
        "host": _name, "release": _need},
    "DirectiveAnswer": {
        "step": _need, "token": _token, "stale_accepted_token": _token, "answer": _oneof},
    "StepProgress": {"step": _need, "token": _token, "at_microseconds": _time},
    "StepReport": {
        "phases": _count(0, 64), "holds": _count(0, 64), "step": _need, "token": _token},
    "StepReportCommitted": {"step": _need, "token": _token},
    "Command": {"command": _oneof},
    "StartRollout": {"release": _name, "selection": _need},
    "AbortRollout": {"rollout": _number},
    "HoldRollout": {"rollout": _number},
    "HoldHost": {"host": _name},
    "ForgetNotifier": {"notifier": _name},
    "ReleaseLock": {"set": _name},
    "CommandAccepted": {"rollout": _number},
    "Query": {"query": _oneof, "rollout": _number},
    "QueryResult": {"result": _oneof},
    "StatusView": {"active_rollouts": _numbers},
    "HostView": {"id": _name},
    "GuestView": {"report": _need, "host": _name, "update_domain": _domain},
    "SetView": {
        "id": _name, "update_domain_count": _range(1, 20), "locked_update_domain": _domain},
    "SetView.Domain": {"update_domain": _domain, "guests": _names},
    "LockView": {
        "set": _name, "update_domain": _domain, "step": _need, "token": _token, "host": _name,
        "guests": _names},
    "ReleaseView": {"release": _need},
    "Skipped": {"guest": _name_or_nothing, "host": _name},
    "PlanView": {"policy": _need, "release": _name},
    "PlanView.Step": {"host": _name, "guests": _names},
    "StepView": {"id": _need, "host": _name, "guests": _names, "token": _token},
    "RolloutView": {
        "policy": _need, "id": _number, "release": _name, "component": _name,
        "selection": _need},
    "FinishedHold": {
        "record": _need, "host": _name, "step": _need, "token": _token, "release": _name,
        "component": _name},
    "FleetEvent": {"sequence": _number, "body": _oneof},
    "FleetEvent.RolloutStarted": {"rollout": _number, "release": _name},
    "FleetEvent.RolloutChanged": {"rollout": _number},
    "FleetEvent.StepGranted": {"step": _need, "host": _name, "guests": _names},
    "FleetEvent.StepEndedWithoutHold": {"step": _need, "host": _name},
    "FleetEvent.LockReleased": {"set": _name},
}

# ---- Texts ------------------------------------------------------------------------------------


def for_people(text, byte_count_max=REASON_MAX):
    """A peer's words as they may be shown: no control characters, and cut between characters."""
    cut = text.encode()[:byte_count_max].decode(errors="ignore")
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(each) in ("Cc", "Zl", "Zp") else each
        for each in cut)


def close_code_name(number):
    """The name of a close code; an unknown one is read as INTERNAL."""
    descriptor = pb.CloseCode.DESCRIPTOR.values_by_number.get(number)
    if descriptor is None or number == 0:
        return "INTERNAL"
    return descriptor.name[len("CLOSE_CODE_"):]


# ---- Identities -------------------------------------------------------------------------------

Identity = namedtuple("Identity", "cluster role name")


def parse_identity(uri):
    """The identity that a URI of a certificate names, or None if it names nobody."""
    scheme, parts = "fermata://", uri[len("fermata://"):].split("/")
    if not uri.startswith(scheme) or len(parts) != 3:
        return None
    cluster, role, name = parts
    if not _NAME.match(cluster) or role not in ROLES or not _NAME.match(name):
        return None
    return Identity(cluster, role, name)


def identity_of(prefix):
    """The identity in the certificate PREFIX.pem. ValueError if there is none."""
    # The only way of the standard library to read a certificate that is in a file.
    return _identity(ssl._ssl._test_decode_cert(prefix + ".pem"))


def _identity(certificate):
    uris = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"]
    found = parse_identity(uris[0]) if len(uris) == 1 else None
    if found is None:
        raise ValueError(f"not the certificate of a Fermata peer: its URI names are {uris}")
    return found


# ---- The server's side of the hello -------------------------------------------------------------


class Refusal(Exception):
    """A side closes: with `code`, or without a Close if that is None."""

    def __init__(self, code, reason):
        super().__init__(reason)
        self.code, self.reason = code, reason


def judge_hello(body, cluster, versions, peer):
    """The version to speak with who sends this hello. Raises Refusal. The order is section 4's."""
    hello = pb.Hello()
    try:
        hello.ParseFromString(body)
    except (_protobuf.DecodeError, UnicodeDecodeError):
        raise Refusal("BAD_FRAME", "hello: unreadable") from None
    try:
        for field, rule in (("magic", _magic), ("version_min", _versions)):
            rule(hello, field, "hello")
        version = min(hello.version_max, versions[1])
        if version < max(hello.version_min, versions[0]):
            raise Refusal("VERSION_MISMATCH", f"this server speaks {versions[0]} to {versions[1]}")
        check(hello, "hello")
    except MessageError as error:
        raise Refusal("BAD_FRAME", str(error)) from None
    if not hello.cluster == peer.cluster == cluster:
        raise Refusal("WRONG_CLUSTER", f"this is a server of cluster {cluster}")
    if (hello.role, hello.name) != (peer.role, peer.name):
        raise Refusal("WRONG_IDENTITY", "the hello is not what the certificate says")
    return version


class ServerOpening:
    """What a server makes of the first bytes of a client: `feed()` gives the version agreed on, or
    None if more bytes are needed, or raises Refusal. Whatever follows the hello stays unread."""

    def __init__(self, cluster, versions, peer):
        self.cluster, self.versions, self.peer = cluster, versions, peer
        self.decoder = FrameDecoder(LIMIT_BEFORE_HELLO)

    def feed(self, data):
        self.decoder.append(data)
        try:
            frame = self.decoder.next()
            if frame is None:
                return None
            if frame.kind in KINDS and frame.flags & MORE:
                raise Refusal("BAD_FRAME", "a chunk before the session is open")
            if frame.kind == KIND_OF["Close"]:
                parse(frame.kind, frame.body)
                raise Refusal(None, "the client has closed")
        except FrameError as error:
            raise Refusal("BAD_FRAME", error.rule) from None
        except MessageError as error:
            raise Refusal("BAD_FRAME", str(error)) from None
        if frame.kind != KIND_OF["Hello"]:
            raise Refusal("WRONG_STATE", f"kind {frame.kind} before the hello")
        return judge_hello(frame.body, self.cluster, self.versions, self.peer)


# ---- Sessions ---------------------------------------------------------------------------------

Received = namedtuple("Received", "kind correlation message")


class SessionClosed(Exception):
    """The session is over. `code` is the name of the Close's code, `reason` its words, and
    `by_peer` tells who sent it. END_OF_FILE if the connection ended without a Close."""

    def __init__(self, code, reason, by_peer=True):
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason
        self.by_peer = by_peer


def pauses(chance=random.random):
    """The pauses in seconds before connecting again: doubling, half of each by chance."""
    pause = PAUSE_MIN_SECONDS
    while True:
        yield pause / 2 + chance() * pause / 2
        pause = min(pause * 2, PAUSE_MAX_SECONDS)


def tls_context(prefix, server_side, key_log=None):
    """TLS as section 2 wants it. OSError or ssl.SSLError if a file cannot be used."""
    context = ssl.SSLContext(
        ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the name that counts is the URI
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(os.path.join(os.path.dirname(prefix) or ".", "ca.pem"))
    context.load_cert_chain(prefix + ".pem", prefix + ".key")
    context.set_alpn_protocols([ALPN])
    key_log = key_log or os.environ.get("SSLKEYLOGFILE")
    if key_log:
        # Whoever reads it can read the session: for its owner only, if we make it.
        os.close(os.open(key_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
        context.keylog_filename = key_log
    return context


class Session:
    """One side of a connection whose TLS is established. Blocking.

    Whatever keeps the session alive happens while something is received: pings are answered, and
    the connecting side pings as HelloAccepted tells. A script that waits should wait in `receive`.
    Set `answers_pings` or `keeps_alive` to False to play dead.
    """

    def __init__(self, stream, prefix, timeout=10, hello_deadline=None):
        self.stream = stream
        self.own = identity_of(prefix)
        self.peer = _identity(stream.getpeercert())
        self.timeout = timeout
        self.hello_deadline = hello_deadline or time.monotonic() + HELLO_SECONDS
        self.decoder = FrameDecoder()
        self.assembler = Assembler()
        self.is_ready = False
        self.is_closed = False
        self.answers_pings = True
        self.keeps_alive = False
        self.keepalive = self.silence = None  # seconds
        self._silent = 0.0  # seconds without a byte, as far as this process ran
        self._pings = 0
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

    def next_correlation(self):
        self._correlation += 1
        return self._correlation

    def receive_frame(self, timeout=None):
        """The next frame, whatever it is. socket.timeout after `timeout` seconds."""
        end = time.monotonic() + (self.timeout if timeout is None else timeout)
        while True:
            frame = self.decoder.next()
            if frame is not None:
                return frame
            self._read(end)

    def _read(self, end):
        """Waits until bytes have come and gives them to the decoder."""
        while True:
            wait = end - time.monotonic()
            if wait <= 0:
                raise socket.timeout("nothing came in time")
            if self.keeps_alive:
                wait = min(wait, self.keepalive / 4)
            began = time.monotonic()
            self.stream.settimeout(max(wait, 0.001))
            try:
                data = self.stream.recv(65536)
            except socket.timeout:
                # No longer than the wait: what is above it this process did not run.
                self._silent += min(wait, time.monotonic() - began)
                if self.keeps_alive:
                    self._on_silence()
                continue
            self._silent, self._pings = 0.0, 0
            if not data:
                raise SessionClosed("END_OF_FILE", "the peer has closed without a Close")
            self.decoder.append(data)
            return

    def _on_silence(self):
        if self._silent >= self.silence:
            self.fail("TIMEOUT", f"nothing was heard for {self.silence:g} s")
        if self._silent >= (self._pings + 1) * self.keepalive:
            self._pings += 1
            self.send(pb.Ping(nonce=self._pings))

    def fail(self, code, reason):
        """Sends Close for a rule that the peer has broken, and raises SessionClosed."""
        try:
            self.close(code, reason)
        except OSError:
            pass
        raise SessionClosed(code, reason, by_peer=False)

    def receive(self, timeout=None):
        """The next message that is no ping or pong. SessionClosed if the session ends."""
        end = time.monotonic() + (self.timeout if timeout is None else timeout)
        while True:
            try:
                frame = self._next_message(end)
                if frame is None:
                    continue
                message = parse(frame.kind, frame.body)
            except FrameError as error:
                self.fail("BAD_FRAME", f"frame: {error.rule}")
            except MessageError as error:
                self.fail("BAD_FRAME", str(error))
            name = message.DESCRIPTOR.name
            if name == "Ping":
                if self.answers_pings:
                    self.send(pb.Pong(nonce=message.nonce), frame.correlation)
            elif name == "Close":
                self.is_closed = True
                raise SessionClosed(close_code_name(message.code), for_people(message.reason))
            elif name != "Pong":
                return Received(name, frame.correlation, message)

    def _next_message(self, end):
        """A whole message as one frame, or None if there was a chunk or something to ignore."""
        frame = self.receive_frame(max(0, end - time.monotonic()))
        if not self.is_ready:
            awaited = "HelloAccepted" if self.peer.role == "server" else "Hello"
            if frame.kind in KINDS and frame.flags & MORE:
                self.fail("BAD_FRAME", "a chunk before the session is open")
            if frame.kind not in (KIND_OF[awaited], KIND_OF["Close"]):
                self.fail("WRONG_STATE", f"kind {frame.kind} instead of {awaited}")
        elif frame.kind not in KINDS:
            if frame.flags & MANDATORY:
                self.fail("UNKNOWN_KIND", f"kind {frame.kind}")
            return None  # ignored, a chunk or not, even between the chunks of another
        elif KINDS[frame.kind] in (pb.Hello, pb.HelloAccepted):
            self.fail("WRONG_STATE", f"kind {frame.kind} in an open session")
        elif (frame.kind, self.peer.role, self.own.role) not in DIRECTIONS:
            self.fail("NOT_PERMITTED", f"kind {frame.kind} from a {self.peer.role}")
        return self.assembler.add(frame)

    def request(self, message, timeout=None):
        """Sends a message and waits for the answer; other messages meanwhile are dropped."""
        correlation = self.next_correlation()
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
        if self.peer.role != "server":
            self.fail("WRONG_IDENTITY", f"{self.peer.role} {self.peer.name} is no server")
        if self.peer.cluster != cluster:
            self.fail("WRONG_CLUSTER", f"a server of cluster {self.peer.cluster}, not {cluster}")
        fields = dict(
            magic=MAGIC, version_min=VERSIONS[0], version_max=VERSIONS[1], cluster=cluster,
            role=role, name=name, instance=os.urandom(16), software="fermata_wire.py")
        fields.update(changes)
        try:
            self.send(pb.Hello(**fields))
        except OSError:
            pass  # the alert that says why is still to be read
        try:
            accepted = self.receive(self.hello_deadline - time.monotonic()).message
        except socket.timeout:
            self.fail("TIMEOUT", f"no answer to the hello within {HELLO_SECONDS} s")
        if not fields["version_min"] <= accepted.version <= fields["version_max"]:
            self.fail("VERSION_MISMATCH", f"the server speaks version {accepted.version}, this "
                      f"client {fields['version_min']} to {fields['version_max']}")
        if accepted.server != self.peer.name:
            self.fail("WRONG_IDENTITY", f"server {self.peer.name} says it is {accepted.server}")
        self._open(accepted)
        self.keeps_alive = True
        return accepted

    def _open(self, accepted):
        self.decoder.limit = LIMIT
        self.keepalive = accepted.keepalive_milliseconds / 1000
        self.silence = accepted.silence_milliseconds / 1000
        self.is_ready = True

    # -- server side

    def receive_hello(self):
        return self.receive().message

    def accept_hello(self, **changes):
        fields = dict(
            version=1, server=self.own.name, is_leader=True, term=1, keepalive_milliseconds=1000,
            silence_milliseconds=3000, servers=[], software="fermata_wire.py")
        fields.update(changes)
        accepted = pb.HelloAccepted(**fields)
        self.send(accepted)
        self._open(accepted)

    def close(self, code="NORMAL", reason=""):
        """Sends Close, unless the session is closed by either side, and closes the connection."""
        if not self.is_closed:
            self.is_closed = True
            self.send(pb.Close(code=pb.CloseCode.Value("CLOSE_CODE_" + code), reason=reason))
        self.close_connection()

    def close_connection(self):
        try:
            self.stream.settimeout(1)
            self.stream.unwrap()
        except (OSError, ValueError):
            pass
        self.stream.close()


def connect(host, port, prefix, timeout=10, key_log=None):
    """Connects with the credentials PREFIX.pem, PREFIX.key and ca.pem beside them.

    `key_log` (or SSLKEYLOGFILE) is a file for the TLS secrets, for Wireshark. Raises ssl.SSLError if
    TLS fails, SessionClosed if the server speaks something else.
    """
    deadline = time.monotonic() + HELLO_SECONDS
    context = tls_context(prefix, False, key_log)
    plain = socket.create_connection((host, port), HELLO_SECONDS)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        plain.settimeout(max(0.001, deadline - time.monotonic()))
        stream = context.wrap_socket(plain)
        if stream.selected_alpn_protocol() != ALPN:
            raise SessionClosed(
                "VERSION_MISMATCH", f"the server does not agree to {ALPN} (ALPN)", by_peer=False)
        return Session(stream, prefix, timeout, deadline)
    except BaseException:
        plain.close()
        raise


class Listener:
    """Accepts connections one by one, as the server whose credentials PREFIX names."""

    def __init__(self, prefix, host="127.0.0.1", port=0):
        self.prefix = prefix
        self.context = tls_context(prefix, True)
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
