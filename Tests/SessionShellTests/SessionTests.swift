import Fleet
import Testing
import UvLoop
import Wire

@testable import SessionCore
@testable import SessionShell

@Suite("Sessions over real sockets and TLS")
struct SessionTests {
    private let report = HostReport(
        host: HostID(checked: "a"), agentVersion: "1", bootID: "b", acceptedToken: Token(0),
        sets: [], guests: [])

    @Test("an agent connects, reports, and gets its answer")
    func requestAndAnswer() throws {
        try withStage { stage in
            let listener = try stage.listener()
            var identity: PeerIdentity?
            listener.onMessage = { session, message, correlation in
                identity = session.identity
                guard case .hostReport = message else { return }
                session.send(.hostReportCommitted(index: 7), correlation: correlation)
            }
            let client = try stage.client(["\(listener.address)"])
            var answer: Result<Message, RequestError>?
            client.onReady = { accepted in
                #expect(accepted.server == "s1" && accepted.version == 1)
                client.request(.hostReport(report), timeout: .seconds(10)) { answer = $0 }
                #expect(answer == nil)
            }
            client.start()
            stage.run(until: { answer != nil })
            #expect(try answer?.get() == .hostReportCommitted(index: 7))
            #expect(identity == PeerIdentity(uri: "fermata://demo/agent/a"))
            #expect(listener.sessions.count == 1)
            client.stop()
            listener.close(.normal, reason: "")
        }
    }

    @Test("a message of megabytes goes through, both ways, in order")
    func longMessages() throws {
        try withStage { stage in
            let listener = try stage.listener()
            let events = (1...20_000).map {
                FleetEvent(
                    sequence: UInt64($0), at: Timestamp(microseconds: 1),
                    body: .lockReleased(
                        set: SetID(checked: "db"), by: "alice",
                        reason: String(repeating: "x", count: 200)))
            }
            listener.onMessage = { session, _, correlation in
                session.send(.eventBatch(events, lastSequence: 20_000), correlation: correlation)
                session.send(.eventBatch([], lastSequence: 20_001), correlation: correlation)
            }
            let client = try stage.client(
                ["\(listener.address)"], as: "operator-alice", role: .operator)
            var received: [Message] = []
            client.onReady = { _ in
                client.send(.followEvents(afterSequence: 0, progress: false), correlation: 5)
            }
            client.onMessage = { message, correlation in
                #expect(correlation == 5)
                received.append(message)
            }
            client.start()
            stage.run(until: { received.count == 2 })
            #expect(received.first == .eventBatch(events, lastSequence: 20_000))
            #expect(received.last == .eventBatch([], lastSequence: 20_001))
        }
    }

    @Test("a request without an answer times out, and one under way fails with its session")
    func requestFailures() throws {
        try withStage { stage in
            let listener = try stage.listener()
            let client = try stage.client(["\(listener.address)"])
            var early: Result<Message, RequestError>?
            client.request(.hostReport(report), timeout: .seconds(1)) { early = $0 }
            stage.run(until: { early != nil })
            #expect(early == .failure(.notConnected))

            var late: Result<Message, RequestError>?
            client.onReady = { _ in
                client.request(.hostReport(report), timeout: .milliseconds(20)) { late = $0 }
            }
            client.start()
            stage.run(until: { late != nil })
            #expect(late == .failure(.timedOut(.milliseconds(20))))

            var cut: Result<Message, RequestError>?
            client.request(.hostReport(report), timeout: .seconds(20)) { cut = $0 }
            listener.close(.shuttingDown, reason: "stopped by an operator")
            stage.run(until: { cut != nil })
            guard case .failure(.down(let problem)) = cut else {
                Issue.record("\(String(describing: cut))")
                return
            }
            #expect(problem.kind == .shuttingDown)
            #expect(problem.message.contains("stopped by an operator"))
            #expect(!problem.isFatal && problem.exitCode == 69)
        }
    }

    @Test("after its server has gone and come back a client is there again")
    func reconnect() throws {
        try withStage { stage in
            var listener = try stage.listener()
            let port = listener.address.port
            let client = try stage.client(["\(listener.address)"])
            var readyCount = 0
            var downs: [SessionDown] = []
            client.onReady = { _ in readyCount += 1 }
            client.onDown = { downs.append($0) }
            client.start()
            stage.run(until: { readyCount == 1 })
            listener.close(.shuttingDown, reason: "restart")
            stage.run(until: { downs.count >= 3 })
            #expect(downs[0].wasReady && downs[0].problem.kind == .shuttingDown)
            #expect(!downs[0].isRoundOver)
            #expect(downs[1].problem.kind == .refused && downs[1].isRoundOver)
            #expect(downs[1].problem.message.contains("ECONNREFUSED"))
            listener = try stage.listener(port: port)
            stage.run(until: { readyCount == 2 })
            #expect(client.isReady)
        }
    }

    @Test("a standby's hint leads to the leader, in the same round")
    func followsLeader() throws {
        try withStage { stage in
            let leader = try stage.listener("s1")
            let standby = try stage.listener(
                "s2", isLeader: false, servers: { ["\(leader.address)"] })
            let client = try stage.client(["\(standby.address)"])
            var accepted: HelloAccepted?
            var downs: [SessionDown] = []
            client.onReady = { accepted = $0 }
            client.onDown = { downs.append($0) }
            client.start()
            stage.run(until: { accepted != nil })
            #expect(accepted?.server == "s1")
            #expect(downs.map(\.problem.kind) == [.notLeader])
            #expect(downs.first?.retryAfter == .zero)
        }
    }

    @Test("standbys that point at each other are asked once in a round")
    func circularHints() throws {
        try withStage { stage in
            var addresses = ["", ""]
            var helloCount = 0
            let first = try stage.listener(
                "s1", isLeader: false,
                servers: {
                    helloCount += 1
                    return [addresses[1]]
                })
            let second = try stage.listener(
                "s2", isLeader: false,
                servers: {
                    helloCount += 1
                    return [addresses[0]]
                })
            addresses = ["\(first.address)", "\(second.address)"]
            let client = try stage.client([addresses[0]])
            var downs: [SessionDown] = []
            client.onDown = { downs.append($0) }
            client.start()
            stage.run(until: { downs.contains { $0.isRoundOver } })
            #expect(helloCount <= 3)
            #expect(downs.last?.retryAfter.map { $0 >= .milliseconds(50) } == true)
        }
    }

    // MARK: - Replacing and closing

    @Test("an agent's second session replaces its first, whose end comes before the new start")
    func replaced() throws {
        try withStage { stage in
            let listener = try stage.listener()
            let diary = Diary()
            listener.onReady = { diary.note("ready \($0.number)") }
            listener.onDown = { diary.note("down \($0.number) \($1)") }
            let first = try stage.client(["\(listener.address)"])
            var down: SessionDown?
            first.onDown = { down = $0 }
            first.start()
            stage.run(until: { diary.entries.count == 1 })
            let second = try stage.client(["\(listener.address)"])
            second.start()
            stage.run(until: { down != nil && diary.entries.count == 3 && second.isReady })
            #expect(diary.entries[0] == "ready 1" && diary.entries[2] == "ready 2")
            #expect(diary.entries[1].hasPrefix("down 1 closed with REPLACED"))
            #expect(down?.problem.kind == .replaced)
            #expect(down?.problem.isFatal == true && down?.retryAfter == nil)
            #expect(listener.sessions.map(\.number) == [2])
        }
    }

    @Test("operators may have several sessions at once")
    func severalOperators() throws {
        try withStage { stage in
            let listener = try stage.listener()
            let clients = try (0..<3).map { _ in
                try stage.client(["\(listener.address)"], as: "operator-alice", role: .operator)
            }
            for client in clients { client.start() }
            stage.run(until: { clients.allSatisfy(\.isReady) })
            #expect(listener.sessions.count == 3)
        }
    }

    @Test("a session closed from its own message ends right after it, once, and reads no more")
    func closeInCallback() throws {
        try withStage { stage in
            let listener = try stage.listener()
            let diary = Diary()
            listener.onMessage = { session, _, _ in
                session.close(.notPermitted, reason: "not you")
                session.close(.internal, reason: "again")
                #expect(!session.send(.hostReportCommitted(index: 1)))
                diary.note("message")
            }
            listener.onDown = { _, end in diary.note("\(end)") }
            let client = try stage.client(["\(listener.address)"])
            client.onReady = { _ in
                for _ in 0..<3 { client.send(.hostReport(report)) }
            }
            var down: SessionDown?
            client.onDown = { down = $0 }
            client.start()
            stage.run(until: { down != nil })
            #expect(diary.entries == ["message", "closed with NOT_PERMITTED: not you"])
            #expect(down?.problem.kind == .notPermitted && down?.problem.exitCode == 77)
        }
    }

    @Test("a message that a role may not send closes its session")
    func notPermitted() throws {
        try withStage { stage in
            let listener = try stage.listener()
            // An agent's hello, then a command: only a broken or hostile agent does this.
            let credentials = try stage.credentials("agent-a", roles: [.agent])
            var stop: SessionStop?
            var driver: SessionDriver?
            SocketStream.connectTCP(listener.address, on: stage.loop, timeout: .seconds(5)) {
                guard case .success(let stream) = $0 else { return }
                TLSStream.start(
                    credentials.context, over: stream, on: stage.loop, timeout: .seconds(5)
                ) {
                    guard case .success(let stream) = $0,
                        let peer = PeerIdentity(uri: stream.peerIdentity.uri)
                    else { return }
                    let hello = Hello(
                        identity: credentials.identity, instance: randomBytes(16), software: "")
                    let made = SessionDriver(
                        SessionMachine(client: hello, peer: peer), over: stream, on: stage.loop)
                    driver = made
                    made.onReady = { _ in
                        var bytes: [UInt8] = []
                        encodeMessage(
                            .command(.abortRollout(RolloutID(1), reason: "")), correlation: 1,
                            into: &bytes)
                        stream.write(bytes)
                    }
                    made.onEnd = { stop = $0 }
                    made.start()
                }
            }
            stage.run(until: { stop != nil })
            withExtendedLifetime(driver) {}
            guard case .session(.closedByPeer(.notPermitted, _)) = stop else {
                Issue.record("\(String(describing: stop))")
                return
            }
        }
    }

    @Test("a peer that does not read is closed at the high-water mark, and the others go on")
    func slowReader() throws {
        try withStage { stage in
            let listener = try stage.listener()
            let credentials = try stage.credentials("operator-alice", roles: [.operator])
            var slow: ServerSession?
            var end: ServerSessionEnd?
            listener.onReady = { slow = $0 }
            listener.onDown = { _, reason in end = reason }
            var streams: [TLSStream] = []
            SocketStream.connectTCP(listener.address, on: stage.loop, timeout: .seconds(5)) {
                guard case .success(let stream) = $0 else { return }
                TLSStream.start(
                    credentials.context, over: stream, on: stage.loop, timeout: .seconds(5)
                ) {
                    guard case .success(let stream) = $0 else { return }
                    streams.append(stream)  // onBytes stays nil: it never reads
                    var bytes: [UInt8] = []
                    encodeMessage(
                        .hello(
                            Hello(
                                identity: credentials.identity, instance: randomBytes(16),
                                software: "")), correlation: 0, into: &bytes)
                    stream.write(bytes)
                }
            }
            stage.run(until: { slow != nil })
            let events = (1...1_000).map {
                FleetEvent(
                    sequence: UInt64($0), at: Timestamp(microseconds: 1),
                    body: .lockReleased(
                        set: SetID(checked: "db"), by: "alice",
                        reason: String(repeating: "x", count: 1_000)))
            }
            var sentCount = 0
            while sentCount < 100,
                slow?.send(.eventBatch(events, lastSequence: 1_000)) == true
            { sentCount += 1 }
            #expect((15..<60).contains(sentCount))
            guard case .session(.closedByUs(.tooSlow, _)) = end else {
                Issue.record("\(String(describing: end))")
                return
            }
            #expect(listener.sessions.isEmpty)
            let client = try stage.client(["\(listener.address)"])
            client.start()
            stage.run(until: { client.isReady })
        }
    }
}
