import Coordination
import Fleet
import Testing
import Wire

@testable import LeaderCore
@testable import LeaderShell

private let digest = [UInt8](repeating: 5, count: 32)
private let hostRelease = Release(
    id: ReleaseID(checked: "n2"), component: .network,
    work: .host(
        HostWork(
            version: "2", holdsGuests: true,
            apply: HostCommand(
                path: "/n/apply", arguments: ["-x"], sha256: digest, limitMilliseconds: 9),
            environment: [EnvironmentVariable(name: "A", value: "b")], user: "ovs",
            workingDirectory: "/n", artifact: ReleaseFile(path: "/n/deb", sha256: digest))))
private let agentRelease = Release(
    id: ReleaseID(checked: "f2"), component: .agent,
    work: .agent(version: "2", program: ReleaseFile(path: "/f", sha256: digest)))

/// A fleet with something of everything in its state, and the facts that made it.
func eventfulFleet() -> (coordinator: Coordinator, facts: [Fact]) {
    var coordinator = Coordinator()
    var facts: [Fact] = []
    var now: Int64 = 1_700_000_000_000_000
    func run(_ command: Command) {
        now += 1_234
        let result = coordinator.propose(command, at: Timestamp(microseconds: now))
        guard case .success(let new) = result else {
            Issue.record("refused: \(result)")
            return
        }
        for fact in new {
            coordinator.apply(fact)
            facts.append(fact)
        }
    }
    let hosts = ["a", "b", "c", "d"].map { HostID(checked: $0) }
    run(.startTerm(term: 3, server: "s1"))
    for (number, host) in hosts.enumerated() {
        let guests = ["db", nil, "web"].enumerated().map { offset, set in
            GuestReport(
                id: GuestID(checked: "\(host)\(offset)"), set: set.map { SetID(checked: $0) },
                updateDomain: offset == 2 ? UpdateDomain(number) : nil, memoryBytes: 1 << 40,
                vcpuCount: 4, state: .running, hypervisorVersion: "7", hasGuestAgent: offset == 0,
                handOverProblem: host.rawValue == "d" && offset == 1 ? "has a passthrough" : "")
        }
        run(
            .reportHost(
                HostReport(
                    host: host, agentVersion: "1", bootID: "boot", acceptedToken: Token(5),
                    sets: [SetDefinition(id: SetID(checked: "db"), updateDomainCount: 3)],
                    guests: guests)))
    }
    run(
        .addRelease(
            Release(
                id: ReleaseID(checked: "q8"), component: .hypervisor,
                hypervisor: Hypervisor(
                    version: "8", path: "/q", moduleDirectory: "/m", dataDirectories: ["/d", "/e"]),
                sha256: Array(0..<32)), by: "alice"))
    run(.addRelease(hostRelease, by: "alice"))
    run(.addRelease(agentRelease, by: "alice"))
    run(
        .reportHost(
            HostReport(
                host: HostID(checked: "e"), agentVersion: "2", bootID: "boot",
                acceptedToken: Token(0), sets: [], guests: [], abilities: AgentAbility.allCases,
                software: [InstalledSoftware(component: .network, version: "2")])))
    run(
        .reportHost(
            HostReport(
                host: HostID(checked: "f"), agentVersion: "2", bootID: "boot",
                acceptedToken: Token(0), sets: [], guests: [], abilities: [.hostCommands])))
    run(
        .startRollout(
            release: hostRelease.id, selection: .hosts(["e", "f"].map { HostID(checked: $0) }),
            policy: Policy(), by: "alice"))
    run(.acknowledgeEvents(notifier: "n1", sequence: 0))
    run(
        .startRollout(
            release: ReleaseID(checked: "q8"), selection: .hosts(hosts),
            policy: Policy(parallelism: 3, failuresMax: 9), by: "alice"))
    let everyone = Set(hosts)
    run(.schedule(connected: everyone))
    for (number, id) in coordinator.state.active.values.prefix(3).enumerated() {
        let step = coordinator.state.step(id)!
        let outcome: StepOutcome = number == 1 ? .failed : number == 0 ? .unhealthy : .succeeded
        run(
            .reportStep(
                StepReport(
                    step: id, token: step.token!, outcome: outcome, reason: "why",
                    phases: [PhaseTime(phase: .held, at: Timestamp(microseconds: now))],
                    holds: step.plan.guests.map {
                        HoldRecord(
                            guest: $0, outcome: outcome, reason: "r",
                            heldAt: Timestamp(microseconds: now), holdMicroseconds: 14_000,
                            resumedBy: .guard, clockErrorBeforeMicroseconds: -14_000,
                            clockErrorAfterMicroseconds: 300, clockNote: "",
                            hypervisorBefore: "7", hypervisorAfter: "8")
                    }), host: step.plan.host))
        run(.schedule(connected: everyone))
    }
    let granted = coordinator.state.active.values.first!
    run(
        .answerDirective(
            step: granted, token: coordinator.state.step(granted)!.token!,
            host: coordinator.state.step(granted)!.plan.host,
            answer: .staleToken(acceptedToken: Token(70))))
    let stuck = coordinator.lockViews().first { $0.stuck }
    if let stuck { run(.releaseLock(stuck.set, reason: "seen to", by: "bob")) }
    run(
        .reportStep(
            StepReport(
                step: StepID(rollout: RolloutID(99), number: 1), token: Token(2),
                outcome: .failed, reason: "old", phases: [],
                holds: [
                    HoldRecord(
                        guest: GuestID(checked: "gone"), outcome: .failed, reason: "",
                        heldAt: Timestamp(microseconds: now), holdMicroseconds: nil,
                        resumedBy: .agent, clockErrorBeforeMicroseconds: nil,
                        clockErrorAfterMicroseconds: nil, clockNote: "", hypervisorBefore: "7",
                        hypervisorAfter: "7")
                ]),
            host: hosts[0]))
    // A guest that its step leaves stopped.
    let step = coordinator.state.step(granted)!
    var report = coordinator.state.hosts[step.plan.host]!.report
    for index in report.guests.indices where step.plan.guests.contains(report.guests[index].id) {
        report.guests[index].state = .stopped
    }
    run(.reportHost(report))
    run(
        .reportStep(
            StepReport(
                step: granted, token: step.token!, outcome: .failed, reason: "no power",
                phases: [], holds: []), host: step.plan.host))
    run(.pauseRollout(RolloutID(1), reason: "lunch", by: "bob"))
    run(.resumeRollout(RolloutID(1), reason: "", by: "bob"))
    run(.pauseRollout(RolloutID(2), reason: "look", by: "bob"))
    run(.cordonHost(hosts[0], reason: "disks", by: "bob"))
    run(.cordonHost(hosts[1], reason: "disks", by: "bob"))
    run(.uncordonHost(hosts[1], reason: "", by: "bob"))
    run(.acknowledgeEvents(notifier: "tried", sequence: 1))
    run(.forgetNotifier("tried", reason: "it was tried", by: "bob"))
    run(.abortRollout(RolloutID(1), reason: "enough", by: "bob"))
    return (coordinator, facts)
}

@Suite("Records of the log")
struct RecordTests {
    @Test("every fact comes back from its bytes")
    func facts() throws {
        var facts = eventfulFleet().facts
        facts.append(
            Fact(
                at: Timestamp(microseconds: -1),
                body: .stepCancelled(StepID(rollout: RolloutID(1), number: 2), reason: "ü")))
        var kinds: Set<String> = []
        for fact in facts {
            #expect(try FactRecord.decode(FactRecord.encode(fact)) == fact)
            kinds.insert("\(fact.body)".prefix { $0 != "(" }.description)
        }
        #expect(kinds.count == 17, "kinds in the example: \(kinds.sorted())")
    }

    private func chunks(_ state: FleetState, byteCountMax: Int = 1_000) -> [[UInt8]] {
        var encoder = SnapshotEncoder(state, byteCountMax: byteCountMax)
        var chunks: [[UInt8]] = []
        while let chunk = encoder.next() { chunks.append(chunk) }
        #expect(encoder.next() == nil)
        return chunks
    }

    @Test("a state comes back from its snapshot, and equal states give equal bytes")
    func snapshot() throws {
        let (coordinator, facts) = eventfulFleet()
        let chunks = chunks(coordinator.state)
        #expect(try SnapshotDecoder.decode(chunks) == coordinator.state)
        var other = Coordinator()
        for fact in facts { other.apply(try FactRecord.decode(FactRecord.encode(fact))) }
        #expect(self.chunks(other.state) == chunks)
        #expect(!coordinator.state.locks.isEmpty || !coordinator.state.active.isEmpty)
        #expect(coordinator.state.guests.values.contains { $0.missingSince != nil })
        #expect(coordinator.state.rollouts[RolloutID(2)]?.state == .paused)
        #expect(coordinator.state.hosts.values.count { $0.cordon != nil } == 1)
    }

    @Test("servers that have applied the same index have equal digests")
    func digests() throws {
        var one = Coordinator()
        var other = Coordinator()
        var digests: [String] = []
        for fact in eventfulFleet().facts {
            one.apply(fact)
            other.apply(try FactRecord.decode(FactRecord.encode(fact)))
            digests.append(StateDigest.of(one.state))
            #expect(digests.last == StateDigest.of(other.state))
        }
        #expect(digests.last?.count == 64)
        #expect(Set(digests).count == digests.count, "different states with one digest")
    }

    @Test("a snapshot comes back wherever it is cut", arguments: [1, 7, 100, 1_000_000])
    func cuts(byteCountMax: Int) throws {
        let state = eventfulFleet().coordinator.state
        let chunks = chunks(state, byteCountMax: byteCountMax)
        #expect(chunks.allSatisfy { $0.count <= byteCountMax })
        #expect(Array(chunks.joined()) == Array(self.chunks(state).joined()))
        #expect(try SnapshotDecoder.decode(chunks) == state)
        #expect(throws: RecordError.missing("its end")) {
            try SnapshotDecoder.decode(chunks.dropLast() + [Array(chunks.last!.dropLast())])
        }
    }

    @Test("a snapshot is of the state as it was when it was begun")
    func frozen() throws {
        var (coordinator, _) = eventfulFleet()
        let before = coordinator.state
        let digest = StateDigest.of(before)
        var encoder = SnapshotEncoder(coordinator.state, byteCountMax: 200)
        var chunks: [[UInt8]] = []
        var number = 0
        while let chunk = encoder.next() {
            chunks.append(chunk)
            number += 1
            let report = HostReport(
                host: HostID(checked: "new\(number)"), agentVersion: "1", bootID: "",
                acceptedToken: Token(0), sets: [], guests: [])
            let fact = Fact(
                at: Timestamp(microseconds: 1), body: .hostReported(report, placements: []))
            coordinator.apply(fact)
        }
        #expect(number >= 10)
        #expect(try SnapshotDecoder.decode(chunks) == before)
        #expect(StateDigest.of(before) == digest)
        #expect(StateDigest.of(coordinator.state) != digest)
    }

    @Test("a rollout of many steps is spread over records, and the old form is still read")
    func manySteps() throws {
        var coordinator = eventfulFleet().coordinator
        let plans = (0..<1_000).map {
            PlannedStep(
                host: HostID(checked: "h\($0)"), guests: [GuestID(checked: "g\($0)")], pairs: [])
        }
        let started = StartedRollout(
            id: RolloutID(7), release: ReleaseID(checked: "q8"), selection: .allHosts,
            policy: Policy(), by: "al", steps: plans,
            skipped: plans.map { PlanView.Skipped(guest: nil, host: $0.host, reason: "why") })
        coordinator.apply(Fact(at: Timestamp(microseconds: 3), body: .rolloutStarted(started)))
        #expect(try SnapshotDecoder.decode(chunks(coordinator.state)) == coordinator.state)

        // Format 1: a guest's report in full, members with the sets, steps within the rollout.
        func framed(_ record: PBSnapshotRecord.OneOf_Record) -> [UInt8] {
            let bytes = serialized(PBSnapshotRecord.with { $0.record = record })
            precondition(bytes.count < 128)
            return [UInt8(bytes.count)] + bytes
        }
        let old = [
            framed(.header(.with { $0.index = 9 })),
            framed(.host(.with { $0.report = .with { $0.host = "h" } })),
            framed(
                .guest(
                    .with {
                        $0.report = .with {
                            $0.id = "g"
                            $0.state = .running
                        }
                        $0.host = "h"
                        $0.pair = .with { $0.set = "s" }
                    })),
            framed(
                .set(
                    .with {
                        $0.id = "s"
                        $0.updateDomainCount = 3
                        $0.members = ["g"]
                    })),
            framed(
                .rollout(
                    .with {
                        $0.id = 1
                        $0.release = "r"
                        $0.selection = Selection.allHosts.wire
                        $0.state = .running
                        $0.steps = [
                            .with {
                                $0.plan = .with { $0.host = "h" }
                                $0.status = .waiting
                            }
                        ]
                    })),
        ]
        let state = try SnapshotDecoder.decode(old)
        #expect(state.runningGuestCount == 1)
        #expect(state.sets[SetID(checked: "s")]?.updateDomainCount == 3)
        #expect(state.sets[SetID(checked: "s")]?.members.count == 1)
        #expect(state.rollouts[RolloutID(1)]?.steps.waitingCount == 1)
        #expect(Coordinator(state: state).brokenInvariants() == [])
    }

    @Test("bytes that are not a record are refused, not trapped on")
    func damaged() throws {
        #expect(throws: (any Error).self) { try FactRecord.decode([]) }
        #expect(throws: (any Error).self) { try FactRecord.decode([0xFF, 0xFF, 0xFF]) }
        #expect(throws: (any Error).self) { try SnapshotDecoder.decode([]) }
        let bytes = Array(chunks(eventfulFleet().coordinator.state).joined())
        let withoutHeader = Array(bytes[(Int(bytes[0]) + 1)...])
        #expect(throws: RecordError.missing("the header before it")) {
            try SnapshotDecoder.decode([withoutHeader])
        }
        #expect(throws: RecordError.missing("a length that can be")) {
            try SnapshotDecoder.decode([[0xFF, 0xFF, 0xFF, 0xFF, 0x7F]])
        }
        for count in 0..<bytes.count {
            _ = try? SnapshotDecoder.decode([Array(bytes.prefix(count))])
        }
        for index in bytes.indices {
            var changed = bytes
            changed[index] ^= 0x15
            _ = try? SnapshotDecoder.decode([changed])
        }
        for fact in eventfulFleet().facts {
            let bytes = FactRecord.encode(fact)
            for count in 0..<bytes.count { _ = try? FactRecord.decode(Array(bytes.prefix(count))) }
        }
    }
}
