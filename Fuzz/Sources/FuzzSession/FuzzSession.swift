// The session machine, on either side. The input is a row of events.
//
// Input: 2 steering bytes, then events.
//   0  bit 0: 0 the server's side, 1 the connecting side; bits 1-2 the connecting side's role;
//      bits 3-4: 0 the session has begun, 1 the first frame has come, 2 and 3 it is ready. Bit 5: at
//      the end there is silence. Bit 6: run it a second time, cut. Bit 7: all that is sent is read.
//   1  how the received bytes are cut (see `cut`)
// Each event begins with a byte: bits 0-2 what happens, bits 3-7 its argument.
//   0  bytes come; the next byte is their count, then they follow
//   1  a frame of `Side.frames` comes, by the argument
//   2  the argument times 100 ms pass, and the clock ticks
//   3  the hello is accepted, if there is one
//   4  a message of `Side.messages` is sent, by the argument
//   5  the session is closed; the argument is the code and the kind of reason
//   6  a frame comes, with the argument as flags; the next bytes are kind, correlation and the
//      body's length, then the body follows
//   7  the argument times 1 s pass, without a tick: we do not run
import Fleet
import FuzzSupport
import Wire

@main enum FuzzSession {
    static func main() { fuzz(runOne) }
}

private func runOne(_ start: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    let input = Input(start, count)
    let steering = input.header(0)
    let session = sessions[Int(steering & 31)]
    func run(_ seed: UInt8) -> [SessionMachine.Action] {
        var watched = session
        watched.readsAll = steering & 128 != 0
        watched.play(input.body(after: 2), cutBy: seed)
        if steering & 32 != 0 { watched.checkSilence() }
        watched.checkEnd()
        return watched.actions
    }
    let actions = run(input.header(1))
    if steering & 64 != 0 {
        let whole = run(1)
        check(whole == actions, "the cutting shows: \(whole) and \(actions)")
    }
    return 0
}

// MARK: - Both sides

private let roles: [Role] = [.agent, .operator, .notifier, .agent]

private func identity(_ role: Role, _ name: String, cluster: String = "c") -> PeerIdentity {
    guard let identity = PeerIdentity(cluster: cluster, role: role, name: name) else {
        fatalError("\(name) is no name")
    }
    return identity
}

private func bytes(_ message: Message, correlation: UInt64 = 0) -> [UInt8] {
    var bytes: [UInt8] = []
    encodeMessage(message, correlation: correlation, into: &bytes)
    return bytes
}

/// What the two ends of a session with a client of this role are and say.
private struct Side {
    let isClient: Bool
    let own: PeerIdentity
    let peer: PeerIdentity
    /// From the peer, good and bad.
    let frames: [[UInt8]]
    /// That we may send.
    let messages: [Message]

    init(role: Role, isClient: Bool) {
        self.isClient = isClient
        let client = identity(role, "a")
        let server = identity(.server, "s")
        own = isClient ? client : server
        peer = isClient ? server : client
        let fromPeer = Self.all.filter {
            $0.kind.isPermitted(from: isClient ? .server : role, to: isClient ? role : .server)
        }
        messages = Self.all.filter {
            $0.kind.isPermitted(from: isClient ? role : .server, to: isClient ? .server : role)
        }
        let first: [Message] =
            isClient
            ? [.helloAccepted(Self.accepted()), .helloAccepted(Self.accepted(server: "t"))]
            : [.hello(Self.hello(client)), .hello(Self.hello(identity(role, "b")))]
        var frames = (first + fromPeer).map { bytes($0, correlation: 9) }
        frames += [
            bytes(.ping(nonce: 5), correlation: 3), bytes(.pong(nonce: 1)),
            bytes(.close(.normal, reason: "bye")), bytes(.hello(Self.hello(client, version: 9))),
            bytes(.helloAccepted(Self.accepted(version: 9))),
            encodeFrame(Frame(kind: 77, body: [1])),
            encodeFrame(Frame(kind: 77, flags: .mandatory, body: [])),
            encodeFrame(Frame(kind: 41, flags: .more, correlation: 9, body: [1])),
            encodeFrame(Frame(kind: 16, flags: .more, correlation: 9, body: [10])),
            bytes(.hello(Self.hello(identity(role, "a", cluster: "d")))),
        ]
        // Nearly as many requests as may wait for their answers.
        if let request = fromPeer.first(where: \.kind.isRequest) {
            let requests = (0..<Limits.unansweredRequestsMax - 1).map {
                bytes(request, correlation: 100 + UInt64($0))
            }
            frames.append(Array(requests.joined()))
        }
        self.frames = frames
    }

    static func hello(_ identity: PeerIdentity, version: UInt32 = 1) -> Hello {
        Hello(
            versionMin: version, versionMax: version, identity: identity,
            instance: Array(0..<16), software: "f")
    }

    static func accepted(server: String = "s", version: UInt32 = 1) -> HelloAccepted {
        HelloAccepted(
            version: version, server: server, isLeader: true, term: 1,
            keepaliveMilliseconds: 1_000, silenceMilliseconds: 3_000, servers: [], software: "f")
    }

    private static let step = StepID(rollout: RolloutID(1), number: 1)
    private static let all: [Message] = [
        .directiveAnswer(step: step, token: Token(3), answer: .accepted),
        .hostReportCommitted(index: 7), .stepReportCommitted(step: step, token: Token(3)),
        .command(.abortRollout(RolloutID(1), reason: "r")), .query(.status), .query(.hosts),
        .commandAccepted(index: 1, rollout: RolloutID(1)),
        .queryResult(.hosts([])), .followEvents(afterSequence: 1, progress: true),
        .eventBatch([], lastSequence: 4), .acknowledgeEvents(sequence: 4),
    ]
}

private let sides = (0..<8).map { Side(role: roles[$0 >> 1], isClient: $0 & 1 == 1) }
/// One is longer than a close may be.
private let reasons = ["", "a reason", String(repeating: "é", count: 515), "e\u{301}\u{302}\n"]
/// Sessions by the steering bits 0 to 4: values, so a copy is all that a run costs.
private let sessions = (0..<32).map { Watched(sides[$0 & 7], progress: $0 >> 3) }

/// A session with everything that must hold after each event.
private struct Watched {
    let side: Side
    var machine: SessionMachine
    var now: Int64 = 1_000_000
    var actions: [SessionMachine.Action] = []
    var end: SessionEnd?
    var closeCount = 0
    var hasOpened = false
    var keepalive: Int64 = 1_000
    var silence: Int64 = 3_000
    var readsAll = false
    /// Correlations of the requests that were delivered and not answered.
    var unanswered: [UInt64] = []

    init(_ side: Side, progress: Int) {
        self.side = side
        machine =
            side.isClient
            ? SessionMachine(client: Side.hello(side.own), peer: side.peer)
            : SessionMachine(server: side.own, peer: side.peer)
        machine.start(at: now)
        drain()
        guard progress > 0 else { return }
        machine.receive(side.frames[0], at: now)
        drain()
        if progress > 1, !side.isClient { accept() }
        check(
            machine.state == (progress == 1 && !side.isClient ? .deciding : .ready),
            "began in \(machine.state): \(actions)")
        actions = []
    }

    // MARK: Events

    mutating func play(_ input: UnsafeRawBufferPointer, cutBy seed: UInt8) {
        var index = 0
        func byte() -> UInt8 {
            guard index < input.count else { return 0 }
            defer { index += 1 }
            return input[index]
        }
        func piece(_ count: Int) -> UnsafeRawBufferPointer {
            let end = min(input.count, index + count)
            defer { index = end }
            return UnsafeRawBufferPointer(rebasing: input[index..<end])
        }
        while index < input.count {
            let event = byte()
            let argument = Int(event >> 3)
            let before = machine.state
            switch event & 7 {
            case 0: receive(piece(Int(byte())), cutBy: seed)
            case 1:
                side.frames[argument % side.frames.count].withUnsafeBytes {
                    receive($0, cutBy: seed)
                }
            case 2: tick(after: Int64(argument) * 100)
            case 3: accept()
            case 4: send(side.messages[argument % side.messages.count])
            case 5: close(argument)
            case 6:
                let kind = UInt16(byte())
                let correlation = UInt64(byte())
                let body = Array(piece(Int(byte())))
                let frame = Frame(
                    kind: kind, flags: .init(rawValue: UInt16(argument)),
                    correlation: correlation, body: body)
                encodeFrame(frame).withUnsafeBytes { receive($0, cutBy: seed) }
            default: now += Int64(argument) * 1_000
            }
            checkState(after: before)
        }
    }

    private mutating func receive(_ bytes: UnsafeRawBufferPointer, cutBy seed: UInt8) {
        cut(bytes, seed: seed) { piece in
            machine.receive(piece, at: now)
            drain()
        }
    }

    private mutating func tick(after milliseconds: Int64) {
        now += milliseconds
        machine.tick(at: now)
        drain()
    }

    private mutating func accept() {
        guard machine.state == .deciding else { return }
        machine.accept(Side.accepted(), at: now)
        check(machine.state == .ready, "\(machine.state) after accept")
        drain()
    }

    private mutating func send(_ message: Message) {
        let isReady = machine.state == .ready
        let correlation = message.kind.isAnswer ? unanswered.first ?? 4 : 4
        let isSent = machine.send(message, correlation: correlation)
        check(isSent == isReady, "sent with ready = \(isReady)")
        if isSent, message.kind.isAnswer, !unanswered.isEmpty { unanswered.removeFirst() }
        drain()
    }

    private mutating func close(_ argument: Int) {
        machine.close(CloseCode(rawValue: argument / 4 + 1) ?? .normal, reasons[argument & 3])
        check(machine.state == .closed, "\(machine.state) after close")
        drain()
    }

    // MARK: What comes out

    private mutating func drain() {
        while let action = machine.next() {
            check(end == nil, "\(action) after the end")
            switch action {
            case .send(let bytes): checkSent(bytes)
            case .hello(let hello):
                check(!side.isClient && !hasOpened, "\(hello) twice or on the wrong side")
                check(hello.identity == side.peer, "\(hello.identity) of \(side.peer)")
                check(closeCount == 0, "a hello after the close")
                hasOpened = true
            case .ready(let accepted):
                check(side.isClient && !hasOpened, "\(accepted) twice or on the wrong side")
                hasOpened = true
                keepalive = Int64(accepted.keepaliveMilliseconds)
                silence = Int64(accepted.silenceMilliseconds)
            case .deliver(let message, let correlation):
                let kind = message.kind
                check(hasOpened && closeCount == 0, "\(kind) before the beginning or after the end")
                check(
                    !kind.isControl && kind != .hello && kind != .helloAccepted, "delivered \(kind)"
                )
                check(
                    kind.isPermitted(from: side.peer.role, to: side.own.role),
                    "\(side.peer.role) sent \(kind)")
                if kind.isRequest {
                    check(
                        correlation == 0 || !unanswered.contains(correlation),
                        "a second request with correlation \(correlation)")
                    unanswered.append(correlation)
                    check(
                        unanswered.count <= Limits.unansweredRequestsMax,
                        "\(unanswered.count) requests wait for their answers")
                }
            case .ended(let end):
                self.end = end
                if case .closedByUs(_, let reason) = end {
                    check(closeCount == 1, "ended by us with \(closeCount) closes")
                    check(reason.utf8.count <= 1_024, "a reason of \(reason.utf8.count) bytes")
                } else {
                    check(closeCount == 0, "ended by the peer, and a close was sent")
                }
            }
            actions.append(action)
        }
        check((machine.state == .closed) == (end != nil), "\(machine.state), ended: \(end != nil)")
    }

    private mutating func checkSent(_ bytes: [UInt8]) {
        check(bytes.count >= 16, "\(bytes.count) bytes are sent")
        check(closeCount == 0, "something is sent after the close")
        if bytes[4] == 0, bytes[5] == UInt8(MessageKind.close.rawValue) {
            closeCount += 1
            check(
                bytes.count <= 4 + Limits.frameByteCountBeforeHelloMax,
                "a close of \(bytes.count) bytes")
        }
        guard readsAll else { return }
        // What we send is one message that we may send.
        var decoder = FrameDecoder(limit: Limits.frameByteCountMax)
        decoder.append(bytes)
        guard let frame = try? decoder.next(), decoder.pendingByteCount == 0,
            let kind = MessageKind(rawValue: frame.kind),
            let message = try? Message(kind: kind, body: frame.body)
        else { fatalError("property violated: sent \(bytes)") }
        check(
            kind.isPermitted(from: side.own.role, to: side.peer.role) && message.kind == kind,
            "sent \(message)")
    }

    private func checkState(after before: SessionMachine.State) {
        let isAllowed =
            switch (before, machine.state) {
            case (.closed, .closed), (_, .closed): true
            case (.closed, _): false
            case (.opening, .deciding): !side.isClient
            case (.opening, .ready): side.isClient
            case (.deciding, .ready): !side.isClient
            case (let before, let after): before == after
            }
        check(isAllowed, "from \(before) to \(machine.state)")
        if machine.state == .ready { check(hasOpened && machine.version == 1, "ready too early") }
        let wantsBytes =
            machine.state == .opening
            || machine.state == .ready && unanswered.count < Limits.unansweredRequestsMax
        check(
            machine.wantsBytes == wantsBytes,
            "wants bytes: \(!wantsBytes) while \(machine.state) with \(unanswered.count) requests")
    }

    /// A peer that says nothing more is given up, unless it is we who do not listen.
    mutating func checkSilence() {
        if machine.state == .ready, !machine.wantsBytes { return }
        let limit = max(silence, Int64(Limits.handshakeMillisecondsMax))
        guard limit / keepalive <= 64 else { return }
        for _ in 0...limit / keepalive + 1 { tick(after: keepalive) }
        check(machine.state == .closed, "\(machine.state) after \(limit) ms of silence")
    }

    /// A closed session stays closed.
    mutating func checkEnd() {
        guard end != nil else { return }
        tick(after: 100_000)
        side.frames[0].withUnsafeBytes { receive($0, cutBy: 1) }
        send(side.messages[0])
        close(0)
        check(machine.state == .closed, "opened again")
    }
}
