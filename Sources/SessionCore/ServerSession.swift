public import Edges
public import Wire

/// One peer's session, on the server. Belongs to the loop's thread.
public final class ServerSession {
    /// From 1, in the order of acceptance; never used again by this process.
    public let number: UInt64
    /// What the peer's certificate says, and its hello confirms.
    public let identity: PeerIdentity
    /// Address of the peer, for logs.
    public let peer: String
    /// The peer's hello; nil until it has come.
    public internal(set) var hello: Hello?
    /// For whoever uses the session: dropped with it.
    public var attachment: AnyObject?

    /// The peer's certificate.
    public let certificate: CertificateIdentity

    let driver: SessionDriver
    /// Whether its `onReady` has been called, so that `onDown` must be.
    var wasReady = false

    init(
        number: UInt64, identity: PeerIdentity, certificate: CertificateIdentity, peer: String,
        driver: SessionDriver
    ) {
        self.number = number
        self.identity = identity
        self.certificate = certificate
        self.peer = peer
        self.driver = driver
    }

    public var isReady: Bool { driver.state == .ready }
    /// Bytes that wait for the peer to read.
    public var queuedByteCount: Int { driver.queuedByteCount }

    /// Queues a message. Closes the session (`TOO_SLOW`) if too much waits already.
    ///
    /// - Parameter correlation: that of the message which this one answers, else 0.
    /// - Returns: false, with nothing sent, if the session is not open any more.
    /// - Precondition: a server may send this kind to the peer's role.
    @discardableResult
    public func send(_ message: Message, correlation: UInt64 = 0) -> Bool {
        driver.send(message, correlation: correlation)
    }

    /// What a message that was handed up asks for is not done yet: with
    /// ``Fleet/Limits/unfinishedWorkMax`` of it nothing more is read. Not for requests.
    public func workBegan() { driver.workBegan() }

    /// Once for each ``workBegan()``. Messages may come before this returns.
    public func workEnded() { driver.workEnded() }

    /// Tells the peer why, and closes. `onDown` comes before this returns, unless this was called
    /// from a callback of this very session: then right after it.
    public func close(_ code: CloseCode, reason: String) {
        driver.close(code, reason)
    }
}

/// Why a ``ServerSession`` is over.
public enum ServerSessionEnd: Hashable, Sendable, CustomStringConvertible {
    case session(SessionEnd)
    case stream(StreamEnd)

    public var description: String {
        switch self {
        case .session(let end): end.description
        case .stream(let end): "connection ended: \(end)"
        }
    }
}
