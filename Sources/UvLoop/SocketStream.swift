// A TCP or Unix stream.
//
//   open ──peer's end──▶ draining ──all written──▶ lingering ──peer's end, 2 s──▶ closing ──▶ closed
//    │  └─closeAfterWriting()─┘ └──────────── error, 10 s, close() ────────────────▲
//    └────────────────────────── error, close() ───────────────────────────────────┘
//
// draining: no new writes; what is queued still goes out.
// lingering: our half is shut down; what the peer still sends is read and dropped. Closing with
//   unread bytes would make the kernel send a reset, which can destroy our last words on their way.
// closing: uv_close was called; onEnd comes from its callback unless it was called before.
//
// A failed write does not end the stream at once if it is being read: the peer's last words
// (why it refuses us, say) may still be in the socket, and the read end reports the rest.

import CUv
public import Edges
import Glibc

/// A connected TCP or Unix stream socket. TCP_NODELAY is always on.
public final class SocketStream: ByteStream, LoopOwned {
    enum Kind { case tcp, unix }

    private enum State { case open, draining, lingering, closing, closed }

    static let drainLimit = Duration.seconds(10)
    static let lingerLimit = Duration.seconds(2)
    /// After a failed write the read end normally reports within microseconds.
    static let failedWriteGrace = Duration.seconds(1)

    let loop: Loop
    let raw: UnsafeMutableRawPointer
    private let kind: Kind
    private var state = State.open
    private var isReading = false
    private var hasReadEnd = false
    private var hasDeliveredEnd = false
    private var pendingEnd = StreamEnd.closedHere
    private var writeFailure: UvError?
    private var limit: Timer?

    /// `1.2.3.4:99`, `unix:PATH`, or `unix` when the peer has no name.
    public internal(set) var peer: String
    /// Numeric address of a TCP peer.
    public private(set) var peerIP: String?

    public var onBytes: ((UnsafeRawBufferPointer) -> Void)? {
        didSet { updateReading() }
    }
    public var onEnd: ((StreamEnd) -> Void)?
    /// For a ``Listener``'s handle: a connection waits to be accepted.
    var onIncoming: (() -> Void)?

    var stream: UnsafeMutablePointer<uv_stream_t> {
        raw.assumingMemoryBound(to: uv_stream_t.self)
    }
    var tcp: UnsafeMutablePointer<uv_tcp_t> { raw.assumingMemoryBound(to: uv_tcp_t.self) }
    var pipe: UnsafeMutablePointer<uv_pipe_t> { raw.assumingMemoryBound(to: uv_pipe_t.self) }

    /// An unconnected handle on the loop; whoever makes it connects, accepts or closes it.
    init(on loop: Loop, kind: Kind, peer: String) {
        self.loop = loop
        self.kind = kind
        self.peer = peer
        let byteCount = uv_handle_size(kind == .tcp ? UV_TCP : UV_NAMED_PIPE)
        raw = .allocate(byteCount: byteCount, alignment: 16)
        memset(raw, 0, byteCount)
        let result =
            switch kind {
            case .tcp: uv_tcp_init(loop.raw, tcp)
            case .unix: uv_pipe_init(loop.raw, pipe, 0)
            }
        precondition(result == 0, "libuv could not initialise a stream: \(result)")
        asHandle(raw).pointee.data = Unmanaged.passRetained(self).toOpaque()
    }

    /// Takes over a connected stream socket, such as one end of a pair.
    ///
    /// - Throws: ``UvError`` if it is none; the descriptor then stays the caller's.
    public static func adopt(descriptor: Int32, on loop: Loop) throws(UvError) -> SocketStream {
        let subject = "descriptor \(descriptor)"
        let family = try check(fermata_socket_family(descriptor), "adopt", subject)
        let stream = SocketStream(
            on: loop, kind: family == AF_UNIX ? .unix : .tcp, peer: "unix")
        let result =
            family == AF_UNIX
            ? uv_pipe_open(stream.pipe, descriptor) : uv_tcp_open(stream.tcp, descriptor)
        guard result == 0 else {
            stream.close()
            throw UvError(code: result, operation: "adopt", subject: subject)
        }
        stream.didConnect()
        return stream
    }

    func didConnect() {
        guard kind == .tcp else { return }
        uv_tcp_nodelay(tcp, 1)
        if let address = tcpAddress(tcp, uv_tcp_getpeername) {
            peer = address.description
            peerIP = address.ip
        }
    }

    // MARK: Reading

    private func updateReading() {
        guard state == .open, !hasReadEnd else { return }
        if onBytes != nil { startReading() } else { stopReading() }
    }

    private func startReading() {
        guard !isReading else { return }
        let result = uv_read_start(
            stream,
            { handle, _, buffer in
                let loop = owner(handle?.pointee.data, as: SocketStream.self).loop
                buffer?.pointee = uv_buf_init(
                    loop.readBuffer.baseAddress?.assumingMemoryBound(to: CChar.self),
                    UInt32(loop.readBuffer.count))
            },
            { handle, count, _ in
                owner(handle?.pointee.data, as: SocketStream.self).didRead(count)
            })
        if result == 0 {
            isReading = true
        } else {
            finish(.failed(error(result, "read")))
        }
    }

    private func stopReading() {
        guard isReading else { return }
        uv_read_stop(stream)
        isReading = false
    }

    private func didRead(_ count: Int) {
        if count > 0 {
            // A copy keeps the closure alive while it replaces itself.
            if state == .open, let onBytes {
                onBytes(UnsafeRawBufferPointer(rebasing: loop.readBuffer[..<count]))
            }
        } else if count < 0 {
            stopReading()
            hasReadEnd = true
            didReadEnd(Int32(count))
        }
    }

    private func didReadEnd(_ code: Int32) {
        let isEnd = code == UV_EOF.rawValue
        switch state {
        case .open where isEnd && writeFailure == nil:
            deliverEnd(.endOfFile)
            startDraining()
        case .open:
            finish(.failed(writeFailure ?? error(code, "read")))
        case .draining:
            if !isEnd { finish(.failed(error(code, "read"))) }
        case .lingering:
            finish(.closedHere)
        case .closing, .closed: break
        }
    }

    // MARK: Writing

    public var queuedByteCount: Int {
        state == .closed ? 0 : uv_stream_get_write_queue_size(stream)
    }

    /// Bytes written that a TCP peer has not acknowledged, wherever they are; nil when that cannot be told
    /// any more. What it has acknowledged is with its kernel, and not always with its program.
    public var unacknowledgedByteCount: Int? {
        guard kind == .tcp, state == .open || state == .draining, writeFailure == nil else {
            return nil
        }
        var descriptor: Int32 = -1
        guard uv_fileno(asHandle(raw), &descriptor) == 0 else { return nil }
        let count = fermata_unacknowledged(descriptor)
        return count < 0 ? nil : Int(count) + uv_stream_get_write_queue_size(stream)
    }

    public func write(_ bytes: [UInt8]) { write(bytes, then: nil) }

    public func write(_ bytes: [UInt8], completion: @escaping (UvError?) -> Void) {
        write(bytes, then: completion)
    }

    private func write(_ bytes: [UInt8], then completion: ((UvError?) -> Void)?) {
        guard state == .open, writeFailure == nil else {
            let failure = writeFailure ?? error(UV_ECANCELED.rawValue, "write")
            if let completion { loop.soon { completion(failure) } }
            return
        }
        var written = 0
        if uv_stream_get_write_queue_size(stream) == 0 {
            let result = bytes.withUnsafeBytes { buffer in
                var part = uvBuffer(buffer)
                return uv_try_write(stream, &part, 1)
            }
            if result >= 0 {
                written = Int(result)
            } else if result != UV_EAGAIN.rawValue {
                let failure = error(result, "write")
                if let completion { loop.soon { completion(failure) } }
                return didFailToWrite(failure)
            }
        }
        guard written < bytes.count else {
            if let completion { loop.soon { completion(nil) } }
            return
        }
        bytes.withUnsafeBytes {
            queue(UnsafeRawBufferPointer(rebasing: $0[written...]), completion)
        }
    }

    private func queue(_ bytes: UnsafeRawBufferPointer, _ completion: ((UvError?) -> Void)?) {
        let request = WriteRequest(self, bytes, completion)
        var part = uvBuffer(UnsafeRawBufferPointer(request.bytes))
        request.raw.pointee.data = Unmanaged.passRetained(request).toOpaque()
        let result = uv_write(request.raw, stream, &part, 1) { raw, status in
            takeOwner(raw?.pointee.data, as: WriteRequest.self).finish(status)
        }
        if result != 0 {
            Unmanaged.passUnretained(request).release()
            loop.soon { request.finish(result) }
        }
    }

    fileprivate func didWrite(_ status: Int32) -> UvError? {
        guard status == 0 else {
            let failure = error(status, "write")
            didFailToWrite(failure)
            return failure
        }
        if state == .draining, uv_stream_get_write_queue_size(stream) == 0 { didDrain() }
        return nil
    }

    private func didFailToWrite(_ failure: UvError) {
        guard state == .open || state == .draining else { return }
        if state == .open, isReading {
            guard writeFailure == nil else { return }
            writeFailure = failure
            limit = loop.after(Self.failedWriteGrace) { [unowned self] in finish(.failed(failure)) }
        } else {
            finish(.failed(failure))
        }
    }

    // MARK: Ending

    public func close() { finish(.closedHere) }

    public func closeAfterWriting() {
        guard state == .open else { return }
        if writeFailure != nil { return finish(.closedHere) }
        startDraining()
    }

    private func startDraining() {
        guard state == .open else { return }
        state = .draining
        limit?.cancel()
        limit = loop.after(Self.drainLimit) { [unowned self] in
            finish(.failed(error(UV_ETIMEDOUT.rawValue, "write")))
        }
        if uv_stream_get_write_queue_size(stream) == 0 {
            loop.soon { self.didDrain() }
        }
    }

    private func didDrain() {
        guard state == .draining else { return }
        deliverEnd(.closedHere)
        guard state == .draining else { return }  // its handler may have closed
        let request = allocateZeroed(uv_shutdown_t.self)
        let result =
            hasReadEnd
            ? UV_EOF.rawValue : uv_shutdown(request, stream) { request, _ in request?.deallocate() }
        guard result == 0 else {
            request.deallocate()
            return finish(.closedHere)
        }
        state = .lingering
        startReading()
        limit?.cancel()
        limit = loop.after(Self.lingerLimit) { [unowned self] in finish(.closedHere) }
    }

    private func finish(_ end: StreamEnd) {
        guard state != .closing, state != .closed else { return }
        state = .closing
        pendingEnd = end
        limit?.cancel()
        limit = nil
        uv_close(asHandle(raw)) { handle in
            takeOwner(handle?.pointee.data, as: SocketStream.self).didClose()
        }
    }

    private func didClose() {
        state = .closed
        onIncoming = nil
        raw.deallocate()
        deliverEnd(pendingEnd)
    }

    private func deliverEnd(_ end: StreamEnd) {
        guard !hasDeliveredEnd else { return }
        hasDeliveredEnd = true
        let onEnd = onEnd
        self.onEnd = nil
        onBytes = nil
        onEnd?(end)
    }

    func closeFromLoop() { close() }

    private func error(_ code: Int32, _ operation: String) -> UvError {
        UvError(code: code, operation: operation, subject: peer)
    }
}

/// Bytes that the kernel has not taken yet, with the memory libuv reads them from.
private final class WriteRequest {
    let raw = allocateZeroed(uv_write_t.self)
    let bytes: UnsafeMutableRawBufferPointer
    private let stream: SocketStream
    private var completion: ((UvError?) -> Void)?

    init(
        _ stream: SocketStream, _ source: UnsafeRawBufferPointer,
        _ completion: ((UvError?) -> Void)?
    ) {
        self.stream = stream
        self.completion = completion
        bytes = .allocate(byteCount: source.count, alignment: 1)
        bytes.copyMemory(from: source)
    }

    deinit {
        raw.deallocate()
        bytes.deallocate()
    }

    func finish(_ status: Int32) {
        let failure = stream.didWrite(status)
        completion?(failure)
        completion = nil
    }
}

/// libuv does not write through it, whatever its type says.
private func uvBuffer(_ bytes: UnsafeRawBufferPointer) -> uv_buf_t {
    let base = UnsafeMutableRawPointer(mutating: bytes.baseAddress)
    return uv_buf_init(base?.assumingMemoryBound(to: CChar.self), UInt32(clamping: bytes.count))
}

/// The address that `get` (uv_tcp_getsockname or uv_tcp_getpeername) tells.
func tcpAddress(
    _ tcp: UnsafeMutablePointer<uv_tcp_t>,
    _ get: (UnsafePointer<uv_tcp_t>?, UnsafeMutablePointer<sockaddr>?, UnsafeMutablePointer<Int32>?)
        -> Int32
) -> SocketAddress? {
    var storage = sockaddr_storage()
    var byteCount = Int32(MemoryLayout<sockaddr_storage>.size)
    return withUnsafeMutablePointer(to: &storage) { pointer in
        let raw = UnsafeMutableRawPointer(pointer).assumingMemoryBound(to: sockaddr.self)
        guard get(tcp, raw, &byteCount) == 0 else { return nil }
        return SocketAddress(raw)
    }
}
