import CUv
import Glibc

/// Blocking file calls, for small files and off the critical path.
public enum Files {
    public enum Kind: Hashable, Sendable {
        case regular, directory, socket, fifo, characterDevice, blockDevice, other
    }

    /// Reads a whole file; also those of /proc, which say that they are empty.
    ///
    /// - Throws: ``UvError``: `EFBIG` if it has more than `byteCountMax` bytes, `EISDIR`, …
    public static func read(path: String, byteCountMax: Int) throws(UvError) -> [UInt8] {
        let descriptor = try checkErrno(Glibc.open(path, O_RDONLY | O_CLOEXEC), "open", path)
        defer { Descriptors.close(descriptor) }
        var bytes: [UInt8] = []
        try forEachChunk(of: descriptor, path) { chunk throws(UvError) in
            guard bytes.count + chunk.count <= byteCountMax else {
                throw UvError(code: -EFBIG, operation: "read", subject: path)
            }
            bytes.append(contentsOf: chunk)
        }
        return bytes
    }

    /// The last bytes of a file that may be large.
    public static func readEnd(path: String, byteCount: Int) throws(UvError) -> [UInt8] {
        let descriptor = try checkErrno(Glibc.open(path, O_RDONLY | O_CLOEXEC), "open", path)
        defer { Descriptors.close(descriptor) }
        let size = try checkErrno(lseek(descriptor, 0, SEEK_END), "read", path)
        try checkErrno(lseek(descriptor, max(0, size - byteCount), SEEK_SET), "read", path)
        var bytes: [UInt8] = []
        try forEachChunk(of: descriptor, path) { chunk throws(UvError) in
            bytes.append(contentsOf: chunk)
        }
        return [UInt8](bytes.prefix(byteCount))
    }

    static func forEachChunk(
        of descriptor: Int32, _ path: String,
        _ body: (UnsafeRawBufferPointer) throws(UvError) -> Void
    ) throws(UvError) {
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 262_144, alignment: 16)
        defer { buffer.deallocate() }
        while true {
            let count = Glibc.read(descriptor, buffer.baseAddress, buffer.count)
            if count < 0, errno == EINTR { continue }
            try checkErrno(count, "read", path)
            guard count > 0 else { return }
            try body(UnsafeRawBufferPointer(rebasing: buffer[..<count]))
        }
    }

    /// Replaces a file so that a reader sees the old bytes or the new ones, never a part.
    ///
    /// - Parameters:
    ///   - durable: fsync the file and its directory, so that a crash of the host keeps it.
    ///   - mode: permission bits, whatever the umask.
    public static func writeAtomically(
        path: String, bytes: [UInt8], durable: Bool, mode: UInt32 = 0o644
    ) throws(UvError) {
        let suffix = randomName(byteCount: 6)
        let temporary = "\(path).\(suffix).new"
        do {
            try create(path: temporary, bytes: bytes, durable: durable, mode: mode)
            try checkErrno(Glibc.rename(temporary, path), "replace", path)
        } catch {
            Glibc.unlink(temporary)
            throw error
        }
        if durable { try synchronizeDirectory(of: path) }
    }

    /// Makes `path` another name of the file `original`, whatever had that name before.
    public static func replaceByLink(path: String, to original: String) throws(UvError) {
        let temporary = "\(path).new"
        Glibc.unlink(temporary)
        try checkErrno(Glibc.link(original, temporary), "link", temporary)
        try checkErrno(Glibc.rename(temporary, path), "replace", path)
        // A rename between two names of one file leaves both.
        Glibc.unlink(temporary)
        try synchronizeDirectory(of: path)
    }

    /// Gives a file another name, durably; a file that had that name is gone.
    public static func rename(from: String, to path: String) throws(UvError) {
        try checkErrno(Glibc.rename(from, path), "rename to \(path)", from)
        try synchronizeDirectory(of: path)
    }

    /// Writes a new file.
    ///
    /// - Throws: ``UvError``: `EEXIST` if there is one. A file that could not be written whole
    ///   is removed.
    public static func create(
        path: String, bytes: [UInt8], durable: Bool, mode: UInt32 = 0o644
    ) throws(UvError) {
        let flags = O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC
        let descriptor = try checkErrno(Glibc.open(path, flags, mode), "create", path)
        defer { Descriptors.close(descriptor) }
        do {
            try checkErrno(fchmod(descriptor, mode), "set the mode of", path)
            try writeAll(descriptor, bytes, path)
            if durable { try checkErrno(fsync(descriptor), "fsync", path) }
        } catch {
            Glibc.unlink(path)
            throw error
        }
    }

    /// Adds to the end of a file in one write, and creates it (mode 0644) if missing.
    public static func append(path: String, bytes: [UInt8], durable: Bool) throws(UvError) {
        let flags = O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC
        let descriptor = try checkErrno(Glibc.open(path, flags, 0o644), "open", path)
        defer { Descriptors.close(descriptor) }
        try writeAll(descriptor, bytes, path)
        if durable { try checkErrno(fsync(descriptor), "fsync", path) }
    }

    fileprivate static func writeAll(
        _ descriptor: Int32, _ bytes: [UInt8], _ path: String
    ) throws(UvError) {
        var written = 0
        while written < bytes.count {
            let count = bytes.withUnsafeBytes { buffer in
                Glibc.write(
                    descriptor, buffer.baseAddress.map { $0 + written }, bytes.count - written)
            }
            if count < 0, errno == EINTR { continue }
            written += try checkErrno(count, "write", path)
        }
    }

    private static func synchronizeDirectory(of path: String) throws(UvError) {
        let directory = parent(of: path)
        let descriptor = try checkErrno(
            Glibc.open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC), "open", directory)
        defer { Descriptors.close(descriptor) }
        try checkErrno(fsync(descriptor), "fsync", directory)
    }

    private static func parent(of path: String) -> String {
        guard let slash = path.lastIndex(of: "/") else { return "." }
        return slash == path.startIndex ? "/" : String(path[..<slash])
    }

    /// - Parameter parents: also make missing directories above, and accept one that exists.
    public static func makeDirectory(
        path: String, mode: UInt32 = 0o755, parents: Bool
    ) throws(UvError) {
        if parents, kind(path: path) == .directory { return }
        let above = parent(of: path)
        if parents, above != path, kind(path: above) != .directory {
            try makeDirectory(path: above, mode: mode, parents: true)
        }
        let result = Glibc.mkdir(path, mode)
        let code = -errno
        guard result != 0 else { return }
        // Another process may have made it meanwhile.
        if parents, code == -EEXIST, kind(path: path) == .directory { return }
        throw UvError(code: code, operation: "make directory", subject: path)
    }

    /// Removes a file, a socket, a symlink or an empty directory.
    public static func remove(path: String) throws(UvError) {
        try checkErrno(Glibc.remove(path), "remove", path)
    }

    /// Removes a directory and all in it, following no symlink; nothing is wrong if it is missing.
    public static func removeTree(path: String) throws(UvError) {
        if statusOfLink(path)?.isDirectory == true {
            for name in try list(path: path) { try removeTree(path: "\(path)/\(name)") }
        }
        let result = Glibc.remove(path)
        let code = -errno
        guard result == 0 || code == -ENOENT else {
            throw UvError(code: code, operation: "remove", subject: path)
        }
    }

    /// The names in a directory, sorted, without `.` and `..`.
    public static func list(path: String) throws(UvError) -> [String] {
        guard let directory = opendir(path) else {
            throw UvError(code: -errno, operation: "list", subject: path)
        }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafeBytes(of: &entry.pointee.d_name) { bytes in
                String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
            }
            if name != ".", name != ".." { names.append(name) }
        }
        return names.sorted()
    }

    /// Follows symlinks.
    public static func exists(path: String) -> Bool { status(path) != nil }

    /// Follows symlinks; nil if there is nothing, or nothing we may see.
    public static func kind(path: String) -> Kind? { status(path)?.kind }

    /// Whether nothing has that name, as far as one can know: not if we may not look.
    public static func isAbsent(path: String) -> Bool {
        var status = stat()
        return lstat(path, &status) != 0 && (errno == ENOENT || errno == ENOTDIR)
    }

    /// Whether it is a regular file that we may execute.
    public static func isExecutable(path: String) -> Bool {
        kind(path: path) == .regular && access(path, X_OK) == 0
    }

    public static func isReadable(path: String) -> Bool { access(path, R_OK) == 0 }

    public static func isWritableDirectory(path: String) -> Bool {
        kind(path: path) == .directory && access(path, W_OK | X_OK) == 0
    }

    /// When it was last changed, in seconds since 1970.
    public static func modified(path: String) throws(UvError) -> Int {
        guard let status = status(path) else {
            throw UvError(code: -ENOENT, operation: "look at", subject: path)
        }
        return status.st_mtim.tv_sec
    }

    /// A file's length in bytes.
    public static func size(path: String) throws(UvError) -> UInt64 {
        var status = stat()
        try checkErrno(stat(path, &status), "look at", path)
        return UInt64(max(0, status.st_size))
    }

    /// The user whose a file is, of a symlink its own; nil if there is nothing, or nothing we may see.
    public static func owner(path: String) -> UInt32? { statusOfLink(path)?.st_uid }

    /// The permission bits of a file.
    public static func mode(path: String) throws(UvError) -> UInt32 {
        var status = stat()
        try checkErrno(stat(path, &status), "look at", path)
        return status.st_mode & 0o7777
    }

    /// What an ordinary process may still write to the file system that holds `path`.
    public static func freeBytes(path: String) throws(UvError) -> UInt64 {
        var status = statvfs()
        try checkErrno(statvfs(path, &status), "look at the file system of", path)
        return UInt64(status.f_bavail) * UInt64(status.f_frsize)
    }

    /// What a symlink points to; also those of /proc.
    public static func link(pathOfSymlink path: String) throws(UvError) -> String {
        var buffer = [UInt8](repeating: 0, count: Int(PATH_MAX) + 1)
        let count = buffer.withUnsafeMutableBytes { bytes in
            guard let base = bytes.baseAddress else { return 0 }
            return readlink(path, base.assumingMemoryBound(to: CChar.self), bytes.count)
        }
        try checkErrno(count, "read link", path)
        return String(decoding: buffer[..<count], as: UTF8.self)
    }

    /// Takes the exclusive lock (flock) of the file at `path`, creating it if missing.
    ///
    /// - Throws: ``UvError``, `EAGAIN` if another process has it.
    public static func lock(path: String) throws(UvError) -> FileLock {
        let flags = O_RDWR | O_CREAT | O_CLOEXEC
        let descriptor = try checkErrno(Glibc.open(path, flags, 0o600), "open", path)
        let result = fermata_lock_exclusive(descriptor)
        guard result == 0 else {
            Descriptors.close(descriptor)
            throw UvError(code: result, operation: "lock", subject: path)
        }
        return FileLock(descriptor)
    }

    /// When the file's content was changed or the file was touched, since 1970.
    public static func changedAtSeconds(path: String) throws(UvError) -> Int64 {
        var status = stat()
        try checkErrno(stat(path, &status), "look at", path)
        return Int64(status.st_mtim.tv_sec)
    }

    /// Makes now the time of the file's last change, if it can.
    public static func touch(path: String) { _ = utimensat(AT_FDCWD, path, nil, 0) }

    /// Who holds the lock that ``lock(path:)`` takes.
    ///
    /// - Returns: nil if nobody does, or if it cannot be told from here, as with a process of
    ///   another PID namespace.
    /// - Source: proc(5), `/proc/locks`: `1: FLOCK  ADVISORY  WRITE 4711 00:19:81 0 EOF`, where a
    ///   waiting process has `->` in front of `FLOCK`.
    public static func lockHolder(path: String) -> ProcessReference? {
        guard let file = status(path),
            let bytes = try? read(path: "/proc/locks", byteCountMax: 1 << 24)
        else { return nil }
        for line in String(decoding: bytes, as: UTF8.self).split(separator: "\n") {
            let words = line.split(separator: " ")
            // The device is not compared: some file systems show another one to stat(2).
            guard words.count >= 6, words[1] == "FLOCK", let pid = Int32(words[4]), pid > 0,
                words[5].hasSuffix(":\(file.st_ino)"),
                let process = try? ProcessReference(pid: pid), hasOpen(process, file)
            else { continue }
            return process
        }
        return nil
    }

    /// Asked after the pidfd is there, this also tells that the pid has not changed hands.
    private static func hasOpen(_ process: ProcessReference, _ file: stat) -> Bool {
        let directory = "/proc/\(process.pid)/fd"
        return ((try? list(path: directory)) ?? []).contains { number in
            guard let open = status("\(directory)/\(number)") else { return false }
            return open.st_dev == file.st_dev && open.st_ino == file.st_ino
        }
    }

    private static func status(_ path: String) -> stat? {
        var status = stat()
        return stat(path, &status) == 0 ? status : nil
    }

    private static func statusOfLink(_ path: String) -> stat? {
        var status = stat()
        return lstat(path, &status) == 0 ? status : nil
    }
}

extension stat {
    fileprivate var isDirectory: Bool { st_mode & S_IFMT == S_IFDIR }

    fileprivate var kind: Files.Kind {
        switch st_mode & S_IFMT {
        case S_IFREG: .regular
        case S_IFDIR: .directory
        case S_IFSOCK: .socket
        case S_IFIFO: .fifo
        case S_IFCHR: .characterDevice
        case S_IFBLK: .blockDevice
        default: .other
        }
    }
}

/// A file that is added to, found by its name once: whoever replaces it by another one of that name
/// gets nothing of what is added later.
public final class AppendFile {
    private let descriptor: Int32
    private let path: String

    /// - Throws: ``UvError``, `ENOENT` if there is no such file.
    public init(path: String) throws(UvError) {
        let flags = O_WRONLY | O_APPEND | O_CLOEXEC
        descriptor = try checkErrno(Glibc.open(path, flags), "open", path)
        self.path = path
    }

    deinit { Descriptors.close(descriptor) }

    /// Adds `bytes` in one write.
    public func append(_ bytes: [UInt8]) throws(UvError) {
        try Files.writeAll(descriptor, bytes, path)
    }
}

/// A lock on a file, which the kernel also releases when the process dies.
public final class FileLock {
    private var descriptor: Int32

    fileprivate init(_ descriptor: Int32) { self.descriptor = descriptor }

    deinit { release() }

    /// Harmless when repeated.
    public func release() {
        guard descriptor >= 0 else { return }
        // Closing alone leaves it to a child that was forked and has not called exec yet.
        _ = fermata_unlock(descriptor)
        Descriptors.close(descriptor)
        descriptor = -1
    }
}
