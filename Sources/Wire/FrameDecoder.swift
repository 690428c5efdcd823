public import Fleet

/// Cuts a byte stream into frames.
///
/// Received bytes are copied once into a buffer that is reused, and once more into each frame's
/// body, its only allocation. The length is checked as soon as its four bytes are there.
public struct FrameDecoder: Sendable {
    /// Largest value of the length field that is taken now.
    public var limit: Int
    private var buffer: [UInt8] = []
    /// Where the next frame begins in `buffer`; what lies before it has been consumed.
    private var start = 0
    private var failure: FrameError?

    /// A buffer that once held a large frame is given back when it is empty: ten thousand idle
    /// sessions must not keep a megabyte each.
    private static let keptByteCountMax = 64 * 1024

    public init(limit: Int = Limits.frameByteCountBeforeHelloMax) {
        self.limit = limit
    }

    /// Takes received bytes. Call ``next()`` until it returns nil before appending more, so that
    /// a length that is too large is seen before its body is kept.
    public mutating func append(_ bytes: UnsafeRawBufferPointer) {
        guard failure == nil else { return }
        compact()
        buffer.append(contentsOf: bytes)
    }

    public mutating func append(_ bytes: [UInt8]) {
        bytes.withUnsafeBytes { append($0) }
    }

    /// The next whole frame, or nil if more bytes are needed.
    ///
    /// - Throws: ``FrameError``, and the same again ever after: the stream has lost its place.
    public mutating func next() throws(FrameError) -> Frame? {
        if let failure { throw failure }
        do { return try decode() } catch {
            failure = error
            buffer = []
            start = 0
            throw error
        }
    }

    /// Bytes kept that no frame has consumed.
    public var pendingByteCount: Int { buffer.count - start }
    /// Bytes kept in all, consumed ones included.
    var keptByteCount: Int { buffer.count }

    private mutating func decode() throws(FrameError) -> Frame? {
        guard pendingByteCount >= Frame.lengthByteCount else { return nil }
        let length: UInt32 = bigEndian(at: start)
        guard length >= UInt32(Frame.headerByteCount) else {
            throw .tooShort(byteCount: length)
        }
        guard length <= UInt32(limit) else { throw .tooLong(byteCount: length, limit: limit) }
        let end = start + Frame.lengthByteCount + Int(length)
        guard end <= buffer.count else { return nil }

        let kind: UInt16 = bigEndian(at: start + 4)
        let flags = Frame.Flags(rawValue: bigEndian(at: start + 6))
        guard kind != 0 else { throw .kindZero }
        guard flags.isSubset(of: .known) else { throw .unknownFlags(flags.rawValue) }
        let bodyStart = start + Frame.lengthByteCount + Frame.headerByteCount
        let frame = Frame(
            kind: kind, flags: flags, correlation: bigEndian(at: start + 8),
            body: Array(buffer[bodyStart..<end]))
        start = end
        return frame
    }

    /// Drops consumed bytes when all or most of the buffer is consumed: each byte is moved at most
    /// once for each time as many bytes were consumed, so the whole stays linear.
    private mutating func compact() {
        if start == buffer.count {
            if buffer.capacity > Self.keptByteCountMax {
                buffer = []
            } else {
                buffer.removeAll(keepingCapacity: true)
            }
            start = 0
        } else if start > buffer.count / 2 {
            buffer.removeSubrange(..<start)
            start = 0
        }
    }

    private func bigEndian<Number: FixedWidthInteger>(at offset: Int) -> Number {
        buffer.withUnsafeBytes {
            Number(bigEndian: $0.loadUnaligned(fromByteOffset: offset, as: Number.self))
        }
    }
}

/// Puts the chunks of a message together again.
///
/// One message at a time: between its chunks only control messages (close, ping, pong) may come,
/// whole. So a peer can make us keep one message and no more.
public struct ChunkAssembler: Sendable {
    private var partial: Frame?
    private let messageByteCountMax: Int

    /// - Parameter messageByteCountMax: of any kind; most have a lower limit of their own, see
    ///   ``MessageKind/byteCountMax``.
    public init(messageByteCountMax: Int = Limits.messageByteCountMax) {
        self.messageByteCountMax = messageByteCountMax
    }

    /// Takes the next frame.
    ///
    /// - Returns: a frame with a whole message, without the `more` flag; nil if chunks are missing.
    public mutating func add(_ frame: Frame) throws(FrameError) -> Frame? {
        if frame.flags.contains(.more), frame.body.isEmpty { throw .emptyChunk }
        let limit = min(
            messageByteCountMax, MessageKind(rawValue: frame.kind)?.byteCountMax ?? .max)
        guard var message = partial else {
            guard frame.flags.contains(.more) else { return frame }
            guard frame.body.count <= limit else { throw .messageTooLong(limit: limit) }
            partial = frame
            return nil
        }
        guard frame.kind == message.kind, frame.correlation == message.correlation else {
            if let kind = MessageKind(rawValue: frame.kind), kind.isControl,
                !frame.flags.contains(.more)
            {
                return frame
            }
            throw .interleaved(kind: frame.kind)
        }
        guard message.body.count + frame.body.count <= limit else {
            throw .messageTooLong(limit: limit)
        }
        partial = nil  // so that appending below does not copy what is there
        message.body.append(contentsOf: frame.body)
        if frame.flags.contains(.more) {
            partial = message
            return nil
        }
        message.flags.remove(.more)
        return message
    }
}
