import Glibc

/// A cgroup (version 2) below our own: everything that is started in it can be killed at once, however
/// it has forked.
///
/// - Source: Linux, `Documentation/admin-guide/cgroup-v2.rst`.
public struct ControlGroup: Hashable, Sendable {
    /// Absolute path of its directory.
    public let path: String

    /// One that exists already, or did.
    public init(path: String) { self.path = path }

    /// Makes one below the group of this process; one of that name that is there already is taken.
    ///
    /// - Throws: ``UvError``: `ENOENT` where cgroup 2 is not mounted, `EROFS` or `EACCES` where it may
    ///   not be changed, as in many containers.
    public static func make(name: String) throws(UvError) -> ControlGroup {
        let group = ControlGroup(path: try "\(path(of: "self"))/\(name)")
        try Files.makeDirectory(path: group.path, parents: true)
        return group
    }

    /// Removes those below the group of this process that are empty and whose name begins so.
    public static func removeEmpty(namePrefix: String) {
        guard let own = try? path(of: "self"), let names = try? Files.list(path: own) else {
            return
        }
        for name in names where name.hasPrefix(namePrefix) {
            ControlGroup(path: "\(own)/\(name)").removeIfEmpty()
        }
    }

    /// A process that writes 0 into this moves itself.
    public var membersPath: String { "\(path)/cgroup.procs" }

    /// SIGKILL to all in it and below.
    ///
    /// - Throws: ``UvError``, `ENOENT` if it is gone, or before Linux 5.14.
    public func kill() throws(UvError) {
        let descriptor = try checkErrno(
            Glibc.open("\(path)/cgroup.kill", O_WRONLY | O_CLOEXEC), "kill", path)
        defer { Descriptors.close(descriptor) }
        try checkErrno(Glibc.write(descriptor, "1", 1), "kill", path)
    }

    /// Whether a process lives in it or below; false if the group is gone.
    public var isPopulated: Bool {
        guard let bytes = try? Files.read(path: "\(path)/cgroup.events", byteCountMax: 4_096)
        else { return false }
        return String(decoding: bytes, as: UTF8.self).contains("populated 1")
    }

    /// Removes it if it is empty.
    public func removeIfEmpty() { Glibc.rmdir(path) }

    /// The directory of the group that a process is in.
    ///
    /// - Parameter process: a pid, or `self`.
    /// - Throws: as ``make(name:)``, and `ENOENT` if there is no such process.
    public static func path(of process: String) throws(UvError) -> String {
        let mounts = try Files.read(path: "/proc/self/mountinfo", byteCountMax: 4 << 20)
        let groups = try Files.read(path: "/proc/\(process)/cgroup", byteCountMax: 65_536)
        let path = String(decoding: groups, as: UTF8.self).split(separator: "\n")
            .first { $0.hasPrefix("0::/") }?.dropFirst(3)
        for line in String(decoding: mounts, as: UTF8.self).split(separator: "\n") {
            // id parent device root mountpoint options … - type source options
            let fields = line.split(separator: " ")
            guard let dash = fields.firstIndex(of: "-"), fields.count > dash + 1, dash > 4,
                fields[dash + 1] == "cgroup2", let path
            else { continue }
            return path == "/" ? String(fields[4]) : "\(fields[4])\(path)"
        }
        throw UvError(code: -ENOENT, operation: "find", subject: "cgroup 2")
    }
}

extension ProcessReference {
    /// Sends a signal to every process of a process group; a group that is gone is as good.
    public static func signalGroup(_ pid: Int32, _ signal: Int32) {
        guard pid > 1 else { return }
        Glibc.kill(-pid, signal)
    }
}
