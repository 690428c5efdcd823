import Fleet
import Testing

@testable import Wire

@Suite("Frames")
struct FrameTests {
    private func decodeAll(
        _ bytes: [UInt8], limit: Int = Limits.frameByteCountMax, pieceByteCount: Int = .max
    ) throws -> [Frame] {
        var decoder = FrameDecoder(limit: limit)
        var frames: [Frame] = []
        var start = 0
        while start < bytes.count {
            let end = start + min(pieceByteCount, bytes.count - start)
            decoder.append(Array(bytes[start..<end]))
            start = end
            while let frame = try decoder.next() { frames.append(frame) }
        }
        return frames
    }

    @Test("a frame is what the specification draws")
    func layout() {
        let frame = Frame(
            kind: 0x0102, flags: [.more, .mandatory], correlation: 0x0A0B_0C0D_0E0F_1011,
            body: [0xAA, 0xBB])
        #expect(
            encodeFrame(frame) == [
                0, 0, 0, 14, 1, 2, 0, 3, 0x0A, 0x0B, 0x0C, 0x0D, 0x0E, 0x0F, 0x10, 0x11, 0xAA, 0xBB,
            ])
    }

    @Test("frames come out whole, however the stream is cut", arguments: [1, 2, 3, 7, 16, 100_000])
    func pieces(byteCount: Int) throws {
        var random = SplitMix(state: 7)
        // In small pieces: the compiler gives up on one expression when the machine is busy.
        let frames = (0..<60).map { (index: Int) -> Frame in
            let correlation: UInt64 = random.next()
            let byteCount = Int(random.next() % 300)
            let body = [UInt8](repeating: UInt8(truncatingIfNeeded: index), count: byteCount)
            let flags: Frame.Flags = index % 5 == 0 ? .mandatory : []
            return Frame(
                kind: UInt16(index + 1), flags: flags, correlation: correlation, body: body)
        }
        var bytes: [UInt8] = []
        for frame in frames { encodeFrame(frame, into: &bytes) }
        #expect(try decodeAll(bytes, pieceByteCount: byteCount) == frames)
    }

    @Test("the largest frame is taken, and one byte more is refused at its fourth byte")
    func limits() throws {
        for limit in [Limits.frameByteCountBeforeHelloMax, Limits.frameByteCountMax] {
            let body = [UInt8](repeating: 1, count: limit - Frame.headerByteCount)
            let bytes = encodeFrame(Frame(kind: 9, body: body))
            #expect(try decodeAll(bytes, limit: limit, pieceByteCount: 4_096).first?.body == body)

            var decoder = FrameDecoder(limit: limit)
            let tooLong = UInt32(limit + 1)
            decoder.append(withUnsafeBytes(of: tooLong.bigEndian) { Array($0) })
            #expect(throws: FrameError.tooLong(byteCount: tooLong, limit: limit)) {
                try decoder.next()
            }
            // The stream has lost its place: nothing is ever decoded again.
            decoder.append(encodeFrame(Frame(kind: 1, body: [])))
            #expect(throws: FrameError.self) { try decoder.next() }
            #expect(decoder.pendingByteCount == 0)
        }
    }

    @Test("what breaks the rules is refused by name")
    func broken() {
        let header: [UInt8] = [0, 0, 0, 0, 0, 0, 0, 0]
        for (bytes, error): ([UInt8], FrameError) in [
            ([0, 0, 0, 11], .tooShort(byteCount: 11)),
            ([0, 0, 0, 0], .tooShort(byteCount: 0)),
            ([0xFF, 0xFF, 0xFF, 0xFF], .tooLong(byteCount: .max, limit: Limits.frameByteCountMax)),
            ([0, 0, 0, 12, 0, 0, 0, 0] + header, .kindZero),
            ([0, 0, 0, 12, 0, 1, 0, 4] + header, .unknownFlags(4)),
            ([0, 0, 0, 12, 0, 1, 0x80, 0] + header, .unknownFlags(0x8000)),
        ] {
            #expect(throws: error) { try decodeAll(bytes) }
        }
    }

    @Test("the decoder keeps no more than the unread part of a long stream")
    func memory() throws {
        var decoder = FrameDecoder(limit: Limits.frameByteCountMax)
        let bytes = encodeFrame(Frame(kind: 1, body: [UInt8](repeating: 0, count: 990)))
        let part = Array(bytes[..<10])
        var count = 0
        decoder.append(part)
        for _ in 0..<10_000 {
            decoder.append(Array(bytes[10...]) + part)
            while try decoder.next() != nil { count += 1 }
            #expect(decoder.pendingByteCount == 10)
            #expect(decoder.keptByteCount < 3 * bytes.count)
        }
        #expect(count == 10_000)
    }

    // MARK: - Chunks

    @Test("a long message goes in chunks and comes back", arguments: [13, 64, 1_024, 1 << 20])
    func chunks(frameByteCountMax: Int) throws {
        let message = Message.eventBatch(
            (0..<50).flatMap { _ in Samples.events }, lastSequence: 20)
        var bytes: [UInt8] = []
        #expect(
            encodeMessage(
                message, correlation: 77, into: &bytes, frameByteCountMax: frameByteCountMax))
        var assembler = ChunkAssembler()
        var wholes: [Frame] = []
        for frame in try decodeAll(bytes) {
            #expect(frame.correlation == 77 && frame.kind == message.kind.rawValue)
            #expect(frame.body.count <= frameByteCountMax - Frame.headerByteCount)
            if let whole = try assembler.add(frame) { wholes.append(whole) }
        }
        #expect(wholes.count == 1)
        #expect(wholes[0].flags == [])
        #expect(try Message(kind: message.kind, body: wholes[0].body) == message)
    }

    @Test("an empty message is one frame without a body")
    func emptyMessage() throws {
        var bytes: [UInt8] = []
        encodeMessage(.acknowledgeEvents(sequence: 0), correlation: 0, into: &bytes)
        #expect(bytes.count == 16)
        #expect(try decodeAll(bytes) == [Frame(kind: 42, body: [])])
    }

    @Test("control messages may come between chunks, others may not")
    func interleaving() throws {
        let first = Frame(kind: 16, flags: .more, correlation: 5, body: [1])
        for kind in MessageKind.allCases where kind.isControl {
            var assembler = ChunkAssembler()
            #expect(try assembler.add(first) == nil)
            let control = Frame(kind: kind.rawValue, body: [2])
            #expect(try assembler.add(control) == control)
            #expect(
                try assembler.add(Frame(kind: 16, correlation: 5, body: [3]))?.body == [1, 3])
        }
        for other in [
            Frame(kind: 17, body: []), Frame(kind: 16, correlation: 6, body: []),
            Frame(kind: MessageKind.ping.rawValue, flags: .more, body: [1]),
        ] {
            var assembler = ChunkAssembler()
            #expect(try assembler.add(first) == nil)
            #expect(throws: FrameError.interleaved(kind: other.kind)) { try assembler.add(other) }
        }
    }

    @Test("chunks that bring nothing, or too much, are refused")
    func chunkLimits() throws {
        var assembler = ChunkAssembler(messageByteCountMax: 10)
        #expect(throws: FrameError.emptyChunk) {
            try assembler.add(Frame(kind: 16, flags: .more, body: []))
        }
        let chunk = Frame(kind: 16, flags: .more, body: [1, 2, 3, 4, 5])
        #expect(try assembler.add(chunk) == nil)
        #expect(try assembler.add(chunk) == nil)
        #expect(throws: FrameError.messageTooLong(limit: 10)) { try assembler.add(chunk) }
    }
}
