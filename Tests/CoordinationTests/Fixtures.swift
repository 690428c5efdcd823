import Coordination
import Fleet

/// A coordinator with a clock of its own, for tests: every accepted command is applied at once, and
/// the invariants are checked after every fact.
struct Fixture {
    var coordinator = Coordinator()
    var now: Int64 = 1_000_000
    var broken: [String] = []

    @discardableResult
    mutating func run(_ command: Command) -> Result<[Fact], Refusal> {
        now += 1_000
        let result = coordinator.propose(command, at: Timestamp(microseconds: now))
        if case .success(let facts) = result {
            for fact in facts {
                coordinator.apply(fact)
                broken += coordinator.brokenInvariants()
            }
        }
        return result
    }

    func refusal(_ command: Command) -> Refusal? {
        if case .failure(let refusal) = coordinator.propose(
            command, at: Timestamp(microseconds: now))
        {
            return refusal
        }
        return nil
    }

    /// Hosts `a`, `b`, … with guests written as `set/ud` or `set` or `-`; ids are host + number.
    mutating func host(_ name: String, _ guests: [String], sets: [(String, Int)] = []) {
        run(.reportHost(report(name, guests, sets: sets)))
    }

    func report(
        _ name: String, _ guests: [String], sets: [(String, Int)] = [],
        version: String = "1", state: GuestState = .running, token: UInt64 = 0
    ) -> HostReport {
        HostReport(
            host: HostID(checked: name), agentVersion: "t", bootID: "b",
            acceptedToken: Token(token),
            sets: sets.map { SetDefinition(id: SetID(checked: $0.0), updateDomainCount: $0.1) },
            guests: guests.enumerated().map { offset, text in
                let parts = text.split(separator: "/")
                return GuestReport(
                    id: GuestID(checked: "\(name)\(offset)"),
                    set: text == "-" ? nil : SetID(checked: String(parts[0])),
                    updateDomain: parts.count > 1 ? UpdateDomain(Int(parts[1])!) : nil,
                    memoryBytes: 1 << 28, vcpuCount: 1, state: state, hypervisorVersion: version,
                    hasGuestAgent: true)
            }.sorted { $0.id < $1.id }, abilities: AgentAbility.allCases)
    }

    /// Reports a host again, with something changed.
    @discardableResult
    mutating func change(
        _ host: String, _ change: (inout HostReport) -> Void
    ) -> Result<[Fact], Refusal> {
        var report = coordinator.state.hosts[HostID(checked: host)]!.report
        change(&report)
        return run(.reportHost(report))
    }

    /// A release of commands, whose limits are 10 s in all.
    static func hostRelease(
        _ id: String = "n2", component: Component = .network, holdsGuests: Bool = true,
        limits: UInt32 = 5_000
    ) -> Release {
        func command(_ path: String) -> HostCommand {
            HostCommand(
                path: path, arguments: [], sha256: Array(repeating: 7, count: 32),
                limitMilliseconds: limits)
        }
        return Release(
            id: ReleaseID(checked: id), component: component,
            work: .host(
                HostWork(
                    version: "2", holdsGuests: holdsGuests, apply: command("/n/apply"),
                    undo: command("/n/undo"))))
    }

    static func agentRelease(_ id: String = "f2") -> Release {
        Release(
            id: ReleaseID(checked: id), component: .agent,
            work: .agent(
                version: "2",
                program: ReleaseFile(path: "/f", sha256: Array(repeating: 7, count: 32))))
    }

    mutating func release(_ id: String = "q2", version: String = "2") {
        run(
            .addRelease(
                Release(
                    id: ReleaseID(checked: id), component: .hypervisor,
                    hypervisor: Hypervisor(version: version, path: "/q"),
                    sha256: Array(repeating: 7, count: 32)), by: "alice"))
    }

    @discardableResult
    mutating func start(_ policy: Policy = Policy(), id: String = "q2") -> Result<[Fact], Refusal> {
        run(
            .startRollout(
                release: ReleaseID(checked: id), selection: .allHosts, policy: policy, by: "alice"
            ))
    }

    /// Grants with the agents of `hosts` connected.
    /// - Returns: the guests whose steps were granted, in order.
    @discardableResult
    mutating func schedule(_ hosts: String...) -> [String] {
        let result = run(.schedule(connected: Set(hosts.map { HostID(checked: $0) })))
        guard case .success(let facts) = result else { return ["refused"] }
        return facts.compactMap { fact in
            guard case .stepGranted(let id, _) = fact.body else { return nil }
            return coordinator.state.step(id)?.plan.guests.map(\.rawValue).joined(separator: "+")
        }
    }

    func step(of guest: String) -> StepRecord {
        coordinator.state.rollouts.values.flatMap(\.steps).last {
            $0.plan.guests.contains(GuestID(checked: guest))
        }!
    }

    func stepReport(_ guest: String, _ outcome: StepOutcome, held: Bool = true) -> StepReport {
        stepReport(step(of: guest), outcome, held: held)
    }

    func stepReport(_ step: StepRecord, _ outcome: StepOutcome, held: Bool = true) -> StepReport {
        StepReport(
            step: step.id, token: step.token!, outcome: outcome,
            reason: outcome == .succeeded ? "" : "because", phases: [],
            holds: held
                ? step.plan.guests.map {
                    HoldRecord(
                        guest: $0, outcome: outcome, reason: "",
                        heldAt: Timestamp(microseconds: now), holdMicroseconds: 13_000,
                        resumedBy: .agent, clockErrorBeforeMicroseconds: nil,
                        clockErrorAfterMicroseconds: nil, clockNote: "",
                        hypervisorBefore: "1", hypervisorAfter: "2")
                } : [])
    }

    mutating func finish(_ guest: String, _ outcome: StepOutcome = .succeeded, held: Bool = true) {
        run(.reportStep(stepReport(guest, outcome, held: held), host: step(of: guest).plan.host))
    }

    /// The step that is in flight on a host.
    mutating func finish(host: String, _ outcome: StepOutcome = .succeeded, held: Bool = true) {
        let host = HostID(checked: host)
        guard let step = coordinator.state.active[host].flatMap(coordinator.state.step) else {
            preconditionFailure("no step is in flight on \(host)")
        }
        run(.reportStep(stepReport(step, outcome, held: held), host: host))
    }

    var rolloutState: RolloutState? { Array(coordinator.state.rollouts.values).last?.state }

    var finishedHolds: [String] {
        coordinator.state.events.compactMap {
            if case .holdFinished(let hold) = $0.body { hold.holdID } else { nil }
        }
    }
}

/// SplitMix64, so that a failing seed fails everywhere.
struct SeededGenerator: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }
}
