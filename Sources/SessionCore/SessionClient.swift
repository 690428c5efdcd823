// Keeps one session with the leader, for agents, notifiers and the command line.
//
//   idle ──start()──▶ connecting ──TCP, TLS, hello──▶ ready
//    ▲                 ▲   │ failed                    │ broken
//    │                 │   ▼                           │
//    │                 └─ waiting ◀────────────────────┘
//    └─ stop(), or a problem that trying again cannot cure (onDown with isFatal)
//
// Happy path: the first address answers and is the leader. A standby says who leads; that address
// is tried next. The addresses are tried one after the other without a pause; after each round of
// all of them there is one, from 100 ms doubling to 5 s, with jitter so that a thousand agents do
// not come back in step.
// Failure modes: each failed try and each lost session is one call of onDown with the reason.
// Requests under way then fail; nothing is sent again by itself, because only the owner
// knows what is safe to repeat.
public import Edges
import Fleet
public import Logging
public import Wire

/// A session was lost or could not be had.
public struct SessionDown: Hashable, Sendable {
    public var problem: SessionProblem
    /// Whether there was an open session.
    public var wasReady: Bool
    /// When the next try begins; nil if the client has stopped.
    public var retryAfter: Duration?
    /// Every known address has been tried since the last session: a command line may give up.
    public var isRoundOver: Bool
}

/// Why a request has no answer.
public enum RequestError: Error, Hashable, Sendable, CustomStringConvertible {
    /// There is no session; nothing was sent.
    case notConnected
    /// It may or may not have been carried out.
    case timedOut(Duration)
    /// The session ended before the answer; it may or may not have been carried out.
    case down(SessionProblem)
    /// The message is longer than any peer takes, or waits behind too many others.
    case notSent

    public var description: String {
        switch self {
        case .notConnected: "there is no session with a server"
        case .timedOut(let limit): "no answer within \(limit)"
        case .down(let problem): problem.description
        case .notSent: "the message could not be sent"
        }
    }
}

/// The connecting side of a session. Belongs to the loop's thread.
public final class SessionClient {
    /// The session is open, with a leader unless ``acceptsStandby``. Called again after each reconnect.
    public var onReady: ((HelloAccepted) -> Void)?
    /// Everything but answers to requests.
    public var onMessage: ((Message, UInt64) -> Void)?
    /// See ``SessionDown``. Not called for ``stop(_:)``.
    public var onDown: ((SessionDown) -> Void)?

    /// Whether we should be let in before others, and come back sooner: an agent whose guests are
    /// held or that has a report to deliver; a person who waits.
    public var isUrgent: () -> Bool = { false }

    /// A session with a standby will do: whoever asks is content with what it knows.
    public var acceptsStandby = false
    /// Whether servers are tried that a standby has named. Without it only those that were given.
    public var followsHints = true

    /// How a server is reached, and who we are to it.
    public let dialer: any SessionDialer
    /// The addresses as given, `host:port`.
    public let servers: [String]
    /// The open session's terms; nil if there is none.
    public private(set) var session: HelloAccepted?
    public var isReady: Bool { session != nil }

    private let loop: any EventLoop
    private let logger: Logger
    private let software: String
    private let instance: [UInt8]
    private var attempt: SessionAttempt?
    private var pause: (any LoopTimer)?
    private var isStarted = false

    /// Addresses to try in this round, the next one first.
    private var round: [String] = []
    /// What the last standby said.
    private var learned: [String] = []
    /// Hints followed in this round: two standbys that point at each other must not keep us busy.
    private var followed: [String] = []
    private var pauseMilliseconds = Int64(Limits.reconnectMillisecondsMin)

    private struct Request {
        let completion: (Result<Message, RequestError>) -> Void
        let timer: any LoopTimer
    }
    private var requests: [UInt64: Request] = [:]
    private var lastCorrelation: UInt64 = 0

    /// - Parameter servers: `host:port` each, at least one.
    /// - Parameter software: name and version, for people.
    public init(
        on loop: any EventLoop, servers: [String], dialer: any SessionDialer,
        software: String, logger: Logger
    ) {
        precondition(!servers.isEmpty, "a client needs a server's address")
        self.loop = loop
        self.servers = servers
        self.dialer = dialer
        self.software = software
        self.logger = logger
        instance = loop.randomBytes(Hello.instanceByteCount)
    }

    /// Begins to connect, and keeps at it. Also after a fatal problem. Nothing if started already.
    public func start() {
        guard !isStarted else { return }
        isStarted = true
        pauseMilliseconds = Int64(Limits.reconnectMillisecondsMin)
        round = servers
        connectNext()
    }

    /// Closes the session, if there is one, and stays closed. Requests under way fail at once.
    public func stop(_ reason: String = "the client has finished") {
        guard isStarted else { return }
        isStarted = false
        pause?.cancel()
        let attempt = attempt
        self.attempt = nil
        session = nil
        attempt?.close(.normal, reason)
        failRequests(.notConnected)
    }

    /// The server's, once there is an authenticated connection.
    public var serverCertificate: CertificateIdentity? { attempt?.certificate }

    /// Closes the session, or the authenticated connection that is to become one; nothing if there
    /// is none. What follows is as with any other end: `onDown`, and another try unless the
    /// problem is fatal.
    public func endSession(_ code: CloseCode, reason: String) {
        guard let attempt, attempt.certificate != nil else { return }
        attempt.close(code, reason)
    }

    /// Sends a message that needs no answer, or answers one with its correlation.
    ///
    /// - Returns: false, with nothing sent, if there is no session.
    /// - Precondition: our role may send this kind.
    @discardableResult
    public func send(_ message: Message, correlation: UInt64 = 0) -> Bool {
        guard session != nil, let attempt else { return false }
        return attempt.send(message, correlation: correlation)
    }

    /// Sends a message and waits for the one answer that carries its correlation.
    ///
    /// - Parameter completion: called once, never before this returns. A
    ///   ``Wire/Message/refused(_:)`` is a success here: it is an answer.
    public func request(
        _ message: Message, timeout: Duration,
        completion: @escaping (Result<Message, RequestError>) -> Void
    ) {
        guard session != nil, let attempt else {
            return loop.soon { completion(.failure(.notConnected)) }
        }
        let correlation = nextCorrelation()
        let timer = loop.after(timeout) { [weak self] in
            self?.requests.removeValue(forKey: correlation)?.completion(
                .failure(.timedOut(timeout)))
        }
        requests[correlation] = Request(completion: completion, timer: timer)
        guard attempt.send(message, correlation: correlation) else {
            loop.soon { [weak self] in self?.finish(correlation, .failure(.notSent)) }
            return
        }
    }

    /// A correlation that no request of this client uses: for a row of answers, such as events.
    public func nextCorrelation() -> UInt64 {
        lastCorrelation += 1
        return lastCorrelation
    }

    // MARK: - Connecting

    private func connectNext() {
        guard isStarted, let server = round.first else { return }
        round.removeFirst()
        let hello = Hello(identity: dialer.identity, instance: instance, software: software)
        let attempt = SessionAttempt(
            on: loop, server: server, dialer: dialer, hello: hello, isUrgent: isUrgent())
        self.attempt = attempt
        attempt.onReady = { [weak self] accepted in self?.opened(server, accepted) }
        attempt.onMessage = { [weak self] message, correlation in
            self?.received(message, correlation)
        }
        attempt.onEnd = { [weak self, unowned attempt] problem in
            guard let self, self.attempt === attempt else { return }
            self.ended(problem, with: server)
        }
        attempt.start()
    }

    private func opened(_ server: String, _ accepted: HelloAccepted) {
        learned = followsHints ? accepted.servers : []
        guard accepted.isLeader || acceptsStandby else {
            // The leader comes first in the list, if anyone knows it. It is tried next, unless
            // that is where we are: then nobody leads at the moment.
            if let leader = learned.first, leader != server, !followed.contains(leader) {
                followed.append(leader)
                round.removeAll { $0 == leader }
                round.insert(leader, at: 0)
            }
            attempt?.close(.notLeader, "\(accepted.server) at \(server) does not lead")
            return
        }
        session = accepted
        pauseMilliseconds = Int64(Limits.reconnectMillisecondsMin)
        logger.info(
            "session open",
            metadata: ["server": "\(accepted.server)", "term": "\(accepted.term)"])
        onReady?(accepted)
    }

    private func received(_ message: Message, _ correlation: UInt64) {
        guard session != nil else { return }
        if requests[correlation] != nil {
            finish(correlation, .success(message))
        } else {
            onMessage?(message, correlation)
        }
    }

    private func finish(_ correlation: UInt64, _ result: Result<Message, RequestError>) {
        guard let request = requests.removeValue(forKey: correlation) else { return }
        request.timer.cancel()
        request.completion(result)
    }

    private func failRequests(_ error: RequestError) {
        let failed = requests.sorted { $0.key < $1.key }
        requests = [:]
        for (_, request) in failed {
            request.timer.cancel()
            request.completion(.failure(error))
        }
    }

    private func ended(_ problem: SessionProblem, with server: String) {
        let wasReady = session != nil
        session = nil
        attempt = nil
        if wasReady {
            round = candidates()
            // A server that hangs takes the connection and is silent: the others answer sooner.
            if problem.kind == .timedOut, round.count > 1 {
                round.removeAll { $0 == server }
                round.append(server)
            }
        }
        let isRoundOver = round.isEmpty && !wasReady
        var retryAfter: Duration?
        if problem.isFatal {
            isStarted = false
        } else if isRoundOver || wasReady {
            retryAfter = nextPause()
            if round.isEmpty { round = candidates() }
            followed = []
        } else {
            retryAfter = .zero
        }
        if let retryAfter {
            pause = loop.after(retryAfter) { [weak self] in self?.connectNext() }
        }
        logger.log(
            level: problem.isFatal ? .error : .notice, "no session",
            metadata: [
                "problem": "\(problem.kind.rawValue)", "message": "\(problem.message)",
                "advice": "\(problem.advice)",
                "retry": "\(retryAfter.map { "\($0)" } ?? "never")",
            ])
        failRequests(.down(problem))
        onDown?(
            SessionDown(
                problem: problem, wasReady: wasReady, retryAfter: retryAfter,
                isRoundOver: isRoundOver))
    }

    /// What the last server told us first, then what we were given.
    private func candidates() -> [String] {
        var result: [String] = []
        for server in learned + servers where !result.contains(server) { result.append(server) }
        return result
    }

    /// Half of it fixed, half by chance.
    private func nextPause() -> Duration {
        if isUrgent() {
            pauseMilliseconds = min(
                pauseMilliseconds, Int64(Limits.urgentReconnectMillisecondsMax))
        }
        let milliseconds = loop.random(in: pauseMilliseconds / 2...pauseMilliseconds)
        pauseMilliseconds = min(pauseMilliseconds * 2, Int64(Limits.reconnectMillisecondsMax))
        return .milliseconds(milliseconds)
    }
}
