internal import UvLoop

/// A guard that does not end keeps its lock, and with it every agent after it from the held guests.
/// What it has done can be seen from the guests' processes, so it can be killed at any point.
enum StuckGuard {
    /// A guard that is stopped (SIGSTOP) will do nothing more.
    static let stoppedMicroseconds: Int64 = 1_000_000
    /// Much longer than a guard needs that does its work on a busy host.
    static let hungMicroseconds: Int64 = 5_000_000

    /// Kills the holder of a guard's lock if it has been waited for long enough.
    ///
    /// - Returns: the pid of who was killed.
    static func end(lock path: String, waitedMicroseconds: Int64) -> Int32? {
        guard waitedMicroseconds >= stoppedMicroseconds,
            let holder = Files.lockHolder(path: path),
            holder.state == "T" || waitedMicroseconds >= hungMicroseconds
        else { return nil }
        do {
            try holder.send(signal: 9)
            return holder.pid
        } catch { return nil }
    }
}
