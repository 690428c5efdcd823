import Fleet
import Foundation
import SwiftProtobuf
import Testing

@testable import Wire

/// The files of proto-spec/vectors/: made here, compared here with what is committed, and read by
/// proto-spec/python/check_vectors.py, which shares no code with this.
///
/// `FERMATA_WRITE_VECTORS=1 swift test --filter VectorTests` writes them anew.
@Suite("Golden vectors")
struct VectorTests {
    @Test("the committed frame vectors are what this code says")
    func frameFile() throws {
        try compare(
            "frames.json", about: "Bytes of a stream, and the frames and messages in them",
            FrameVectors.all.map { $0.json() })
    }

    @Test("the committed message vectors are what this code says")
    func messageFile() throws {
        var vectors: [[String: Any]] = []
        for (name, message) in Samples.messages {
            var options = JSONEncodingOptions()
            options.preserveProtoFieldNames = true
            let text = try message.schemaMessage.jsonUTF8Bytes(options: options) as [UInt8]
            vectors.append([
                "name": name, "kind": Int(message.kind.rawValue),
                "body": hex(message.encodedBody()),
                "json": try JSONSerialization.jsonObject(with: Data(text)),
            ])
        }
        for bad in BadMessages.all {
            vectors.append([
                "name": bad.name, "kind": Int(bad.kind.rawValue), "body": hex(bad.body),
                "field": bad.field,
            ])
        }
        try compare(
            "messages.json",
            about: "Bodies: valid with their JSON, invalid with the field at fault",
            vectors)
    }

    /// A whole session, played by two machines: the one of README.md.
    @Test("the committed session is what two machines say to each other")
    func sessionFile() throws {
        var pair = SessionMachineTests.Pair()
        var steps: [[String: Any]] = []
        func record(_ what: String) throws {
            for (side, actions) in [("client", pair.clientSaw), ("server", pair.serverSaw)] {
                for case .send(let bytes) in actions {
                    var decoder = FrameDecoder(limit: Limits.frameByteCountMax)
                    decoder.append(bytes)
                    let frame = try #require(try decoder.next())
                    let kind = try #require(MessageKind(rawValue: frame.kind))
                    let name = "\(kind)".prefix(1).uppercased() + "\(kind)".dropFirst()
                    steps.append([
                        "from": side, "bytes": hex(bytes), "message": name, "what": what,
                        "correlation": Int(frame.correlation),
                    ])
                }
            }
            pair.clientSaw = []
            pair.serverSaw = []
        }
        pair.start()
        try record("the session opens")
        _ = pair.client.send(.hostReport(Samples.hostReport), correlation: 1)
        pair.settle()
        try record("the agent reports its host")
        _ = pair.server.send(.hostReportCommitted(index: 300), correlation: 1)
        pair.settle()
        try record("the report is committed")
        pair.now += 1_000
        pair.server.tick(at: pair.now)
        pair.settle()
        // The order in time: the ping comes before its answer.
        let pong = pair.clientSaw
        pair.clientSaw = []
        try record("after a second of silence the server pings")
        pair.clientSaw = pong
        try record("the agent answers the ping")
        pair.server.close(.shuttingDown, "stopped by an operator")
        pair.settle()
        try record("the server is stopped")
        #expect(steps.count == 7)
        try compare("session.json", about: "One session, frame by frame, in order", steps)
    }

    // MARK: - Files

    private func compare(
        _ file: String, about: String, _ vectors: [[String: Any]],
        sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
            .deletingLastPathComponent().deletingLastPathComponent()
        let url = root.appendingPathComponent("proto-spec/vectors/\(file)")
        var made = try JSONSerialization.data(
            withJSONObject: ["about": about, "vectors": vectors],
            options: [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes])
        made.append(UInt8(ascii: "\n"))
        if ProcessInfo.processInfo.environment["FERMATA_WRITE_VECTORS"] == "1" {
            try made.write(to: url)
        }
        // Compared as values: how Foundation lays out JSON differs between its versions.
        let committed = try JSONSerialization.jsonObject(with: try Data(contentsOf: url))
        let again = try JSONSerialization.jsonObject(with: made)
        #expect(
            (committed as? NSDictionary) == (again as? NSDictionary),
            "\(file) differs: FERMATA_WRITE_VECTORS=1 swift test --filter VectorTests",
            sourceLocation: sourceLocation)
    }
}

func hex(_ bytes: [UInt8]) -> String {
    bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
}

/// A stream's bytes; what comes of them is what the Swift decoder says.
struct FrameVector {
    var name: String
    var limit = Limits.frameByteCountBeforeHelloMax
    var bytes: [UInt8]

    func json() -> [String: Any] {
        var decoder = FrameDecoder(limit: limit)
        var assembler = ChunkAssembler()
        var frames: [[String: Any]] = []
        var messages: [[String: Any]] = []
        var result: [String: Any] = ["name": name, "limit": limit, "bytes": hex(bytes)]
        decoder.append(bytes)
        do {
            while let frame = try decoder.next() {
                frames.append(describe(frame))
                if let whole = try assembler.add(frame) { messages.append(describe(whole)) }
            }
        } catch {
            result["error"] = rule(error)
        }
        result["frames"] = frames
        result["messages"] = messages
        return result
    }

    private func describe(_ frame: Frame) -> [String: Any] {
        [
            "kind": Int(frame.kind), "flags": Int(frame.flags.rawValue),
            "correlation": "\(frame.correlation)", "body": hex(frame.body),
        ]
    }

    private func rule(_ error: FrameError) -> String {
        switch error {
        case .tooShort: "tooShort"
        case .tooLong: "tooLong"
        case .kindZero: "kindZero"
        case .unknownFlags: "unknownFlags"
        case .emptyChunk: "emptyChunk"
        case .interleaved: "interleaved"
        case .messageTooLong: "messageTooLong"
        }
    }
}

enum FrameVectors {
    private static func frame(
        _ kind: UInt16, _ flags: Frame.Flags = [], _ correlation: UInt64 = 0, _ body: [UInt8] = []
    ) -> [UInt8] {
        encodeFrame(Frame(kind: kind, flags: flags, correlation: correlation, body: body))
    }

    static let all: [FrameVector] = [
        FrameVector(name: "nothing", bytes: []),
        FrameVector(name: "shortest frame", bytes: frame(42)),
        FrameVector(
            name: "every field",
            bytes: frame(0x0102, .mandatory, 0x0A0B_0C0D_0E0F_1011, [0xAA, 0xBB])),
        FrameVector(name: "largest correlation", bytes: frame(4, [], .max, [1])),
        FrameVector(
            name: "two frames and the start of a third",
            bytes: frame(4, [], 1, [1]) + frame(5, [], 2, [2, 3]) + [0, 0, 0]),
        FrameVector(name: "cut in the header", bytes: Array(frame(4, [], 1, [1, 2]).dropLast(6))),
        FrameVector(name: "cut in the body", bytes: Array(frame(4, [], 1, [1, 2]).dropLast())),
        FrameVector(
            name: "exactly the limit", limit: 20, bytes: frame(1, [], 0, [1, 2, 3, 4, 5, 6, 7, 8])),
        FrameVector(
            name: "one byte above the limit", limit: 20,
            bytes: frame(1, [], 0, [1, 2, 3, 4, 5, 6, 7, 8, 9])),
        FrameVector(name: "length of 11", bytes: [0, 0, 0, 11]),
        FrameVector(name: "length of 0", bytes: [0, 0, 0, 0]),
        FrameVector(name: "length of 4 GiB", bytes: [0xFF, 0xFF, 0xFF, 0xFF]),
        FrameVector(
            name: "a good frame, then a length that is too large",
            bytes: frame(4, [], 1, [1]) + [0x7F, 0, 0, 0]),
        FrameVector(name: "a web client", bytes: Array("GET / HTTP/1.1\r\n".utf8)),
        FrameVector(name: "kind 0", bytes: [0, 0, 0, 12] + [UInt8](repeating: 0, count: 12)),
        FrameVector(
            name: "unknown flag", bytes: frame(4, Frame.Flags(rawValue: 4), 0, [])),
        FrameVector(
            name: "three chunks",
            bytes: frame(16, .more, 5, [1]) + frame(16, .more, 5, [2, 3]) + frame(16, [], 5, [4])),
        FrameVector(
            name: "last chunk empty", bytes: frame(16, .more, 5, [1]) + frame(16, [], 5)),
        FrameVector(
            name: "a ping between chunks",
            bytes: frame(16, .more, 5, [1]) + frame(4, [], 0, [9]) + frame(16, [], 5, [2])),
        FrameVector(
            name: "another kind between chunks",
            bytes: frame(16, .more, 5, [1]) + frame(17, [], 5, [9])),
        FrameVector(
            name: "another correlation between chunks",
            bytes: frame(16, .more, 5, [1]) + frame(16, [], 6, [2])),
        FrameVector(
            name: "a ping in chunks between chunks",
            bytes: frame(16, .more, 5, [1]) + frame(4, .more, 0, [9])),
        FrameVector(name: "an empty chunk with more to come", bytes: frame(16, .more, 5)),
    ]
}
