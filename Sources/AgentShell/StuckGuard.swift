internal import AgentCore
internal import UvLoop

extension StuckGuard {
    /// Kills the holder of a guard's lock if it is stuck.
    ///
    /// - Returns: the pid of who was killed.
    static func end(lock path: String, waitedMicroseconds: Int64) -> Int32? {
        guard waitedMicroseconds >= stoppedMicroseconds,
            let holder = Files.lockHolder(path: path),
            isStuck(isStopped: holder.state == "T", waitedMicroseconds: waitedMicroseconds)
        else { return nil }
        do {
            try holder.send(signal: 9)
            return holder.pid
        } catch { return nil }
    }
}
