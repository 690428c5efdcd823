// The guard of one step: the production `GuardMachine`, with simulated processes and monitors around it. What it
// carries out, and in which order, is what AgentShell's GuardShell does.

import AgentCore
import Fleet

/// What the agent's end of the guard's channel carries.
enum GuardLine {
    case message(GuardMessage)
    case end
}

final class GuardProcess {
    private final class Watched {
        let qemu: SimulatedQEMU
        var monitor: SimulatedMonitor?
        var continuedAt: Int64?
        var stoppedAt: Int64?
        var resumedAt: Int64?
        init(_ qemu: SimulatedQEMU) { self.qemu = qemu }
    }

    let process: SimulatedProcess
    private let host: SimulatedHost
    private let agent: SimulatedProcess
    private let budget: HoldBudget
    private let guests: [GuestID]
    private var watched: [GuestID: [Side: Watched]] = [:]
    private var machine: GuardMachine
    private var isArmed = false
    private var events: [GuardMachine.Event] = []
    private var isDraining = false
    private var timer: (at: Int64, number: Int)?
    private var timerNumber = 0
    private var chance: Chance
    private let tellAgent: (GuardAnswer) -> Void

    enum GuardAnswer { case armed, failed(String), ended }

    /// - Parameter pairs: of each guest its two processes; the new one is nil for one that is only paused.
    init(
        _ host: SimulatedHost, agent: SimulatedProcess, budget: HoldBudget,
        pairs: [(guest: GuestID, old: SimulatedQEMU, new: SimulatedQEMU?)], _ chance: Chance,
        tellAgent: @escaping (GuardAnswer) -> Void
    ) {
        self.host = host
        self.agent = agent
        self.budget = budget
        var chance = chance
        let delay = chance.within(5_000...20_000)
        self.chance = chance
        self.tellAgent = tellAgent
        process = SimulatedProcess("guard", at: host.place)
        guests = pairs.map(\.guest)
        machine = GuardMachine(
            guests: guests, budget: budget, isOfWholeHost: pairs.allSatisfy { $0.new == nil })
        host.guardBegan(self)
        process.whenItDies { [weak host] _ in
            host?.guardEnded(self)
            // What waits for an answer learns of the channel's end.
            self.agent.run { tellAgent(.ended) }
        }
        for pair in pairs {
            watched[pair.guest] = [.old: Watched(pair.old)]
            if let new = pair.new { watched[pair.guest]?[.new] = Watched(new) }
        }
        process.run(after: delay) { [self] in arm() }
    }

    private func place(_ guest: GuestID, _ side: Side) -> Watched? { watched[guest]?[side] }

    private func arm() {
        var missing = 0
        var hasFailed = false
        for guest in guests {
            for side in Side.allCases {
                guard let place = place(guest, side) else { continue }
                missing += 1
                place.qemu.whenItExits(process) { [self] in feed(.exited(guest, side)) }
                connect(place, limit: 2_000_000) { [self] isThere in
                    guard !hasFailed else { return }
                    guard isThere else {
                        hasFailed = true
                        answer(.failed("a monitor does not answer"))
                        return process.kill()
                    }
                    missing -= 1
                    guard missing == 0 else { return }
                    isArmed = true
                    answer(.armed)
                    let early = events
                    events = []
                    for event in early { feed(event) }
                }
            }
        }
    }

    private func answer(_ answer: GuardAnswer) {
        guard process.edge("guard answers") else { return }
        agent.run(after: 100) { [tellAgent] in tellAgent(answer) }
    }

    /// A line of the agent's has come, or the channel's end.
    func receive(_ line: GuardLine) {
        switch line {
        case .message(let message): feed(.message(message))
        case .end:
            guard isArmed else { return process.kill() }
            lookAtProcesses()
            feed(machine.isKillingAgent ? .agentEnded : .channelClosed)
        }
    }

    private func connect(
        _ place: Watched, limit: Int64, _ completion: @escaping (Bool) -> Void
    ) {
        SimulatedMonitor.connect(process, to: place.qemu, limit: limit, chance.fork()) {
            [self] monitor in
            guard let monitor else { return completion(false) }
            place.monitor = monitor
            monitor.onEnd = { place.monitor = nil }
            monitor.onEvent = { [self] in onEvent($0, stamp: $1, place) }
            completion(true)
        }
    }

    private func onEvent(_ event: QEMUEvent, stamp: Int64, _ place: Watched) {
        let now = host.place.holdMicroseconds
        switch event {
        case .resumed:
            guard let since = place.continuedAt ?? place.stoppedAt else { break }
            place.resumedAt =
                EventTime(
                    stamp: stamp, notBefore: since, hold: now, wall: host.place.wallMicroseconds
                ).hold
        case .stopped where place.continuedAt == nil:
            place.stoppedAt = now
            place.resumedAt = nil
        case .stopped:
            place.monitor?.send(.cont, limit: nil) { _ in }
        case .migrationCompleted, .migrationFailed: break
        }
    }

    private func feed(_ event: GuardMachine.Event) {
        guard process.isAlive else { return }
        events.append(event)
        guard isArmed, !isDraining else { return }
        isDraining = true
        while !events.isEmpty {
            for effect in machine.handle(events.removeFirst(), at: host.place.holdMicroseconds) {
                guard process.edge("guard acts") else { return }
                carryOut(effect)
            }
        }
        isDraining = false
    }

    private func carryOut(_ effect: GuardMachine.Effect) {
        switch effect {
        case .setTimer(let at): setTimer(at)
        case .killAgent: killAgent()
        case .killCommand: host.killCommand()
        case .kill(let guest, let side):
            place(guest, side)?.qemu.kill()
            feed(.killed(guest, side))
        case .switchQueues: break
        case .continueGuest(let guest, let side): continueGuest(guest, side)
        case .note(let note): host.run.guardNotes.append(note)
        case .finish:
            host.guardFinished(machine.wasDisarmed)
            process.run(after: machine.wasDisarmed ? 0 : 300_000) { [self] in process.kill() }
        }
    }

    private func setTimer(_ at: Int64) {
        if let timer, timer.at <= at { return }
        timerNumber += 1
        let number = timerNumber
        timer = (at, number)
        look(at, number)
    }

    /// A sleep is short, so that a host that was suspended is not late.
    private func look(_ at: Int64, _ number: Int) {
        let left = at - host.place.holdMicroseconds
        guard left > 0 else {
            guard timer?.number == number else { return }
            timer = nil
            return feed(.timerFired)
        }
        process.run(after: min(left, HoldBudget.lookMicroseconds)) { [self] in
            if timer?.number == number { look(at, number) }
        }
    }

    private func killAgent() {
        agent.kill()
        process.run(after: 100_000) { [self] in
            lookAtProcesses()
            feed(.agentEnded)
        }
    }

    private func lookAtProcesses() {
        for guest in guests {
            for side in Side.allCases where place(guest, side)?.qemu.hasExited == true {
                feed(.exited(guest, side))
            }
        }
    }

    private func continueGuest(_ guest: GuestID, _ side: Side) {
        guard let place = place(guest, side) else { return }
        let limit = microseconds(budget.replyLimit)
        guard let monitor = place.monitor else {
            return connect(place, limit: limit) { [self] isThere in
                if isThere {
                    continueGuest(guest, side)
                } else {
                    feed(.continueFailed(guest, side))
                }
            }
        }
        if place.continuedAt == nil { place.continuedAt = host.place.holdMicroseconds }
        guard side == .old else { return cont(guest, side, monitor, place, limit) }
        monitor.askReadiness(limit: limit) { [self] readiness in
            switch readiness {
            case .notYet: feed(.continueFailed(guest, side))
            case .ready: cont(guest, side, monitor, place, limit)
            }
        }
    }

    private func cont(
        _ guest: GuestID, _ side: Side, _ monitor: SimulatedMonitor, _ place: Watched,
        _ limit: Int64
    ) {
        monitor.send(.cont, limit: limit) { _ in }
        monitor.send(.queryStatus, limit: limit) { [self] result in
            if case .success(.status(_, true)) = result {
                let at = place.resumedAt ?? host.place.holdMicroseconds
                feed(.continued(guest, side, at: at, wasHeld: place.resumedAt != nil))
            } else {
                feed(.continueFailed(guest, side))
            }
        }
    }
}

func microseconds(_ duration: Duration) -> Int64 { duration.microseconds }

extension SimulatedMonitor {
    enum Readiness { case ready(isExecuting: Bool), notYet }

    /// Whether `cont` is safe on a process that was handing its guest over: production's rule, see
    /// AgentShell's Monitor.
    func askReadiness(limit: Int64, _ answer: @escaping (Readiness) -> Void) {
        var migration = MigrationState.none
        send(.queryMigrate, limit: limit) { result in
            if case .success(.migration(let state)) = result { migration = state }
        }
        send(.queryStatus, limit: limit) { result in
            guard case .success(.status(let runstate, let isExecuting)) = result,
                migration != .active, runstate != "finish-migrate"
            else { return answer(.notYet) }
            answer(.ready(isExecuting: isExecuting))
        }
    }
}
