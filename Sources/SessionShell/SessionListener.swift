// Accepts connections: TCP, then TLS with both certificates; what comes through is the table's.
//
//   accept ─▶ gate ─▶ client's TLS hello ─▶ its turn ─▶ certificate's name ─▶ SessionTable
//             └────────────── 5 s, with the session's hello ──────────────────────────┘
// Happy path: as drawn.
// Failure modes: too many connections of one address (ConnectionGate), no TLS, wrong certificate:
// logged and counted, never shown to the owner.
import Fleet
public import Logging
public import SessionCore
public import UvLoop
public import Wire

/// Listens for sessions. Set the callbacks before the loop runs.
public final class SessionListener {
    /// The sessions, once their peers are known by their certificates.
    public let table: SessionTable
    /// With the real port if 0 was asked for.
    public let address: SocketAddress
    public var halfOpenCount: Int { gate.halfOpenCount }

    private let loop: Loop
    /// See ``use(_:)``.
    public internal(set) var credentials: Credentials
    private let queue: HandshakeQueue
    private var gate: ConnectionGate
    private var listener: Listener?
    private var handshakes: [UInt64: TLSHandshake] = [:]
    private var isClosed = false

    /// - Parameters:
    ///   - address: port 0 lets the kernel choose one.
    ///   - bounds: how many connections are let in.
    /// - Throws: ``UvLoop/UvError``, `EADDRINUSE` if the port is taken.
    /// - Precondition: the credentials are a server's.
    public init(
        on loop: Loop, address: SocketAddress, credentials: Credentials, logger: Logger,
        bounds: ConnectionGate.Bounds = ConnectionGate.Bounds(), tally: Tally = Tally()
    ) throws(UvError) {
        precondition(credentials.identity.role == .server, "only servers listen")
        self.loop = loop
        self.credentials = credentials
        gate = ConnectionGate(bounds)
        queue = HandshakeQueue(
            on: loop, slice: .milliseconds(Limits.handshakeSliceMilliseconds),
            urgentTurnsMax: Limits.urgentTurnsMax)
        // The closure cannot hold `self` before all is set: it holds this box instead.
        let box = WeakBox()
        let listener = try Listener.tcp(address, on: loop) { stream in
            if let listener = box.listener { listener.accept(stream) } else { stream.close() }
        }
        self.listener = listener
        self.address = listener.address ?? address
        table = SessionTable(
            on: loop, identity: credentials.identity, logger: logger, tally: tally)
        box.listener = self
        table.onOpened = { [weak self] number in self?.gate.opened(number) }
        table.onEnded = { [weak self] number in self?.gate.ended(number) }
    }

    private final class WeakBox {
        weak var listener: SessionListener?
    }

    /// Stops listening and closes every session with this code.
    public func close(_ code: CloseCode, reason: String) {
        guard !isClosed else { return }
        isClosed = true
        listener?.close()
        for handshake in Array(handshakes.values) { handshake.cancel() }
        table.close(code, reason: reason)
    }

    /// Ends every session and goes on listening.
    public func closeSessions(_ code: CloseCode, reason: String) {
        table.closeSessions(code, reason: reason)
    }

    // MARK: - From a connection to an authenticated one

    private func accept(_ stream: SocketStream) {
        let number = table.nextNumber()
        let peer = stream.peer
        switch gate.connected(number, address: ConnectionGate.key(ofIP: stream.peerIP ?? peer)) {
        case .refuse(let reason):
            stream.close()
            return table.refuse(peer, reason, "too many connections come from its address")
        case .admit(let dropped):
            if let dropped, let handshake = handshakes.removeValue(forKey: dropped) {
                // Out of `handshakes`, so that its end is not counted a second time.
                handshake.cancel()
                table.refuse(
                    "an older connection", ConnectionGate.halfOpenReason,
                    "it made room for \(peer): too many have not begun a session")
            }
        }
        let connectedAt = loop.nowMilliseconds
        handshakes[number] = TLSStream.accept(
            credentials.context, over: stream, on: loop,
            timeout: .milliseconds(Int64(Limits.handshakeMillisecondsMax)), queue: queue,
            onSpoken: { [weak self] in self?.gate.spoke(number) },
            onAnswered: { [weak self] in self?.gate.answered(number) }
        ) { [weak self] result in
            guard let self, handshakes.removeValue(forKey: number) != nil, !isClosed else {
                if case .success(let stream) = result { stream.close() }
                return
            }
            switch result {
            case .failure(let error):
                gate.ended(number)
                table.refuse(peer, error.name, "\(error)")
            case .success(let stream):
                open(stream, number: number, peer: peer, connectedAt: connectedAt)
            }
        }
    }

    private func open(_ stream: TLSStream, number: UInt64, peer: String, connectedAt: Int64) {
        // Its handshake may have begun before the list was replaced.
        if credentials.context.isRevoked(stream.peerIdentity) {
            stream.close()
            gate.ended(number)
            let error = TLSError.revoked(
                of: "the certificate of \(stream.peerIdentity.uri)")
            return table.refuse(peer, error.name, "\(error)")
        }
        gate.spoke(number)
        table.add(
            AuthenticatedStream(stream, certificate: stream.peerIdentity), number: number,
            peer: peer, connectedAt: connectedAt)
    }
}

// MARK: - What the table has

extension SessionListener {
    /// See ``SessionCore/SessionTable``, for these and all that follow.
    public var onHello: ((ServerSession, Hello) -> Admission)? {
        get { table.onHello }
        set { table.onHello = newValue }
    }
    public var onReady: ((ServerSession) -> Void)? {
        get { table.onReady }
        set { table.onReady = newValue }
    }
    public var onMessage: ((ServerSession, Message, UInt64) -> Void)? {
        get { table.onMessage }
        set { table.onMessage = newValue }
    }
    public var onDown: ((ServerSession, ServerSessionEnd) -> Void)? {
        get { table.onDown }
        set { table.onDown = newValue }
    }
    public var replacesOlder: (PeerIdentity) -> Bool {
        get { table.replacesOlder }
        set { table.replacesOlder = newValue }
    }
    public var sessions: [ServerSession] { table.sessions }
    public var sessionCount: Int { table.sessionCount }
    public var tally: Tally { table.tally }
    /// Connections that never became sessions.
    public var refusedCount: Int { Int(tally.total("connections_refused")) }
}
