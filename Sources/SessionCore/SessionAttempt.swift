public import Edges
import Fleet
public import Wire

/// One try to have a session with one address, and the session that comes of it.
///
/// `onEnd` is called once, never from inside ``start()``. What is under way keeps it alive.
public final class SessionAttempt {
    public var onReady: ((HelloAccepted) -> Void)?
    public var onMessage: ((Message, UInt64) -> Void)?
    public var onEnd: ((SessionProblem) -> Void)?

    /// The server's, once there is an authenticated connection.
    public private(set) var certificate: CertificateIdentity?

    private let loop: any EventLoop
    private let server: String
    private let dialer: any SessionDialer
    private let hello: Hello
    private let isUrgent: Bool
    private var dial: (any SessionDial)?
    private var driver: SessionDriver?
    private var timer: (any LoopTimer)?
    private var wasReady = false
    private var isOver = false

    private static let tickInterval = Duration.milliseconds(250)

    /// - Parameters:
    ///   - server: `host:port`.
    ///   - isUrgent: asks the server to be let in before others.
    public init(
        on loop: any EventLoop, server: String, dialer: any SessionDialer, hello: Hello,
        isUrgent: Bool = false
    ) {
        self.loop = loop
        self.server = server
        self.dialer = dialer
        self.hello = hello
        self.isUrgent = isUrgent
    }

    public func start() {
        dial = dialer.dial(server, isUrgent: isUrgent) { [self] result in
            dial = nil
            switch result {
            case .success(let connection):
                if isOver { connection.stream.close() } else { open(connection) }
            case .failure(let problem): end(problem)
            }
        }
    }

    /// - Returns: false, with nothing sent, if the session is not open.
    public func send(_ message: Message, correlation: UInt64) -> Bool {
        driver?.send(message, correlation: correlation) ?? false
    }

    /// Ends it. With a session, `onEnd` is called as for any other end.
    public func close(_ code: CloseCode, _ reason: String) {
        if let driver {
            driver.close(code, reason)
        } else {
            isOver = true
            onEnd = nil
            dial?.cancel()
            dial = nil
        }
    }

    private func open(_ connection: AuthenticatedStream) {
        certificate = connection.certificate
        guard let peer = PeerIdentity(uri: connection.certificate.uri) else {
            connection.stream.close()
            return end(
                SessionProblem(
                    .wrongIdentity,
                    "the certificate of the server at \(server) names "
                        + "\(connection.certificate.uri), not a fermata server",
                    advice: "check the address, and issue that server a certificate with "
                        + "`fermata pki issue server NAME`"))
        }
        let driver = SessionDriver(
            SessionMachine(client: hello, peer: peer), over: connection.stream, on: loop)
        self.driver = driver
        driver.onReady = { [unowned self] accepted in
            wasReady = true
            onReady?(accepted)
        }
        driver.onMessage = { [unowned self] message, correlation in
            onMessage?(message, correlation)
        }
        driver.onEnd = { [self] stop in
            switch stop {
            case .session(let reason): end(.session(reason, server: server))
            case .stream(let reason): end(.stream(reason, server: server, wasReady: wasReady))
            }
        }
        timer = loop.every(Self.tickInterval) { [weak driver] in driver?.tick() }
        driver.start()
    }

    private func end(_ problem: SessionProblem) {
        guard !isOver else { return }
        isOver = true
        timer?.cancel()
        let onEnd = onEnd
        self.onEnd = nil
        onReady = nil
        onMessage = nil
        onEnd?(problem)
    }
}
