internal import HostConfiguration
internal import UvLoop

/// Writes out what the host still caches of the guests' disks, while they run.
///
/// QEMU flushes every disk when it stops a guest. What has been written out before need not be then.
enum DiskFlush {
    private static let limit: Duration = .seconds(5)

    /// - Parameter completion: called once, also if flushing fails or takes too long.
    static func run(
        _ guests: [GuestConfiguration], _ loop: Loop, _ completion: @escaping () -> Void
    ) {
        let paths = guests.flatMap(\.disks).filter { !$0.readOnly }.map(\.path)
        guard !paths.isEmpty else { return loop.soon(completion) }
        var isOver = false
        let end = {
            guard !isOver else { return }
            isOver = true
            completion()
        }
        let timer = loop.after(limit) { end() }
        do {
            _ = try ChildProcess.spawn(
                executable: "sync", arguments: ["--data", "--"] + paths, on: loop
            ) { _ in
                timer.cancel()
                end()
            }
        } catch {
            timer.cancel()
            loop.soon(end)
        }
    }
}
