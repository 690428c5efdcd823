/// A guard that does not end keeps its lock, and with it every agent after it from the held guests.
/// What it has done can be seen from the guests' processes, so it can be killed at any point.
public enum StuckGuard {
    /// A guard that is stopped (SIGSTOP) will do nothing more.
    public static let stoppedMicroseconds: Int64 = 1_000_000
    /// Much longer than a guard needs that does its work on a busy host.
    public static let hungMicroseconds: Int64 = 5_000_000

    /// Whether a guard has been waited for long enough.
    public static func isStuck(isStopped: Bool, waitedMicroseconds: Int64) -> Bool {
        waitedMicroseconds >= (isStopped ? stoppedMicroseconds : hungMicroseconds)
    }
}
