import Coordination
import Fleet
import LogCore
import Logging
import Testing
import Wire

@testable import LeaderCore

@Suite("Server, without a process")
struct ServerCoreTests {
    private let loop = VirtualLoop()
    private let shared = MemoryLog()
    private let edges = ["a": ScriptedEdges(), "b": ScriptedEdges()]

    private func server(_ name: String, isSingle: Bool = false) -> ServerCore {
        let store = MemoryStore(shared, loop)
        return ServerCore(
            identity: PeerIdentity(cluster: "test", role: .server, name: name)!,
            group: ServerGroup(
                advertise: "\(name):1", peers: name == "a" ? ["b:1"] : ["a:1"]),
            softwareVersion: "test", store: isSingle ? SingleStore(store) : store, loop: loop,
            log: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }, edges: edges[name]!)
    }

    private func report(_ host: String) -> Message {
        .hostReport(
            HostReport(
                host: HostID(checked: host), agentVersion: "", bootID: "", acceptedToken: Token(0),
                sets: [], guests: []))
    }

    @Test("a server whose log nobody else can open leads at once")
    func single() throws {
        let server = server("a", isSingle: true)
        var terms: [UInt64?] = []
        server.start { result in terms.append(try? result.get()) }
        #expect(server.role == nil && server.isCandidate && terms.isEmpty)
        loop.run(milliseconds: 0)
        #expect(terms == [1] && server.role == .leader(term: 1) && !server.isCandidate)
        #expect(server.helloAccepted.isLeader && server.helloAccepted.term == 1)
    }

    @Test("a fact is told of once it is durable, and before the peer is answered")
    func committed() throws {
        let server = server("a", isSingle: true)
        let agent = ScriptedSession(.agent, "h")
        var told: [UInt64] = []
        server.onCommitted = { [shared] facts, firstIndex, state in
            told += (0..<UInt64(facts.count)).map { firstIndex + $0 }
            #expect(state.index == told.last && shared.records.count == told.count)
            #expect(agent.sent.isEmpty)
        }
        server.start { _ in }
        loop.run(milliseconds: 0)
        server.onReady(agent)
        server.onMessage(report("h"), 5, of: agent)
        loop.run(milliseconds: 0)
        #expect(told == [1, 2] && server.state?.hosts.count == 1)
        #expect(agent.sent.map(\.message) == [.hostReportCommitted(index: 2)])
        #expect(agent.sent.map(\.correlation) == [5])
        server.onMessage(report("other"), 6, of: agent)
        #expect(agent.closed == .notPermitted)
    }

    @Test("a person is answered when the command is on record, with what came of it")
    func audit() throws {
        let server = server("a", isSingle: true)
        let edges = edges["a"]!
        server.start { _ in }
        loop.run(milliseconds: 0)
        let person = ScriptedSession(.operator, "bob")
        server.onReady(person)
        server.onMessage(
            .command(.abortRollout(RolloutID(9), reason: "r")), 3, of: person)
        server.onMessage(.command(.stepDown), 4, of: person)
        loop.run(milliseconds: 0)
        #expect(edges.entries.count == 2 && person.sent.isEmpty)
        edges.finishRecords()
        #expect(person.sent.map(\.correlation) == [4, 3])
        #expect(edges.counts == ["commands_refused notSupported", "commands_refused notFound"])
        let line = edges.entries[1].line(atMicroseconds: 1_700_000_000_000_000)
        #expect(
            line.hasPrefix(
                #"{"at":"2023-11-14T22:13:20.000000Z","identity":"fermata://test/operator/bob","#
                    + #""serial":"0A","peer":"192.0.2.1:5","command":{"command":"abortRollout","#
                    + #""rollout":"rollout-9","reason":"r"},"result":{"outcome":"refused","#
                    + #""code":"notFound","reason":"#),
            "\(line)")
        server.onDown(person, .closedByUs(.notPermitted, reason: "revoked"))
        #expect(edges.entries.last?.subject == .session)
    }

    @Test("the log names a command, what it is about and why, in a few words")
    func words() {
        func words(_ command: OperatorCommand) -> String {
            AuditEntry.Subject.command(command).words
        }
        let release = Release(
            id: ReleaseID(checked: "q2"), component: .hypervisor,
            hypervisor: Hypervisor(version: "2", path: "/q"),
            sha256: Array(repeating: 203, count: 32))
        #expect(words(.addRelease(release)) == "addRelease q2")
        #expect(
            words(.abortRollout(RolloutID(9), reason: "a\nb")) == "abortRollout rollout-9: a b")
        #expect(words(.stepDown) == "stepDown")
    }

    @Test("a standby knows what the leader has committed, and takes over when that one hands over")
    func takeOver() throws {
        let first = server("a")
        let second = server("b")
        var roles: [ServerRole] = []
        second.onRole = { roles.append($0) }
        first.start { _ in }
        #expect(first.role == nil)
        loop.run(milliseconds: 10_000)
        #expect(first.role == .leader(term: 1))
        second.start { _ in }
        loop.run(milliseconds: 100)
        #expect(second.role == .standby && second.state == first.state)
        #expect(second.helloAccepted.servers == ["a:1", "b:1"])

        let person = ScriptedSession(.operator, "bob")
        second.onReady(person)
        second.onMessage(.query(.status, stale: true), 1, of: person)
        guard case .queryResult(.status(let view)) = person.sent.last?.message else {
            Issue.record("\(person.sent)")
            return
        }
        #expect(view.isStandby && view.leader == "a" && view.warnings == ["complete"])
        second.onMessage(.query(.status), 2, of: person)
        #expect(person.closed == .notLeader)

        let watch = try #require(edges["b"]!.watches.first)
        #expect(watch.address == "a:1" && watch.isUrgent() && !watch.followsHints)
        watch.onReady?(first.helloAccepted)
        // An hour with a session that is open: nothing happens.
        loop.run(milliseconds: 3_600_000)
        #expect(second.role == .standby && watch.startCount == 1)
        first.stop()
        watch.onDown?(
            LeaderWatchDown(
                reason: .handedOver, wasReady: true, hasGivenUp: false, problem: ""))
        loop.run(milliseconds: 1_000)
        #expect(second.role == .leader(term: 2) && roles == [.leader(term: 2)])
        #expect(edges["b"]!.closings == [.notLeader] && watch.isStopped)
    }

    @Test("a leader that another has deposed follows, and one that has stopped does nothing more")
    func deposed() throws {
        let first = server("a")
        first.start { _ in }
        loop.run(milliseconds: 10_000)
        let agent = ScriptedSession(.agent, "h")
        first.onReady(agent)
        let usurper = server("b", isSingle: true)
        usurper.start { _ in }
        loop.run(milliseconds: 0)
        #expect(usurper.role == .leader(term: 2) && first.role == .leader(term: 1))
        first.onMessage(report("h"), 5, of: agent)
        loop.run(milliseconds: 0)
        #expect(first.role == .standby && agent.sent.isEmpty)
        // Once when it began to lead, for those who had asked the standby.
        #expect(edges["a"]!.closings == [.notLeader, .notLeader])
        loop.run(milliseconds: 0)
        #expect(first.state == usurper.state)
        first.stop()
        usurper.stop()
        loop.run(milliseconds: 3_600_000)
        #expect(shared.records.count == 2 && !first.isCandidate)
    }

    @Test("a server that has stopped is held by nobody")
    func released() {
        weak var gone: ServerCore?
        do {
            let first = server("a")
            gone = first
            first.start { _ in }
            loop.run(milliseconds: 10_000)
            let agent = ScriptedSession(.agent, "h")
            first.onReady(agent)
            first.onMessage(report("h"), 5, of: agent)
            loop.run(milliseconds: 0)
            #expect(first.role == .leader(term: 1))
            first.stop()
        }
        #expect(gone == nil)
    }
}
