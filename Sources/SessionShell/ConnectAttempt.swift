import Fleet
import UvLoop
import Wire

/// One try to have a session with one address, and the session that comes of it.
///
/// `onEnd` is called once, never from inside ``start()``.
final class ConnectAttempt {
    var onReady: ((HelloAccepted) -> Void)?
    var onMessage: ((Message, UInt64) -> Void)?
    var onEnd: ((SessionProblem) -> Void)?

    private let loop: Loop
    private let server: String
    private let context: TLSContext
    private let hello: Hello
    private let isUrgent: Bool
    /// The server's, once there is a secure connection.
    private(set) var certificate: CertificateIdentity?
    private var connecting: Cancellable?
    private var driver: SessionDriver?
    private var timer: UvLoop.Timer?
    private var startedAt: Int64 = 0
    private var wasReady = false
    private var isOver = false

    private static let tickInterval = Duration.milliseconds(250)

    /// - Parameter isUrgent: asks the server to be let in before others.
    init(
        on loop: Loop, server: String, context: TLSContext, hello: Hello, isUrgent: Bool = false
    ) {
        self.isUrgent = isUrgent
        self.loop = loop
        self.server = server
        self.context = context
        self.hello = hello
    }

    func start() {
        startedAt = SessionClock.nowMilliseconds
        resolve(server, on: loop) { [self] result in
            guard !isOver else { return }
            switch result {
            case .failure(let error): end(.connect(error, server: server))
            case .success(let addresses): connect(addresses[...])
            }
        }
    }

    func send(_ message: Message, correlation: UInt64) -> Bool {
        driver?.send(message, correlation: correlation) ?? false
    }

    /// Ends it. With a session, `onEnd` is called as for any other end.
    func close(_ code: CloseCode, _ reason: String) {
        if let driver {
            driver.close(code, reason)
        } else {
            isOver = true
            onEnd = nil
            connecting?.cancel()
        }
    }

    private var timeLeft: Duration {
        let used = SessionClock.nowMilliseconds - startedAt
        return .milliseconds(max(100, Int64(Limits.handshakeMillisecondsMax) - used))
    }

    private func connect(_ addresses: ArraySlice<SocketAddress>) {
        guard let address = addresses.first else { return }
        connecting = SocketStream.connectTCP(address, on: loop, timeout: timeLeft) {
            [self] result in
            connecting = nil
            switch result {
            case .success(let stream):
                if isOver { stream.close() } else { secure(stream) }
            case .failure(let error):
                guard !isOver else { return }
                // A name may stand for an IPv6 and an IPv4 address of which one is served.
                if addresses.count > 1 {
                    connect(addresses.dropFirst())
                } else {
                    end(.connect(error, server: server))
                }
            }
        }
    }

    private func secure(_ stream: SocketStream) {
        TLSStream.start(
            context, over: stream, on: loop, timeout: timeLeft, isUrgent: isUrgent
        ) { [self] result in
            switch result {
            case .success(let stream):
                if isOver { stream.close() } else { open(stream) }
            case .failure(let error):
                if !isOver { end(.handshake(error, server: server)) }
            }
        }
    }

    private func open(_ stream: TLSStream) {
        certificate = stream.peerIdentity
        guard let peer = PeerIdentity(uri: stream.peerIdentity.uri) else {
            stream.close()
            return end(
                SessionProblem(
                    .wrongIdentity,
                    "the certificate of the server at \(server) names "
                        + "\(stream.peerIdentity.uri), not a fermata server",
                    advice: "check the address, and issue that server a certificate with "
                        + "`fermata pki issue server NAME`"))
        }
        let driver = SessionDriver(SessionMachine(client: hello, peer: peer), over: stream)
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
