//  0        4      6       8            16
//  +--------+------+-------+-------------+----------------------+
//  | length | kind | flags | correlation | body                 |
//  +--------+------+-------+-------------+----------------------+
//    UInt32  UInt16  UInt16     UInt64      length - 12 bytes
//
// All numbers big endian. `length` counts what follows it: 12 ... limit.
public import Fleet

/// One frame: a whole message, or a chunk of one.
///
/// - Source: proto-spec/README.md, "Frames".
public struct Frame: Hashable, Sendable {
    public struct Flags: OptionSet, Hashable, Sendable {
        public let rawValue: UInt16
        public init(rawValue: UInt16) { self.rawValue = rawValue }
        /// A further chunk of the same kind and correlation follows.
        public static let more = Flags(rawValue: 1)
        /// A receiver that does not know the kind must close; without it, it ignores the frame.
        public static let mandatory = Flags(rawValue: 2)
        /// Those of version 1. Others must be 0: a later flag may change what a frame means.
        public static let known: Flags = [.more, .mandatory]
    }
    /// The raw kind; may be one that this version does not know. Never 0.
    public var kind: UInt16
    public var flags: Flags
    /// Chosen by the asking side; an answer carries the same. 0 where nothing is asked.
    public var correlation: UInt64
    public var body: [UInt8]

    public init(kind: UInt16, flags: Flags = [], correlation: UInt64 = 0, body: [UInt8]) {
        self.kind = kind
        self.flags = flags
        self.correlation = correlation
        self.body = body
    }

    /// Bytes of the length field, which does not count itself.
    public static let lengthByteCount = 4
    /// Bytes of kind, flags and correlation, which the length counts.
    public static let headerByteCount = 12
}

/// A peer's frame breaks the rules: the session is closed with ``CloseCode/badFrame``.
public enum FrameError: Error, Hashable, Sendable, CustomStringConvertible {
    case tooShort(byteCount: UInt32)
    case tooLong(byteCount: UInt32, limit: Int)
    case kindZero
    case unknownFlags(UInt16)
    /// A chunk that is to be followed by others must bring something.
    case emptyChunk
    /// Another message began before the last chunk of this one.
    case interleaved(kind: UInt16)
    case messageTooLong(limit: Int)

    /// The vectors' word for the rule that was broken; for counting.
    public var name: String {
        switch self {
        case .tooShort: "tooShort"
        case .tooLong: "tooLong"
        case .kindZero: "kindZero"
        case .unknownFlags: "unknownFlags"
        case .emptyChunk: "emptyChunk"
        case .interleaved: "interleaved"
        case .messageTooLong: "messageTooLong"
        }
    }

    public var description: String {
        switch self {
        case .tooShort(let count): "frame of \(count) bytes is shorter than its header of 12"
        case .tooLong(let count, let limit):
            "frame of \(count) bytes is longer than the \(limit) allowed now"
        case .kindZero: "frame has kind 0"
        case .unknownFlags(let flags): "frame has unknown flags 0x\(String(flags, radix: 16))"
        case .emptyChunk: "frame announces more chunks but is empty"
        case .interleaved(let kind):
            "frame of kind \(kind) came between the chunks of another message"
        case .messageTooLong(let limit): "message is longer than \(limit) bytes"
        }
    }
}

// MARK: - Encoding

/// Appends one frame to `output`.
///
/// - Precondition: the frame's length fits ``Fleet/Limits/frameByteCountMax``.
public func encodeFrame(_ frame: Frame, into output: inout [UInt8]) {
    appendFrame(
        kind: frame.kind, flags: frame.flags, correlation: frame.correlation, body: frame.body[...],
        to: &output)
}

/// One frame's bytes.
public func encodeFrame(_ frame: Frame) -> [UInt8] {
    var output: [UInt8] = []
    encodeFrame(frame, into: &output)
    return output
}

/// Appends a message as one frame, or as several chunks if it is longer than a frame may be.
///
/// - Parameter frameByteCountMax: largest value of the length field; lowered by tests only.
/// - Returns: false, with nothing appended, if the message is longer than its kind's
///   ``MessageKind/byteCountMax``: no peer would take it.
@discardableResult
public func encodeMessage(
    _ message: Message, correlation: UInt64, into output: inout [UInt8],
    frameByteCountMax: Int = Limits.frameByteCountMax
) -> Bool {
    let body = message.encodedBody()
    guard body.count <= message.kind.byteCountMax else { return false }
    let chunkByteCountMax = frameByteCountMax - Frame.headerByteCount
    var start = 0
    repeat {
        let end = min(start + chunkByteCountMax, body.count)
        appendFrame(
            kind: message.kind.rawValue, flags: end < body.count ? .more : [],
            correlation: correlation, body: body[start..<end], to: &output)
        start = end
    } while start < body.count
    return true
}

private func appendFrame(
    kind: UInt16, flags: Frame.Flags, correlation: UInt64, body: ArraySlice<UInt8>,
    to output: inout [UInt8]
) {
    let length = Frame.headerByteCount + body.count
    precondition(length <= Limits.frameByteCountMax, "frame of \(length) bytes")
    output.reserveCapacity(output.count + Frame.lengthByteCount + length)
    appendBigEndian(UInt32(length), to: &output)
    appendBigEndian(kind, to: &output)
    appendBigEndian(flags.rawValue, to: &output)
    appendBigEndian(correlation, to: &output)
    output.append(contentsOf: body)
}

private func appendBigEndian<Number: FixedWidthInteger>(_ number: Number, to output: inout [UInt8])
{
    withUnsafeBytes(of: number.bigEndian) { output.append(contentsOf: $0) }
}
