import CUv
import Glibc

/// A process, held by a pidfd: a signal sent through it never hits another process that has got
/// the same pid since. Works for any process, not only children.
public final class ProcessReference {
    public let pid: Int32
    private let descriptor: Int32

    /// - Throws: ``UvError``, `ESRCH` if no process has that pid.
    public init(pid: Int32) throws(UvError) {
        self.pid = pid
        descriptor = try check(fermata_pidfd_open(pid), "open", "process \(pid)")
    }

    deinit { Descriptors.close(descriptor) }

    /// - Throws: ``UvError``, `ESRCH` if it is gone.
    public func send(signal: Int32) throws(UvError) {
        try check(
            fermata_pidfd_send_signal(descriptor, signal), "send signal \(signal) to",
            "process \(pid)")
    }

    /// Whether it has ended: true from when it is a zombie. It runs no more code then.
    public var hasExited: Bool {
        var entry = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        return Glibc.poll(&entry, 1, 0) == 1
    }

    /// The letter that the kernel shows for its first thread: `R`, `S`, `T` (stopped), `Z`, …
    ///
    /// - Returns: nil if it is gone.
    public var state: Character? {
        guard let stat = try? Files.read(path: "/proc/\(pid)/stat", byteCountMax: 4_096),
            let name = stat.lastIndex(of: UInt8(ascii: ")")), name + 2 < stat.count
        else { return nil }
        return Character(Unicode.Scalar(stat[name + 2]))
    }

    /// Calls `body` once, when it has ended. The loop keeps the watch alive, whatever becomes of
    /// this reference.
    public func onExit(on loop: Loop, _ body: @escaping () -> Void) throws(UvError) {
        let copy = try check(fermata_duplicate(descriptor), "watch", "process \(pid)")
        var watch: DescriptorWatch?
        watch = try DescriptorWatch(on: loop, descriptor: copy, owned: true) {
            watch?.cancel()
            watch = nil
            body()
        }
    }

    /// A copy of the process's descriptor `number`, close-on-exec; the caller closes it.
    ///
    /// - Throws: ``UvError``: `EBADF` if it has none of that number, `EPERM` without the right to
    ///   trace it, `ESRCH` if it is gone.
    public func duplicateDescriptor(_ number: Int32) throws(UvError) -> Int32 {
        try check(
            fermata_pidfd_getfd(descriptor, number), "copy descriptor \(number) of",
            "process \(pid)")
    }
}
