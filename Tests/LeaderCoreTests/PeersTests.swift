import Coordination
import Fleet
import Logging
import Testing
import Wire

@testable import LeaderCore

/// Peers that read slowly, ask for too much, or speak of what this server knows nothing of.
@Suite("Peers of a leader")
struct PeersTests {
    private let loop = VirtualLoop()
    private let edges = ScriptedEdges()

    private func leader() -> ServerCore {
        let server = ServerCore(
            identity: PeerIdentity(cluster: "test", role: .server, name: "s")!,
            group: ServerGroup(advertise: "s:1", peers: []), softwareVersion: "test",
            store: SingleStore(MemoryStore(MemoryLog(), loop)), loop: loop,
            log: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }, edges: edges)
        server.start { _ in }
        loop.run(milliseconds: 0)
        return server
    }

    private func host(_ name: String) -> HostReport {
        HostReport(
            host: HostID(checked: name), agentVersion: "", bootID: "", acceptedToken: Token(0),
            sets: [],
            guests: [
                GuestReport(
                    id: GuestID(checked: "\(name)0"), set: nil, updateDomain: nil, memoryBytes: 1,
                    vcpuCount: 1, state: .running, hypervisorVersion: "1", hasGuestAgent: true)
            ], abilities: AgentAbility.allCases)
    }

    private func agent(_ name: String, of server: ServerCore) -> ScriptedSession {
        let session = ScriptedSession(.agent, name)
        server.onReady(session)
        server.onMessage(.hostReport(host(name)), 1, of: session)
        loop.run(milliseconds: 0)
        return session
    }

    private func hold(_ guest: String) -> HoldRecord {
        HoldRecord(
            guest: GuestID(checked: guest), outcome: .succeeded, reason: "",
            heldAt: Timestamp(microseconds: 1), holdMicroseconds: 2, resumedBy: .agent,
            clockErrorBeforeMicroseconds: nil, clockErrorAfterMicroseconds: nil, clockNote: "",
            hypervisorBefore: "", hypervisorAfter: "")
    }

    @Test("an agent whose step has another host's name by now is heard, and stays connected")
    func forgottenStep() throws {
        let server = leader()
        let a = agent("a", of: server)
        let b = agent("b", of: server)
        let person = ScriptedSession(.operator, "bob")
        server.onReady(person)
        let release = Release(
            id: ReleaseID(checked: "q2"), component: .hypervisor,
            hypervisor: Hypervisor(version: "2", path: "/q"),
            sha256: Array(repeating: 7, count: 32))
        for command: OperatorCommand in [
            .addRelease(release),
            .startRollout(
                release: release.id, selection: .hosts([HostID(checked: "a")]), policy: Policy()),
        ] { server.onMessage(.command(command), 2, of: person) }
        loop.run(milliseconds: 0)
        guard case .directive(let directive) = a.sent.last?.message else {
            Issue.record("\(a.sent)")
            return
        }
        let old = Token(directive.token.number + 7)
        server.onMessage(
            .stepProgress(
                StepProgress(
                    step: directive.step, token: old, phase: .preparing,
                    at: Timestamp(microseconds: 1))), 0, of: b)
        server.onMessage(
            .directiveAnswer(step: directive.step, token: old, answer: .refused(reason: "no")), 0,
            of: b)
        for holds in [[hold("b0")], []] {
            let report = StepReport(
                step: directive.step, token: old, outcome: .succeeded, reason: "", phases: [],
                holds: holds)
            server.onMessage(.stepReport(report), 5, of: b)
            loop.run(milliseconds: 0)
            #expect(
                b.sent.last?.message == .stepReportCommitted(step: directive.step, token: old))
        }
        #expect(b.closed == nil)
        let state = try #require(server.state)
        #expect(state.step(directive.step)?.status == .granted)
        guard case .holdFinished(let finished) = state.events.last?.body else {
            Issue.record("no annotation")
            return
        }
        #expect(finished.host.rawValue == "b" && finished.token == old)
        // What another host is doing now is another matter.
        server.onMessage(
            .stepReport(
                StepReport(
                    step: directive.step, token: directive.token, outcome: .failed, reason: "",
                    phases: [], holds: [])), 6, of: b)
        #expect(b.closed == .notPermitted)
    }

    private func state(eventCount: Int) -> FleetState {
        var state = FleetState()
        for sequence in 1...UInt64(eventCount) {
            state.events.append(
                FleetEvent(
                    sequence: sequence, at: Timestamp(microseconds: 1),
                    body: .lockReleased(set: SetID(checked: "db"), by: "al", reason: "r")))
        }
        state.lastSequence = UInt64(eventCount)
        return state
    }

    private func sequences(_ session: ScriptedSession) -> [UInt64] {
        session.sent.flatMap { sent -> [UInt64] in
            guard case .eventBatch(let events, _) = sent.message else { return [] }
            return events.map(\.sequence)
        }
    }

    @Test("a follower gets its events as it reads them, others at once, and each gets all")
    func backlog() {
        let followers = Followers(loop)
        let state = state(eventCount: 3_000)
        followers.onSlow = { followers.sendNew(state) }
        let slow = ScriptedSession(.notifier, "slow")
        slow.queuedByteCount = Limits.sessionQueueByteCountMax / 4
        for (session, after): (ScriptedSession, UInt64) in [
            (slow, 0), (ScriptedSession(.notifier, "fast"), 0),
        ] {
            followers.add(session, correlation: 4, after: after, progress: false, state: state)
            if session !== slow { #expect(sequences(session).count == 3_000) }
        }
        loop.run(milliseconds: 10_000)
        #expect(sequences(slow).isEmpty && slow.closed == nil)
        slow.queuedByteCount = 0
        loop.run(milliseconds: 20)
        #expect(sequences(slow) == Array(1...3_000))
        loop.run(milliseconds: 60_000)
        #expect(slow.closed == nil)
    }

    @Test("a follower that reads nothing for 30 s is closed")
    func stuck() {
        let followers = Followers(loop)
        let state = state(eventCount: 3)
        followers.onSlow = { followers.sendNew(state) }
        let session = ScriptedSession(.notifier, "stuck")
        session.queuedByteCount = Limits.sessionQueueByteCountMax
        followers.add(session, correlation: 4, after: 0, progress: false, state: state)
        loop.run(milliseconds: 29_900)
        #expect(session.closed == nil)
        loop.run(milliseconds: 200)
        #expect(session.closed == .tooSlow)
    }

    @Test("an answer that is too long for a message is refused, not forgotten")
    func tooLong() throws {
        let server = leader()
        let person = ScriptedSession(.operator, "bob")
        person.refuses = { if case .queryResult = $0 { true } else { false } }
        server.onReady(person)
        server.onMessage(.query(.status), 3, of: person)
        loop.run(milliseconds: 0)
        guard case .refused(let refusal) = person.sent.last?.message else {
            Issue.record("\(person.sent)")
            return
        }
        #expect(refusal.message.contains("longer than") && person.sent.last?.correlation == 3)
    }

    @Test("what comes to a leadership that is over is not kept")
    func late() {
        let committer = Committer(
            store: SingleStore(MemoryStore(MemoryLog(), loop)), snapshotFactsInterval: 10,
            loop: loop, log: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
        committer.close()
        final class Kept {}
        weak var kept: Kept?
        do {
            let object = Kept()
            kept = object
            committer.read { _ = object }
            committer.submit(.schedule(connected: [])) { _ in _ = object }
        }
        loop.run(milliseconds: 0)
        #expect(kept == nil)
    }
}
