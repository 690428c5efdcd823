// Accepts sessions: TCP, TLS with both certificates, hello, and then messages.
//
//   accept ─▶ TLS handshake (5 s) ─▶ certificate's name ─▶ hello (5 s) ─▶ onHello ─▶ onReady
//                                                                              └─▶ onMessage …
//                                                                                   ─▶ onDown
// Happy path: as drawn. A second session of an agent or notifier replaces its older one, since a
// peer that has lost its connection notices sooner than we do.
// Failure modes: no TLS, wrong certificate, bad hello: logged and counted, never shown to the
// owner. An open session that breaks a rule, falls silent or does not read: closed, then onDown.
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
    /// Connections that never became sessions, by reason; for logs and metrics.
    public private(set) var refusedCount = 0

    private let loop: Loop
    private let credentials: Credentials
    private let logger: Logger
    private var listener: Listener?
    private var timer: UvLoop.Timer?
    private var all: [UInt64: ServerSession] = [:]
    private var lastNumber: UInt64 = 0
    private var isClosed = false

    private static let tickInterval = Duration.milliseconds(250)

    /// - Parameter address: port 0 lets the kernel choose one.
    /// - Throws: ``UvLoop/UvError``, `EADDRINUSE` if the port is taken.
    /// - Precondition: the credentials are a server's.
    public init(
        on loop: Loop, address: SocketAddress, credentials: Credentials, logger: Logger
    ) throws(UvError) {
        precondition(credentials.identity.role == .server, "only servers listen")
        self.loop = loop
        self.credentials = credentials
        self.logger = logger
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
        for session in all.values.sorted(by: { $0.number < $1.number }) {
            session.close(code, reason: reason)
        }
    }

    private func tick() {
        for session in Array(all.values) { session.driver.tick() }
    }

    private func accept(_ stream: SocketStream) {
        let peer = stream.peer
        TLSStream.start(
            credentials.context, over: stream, on: loop,
            timeout: .milliseconds(Int64(Limits.handshakeMillisecondsMax))
        ) { [weak self] result in
            guard let self, !self.isClosed else {
                if case .success(let stream) = result { stream.close() }
                return
            }
            switch result {
            case .failure(let error): self.refuse(peer, "\(error)")
            case .success(let stream): self.open(stream, peer: peer)
            }
        }
    }

    private func refuse(_ peer: String, _ reason: String) {
        refusedCount += 1
        logger.warning(
            "refused a connection", metadata: ["peer": "\(peer)", "reason": "\(reason)"])
    }

    private func open(_ stream: TLSStream, peer: String) {
        let uri = stream.peerIdentity.uri
        guard let identity = PeerIdentity(uri: uri) else {
            stream.close()
            return refuse(peer, "its certificate names \(uri), not fermata://CLUSTER/ROLE/NAME")
        }
        let driver = SessionDriver(
            SessionMachine(server: credentials.identity, peer: identity), over: stream)
        lastNumber += 1
        let session = ServerSession(
            number: lastNumber, identity: identity, peer: peer, driver: driver)
        all[session.number] = session
        driver.onHello = { [unowned self, unowned session] hello in decide(session, hello) }
        driver.onMessage = { [unowned self, unowned session] message, correlation in
            onMessage?(session, message, correlation)
        }
        driver.onEnd = { [weak self] stop in self?.ended(session, stop) }
        driver.start()
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
                for older in sessions where older.identity == session.identity {
                    older.close(
                        .replaced,
                        reason: "\(session.identity.uri) has connected again from \(session.peer)")
                }
            }
            session.wasReady = true
            session.driver.accept(accepted)
            logger.info(
                "session open",
                metadata: ["peer": "\(session.peer)", "identity": "\(session.identity)"])
            onReady?(session)
        }
    }

    private func ended(_ session: ServerSession, _ stop: SessionStop) {
        all[session.number] = nil
        let end: ServerSessionEnd =
            switch stop {
            case .session(let end): .session(end)
            case .stream(let end): .stream(end)
            }
        guard session.wasReady else {
            return refuse(session.peer, "\(session.identity): \(end)")
        }
        logger.info(
            "session over",
            metadata: [
                "peer": "\(session.peer)", "identity": "\(session.identity)", "end": "\(end)",
            ])
        onDown?(session, end)
    }
}
