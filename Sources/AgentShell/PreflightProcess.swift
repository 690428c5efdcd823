// What /proc and /sys tell of a QEMU process and its host, for the preflight. Everything is
// optional: a file that is not there, or not ours to read, leaves a fact unknown.

internal import AgentCore
internal import Glibc
internal import UvLoop

/// A file by what it is, not by what it is called.
struct FileIdentity: Hashable {
    var device: UInt64
    var inode: UInt64

    init?(path: String) {
        var status = stat()
        guard stat(path, &status) == 0 else { return nil }
        device = UInt64(status.st_dev)
        inode = UInt64(status.st_ino)
    }
}

/// The open files of one process, as they are now.
struct OpenFiles {
    /// By descriptor; empty if the process is gone or not ours to look at.
    let identities: [(number: String, identity: FileIdentity)]
    private let pid: Int32

    init(pid: Int32) {
        self.pid = pid
        identities = ((try? Files.list(path: "/proc/\(pid)/fd")) ?? []).compactMap { number in
            FileIdentity(path: "/proc/\(pid)/fd/\(number)").map { (number, $0) }
        }
    }

    /// What lies at the path of a file that the process has open.
    func state(of path: String, isReadOnly: Bool) -> PreflightFacts.FileState {
        guard let there = FileIdentity(path: path) else { return .missing }
        if !identities.isEmpty, !identities.contains(where: { $0.identity == there }) {
            return .replaced
        }
        guard access(path, R_OK) == 0 else { return .unreadable }
        return isReadOnly || access(path, W_OK) == 0 ? .same : .unwritable
    }

    /// The locks that the process holds on the file at `path`.
    func locks(on path: String) -> [ImageLock] {
        guard let there = FileIdentity(path: path) else { return [] }
        return identities.filter { $0.identity == there }.flatMap { entry in
            Proc.lines("/proc/\(pid)/fdinfo/\(entry.number)").filter { $0.hasPrefix("lock:") }
                .compactMap { ImageLock(line: $0) }
        }
    }
}

enum Proc {
    static func text(_ path: String) -> String? {
        guard let bytes = try? Files.read(path: path, byteCountMax: 4 << 20) else { return nil }
        return String(decoding: bytes, as: UTF8.self)
    }

    static func lines(_ path: String) -> [Substring] {
        text(path)?.split(separator: "\n") ?? []
    }

    static func number(_ path: String) -> Int? {
        text(path).flatMap { Int($0.filter { $0 != "\n" }) }
    }

    /// The numbers of a line such as `Uid:\t0\t0\t0\t0` in a file of such lines.
    static func numbers(_ name: String, of bytes: [UInt8]) -> [UInt32] {
        let lines = String(decoding: bytes, as: UTF8.self).split(separator: "\n")
        guard let line = lines.first(where: { $0.hasPrefix("\(name):") }) else { return [] }
        return line.split(whereSeparator: { $0 == "\t" || $0 == " " }).dropFirst()
            .compactMap { UInt32($0) }
    }

    /// A number such as `RssAnon:   26156 kB` in a file of such lines.
    static func kibibytes(_ name: String, in path: String) -> UInt64? {
        for line in lines(path) where line.hasPrefix("\(name):") {
            return line.split(separator: " ").dropFirst().first.flatMap { UInt64($0) }
                ?? line.split(whereSeparator: { $0 == "\t" || $0 == " " }).dropFirst().first
                .flatMap { UInt64($0) }
        }
        return nil
    }

    /// Those of other processes that the QEMU to come could not live with, and who holds them.
    static func foreignHolders(
        _ own: [ImageLock], in all: [ImageLock], qemu: Int32
    ) -> [ImageLockHolder] {
        guard !own.isEmpty else { return [] }
        let conflicts = ImageLock.conflicts(in: all, with: own)
        guard !conflicts.isEmpty else { return [] }
        var holders = Set(conflicts.filter { $0.pid > 0 }.map(\.pid))
        // The kernel does not say whose the others are: their holder has the file open.
        let anonymous = conflicts.filter { $0.pid <= 0 }
        if !anonymous.isEmpty {
            let pids = ((try? Files.list(path: "/proc")) ?? []).compactMap { Int32($0) }
            holders.formUnion(pids.filter { $0 != qemu && holds($0, anyOf: anonymous) })
        }
        guard !holders.isEmpty else { return [ImageLockHolder(pid: nil, name: "")] }
        return holders.sorted().map { pid in
            let name = text("/proc/\(pid)/comm")?.filter { $0 != "\n" } ?? ""
            return ImageLockHolder(pid: pid, name: name)
        }
    }

    private static func holds(_ pid: Int32, anyOf locks: [ImageLock]) -> Bool {
        let numbers = (try? Files.list(path: "/proc/\(pid)/fdinfo")) ?? []
        return numbers.contains { number in
            lines("/proc/\(pid)/fdinfo/\(number)").contains { line in
                line.hasPrefix("lock:")
                    && (ImageLock(line: line).map { locks.contains($0) } ?? false)
            }
        }
    }

    /// The host's taps behind the descriptors `numbers` of a process.
    static func taps(pid: Int32, _ numbers: [Int32]) -> [PreflightFacts.TapInterface] {
        numbers.compactMap { number in
            let line = lines("/proc/\(pid)/fdinfo/\(number)").first { $0.hasPrefix("iff:") }
            guard let name = line?.split(whereSeparator: { $0 == "\t" || $0 == " " }).last,
                let flags = text("/sys/class/net/\(name)/tun_flags")?.filter({ $0 != "\n" }),
                let value = UInt32(flags.dropFirst(2), radix: 16)
            else { return nil }
            return PreflightFacts.TapInterface(name: String(name), flags: value)
        }
    }

    /// How many more threads may be started here.
    static func threadRoom() -> Int? {
        let running = text("/proc/loadavg")?.split(separator: " ").dropFirst(3).first?
            .split(separator: "/").last.flatMap { Int($0) }
        var rooms: [Int] = []
        if let running {
            for limit in ["threads-max", "pid_max"] {
                if let most = number("/proc/sys/kernel/\(limit)") { rooms.append(most - running) }
            }
        }
        for line in lines("/proc/self/cgroup") {
            let fields = line.split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false)
            guard fields.count == 3, fields[1].isEmpty || fields[1] == "pids" else { continue }
            let directory = "/sys/fs/cgroup" + (fields[1].isEmpty ? "" : "/pids") + fields[2]
            if let most = number("\(directory)/pids.max"),
                let used = number("\(directory)/pids.current")
            {
                rooms.append(most - used)
            }
        }
        return rooms.min()
    }

    /// How many descriptors a QEMU that we start may have, as far as we have some left ourselves.
    ///
    /// - Parameter needed: what it will have.
    static func descriptorRoom(needed: Int) -> Int? {
        var rooms: [Int] = []
        let line = lines("/proc/self/limits").first { $0.hasPrefix("Max open files") }
        if let limit = line?.split(separator: " ").dropFirst(3).first.flatMap({ Int($0) }) {
            rooms.append(limit)
            let used = (try? Files.list(path: "/proc/self/fd"))?.count ?? 0
            rooms.append(limit - used + needed)
        }
        let host = text("/proc/sys/fs/file-nr")?.split(whereSeparator: \.isWhitespace)
            .compactMap { Int($0) }
        if let host, host.count == 3 { rooms.append(host[2] - host[0]) }
        return rooms.min()
    }
}
