import AgentCore
import Fleet

/// How a restarted agent finds out what a step's processes do: the production `Observation`, with simulated
/// monitors.
final class Observing {
    private let agent: AgentProcess
    private let host: SimulatedHost
    private let step: AcceptedStep
    private var observation: Observation
    private var chance: Chance
    private var inputs: [Observation.Input] = []
    private var isDraining = false

    init(_ agent: AgentProcess, _ host: SimulatedHost, _ step: AcceptedStep, _ chance: Chance) {
        self.agent = agent
        self.host = host
        self.step = step
        self.chance = chance
        observation = Observation(
            guestCount: step.guests.count,
            deadline: .milliseconds(step.directive.deadlineMilliseconds),
            at: host.place.holdMicroseconds)
    }

    func begin() {
        // Its monitors are connected first.
        agent.process.run(after: 1_000) { [self] in feed(.begin) }
    }

    private func feed(_ input: Observation.Input) {
        inputs.append(input)
        guard !isDraining else { return }
        isDraining = true
        while !inputs.isEmpty {
            for output in observation.handle(inputs.removeFirst(), at: host.place.holdMicroseconds)
            {
                guard agent.process.edge("observe") else { return }
                carryOut(output)
            }
        }
        isDraining = false
    }

    private func carryOut(_ output: Observation.Output) {
        switch output {
        case .ask(let index, let round):
            for side in Side.allCases {
                ask(index, side) { [self] in feed(.answered(index, round: round, side, $0)) }
            }
        case .setTimer(let timer, let delay):
            agent.process.run(after: delay.microseconds) { [self] in feed(.timerFired(timer)) }
        case .begun(let actions): agent.feed(.observed(actions))
        case .found(let index, let action): agent.found(step.guests[index].plan.id, action)
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
}
