// When a server that does not lead takes over. Only computes: what it has seen and moments go in, the
// moment of a take-over comes out.
//
//   what was seen last                                   takes over
//   ---------------------------------------------------  ------------------------------------------
//   a session with the leader is open                    never
//   the leader has said that it hands over               at once
//   the session was lost, and nobody listens there       at once: the process is dead
//   any more
//   the session was lost in another way, or there        when the log has shown no life of the writer
//   never was one                                        for 3 s
//   the log's writer is this very server, which does     at once: nobody else leads
//   not lead (it was started again)
//   the log has no writer at all                         after a moment
//   the log cannot be read                               never
//
// "At once" is the server's rank among those that may, times a pause: one tries at a time. A link that
// flaps between two servers changes nothing: while the log shows life, only the end of a session
// that had lasted counts as a death, and only together with a refused connection. That the leader is in
// fact alive is never assumed not to be: the log's epoch fences it, see the log store.

import Fleet

/// A server's view of whether anybody leads.
public struct Succession: Sendable {
    public enum Loss: Hashable, Sendable {
        /// The leader has said that it leads no more, or ends.
        case handedOver
        /// The connection broke, or fell silent.
        case broken
    }

    /// Silence of the log after which its writer is taken for dead, in milliseconds; it writes each second.
    public static let silenceMilliseconds: Int64 = 3_000
    /// Between two servers that would both take over.
    public static let rankMilliseconds: Int64 = 150
    /// A session that was shorter says nothing about the life of a process.
    static let settledMilliseconds: Int64 = 1_000
    /// Pause after a take-over that failed, or that was given up again.
    static let retryMilliseconds: Int64 = 1_000

    private let name: String
    /// Names of all servers are not known, addresses are: who comes first among them tries first.
    private var rank: Int64
    private let jitterMilliseconds: Int64

    private var writer: String?
    private var writerEpoch: UInt64 = 0
    private var signAt: Int64
    private var startedAt: Int64
    private var isLogReadable = false
    private var sessionSince: Int64?
    private var wasSettled = false
    private var lostAt: Int64?
    /// Set when the writer is known to lead no more.
    private var vacantSince: Int64?
    private var notBefore: Int64 = 0

    /// - Parameters:
    ///   - name: this server's.
    ///   - rank: 0 for the server that should try first.
    ///   - jitterMilliseconds: something random and small.
    ///   - now: milliseconds on any clock that only goes forward, as everywhere here.
    public init(name: String, rank: Int, jitterMilliseconds: Int64, at now: Int64) {
        self.name = name
        self.rank = Int64(rank)
        self.jitterMilliseconds = jitterMilliseconds
        startedAt = now
        signAt = now
    }

    /// The place of this server among those that could follow the writer.
    public mutating func take(rank: Int) { self.rank = Int64(rank) }

    /// Who may write the log, as the log says.
    public mutating func sawWriter(_ name: String, epoch: UInt64, at now: Int64) {
        sawLog(at: now)
        // A lower one is newer, too, if the log itself was set back.
        guard epoch != writerEpoch else { return }
        // A session with somebody else says nothing about this one.
        if name != writer { sessionSince = nil }
        writer = name
        writerEpoch = epoch
        signAt = now
        vacantSince = nil
        lostAt = nil
        wasSettled = false
    }

    public mutating func sawLife(at now: Int64) {
        sawLog(at: now)
        signAt = now
    }

    /// The log was read; whether anybody writes it is not said by that.
    public mutating func sawLog(at now: Int64) {
        // What happened while it could not be read is not known: that was no silence of the writer's.
        if !isLogReadable { signAt = now }
        isLogReadable = true
    }

    public mutating func lostLog() { isLogReadable = false }

    public mutating func sessionOpened(at now: Int64) {
        sessionSince = now
        lostAt = nil
        vacantSince = nil
    }

    public mutating func sessionEnded(_ loss: Loss, at now: Int64) {
        wasSettled = sessionSince.map { now - $0 >= Self.settledMilliseconds } ?? false
        sessionSince = nil
        lostAt = now
        if loss == .handedOver { vacantSince = now }
    }

    /// A connection to where the leader was is refused: its system lives, its process does not.
    public mutating func connectionRefused(at now: Int64) {
        guard lostAt != nil, wasSettled, vacantSince == nil else { return }
        vacantSince = now
    }

    /// A take-over came to nothing, or this server has led and gives it up in favour of others.
    public mutating func stepsBack(at now: Int64) {
        notBefore = now + Self.retryMilliseconds
        startedAt = now
    }

    /// Whether the writer is known to lead no more, and not only thought to, because of its silence.
    public var isVacant: Bool { vacantSince != nil || writer == nil || writer == name }

    /// - Returns: when to take over, if nothing else is seen until then; nil for not at all.
    public func takesOverAt() -> Int64? {
        guard isLogReadable, sessionSince == nil else { return nil }
        if mutated(.nobodyTakesOver), writer != nil { return nil }
        let turn = rank * Self.rankMilliseconds + jitterMilliseconds
        let due: Int64 =
            if let vacantSince {
                vacantSince + turn
            } else if writer == nil {
                startedAt + 2 * turn
            } else if writer == name {
                startedAt + jitterMilliseconds
            } else {
                signAt + Self.silenceMilliseconds + 2 * turn
            }
        return max(due, notBefore)
    }
}
