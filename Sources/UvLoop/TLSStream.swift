// TLS over any stream.
//
// Happy path: start() drives the handshake; when both sides are content, the completion gets a
// stream. Each write is encrypted and handed to the transport at once; what arrives is decrypted
// while somebody listens (onBytes), otherwise the transport is paused as well.
//
// Failure modes:
// - handshake: the completion gets a TLSError, the peer gets OpenSSL's alert, the transport closes.
// - TLS 1.3 lets a client finish before the server has looked at its certificate: a refusal then
//   comes as onEnd(.tls(…)) with the alert's words, before any byte.
// - the connection ends without a close_notify: onEnd(.tls(…)); somebody may have cut it.

import CUv

/// A stream whose peer is known by its certificate. TLS 1.3.
public final class TLSStream: ByteStream {
    /// Of the peer's certificate, whose chain has been verified.
    public let peerIdentity: CertificateIdentity

    public var onBytes: ((UnsafeRawBufferPointer) -> Void)? {
        didSet { updateReading() }
    }
    public var onEnd: ((StreamEnd) -> Void)?

    private let engine: TLSEngine
    private let transport: any ByteStream
    private let loop: Loop
    private var isReading = false
    private var isProcessing = false
    private var isClosing = false
    private var hasDeliveredEnd = false

    fileprivate init(
        _ engine: TLSEngine, over transport: any ByteStream, on loop: Loop,
        peerIdentity: CertificateIdentity
    ) {
        self.engine = engine
        self.transport = transport
        self.loop = loop
        self.peerIdentity = peerIdentity
        transport.onBytes = nil
        transport.onEnd = { self.transportDidEnd($0) }
    }

    /// Makes a TLS connection of a connected stream, which it then owns.
    ///
    /// - Parameter completion: called once, later; after a failure the transport is being closed.
    public static func start(
        _ context: TLSContext, over transport: any ByteStream, on loop: Loop, timeout: Duration,
        completion: @escaping (Result<TLSStream, TLSError>) -> Void
    ) {
        guard let engine = TLSEngine(context) else {
            transport.close()
            let error = TLSError.failed(operation: "start TLS", reason: opensslReason())
            return loop.soon { completion(.failure(error)) }
        }
        TLSHandshake(engine, over: transport, on: loop, timeout: timeout, completion).start()
    }

    // MARK: Reading

    private func updateReading() {
        guard !isClosing, !hasDeliveredEnd else { return }
        if onBytes == nil {
            transport.onBytes = nil
            isReading = false
        } else if !isReading {
            isReading = true
            transport.onBytes = { bytes in
                self.engine.receive(bytes)
                self.process()
            }
            // Something may have come with the handshake's end, or before a pause.
            loop.soon { self.process() }
        }
    }

    private func process() {
        guard !isProcessing else { return }
        isProcessing = true
        defer { isProcessing = false }
        while !isClosing, let onBytes {
            switch engine.read(into: loop.plainBuffer) {
            case .bytes(let count):
                onBytes(UnsafeRawBufferPointer(rebasing: loop.plainBuffer[..<count]))
                continue
            case .wantsInput:
                sendOutput()
            case .closed:
                deliverEnd(.endOfFile)
                closeAfterWriting()
            case .failed(let reason):
                isClosing = true
                sendOutput()  // the alert that tells the peer
                transport.closeAfterWriting()
                deliverEnd(.tls(reason))
            }
            return
        }
    }

    private func sendOutput() {
        let output = engine.takeOutput()
        if !output.isEmpty { transport.write(output) }
    }

    // MARK: Writing

    public var queuedByteCount: Int { transport.queuedByteCount }

    public func write(_ bytes: [UInt8]) {
        guard !isClosing, engine.write(bytes) else { return }
        sendOutput()
    }

    public func write(_ bytes: [UInt8], completion: @escaping (UvError?) -> Void) {
        guard !isClosing, engine.write(bytes) else {
            let subject = peerIdentity.uri
            let code = UV_ECANCELED.rawValue
            return loop.soon {
                completion(UvError(code: code, operation: "write", subject: subject))
            }
        }
        transport.write(engine.takeOutput(), completion: completion)
    }

    // MARK: Ending

    public func close() {
        guard startClosing() else { return transport.close() }
        transport.close()
    }

    public func closeAfterWriting() {
        guard startClosing() else { return }
        transport.closeAfterWriting()
    }

    private func startClosing() -> Bool {
        guard !isClosing else { return false }
        isClosing = true
        onBytes = nil
        engine.writeCloseNotify()
        sendOutput()
        return true
    }

    private func transportDidEnd(_ end: StreamEnd) {
        let wasClosing = isClosing
        isClosing = true
        if wasClosing, end == .endOfFile { return deliverEnd(.closedHere) }
        let reason = "the connection ended without TLS's close_notify: the peer died or was cut off"
        deliverEnd(end == .endOfFile ? .tls(reason) : end)
    }

    private func deliverEnd(_ end: StreamEnd) {
        guard !hasDeliveredEnd else { return }
        hasDeliveredEnd = true
        let onEnd = onEnd
        self.onEnd = nil
        onBytes = nil
        onEnd?(end)
    }
}

/// From the first byte to the verified peer, or a reason why not.
private final class TLSHandshake {
    private let engine: TLSEngine
    private let transport: any ByteStream
    private let loop: Loop
    private var limit: Timer?
    private var completion: ((Result<TLSStream, TLSError>) -> Void)?
    private var hasFirstByte = false

    init(
        _ engine: TLSEngine, over transport: any ByteStream, on loop: Loop, timeout: Duration,
        _ completion: @escaping (Result<TLSStream, TLSError>) -> Void
    ) {
        self.engine = engine
        self.transport = transport
        self.loop = loop
        self.completion = completion
        limit = loop.after(timeout) { self.fail(.timedOut) }
    }

    func start() {
        transport.onEnd = { self.fail(.ended($0)) }
        transport.onBytes = { self.receive($0) }
        advance()
    }

    private func receive(_ bytes: UnsafeRawBufferPointer) {
        guard completion != nil, let first = bytes.first else { return }
        // A TLS peer starts with a handshake record (22) or an alert (21).
        if !hasFirstByte, first != 22, first != 21 { return fail(.plaintextPeer) }
        hasFirstByte = true
        engine.receive(bytes)
        advance()
    }

    private func advance() {
        let result = engine.handshake()
        let output = engine.takeOutput()
        if !output.isEmpty { transport.write(output) }
        switch result {
        case .wantsInput: break
        case .failed(let error): fail(error)
        case .done(let identity):
            guard let completion else { return }
            self.completion = nil
            limit?.cancel()
            completion(
                .success(
                    TLSStream(engine, over: transport, on: loop, peerIdentity: identity)))
        }
    }

    private func fail(_ error: TLSError) {
        guard let completion else { return }
        self.completion = nil
        limit?.cancel()
        transport.closeAfterWriting()
        loop.soon { completion(.failure(error)) }
    }
}
