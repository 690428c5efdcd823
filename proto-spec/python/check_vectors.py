"""Reads every vector of proto-spec/vectors/ with the independent code of fermata_wire.py.

Exits 0 and says how many were read, or 1 with each that did not come out as written.
"""

import json
import os
import sys

from google.protobuf import json_format

import fermata_wire as wire

VECTORS = os.path.join(wire.PROTO_DIRECTORY, "vectors")
failures = []


def expect(name, found, expected, what):
    if found != expected:
        failures.append(f"{name}: {what} is {found!r}, not {expected!r}")


def load(file):
    with open(os.path.join(VECTORS, file), encoding="utf-8") as stream:
        return json.load(stream)["vectors"]


def as_json(frame):
    return {
        "kind": frame.kind, "flags": frame.flags, "correlation": str(frame.correlation),
        "body": frame.body.hex()}


def check_frames(vector):
    decoder = wire.FrameDecoder(vector["limit"])
    assembler = wire.Assembler()
    frames, messages, error = [], [], None
    data = bytes.fromhex(vector["bytes"])
    try:
        for index in range(len(data)):  # byte by byte: a decoder must not care
            decoder.append(data[index:index + 1])
            frame = decoder.next()
            if frame is None:
                continue
            frames.append(as_json(frame))
            whole = assembler.add(frame)
            if whole is not None:
                messages.append(as_json(whole))
    except wire.FrameError as found:
        error = found.rule
    name = vector["name"]
    expect(name, frames, vector["frames"], "frames")
    expect(name, messages, vector["messages"], "messages")
    expect(name, error, vector.get("error"), "error")
    if error is None:
        again = b"".join(
            wire.encode_frame(
                frame["kind"], bytes.fromhex(frame["body"]), int(frame["correlation"]),
                frame["flags"]) for frame in vector["frames"])
        expect(name, data.startswith(again), True, "encoded again")


def check_message(vector):
    name, body = vector["name"], bytes.fromhex(vector["body"])
    try:
        message = wire.parse(vector["kind"], body)
    except wire.MessageError as error:
        expect(name, error.field, vector.get("field"), "field at fault")
        return
    expect(name, "field" in vector, False, "refused")
    found = json_format.MessageToDict(message, preserving_proto_field_name=True)
    expect(name, found, vector.get("json"), "JSON")
    expect(name, message.SerializeToString(deterministic=True).hex(), body.hex(), "encoded again")


def check_session(steps):
    decoders = {"client": wire.FrameDecoder(), "server": wire.FrameDecoder()}
    for step in steps:
        decoder = decoders[step["from"]]
        decoder.append(bytes.fromhex(step["bytes"]))
        frame = decoder.next()
        name = f"session: {step['what']}"
        message = wire.parse(frame.kind, frame.body)
        expect(name, decoder.next(), None, "rest")
        expect(name, message.DESCRIPTOR.name, step["message"], "message")
        expect(name, frame.correlation, step["correlation"], "correlation")
        expect(name, wire.encode_message(message, frame.correlation).hex(), step["bytes"], "bytes")
        if step["message"] in ("Hello", "HelloAccepted"):
            for each in decoders.values():
                each.limit = wire.LIMIT if step["message"] == "HelloAccepted" else each.limit


def check_identity(vector):
    found = wire.parse_identity(vector["uri"])
    expect(f"identity: {vector['name']}", found and found._asdict(), vector["identity"], "identity")


def check_handshake(vector):
    data = bytes.fromhex(vector["bytes"])
    expected = {key: vector.get(key) for key in ("outcome", "version", "code", "field")}
    for size in (1, max(1, len(data))):  # byte by byte, and all at once
        opening = wire.ServerOpening("demo", (1, 1), wire.parse_identity(vector["peer"]))
        found = dict.fromkeys(expected) | {"outcome": "waits"}
        try:
            for start in range(0, len(data), size):
                version = opening.feed(data[start:start + size])
                if version is not None:
                    found.update(outcome="accepted", version=version)
                    break
        except wire.Refusal as refusal:
            found.update(outcome="close" if refusal.code else "closed", code=refusal.code)
            if vector.get("field") and refusal.reason.startswith(f"{vector['field']}: "):
                found["field"] = vector["field"]
        expect(f"handshake: {vector['name']}", found, expected, f"outcome {size} at a time")


def main():
    frames, messages, session = load("frames.json"), load("messages.json"), load("session.json")
    identities, handshakes = load("identities.json"), load("handshakes.json")
    for vector in frames:
        check_frames(vector)
    for vector in messages:
        check_message(vector)
    check_session(session)
    for vector in identities:
        check_identity(vector)
    for vector in handshakes:
        check_handshake(vector)
    codes = {vector["code"] for vector in handshakes if "code" in vector}
    expect("handshakes", codes, {
        "BAD_FRAME", "VERSION_MISMATCH", "WRONG_CLUSTER", "WRONG_IDENTITY",
        "WRONG_STATE"}, "codes with a vector")
    seen = {vector["kind"] for vector in messages if "json" in vector}
    expect("messages", sorted(seen), sorted(wire.KINDS), "kinds with a vector")
    for failure in failures:
        print(f"check_vectors: {failure}", file=sys.stderr)
    if failures:
        return 1
    print(f"read {len(frames)} frame, {len(messages)} message, {len(session)} session, "
          f"{len(identities)} identity and {len(handshakes)} handshake vectors")
    return 0


if __name__ == "__main__":
    sys.exit(main())
