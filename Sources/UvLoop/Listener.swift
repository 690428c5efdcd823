import CUv
import Glibc

/// Accepts connections until closed.
public final class Listener {
    private let socket: SocketStream
    private let onConnection: (SocketStream) -> Void
    private let kind: SocketStream.Kind
    private var isOpen = true

    /// Where it listens, with the real port if 0 was asked for; nil for a Unix socket.
    public let address: SocketAddress?

    static let backlog: Int32 = 1_024

    private init(
        _ socket: SocketStream, _ kind: SocketStream.Kind, subject: String,
        _ onConnection: @escaping (SocketStream) -> Void
    ) throws(UvError) {
        self.socket = socket
        self.kind = kind
        self.onConnection = onConnection
        // SocketStream owns the `data` pointer; through this closure it also keeps the listener.
        var address: SocketAddress?
        let result = uv_listen(socket.stream, Self.backlog) { handle, status in
            guard status == 0 else { return }
            owner(handle?.pointee.data, as: SocketStream.self).onIncoming?()
        }
        if result == 0, kind == .tcp { address = tcpAddress(socket.tcp, uv_tcp_getsockname) }
        self.address = address
        guard result == 0 else {
            socket.close()
            throw UvError(code: result, operation: "listen on", subject: subject)
        }
        socket.onIncoming = { self.accept() }
    }

    private func accept() {
        let stream = SocketStream(on: socket.loop, kind: kind, peer: "unix")
        guard isOpen, uv_accept(socket.stream, stream.stream) == 0 else { return stream.close() }
        stream.didConnect()
        onConnection(stream)
    }

    /// - Parameter address: port 0 lets the kernel choose one.
    /// - Throws: ``UvError``, `EADDRINUSE` if another process listens there.
    public static func tcp(
        _ address: SocketAddress, on loop: Loop,
        onConnection: @escaping (SocketStream) -> Void
    ) throws(UvError) -> Listener {
        let subject = address.description
        let socket = SocketStream(on: loop, kind: .tcp, peer: subject)
        let result = address.withRaw { uv_tcp_bind(socket.tcp, $0, 0) }
        guard result == 0 else {
            socket.close()
            throw UvError(code: result, operation: "listen on", subject: subject)
        }
        return try Listener(socket, .tcp, subject: subject, onConnection)
    }

    /// Replaces a socket that a dead process has left at `path`; removes its own when closed.
    ///
    /// - Parameter path: at most 107 bytes, else `ENAMETOOLONG`.
    /// - Throws: ``UvError``, `EADDRINUSE` if a process listens there or `path` is no socket.
    public static func unix(
        path: String, on loop: Loop, onConnection: @escaping (SocketStream) -> Void
    ) throws(UvError) -> Listener {
        guard path.utf8.count <= SocketStream.unixPathByteCountMax else {
            throw UvError(code: -ENAMETOOLONG, operation: "listen on", subject: path)
        }
        if Files.kind(path: path) == .socket, fermata_unix_socket_is_served(path) == 0 {
            Glibc.unlink(path)
        }
        let socket = SocketStream(on: loop, kind: .unix, peer: "unix:\(path)")
        let result = uv_pipe_bind(socket.pipe, path)
        guard result == 0 else {
            socket.close()
            throw UvError(code: result, operation: "listen on", subject: path)
        }
        return try Listener(socket, .unix, subject: path, onConnection)
    }

    /// Stops accepting. Connections accepted before stay. Harmless when repeated.
    public func close() {
        isOpen = false
        socket.onIncoming = nil
        socket.close()
    }
}
