// Drives one SessionMachine over one stream, for either side.
//
// Happy path: bytes from the stream go into the machine, what the machine wants sent is written in
// one piece for each event, and messages are handed up one by one.
// While the machine does not want bytes (a hello is being decided on, too many requests wait for
// their answers) nothing is read, and TCP slows the peer down.
// Failure modes: the machine closes (a rule was broken, silence), the stream ends, or the peer does
// not read what it is sent, be it answers, Pongs or TLS's own. Each ends the driver once, with `onEnd`.
import Edges
import Fleet
import Wire

/// How a session ended: by a Close of either side, or by its stream.
enum SessionStop: Hashable, Sendable {
    case session(SessionEnd)
    case stream(StreamEnd)
}

final class SessionDriver {
    private let stream: any ByteStream
    private let loop: any EventLoop
    private var machine: SessionMachine
    private var isPumping = false
    private var isReading = false
    private var hasEnded = false
    private var outgoing: [UInt8] = []
    /// Of the last message that was queued while there was room: it alone may be longer than the limit.
    private var lastByteCount = 0

    var onHello: ((Hello) -> Void)?
    var onReady: ((HelloAccepted) -> Void)?
    var onMessage: ((Message, UInt64) -> Void)?
    /// Called once. From ``close(_:_:)`` itself, unless that was called from another callback of
    /// this driver: then right after that callback.
    var onEnd: ((SessionStop) -> Void)?

    init(_ machine: SessionMachine, over stream: any ByteStream, on loop: any EventLoop) {
        self.machine = machine
        self.stream = stream
        self.loop = loop
    }

    var state: SessionMachine.State { machine.state }
    var queuedByteCount: Int { stream.queuedByteCount + outgoing.count }

    /// Why we closed, in one word; see ``Wire/SessionMachine/fault``.
    var fault: String { machine.fault }

    /// Call once the callbacks are set.
    ///
    /// - Parameter connectedAt: see ``Wire/SessionMachine/start(at:connectedAt:)``.
    func start(connectedAt: Int64? = nil) {
        machine.start(at: loop.nowMilliseconds, connectedAt: connectedAt)
        stream.onEnd = { [self] end in finish(.stream(end)) }
        pump()
    }

    private func updateReading() {
        guard !hasEnded, machine.wantsBytes != isReading else { return }
        isReading = machine.wantsBytes
        stream.onBytes =
            isReading
            ? { [self] bytes in
                machine.receive(bytes, at: loop.nowMilliseconds)
                pump()
                closeIfTooSlow()
            } : nil
    }

    func tick() {
        guard !hasEnded else { return }
        machine.tick(at: loop.nowMilliseconds)
        pump()
        closeIfTooSlow()
    }

    func accept(_ accepted: HelloAccepted) {
        machine.accept(accepted, at: loop.nowMilliseconds)
        pump()
    }

    /// - Returns: false if the session is not open, the message is too long, or the peer reads so
    ///   slowly that the session has been closed for it.
    func send(_ message: Message, correlation: UInt64) -> Bool {
        guard !hasEnded else { return false }
        // Looked at before, not after: one message larger than the limit may wait alone.
        guard queuedByteCount <= Limits.sessionQueueByteCountMax else {
            closeAsTooSlow()
            return false
        }
        guard machine.send(message, correlation: correlation) else { return false }
        pump()
        return true
    }

    /// See ``Wire/SessionMachine/workBegan()``.
    func workBegan() { machine.workBegan() }

    func workEnded() {
        machine.workEnded()
        // It may be read again.
        pump()
    }

    func close(_ code: CloseCode, _ reason: String) {
        guard !hasEnded else { return }
        machine.close(code, reason)
        pump()
    }

    /// For what nobody hands to ``send(_:correlation:)``, and a peer can have as much of as it likes:
    /// Pongs, and what TLS itself answers.
    private func closeIfTooSlow() {
        guard queuedByteCount > Limits.sessionQueueByteCountMax + lastByteCount else { return }
        closeAsTooSlow()
    }

    private func closeAsTooSlow() {
        close(
            .tooSlow,
            "\(queuedByteCount) bytes wait to be read, more than "
                + "\(Limits.sessionQueueByteCountMax)")
    }

    private func pump() {
        // A callback that sends or closes comes back here: the outer turn carries it out.
        guard !isPumping, !hasEnded else { return }
        isPumping = true
        defer { isPumping = false }
        while !hasEnded, let action = machine.next() {
            switch action {
            case .send(let bytes):
                if queuedByteCount <= Limits.sessionQueueByteCountMax {
                    lastByteCount = bytes.count
                }
                if outgoing.isEmpty { outgoing = bytes } else { outgoing += bytes }
            case .hello(let hello): onHello?(hello)
            case .ready(let accepted): onReady?(accepted)
            case .deliver(let message, let correlation): onMessage?(message, correlation)
            case .ended(let end): finish(.session(end))
            }
        }
        flush()
        updateReading()
    }

    private func flush() {
        guard !outgoing.isEmpty else { return }
        var bytes: [UInt8] = []
        swap(&bytes, &outgoing)
        stream.write(bytes)
    }

    private func finish(_ stop: SessionStop) {
        guard !hasEnded else { return }
        hasEnded = true
        switch stop {
        case .session(let end) where end.code == .tooSlow:
            stream.close()  // it would not read our Close either
        case .session:
            flush()
            stream.closeAfterWriting()
        case .stream:
            stream.close()
        }
        stream.onBytes = nil
        let onEnd = onEnd
        self.onEnd = nil
        onHello = nil
        onReady = nil
        onMessage = nil
        onEnd?(stop)
    }
}
