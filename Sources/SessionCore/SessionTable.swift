// The sessions of one server, from an authenticated connection to its end.
//
//   add ─▶ hello ─▶ onHello ─▶ onReady ─▶ onMessage … ─▶ onDown
//
// Happy path: as drawn. A second session of an agent or notifier replaces its older one, since a
// peer that has lost its connection notices sooner than we do.
// Failure modes: a certificate that names nobody, a bad hello or none: counted and logged, never shown to
// the owner. An open session that breaks a rule, falls silent or does not read: closed, counted,
// then onDown.
public import Edges
import Fleet
public import Logging
public import Wire

/// What a server says to a hello that fits its certificate.
public enum Admission: Hashable, Sendable {
    /// The version is filled in by the session.
    case accept(HelloAccepted)
    case refuse(CloseCode, reason: String)
}

/// Set the callbacks before the first connection comes. Belongs to the loop's thread.
public final class SessionTable {
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
    // For whoever lets connections in and counts them.
    /// The connection of this number has become a session. Before its `onReady`.
    public var onOpened: (UInt64) -> Void = { _ in }
    /// The connection of this number is over, whether it has become a session or not. Before its
    /// `onDown`.
    public var onEnded: (UInt64) -> Void = { _ in }

    /// What came of connections and sessions: `connections_accepted`, `connections_refused`,
    /// `sessions_opened`, `sessions_closed`, by reason.
    public let tally: Tally
    public private(set) var sessionCount = 0

    private let loop: any EventLoop
    private let identity: PeerIdentity
    private let logger: Logger
    private let refusals: RefusalLog
    private var timer: (any LoopTimer)?
    private var byNumber: [UInt64: ServerSession] = [:]
    /// The same, in the order of their numbers; nil when one has come or gone since it was made.
    private var inOrder: [ServerSession]?
    /// The open session of each identity that may have only one.
    private var only: [PeerIdentity: ServerSession] = [:]
    private var lastNumber: UInt64 = 0
    private var isClosed = false

    private static let tickInterval = Duration.milliseconds(250)

    /// - Precondition: `identity`, as our certificate says, is a server's.
    public init(
        on loop: any EventLoop, identity: PeerIdentity, logger: Logger, tally: Tally = Tally()
    ) {
        precondition(identity.role == .server, "only servers have peers")
        self.loop = loop
        self.identity = identity
        self.logger = logger
        self.tally = tally
        refusals = RefusalLog(logger, of: "connection") { loop.nowMilliseconds }
        timer = loop.every(Self.tickInterval) { [weak self] in self?.tick() }
    }

    /// Open sessions, in the order of acceptance.
    public var sessions: [ServerSession] { all.filter(\.isReady) }

    /// Open ones, and those whose hello has not come yet, in the order of acceptance.
    public var all: [ServerSession] {
        if let inOrder { return inOrder }
        let sorted = byNumber.values.sorted { $0.number < $1.number }
        inOrder = sorted
        return sorted
    }

    /// Closes every session with this code, for good: no other is let in.
    public func close(_ code: CloseCode, reason: String) {
        guard !isClosed else { return }
        isClosed = true
        timer?.cancel()
        closeSessions(code, reason: reason)
    }

    /// Ends every session; others are let in as before.
    public func closeSessions(_ code: CloseCode, reason: String) {
        for session in all { session.close(code, reason: reason) }
    }

    private func tick() {
        for session in all { session.driver.tick() }
        refusals.flush()
    }

    // MARK: - From a connection to a session

    /// Counts a connection that has been accepted.
    ///
    /// - Returns: its number, from 1; never used again by this table.
    public func nextNumber() -> UInt64 {
        lastNumber += 1
        tally.count("connections_accepted")
        return lastNumber
    }

    /// Counts and logs a connection that becomes no session.
    ///
    /// - Parameter reason: one word, for counting.
    public func refuse(_ peer: String, _ reason: String, _ words: String) {
        tally.count("connections_refused", reason)
        refusals.refused(peer, reason: reason, words)
    }

    /// Takes over a connection, and waits for its hello.
    ///
    /// - Parameters:
    ///   - number: from ``nextNumber()``.
    ///   - peer: the peer's address, for logs.
    ///   - connectedAt: milliseconds on the loop's clock; see
    ///     ``Wire/SessionMachine/start(at:connectedAt:)``.
    public func add(
        _ connection: AuthenticatedStream, number: UInt64, peer: String, connectedAt: Int64
    ) {
        guard !isClosed else { return connection.stream.close() }
        let uri = connection.certificate.uri
        guard let identity = PeerIdentity(uri: uri) else {
            let words = "its certificate names \(uri), not fermata://CLUSTER/ROLE/NAME"
            // Without a session there is no machine to say it; the peer must know that trying
            // again is of no use.
            var bytes: [UInt8] = []
            encodeMessage(
                .close(.wrongIdentity, reason: "the peer: \(words)"), correlation: 0,
                into: &bytes)
            connection.stream.write(bytes)
            connection.stream.closeAfterWriting()
            onEnded(number)
            return refuse(peer, "notAnIdentity", words)
        }
        let driver = SessionDriver(
            SessionMachine(server: self.identity, peer: identity), over: connection.stream,
            on: loop)
        let session = ServerSession(
            number: number, identity: identity, certificate: connection.certificate, peer: peer,
            driver: driver)
        byNumber[number] = session
        inOrder = nil
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
            onOpened(session.number)
            sessionCount += 1
            tally.count("sessions_opened", session.identity.role.rawValue)
            logger.info(
                "session open",
                metadata: ["peer": "\(session.peer)", "identity": "\(session.identity)"])
            onReady?(session)
        }
    }

    private func ended(_ session: ServerSession, _ stop: SessionStop) {
        byNumber[session.number] = nil
        inOrder = nil
        onEnded(session.number)
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
