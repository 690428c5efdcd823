// Accepts sessions: TCP, TLS with both certificates, hello, and then messages.
//
//   accept ─▶ gate ─▶ client's TLS hello ─▶ its turn ─▶ certificate's name ─▶ hello ─▶ onHello
//             └──────────────── 5 s together ────────────────────────────────────────┘   │
//                                                  onDown ◀─ onMessage … ◀─ onReady ◀────┘
// Happy path: as drawn. A second session of an agent or notifier replaces its older one, since a
// peer that has lost its connection notices sooner than we do.
// Failure modes: too many connections of one address (ConnectionGate), no TLS, wrong certificate,
// bad hello: logged and counted, never shown to the owner. An open session that breaks a rule, falls
// silent or does not read: closed, counted, then onDown.
import Fleet
public import Logging
public import UvLoop
public import Wire

/// What a server says to a hello that fits its certificate.
public enum Admission: Hashable, Sendable {
    /// The version is filled in by the session.
    case accept(HelloAccepted)
    case refuse(CloseCode, reason: String)
}

/// Listens for sessions. Set the callbacks before the loop runs.
public final class SessionListener {
    /// Decides about a hello. Without it every hello is refused.
    public var onHello: ((ServerSession, Hello) -> Admission)?
    /// The session is open; messages may be sent.
    public var onReady: ((ServerSession) -> Void)?
    public var onMessage: ((ServerSession, Message, UInt64) -> Void)?
    /// Called once for every session that had its `onReady`.
    public var onDown: ((ServerSession, ServerSessionEnd) -> Void)?
    /// Whether a new session of this identity closes the older one with `REPLACED`.
    public var replacesOlder: (PeerIdentity) -> Bool = {
        $0.role == .agent || $0.role == .notifier
    }

    /// Open sessions, in the order of acceptance.
    public var sessions: [ServerSession] {
        all.values.filter(\.isReady).sorted { $0.number < $1.number }
    }
    /// With the real port if 0 was asked for.
    public let address: SocketAddress
    /// What came of connections and sessions: `connections_accepted`, `connections_refused`,
    /// `sessions_opened`, `sessions_closed`, by reason.
    public let tally: Tally
    /// Connections that never became sessions.
    public var refusedCount: Int { Int(tally.total("connections_refused")) }
    public private(set) var sessionCount = 0
    public var halfOpenCount: Int { gate.halfOpenCount }

    private let loop: Loop
    /// See ``use(_:)``.
    public internal(set) var credentials: Credentials
    private let logger: Logger
    private let refusals: RefusalLog
    private let queue: HandshakeQueue
    private var gate: ConnectionGate
    private var listener: Listener?
    private var timer: UvLoop.Timer?
    private var handshakes: [UInt64: TLSHandshake] = [:]
    /// Open ones, and those whose hello has not come yet.
    private(set) var all: [UInt64: ServerSession] = [:]
    /// The open session of each identity that may have only one.
    private var only: [PeerIdentity: ServerSession] = [:]
    private var lastNumber: UInt64 = 0
    private var isClosed = false

    private static let tickInterval = Duration.milliseconds(250)

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
        self.logger = logger
        self.tally = tally
        refusals = RefusalLog(logger)
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
        box.listener = self
        timer = loop.every(Self.tickInterval) { [weak self] in self?.tick() }
    }

    private final class WeakBox {
        weak var listener: SessionListener?
    }

    /// Stops listening and closes every session with this code.
    public func close(_ code: CloseCode, reason: String) {
        guard !isClosed else { return }
        isClosed = true
        listener?.close()
        timer?.cancel()
        for handshake in Array(handshakes.values) { handshake.cancel() }
        for session in all.values.sorted(by: { $0.number < $1.number }) {
            session.close(code, reason: reason)
        }
    }

    /// Ends every session and goes on listening.
    public func closeSessions(_ code: CloseCode, reason: String) {
        for session in all.values.sorted(by: { $0.number < $1.number }) {
            session.close(code, reason: reason)
        }
    }

    private func tick() {
        for session in Array(all.values) { session.driver.tick() }
        refusals.flush()
    }

    // MARK: - From a connection to a session

    private func accept(_ stream: SocketStream) {
        lastNumber += 1
        let number = lastNumber
        let peer = stream.peer
        tally.count("connections_accepted")
        switch gate.connected(number, address: ConnectionGate.key(ofIP: stream.peerIP ?? peer)) {
        case .refuse(let reason):
            stream.close()
            return refuse(peer, reason, "too many connections come from its address")
        case .admit(let dropped):
            if let dropped, let handshake = handshakes.removeValue(forKey: dropped) {
                // Out of the table, so that its end is not counted a second time.
                handshake.cancel()
                refuse(
                    "an older connection", ConnectionGate.halfOpenReason,
                    "it made room for \(peer): too many have not begun a session")
            }
        }
        let connectedAt = SessionClock.nowMilliseconds
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
                refuse(peer, error.name, "\(error)")
            case .success(let stream):
                open(stream, number: number, peer: peer, connectedAt: connectedAt)
            }
        }
    }

    /// - Parameter reason: one word, for counting.
    private func refuse(_ peer: String, _ reason: String, _ words: String) {
        tally.count("connections_refused", reason)
        refusals.refused(peer, reason: reason, words)
    }

    private func open(_ stream: TLSStream, number: UInt64, peer: String, connectedAt: Int64) {
        let uri = stream.peerIdentity.uri
        // Its handshake may have begun before the list was replaced.
        if credentials.context.isRevoked(stream.peerIdentity) {
            stream.close()
            gate.ended(number)
            let error = TLSError.revoked(of: "the certificate of \(uri)")
            return refuse(peer, error.name, "\(error)")
        }
        guard let identity = PeerIdentity(uri: uri) else {
            let words = "its certificate names \(uri), not fermata://CLUSTER/ROLE/NAME"
            // Without a session there is no machine to say it; the peer must know that trying
            // again is of no use.
            var bytes: [UInt8] = []
            encodeMessage(
                .close(.wrongIdentity, reason: "the peer: \(words)"), correlation: 0,
                into: &bytes)
            stream.write(bytes)
            stream.closeAfterWriting()
            gate.ended(number)
            return refuse(peer, "notAnIdentity", words)
        }
        let driver = SessionDriver(
            SessionMachine(server: credentials.identity, peer: identity), over: stream)
        let session = ServerSession(
            number: number, identity: identity, certificate: stream.peerIdentity, peer: peer,
            driver: driver)
        all[number] = session
        gate.spoke(number)
        driver.onHello = { [unowned self, unowned session] hello in decide(session, hello) }
        driver.onMessage = { [unowned self, unowned session] message, correlation in
            onMessage?(session, message, correlation)
        }
        driver.onEnd = { [weak self] stop in self?.ended(session, stop) }
        driver.start(connectedAt: connectedAt)
    }

    private func decide(_ session: ServerSession, _ hello: Hello) {
        session.hello = hello
        let admission =
            onHello?(session, hello)
            ?? .refuse(.shuttingDown, reason: "the server is not ready yet")
        switch admission {
        case .refuse(let code, let reason): session.close(code, reason: reason)
        case .accept(let accepted):
            if replacesOlder(session.identity) {
                only[session.identity]?.close(
                    .replaced,
                    reason: "\(session.identity.uri) has connected again from \(session.peer)")
                only[session.identity] = session
            }
            session.wasReady = true
            session.driver.accept(accepted)
            gate.opened(session.number)
            sessionCount += 1
            tally.count("sessions_opened", session.identity.role.rawValue)
            logger.info(
                "session open",
                metadata: ["peer": "\(session.peer)", "identity": "\(session.identity)"])
            onReady?(session)
        }
    }

    private func ended(_ session: ServerSession, _ stop: SessionStop) {
        all[session.number] = nil
        gate.ended(session.number)
        if only[session.identity] === session { only[session.identity] = nil }
        let (end, reason): (ServerSessionEnd, String) =
            switch stop {
            case .session(.closedByPeer(let code, let text)):
                (.session(.closedByPeer(code, reason: text)), "closedByPeer")
            case .session(let end): (.session(end), session.driver.fault)
            case .stream(let end): (.stream(end), "lost")
            }
        guard session.wasReady else {
            return refuse(session.peer, reason, "\(session.identity): \(end)")
        }
        sessionCount -= 1
        tally.count("sessions_closed", reason)
        logger.info(
            "session over",
            metadata: [
                "peer": "\(session.peer)", "identity": "\(session.identity)", "end": "\(end)",
                "reason": "\(reason)",
            ])
        onDown?(session, end)
    }
}
