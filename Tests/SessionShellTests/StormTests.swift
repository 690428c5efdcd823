import Fleet
import Logging
import Testing
import Wire

@testable import SessionCore
@testable import SessionShell
@testable import UvLoop

@Suite("Many at once")
struct StormTests {
    @Test("who is urgent is let in before those who came first")
    func urgent() throws {
        try withStage { stage in
            let listener = try stage.listener()
            let diary = Diary()
            var clients: [SessionClient] = []
            // Operators, since an agent may have only one session. All connect in one turn.
            for number in 0..<40 {
                let client = try stage.client(
                    ["\(listener.address)"], as: "operator-alice", role: .operator)
                if number == 39 { client.isUrgent = { true } }
                client.onReady = { _ in diary.note("\(number)") }
                clients.append(client)
            }
            for client in clients { client.start() }
            stage.run(until: { diary.entries.count == 40 })
            let place = try #require(diary.entries.firstIndex(of: "39"))
            #expect(place < 20, "let in as number \(place + 1) of 40")
            #expect(listener.sessionCount == 40 && listener.halfOpenCount == 0)
            #expect(listener.tally.value("sessions_opened", "operator") == 40)
        }
    }

    @Test("who is urgent comes back within half a second, others take their time")
    func pauses() throws {
        try withStage { stage in
            let gone = try stage.listener()
            let address = "\(gone.address)"
            gone.close(.normal, reason: "")
            for (isUrgent, longest) in [(true, 501), (false, 5_001)] {
                let client = try stage.client([address])
                client.isUrgent = { isUrgent }
                var pauses: [Duration] = []
                client.onDown = { down in
                    if let pause = down.retryAfter { pauses.append(pause) }
                }
                client.start()
                stage.run(until: { pauses.count == 7 })
                client.stop()
                #expect(pauses.allSatisfy { $0 < .milliseconds(longest) })
                // Doubling from 100 ms, half by chance: the seventh is at least 2.5 s otherwise.
                #expect((pauses.last ?? .zero > .milliseconds(501)) != isUrgent)
            }
        }
    }

    @Test("an address has its share of sessions, and another still gets in")
    func share() throws {
        try withStage { stage in
            let credentials = try stage.credentials("server-s1", roles: [.server])
            let listener = try SessionListener(
                on: stage.loop, address: try #require(SocketAddress(ip: "127.0.0.1", port: 0)),
                credentials: credentials, logger: stage.logger,
                bounds: ConnectionGate.Bounds(sessionsPerAddressMax: 2))
            listener.onHello = { _, _ in
                .accept(
                    HelloAccepted(
                        version: 0, server: "s1", isLeader: true, term: 1, servers: [],
                        software: ""))
            }
            func alice() throws -> SessionClient {
                try stage.client(["\(listener.address)"], as: "operator-alice", role: .operator)
            }
            let clients = [try alice(), try alice()]
            for client in clients { client.start() }
            stage.run(until: { clients.allSatisfy(\.isReady) })
            let third = try alice()
            let down = try stage.firstDown(third)
            #expect(down.problem.kind == .unreachable && !down.problem.isFatal)
            #expect(listener.tally.value("connections_refused", "sessionsMax") > 0)
            clients[0].stop()
            stage.run(until: { third.isReady })
        }
    }

    @Test("a flood of refusals is logged as a number")
    func floodLog() {
        let lines = Diary()
        var now: Int64 = 0
        let logger = Logger(label: "test") { _ in DiaryHandler(diary: lines) }
        let log = RefusalLog(logger, of: "connection") { now }
        for number in 0..<1_000 { log.refused("peer \(number)", reason: "plaintext", "") }
        log.refused("peer", reason: "expired", "")
        #expect(lines.entries.count == Limits.refusalLogLinesPerSecond + 1)
        log.flush()
        #expect(lines.entries.count == Limits.refusalLogLinesPerSecond + 1)
        now = 1_000
        log.flush()
        log.flush()
        #expect(lines.entries.count == Limits.refusalLogLinesPerSecond + 2)
        #expect(lines.entries.last?.contains("990") == true)
    }
}

private struct DiaryHandler: LogHandler {
    nonisolated(unsafe) let diary: Diary
    var metadata: Logger.Metadata = [:]
    var logLevel = Logger.Level.trace
    init(diary: Diary) { self.diary = diary }
    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }
    func log(event: LogEvent) { diary.note("\(event.message) \(event.metadata ?? [:])") }
}
