// The monitor's decoder and session.
//
// Input: 3 steering bytes, then what QEMU sends.
//   0  bits 0-3 how many commands are sent. Bits 4-5: 0 the bytes begin with the greeting; 1 the
//      session is ready, and the commands are sent before the bytes; 2 the same with a line limit
//      of 96 bytes; 3 the bytes are one JSON value. Bit 6: run it a second time, cut.
//   1  with a greeting: where in the bytes the commands are sent, in 256ths
//   2  how the bytes are cut (see `cut`)
import FuzzSupport
import QMP

private let prelude = Array(
    (#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}}}"#
        + "\r\n" + #"{"return": {}, "id": 0}"# + "\r\n").utf8)
private let shortLineByteCountMax = 96

/// Sessions that are ready, by the count of commands sent: values, so a copy is all that a run costs.
private let readySessions = (0..<16).map {
    Watched(readyAfter: $0, QMPLimits.monitorLineByteCountMax)
}
private let shortSessions = (0..<16).map { Watched(readyAfter: $0, shortLineByteCountMax) }

@main enum FuzzMonitor {
    static func main() { fuzz(runOne) }
}

private func runOne(_ start: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    let input = Input(start, count)
    let steering = input.header(0)
    let commandCount = Int(steering & 15)
    let body = input.body(after: 3)
    let run: (UInt8) -> [MonitorSession.Output]
    switch steering >> 4 & 3 {
    case 0:
        let place = body.count * Int(input.header(1)) / 256
        run = { seed in
            var watched = Watched(lineByteCountMax: QMPLimits.monitorLineByteCountMax)
            cut(UnsafeRawBufferPointer(rebasing: body[..<place]), seed: seed) {
                watched.receive($0)
            }
            watched.send(commandCount)
            cut(UnsafeRawBufferPointer(rebasing: body[place...]), seed: seed) {
                watched.receive($0)
            }
            return watched.finished()
        }
    case 3:
        checkJSON(body)
        return 0
    case let kind:
        let ready = kind == 1 ? readySessions[commandCount] : shortSessions[commandCount]
        run = { seed in
            var watched = ready
            cut(body, seed: seed) { watched.receive($0) }
            return watched.finished()
        }
    }
    let outputs = run(input.header(2))
    if steering & 64 != 0 {
        let whole = run(1)
        check(whole == outputs, "the cutting shows: \(whole) and \(outputs)")
    }
    return 0
}

/// A session with everything that must hold after each of its answers.
private struct Watched {
    var session: MonitorSession
    let lineByteCountMax: Int
    var outputs: [MonitorSession.Output] = []
    /// Sent and not answered, as it should be.
    var outstanding: [CommandID] = []
    var hasGreeting = false
    var isOver = false
    /// Bytes since the last line feed.
    var openByteCount = 0

    init(lineByteCountMax: Int) {
        self.lineByteCountMax = lineByteCountMax
        session = MonitorSession(lineByteCountMax: lineByteCountMax)
    }

    /// A session that is ready and has sent commands.
    init(readyAfter commandCount: Int, _ lineByteCountMax: Int) {
        self.init(lineByteCountMax: lineByteCountMax)
        prelude.withUnsafeBytes { receive($0) }
        check(outputs.count == 2 && session.isReady, "the prelude gave \(outputs)")
        send(commandCount)
        outputs = []
    }

    mutating func receive(_ bytes: UnsafeRawBufferPointer) {
        take(session.receive(bytes))
        for byte in bytes { openByteCount = byte == UInt8(ascii: "\n") ? 0 : openByteCount + 1 }
        check(
            isOver || openByteCount <= lineByteCountMax + 1,
            "\(openByteCount) bytes of an unfinished line are kept")
        check(session.outstanding == outstanding, "outstanding commands differ")
    }

    mutating func send(_ commandCount: Int) {
        let wasReady = session.isReady
        let commands = wasReady ? Array(Self.commands[..<commandCount]) : [.stop]
        let sent = session.send(commands)
        check((sent != nil) == wasReady, "send with ready = \(wasReady)")
        guard let sent else { return }
        check(!isOver && sent.ids.count == commandCount, "\(sent.ids.count) ids")
        outstanding += sent.ids
        check(Set(outstanding).count == outstanding.count, "an id is used again")
        checkLines(sent.bytes, count: commandCount)
    }

    /// What came out; nothing more does after a protocol error.
    mutating func finished() -> [MonitorSession.Output] {
        if isOver {
            prelude.withUnsafeBytes { receive($0) }
            send(1)
        }
        return outputs
    }

    private static let commands: [Command] = (0..<15).map { index in
        index & 1 == 0 ? .queryStatus : .migrateIncoming(uri: "unix:/a\n\u{1}\"b\\é")
    }

    private mutating func take(_ new: [MonitorSession.Output]) {
        for output in new {
            check(!isOver, "\(output) after the end")
            switch output {
            case .write(let bytes):
                check(!hasGreeting, "a second greeting was taken")
                hasGreeting = true
                checkLines(bytes, count: 1)
            case .ready(let version):
                check(session.version == version, "another version than the greeting's")
            case .reply(let id, let value):
                answered(id)
                checkAgain(value)
                checkReplies(value)
            case .failed(let id, _): answered(id)
            case .event(let event):
                _ = event.kind
                _ = event.timestampMicroseconds
                checkAgain(event.data)
            case .protocolError(let error):
                isOver = true
                outstanding = []
                check(!error.description.utf8.contains(0x0A), "a line feed in \(error)")
            }
            outputs.append(output)
        }
        check(session.hasFailed == isOver, "failed = \(session.hasFailed)")
        if isOver { check(!session.isReady, "ready after the end") }
    }

    private mutating func answered(_ id: CommandID) {
        guard let index = outstanding.firstIndex(of: id) else {
            fatalError("property violated: answer to \(id), which is not outstanding")
        }
        outstanding.remove(at: index)
    }
}

/// Each command is one line of JSON, with an id.
private func checkLines(_ bytes: [UInt8], count: Int) {
    let lines = bytes.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
    check(lines.count == count + 1 && lines.last?.isEmpty == true, "not \(count) lines")
    for line in lines.dropLast() {
        let value = try? JSON.parse(Array(line))
        check(value?["execute"]?.string != nil && value?["id"]?.integer != nil, "no command")
    }
}

/// What was read is written and read the same.
private func checkAgain(_ value: JSON) {
    let bytes = value.bytes
    check(!bytes.contains { $0 < 0x20 || $0 == 0x7F }, "a control character is written")
    // The value comes from inside a message, so it is less deep than a line may be.
    guard let again = try? JSON.parse(bytes, byteCountMax: .max) else {
        fatalError("property violated: cannot read again \(value)")
    }
    check(again == value && again.bytes == bytes, "read again \(value) as \(again)")
}

/// The readers of replies take any value.
private func checkReplies(_ value: JSON) {
    _ = StatusReply(value)
    _ = VersionReply(value)
    _ = MigrationReply(value)
    for element in value.array ?? [] {
        _ = CPUReply(element)
        _ = BlockReply(element)
    }
}

/// One value, without a session: it is taken or refused in the same way whatever is around it.
private func checkJSON(_ body: UnsafeRawBufferPointer) {
    let bytes = Array(body)
    do throws(QMPError) {
        let value = try JSON.parse(bytes)
        checkAgain(value)
        checkReplies(value)
        let padded = try? JSON.parse([0x20] + bytes + [0x0A])
        check(padded == value, "white space around it shows")
    } catch {
        guard case .json(_, let offset) = error else {
            fatalError("property violated: \(error) of the JSON reader")
        }
        check((0...bytes.count).contains(offset), "offset \(offset) of \(bytes.count)")
    }
}
