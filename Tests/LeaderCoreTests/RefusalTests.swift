import Fleet
import Logging
import Synchronization
import Testing
import Wire

@testable import LeaderCore

/// Counts lines that are logged, by their words.
private final class LineCounter: Sendable {
    let counts = Mutex<[String: Int]>([:])
    func count(_ words: String) -> Int { counts.withLock { $0[words] ?? 0 } }

    struct Handler: LogHandler {
        let counter: LineCounter
        var metadata: Logger.Metadata = [:]
        var logLevel = Logger.Level.trace
        subscript(metadataKey key: String) -> Logger.Metadata.Value? {
            get { metadata[key] }
            set { metadata[key] = newValue }
        }
        func log(event: LogEvent) {
            counter.counts.withLock { $0["\(event.message)", default: 0] += 1 }
        }
    }
}

/// What peers can make a leader keep, count and log.
@Suite("Peers that ask for what they cannot have, or for much")
struct RefusalTests {
    private let loop = VirtualLoop()
    private let edges = ScriptedEdges()
    private let lines = LineCounter()

    private func leader() -> ServerCore {
        let lines = lines
        let server = ServerCore(
            identity: PeerIdentity(cluster: "test", role: .server, name: "s")!,
            group: ServerGroup(advertise: "s:1", peers: []), softwareVersion: "test",
            store: SingleStore(MemoryStore(MemoryLog(), loop)), loop: loop,
            log: Logger(label: "test") { _ in LineCounter.Handler(counter: lines) }, edges: edges)
        server.start { _ in }
        loop.run(milliseconds: 0)
        return server
    }

    private func session(_ role: Role, _ name: String, of server: ServerCore) -> ScriptedSession {
        let session = ScriptedSession(role, name)
        server.onReady(session)
        return session
    }

    private func report(_ host: String, acceptedToken: UInt64 = 0) -> HostReport {
        HostReport(
            host: HostID(checked: host), agentVersion: "", bootID: "",
            acceptedToken: Token(acceptedToken), sets: [], guests: [])
    }

    private let step = StepID(rollout: RolloutID(9), number: 1)

    @Test("whoever is refused is counted by the code")
    func counted() {
        let server = leader()
        let agent = session(.agent, "a", of: server)
        let notifier = session(.notifier, "n", of: server)
        let person = session(.operator, "bob", of: server)
        server.onMessage(.hostReport(report("a", acceptedToken: 1 << 62)), 1, of: agent)
        server.onMessage(.acknowledgeEvents(sequence: 1 << 60), 2, of: notifier)
        server.onMessage(.reportDelivered(number: 77, sink: "x", sequence: 1), 3, of: notifier)
        server.onMessage(.query(.rollout(RolloutID(5))), 4, of: person)
        loop.run(milliseconds: 0)
        #expect(
            edges.counts.count == 4 && edges.counts.allSatisfy { $0.hasPrefix("requests_refused ") }
        )
        #expect(edges.counts.contains("requests_refused invalid"))
        #expect(edges.counts.contains("requests_refused notFound"))
        for (session, correlations) in [(agent, [1]), (notifier, [2, 3]), (person, [4])] {
            let refused = session.sent.filter {
                if case .refused = $0.message { true } else { false }
            }
            #expect(refused.map(\.correlation) == correlations.map { UInt64($0) })
        }
    }

    @Test("a flood of refusals is logged as a number")
    func logged() {
        let server = leader()
        let agent = session(.agent, "a", of: server)
        for _ in 0..<500 {
            server.onMessage(.hostReport(report("a", acceptedToken: 1 << 62)), 0, of: agent)
        }
        loop.run(milliseconds: 0)
        #expect(lines.count("refused a request") == Limits.refusalLogLinesPerSecond)
        #expect(lines.count("refused more requests") == 0)
        loop.run(milliseconds: 2_000)
        #expect(lines.count("refused more requests") == 1)
        #expect(edges.counts.count == 500)
    }

    @Test("answers to directives that nobody sent are not logged")
    func answersLogged() {
        let server = leader()
        let agent = session(.agent, "a", of: server)
        for answer: DirectiveAnswer in [
            .accepted, .busy(with: step), .staleToken(acceptedToken: Token(8)),
            .refused(reason: "no"),
        ] {
            server.onMessage(
                .directiveAnswer(step: step, token: Token(7), answer: answer), 0, of: agent)
        }
        loop.run(milliseconds: 2_000)
        for words in [
            "directive accepted", "agent is busy", "directive refused: stale token",
            "directive refused",
        ] { #expect(lines.count(words) == 0, "\(words)") }
    }

    @Test("what waits for the log is told to the session, and when it is done")
    func work() {
        let server = leader()
        let agent = session(.agent, "a", of: server)
        let notifier = session(.notifier, "n", of: server)
        let messages: [Message] = [
            .followEvents(afterSequence: 0, progress: false), .acknowledgeEvents(sequence: 0),
            .acknowledgeEvents(sequence: 1 << 60), .claimDeliveries,
            .reportDelivered(number: 1, sink: "x", sequence: 1), .giveUpDeliveries,
        ]
        for message in messages { server.onMessage(message, 1, of: notifier) }
        #expect(notifier.workCount == messages.count)
        for answer: DirectiveAnswer in [
            .busy(with: step), .staleToken(acceptedToken: Token(8)), .refused(reason: "no"),
        ] {
            server.onMessage(
                .directiveAnswer(step: step, token: Token(7), answer: answer), 0, of: agent)
        }
        #expect(agent.workCount == 3)
        loop.run(milliseconds: 0)
        #expect(notifier.workCount == 0 && agent.workCount == 1)
        loop.run(milliseconds: 1_000)
        #expect(agent.workCount == 0)
    }
}
