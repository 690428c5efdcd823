import CUv
import Glibc

/// A socket that sends datagrams to one place: a Unix socket's path, or an address by UDP.
public final class DatagramSender {
    private var descriptor: Int32 = -1
    private let subject: String

    /// The longest path that fits `sun_path` with its zero.
    private static let pathByteCountMax = 107

    /// - Throws: ``UvError`` if nobody listens there (for a Unix socket).
    public init(unixPath path: String) throws(UvError) {
        subject = path
        guard path.utf8.count <= Self.pathByteCountMax else {
            throw UvError(code: -ENAMETOOLONG, operation: "connect to", subject: path)
        }
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: Array(path.utf8)) }
        try open(AF_UNIX)
        let target = address
        try connect { descriptor in
            withUnsafePointer(to: target) { pointer in
                pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    Glibc.connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
                }
            }
        }
    }

    public init(udp address: SocketAddress) throws(UvError) {
        subject = address.description
        let isV6 = address.ip.contains(":")
        try open(isV6 ? AF_INET6 : AF_INET)
        let size = isV6 ? MemoryLayout<sockaddr_in6>.size : MemoryLayout<sockaddr_in>.size
        try connect { descriptor in
            address.withRaw { Glibc.connect(descriptor, $0, socklen_t(size)) }
        }
    }

    deinit { if descriptor >= 0 { Descriptors.close(descriptor) } }

    private func open(_ family: Int32) throws(UvError) {
        let type = Int32(SOCK_DGRAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue)
        descriptor = try checkErrno(Glibc.socket(family, type, 0), "open a socket to", subject)
    }

    private func connect(_ body: (Int32) -> Int32) throws(UvError) {
        try checkErrno(body(descriptor), "connect to", subject)
    }

    /// Sends without waiting.
    ///
    /// - Throws: ``UvError``: `EAGAIN` while the receiver has too much to read, `EMSGSIZE`, …
    public func send(_ bytes: [UInt8]) throws(UvError) {
        let count = bytes.withUnsafeBytes {
            Glibc.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
        }
        try checkErrno(count, "send to", subject)
    }
}
