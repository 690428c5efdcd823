// Whether a notifier works, seen from its lock file alone: the lock says that the process lives, the
// time of the last change that it follows the leader. No socket, and no question that could be in
// its way.

public import UvLoop

public enum NotifierHealth: Hashable, Sendable {
    case following
    /// It runs, and has had no session for so long.
    case silent(seconds: Int64)
    case notRunning

    /// A notifier touches its lock file every 5 s. A leader that has died is followed by another in
    /// less than this, so that a takeover is nobody's bad health.
    public static let silenceSecondsMax: Int64 = 30

    static func lockPath(_ databasePath: String) -> String { databasePath + ".lock" }

    /// Asked by the notifier's own user, in its own container if it has one.
    ///
    /// - Throws: if the file cannot be read.
    public static func look(databasePath: String) throws(UvError) -> NotifierHealth {
        let path = lockPath(databasePath)
        guard Files.lockHolder(path: path) != nil else { return .notRunning }
        // A clock that was set back must not make it look well for longer than that.
        let now = WallClock.nowMicroseconds / 1_000_000
        let silence = abs(now - (try Files.changedAtSeconds(path: path)))
        return silence > silenceSecondsMax ? .silent(seconds: silence) : .following
    }

    /// A failure shows as silence.
    static func touch(_ databasePath: String) { Files.touch(path: lockPath(databasePath)) }
}
