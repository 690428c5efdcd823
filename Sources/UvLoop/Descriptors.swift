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

    public static func close(_ descriptor: Int32) { _ = Glibc.close(descriptor) }
}
