import CUv
import Glibc

/// Raw descriptors, for what is handed to a child or taken from one.
public enum Descriptors {
    /// Two connected Unix stream sockets, both close-on-exec.
    public static func socketPair() throws(UvError) -> (Int32, Int32) {
        var first: Int32 = -1
        var second: Int32 = -1
        try check(fermata_socket_pair(&first, &second), "create", "socket pair")
        return (first, second)
    }

    /// Lets this process have as many descriptors open as the system allows it.
    ///
    /// - Parameter countMax: no more than these. Children have the limit too, and some close every
    ///   number below it before they do anything.
    /// - Returns: how many that is.
    @discardableResult
    public static func raiseLimit(countMax: UInt = .max) -> Int {
        var limit = rlimit()
        guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return 0 }
        let wanted = min(limit.rlim_max, rlim_t(countMax))
        if limit.rlim_cur < wanted {
            limit.rlim_cur = wanted
            setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
            getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
        }
        return Int(clamping: limit.rlim_cur)
    }

    /// Keeps a descriptor open when this process becomes another program, or closes it then.
    public static func setInherited(_ descriptor: Int32, _ isInherited: Bool) throws(UvError) {
        try checkErrno(
            fermata_set_close_on_exec(descriptor, isInherited ? 0 : 1), "keep", "\(descriptor)")
    }

    /// A file in memory, to be read from its beginning.
    static func holding(_ bytes: [UInt8]) throws(UvError) -> Int32 {
        let descriptor = try check(fermata_memory_file(), "make", "a file in memory")
        var written = 0
        while written < bytes.count {
            let count = bytes.withUnsafeBytes {
                Glibc.write(descriptor, $0.baseAddress?.advanced(by: written), $0.count - written)
            }
            guard count > 0 else {
                let error = UvError(code: -errno, operation: "write", subject: "a file in memory")
                close(descriptor)
                throw error
            }
            written += count
        }
        lseek(descriptor, 0, SEEK_SET)
        return descriptor
    }

    public static func close(_ descriptor: Int32) { _ = Glibc.close(descriptor) }
}
