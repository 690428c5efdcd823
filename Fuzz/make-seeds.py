#!/usr/bin/env python3
"""Writes first inputs for a fuzz target, from what the tests and the specification hold.

    Fuzz/make-seeds.py TARGET DIRECTORY

The kept corpus (Fuzz/corpus/TARGET) grew from these; they are needed again only when an input's
layout changes, which is told at the top of each target's source.
"""
import json
import pathlib
import re
import struct
import sys
import textwrap

ROOT = pathlib.Path(__file__).resolve().parent.parent


def transcripts():
    """The recorded lines of the monitor, in two lists."""
    text = (ROOT / "Tests/QMPTests/Transcripts.swift").read_text(encoding="utf-8")
    for part in re.split(r"^let \w+", text, flags=re.MULTILINE)[1:]:
        yield re.findall(r'^    ##"(.*)"##,$', part, flags=re.MULTILINE)


def monitor():
    for lines in transcripts():
        for index, line in enumerate(lines):
            raw = line.encode() + b"\r\n"
            yield bytes([0x5F, 0, 2]) + raw
            yield bytes([0x30, 0, 2]) + raw
            if index >= 2:
                pair = "\r\n".join(lines[index - 1:index + 1]).encode() + b"\r\n"
                yield bytes([0x5F, 0, 3]) + pair
        start = ("\r\n".join(lines[:2]) + "\r\n").encode()
        more = b'{"return": {}, "id": 1}\r\n{"error": {"class": "C", "desc": "d"}, "id": 2}\n'
        yield bytes([0x43, 255 * len(start) // len(start + more) + 1, 0]) + start + more
        yield bytes([0x63, 128, 5]) + more
    for text in (
            b"[" * 66 + b"]" * 66, b"[" * 64 + b"]" * 64,
            b'{"a":[1,-0,0.5,1e9,9223372036854775808,"\\ud83d\\ude00\\/"]}'):
        yield bytes([0x30, 0, 0]) + text


def guest_agent():
    stray = b'{"error": {"class": "GenericError", "desc": "JSON parse error, stray 0xFF"}}\n'
    sync = b'\xff{"return": 1, "id": 1}\n'
    texts = [
        stray + sync, sync, b'\xff{"return": 1}\n', b'\xff{"return": 7, "id": 7}\n' + sync,
        b'{"return": {}, "id": 2}\n', b'{"return": {}, "id": 1}\n{"return": {}, "id": 2}\n',
        b'{"return": {}}\n', b'{"return": 1795475673289298000, "id": 2}\r\n',
        b'{"error": {"class": "CommandNotFound", "desc": "d"}, "id": 2}\n',
        b'{"id": 2}\n', b'\xff{"return": {}, "id": 2}\n' + sync, b'{"return": {}, "id": 2',
        sync + b'{"return": {"a": [1, 2.5, "\\u00e9"]}, "id": 2}\n', b"x\n", b"\n\r\n",
        sync + b'\xff{"return": 3, "id": 3}\n{"return": {}, "id": 4}\n', b"x" * 70 + b"\n",
    ]
    for text in texts:
        for kind in range(8):
            yield bytes([(0x40, 0x20, 0)[kind % 3] | kind, 0, 3, 0]) + text
        for kind in (0x58, 0x4A, 0x5D):
            yield bytes([kind, 128, 2, 0]) + text


def host_files():
    """The host files of the tests, and the one of the README."""
    for name in ("HostFileTests", "ProblemTests", "PlacesTests"):
        path = ROOT / f"Tests/HostConfigurationTests/{name}.swift"
        text = path.read_text(encoding="utf-8")
        for block in re.findall(r'"""\n(.*?)\n *"""', text, flags=re.DOTALL):
            yield textwrap.dedent(block)
        for literal in re.findall(r'^ *"((?:[^"\\]|\\.)*)",?$', text, flags=re.MULTILINE):
            if not literal.startswith("h:"):
                yield re.sub(r"\\u\{(\w+)\}", lambda m: chr(int(m[1], 16)), literal).replace(
                    "\\n", "\n").replace('\\"', '"').replace("\\t", "\t").replace("\\r", "\r")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    yield re.search(r"```yaml\n(.*?)```", readme, flags=re.DOTALL)[1]


def host_file():
    for text in host_files():
        raw = text.encode()
        yield bytes([0x7C]) + raw
        # What follows the two lines that the harness may put before it.
        rest = re.sub(r"^(host: a|hypervisor: \{path: /q, version: v\})\n", "", text, flags=re.M)
        if rest != text:
            yield bytes([0xE1]) + rest.encode()
    full = next(text for text in host_files() if "memoryDirectory: /dev/shm/fermata-a" in text)
    guest = full[full.index("set: db\n"):]
    # Two spaces less: the harness begins the guest at the margin.
    guest = re.sub(r"^    ", "  ", guest, flags=re.M).replace("memory: 256MiB", "vcpus: 1")
    yield bytes([0x7F]) + guest.encode()
    for part in re.split(r"\n  (?=\w)", guest):
        yield bytes([3]) + part.encode()
    for text in (
            "disks: [{path: /d, format: raw, readOnly: true}]}]", "vcpus: 2, cpu: max}]",
            'nics: [{tap: t, bridge: b, mac: "52:54:00:00:00:01"}, {user: }]}]',
            'nics: [{user: {forwards: ["127.0.0.1:1-:2"]}}]}]', "guestAgent: false}]",
            'kernel: /k, initrd: /i, commandLine: "a\\0b\\n"}]', 'arguments: ["-S", a]}]',
            'probe: {tcp: "[::1]:1", timeout: 5s}}]', "set: s, updateDomain: 4}]",
            "disks: &d [], nics: *d}]", "a: &a [x, x], b: &b [*a, *a], c: [*b, *b]}]"):
        yield bytes([0x62]) + text.encode()


def vectors(name):
    text = (ROOT / f"proto-spec/vectors/{name}.json").read_text(encoding="utf-8")
    return json.loads(text)["vectors"]


def frame(kind, body, flags=0, correlation=0):
    return struct.pack(">IHHQ", 12 + len(body), kind, flags, correlation) + body


def frames():
    for vector in vectors("frames"):
        raw = bytes.fromhex(vector["bytes"])
        for steering in (0x10, 0x14, 0x1A):
            yield bytes([steering, 0, 3]) + raw
    for vector in vectors("messages"):
        body = bytes.fromhex(vector["body"])
        yield bytes([0xE0, vector["kind"], 0]) + body
        if len(body) <= 64:
            yield bytes([0x1D, 0, 2]) + frame(vector["kind"], body, 0, 7)
    for vector in vectors("session"):
        yield bytes([0x11, 0, 1]) + bytes.fromhex(vector["bytes"])
    for size in (51, 52, 53):  # around the limit of 64
        yield bytes([0x12, 0, 1]) + frame(42, bytes(size))


def session():
    def event(kind, argument=0):
        return bytes([argument << 3 | kind])

    def raw(data):
        return b"".join(
            event(0) + bytes([len(piece)]) + piece
            for piece in (data[i:i + 200] for i in range(0, len(data), 200)))

    steps = vectors("session")
    for side in range(32):
        for argument in range(0, 32):
            yield bytes([side | 0xE0, 0]) + event(1, argument % 24) + event(2, argument)
    for side in (0, 1, 8, 9, 16, 17, 20, 21, 24, 25):
        for argument in range(0, 32, 3):
            yield bytes([side | 0x60, 3]) + event(3) + event(4, argument) + event(5, argument)
            yield bytes([side | 0x20, 2]) + event(3) + event(7, argument) + event(1, 4) + event(2, 9)
    for client, mode in (("client", 0), ("server", 1)):
        data = b"".join(bytes.fromhex(s["bytes"]) for s in steps if s["from"] == client)
        yield bytes([mode | 0x40, 2]) + raw(data)
    for vector in vectors("messages"):
        body = bytes.fromhex(vector["body"])
        if len(body) > 200:
            continue
        kind = vector["kind"]
        # To a side that may get it, ready but for the handshake's own.
        for side in ((0,) if kind == 1 else (1,) if kind == 2 else (16, 18, 20, 17, 19, 21)):
            yield bytes([side | 0x40, 2]) + event(6, 0) + bytes([kind, 1, len(body)]) + body
            if len(body) > 40 and kind > 2:
                cut = len(body) // 2
                yield (bytes([side, 2]) + event(6, 1) + bytes([kind, 1, cut]) + body[:cut]
                       + event(1, 9) + event(6) + bytes([kind, 1, len(body) - cut]) + body[cut:])


TARGETS = {
    "monitor": monitor, "guest-agent": guest_agent, "host-file": host_file,
    "frames": frames, "session": session,
}


def main(arguments):
    if len(arguments) != 2 or arguments[0] not in TARGETS:
        print(__doc__ + "TARGET: " + " ".join(TARGETS), file=sys.stderr)
        return 64
    directory = pathlib.Path(arguments[1])
    directory.mkdir(parents=True, exist_ok=True)
    count = 0
    for count, seed in enumerate(TARGETS[arguments[0]](), start=1):
        (directory / f"seed-{count:03}").write_bytes(seed)
    print(f"{count} seeds in {directory}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
