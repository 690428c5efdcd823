internal import AgentCore
internal import Fleet
internal import QMP
internal import UvLoop

/// Carries out an ``Observation`` on real QEMU processes.
final class StepObserver {
    private let guests: [StepGuest]
    private let loop: Loop
    private var observation: Observation
    private let begun: ([RecoveryAction]) -> Void
    private let found: (StepGuest, RecoveryAction) -> Void

    /// - Parameters:
    ///   - deadline: the step's.
    ///   - begun: called once, later, with an action for each guest; `wait` for one that does not
    ///     answer.
    ///   - found: called once for each of these, after that.
    init(
        _ guests: [StepGuest], deadline: Duration, loop: Loop,
        begun: @escaping ([RecoveryAction]) -> Void,
        found: @escaping (StepGuest, RecoveryAction) -> Void
    ) {
        self.guests = guests
        self.loop = loop
        self.begun = begun
        self.found = found
        observation = Observation(
            guestCount: guests.count, deadline: deadline, at: HoldClock.nowMicroseconds)
    }

    func begin() { tell(.begin) }

    private func tell(_ input: Observation.Input) {
        for output in observation.handle(input, at: HoldClock.nowMicroseconds) {
            switch output {
            case .ask(let index, let round):
                for side in Side.allCases {
                    ask(guests[index].generation(side)) { [self] state in
                        tell(.answered(index, round: round, side, state))
                    }
                }
            case .setTimer(let timer, let delay):
                loop.after(delay) { [self] in tell(.timerFired(timer)) }
            case .begun(let actions): begun(actions)
            case .found(let index, let action): found(guests[index], action)
            }
        }
    }

    private func ask(_ generation: Generation?, _ answer: @escaping (ProcessState) -> Void) {
        guard let generation, !generation.hasExited, !generation.process.hasExited else {
            return answer(.absent)
        }
        guard generation.isConnected else {
            // Whoever stopped it in its hold (SIGSTOP) did not mean to strand its guest.
            if generation.process.state == "T" {
                try? generation.process.send(signal: Scheduling.continueSignal)
            }
            return answer(.unreachable)
        }
        generation.send([.queryStatus], limit: .seconds(2)) { _, result in
            guard case .success(let value) = result, let status = StatusReply(value) else {
                return answer(generation.process.hasExited ? .absent : .unreachable)
            }
            answer(ProcessState(runstate: status.state.description))
        }
    }
}
