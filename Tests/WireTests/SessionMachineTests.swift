import Fleet
import Testing

@testable import Wire

@Suite("The session machine")
struct SessionMachineTests {
    // MARK: - Two machines that talk

    /// Both sides of one session, with the bytes between them carried over by hand.
    struct Pair {
        var client: SessionMachine
        var server: SessionMachine
        var clientSaw: [SessionMachine.Action] = []
        var serverSaw: [SessionMachine.Action] = []
        var now: Int64 = 1_000
        var admits = true

        init(
            client identity: PeerIdentity = Samples.agent, server: PeerIdentity = Samples.server,
            clientVersions: ClosedRange<UInt32> = 1...1, serverVersions: ClosedRange<UInt32> = 1...1
        ) {
            client = SessionMachine(
                client: Samples.hello(identity, versions: clientVersions), peer: server)
            self.server = SessionMachine(
                server: server, peer: identity, versions: serverVersions)
        }

        mutating func start() {
            client.start(at: now)
            server.start(at: now)
            settle()
        }

        /// Carries bytes until neither side has anything to do.
        mutating func settle() {
            var moved = true
            while moved {
                moved = false
                while let action = client.next() {
                    moved = true
                    if case .send(let bytes) = action { server.receive(bytes, at: now) }
                    clientSaw.append(action)
                }
                while let action = server.next() {
                    moved = true
                    if case .send(let bytes) = action { client.receive(bytes, at: now) }
                    if case .hello = action, admits { server.accept(Samples.accepted, at: now) }
                    serverSaw.append(action)
                }
            }
        }
    }

    @Test("hello, accepted, and messages go both ways with their correlations")
    func happyPath() {
        var pair = Pair()
        pair.start()
        #expect(pair.client.state == .ready && pair.server.state == .ready)
        #expect(pair.serverSaw.contains(.hello(Samples.hello())))
        #expect(pair.clientSaw.contains(.ready(Samples.accepted)))

        let report = Message.hostReport(Samples.hostReport)
        let sent1 = pair.client.send(report, correlation: 9)
        #expect(sent1)
        pair.settle()
        #expect(pair.serverSaw.last == .deliver(report, correlation: 9))
        let sent2 = pair.server.send(.hostReportCommitted(index: 4), correlation: 9)
        #expect(sent2)
        pair.settle()
        #expect(pair.clientSaw.last == .deliver(.hostReportCommitted(index: 4), correlation: 9))

        pair.client.close(.normal, "done")
        pair.settle()
        #expect(pair.clientSaw.last == .ended(.closedByUs(.normal, reason: "done")))
        #expect(pair.serverSaw.last == .ended(.closedByPeer(.normal, reason: "done")))
        let sent3 = pair.client.send(report, correlation: 1)
        #expect(!sent3)
    }

    @Test("a message of many chunks arrives whole")
    func longMessage() {
        var pair = Pair()
        pair.start()
        var report = Samples.hostReport
        report.guests = (0..<4_096).map { number in
            var guest = Samples.guest
            guest.id = GuestID(checked: "g\(10_000 + number)")
            guest.handOverProblem = String(repeating: "x", count: 400)
            return guest
        }
        let sent4 = pair.client.send(.hostReport(report), correlation: 1)
        #expect(sent4)
        pair.settle()
        #expect(pair.serverSaw.last == .deliver(.hostReport(report), correlation: 1))
    }

    @Test(
        "versions that overlap agree on the highest common one",
        arguments: [(1...1, 1...1, 1), (1...3, 2...5, 3), (2...2, 1...9, 2)])
    func versions(
        client: ClosedRange<UInt32>, server: ClosedRange<UInt32>, agreed: UInt32
    ) {
        var pair = Pair(clientVersions: client, serverVersions: server)
        pair.start()
        #expect(pair.client.state == .ready)
        #expect(pair.client.version == agreed && pair.server.version == agreed)
    }

    @Test("versions that do not overlap end the session with words for people")
    func versionMismatch() {
        var pair = Pair(clientVersions: 2...3)
        pair.start()
        guard case .ended(.closedByPeer(.versionMismatch, let reason)) = pair.clientSaw.last else {
            Issue.record("ended with \(String(describing: pair.clientSaw.last))")
            return
        }
        #expect(reason.contains("versions 1,") && reason.contains("2 to 3"))
        #expect(pair.server.state == .closed)
    }

    // MARK: - Who is who

    /// The code a server answers a hello with, given what the certificate says.
    private func serverAnswer(hello: Hello, certificate: String) -> CloseCode? {
        var machine = SessionMachine(
            server: Samples.server, peer: Samples.identity(certificate))
        machine.start(at: 0)
        machine.receive(frames(.hello(hello)), at: 0)
        return drain(&machine).end?.code
    }

    @Test("the hello must say what the certificate says")
    func identity() {
        let other = Samples.identity("fermata://other/agent/a")
        #expect(serverAnswer(hello: Samples.hello(), certificate: "fermata://demo/agent/a") == nil)
        #expect(
            serverAnswer(hello: Samples.hello(), certificate: "fermata://demo/agent/b")
                == .wrongIdentity)
        #expect(
            serverAnswer(hello: Samples.hello(), certificate: "fermata://demo/operator/a")
                == .wrongIdentity)
        #expect(
            serverAnswer(hello: Samples.hello(other), certificate: "fermata://demo/agent/a")
                == .wrongCluster)
        #expect(
            serverAnswer(hello: Samples.hello(other), certificate: other.uri) == .wrongCluster)
        #expect(
            serverAnswer(hello: Samples.hello(), certificate: other.uri) == .wrongCluster)
        let server = Samples.identity("fermata://demo/server/s2")
        #expect(
            serverAnswer(hello: Samples.hello(server), certificate: server.uri) == nil,
            "a standby watches the leader")
    }

    @Test("a client tells nothing to a peer that is no server of its cluster")
    func clientChecksServer() {
        for (uri, code): (String, CloseCode) in [
            ("fermata://demo/agent/b", .wrongIdentity),
            ("fermata://other/server/s1", .wrongCluster),
        ] {
            var machine = SessionMachine(client: Samples.hello(), peer: Samples.identity(uri))
            machine.start(at: 0)
            let seen = drain(&machine)
            #expect(seen.end?.code == code)
            #expect(seen.sentKinds == [.close])
        }
    }

    @Test("a client refuses a server whose answer does not fit")
    func badAccepted() {
        for (change, code): ((inout HelloAccepted) -> Void, CloseCode) in [
            ({ $0.version = 2 }, .versionMismatch), ({ $0.server = "s2" }, .wrongIdentity),
        ] {
            var accepted = Samples.accepted
            change(&accepted)
            var machine = SessionMachine(client: Samples.hello(), peer: Samples.server)
            machine.start(at: 0)
            machine.receive(frames(.helloAccepted(accepted)), at: 0)
            #expect(drain(&machine).end?.code == code)
        }
    }

    // MARK: - Every state and every event

    enum Side: CaseIterable { case client, server }

    /// What the table in SessionMachine.swift says of one frame in one state.
    static func expected(
        _ side: Side, _ state: SessionMachine.State, _ kind: MessageKind
    ) -> (state: SessionMachine.State, code: CloseCode?) {
        switch state {
        case .closed: return (.closed, nil)
        case .deciding: return (.deciding, nil)
        case .opening:
            if kind == .close { return (.closed, .wrongCluster) }  // the sample's own code
            if side == .server, kind == .hello { return (.deciding, nil) }
            if side == .client, kind == .helloAccepted { return (.ready, nil) }
            return (.closed, .wrongState)
        case .ready:
            if kind == .close { return (.closed, .wrongCluster) }
            if kind == .hello || kind == .helloAccepted { return (.closed, .wrongState) }
            let permitted =
                side == .server
                ? kind.permission.toServer.contains(.agent)
                : kind.permission.fromServer.contains(.agent)
            return permitted ? (.ready, nil) : (.closed, .notPermitted)
        }
    }

    private func machine(_ side: Side, in state: SessionMachine.State) -> SessionMachine {
        var machine =
            side == .client
            ? SessionMachine(client: Samples.hello(), peer: Samples.server)
            : SessionMachine(server: Samples.server, peer: Samples.agent)
        machine.start(at: 0)
        _ = drain(&machine)
        if state == .closed { machine.close(.normal, "") }
        if state == .deciding || state == .ready {
            machine.receive(
                frames(
                    side == .client ? .helloAccepted(Samples.accepted) : .hello(Samples.hello())),
                at: 0)
            _ = drain(&machine)
        }
        if state == .ready, side == .server { machine.accept(Samples.accepted, at: 0) }
        _ = drain(&machine)
        #expect(machine.state == state)
        return machine
    }

    @Test("every state × every kind, as in the table", arguments: Side.allCases)
    func everyPair(side: Side) throws {
        for state in SessionMachine.State.allCases {
            if side == .client, state == .deciding { continue }
            for kind in MessageKind.allCases {
                let sample = try #require(Samples.messages.first { $0.message.kind == kind })
                var machine = machine(side, in: state)
                machine.receive(frames(sample.message), at: 1)
                let seen = drain(&machine)
                let expected = Self.expected(side, state, kind)
                let label: Comment = "\(side) \(state) \(kind)"
                #expect(machine.state == expected.state, label)
                #expect(seen.end?.code == expected.code, label)
                let isDelivered = state == .ready && expected.state == .ready && !kind.isControl
                #expect((seen.delivered == [sample.message]) == isDelivered, label)
                #expect(seen.sentKinds.contains(.pong) == (state == .ready && kind == .ping), label)
            }
        }
    }

    @Test("an unknown kind is ignored, unless it is mandatory")
    func unknownKinds() {
        for side in Side.allCases {
            var machine = machine(side, in: .ready)
            machine.receive(encodeFrame(Frame(kind: 9_999, body: [1, 2])), at: 1)
            machine.receive(encodeFrame(Frame(kind: 9_999, flags: .more, body: [1])), at: 1)
            #expect(drain(&machine) == Seen())
            #expect(machine.state == .ready)
            machine.receive(encodeFrame(Frame(kind: 9_999, flags: .mandatory, body: [])), at: 1)
            #expect(drain(&machine).end?.code == .unknownKind)

            machine = self.machine(side, in: .opening)
            machine.receive(encodeFrame(Frame(kind: 9_999, body: [])), at: 1)
            #expect(drain(&machine).end?.code == .wrongState)
        }
    }

    @Test("bad frames and bodies end the session in any state that reads")
    func badFrames() {
        for side in Side.allCases {
            for state in [SessionMachine.State.opening, .ready] {
                for bytes: [UInt8] in [
                    [0, 0, 0, 3], [0xFF, 0xFF, 0xFF, 0xFF],
                    encodeFrame(Frame(kind: 3, body: [0xFF])),
                    encodeFrame(Frame(kind: side == .server ? 1 : 2, flags: .more, body: [1])),
                    // "GET / HTTP/1.1": what a stray client sends.
                    Array("GET / HTTP/1.1\r\n\r\n".utf8),
                ] {
                    var machine = machine(side, in: state)
                    machine.receive(bytes, at: 1)
                    let code = drain(&machine).end?.code
                    // In an open session a hello is out of place before it is looked at.
                    #expect(code == .badFrame || (state == .ready && code == .wrongState))
                }
            }
        }
    }

    @Test("a bad body names its field in the close")
    func badBody() throws {
        let bad = try #require(BadMessages.all.first { $0.field == "hostReport.host" })
        var machine = machine(.server, in: .ready)
        machine.receive(encodeFrame(Frame(kind: bad.kind.rawValue, body: bad.body)), at: 1)
        let end = drain(&machine).end
        #expect(end?.code == .badFrame)
        #expect(end?.reason.contains("hostReport.host") == true)
    }

    @Test("frames above 4 KiB are refused before the hello and taken after it")
    func limitByState() {
        let large = frames(
            .stepReport(
                StepReport(
                    step: Samples.step, token: Token(1), outcome: .failed,
                    reason: String(repeating: "r", count: 4_090), phases: Samples.phases,
                    holds: [])))
        var early = machine(.server, in: .opening)
        early.receive(large, at: 0)
        #expect(drain(&early).end?.code == .badFrame)
        var late = machine(.server, in: .ready)
        late.receive(large, at: 0)
        #expect(drain(&late).delivered.count == 1)
    }

    @Test("a close fits the limit before the hello, however long its reason")
    func longReason() {
        var machine = machine(.server, in: .opening)
        machine.close(.internal, String(repeating: "é", count: 9_000))
        var client = self.machine(.client, in: .opening)
        while let action = machine.next() {
            if case .send(let bytes) = action { client.receive(bytes, at: 0) }
        }
        #expect(drain(&client).end?.code == .internal)
    }

    @Test("bytes that come while the server decides wait for the decision")
    func pipelined() {
        var machine = machine(.server, in: .deciding)
        machine.receive(frames(.hostReport(Samples.hostReport)), at: 0)
        #expect(drain(&machine) == Seen())
        machine.accept(Samples.accepted, at: 0)
        let seen = drain(&machine)
        #expect(seen.sentKinds == [.helloAccepted])
        #expect(seen.delivered == [.hostReport(Samples.hostReport)])
    }

    // MARK: - Time

    @Test("silence is pinged after one second and ends the session after three")
    func keepalive() {
        var machine = machine(.client, in: .ready)
        var pings: [Int64] = []
        var endedAt: Int64?
        for now in stride(from: Int64(0), through: 5_000, by: 250) {
            machine.tick(at: now)
            let seen = drain(&machine)
            if seen.sentKinds.contains(.ping) { pings.append(now) }
            if let end = seen.end, endedAt == nil {
                #expect(end.code == .timeout)
                endedAt = now
            }
        }
        #expect(pings == [1_000, 2_000])
        #expect(endedAt == 3_000)
    }

    @Test("any byte counts as life, and a pong keeps a session open for ever")
    func pong() {
        var pair = Pair()
        pair.start()
        for _ in 0..<400 {
            pair.now += 250
            pair.client.tick(at: pair.now)
            pair.server.tick(at: pair.now)
            pair.settle()
        }
        #expect(pair.client.state == .ready && pair.server.state == .ready)
    }

    @Test("the server's own keepalive figures hold on both sides")
    func agreedKeepalive() {
        var accepted = Samples.accepted
        accepted.keepaliveMilliseconds = 200
        accepted.silenceMilliseconds = 500
        var client = machine(.client, in: .opening)
        client.receive(frames(.helloAccepted(accepted)), at: 0)
        var server = machine(.server, in: .deciding)
        server.accept(accepted, at: 0)
        for var machine in [client, server] {
            _ = drain(&machine)
            for now in stride(from: Int64(0), through: 499, by: 100) { machine.tick(at: now) }
            #expect(drain(&machine).end == nil)
            machine.tick(at: 500)
            #expect(drain(&machine).end?.code == .timeout)
        }
    }

    @Test("a stall of our own is not held against the peer")
    func stall() {
        var machine = machine(.client, in: .ready)
        machine.tick(at: 250)
        // We did not run for a minute: the peer's bytes are still in the socket.
        machine.tick(at: 60_000)
        #expect(drain(&machine).end == nil)
        machine.receive(frames(.ping(nonce: 1)), at: 60_001)
        #expect(drain(&machine).sentKinds.contains(.pong))
        // But a peer that stays silent is still found dead.
        for now in stride(from: Int64(60_250), through: 63_250, by: 250) { machine.tick(at: now) }
        #expect(drain(&machine).end?.code == .timeout)
    }

    @Test("after a stall of our own, a peer that was heard before the tick is still found dead")
    func stallBeforeBytes() {
        var machine = machine(.client, in: .ready)
        machine.tick(at: 250)
        // We did not run for a minute, and the peer's bytes are read before the clock ticks.
        machine.receive(frames(.ping(nonce: 1)), at: 60_000)
        #expect(drain(&machine).sentKinds.contains(.pong))
        machine.tick(at: 60_000)
        for now in stride(from: Int64(60_250), through: 63_000, by: 250) { machine.tick(at: now) }
        #expect(drain(&machine).end?.code == .timeout)
    }

    @Test("no hello within five seconds ends it", arguments: Side.allCases)
    func helloTimeout(side: Side) {
        var machine = machine(side, in: .opening)
        for now in stride(from: Int64(0), to: 5_000, by: 250) { machine.tick(at: now) }
        #expect(machine.state == .opening)
        machine.tick(at: 5_000)
        #expect(drain(&machine).end?.code == .timeout)
    }

    @Test("random bytes never crash either side")
    func randomBytes() {
        var random = SplitMix(state: 3)
        for _ in 0..<2_000 {
            let side: Side = random.next() % 2 == 0 ? .client : .server
            var machine = machine(side, in: random.next() % 2 == 0 ? .opening : .ready)
            for _ in 0..<4 {
                // Often a right length, so that the insides are reached.
                var bytes = (0..<Int(random.next() % 64)).map { _ in
                    UInt8(truncatingIfNeeded: random.next())
                }
                if bytes.count >= 16, random.next() % 4 != 0 {
                    bytes.replaceSubrange(0..<4, with: [0, 0, 0, UInt8(bytes.count - 4)])
                    bytes.replaceSubrange(4..<8, with: [0, UInt8(random.next() % 48), 0, 0])
                }
                machine.receive(bytes, at: 1)
                _ = drain(&machine)
            }
        }
    }
}

/// What a machine wanted done, taken apart.
struct Seen: Equatable {
    var sentKinds: [MessageKind] = []
    var delivered: [Message] = []
    var end: SessionEnd?
}

func frames(_ message: Message, correlation: UInt64 = 0) -> [UInt8] {
    var bytes: [UInt8] = []
    encodeMessage(message, correlation: correlation, into: &bytes)
    return bytes
}

func drain(_ machine: inout SessionMachine) -> Seen {
    var seen = Seen()
    while let action = machine.next() {
        switch action {
        case .send(let bytes):
            var decoder = FrameDecoder(limit: Limits.frameByteCountMax)
            decoder.append(bytes)
            while let frame = try? decoder.next() {
                if let kind = MessageKind(rawValue: frame.kind) { seen.sentKinds.append(kind) }
            }
        case .deliver(let message, _): seen.delivered.append(message)
        case .ended(let end): seen.end = end
        case .hello, .ready: break
        }
    }
    return seen
}
