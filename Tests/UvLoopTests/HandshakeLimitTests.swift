import Edges
import Testing

@testable import UvLoop

@Suite("What a stranger may send")
struct HandshakeLimitTests {
    private func record(_ kind: UInt8, _ body: [UInt8]) -> [UInt8] {
        [kind, 3, 1, UInt8(body.count >> 8), UInt8(body.count & 0xFF)] + body
    }

    private func message(_ length: Int, sent: Int? = nil) -> [UInt8] {
        [1, UInt8(length >> 16), UInt8(length >> 8 & 0xFF), UInt8(length & 0xFF)]
            + [UInt8](repeating: 0, count: sent ?? length)
    }

    /// In pieces of `size` bytes: what it says of each, up to the first that is too much.
    private func judge(_ bytes: [UInt8], size: Int) -> (isFine: Bool, limit: HandshakeLimit) {
        var limit = HandshakeLimit()
        var rest = bytes[...]
        while !rest.isEmpty {
            let piece = Array(rest.prefix(size))
            rest = rest.dropFirst(size)
            guard piece.withUnsafeBytes({ limit.accept($0) }) else { return (false, limit) }
        }
        return (true, limit)
    }

    @Test(
        "a first message is judged by the length it tells, however it is cut",
        arguments: [1, 3, 5, 9, 20_000])
    func lengths(size: Int) {
        let max = HandshakeLimit.firstMessageByteCountMax
        let honest = judge(record(22, message(517)), size: size)
        #expect(honest.isFine && honest.limit.hasFirstMessage)
        let partial = judge(record(22, message(max, sent: 100)), size: size)
        #expect(partial.isFine && !partial.limit.hasFirstMessage)
        #expect(!judge(record(22, message(max + 1, sent: 0)), size: size).isFine)
        #expect(!judge(record(22, message(131_396, sent: 5)), size: size).isFine)
        // One byte of it in each record.
        let pieces = message(131_396, sent: 0).flatMap { record(22, [$0]) }
        #expect(!judge(pieces, size: size).isFine)
        // The second hello that a server may ask for.
        let second =
            record(22, message(517)) + record(20, [1]) + record(22, message(131_396, sent: 0))
        #expect(!judge(second, size: size).isFine)
    }

    @Test("what is no handshake is for OpenSSL to judge, and all of it is bounded")
    func others() {
        #expect(judge(record(21, [2, 40]), size: 4).limit.hasFirstMessage)
        #expect(judge([22, 3, 1, 0xFF, 0xFF], size: 4).limit.hasFirstMessage)
        #expect(!judge(record(22, []), size: 4).limit.hasFirstMessage)
        let encrypted = record(22, message(517)) + record(23, [UInt8](repeating: 7, count: 9_000))
        #expect(judge(encrypted, size: 1_000).isFine)
        #expect(!judge(encrypted + encrypted, size: 1_000).isFine)
        let empty = [[UInt8]](repeating: record(22, []), count: 4_000).flatMap { $0 }
        #expect(!judge(empty, size: 1_000).isFine)
    }

    @Test("a server closes on who announces too much, or never comes to an end")
    func server() throws {
        try withCluster { cluster, loop in
            let context = try cluster.context(.server, "server-s1")
            for bytes in [
                record(22, message(131_396, sent: 5)),
                record(22, message(4_095, sent: 0))
                    + [[UInt8]](repeating: record(22, []), count: 4_000).flatMap { $0 },
            ] {
                let side = Side()
                let (first, second) = try streamPair(on: loop)
                side.start(context, over: first, on: loop)
                second.write(bytes)
                run(loop) { side.result != nil }
                #expect(side.error == .sendsTooMuch)
            }
        }
    }
}
