// Measures the wire: the codec here, sessions and handshakes in the files beside this one.
//
//   wire-bench codec          prints one JSON object

import Fleet
import SwiftProtobuf
import Wire

/// Seconds on the clock that only goes forward.
func elapsed(_ body: () -> Void) -> Double {
    let clock = ContinuousClock()
    let (seconds, attoseconds) = clock.measure(body).components
    return Double(seconds) + Double(attoseconds) / 1e18
}

/// Keeps the optimizer from dropping a result.
@inline(never) func use<Value>(_ value: borrowing Value) {}

let roundCount = 2_000_000

/// The best of five rounds, in millions a second.
func millionsPerSecond(_ count: Int, _ body: () -> Void) -> Double {
    let best = (0..<5).map { _ in elapsed(body) }.min() ?? 1
    return Double(count) / best / 1e6
}

let heartbeat = Frame(kind: 4, correlation: 0, body: [9, 1, 2, 3, 4, 5, 6, 7, 8])
let wireBytes = encodeFrame(heartbeat)
let thousand = Array(repeatElement(wireBytes, count: 1_000).joined())

let encodeFrames = millionsPerSecond(roundCount) {
    var output: [UInt8] = []
    for index in 0..<roundCount {
        encodeFrame(heartbeat, into: &output)
        if index % 1_000 == 999 { output.removeAll(keepingCapacity: true) }
    }
    use(output)
}
let decodeFrames = millionsPerSecond(roundCount) {
    var decoder = FrameDecoder(limit: Limits.frameByteCountMax)
    var sum = 0
    for _ in 0..<roundCount / 1_000 {
        decoder.append(thousand)
        while let frame = try? decoder.next() { sum += frame.body.count }
    }
    precondition(sum == roundCount * 9)
}
let encodeMessages = millionsPerSecond(roundCount) {
    var output: [UInt8] = []
    for index in 0..<roundCount {
        encodeMessage(.ping(nonce: UInt64(index)), correlation: 0, into: &output)
        if index % 1_000 == 999 { output.removeAll(keepingCapacity: true) }
    }
    use(output)
}
let decodeMessages = millionsPerSecond(roundCount) {
    var decoder = FrameDecoder(limit: Limits.frameByteCountMax)
    var sum: UInt64 = 0
    for _ in 0..<roundCount / 1_000 {
        decoder.append(thousand)
        while let frame = try? decoder.next() {
            if let kind = MessageKind(rawValue: frame.kind),
                case .ping(let nonce)? = try? Message(kind: kind, body: frame.body)
            {
                sum &+= nonce
            }
        }
    }
    use(sum)
}
print(encodeFrames, decodeFrames, encodeMessages, decodeMessages)
