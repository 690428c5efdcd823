import Coordination
import Fleet
import Testing

/// What one agent says concerns its own host only, whatever it says.
@Suite("Coordinator: what an agent says of others")
struct DistrustTests {
    private let a = HostID(checked: "a")
    private let b = HostID(checked: "b")

    /// Two hosts of set db, the first of which is at work.
    private func atWork() -> Fixture {
        var fleet = Fixture()
        fleet.host("a", ["db/0"])
        fleet.host("b", ["db/1"])
        fleet.release()
        fleet.start()
        fleet.schedule("a", "b")
        return fleet
    }

    private func report(_ fleet: Fixture, token: UInt64, held guests: [String]) -> StepReport {
        var report = fleet.stepReport("a0", .lost)
        let hold = report.holds[0]
        report.token = Token(token)
        report.holds = guests.map {
            var own = hold
            own.guest = GuestID(checked: $0)
            return own
        }
        return report
    }

    @Test("a token that cannot have been given is refused, and takes none from the others")
    func tokens() {
        var fleet = atWork()
        let next = fleet.coordinator.state.nextToken
        for token in [next + 1_000_000_001, 1 << 62, UInt64.max] {
            let report = fleet.report("b", ["db/1"], token: token)
            #expect(fleet.refusal(.reportHost(report))?.code == .invalid)
        }
        let step = fleet.step(of: "a0")
        #expect(
            fleet.refusal(
                .answerDirective(
                    step: step.id, token: step.token!, host: a,
                    answer: .staleToken(acceptedToken: Token(UInt64.max))))?.code == .invalid)
        #expect(fleet.coordinator.state.nextToken == next)
        fleet.run(.reportHost(fleet.report("b", ["db/1"], token: next + 1_000_000_000)))
        #expect(fleet.coordinator.state.nextToken == next + 1_000_000_001)
    }

    @Test("of a step that is not known, only holds of guests that are nobody else's are recorded")
    func strays() {
        var fleet = atWork()
        var report = report(fleet, token: 5, held: ["a0", "b0", "gone"])
        report.step = StepID(rollout: RolloutID(999_999), number: 1)
        fleet.run(.reportStep(report, host: b))
        #expect(
            fleet.finishedHolds == ["rollout-999999.1-t5-b0", "rollout-999999.1-t5-gone"])
        let index = fleet.coordinator.state.index
        report.holds.removeLast(2)
        fleet.run(.reportStep(report, host: b))
        report.holds = []
        fleet.run(.reportStep(report, host: b))
        #expect(fleet.coordinator.state.index == index)
    }

    @Test("a step of a lost log with another host's name is over for its agent")
    func reusedName() {
        var fleet = atWork()
        let token = fleet.step(of: "a0").token!.number
        let index = fleet.coordinator.state.index
        fleet.run(.reportStep(report(fleet, token: 77, held: []), host: b))
        fleet.run(.reportStep(report(fleet, token: 77, held: ["a0"]), host: b))
        #expect(fleet.coordinator.state.index == index)
        // By chance of the same token: what it says of its own guests is true all the same.
        for held in [[], ["a0"], ["a0", "b0"]] {
            let report = report(fleet, token: token, held: held)
            #expect(fleet.refusal(.reportStep(report, host: b))?.code == .notPermitted)
        }
        fleet.run(.reportStep(report(fleet, token: token, held: ["b0"]), host: b))
        #expect(fleet.finishedHolds == ["rollout-1.1-t\(token)-b0"])
        #expect(fleet.step(of: "a0").status == .granted)
        fleet.finish("a0")
        #expect(fleet.refusal(.reportStep(report(fleet, token: token, held: []), host: b)) == nil)
        #expect(fleet.broken == [])
    }

    @Test("a guest that its host has named no more during its step is gone with the step's end")
    func namedNoMore() {
        var fleet = atWork()
        fleet.change("a") { $0.guests = [] }
        let id = GuestID(checked: "a0")
        #expect(fleet.coordinator.state.guests[id] != nil)
        fleet.finish("a0", .failed)
        #expect(fleet.coordinator.state.guests[id] == nil)
        #expect(fleet.finishedHolds.count == 1 && fleet.broken == [])
    }

    @Test("a set that its host does not define any more is gone with its last guest and lock")
    func sets() {
        var fleet = Fixture()
        fleet.host("a", ["db/0"], sets: [("db", 3), ("empty", 2)])
        fleet.host("b", ["db/1"], sets: [("db", 7)])
        #expect(fleet.sets == ["db", "empty"])
        fleet.host("a", ["db/0"])
        #expect(fleet.sets == ["db"])
        // Whoever defines it next says how many update domains it has.
        fleet.host("b", ["db/1", "db/1"], sets: [("db", 7)])
        #expect(fleet.coordinator.state.sets[SetID(checked: "db")]?.updateDomainCount == 7)
        fleet.host("a", [])
        fleet.host("b", [])
        #expect(fleet.sets == [])
        #expect(fleet.broken == [])
    }
}

extension Fixture {
    fileprivate var sets: [String] { coordinator.state.sets.keys.map(\.rawValue) }
}
