// How a client comes to a connection. TLS over TCP in a process (`SessionShell.TLSDialer`); the network of
// a simulator otherwise.

public import Edges
public import Wire

/// A connection on which both sides know by their certificates who the other is.
public struct AuthenticatedStream {
    public var stream: any ByteStream
    /// The peer's.
    public var certificate: CertificateIdentity

    public init(_ stream: any ByteStream, certificate: CertificateIdentity) {
        self.stream = stream
        self.certificate = certificate
    }
}

/// Opens connections to servers.
public protocol SessionDialer: AnyObject {
    /// Who we are, as our certificate says. Never changes.
    var identity: PeerIdentity { get }

    /// Connects to one server. Gives up within ``Fleet/Limits/handshakeMillisecondsMax``.
    ///
    /// - Parameters:
    ///   - server: the address as it was given, `host:port`.
    ///   - isUrgent: asks the server to be let in before others.
    ///   - completion: called once, never inside this call, unless the dial is cancelled before.
    ///     Whoever gets the stream owns it.
    func dial(
        _ server: String, isUrgent: Bool,
        completion: @escaping (Result<AuthenticatedStream, SessionProblem>) -> Void
    ) -> any SessionDial
}

/// A connection that is being made. It keeps itself alive until it has called its completion.
public protocol SessionDial: AnyObject {
    /// Its completion is not called any more.
    func cancel()
}
