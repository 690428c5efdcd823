// The client's side of one QEMU monitor connection.
//
//                    greeting                 return
//   [greeting] ───────────────► [negotiating] ──────► [ready] ◄─┐ send, reply, event
//       │  writes qmp_capabilities    │                  │ └────┘
//       │                             │                  │
//       └───────── anything else ─────┴──────────────────┘
//                                     ▼
//                                 [failed]   (for good: the connection is to be closed)
//
// | state       | greeting         | own reply          | other reply    | event      | no JSON    | send |
// |-------------|------------------|--------------------|----------------|------------|------------|------|
// | greeting    | → negotiating,   | → failed           | → failed       | → failed   | → failed   | nil  |
// |             |   .write         |                    |                |            |            |      |
// | negotiating | → failed         | return: → ready,   | → failed       | .event     | → failed   | nil  |
// |             |                  |   .ready           |                |            |            |      |
// |             |                  | error: → failed    |                |            |            |      |
// | ready       | → failed         | .reply or .failed  | → failed       | .event     | → failed   | line |
// | failed      | nothing          | nothing            | nothing        | nothing    | nothing    | nil  |
//
// "Own reply" has the id of an outstanding command. "→ failed" gives one `.protocolError`.
// A reply in error form without an id tells that QEMU could not read what we sent: → failed too.
//
// Source: QEMU 7.2, docs/interop/qmp-spec.txt.

/// The client's side of one QEMU monitor connection, without the connection: bytes in, outputs out.
///
/// QEMU carries out commands in the order in which they were sent, so several may be sent in one
/// write without waiting for replies; if one fails, the later ones are carried out all the same.
public struct MonitorSession: Sendable {
    /// What the owner is to do or to know, in this order.
    public enum Output: Hashable, Sendable {
        /// Send these bytes to QEMU.
        case write([UInt8])
        /// Commands are taken from now on.
        case ready(VersionReply)
        case reply(CommandID, JSON)
        case failed(CommandID, CommandError)
        case event(Event)
        /// The connection is of no more use; nothing follows. Outstanding commands may have been
        /// carried out.
        case protocolError(QMPError)
    }

    private enum State: Sendable {
        case greeting
        case negotiating(VersionReply)
        case ready
        case failed
    }

    private var state = State.greeting
    private var lines: LineDecoder
    private var lastID = CommandID(0)
    private static let negotiationID = CommandID(0)

    /// Commands that were sent and not answered, in the order in which they were sent.
    public private(set) var outstanding: [CommandID] = []
    /// From the greeting.
    public private(set) var version: VersionReply?

    public init(lineByteCountMax: Int = QMPLimits.monitorLineByteCountMax) {
        lines = LineDecoder(byteCountMax: lineByteCountMax)
    }

    /// Whether ``send(_:)-(Command)`` takes commands.
    public var isReady: Bool { if case .ready = state { true } else { false } }
    /// Whether a `.protocolError` was given out.
    public var hasFailed: Bool { if case .failed = state { true } else { false } }

    /// Takes a command.
    ///
    /// - Returns: its id and the bytes to write; nil unless ``isReady``.
    public mutating func send(_ command: Command) -> (id: CommandID, bytes: [UInt8])? {
        guard let (ids, bytes) = send([command]) else { return nil }
        return (ids[0], bytes)
    }

    /// Takes several commands at once, to be carried out in this order.
    ///
    /// - Returns: an id for each and the bytes to write; nil unless ``isReady``.
    public mutating func send(_ commands: [Command]) -> (ids: [CommandID], bytes: [UInt8])? {
        guard isReady else { return nil }
        var ids: [CommandID] = []
        var bytes: [UInt8] = []
        for command in commands {
            lastID = CommandID(lastID.number + 1)
            ids.append(lastID)
            command.append(id: lastID, to: &bytes)
        }
        outstanding += ids
        return (ids, bytes)
    }

    /// Takes what was received; any split is allowed.
    public mutating func receive(_ bytes: UnsafeRawBufferPointer) -> [Output] {
        guard !hasFailed else { return [] }
        lines.append(bytes)
        return takeLines()
    }

    /// Takes what was received; any split is allowed.
    public mutating func receive(_ bytes: some Collection<UInt8>) -> [Output] {
        guard !hasFailed else { return [] }
        lines.append(bytes)
        return takeLines()
    }

    private mutating func takeLines() -> [Output] {
        var outputs: [Output] = []
        do throws(QMPError) {
            while let line = try lines.next() {
                outputs.append(try take(line))
            }
        } catch {
            state = .failed
            outstanding = []
            lines.removeAll()
            outputs.append(.protocolError(error))
        }
        return outputs
    }

    private mutating func take(_ line: [UInt8]) throws(QMPError) -> Output {
        let message = try JSON.parse(line, byteCountMax: lines.byteCountMax)
        switch state {
        case .greeting:
            guard let greeting = message["QMP"]?["version"], let version = VersionReply(greeting)
            else {
                throw .unexpectedMessage(during: "awaiting the greeting", message: excerpt(line))
            }
            self.version = version
            state = .negotiating(version)
            var bytes: [UInt8] = []
            Command.qmpCapabilities.append(id: Self.negotiationID, to: &bytes)
            return .write(bytes)
        case .negotiating(let version):
            if let event = Event(message) { return .event(event) }
            switch try Reply(message, line, during: "negotiating") {
            case .returned(Self.negotiationID, _):
                state = .ready
                return .ready(version)
            case .refused(Self.negotiationID, let error): throw .negotiationRefused(error)
            case .returned(let id, _), .refused(let id, _): throw .unknownReply(id: id)
            }
        case .ready:
            if let event = Event(message) { return .event(event) }
            let reply = try Reply(message, line, during: "ready")
            guard let index = outstanding.firstIndex(of: reply.id) else {
                throw .unknownReply(id: reply.id)
            }
            outstanding.remove(at: index)
            switch reply {
            case .returned(let id, let value): return .reply(id, value)
            case .refused(let id, let error): return .failed(id, error)
            }
        case .failed:
            preconditionFailure("a failed session looks at no line")
        }
    }
}

/// A reply with an id of ours.
private enum Reply {
    case returned(CommandID, JSON)
    case refused(CommandID, CommandError)

    var id: CommandID {
        switch self {
        case .returned(let id, _), .refused(let id, _): id
        }
    }

    init(_ message: JSON, _ line: [UInt8], during state: String) throws(QMPError) {
        let error = message["error"].map { CommandError($0) }
        guard let number = message["id"]?.integer else {
            if let error { throw .notUnderstood(error) }
            throw .unexpectedMessage(during: state, message: excerpt(line))
        }
        if let error {
            self = .refused(CommandID(number), error)
        } else if let value = message["return"] {
            self = .returned(CommandID(number), value)
        } else {
            throw .unexpectedMessage(during: state, message: excerpt(line))
        }
    }
}
