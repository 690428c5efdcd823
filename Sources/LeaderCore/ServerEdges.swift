// What a server needs of its surroundings besides time and a log: sessions, a record of what operators
// ask for, and what only the process knows of itself. `LeaderShell` is all of it in a process.

public import Fleet
public import Wire

/// A peer's session, open or just over. One object for as long as it lasts.
public protocol PeerSession: AnyObject {
    /// What the peer's certificate says.
    var identity: PeerIdentity { get }
    /// Of the peer's certificate, in hexadecimal.
    var serial: String { get }
    /// Address of the peer, for logs.
    var peer: String { get }
    var isReady: Bool { get }
    /// Bytes that wait for the peer to read.
    var queuedByteCount: Int { get }

    /// Queues a message.
    ///
    /// - Parameter correlation: that of the message which this one answers, else 0.
    /// - Returns: false, with nothing sent, if the session is not open any more or the message is
    ///   longer than any may be.
    @discardableResult
    func send(_ message: Message, correlation: UInt64) -> Bool

    /// Tells the peer why, and closes.
    func close(_ code: CloseCode, reason: String)

    /// What a message of the peer asks for is not done yet, and costs memory until it is. With
    /// ``Fleet/Limits/unfinishedWorkMax`` of it nothing more is read of the session. Not for requests, which
    /// their answers end.
    func workBegan()
    /// Once for each ``workBegan()``. The peer may be read, or found to be gone, before this returns.
    func workEnded()
}

/// A standby's session with the leader, by which it sees that the leader lives: kept up until it is
/// stopped, unless it cannot be had.
public protocol LeaderWatch: AnyObject {
    /// Whether it should be let in before others, and come back sooner.
    var isUrgent: () -> Bool { get set }
    /// Whether it goes to the servers that others name, instead of only the one that was given.
    var followsHints: Bool { get set }
    /// The session is open, with a server that leads. Called again after each reconnect.
    var onReady: ((HelloAccepted) -> Void)? { get set }
    /// Sets what is called when the session is lost or cannot be had; not for ``stop(_:)``.
    func whenDown(_ body: @escaping (LeaderWatchDown) -> Void)
    /// Begins to connect, and keeps at it; also after it gave up.
    func start()
    func stop(_ reason: String)
}

/// A ``LeaderWatch`` has lost its session, or could not have one.
public struct LeaderWatchDown: Hashable, Sendable {
    public enum Reason: Hashable, Sendable {
        /// The server said that it leads no more, or shuts down.
        case handedOver
        /// Nobody listens there: the system answers, no server does.
        case refused
        case other
    }
    public var reason: Reason
    /// Whether there was an open session.
    public var wasReady: Bool
    /// Whether it has stopped, since trying again must end the same way.
    public var hasGivenUp: Bool
    /// What happened, for the log.
    public var problem: String
    public init(reason: Reason, wasReady: Bool, hasGivenUp: Bool, problem: String) {
        self.reason = reason
        self.wasReady = wasReady
        self.hasGivenUp = hasGivenUp
        self.problem = problem
    }
}

/// Keeps what operators asked for, and what came of it.
public protocol AuditRecorder: AnyObject {
    /// - Parameter then: called when the entry is on record, or cannot be: now or later.
    func record(_ entry: AuditEntry, then: @escaping () -> Void)
}

/// What carries a ``ServerCore``. It must be there until ``ServerCore/stop()`` has been called.
public protocol ServerEdges: AnyObject {
    var audit: any AuditRecorder { get }

    /// - Parameters:
    ///   - name: in snake case, such as `commands_accepted`.
    ///   - reason: one word; empty if the name says it all.
    func count(_ name: String, _ reason: String)

    /// Adds what only the process knows: traffic, and warnings about its certificates.
    func complete(_ view: inout StatusView)

    /// Ends every session with this server and goes on letting new ones in.
    func closeSessions(_ code: CloseCode, reason: String)

    /// A session with the server at an address (`host:port`), not started yet.
    func watch(_ address: String) -> any LeaderWatch
}
