// QEMU's locks on its images.
//
// A QEMU process read-locks single bytes of an image: 100 + p for each permission p that it uses,
// 200 + p for each that it allows nobody else. It takes its own first, then looks whether anybody
// has the counterparts. A lock taken later by somebody else therefore does not disturb a QEMU that
// runs; it stops the next one, in the middle of a hand-over.
//
// Source: QEMU 7.2, block/file-posix.c, RAW_LOCK_PERM_BASE, raw_check_lock_bytes;
// proc(5), /proc/locks and /proc/PID/fdinfo.

/// A process that holds a lock on an image.
public struct ImageLockHolder: Hashable, Sendable, CustomStringConvertible {
    /// Nil if it cannot be found, as for one in another pid namespace.
    public var pid: Int32?
    public var name: String

    public init(pid: Int32?, name: String) {
        self.pid = pid
        self.name = name
    }

    public var description: String {
        pid.map { "\(name.isEmpty ? "process" : name) (pid \($0))" } ?? "an unknown process"
    }
}

/// One line of /proc/locks, or of the `lock:` lines of /proc/PID/fdinfo.
public struct ImageLock: Hashable, Sendable {
    public var isWrite: Bool
    /// Not known (-1) of the open-file-description locks that QEMU takes.
    public var pid: Int32
    /// Device and inode, as the kernel writes them.
    public var file: String
    public var first: UInt64
    public var last: UInt64

    public init(isWrite: Bool, pid: Int32, file: String, first: UInt64, last: UInt64) {
        self.isWrite = isWrite
        self.pid = pid
        self.file = file
        self.first = first
        self.last = last
    }

    /// - Parameter line: with or without `lock:` in front.
    /// - Returns: nil for a lock of another kind, such as flock(2)'s, or one that still waits.
    public init?(line: some StringProtocol) {
        var words = line.split(whereSeparator: { $0 == " " || $0 == "\t" })[...]
        if words.first == "lock:" { words.removeFirst() }
        guard words.count == 8, ["OFDLCK", "POSIX"].contains(words[words.startIndex + 1]) else {
            return nil
        }
        let fields = words.map { String($0) }
        guard fields[3] == "READ" || fields[3] == "WRITE", let pid = Int32(fields[4]),
            let first = UInt64(fields[6]),
            let last = fields[7] == "EOF" ? UInt64.max : UInt64(fields[7]), first <= last
        else { return nil }
        self.init(
            isWrite: fields[3] == "WRITE", pid: pid, file: fields[5], first: first, last: last)
    }

    /// Those that a QEMU with the locks `own` could not live with if it were started now.
    ///
    /// - Parameters:
    ///   - all: of the whole host, `own` among them.
    ///   - own: of the QEMU that runs, on one image.
    public static func conflicts(in all: [ImageLock], with own: [ImageLock]) -> [ImageLock] {
        let files = Set(own.map(\.file))
        var foreign = all.filter { files.contains($0.file) }
        for lock in own {
            if let index = foreign.firstIndex(of: lock) { foreign.remove(at: index) }
        }
        return foreign.filter { lock in
            own.contains { mine in
                (mine.first...mine.last).prefix(256).contains { byte in
                    let counterpart: UInt64? =
                        switch byte {
                        case 100..<200: byte + 100
                        case 200..<300: byte - 100
                        default: nil
                        }
                    let covered = lock.first...lock.last
                    return counterpart.map(covered.contains) ?? false
                        || lock.isWrite && covered.contains(byte)
                }
            }
        }
    }
}
