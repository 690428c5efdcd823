import Testing

@testable import QMP

private let stray =
    ##"{"error": {"class": "GenericError", "desc": "JSON parse error, stray '\\uFFFD'"}}"## + "\n"

/// The agent's text; `~` stands for the sentinel 0xFF.
private func agent(_ text: String) -> [UInt8] {
    text.utf8.map { $0 == UInt8(ascii: "~") ? 0xFF : $0 }
}

private func ready(firstID: Int64 = 1) -> GuestAgentSession {
    var session = GuestAgentSession(firstID: firstID)
    _ = session.synchronise()
    _ = session.receive(agent("~{\"return\": \(firstID), \"id\": \(firstID)}\n"))
    precondition(session.isReady)
    return session
}

@Suite("Guest-agent session")
struct GuestAgentSessionTests {
    @Test("synchronises, and drops the agent's error about the sentinel")
    func synchronises() {
        var session = GuestAgentSession()
        #expect(session.send(.ping) == nil)
        let expected =
            #"{"execute":"guest-sync-delimited","arguments":{"id":1},"id":1}"# + "\n"
        #expect(session.synchronise() == [0xFF] + Array(expected.utf8))
        #expect(session.send(.ping) == nil)
        #expect(session.receive(agent(stray + "~{\"return\": 1, \"id\": 1}\n")) == [.ready])
        #expect(session.isReady)
    }

    /// Recorded: four synchronisations sent while the guest booted are all answered in the end;
    /// then a reply to an earlier client's ping, and commands. Every split of it in two.
    @Test("plays a recorded conversation, split at every byte")
    func recorded() throws {
        let boot = (1...4).map { "\(stray)~{\"return\": \($0), \"id\": \($0)}\n" }.joined()
        let rest = [
            (GuestCommand.ping, "{\"return\": {}, \"id\": 5}\n"),
            (.getTime, "{\"return\": 1795475684244284000, \"id\": 6}\n"),
            (.setTime(nanoseconds: 1_795_475_685_757_080_320), "{\"return\": {}, \"id\": 7}\n"),
            (
                GuestCommand("guest-nonsense"),
                "{\"id\": 8, \"error\": {\"class\": \"CommandNotFound\", \"desc\": \"gone\"}}\n"
            ),
        ]
        let bytes = agent("{\"return\": {}, \"id\": 88}\n" + boot)
        for index in 0...bytes.count {
            var session = GuestAgentSession()
            for _ in 1...4 { _ = session.synchronise() }
            var outputs = session.receive(bytes[..<index])
            outputs += session.receive(bytes[index...])
            #expect(outputs == [.ready])
            outputs = []
            for (command, reply) in rest {
                let id = try #require(session.send(command)?.id)
                #expect(session.outstanding == id)
                for byte in agent(reply) { outputs += session.receive([byte]) }
            }
            #expect(
                outputs == [
                    .reply(CommandID(5), [:]),
                    .reply(CommandID(6), 1_795_475_684_244_284_000),
                    .reply(CommandID(7), [:]),
                    .failed(
                        CommandID(8),
                        CommandError(errorClass: "CommandNotFound", text: "gone")),
                ])
        }
    }

    @Test("each command is the line that the agent documents")
    func lines() throws {
        var session = ready()
        #expect(session.send(.ping)?.bytes == agent("{\"execute\":\"guest-ping\",\"id\":2}\n"))
        #expect(session.send(.ping) == nil, "one at a time")
        session = ready()
        #expect(
            session.send(.setTime(nanoseconds: 7))?.bytes
                == agent(
                    "{\"execute\":\"guest-set-time\",\"arguments\":{\"time\":7},\"id\":2}\n"))
        session = ready()
        #expect(
            session.send(.getTime)?.bytes == agent("{\"execute\":\"guest-get-time\",\"id\":2}\n"))
    }

    @Test("ignores old replies with other ids, whenever they come")
    func oldReplies() {
        var session = ready(firstID: 100)
        #expect(session.receive(agent("{\"return\": {}, \"id\": 3}\n")).isEmpty)
        let id = session.send(.ping)?.id
        #expect(id == CommandID(101))
        #expect(session.receive(agent("{\"return\": {}, \"id\": 3}\n\(stray)")).isEmpty)
        #expect(session.receive(agent("~{\"return\": 99, \"id\": 99}\n")).isEmpty)
        #expect(
            session.receive(agent("{\"return\": {}, \"id\": 101}\n"))
                == [.reply(CommandID(101), [:])])
    }

    @Test("forgets a command that took too long, and drops its late reply")
    func lateReply() {
        var session = ready()
        _ = session.send(.getTime)
        _ = session.synchronise()
        #expect(session.outstanding == nil && !session.isReady)
        let outputs = session.receive(
            agent("{\"return\": 12, \"id\": 2}\n\(stray)~{\"return\": 3, \"id\": 3}\n"))
        #expect(outputs == [.ready])
    }

    @Test("takes nothing for a reply after giving up, not even one without an id")
    func givenUp() {
        var session = GuestAgentSession()
        _ = session.synchronise()
        _ = session.receive(agent("~{\"return\": 1}\n"))
        _ = session.send(.getTime)
        session.giveUp()
        #expect(session.outstanding == nil && session.send(.ping) == nil)
        #expect(session.receive(agent("{\"return\": 12}\n~{\"return\": 1}\n")).isEmpty)
        #expect(!session.isReady)
        _ = session.synchronise()
        #expect(
            session.receive(agent("{\"return\": 12}\n~{\"return\": 3}\n")) == [.ready])
        let id = session.send(.ping)?.id ?? CommandID(0)
        #expect(session.receive(agent("{\"return\": {}}\n")) == [.reply(id, [:])])
    }

    @Test("takes replies without an id from an agent that repeats none")
    func oldAgent() {
        var session = GuestAgentSession()
        _ = session.synchronise()
        #expect(session.receive(agent("~{\"return\": 1}\n")) == [.ready])
        let id = session.send(.ping)?.id ?? CommandID(0)
        #expect(session.receive(agent("{\"return\": {}}\n")) == [.reply(id, [:])])
        // After the reply nothing is expected, so nothing is taken.
        #expect(session.receive(agent("{\"return\": {}}\n")).isEmpty)
    }

    @Test("finds the sentinel behind and within garbage")
    func garbageBeforeSentinel() {
        for noise in ["", "\n", "{\"ret", "~~", "~\n~nonsense\n", "~{\"return\": 9}\n", "~{\"retu"]
        {
            var session = GuestAgentSession()
            _ = session.synchronise()
            let outputs = session.receive(agent(noise + "~{\"return\": 1, \"id\": 1}\n"))
            #expect(outputs == [.ready], "\(noise)")
        }
    }

    @Test("gives up on a flood and on endless lines, and can synchronise again")
    func floods() {
        var session = GuestAgentSession()
        _ = session.synchronise()
        let chunk = [UInt8](repeating: UInt8(ascii: "x"), count: 100_000)
        var outputs: [GuestAgentSession.Output] = []
        for _ in 0..<20 { outputs += session.receive(chunk) }
        #expect(
            outputs == [
                .protocolError(
                    .floodedWithoutReply(byteCountMax: QMPLimits.guestAgentDrainByteCountMax))
            ])

        session = GuestAgentSession()
        _ = session.synchronise()
        outputs = []
        let sentinels = agent(String(repeating: "~x\n", count: 10_000))
        for _ in 0..<60 {
            outputs += session.receive(sentinels)
            if !outputs.isEmpty { break }
        }
        #expect(outputs.count == 1, "a flood of sentinels ends too")

        session = ready()
        let tooLong = QMPError.lineTooLong(byteCountMax: QMPLimits.guestAgentLineByteCountMax)
        #expect(session.receive(chunk) == [.protocolError(tooLong)])
        #expect(!session.isReady && session.receive(chunk).isEmpty)
        _ = session.synchronise()
        #expect(session.receive(agent("~{\"return\": 2, \"id\": 2}\n")) == [.ready])
    }

    // MARK: Every state × input

    enum Input: CaseIterable {
        case ourNumber, ourReply, ourError, staleReply, strayError, notJSON, otherJSON, longLine

        func bytes(own: Int64) -> [UInt8] {
            switch self {
            case .ourNumber: agent("~{\"return\": \(own), \"id\": \(own)}\n")
            case .ourReply: agent("{\"return\": {}, \"id\": \(own)}\n")
            case .ourError:
                agent("{\"id\": \(own), \"error\": {\"class\": \"C\", \"desc\": \"D\"}}\n")
            case .staleReply: agent("{\"return\": {}, \"id\": 77}\n")
            case .strayError: agent(stray)
            case .notJSON: agent("login:\n")
            case .otherJSON: agent("{\"id\": \(own)}\n")
            case .longLine: [UInt8](repeating: UInt8(ascii: "x"), count: 70_000)
            }
        }
    }

    @Test("follows its transition table", arguments: Input.allCases)
    func table(_ input: Input) {
        // unsynchronised
        var session = GuestAgentSession()
        #expect(session.receive(input.bytes(own: 1)).isEmpty)
        #expect(!session.isReady && session.send(.ping) == nil)
        // synchronising
        _ = session.synchronise()
        var outputs = session.receive(input.bytes(own: 1))
        #expect(outputs == (input == .ourNumber ? [.ready] : []))
        #expect(session.isReady == (input == .ourNumber))
        // ready
        session = ready()
        outputs = session.receive(input.bytes(own: 2))
        if input == .notJSON || input == .longLine {
            expectFailed(session, outputs)
        } else {
            #expect(outputs.isEmpty && session.isReady)
        }
        // busy
        session = ready()
        let id = session.send(.ping)?.id ?? CommandID(0)
        outputs = session.receive(input.bytes(own: id.number))
        switch input {
        case .ourReply: #expect(outputs == [.reply(id, [:])] && session.isReady)
        case .ourError:
            let error = CommandError(errorClass: "C", text: "D")
            #expect(outputs == [.failed(id, error)] && session.isReady)
        case .notJSON, .longLine, .otherJSON: expectFailed(session, outputs)
        case .ourNumber, .staleReply, .strayError:
            #expect(outputs.isEmpty && session.outstanding == id)
        }
    }

    private func expectFailed(
        _ session: GuestAgentSession, _ outputs: [GuestAgentSession.Output],
        _ location: SourceLocation = #_sourceLocation
    ) {
        guard outputs.count == 1, case .protocolError = outputs[0] else {
            Issue.record("not one protocol error: \(outputs)", sourceLocation: location)
            return
        }
        #expect(!session.isReady && session.outstanding == nil, sourceLocation: location)
    }
}
