import Fleet
import Glibc
import Wire

/// Frames and messages of the size of a heartbeat, on one core.
enum Codec {
    private static let count = 2_000_000
    private static let batch = 1_000
    private static let heartbeat = Frame(kind: 4, body: [9, 1, 2, 3, 4, 5, 6, 7, 8])

    static func run() {
        let stream = Array(repeatElement(encodeFrame(heartbeat), count: batch).joined())
        let figures = [
            ("encodeFrame", measure(encodeFrames)),
            ("decodeFrame", measure { decodeFrames(stream) }),
            ("encodeMessage", measure(encodeMessages)),
            ("decodeMessage", measure { decodeMessages(stream) }),
            ("copyFloor", measure { copy(stream) }),
        ]
        let members = figures.map { name, figure in
            "\"\(name)\":{\"millionsPerSecond\":\(figure.rate),\"allocations\":\(figure.allocations)}"
        }
        print("{\(members.joined(separator: ","))}")
    }

    /// The best of five rounds in millions a second, and allocations for each frame (−1 unless
    /// count_malloc.so is preloaded).
    private static func measure(_ body: () -> Void) -> (rate: Double, allocations: Double) {
        let best = (0..<5).map { _ in seconds(body) }.min() ?? 1
        guard let counter = dlsym(nil, "fermata_malloc_count") else {
            return (Double(count) / best / 1e6, -1)
        }
        let value = counter.assumingMemoryBound(to: UInt.self)
        let before = value.pointee
        body()
        let allocations = Double(value.pointee - before) / Double(count)
        return (Double(count) / best / 1e6, allocations)
    }

    /// Not inlined, so that what it is given has to exist.
    @inline(never) private static func take(_ frame: Frame) { sink &+= frame.body.count }
    @inline(never) private static func take(_ bytes: [UInt8]) { sink &+= bytes.count }
    nonisolated(unsafe) private static var sink = 0

    private static func encodeFrames() {
        var output: [UInt8] = []
        for _ in 0..<count / batch {
            output.removeAll(keepingCapacity: true)
            for _ in 0..<batch { encodeFrame(heartbeat, into: &output) }
            take(output)
        }
    }

    private static func decodeFrames(_ stream: [UInt8]) {
        var decoder = FrameDecoder(limit: Limits.frameByteCountMax)
        for _ in 0..<count / batch {
            decoder.append(stream)
            while let frame = try? decoder.next() { take(frame) }
        }
    }

    private static func encodeMessages() {
        var output: [UInt8] = []
        for number in 0..<count / batch {
            output.removeAll(keepingCapacity: true)
            for _ in 0..<batch {
                encodeMessage(.ping(nonce: UInt64(number)), correlation: 0, into: &output)
            }
            take(output)
        }
    }

    private static func decodeMessages(_ stream: [UInt8]) {
        var decoder = FrameDecoder(limit: Limits.frameByteCountMax)
        for _ in 0..<count / batch {
            decoder.append(stream)
            while let frame = try? decoder.next() {
                if let kind = MessageKind(rawValue: frame.kind),
                    case .ping(let nonce)? = try? Message(kind: kind, body: frame.body)
                {
                    sink &+= Int(truncatingIfNeeded: nonce)
                }
            }
        }
    }

    /// What no codec can beat that gives each body memory of its own: an allocation and a copy.
    private static func copy(_ stream: [UInt8]) {
        for _ in 0..<count / batch {
            for index in 0..<batch { take(Array(stream[index * 9..<index * 9 + 9])) }
        }
    }
}
