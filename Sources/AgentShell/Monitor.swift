// One connection to a QEMU monitor.
//
// Happy path: connect, greeting, capabilities, ready; commands go out in one write and their replies
// come in order; events are given out as they come.
// Failure modes: the connection ends or what comes is no QMP: every outstanding command fails with
// `.ended`, onEnd is called once. It is the owner's to connect again.

internal import AgentCore
internal import QMP
internal import UvLoop

enum MonitorFailure: Error, CustomStringConvertible {
    /// QEMU said no.
    case refused(CommandError)
    /// The connection is over; the command may or may not have been carried out.
    case ended(String)

    var description: String {
        switch self {
        case .refused(let error): error.text
        case .ended(let reason): "the monitor connection ended: \(reason)"
        }
    }
}

final class Monitor {
    typealias Completion = (Result<JSON, MonitorFailure>) -> Void

    var onEvent: ((Event) -> Void)?
    var onEnd: ((String) -> Void)?

    private let stream: SocketStream
    private let loop: Loop
    private var session = MonitorSession()
    private var hasGreeting = false
    private var beforeGreeting: [UInt8] = []
    private var completions: [CommandID: Completion] = [:]
    private var onReady: ((Result<Monitor, MonitorFailure>) -> Void)?
    private var readyTimer: Timer?
    private var isOver = false

    private init(
        _ stream: SocketStream, on loop: Loop,
        _ onReady: @escaping (Result<Monitor, MonitorFailure>) -> Void
    ) {
        self.stream = stream
        self.loop = loop
        self.onReady = onReady
    }

    /// - Parameters:
    ///   - path: the monitor's socket.
    ///   - timeout: for connecting and for the greeting, each.
    ///   - queued: for a monitor that somebody else has now: called when the connection waits
    ///     behind that one. The greeting then has no limit.
    ///   - completion: called once, later.
    static func connect(
        path: String, on loop: Loop, timeout: Duration, queued: (() -> Void)? = nil,
        completion: @escaping (Result<Monitor, MonitorFailure>) -> Void
    ) {
        SocketStream.connectUnix(path: path, on: loop, timeout: timeout) { result in
            switch result {
            case .failure(let error): completion(.failure(.ended(error.description)))
            case .success(let stream):
                let monitor = Monitor(stream, on: loop, completion)
                stream.onBytes = { monitor.receive($0) }
                stream.onEnd = { monitor.end("\($0)") }
                if let queued { return queued() }
                monitor.readyTimer = loop.after(timeout) {
                    guard monitor.onReady != nil else { return }
                    monitor.end("no greeting within \(timeout)")
                    stream.close()
                }
            }
        }
    }

    /// Sends commands in one write, to be carried out in this order.
    ///
    /// - Parameters:
    ///   - limit: after so long without the last one's reply the connection counts as hung and is
    ///     ended, with every command failed; nil waits for ever.
    ///   - completion: called once for each, in order of their replies.
    func send(
        _ commands: [Command], limit: Duration? = nil,
        _ completion: @escaping (Int, Result<JSON, MonitorFailure>) -> Void
    ) {
        guard !isOver, let (ids, bytes) = session.send(commands) else {
            for index in commands.indices { completion(index, .failure(.ended("not connected"))) }
            return
        }
        for (index, id) in ids.enumerated() { completions[id] = { completion(index, $0) } }
        stream.write(bytes)
        guard let limit, let last = ids.last else { return }
        loop.after(limit) { [weak self] in
            guard let self, completions[last] != nil else { return }
            // If it was this process that stood still (SIGSTOP, a busy host), the reply is here and was
            // not read yet: timers come before input.
            loop.after(.milliseconds(1)) { [weak self] in
                guard let self, completions[last] != nil else { return }
                end("no reply within \(limit)")
                stream.close()
            }
        }
    }

    func send(_ command: Command, _ completion: @escaping Completion) {
        send([command]) { completion($1) }
    }

    func close() {
        onEnd = nil
        end("closed here")
        stream.close()
    }

    private func receive(_ bytes: UnsafeRawBufferPointer) {
        if let rest = afterStaleLines(bytes) {
            take(session.receive(rest))
        } else if hasGreeting {
            take(session.receive(bytes))
        }
    }

    /// QEMU also sends a new client what it could not send to the one before it, ahead of the
    /// greeting: lines that are skipped.
    ///
    /// - Returns: what has come since the greeting began, once, when it has come whole.
    private func afterStaleLines(_ bytes: UnsafeRawBufferPointer) -> [UInt8]? {
        guard !hasGreeting else { return nil }
        beforeGreeting.append(contentsOf: bytes)
        while let end = beforeGreeting.firstIndex(of: UInt8(ascii: "\n")) {
            if beforeGreeting.starts(with: "{\"QMP\"".utf8) {
                hasGreeting = true
                let rest = beforeGreeting
                beforeGreeting = []
                return rest
            }
            beforeGreeting.removeSubrange(...end)
        }
        if beforeGreeting.count > QMPLimits.monitorLineByteCountMax {
            end("what it sends is no greeting")
            stream.close()
        }
        return nil
    }

    private func take(_ outputs: [MonitorSession.Output]) {
        for output in outputs {
            switch output {
            case .write(let bytes): stream.write(bytes)
            case .ready:
                readyTimer?.cancel()
                let ready = onReady
                onReady = nil
                ready?(.success(self))
            case .reply(let id, let value): completions.removeValue(forKey: id)?(.success(value))
            case .failed(let id, let error):
                completions.removeValue(forKey: id)?(.failure(.refused(error)))
            case .event(let event): onEvent?(event)
            case .protocolError(let error):
                end(error.description)
                stream.close()
            }
        }
    }

    private func end(_ reason: String) {
        guard !isOver else { return }
        isOver = true
        readyTimer?.cancel()
        let ready = onReady
        onReady = nil
        ready?(.failure(.ended(reason)))
        let waiting = completions.sorted { $0.key < $1.key }
        completions = [:]
        for (_, completion) in waiting { completion(.failure(.ended(reason))) }
        onEvent = nil
        let onEnd = onEnd
        self.onEnd = nil
        onEnd?(reason)
    }
}
