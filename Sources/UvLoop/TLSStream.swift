// TLS over any stream.
//
// Happy path: start() drives the handshake; when both sides are content, the completion gets a
// stream. Each write is encrypted and handed to the transport at once; what arrives is decrypted
// while somebody listens (onBytes), otherwise the transport is paused as well.
//
// Failure modes:
// - handshake: the completion gets a TLSError, the peer gets OpenSSL's alert, the transport closes.
// - TLS 1.3 lets a client finish before the server has looked at its certificate: a refusal then
//   comes as onEnd(.refused(…)) with the alert's words, before any byte.
// - the connection ends without a close_notify: onEnd(.tls(…)); somebody may have cut it.

import CUv
public import Edges

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
    /// - Parameters:
    ///   - isUrgent: a client asks to be let in before others that wait.
    ///   - completion: called once, later; after a failure the transport is being closed.
    @discardableResult
    public static func start(
        _ context: TLSContext, over transport: any ByteStream, on loop: Loop, timeout: Duration,
        isUrgent: Bool = false, completion: @escaping (Result<TLSStream, TLSError>) -> Void
    ) -> TLSHandshake {
        let handshake = TLSHandshake(
            context, over: transport, on: loop, timeout: timeout, isUrgent: isUrgent,
            completion)
        handshake.start()
        return handshake
    }

    /// The same for the accepting side, which may have many handshakes under way.
    ///
    /// - Parameters:
    ///   - queue: where the handshake waits for its turn: once the client's hello has come, and again
    ///     once its certificate has.
    ///   - onSpoken: one of the two has come: from now on the peer waits for us.
    ///   - onAnswered: it has had its turn and is not through: now we wait for the peer.
    public static func accept(
        _ context: TLSContext, over transport: any ByteStream, on loop: Loop, timeout: Duration,
        queue: HandshakeQueue, onSpoken: @escaping () -> Void,
        onAnswered: @escaping () -> Void,
        completion: @escaping (Result<TLSStream, TLSError>) -> Void
    ) -> TLSHandshake {
        let handshake = TLSHandshake(
            context, over: transport, on: loop, timeout: timeout, isUrgent: false, completion)
        handshake.queue = queue
        handshake.onSpoken = onSpoken
        handshake.onAnswered = onAnswered
        handshake.start()
        return handshake
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
            case .failed(let end):
                isClosing = true
                sendOutput()  // the alert that tells the peer
                transport.closeAfterWriting()
                deliverEnd(end)
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
public final class TLSHandshake {
    private let context: TLSContext
    private let transport: any ByteStream
    private let loop: Loop
    private let isUrgent: Bool
    /// Of a server: what its client asks for.
    private var isUrgentPeer = false
    /// A server makes it when the client's first message is whole: who connects and says less costs a
    /// socket and that.
    private var engine: TLSEngine?
    private var hasFirstByte = false
    private var received = HandshakeLimit()
    /// Of a server: the client's first message, until it is whole.
    private var held: [UInt8] = []
    /// Bytes that came while the peer waits for its turn.
    private var earlyByteCount = 0
    private var limit: Timer?
    private var completion: ((Result<TLSStream, TLSError>) -> Void)?
    private var turn: HandshakeQueue.Turn?
    fileprivate var queue: HandshakeQueue?
    private var turnCount = 0
    fileprivate var onSpoken: (() -> Void)?
    fileprivate var onAnswered: (() -> Void)?

    /// Turns that an honest peer needs. One that sends its certificate byte by byte takes more, and
    /// does not count as one that has just spoken for each.
    private static let honestTurnCount = 2

    /// A record that some clients send for the sake of old middle boxes has 6 bytes.
    private static let earlyByteCountMax = 1_024

    fileprivate init(
        _ context: TLSContext, over transport: any ByteStream, on loop: Loop, timeout: Duration,
        isUrgent: Bool, _ completion: @escaping (Result<TLSStream, TLSError>) -> Void
    ) {
        self.context = context
        self.transport = transport
        self.loop = loop
        self.isUrgent = isUrgent
        self.completion = completion
        limit = loop.after(timeout) { self.fail(.timedOut) }
    }

    /// Ends it without a word to the peer; the completion gets ``TLSError/ended(_:)``.
    public func cancel() {
        guard completion != nil else { return }
        transport.close()
        fail(.ended(.closedHere))
    }

    fileprivate func start() {
        transport.onEnd = { self.fail(.ended($0)) }
        transport.onBytes = { self.receive($0) }
        if context.role == .client { advance() }
    }

    private func receive(_ bytes: UnsafeRawBufferPointer) {
        guard completion != nil, let first = bytes.first else { return }
        // A TLS peer starts with a handshake record (22) or an alert (21).
        if !hasFirstByte, first != 22, first != 21 { return fail(.plaintextPeer) }
        hasFirstByte = true
        guard received.accept(bytes) else { return fail(.sendsTooMuch) }
        if context.role == .server, !received.hasFirstMessage {
            held += bytes
            return
        }
        guard let engine = makeEngine() else { return }
        if !held.isEmpty {
            held.withUnsafeBytes { engine.receive($0) }
            held = []
        }
        engine.receive(bytes)
        guard turn != nil else {
            // Verifying the peer's certificate is the dearer half.
            return turnCount == 0 ? advance() : waitForTurn(isUrgent: isUrgentPeer)
        }
        // It is not its turn yet. An honest client has nothing more to say until we answer.
        earlyByteCount += bytes.count
        if earlyByteCount > Self.earlyByteCountMax {
            fail(.failed(operation: "TLS handshake", reason: "the peer does not wait for us"))
        }
    }

    private func makeEngine() -> TLSEngine? {
        if engine == nil {
            engine = TLSEngine(context, isUrgent: isUrgent)
            if engine == nil {
                fail(.failed(operation: "start TLS", reason: opensslReason()))
            }
        }
        return engine
    }

    private func advance() {
        guard completion != nil, let engine = makeEngine() else { return }
        let result = engine.handshake()
        let output = engine.takeOutput()
        if !output.isEmpty { transport.write(output) }
        switch result {
        case .wantsInput: break
        case .wantsTurn(let isUrgent):
            engine.letHandshakeGoOn()
            isUrgentPeer = isUrgent
            waitForTurn(isUrgent: isUrgent)
        case .failed(let error): fail(error)
        case .done(let identity):
            guard let completion else { return }
            self.completion = nil
            limit?.cancel()
            engine.shrinkBuffers()
            completion(
                .success(
                    TLSStream(engine, over: transport, on: loop, peerIdentity: identity)))
        }
    }

    private func waitForTurn(isUrgent: Bool) {
        guard let queue else { return advance() }
        turnCount += 1
        // What an honest peer sends after its certificate waits in the kernel meanwhile.
        if turnCount > 1 { transport.onBytes = nil }
        let isHonest = turnCount <= Self.honestTurnCount
        if isHonest { onSpoken?() }
        turn = queue.wait(isUrgent: isUrgent, isFinishing: turnCount > 1) { [self] in
            turn = nil
            if turnCount > 1 { transport.onBytes = { self.receive($0) } }
            advance()
            if isHonest, completion != nil { onAnswered?() }
        }
    }

    private func fail(_ error: TLSError) {
        guard let completion else { return }
        self.completion = nil
        limit?.cancel()
        turn?.cancel()
        turn = nil
        onSpoken = nil
        onAnswered = nil
        transport.closeAfterWriting()
        loop.soon { completion(.failure(error)) }
    }
}
