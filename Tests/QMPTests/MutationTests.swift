import Testing

@testable import QMP

/// SplitMix64: a failing run is the same run again.
struct SeededGenerator: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var value = state
        value = (value ^ (value >> 30)) &* 0xBF58_476D_1CE4_E5B9
        value = (value ^ (value >> 27)) &* 0x94D0_49BB_1331_11EB
        return value ^ (value >> 31)
    }
}

/// Changes, removes, repeats and inserts bytes at one to eight places.
func mutated(_ bytes: [UInt8], _ random: inout SeededGenerator) -> [UInt8] {
    let interesting = Array("{}[]\",:\\u0123-+.eE\n\r ~x".utf8) + [0xFF, 0x00, 0xC3, 0xED, 0x80]
    var bytes = bytes
    for _ in 0..<Int.random(in: 1...8, using: &random) {
        guard !bytes.isEmpty else { return bytes }
        let index = Int.random(in: 0..<bytes.count, using: &random)
        let end = min(bytes.count, index + Int.random(in: 1...20, using: &random))
        switch Int.random(in: 0..<5, using: &random) {
        case 0: bytes[index] = UInt8.random(in: 0...255, using: &random)
        case 1: bytes[index] = interesting.randomElement(using: &random) ?? 0
        case 2: bytes.removeSubrange(index..<end)
        case 3: bytes.insert(contentsOf: bytes[index..<end], at: index)
        default: bytes.insert(interesting.randomElement(using: &random) ?? 0, at: index)
        }
    }
    return bytes
}

@Suite("Mutations")
struct MutationTests {
    @Test("of JSON never crash the parser, and what it takes it writes and reads the same")
    func json() throws {
        var random = SeededGenerator(state: 1)
        let seeds = (oldMonitorTranscript + newMonitorTranscript).map { Array($0.utf8) }
        var takenCount = 0
        for _ in 0..<5_000 {
            let seed = seeds.randomElement(using: &random) ?? []
            guard let value = try? JSON.parse(mutated(seed, &random)) else { continue }
            takenCount += 1
            #expect(try JSON.parse(value.bytes) == value)
        }
        #expect(takenCount > 100, "the mutations must not all be refused at once")
    }

    @Test("of a transcript never crash a monitor session; nothing follows a protocol error")
    func monitor() {
        var random = SeededGenerator(state: 2)
        let transcript = Array((oldMonitorTranscript.joined(separator: "\r\n") + "\r\n").utf8)
        let start = Array((greeting + "{\"return\": {}, \"id\": 0}\r\n").utf8)
        for _ in 0..<1_000 {
            var session = MonitorSession()
            var outputs = session.receive(start)
            _ = session.send((0..<13).map { _ in .stop })
            let bytes = mutated(Array(transcript.dropFirst(start.count)), &random)
            var index = 0
            while index < bytes.count {
                let end = min(bytes.count, index + Int.random(in: 1...900, using: &random))
                outputs += session.receive(bytes[index..<end])
                index = end
            }
            let errorIndex = outputs.firstIndex {
                if case .protocolError = $0 { true } else { false }
            }
            #expect(errorIndex == nil || errorIndex == outputs.count - 1)
            #expect(session.hasFailed == (errorIndex != nil))
        }
    }

    @Test("of an agent's bytes never crash a session, and it can always be synchronised again")
    func guestAgent() {
        var random = SeededGenerator(state: 3)
        let seed =
            [UInt8](##"{"error": {"class": "GenericError", "desc": "stray"}}"##.utf8) + [
                0x0A, 0xFF,
            ]
            + [UInt8]("{\"return\": 1, \"id\": 1}\n{\"return\": {}, \"id\": 2}\n".utf8)
        for _ in 0..<3_000 {
            var session = GuestAgentSession()
            _ = session.synchronise()
            let bytes = mutated(seed, &random)
            let middle = Int.random(in: 0...bytes.count, using: &random)
            _ = session.receive(bytes[..<middle])
            _ = session.send(.ping)
            _ = session.receive(bytes[middle...])
            let line = session.synchronise()
            let id = line.split(separator: UInt8(ascii: ":")).last.map { digits in
                String(decoding: digits.filter { (0x30...0x39).contains($0) }, as: UTF8.self)
            }
            let answer = [0xFF] + Array("{\"return\": \(id ?? ""), \"id\": \(id ?? "")}\n".utf8)
            #expect(session.receive(answer) == [.ready])
        }
    }
}
