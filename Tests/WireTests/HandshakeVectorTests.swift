import Fleet
import Foundation
import Testing

@testable import Wire

/// Vectors that were written from the specification alone, beside the Python peer, and are read here.
@Suite("Vectors of names and first bytes")
struct HandshakeVectorTests {
    private struct File<Vector: Decodable>: Decodable { var vectors: [Vector] }

    private struct IdentityVector: Decodable {
        struct Parts: Decodable {
            var cluster: String
            var role: String
            var name: String
        }
        var name: String
        var uri: String
        var identity: Parts?
    }

    private struct HandshakeVector: Decodable {
        var name: String
        var peer: String
        var bytes: String
        var outcome: String
        var code: String?
        var field: String?
        var version: UInt32?
    }

    private func read<Vector: Decodable>(_ file: String) throws -> [Vector] {
        let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
            .deletingLastPathComponent().deletingLastPathComponent()
        let data = try Data(contentsOf: root.appendingPathComponent("proto-spec/vectors/\(file)"))
        return try JSONDecoder().decode(File<Vector>.self, from: data).vectors
    }

    @Test("a certificate's URI is an identity or nobody's")
    func identities() throws {
        let vectors: [IdentityVector] = try read("identities.json")
        #expect(vectors.count > 50)
        for vector in vectors {
            let found = PeerIdentity(uri: vector.uri)
            #expect(found?.cluster == vector.identity?.cluster, "\(vector.name)")
            #expect(found?.role.rawValue == vector.identity?.role, "\(vector.name)")
            #expect(found?.name == vector.identity?.name, "\(vector.name)")
        }
    }

    @Test("a client's first bytes come to the same, in one piece or byte by byte")
    func handshakes() throws {
        let vectors: [HandshakeVector] = try read("handshakes.json")
        #expect(vectors.count > 80)
        for vector in vectors {
            let bytes = try #require(unhex(vector.bytes))
            for pieceByteCount in [bytes.count + 1, 1] {
                try check(vector, bytes, pieceByteCount)
            }
        }
    }

    private func check(
        _ vector: HandshakeVector, _ bytes: [UInt8], _ pieceByteCount: Int
    ) throws {
        let peer = try #require(PeerIdentity(uri: vector.peer), "\(vector.name)")
        var machine = SessionMachine(server: Samples.server, peer: peer)
        machine.start(at: 0)
        var seen = Seen()
        var isAccepted = false
        var start = 0
        while start < bytes.count, machine.wantsBytes {
            let end = min(bytes.count, start + pieceByteCount)
            machine.receive(Array(bytes[start..<end]), at: 0)
            start = end
            let now = drain(&machine)
            seen.sentKinds += now.sentKinds
            seen.end = seen.end ?? now.end
            guard machine.state == .deciding else { continue }
            isAccepted = true
            break
        }
        let label: Comment = "\(vector.name), pieces of \(pieceByteCount)"
        switch vector.outcome {
        case "accepted":
            #expect(isAccepted && machine.version == vector.version, label)
        case "close":
            guard case .closedByUs(let code, let reason) = seen.end else {
                Issue.record("not closed: \(label)")
                return
            }
            #expect(code.name == vector.code && seen.sentKinds == [.close], label)
            if let field = vector.field { #expect(reason.hasPrefix(field), label) }
        case "closed":
            guard case .closedByPeer = seen.end else {
                Issue.record("not closed by the peer: \(label)")
                return
            }
            #expect(seen.sentKinds.isEmpty, label)
        case "waits":
            #expect(seen == Seen() && machine.state == .opening, label)
        default: Issue.record("unknown outcome \(vector.outcome)")
        }
    }

    private func unhex(_ text: String) -> [UInt8]? {
        var bytes: [UInt8] = []
        var digits = text[...]
        while digits.count >= 2 {
            guard let byte = UInt8(digits.prefix(2), radix: 16) else { return nil }
            bytes.append(byte)
            digits = digits.dropFirst(2)
        }
        return digits.isEmpty ? bytes : nil
    }
}
