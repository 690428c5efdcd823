import Glibc

extension ChildProcess {
    private static let daemonScript = "log=$1; shift; \"$@\" >>\"$log\" 2>&1 & echo $!"
    private static let daemonMilliseconds: Int32 = 10_000

    /// Starts a process that is nobody's child but the system's first one's, as a service manager
    /// wants it of what it is to look after. Waits for it, some milliseconds.
    ///
    /// - Parameters:
    ///   - executable: a path, or a name to look for in PATH.
    ///   - log: takes what it writes; what cannot be executed is said there, and ends at once.
    ///   - descriptors: what it finds at 3 and above.
    /// - Returns: its pid.
    /// - Throws: ``UvError``, `ETIMEDOUT` if no process came of it within 10 s.
    public static func spawnDaemon(
        executable: String, arguments: [String], environment: [String: String],
        workingDirectory: String, log: String, descriptors: [Stdio], on loop: Loop
    ) throws(UvError) -> Int32 {
        var ends: [Int32] = [-1, -1]
        _ = try checkErrno(Glibc.pipe(&ends), "create", "a pipe")
        let (ours, theirs) = (ends[0], ends[1])
        defer { Descriptors.close(ours) }
        do {
            defer { Descriptors.close(theirs) }
            _ = try spawn(
                executable: "/bin/sh",
                arguments: ["-c", daemonScript, "sh", log, executable] + arguments,
                environment: environment, workingDirectory: workingDirectory,
                descriptors: [.ignore, .inherit(theirs), .ignore] + descriptors, detached: true,
                on: loop
            ) { _ in }
        }
        var entry = pollfd(fd: ours, events: Int16(POLLIN), revents: 0)
        guard poll(&entry, 1, daemonMilliseconds) == 1 else {
            throw UvError(code: -ETIMEDOUT, operation: "start", subject: executable)
        }
        var bytes = [UInt8](repeating: 0, count: 32)
        let count = read(ours, &bytes, bytes.count)
        let text = String(decoding: bytes.prefix(max(0, count)).filter { $0 > 0x20 }, as: UTF8.self)
        guard let pid = Int32(text) else {
            throw UvError(code: -ECHILD, operation: "start", subject: executable)
        }
        return pid
    }
}
