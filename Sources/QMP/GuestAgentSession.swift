// The client's side of one connection to a QEMU guest agent.
//
// The channel has no beginning: bytes of an earlier client may still wait in it, in both
// directions. `guest-sync-delimited` finds the place from which on everything is ours: we send the
// byte 0xFF, which throws away whatever the agent's parser had half read, and a number; the agent
// answers 0xFF and the number. The byte also makes the agent send an error message of its own,
// before the answer, as it is no JSON.
//
//                       synchronise               0xFF, our number
//   [unsynchronised] ───────────────► [synchronising] ─────────► [ready] ◄──────┐
//          ▲                             ▲   │ │                    │ send      │ reply
//          │                 synchronise │   │ │ too many bytes     ▼           │
//          │                (any state) ─┘   │ └────────┐        [busy] ────────┘
//          │                                 │          │           │
//          └─────────── not JSON, line too long, flood ─┴───────────┘   (one .protocolError)
//
// | state          | our number | our reply | stale reply | stray error | no JSON | long line | send |
// |----------------|------------|-----------|-------------|-------------|---------|-----------|------|
// | unsynchronised | dropped    | dropped   | dropped     | dropped     | dropped | dropped   | nil  |
// | synchronising  | → ready,   | dropped   | dropped     | dropped     | dropped | dropped,  | nil  |
// |                |   .ready   |           |             |             |         | see below |      |
// | ready          | dropped    | dropped   | dropped     | dropped     | → unsy. | → unsy.   | line |
// | busy           | dropped    | → ready,  | dropped     | dropped     | → unsy. | → unsy.   | nil  |
// |                |            | .reply or |             |             |         |           |      |
// |                |            | .failed   |             |             |         |           |      |
//
// "Our number" comes behind 0xFF. While synchronising, a flood without it, or a long line right
// behind a 0xFF, leads to unsynchronised too.
//
// `synchronise` is allowed in every state; it forgets the command that was under way, whose reply
// is then a stale one. After a `.protocolError` the owner may call it. After a time-out the owner
// calls `giveUp`, which leads to unsynchronised: no late reply is taken for one to a later command.
//
// A guest is not trusted: it can lie in a reply, but not make us crash, wait for ever (the owner
// has the time limit) or keep more than a line.
//
// Source: QEMU 7.2, qga/qapi-schema.json, `guest-sync-delimited`.

/// A command for the guest agent, without its id.
///
/// - Source: QEMU 7.2, `qga/qapi-schema.json`.
public struct GuestCommand: Hashable, Sendable {
    public var name: String
    /// An object; nil for none.
    public var arguments: JSON?
    public init(_ name: String, arguments: JSON? = nil) {
        self.name = name
        self.arguments = arguments
    }

    public static let ping = GuestCommand("guest-ping")
    /// Reply: an integer, nanoseconds since 1970 (UTC).
    public static let getTime = GuestCommand("guest-get-time")
    /// Sets the guest's system clock, and then its hardware clock from it.
    ///
    /// - Parameter nanoseconds: since 1970 (UTC).
    public static func setTime(nanoseconds: Int64) -> GuestCommand {
        GuestCommand("guest-set-time", arguments: ["time": .integer(nanoseconds)])
    }
}

/// The client's side of one guest-agent connection, without the connection. One command at a time,
/// since the agent carries out one at a time anyway.
public struct GuestAgentSession: Sendable {
    /// What the owner is to know, in this order.
    public enum Output: Hashable, Sendable {
        /// Synchronised: a command is taken now.
        case ready
        case reply(CommandID, JSON)
        case failed(CommandID, CommandError)
        /// Synchronise again, or give up. A command that was under way may have been carried out.
        case protocolError(QMPError)
    }

    private enum State: Hashable, Sendable {
        case unsynchronised
        /// `sentinelSeen`: the next line is an answer to a synchronisation, ours or an older one.
        case synchronising(CommandID, sentinelSeen: Bool)
        case ready
        case busy(CommandID)
    }

    private var state = State.unsynchronised
    private var lines: LineDecoder
    private var lastID: CommandID
    /// Agents before QEMU 4.0 do not repeat a command's id in its reply.
    private var repeatsIDs = false
    /// Bytes dropped since `synchronise`.
    private var drainedByteCount = 0

    /// - Parameters:
    ///   - firstID: number of the first message; a number that an earlier session over the same
    ///     channel has not used, so that its replies are known for stale ones. Not negative.
    ///   - lineByteCountMax: the longest line that is taken.
    public init(
        firstID: Int64 = 1, lineByteCountMax: Int = QMPLimits.guestAgentLineByteCountMax
    ) {
        precondition(firstID >= 0 && firstID < Int64.max / 2, "firstID \(firstID) out of range")
        lastID = CommandID(firstID - 1)
        lines = LineDecoder(byteCountMax: lineByteCountMax)
    }

    /// Whether ``send(_:)`` takes a command.
    public var isReady: Bool { state == .ready }
    /// The command that awaits its reply.
    public var outstanding: CommandID? { if case .busy(let id) = state { id } else { nil } }

    /// Begins to find the place from which on everything is ours; allowed at any time.
    ///
    /// - Returns: bytes to write. `.ready` follows, after some 0.05 to 0.35 s.
    public mutating func synchronise() -> [UInt8] {
        let id = nextID()
        state = .synchronising(id, sentinelSeen: false)
        lines.removeAll()
        drainedByteCount = 0
        var bytes: [UInt8] = [Self.sentinel]
        Command("guest-sync-delimited", arguments: ["id": .integer(id.number)])
            .append(id: id, to: &bytes)
        return bytes
    }

    /// Gives up the command under way: all that comes is dropped until ``synchronise()``.
    public mutating func giveUp() {
        state = .unsynchronised
        lines.removeAll()
    }

    /// Takes a command.
    ///
    /// - Returns: its id and the bytes to write; nil unless ``isReady``.
    public mutating func send(_ command: GuestCommand) -> (id: CommandID, bytes: [UInt8])? {
        guard isReady else { return nil }
        let id = nextID()
        state = .busy(id)
        var bytes: [UInt8] = []
        Command(command.name, arguments: command.arguments).append(id: id, to: &bytes)
        return (id, bytes)
    }

    /// Takes what was received; any split is allowed.
    public mutating func receive(_ bytes: UnsafeRawBufferPointer) -> [Output] {
        guard state != .unsynchronised else { return [] }
        lines.append(bytes)
        return takeAll()
    }

    /// Takes what was received; any split is allowed.
    public mutating func receive(_ bytes: some Collection<UInt8>) -> [Output] {
        guard state != .unsynchronised else { return [] }
        lines.append(bytes)
        return takeAll()
    }

    private static let sentinel: UInt8 = 0xFF

    private mutating func nextID() -> CommandID {
        lastID = CommandID(lastID.number + 1)
        return lastID
    }

    private mutating func takeAll() -> [Output] {
        var outputs: [Output] = []
        do throws(QMPError) {
            while true {
                if case .synchronising(let id, sentinelSeen: false) = state {
                    guard try skipToSentinel() else { return outputs }
                    state = .synchronising(id, sentinelSeen: true)
                }
                guard let line = try lines.next() else { return outputs }
                if let output = try take(line) { outputs.append(output) }
            }
        } catch {
            state = .unsynchronised
            lines.removeAll()
            outputs.append(.protocolError(error))
        }
        return outputs
    }

    /// - Returns: whether the sentinel has come.
    private mutating func skipToSentinel() throws(QMPError) -> Bool {
        let (byteCount, found) = lines.skip(through: Self.sentinel)
        drainedByteCount += byteCount
        guard drainedByteCount <= QMPLimits.guestAgentDrainByteCountMax else {
            throw .floodedWithoutReply(byteCountMax: QMPLimits.guestAgentDrainByteCountMax)
        }
        return found
    }

    /// - Returns: nil for what is to be dropped.
    private mutating func take(_ line: [UInt8]) throws(QMPError) -> Output? {
        // 0xFF is in no UTF-8: here it begins the answer to a synchronisation.
        let sentinelIndex = line.lastIndex(of: Self.sentinel)
        if case .synchronising(let id, _) = state {
            let answer = sentinelIndex.map { Array(line[($0 + 1)...]) } ?? line
            guard let message = try? JSON.parse(answer, byteCountMax: lines.byteCountMax),
                message["return"]?.integer == id.number
            else {
                // Answers an older synchronisation, or is no answer: look for the next sentinel.
                drainedByteCount += line.count
                state = .synchronising(id, sentinelSeen: false)
                return nil
            }
            repeatsIDs = message["id"]?.integer == id.number
            state = .ready
            return .ready
        }
        // The answer to a synchronisation that was given up.
        guard sentinelIndex == nil else { return nil }
        let message = try JSON.parse(line, byteCountMax: lines.byteCountMax)
        guard case .busy(let id) = state, repeatsIDs ? message["id"]?.integer == id.number : true
        else { return nil }
        if let error = message["error"] {
            state = .ready
            return .failed(id, CommandError(error))
        }
        guard let value = message["return"] else {
            throw .unexpectedMessage(during: "awaiting a reply", message: excerpt(line))
        }
        state = .ready
        return .reply(id, value)
    }
}
