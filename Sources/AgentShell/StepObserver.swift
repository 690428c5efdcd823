internal import AgentCore
internal import Fleet
internal import QMP
internal import UvLoop

/// Asks every process of a step what it does, until what to do with each guest is known.
final class StepObserver {
    private let guests: [StepGuest]
    private let loop: Loop
    private var isUndecided: [Bool]
    private var begun: (([RecoveryAction]) -> Void)?
    private var found: ((StepGuest, RecoveryAction) -> Void)?
    private var actions: [RecoveryAction]
    private let since = HoldClock.nowMicroseconds
    private var round = 0

    /// Monitors that do not answer for so long will not.
    static let patience = Duration.seconds(10)
    /// How long guests that are found wait for those that are not: monitors need a moment.
    private static let graceMicroseconds: Int64 = 1_000_000

    init(_ guests: [StepGuest], loop: Loop) {
        self.guests = guests
        self.loop = loop
        isUndecided = guests.map { _ in true }
        actions = guests.map { _ in .wait }
    }

    /// - Parameters:
    ///   - begun: called once, later, with an action for each guest; `wait` for one that does not
    ///     answer.
    ///   - found: called once for each of these, after that.
    func begin(
        _ begun: @escaping ([RecoveryAction]) -> Void,
        found: @escaping (StepGuest, RecoveryAction) -> Void
    ) {
        self.begun = begun
        self.found = found
        look()
    }

    private var waited: Int64 { HoldClock.nowMicroseconds - since }

    private func look() {
        round += 1
        let mine = round
        let indices = guests.indices.filter { isUndecided[$0] }
        var states: [Int: [Side: ProcessState]] = [:]
        var missing = indices.count * 2
        var timer: Timer?
        let done = { [self] in
            guard mine == round else { return }
            round += 1
            timer?.cancel()
            decide(indices, states)
        }
        timer = loop.after(.milliseconds(500)) { done() }
        for index in indices {
            for side in Side.allCases {
                ask(guests[index].generation(side)) { state in
                    states[index, default: [:]][side] = state
                    missing -= 1
                    if missing == 0 { done() }
                }
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

    private func decide(_ indices: [Int], _ states: [Int: [Side: ProcessState]]) {
        let isPatient = .microseconds(waited) < Self.patience
        for index in indices {
            let action = Recovery.decide(
                old: states[index]?[.old] ?? .unreachable,
                new: states[index]?[.new] ?? .unreachable, isPatient: isPatient)
            guard action != .wait else { continue }
            isUndecided[index] = false
            actions[index] = action
            if begun == nil { found?(guests[index], action) }
        }
        let isComplete = !isUndecided.contains(true)
        if isComplete || waited >= Self.graceMicroseconds, let body = begun {
            begun = nil
            body(actions)
        }
        guard !isComplete else { return }
        // Nobody watches the guests that were found yet, so they are asked again.
        if begun != nil { isUndecided = guests.map { _ in true } }
        loop.after(.milliseconds(isPatient ? 50 : 500)) { [self] in look() }
    }
}
