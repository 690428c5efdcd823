import CUv
import Glibc

/// One call of connectTCP or connectUnix: at most one handle at a time, one completion.
private final class ConnectAttempt {
    private let loop: Loop
    private let subject: String
    private var completion: ((Result<SocketStream, UvError>) -> Void)?
    private var stream: SocketStream?
    private var limit: Timer?
    private var retry: Timer?
    /// Makes a handle and starts to connect it; a negative errno if that fails at once.
    private let open: (ConnectAttempt) -> Int32

    /// A Unix listener with a full backlog refuses with EAGAIN and cannot be waited for.
    static let retryInterval = Duration.milliseconds(5)

    init(
        on loop: Loop, subject: String, timeout: Duration,
        _ completion: @escaping (Result<SocketStream, UvError>) -> Void,
        open: @escaping (ConnectAttempt) -> Int32
    ) {
        self.loop = loop
        self.subject = subject
        self.completion = completion
        self.open = open
        limit = loop.after(timeout) { self.finish(UV_ETIMEDOUT.rawValue) }
        start()
    }

    func cancel() {
        guard completion != nil else { return }
        loop.soon { self.finish(UV_ECANCELED.rawValue) }
    }

    private func start() {
        let result = open(self)
        if result < 0 { loop.soon { self.didConnect(nil, result) } }
    }

    /// Registers the handle and a request to connect it with.
    func begin(_ stream: SocketStream) -> UnsafeMutablePointer<uv_connect_t> {
        self.stream = stream
        let request = allocateZeroed(uv_connect_t.self)
        request.pointee.data = Unmanaged.passRetained(
            Pending(attempt: self, stream: stream)
        ).toOpaque()
        return request
    }

    static func didConnect(_ request: UnsafeMutablePointer<uv_connect_t>?, _ status: Int32) {
        let pending = takeOwner(request?.pointee.data, as: Pending.self)
        request?.deallocate()
        pending.attempt.didConnect(pending.stream, status)
    }

    /// Takes back a request that libuv has not accepted.
    static func abandon(_ request: UnsafeMutablePointer<uv_connect_t>) {
        _ = takeOwner(request.pointee.data, as: Pending.self)
        request.deallocate()
    }

    private func didConnect(_ connected: SocketStream?, _ status: Int32) {
        guard completion != nil else { return }
        if status == UV_EAGAIN.rawValue {
            stream?.close()
            stream = nil
            retry = loop.after(Self.retryInterval) { self.start() }
        } else {
            finish(status)
        }
    }

    private func finish(_ status: Int32) {
        guard let completion else { return }
        self.completion = nil
        limit?.cancel()
        retry?.cancel()
        let stream = stream
        self.stream = nil
        if status == 0, let stream {
            stream.didConnect()
            completion(.success(stream))
        } else {
            stream?.close()
            let error = UvError(code: status, operation: "connect to", subject: subject)
            completion(.failure(error))
        }
    }
}

private final class Pending {
    let attempt: ConnectAttempt
    let stream: SocketStream

    init(attempt: ConnectAttempt, stream: SocketStream) {
        self.attempt = attempt
        self.stream = stream
    }
}

extension SocketStream {
    /// The longest path that fits `sun_path` with its zero.
    static let unixPathByteCountMax = 107

    /// - Parameter completion: called once, later; `ETIMEDOUT` after `timeout`.
    @discardableResult
    public static func connectTCP(
        _ address: SocketAddress, on loop: Loop, timeout: Duration,
        completion: @escaping (Result<SocketStream, UvError>) -> Void
    ) -> Cancellable {
        let attempt = ConnectAttempt(
            on: loop, subject: address.description, timeout: timeout, completion
        ) { attempt in
            let stream = SocketStream(on: loop, kind: .tcp, peer: address.description)
            let request = attempt.begin(stream)
            let result = address.withRaw {
                uv_tcp_connect(request, stream.tcp, $0) { ConnectAttempt.didConnect($0, $1) }
            }
            if result < 0 { ConnectAttempt.abandon(request) }
            return result
        }
        return Cancellable { attempt.cancel() }
    }

    /// Also waits, within `timeout`, for a listener whose backlog is full.
    ///
    /// - Parameter path: at most 107 bytes, else `ENAMETOOLONG`.
    /// - Parameter completion: called once, later; `ETIMEDOUT` after `timeout`.
    @discardableResult
    public static func connectUnix(
        path: String, on loop: Loop, timeout: Duration,
        completion: @escaping (Result<SocketStream, UvError>) -> Void
    ) -> Cancellable {
        let attempt = ConnectAttempt(on: loop, subject: path, timeout: timeout, completion) {
            attempt in
            guard path.utf8.count <= unixPathByteCountMax else { return -ENAMETOOLONG }
            let stream = SocketStream(on: loop, kind: .unix, peer: "unix:\(path)")
            // Always answers through the callback, also for what fails at once.
            uv_pipe_connect(attempt.begin(stream), stream.pipe, path) {
                ConnectAttempt.didConnect($0, $1)
            }
            return 0
        }
        return Cancellable { attempt.cancel() }
    }
}
