// Connections to servers: a name to addresses, TCP, then TLS with both certificates.
//
// Happy path: the first address of the name takes the connection and shows a certificate of our
// authority. All of it together has 5 s, or less where somebody waits.
// Failure modes: no such name, nobody there, no TLS, no trust: each ends the dial with its problem.

import Edges
import Fleet
public import Logging
public import SessionCore
public import UvLoop
public import Wire

/// Dials with the credentials of this process. Belongs to the loop's thread.
public final class TLSDialer: SessionDialer {
    /// Those for the next dial.
    public private(set) var credentials: Credentials
    private let loop: Loop
    private let limit: Duration

    /// - Parameter limit: for one dial; nil, and at most, ``Fleet/Limits/handshakeMillisecondsMax``.
    public init(on loop: Loop, credentials: Credentials, limit: Duration? = nil) {
        self.loop = loop
        self.credentials = credentials
        let longest = Duration.milliseconds(Int64(Limits.handshakeMillisecondsMax))
        self.limit = min(limit ?? longest, longest)
    }

    public var identity: PeerIdentity { credentials.identity }

    /// - Precondition: they are of the same identity; ``Credentials/loadAgain()`` sees to it.
    public func use(_ new: Credentials) {
        precondition(new.identity == identity, "a client's identity never changes")
        credentials = new
    }

    public func dial(
        _ server: String, isUrgent: Bool,
        completion: @escaping (Result<AuthenticatedStream, SessionProblem>) -> Void
    ) -> any SessionDial {
        let dial = TLSDial(
            on: loop, server: server, context: credentials.connectingContext,
            isUrgent: isUrgent, limit: limit, completion)
        dial.start()
        return dial
    }
}

private final class TLSDial: SessionDial {
    private let loop: Loop
    private let server: String
    private let context: TLSContext
    private let isUrgent: Bool
    private let limit: Duration
    /// Nil once it is over or cancelled.
    private var completion: ((Result<AuthenticatedStream, SessionProblem>) -> Void)?
    private var connecting: Cancellable?
    private let startedAt: Int64

    init(
        on loop: Loop, server: String, context: TLSContext, isUrgent: Bool,
        limit: Duration,
        _ completion: @escaping (Result<AuthenticatedStream, SessionProblem>) -> Void
    ) {
        self.loop = loop
        self.server = server
        self.context = context
        self.isUrgent = isUrgent
        self.limit = limit
        self.completion = completion
        startedAt = loop.nowMilliseconds
    }

    func start() {
        resolve(server, on: loop) { [self] result in
            guard completion != nil else { return }
            switch result {
            case .failure(let error): finish(.failure(.connect(error, server: server)))
            case .success(let addresses): connect(addresses[...])
            }
        }
    }

    func cancel() {
        completion = nil
        connecting?.cancel()
    }

    private var timeLeft: Duration {
        max(.milliseconds(100), limit - .milliseconds(loop.nowMilliseconds - startedAt))
    }

    private func connect(_ addresses: ArraySlice<SocketAddress>) {
        guard let address = addresses.first else { return }
        connecting = SocketStream.connectTCP(address, on: loop, timeout: timeLeft) {
            [self] result in
            connecting = nil
            switch result {
            case .success(let stream):
                if completion == nil { stream.close() } else { secure(stream) }
            case .failure(let error):
                guard completion != nil else { return }
                // A name may stand for an IPv6 and an IPv4 address of which one is served.
                if addresses.count > 1 {
                    connect(addresses.dropFirst())
                } else {
                    finish(.failure(.connect(error, server: server)))
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
                guard completion != nil else { return stream.close() }
                finish(
                    .success(AuthenticatedStream(stream, certificate: stream.peerIdentity)))
            case .failure(let error): finish(.failure(.handshake(error, server: server)))
            }
        }
    }

    private func finish(_ result: Result<AuthenticatedStream, SessionProblem>) {
        let completion = completion
        self.completion = nil
        completion?(result)
    }
}

// MARK: - Clients with TLS

extension SessionClient {
    /// - Parameter servers: `host:port` each, at least one.
    /// - Parameter software: name and version, for people.
    /// - Parameter dialLimit: see ``TLSDialer/init(on:credentials:limit:)``.
    public convenience init(
        on loop: Loop, servers: [String], credentials: Credentials, software: String,
        dialLimit: Duration? = nil, logger: Logger
    ) {
        self.init(
            on: loop, servers: servers,
            dialer: TLSDialer(on: loop, credentials: credentials, limit: dialLimit),
            software: software, logger: logger)
    }

    private var tlsDialer: TLSDialer {
        guard let dialer = dialer as? TLSDialer else {
            preconditionFailure("this client has no credentials: it was made with another dialer")
        }
        return dialer
    }

    /// Those for the next connect.
    /// - Precondition: the client was made with credentials.
    public var credentials: Credentials { tlsDialer.credentials }

    /// Uses these from the next connect on. An open session goes on, unless the server's
    /// certificate is on the new revocation list: then it is closed, as by a problem that trying
    /// again cannot cure.
    ///
    /// - Precondition: they are of the same identity; ``Credentials/loadAgain()`` sees to it. The
    ///   client was made with credentials.
    public func use(_ new: Credentials) {
        tlsDialer.use(new)
        guard let certificate = serverCertificate, new.context.isRevoked(certificate) else {
            return
        }
        endSession(.notPermitted, reason: revokedReason(certificate))
    }
}
