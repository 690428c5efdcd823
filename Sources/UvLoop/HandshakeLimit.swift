/// What a peer may make us keep before we know who it is. Only counts.
///
/// OpenSSL reserves room for a handshake message as soon as it has read the four bytes that say how long
/// it will be, for a client's first one up to 131,396. So these are looked at before OpenSSL sees them. What
/// comes encrypted cannot be; `SSL_CTX_set_max_cert_list` bounds the certificates in it.
struct HandshakeLimit {
    /// A TLS client's first message: some hundred bytes, or two thousand with keys that withstand quantum
    /// computers.
    static let firstMessageByteCountMax = 4 * 1024
    /// All that a peer sends before it is authenticated, and its certificates: ours have 600 bytes, several
    /// of the largest RSA keys fit.
    static let byteCountMax = 16 * 1024

    /// Bytes of this connection so far.
    private(set) var byteCount = 0
    /// The peer's first message is whole, or it is none, which is for OpenSSL to say.
    private(set) var hasFirstMessage = false

    /// Of a record, until it is whole: kind, version, length.
    private var recordHeader: [UInt8] = []
    private var recordLeft = 0
    /// Of a message in the clear, until it is whole: kind and length.
    private var messageHeader: [UInt8] = []
    private var messageLeft = 0

    private static let recordByteCountMax = 16_384 + 256
    private static let handshakeRecord: UInt8 = 22

    /// Takes in what the peer has sent.
    ///
    /// - Returns: false if it is more than anybody needs.
    mutating func accept(_ bytes: UnsafeRawBufferPointer) -> Bool {
        byteCount += bytes.count
        guard byteCount <= Self.byteCountMax else { return false }
        var rest = bytes[...]
        while let first = rest.first {
            if recordHeader.count < 5 {
                recordHeader.append(first)
                rest = rest.dropFirst()
                if recordHeader.count == 5 { onRecord() }
                continue
            }
            let part = rest.prefix(recordLeft)
            rest = rest.dropFirst(part.count)
            recordLeft -= part.count
            if recordHeader[0] == Self.handshakeRecord, !take(part) { return false }
            if recordLeft == 0 { recordHeader = [] }
        }
        return true
    }

    private mutating func onRecord() {
        recordLeft = Int(recordHeader[3]) << 8 | Int(recordHeader[4])
        if recordHeader[0] != Self.handshakeRecord || recordLeft > Self.recordByteCountMax {
            hasFirstMessage = true
        }
        if recordLeft == 0 { recordHeader = [] }
    }

    /// - Parameter bytes: of messages, one after the other.
    private mutating func take(_ bytes: Slice<UnsafeRawBufferPointer>) -> Bool {
        var rest = bytes
        while let first = rest.first {
            if messageHeader.count < 4 {
                messageHeader.append(first)
                rest = rest.dropFirst()
                guard messageHeader.count == 4 else { continue }
                messageLeft = messageHeader.dropFirst().reduce(0) { $0 << 8 | Int($1) }
                guard messageLeft <= Self.firstMessageByteCountMax else { return false }
            } else {
                let count = min(messageLeft, rest.count)
                messageLeft -= count
                rest = rest.dropFirst(count)
            }
            if messageLeft == 0, messageHeader.count == 4 {
                messageHeader = []
                hasFirstMessage = true
            }
        }
        return true
    }
}
