// The frame decoder, the chunk assembler and the bodies of messages.
//
// Input: 3 steering bytes, then a stream of frames, or one message's body.
//   0  bits 0-1 the decoder's limit; bits 2-3 that of a message put together. Bit 4: whole messages
//      are decoded too. Bits 5-7 all set: the rest is the body of one message, of kind
//   1  (else not used)
//   2  how the bytes are cut (see `cut`)
import Fleet
import FuzzSupport
import Wire

private let frameLimits = [
    Limits.frameByteCountBeforeHelloMax, Limits.frameByteCountMax, 64, Frame.headerByteCount,
]
private let messageLimits = [Limits.messageByteCountMax, 16, 96, 0]

@main enum FuzzFrames {
    static func main() { fuzz(runOne) }
}

private func runOne(_ start: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    let input = Input(start, count)
    let steering = input.header(0)
    let body = input.body(after: 3)
    guard steering < 0xE0 else {
        checkBody(MessageKind(rawValue: UInt16(input.header(1))), Array(body), isWhole: true)
        return 0
    }
    var stream = Stream(
        body, limit: frameLimits[Int(steering & 3)],
        messageLimit: messageLimits[Int(steering >> 2 & 3)], readsBodies: steering & 16 != 0)
    cut(body, seed: input.header(2)) { stream.receive($0) }
    stream.checkEnd()
    return 0
}

/// A decoder and an assembler, beside what the specification says about the same bytes.
private struct Stream {
    let bytes: UnsafeRawBufferPointer
    let limit: Int
    let messageLimit: Int
    let readsBodies: Bool
    var decoder: FrameDecoder
    var assembler: ChunkAssembler
    /// Bytes handed in, and those of the frames that came out.
    var fedCount = 0
    var takenCount = 0
    var error: FrameError?
    /// The message that is being put together, from its first chunk on.
    var partial: Frame?
    var assemblerFailed = false

    init(_ bytes: UnsafeRawBufferPointer, limit: Int, messageLimit: Int, readsBodies: Bool) {
        self.bytes = bytes
        self.limit = limit
        self.messageLimit = messageLimit
        self.readsBodies = readsBodies
        decoder = FrameDecoder(limit: limit)
        assembler = ChunkAssembler(messageByteCountMax: messageLimit)
    }

    mutating func receive(_ piece: UnsafeRawBufferPointer) {
        decoder.append(piece)
        fedCount += piece.count
        do throws(FrameError) {
            while let frame = try decoder.next() {
                check(error == nil, "a frame after \(error.map { "\($0)" } ?? "")")
                checkFrame(frame)
                assemble(frame)
            }
            check(error == nil, "nothing is wrong any more")
        } catch {
            check(self.error == nil || self.error == error, "another error: \(error)")
            if self.error == nil { checkError(error) }
            self.error = error
            check(decoder.pendingByteCount == 0, "bytes are kept after an error")
            return
        }
        check(decoder.pendingByteCount == fedCount - takenCount, "bytes are lost or too many")
        check(
            decoder.pendingByteCount < Frame.lengthByteCount + limit,
            "\(decoder.pendingByteCount) bytes kept with a limit of \(limit)")
    }

    /// The frame is what stands in the bytes, and encodes to these again.
    private mutating func checkFrame(_ frame: Frame) {
        let length = Frame.lengthByteCount + Frame.headerByteCount + frame.body.count
        check(takenCount + length <= fedCount, "a frame before its bytes")
        check(frame.kind != 0 && frame.flags.isSubset(of: .known), "not allowed: \(frame)")
        check(length - Frame.lengthByteCount <= limit, "longer than \(limit): \(length)")
        let expected = UnsafeRawBufferPointer(rebasing: bytes[takenCount..<takenCount + length])
        let encoded = encodeFrame(frame)
        check(encoded.elementsEqual(expected), "encoded again \(frame) gives other bytes")
        takenCount += length
    }

    /// The error is right for the bytes at which the decoder stands.
    private func checkError(_ error: FrameError) {
        let rest = bytes[takenCount..<fedCount]
        func number(_ offset: Int, _ count: Int) -> UInt32 {
            rest.dropFirst(offset).prefix(count).reduce(0) { $0 << 8 | UInt32($1) }
        }
        check(rest.count >= 4, "an error without a length")
        let length = number(0, 4)
        switch error {
        case .tooShort(let count): check(count == length && length < 12, "\(error) of \(length)")
        case .tooLong(let count, let max):
            check(count == length && max == limit && Int(length) > limit, "\(error) of \(length)")
        case .kindZero:
            check(length >= 12 && Int(length) <= limit, "\(error) before \(length)")
            check(rest.count >= 6 && number(4, 2) == 0, "\(error) without it")
        case .unknownFlags(let flags):
            check(length >= 12 && Int(length) <= limit, "\(error) before \(length)")
            check(rest.count >= 8 && number(6, 2) == flags && flags > 3, "\(error) without it")
        default: fatalError("property violated: \(error) of a decoder")
        }
    }

    /// At the end of the stream no whole frame and no wrong length is left.
    func checkEnd() {
        guard error == nil, fedCount - takenCount >= Frame.lengthByteCount else { return }
        let length = bytes[takenCount..<takenCount + 4].reduce(0) { $0 << 8 | Int($1) }
        check(
            length >= 12 && length <= limit && fedCount - takenCount < 4 + length,
            "\(fedCount - takenCount) bytes are left, and the length is \(length)")
    }

    private mutating func assemble(_ frame: Frame) {
        guard !assemblerFailed else { return }
        let isMore = frame.flags.contains(.more)
        let isControl = MessageKind(rawValue: frame.kind)?.isControl == true
        let continues = partial.map { $0.kind == frame.kind && $0.correlation == frame.correlation }
        let messageLimit = min(
            messageLimit, MessageKind(rawValue: frame.kind)?.byteCountMax ?? messageLimit)
        let byteCount = (continues == true ? partial?.body.count ?? 0 : 0) + frame.body.count
        do throws(FrameError) {
            let message = try assembler.add(frame)
            check(!isMore || !frame.body.isEmpty, "an empty chunk is taken")
            if continues == false {
                check(isControl && !isMore && message == frame, "\(frame) between chunks")
            } else if isMore {
                check(message == nil, "a message before its last chunk")
                check(byteCount <= messageLimit, "\(byteCount) bytes kept of \(messageLimit)")
                if partial == nil { partial = frame } else { partial?.body += frame.body }
                return
            } else {
                var expected = partial ?? frame
                if continues == true {
                    expected.body += frame.body
                    expected.flags.remove(.more)
                }
                check(message == expected, "\(String(describing: message)) instead of \(expected)")
                partial = nil
            }
            if readsBodies, let message {
                checkBody(MessageKind(rawValue: message.kind), message.body, isWhole: false)
            }
        } catch {
            assemblerFailed = true
            switch error {
            case .emptyChunk: check(isMore && frame.body.isEmpty, "\(error) for \(frame)")
            case .interleaved:
                check(continues == false && !(isControl && !isMore), "\(error) for \(frame)")
            case .messageTooLong: check(byteCount > messageLimit, "\(error) at \(byteCount)")
            default: fatalError("property violated: \(error) of an assembler")
            }
        }
    }
}

/// A body that is taken is written, and what is written is read and written the same.
///
/// - Parameter isWhole: cut it into chunks as well.
private func checkBody(_ kind: MessageKind?, _ body: [UInt8], isWhole: Bool) {
    guard let kind else { return }
    do throws(ConversionError) {
        let message = try Message(kind: kind, body: body)
        check(message.kind == kind, "\(message.kind) of a body of \(kind)")
        let written = message.encodedBody()
        guard let again = try? Message(kind: kind, body: written) else {
            fatalError("property violated: refused when read again: \(message)")
        }
        check(again == message && again.encodedBody() == written, "\(message), then \(again)")
        if isWhole { checkChunks(message, written) }
    } catch {
        check(!error.description.utf8.contains { $0 < 0x20 }, "a control character in \(error)")
    }
}

/// In frames of 7 bytes of body each, and put together again.
private func checkChunks(_ message: Message, _ body: [UInt8]) {
    let limit = Frame.headerByteCount + 7
    var bytes: [UInt8] = []
    let isEncoded = encodeMessage(
        message, correlation: 0xFE, into: &bytes, frameByteCountMax: limit)
    check(isEncoded, "too long: \(body.count) bytes")
    var decoder = FrameDecoder(limit: limit)
    decoder.append(bytes)
    var assembler = ChunkAssembler(messageByteCountMax: body.count)
    do throws(FrameError) {
        while let frame = try decoder.next() {
            guard let whole = try assembler.add(frame) else { continue }
            let expected = Frame(kind: message.kind.rawValue, correlation: 0xFE, body: body)
            check(whole == expected && decoder.pendingByteCount == 0, "\(whole) of \(message)")
            return
        }
    } catch {
        fatalError("property violated: \(error) of our own chunks of \(message)")
    }
    fatalError("property violated: the chunks of \(message) end too early")
}
