import Coordination
import Fleet
import Testing

/// Random fleets, random outcomes, random connections: the invariants after every fact, and the end
/// of every rollout. A short form of what the simulator will do.
@Suite("Coordinator: random walks")
struct RandomWalkTests {
    @Test("the invariants hold and every rollout ends", arguments: 0..<60)
    func walk(seed: Int) {
        var fleet = Fixture()
        fleet.release()
        walk(seed: seed, &fleet, "q2")
    }

    @Test("the same when hosts are held whole, or nobody is held", arguments: 0..<120)
    func walkOfHosts(seed: Int) {
        var fleet = Fixture()
        fleet.run(.addRelease(Fixture.hostRelease(holdsGuests: seed % 3 != 0), by: "al"))
        walk(seed: seed, &fleet, "n2")
    }

    @Test("the same when agents replace themselves", arguments: 0..<10)
    func walkOfAgents(seed: Int) {
        var fleet = Fixture()
        fleet.run(.addRelease(Fixture.agentRelease(), by: "al"))
        walk(seed: seed, &fleet, "f2")
    }

    private func walk(seed: Int, _ fleet: inout Fixture, _ release: String) {
        var random = SeededGenerator(state: UInt64(seed) &* 7919)
        let hosts = (0..<Int.random(in: 1...6, using: &random)).map { "h\($0)x" }
        for host in hosts {
            fleet.host(
                host,
                (0..<Int.random(in: 0...4, using: &random)).map { _ in
                    ["-", "s1", "s1/0", "s2/1", "s2", "s3/2", "s3/4"].randomElement(using: &random)!
                })
        }
        guard
            case .success = fleet.start(
                Policy(
                    parallelism: .random(in: 1...4, using: &random),
                    failuresMax: .random(in: 1...9, using: &random)), id: release)
        else { return }
        var turns = 0
        while fleet.rolloutState?.isOver == false, turns < 3_000 {
            turns += 1
            let calm = turns > 300
            let connected = hosts.filter { _ in calm || Bool.random(using: &random) }
            fleet.run(.schedule(connected: Set(connected.map { HostID(checked: $0) })))
            let active = Array(fleet.coordinator.state.active.values)
            guard let id = active.randomElement(using: &random) else {
                openStuck(&fleet)
                continue
            }
            let host = fleet.coordinator.state.step(id)!.plan.host.rawValue
            switch Int.random(in: 0..<(calm ? 6 : 12), using: &random) {
            case 0: fleet.finish(host: host, .failed, held: Bool.random(using: &random))
            case 1: fleet.finish(host: host, .unhealthy)
            case 2: fleet.finish(host: host, .lost)
            case 3:
                let step = fleet.coordinator.state.step(id)!
                fleet.run(
                    .answerDirective(
                        step: id, token: step.token!, host: step.plan.host,
                        answer: .staleToken(acceptedToken: Token(step.token!.number + 5))))
            case 4: openStuck(&fleet)
            default: fleet.finish(host: host, .succeeded)
            }
        }
        #expect(fleet.broken == [], "seed \(seed)")
        #expect(fleet.rolloutState?.isOver == true, "seed \(seed) after \(turns) turns")
        let holds = fleet.finishedHolds
        #expect(Set(holds).count == holds.count, "seed \(seed): a hold was told twice")
    }

    private func openStuck(_ fleet: inout Fixture) {
        for lock in fleet.coordinator.lockViews() where lock.stuck {
            fleet.run(.releaseLock(lock.set, reason: "seen to", by: "al"))
        }
    }

    @Test("replaying the same facts gives the same state", arguments: 0..<10)
    func replay(seed: Int) {
        var random = SeededGenerator(state: UInt64(seed))
        var fleet = Fixture()
        var facts: [Fact] = []
        func keep(_ result: Result<[Fact], Refusal>) {
            if case .success(let new) = result { facts += new }
        }
        for host in 0..<5 {
            keep(fleet.run(.reportHost(fleet.report("h\(host)", ["s/\(host % 3)", "t", "-"]))))
        }
        keep(
            fleet.run(
                .addRelease(
                    Release(
                        id: ReleaseID(checked: "q2"), component: .hypervisor,
                        hypervisor: Hypervisor(version: "2", path: "/q"),
                        sha256: Array(repeating: 7, count: 32)), by: "al")))
        keep(fleet.start())
        let all = Set((0..<5).map { HostID(checked: "h\($0)") })
        while fleet.rolloutState == .running {
            keep(fleet.run(.schedule(connected: all)))
            let id = fleet.coordinator.state.active.values.randomElement(using: &random)!
            let step = fleet.coordinator.state.step(id)!
            keep(
                fleet.run(
                    .reportStep(
                        fleet.stepReport(step.plan.guests[0].rawValue, .succeeded),
                        host: step.plan.host)))
        }
        var other = Coordinator()
        for fact in facts { other.apply(fact) }
        #expect(other == fleet.coordinator)
        #expect(fleet.rolloutState == .succeeded)
    }
}
