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
    /// - Returns: how many that is.
    public static func raiseLimit() -> Int {
        var limit = rlimit()
        guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return 0 }
        if limit.rlim_cur < limit.rlim_max {
            limit.rlim_cur = limit.rlim_max
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

    public static func close(_ descriptor: Int32) { _ = Glibc.close(descriptor) }
}
