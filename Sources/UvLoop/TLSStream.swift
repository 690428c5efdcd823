/// TLS over any stream.
public final class TLSStream: ByteStream {
    /// Of the peer's certificate, whose chain has been verified.
    public let peerIdentity: CertificateIdentity
    public var onBytes: ((UnsafeRawBufferPointer) -> Void)?
    public var onEnd: ((StreamEnd) -> Void)?
    public var queuedByteCount: Int { fatalError("not written yet") }

    private init() { fatalError("not written yet") }

    public static func start(
        _ context: TLSContext, over transport: any ByteStream, on loop: Loop, timeout: Duration,
        completion: @escaping (Result<TLSStream, TLSError>) -> Void
    ) { fatalError("not written yet") }

    public func write(_ bytes: [UInt8]) {}
    public func write(_ bytes: [UInt8], completion: @escaping (UvError?) -> Void) {}
    public func close() {}
    public func closeAfterWriting() {}
}
