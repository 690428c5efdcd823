// The guest agent's decoder and session. A guest is not trusted: whatever it sends, the session
// can be synchronised again.
//
// Input: 4 steering bytes, then what the guest sends.
//   0  bits 0-1: 0 the bytes come after `synchronise`; 1 the session is ready; 2 a ping is under
//      way; 3 as 2, of an agent that does not repeat ids. Bit 2 a line limit of 64 bytes. Bit 3 a
//      ping is sent at the place, bit 4 it is synchronised there (first). Bit 5: it is synchronised
//      at the end, and must do its work. Bit 6: run it a second time, cut.
//   1  the place in the bytes, in 256ths
//   2  how the bytes are cut (see `cut`)
//   3  reserved
import FuzzSupport
import QMP

private let shortLineByteCountMax = 64
private let lineByteCountMaxima = [QMPLimits.guestAgentLineByteCountMax, shortLineByteCountMax]
/// Sessions by steering bits 0 to 2: values, so a copy is all that a run costs.
private let sessions = (0..<8).map { Watched(UInt8($0)) }

@main enum FuzzGuestAgent {
    static func main() { fuzz(runOne) }
}

private func runOne(_ start: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    let input = Input(start, count)
    let steering = input.header(0)
    let body = input.body(after: 4)
    let place = body.count * Int(input.header(1)) / 256
    let session = sessions[Int(steering & 7)]
    func run(_ seed: UInt8) -> [GuestAgentSession.Output] {
        var watched = session
        cut(UnsafeRawBufferPointer(rebasing: body[..<place]), seed: seed) { watched.receive($0) }
        if steering & 16 != 0 { watched.synchronise() }
        if steering & 8 != 0 { watched.ping() }
        cut(UnsafeRawBufferPointer(rebasing: body[place...]), seed: seed) { watched.receive($0) }
        let outputs = watched.outputs
        if steering & 32 != 0 { watched.checkRecovery() }
        return outputs
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
    enum State: Hashable { case unsynchronised, synchronising, ready, busy(CommandID) }

    var session: GuestAgentSession
    var outputs: [GuestAgentSession.Output] = []
    /// As the table of the session's file has it.
    var state = State.unsynchronised
    /// Number of the last message sent; all are numbered in a row.
    var lastNumber: Int64 = 0

    /// - Parameter steering: bits 0 to 2 of the input's first byte.
    init(_ steering: UInt8) {
        session = GuestAgentSession(lineByteCountMax: lineByteCountMaxima[Int(steering >> 2 & 1)])
        let kind = steering & 3
        // Nothing counts before the first synchronisation.
        ([0xFF] + Array("{\"return\": 1}\n".utf8)).withUnsafeBytes { receive($0) }
        check(outputs.isEmpty && session.send(.ping) == nil, "unsynchronised: \(outputs)")
        synchronise()
        guard kind > 0 else { return }
        answerSynchronisation(repeatsID: kind != 3)
        if kind > 1 { ping() }
        outputs = []
    }

    mutating func receive(_ bytes: UnsafeRawBufferPointer) {
        for output in session.receive(bytes) {
            switch (state, output) {
            case (.synchronising, .ready): state = .ready
            case (.busy(let id), .reply(let answered, let value)):
                check(id == answered, "reply to \(answered) instead of \(id)")
                check((try? JSON.parse(value.bytes)) == value, "cannot read again \(value)")
                state = .ready
            case (.busy(let id), .failed(let answered, _)):
                check(id == answered, "error for \(answered) instead of \(id)")
                state = .ready
            case (.unsynchronised, _): fatalError("property violated: \(output) unsynchronised")
            case (_, .protocolError(let error)):
                check(!error.description.utf8.contains(0x0A), "a line feed in \(error)")
                state = .unsynchronised
            default: fatalError("property violated: \(output) while \(state)")
            }
            outputs.append(output)
        }
        checkState()
    }

    mutating func synchronise() {
        let bytes = session.synchronise()
        lastNumber += 1
        state = .synchronising
        check(bytes.first == 0xFF, "no 0xFF first")
        checkLine(bytes.dropFirst())
        checkState()
    }

    mutating func ping() {
        let isReady = state == .ready
        guard let (id, bytes) = session.send(.ping) else {
            return check(!isReady, "ready, and ping is not taken")
        }
        check(isReady, "ping is taken while \(state)")
        lastNumber += 1
        check(id.number == lastNumber, "id \(id) instead of \(lastNumber)")
        state = .busy(id)
        checkLine(bytes[...])
        checkState()
    }

    mutating func answerSynchronisation(repeatsID: Bool) {
        let answer =
            repeatsID
            ? "{\"return\": \(lastNumber), \"id\": \(lastNumber)}\n"
            : "{\"return\": \(lastNumber)}\n"
        let outputCount = outputs.count
        ([0xFF] + Array(answer.utf8)).withUnsafeBytes { receive($0) }
        check(
            outputs.count == outputCount + 1 && state == .ready,
            "synchronised, and there is \(outputs[outputCount...]) while \(state)")
    }

    /// It can be synchronised, and then does its work.
    mutating func checkRecovery() {
        synchronise()
        answerSynchronisation(repeatsID: true)
        ping()
        let outputCount = outputs.count
        Array("{\"return\": {}, \"id\": \(lastNumber)}\n".utf8).withUnsafeBytes { receive($0) }
        check(outputs.count == outputCount + 1 && state == .ready, "no reply after recovery")
    }

    private func checkState() {
        check(session.isReady == (state == .ready), "ready = \(session.isReady) while \(state)")
        let outstanding: CommandID? = if case .busy(let id) = state { id } else { nil }
        check(session.outstanding == outstanding, "outstanding differs while \(state)")
    }

    private func checkLine(_ bytes: ArraySlice<UInt8>) {
        check(
            bytes.last == 0x0A && bytes.firstIndex(of: 0x0A) == bytes.endIndex - 1
                && bytes.first == UInt8(ascii: "{"), "no line")
    }
}
