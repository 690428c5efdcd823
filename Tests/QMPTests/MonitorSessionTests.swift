import Testing

@testable import QMP

let greeting = oldMonitorTranscript[0] + "\r\n"

/// A session in the ready state.
func readySession() -> MonitorSession {
    var session = MonitorSession()
    _ = session.receive("\(greeting){\"return\": {}, \"id\": 0}\r\n".utf8)
    precondition(session.isReady)
    return session
}

@Suite("Monitor session")
struct MonitorSessionTests {
    /// What the recorded client sent, in order.
    static let oldCommands: [Command] = [
        .queryVersion, .queryStatus, .queryCPUsFast, .queryBlock, .cont,
        Command("no-such-command"), .humanMonitorCommand("info é中"),
        .migrateSetHandOverCapabilities, .queryMigrate, .stop, .migrate(uri: "unix:/in"),
        .queryMigrate, .queryStatus,
    ]

    /// Feeds the transcript in pieces of `size` bytes; commands are all sent when ready.
    func replay(
        _ transcript: [String], _ commands: [Command], pieces size: Int
    ) -> [MonitorSession.Output] {
        var session = MonitorSession()
        var outputs: [MonitorSession.Output] = []
        var sent = false
        let bytes = Array(transcript.joined(separator: "\r\n").utf8) + Array("\r\n".utf8)
        var index = 0
        while index < bytes.count {
            // The replies are in the transcript already, so the commands must be out before them.
            let end = sent || size == 1 ? min(index + size, bytes.count) : index + 1
            outputs += session.receive(bytes[index..<end])
            index = end
            if session.isReady, !sent {
                sent = true
                let ids = session.send(commands)?.ids
                #expect(ids == (1...Int64(commands.count)).map { CommandID($0) })
            }
        }
        return outputs
    }

    @Test("plays the side of the old process in a recorded hand-over")
    func oldTranscript() throws {
        let outputs = replay(oldMonitorTranscript, Self.oldCommands, pieces: 1_000_000)
        #expect(
            outputs.first
                == .write(Array("{\"execute\":\"qmp_capabilities\",\"id\":0}\n".utf8)))
        guard case .ready(let version) = outputs[1] else {
            Issue.record("no version: \(outputs[1])")
            return
        }
        #expect(version.description == "7.2.22")
        #expect(version.package == "Debian 1:7.2+dfsg-7+deb12u18+b3")

        var replies: [CommandID: JSON] = [:]
        var failures: [CommandID: CommandError] = [:]
        var events: [Event.Kind] = []
        for output in outputs {
            switch output {
            case .reply(let id, let value): replies[id] = value
            case .failed(let id, let error): failures[id] = error
            case .event(let event): events.append(event.kind)
            case .protocolError(let error): Issue.record("\(error)")
            case .ready, .write: break
            }
        }
        func reply(_ number: Int64) throws -> JSON { try #require(replies[CommandID(number)]) }
        #expect(VersionReply(try reply(1)) == version)
        #expect(StatusReply(try reply(2))?.state == .preLaunch)
        #expect(try reply(3).array?.first.flatMap(CPUReply.init)?.threadID == 13_907)
        let block = try #require(try reply(4).array?.first.flatMap(BlockReply.init))
        #expect(block.device == "d" && block.file == "/disk.raw" && block.readOnly == false)
        #expect(block.ioStatus == "ok")
        #expect(failures[CommandID(6)]?.errorClass == "CommandNotFound")
        #expect(try reply(7) == "unknown command: 'info é中'\r\n")
        #expect(MigrationReply(try reply(9))?.status == MigrationStatus.none)
        let migration = try #require(MigrationReply(try reply(12)))
        #expect(migration.status == .completed && migration.status.isOver)
        #expect(migration.ramTransferredBytes == 210_100 && migration.downtimeMilliseconds == 0)
        // Just after completion QEMU has not yet come to `postmigrate`.
        #expect(StatusReply(try reply(13))?.state == .finishMigrate)
        #expect(
            events == [
                .resume, .stop, .migration(.setup), .other, .migration(.active), .other,
                .migration(.completed),
            ])
        #expect(replies.count + failures.count == Self.oldCommands.count)
    }

    @Test("plays the side of the new process, and gives the events' times")
    func newTranscript() {
        let outputs = replay(
            newMonitorTranscript, (0..<12).map { _ in .queryStatus }, pieces: 1_000_000)
        let events = outputs.compactMap { output -> Event? in
            if case .event(let event) = output { event } else { nil }
        }
        #expect(
            events.map(\.kind) == [
                .migration(.setup), .migration(.active), .migration(.completed), .resume, .stop,
                .resume, .powerdown, .shutdown,
            ])
        #expect(events[3].timestampMicroseconds == 1_795_475_673_305_218)
        #expect(events.last?.data["reason"] == "host-qmp-quit")
    }

    @Test("gives the same outputs however the bytes are split")
    func everySplit() {
        let whole = replay(oldMonitorTranscript, Self.oldCommands, pieces: 1_000_000)
        for size in [1, 2, 3, 5, 7, 64, 1000] {
            #expect(replay(oldMonitorTranscript, Self.oldCommands, pieces: size) == whole)
        }
        // Each place once, in two pieces.
        let bytes = Array((greeting + "{\"return\": {}, \"id\": 0}\r\n").utf8)
        for index in 0...bytes.count {
            var session = MonitorSession()
            let outputs = session.receive(bytes[..<index]) + session.receive(bytes[index...])
            #expect(outputs.count == 2 && session.isReady)
        }
    }

    @Test("sends several commands in one write, and takes their replies in any order")
    func pipelining() throws {
        var session = readySession()
        let sent = session.send([.stop, .cont, .queryStatus])
        let (ids, bytes) = try #require(sent)
        #expect(ids.map(\.number) == [1, 2, 3])
        #expect(
            String(decoding: bytes, as: UTF8.self) == """
                {"execute":"stop","id":1}
                {"execute":"cont","id":2}
                {"execute":"query-status","id":3}

                """)
        let outputs = session.receive(
            "{\"return\":{},\"id\":3}\n{\"id\":1,\"error\":{\"class\":\"C\",\"desc\":\"D\"}}\n".utf8
        )
        #expect(
            outputs == [
                .reply(CommandID(3), [:]),
                .failed(CommandID(1), CommandError(errorClass: "C", text: "D")),
            ])
        #expect(session.outstanding == [CommandID(2)])
    }

    // MARK: Every state × input

    enum Input: CaseIterable {
        case greeting, ownReply, ownError, otherReply, errorWithoutID, event, notJSON, otherJSON
        case longLine

        var text: String {
            switch self {
            case .greeting: QMPTests.greeting
            case .ownReply: "{\"return\":{},\"id\":OWN}\n"
            case .ownError: "{\"id\":OWN,\"error\":{\"class\":\"C\",\"desc\":\"D\"}}\n"
            case .otherReply: "{\"return\":{},\"id\":77}\n"
            case .errorWithoutID: "{\"error\":{\"class\":\"C\",\"desc\":\"D\"}}\n"
            case .event:
                "{\"timestamp\":{\"seconds\":1,\"microseconds\":2},\"event\":\"STOP\"}\n"
            case .notJSON: "HTTP/1.1 400 Bad Request\n"
            case .otherJSON: "[1]\n"
            case .longLine: String(repeating: "x", count: 5_000)
            }
        }
    }

    @Test("follows its transition table", arguments: Input.allCases)
    func table(_ input: Input) throws {
        // greeting
        var session = MonitorSession(lineByteCountMax: 4_000)
        #expect(session.send(.stop) == nil)
        var outputs = session.receive(input.text.replacing("OWN", with: "0").utf8)
        if input == .greeting {
            #expect(outputs.count == 1 && !session.hasFailed && session.version != nil)
        } else {
            expectFailed(session, outputs)
        }
        // negotiating
        session = MonitorSession(lineByteCountMax: 4_000)
        _ = session.receive(greeting.utf8)
        #expect(session.send(.stop) == nil)
        outputs = session.receive(input.text.replacing("OWN", with: "0").utf8)
        switch input {
        case .ownReply: #expect(session.isReady && outputs.count == 1)
        case .event: #expect(!session.isReady && !session.hasFailed && outputs.count == 1)
        default: expectFailed(session, outputs)
        }
        // ready
        session = MonitorSession(lineByteCountMax: 4_000)
        _ = session.receive((greeting + "{\"return\":{},\"id\":0}\n").utf8)
        let id = try #require(session.send(.stop)?.id)
        outputs = session.receive(input.text.replacing("OWN", with: "\(id)").utf8)
        switch input {
        case .ownReply: #expect(outputs == [.reply(id, [:])])
        case .ownError:
            #expect(outputs == [.failed(id, CommandError(errorClass: "C", text: "D"))])
        case .event: #expect(outputs.count == 1 && session.outstanding == [id])
        default: expectFailed(session, outputs)
        }
        // failed
        _ = session.receive("garbage\n".utf8)
        #expect(session.hasFailed && session.send(.stop) == nil)
        #expect(session.receive(input.text.utf8).isEmpty)
    }

    private func expectFailed(
        _ session: MonitorSession, _ outputs: [MonitorSession.Output],
        _ location: SourceLocation = #_sourceLocation
    ) {
        #expect(session.hasFailed && session.outstanding.isEmpty, sourceLocation: location)
        guard outputs.count == 1, case .protocolError(let error) = outputs[0] else {
            Issue.record("not one protocol error: \(outputs)", sourceLocation: location)
            return
        }
        #expect(!error.description.isEmpty, sourceLocation: location)
    }

    @Test("says what QEMU did not like about the negotiation or a broken command")
    func namedErrors() {
        var session = MonitorSession()
        _ = session.receive(greeting.utf8)
        let error = CommandError(errorClass: "C", text: "D")
        #expect(
            session.receive("{\"id\":0,\"error\":{\"class\":\"C\",\"desc\":\"D\"}}\n".utf8)
                == [.protocolError(.negotiationRefused(error))])
        session = readySession()
        #expect(
            session.receive("{\"error\":{\"class\":\"C\",\"desc\":\"D\"}}\n".utf8)
                == [.protocolError(.notUnderstood(error))])
    }

    @Test("an error's words are one short line, whatever the other side put into them")
    func errorWords() {
        let long = String(repeating: "é", count: 5_000)
        for (words, shown) in [
            (#"a\nb\u0000\u001b[2Jc\u0085d"#, "a.b..[2Jc.d"),
            (long, String(long.prefix(1_000)) + "…"),
        ] {
            var session = readySession()
            let outputs = session.receive(
                "{\"error\": {\"class\": \"A\\nB\", \"desc\": \"\(words)\"}}\r\n".utf8)
            #expect(
                outputs == [
                    .protocolError(.notUnderstood(CommandError(errorClass: "A.B", text: shown)))
                ])
        }
    }

    @Test("gives out what came before the error")
    func outputsBeforeError() {
        var session = readySession()
        let outputs = session.receive(
            "{\"timestamp\":{\"seconds\":-1,\"microseconds\":-1},\"event\":\"STOP\"}\n\u{0}\n".utf8)
        guard outputs.count == 2, case .event(let event) = outputs[0],
            case .protocolError(.json(.unexpectedByte(0), offset: 0)) = outputs[1]
        else {
            Issue.record("\(outputs)")
            return
        }
        #expect(event.timestampMicroseconds == nil)
    }
}

@Suite("Commands and replies")
struct CommandTests {
    static let commands: [(Command, String)] = [
        (.qmpCapabilities, #"{"execute":"qmp_capabilities","id":5}"#),
        (.queryStatus, #"{"execute":"query-status","id":5}"#),
        (.stop, #"{"execute":"stop","id":5}"#),
        (.cont, #"{"execute":"cont","id":5}"#),
        (.quit, #"{"execute":"quit","id":5}"#),
        (.systemPowerdown, #"{"execute":"system_powerdown","id":5}"#),
        (.queryVersion, #"{"execute":"query-version","id":5}"#),
        (.queryBlock, #"{"execute":"query-block","id":5}"#),
        (.queryCPUsFast, #"{"execute":"query-cpus-fast","id":5}"#),
        (.queryMigrate, #"{"execute":"query-migrate","id":5}"#),
        (.migrateCancel, #"{"execute":"migrate_cancel","id":5}"#),
        (
            .migrate(uri: "unix:/a b"),
            #"{"execute":"migrate","arguments":{"uri":"unix:/a b"},"id":5}"#
        ),
        (
            .migrateIncoming(uri: "exec:cat \"x\""),
            #"{"execute":"migrate-incoming","arguments":{"uri":"exec:cat \"x\""},"id":5}"#
        ),
        (
            .humanMonitorCommand("info"),
            #"{"execute":"human-monitor-command","arguments":{"command-line":"info"},"id":5}"#
        ),
        (
            .announceSelf(.afterMigration),
            #"{"execute":"announce-self","arguments":{"#
                + #""initial":50,"max":550,"rounds":5,"step":100},"id":5}"#
        ),
        (
            .announceSelf(
                AnnouncePattern(
                    initialMilliseconds: 0, maxMilliseconds: .max, rounds: .max,
                    stepMilliseconds: -1)),
            #"{"execute":"announce-self","arguments":{"#
                + #""initial":10,"max":10000,"rounds":10,"step":0},"id":5}"#
        ),
        (
            .migrateSetHandOverCapabilities,
            #"{"execute":"migrate-set-capabilities","arguments":{"capabilities":["#
                + #"{"capability":"x-ignore-shared","state":true},"#
                + #"{"capability":"events","state":true}]},"id":5}"#
        ),
    ]

    @Test("each command is the line that QEMU documents", arguments: commands)
    func line(_ command: Command, _ text: String) {
        var bytes: [UInt8] = []
        command.append(id: CommandID(5), to: &bytes)
        #expect(String(decoding: bytes, as: UTF8.self) == text + "\n")
    }

    @Test("each run state and migration status keeps QEMU's word")
    func words() {
        #expect(RunState.names.count == 16 && MigrationStatus.names.count == 14)
        for (state, name) in RunState.names {
            #expect(RunState(name) == state && state.description == name)
        }
        for (status, name) in MigrationStatus.names {
            #expect(MigrationStatus(name) == status && status.description == name)
        }
        #expect(RunState("holding") == .unknown("holding"))
        #expect(RunState("holding").description == "holding")
        #expect(MigrationStatus("x") == .unknown("x"))
    }

    @Test("replies of another shape are nil, not a crash")
    func shapes() {
        for value: JSON in [.null, 1, "x", [], [:], ["status": 1, "running": 2, "device": 3]] {
            #expect(StatusReply(value) == nil)
            #expect(VersionReply(value) == nil)
            #expect(CPUReply(value) == nil)
            #expect(BlockReply(value) == nil)
        }
        #expect(MigrationReply(1) == nil)
    }
}
