// One connection to a guest's agent.
//
// Happy path: connect to the generation's socket, synchronise (tried again every second, since the
// agent may be slow to notice its new channel), then one command at a time.
// Failure modes: no agent, a silent one, or nonsense: the completion gets the reason in words after
// its time limit. The command after one that has failed so begins with a fresh synchronisation, so
// that a late reply is never taken for its own. A guest is not trusted; see GuestAgentSession.

internal import QMP
internal import UvLoop

struct GuestAgentFailure: Error {
    let reason: String
}

final class GuestAgentChannel {
    typealias Completion = (Result<JSON, GuestAgentFailure>) -> Void

    private let path: String
    private let loop: Loop
    private var stream: SocketStream?
    // A number of its own for each connection, so that replies to an earlier one are known for stale.
    private var session = GuestAgentSession(
        firstID: Int64(randomBytes(4).reduce(0) { $0 << 8 | Int64($1) }))
    private var onReady: ((GuestAgentFailure?) -> Void)?
    private var onReply: Completion?
    /// Not sent yet: the channel is synchronised first.
    private var waiting: GuestCommand?
    private var hasHeard = false
    private var limitTimer: Timer?
    private var retryTimer: Timer?
    private var isClosed = false

    init(path: String, on loop: Loop) {
        self.path = path
        self.loop = loop
    }

    /// - Parameter completion: called once; nil when commands are taken.
    func open(limit: Duration, _ completion: @escaping (GuestAgentFailure?) -> Void) {
        onReady = completion
        limitTimer = loop.after(limit) { [self] in
            let besides = hasHeard ? ", but sent something else" : ""
            ready(
                GuestAgentFailure(
                    reason: "the guest agent did not answer within \(limit)\(besides)"))
        }
        connect()
    }

    /// - Parameter limit: for all of it, with a synchronisation if one is due.
    func send(_ command: GuestCommand, limit: Duration, _ completion: @escaping Completion) {
        guard stream != nil else {
            return completion(.failure(GuestAgentFailure(reason: "the guest agent is gone")))
        }
        onReply = completion
        limitTimer = loop.after(limit) { [self] in
            session.giveUp()
            finish(.failure(GuestAgentFailure(reason: "\(command.name) took longer than \(limit)")))
        }
        waiting = command
        if session.isReady { sendWaiting() } else { synchronise() }
    }

    private func sendWaiting() {
        guard let command = waiting, let (_, bytes) = session.send(command) else { return }
        waiting = nil
        stream?.write(bytes)
    }

    func close() {
        guard !isClosed else { return }
        isClosed = true
        limitTimer?.cancel()
        retryTimer?.cancel()
        onReady = nil
        onReply = nil
        waiting = nil
        stream?.close()
        stream = nil
    }

    private func connect() {
        SocketStream.connectUnix(path: path, on: loop, timeout: .seconds(2)) { [self] result in
            guard !isClosed, onReady != nil else {
                if case .success(let stream) = result { stream.close() }
                return
            }
            switch result {
            case .failure:
                retryTimer = loop.after(.milliseconds(100)) { [self] in connect() }
            case .success(let stream):
                self.stream = stream
                stream.onBytes = { [self] in receive($0) }
                stream.onEnd = { [self] in ended("\($0)") }
                synchronise()
            }
        }
    }

    private func synchronise() {
        guard onReady != nil || waiting != nil, let stream else { return }
        stream.write(session.synchronise())
        retryTimer = loop.after(.seconds(1)) { [self] in synchronise() }
    }

    private func receive(_ bytes: UnsafeRawBufferPointer) {
        hasHeard = true
        for output in session.receive(bytes) {
            switch output {
            case .ready:
                retryTimer?.cancel()
                ready(nil)
                sendWaiting()
            case .reply(_, let value): finish(.success(value))
            case .failed(_, let error):
                finish(.failure(GuestAgentFailure(reason: "the guest agent says: \(error.text)")))
            case .protocolError(let error):
                // While it is synchronised this only means to try once more.
                guard waiting == nil else { break }
                finish(.failure(GuestAgentFailure(reason: "the guest agent: \(error)")))
            }
        }
    }

    private func ended(_ reason: String) {
        stream = nil
        finish(.failure(GuestAgentFailure(reason: "the guest agent's channel ended: \(reason)")))
        if onReady != nil { retryTimer = loop.after(.milliseconds(100)) { [self] in connect() } }
    }

    private func ready(_ failure: GuestAgentFailure?) {
        guard let completion = onReady else { return }
        onReady = nil
        limitTimer?.cancel()
        retryTimer?.cancel()
        completion(failure)
    }

    private func finish(_ result: Result<JSON, GuestAgentFailure>) {
        guard let completion = onReply else { return }
        onReply = nil
        waiting = nil
        limitTimer?.cancel()
        completion(result)
    }
}
