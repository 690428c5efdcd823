import Fleet
import Testing

@testable import Coordination

@Suite("Rollout lists")
struct RolloutListTests {
    private func record(_ number: UInt64, _ state: RolloutState) -> RolloutRecord {
        RolloutRecord(
            id: RolloutID(number), release: ReleaseID(checked: "r"), selection: .allHosts,
            policy: Policy(), state: state, reason: "", startedAt: Timestamp(microseconds: 1),
            startedBy: "", finishedAt: nil, steps: StepList(), skipped: [])
    }

    @Test("the open ones are those that are not over, in whatever order they come and end")
    func open() {
        var random = SeededGenerator(state: 7)
        var rollouts = RolloutList()
        var model: [UInt64: RolloutState] = [:]
        for _ in 0..<3_000 {
            let number = UInt64.random(in: 1...60, using: &random)
            let state = RolloutState.allCases.randomElement(using: &random)!
            if Bool.random(using: &random) {
                rollouts.keep(record(number, state))
                model[number] = state
            } else {
                let known: Void? = rollouts.update(RolloutID(number)) { $0.state = state }
                #expect((known != nil) == (model[number] != nil))
                if known != nil { model[number] = state }
            }
            let open = model.filter { !$0.value.isOver }.keys.sorted()
            #expect(rollouts.openIDs.map(\.number) == open)
            #expect(rollouts.open.map(\.id.number) == open)
        }
        #expect(rollouts.values.map(\.id.number) == model.keys.sorted())
        #expect(rollouts.count == model.count)
    }
}
