// How a restarted agent finds out what a step's processes do, as AgentShell's StepObserver does it; what is done
// with each guest is the production `Recovery`.

import AgentCore
import Fleet

final class Observation {
    private let agent: AgentProcess
    private let host: SimulatedHost
    private let step: AcceptedStep
    private var isUndecided: [Bool]
    private var actions: [RecoveryAction]
    private var hasBegun = false
    private let since: Int64
    private var round = 0
    private var chance: Chance

    /// As AgentShell's StepObserver has them.
    private static let patience: Int64 = 10_000_000
    private static let grace: Int64 = 1_000_000

    init(_ agent: AgentProcess, _ host: SimulatedHost, _ step: AcceptedStep, _ chance: Chance) {
        self.agent = agent
        self.host = host
        self.step = step
        self.chance = chance
        isUndecided = step.guests.map { _ in true }
        actions = step.guests.map { _ in .wait }
        since = host.place.holdMicroseconds
    }

    func begin() {
        // Its monitors are connected first.
        agent.process.run(after: 1_000) { [self] in look() }
    }

    private var waited: Int64 { host.place.holdMicroseconds - since }

    private func look() {
        round += 1
        let mine = round
        let indices = step.guests.indices.filter { isUndecided[$0] }
        var states: [Int: [Side: ProcessState]] = [:]
        var missing = indices.count * 2
        let done = { [self] in
            guard mine == round else { return }
            round += 1
            decide(indices, states)
        }
        agent.process.run(after: 500_000) { done() }
        for index in indices {
            for side in Side.allCases {
                ask(index, side) { state in
                    states[index, default: [:]][side] = state
                    missing -= 1
                    if missing == 0 { done() }
                }
            }
        }
    }

    private func qemu(_ index: Int, _ side: Side) -> SimulatedQEMU? {
        let guest = step.guests[index]
        let number = side == .old ? guest.oldGeneration : guest.oldGeneration + 1
        return host.guest(guest.plan.id)?.processes.first { $0.generation == number }
    }

    private func ask(_ index: Int, _ side: Side, _ answer: @escaping (ProcessState) -> Void) {
        guard let qemu = qemu(index, side), !qemu.hasExited else { return answer(.absent) }
        SimulatedMonitor.connect(agent.process, to: qemu, limit: 400_000, chance.fork()) {
            monitor in
            guard let monitor else { return answer(qemu.hasExited ? .absent : .unreachable) }
            monitor.send(.queryStatus, limit: 400_000) { result in
                monitor.close()
                guard case .success(.status(let runstate, _)) = result else {
                    return answer(qemu.hasExited ? .absent : .unreachable)
                }
                answer(ProcessState(runstate: runstate))
            }
        }
    }

    private func decide(_ indices: [Int], _ states: [Int: [Side: ProcessState]]) {
        let isPatient = waited < Self.patience
        for index in indices {
            let action = Recovery.decide(
                old: states[index]?[.old] ?? .unreachable,
                new: states[index]?[.new] ?? .unreachable, isPatient: isPatient)
            guard action != .wait else { continue }
            isUndecided[index] = false
            actions[index] = action
            if hasBegun { agent.found(step.guests[index].plan.id, action) }
        }
        let isComplete = !isUndecided.contains(true)
        if !hasBegun, isComplete || waited >= Self.grace {
            hasBegun = true
            agent.feed(.observed(actions))
        }
        guard !isComplete else { return }
        // Nobody watches the guests that were found yet, so they are asked again.
        if !hasBegun { isUndecided = step.guests.map { _ in true } }
        agent.process.run(after: isPatient ? 50_000 : 500_000) { [self] in look() }
    }
}
