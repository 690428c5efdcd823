// The guard of one step: the production `GuardMachine`, with simulated processes and monitors around it. What it
// carries out, and in which order, is what AgentShell's GuardShell does.

import AgentCore
import Edges
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
        var side: GuardedSide
        init(_ qemu: SimulatedQEMU, _ guest: GuestID, _ side: Side, _ budget: HoldBudget) {
            self.qemu = qemu
            self.side = GuardedSide(guest, side, budget: budget)
        }
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
    /// Whose notes it writes: the next step's are in another file.
    private let step: StepID?
    private let token: Token?
    private var lingerNumber = 0

    enum GuardAnswer { case armed, failed(String), ended }

    /// - Parameter pairs: of each guest its two processes; the new one is nil for one that is only paused.
    init(
        _ host: SimulatedHost, agent: SimulatedProcess, budget: HoldBudget,
        pairs: [(guest: GuestID, old: SimulatedQEMU, new: SimulatedQEMU?)], _ chance: Chance,
        tellAgent: @escaping (GuardAnswer) -> Void
    ) {
        self.host = host
        (step, token) = (host.run.step, host.run.token)
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
            watched[pair.guest] = [.old: Watched(pair.old, pair.guest, .old, budget)]
            if let new = pair.new {
                watched[pair.guest]?[.new] = Watched(new, pair.guest, .new, budget)
            }
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
            monitor.onEvent = { [self] in input(.event($0.word, stamp: $1), place) }
            completion(true)
        }
    }

    private func input(_ input: GuardedSide.Input, _ place: Watched) {
        guard process.isAlive else { return }
        host.world.trace(
            host.id.rawValue, "guard, \(place.side.guest) \(place.side.side): \(input)")
        let wall = Timestamp(microseconds: host.place.wallMicroseconds)
        for output in place.side.handle(input, at: host.place.holdMicroseconds, wall: wall) {
            guard process.edge("guard acts") else { return }
            carryOut(output, place)
        }
    }

    private func carryOut(_ output: GuardedSide.Output, _ place: Watched) {
        switch output {
        case .wake: if place.qemu.isHung { place.qemu.goOn() }
        case .event(let event): feed(event)
        case .connect:
            connect(place, limit: budget.replyLimit.microseconds) { [self] isThere in
                input(isThere ? .continueGuest(isConnected: true) : .connectFailed, place)
            }
        case .send(let request, let limit):
            guard let monitor = place.monitor else {
                return input(.replied(request, .ended("not connected")), place)
            }
            monitor.ask(request, limit: limit?.microseconds) { [self] reply in
                input(.replied(request, reply), place)
            }
        }
    }

    private func feed(_ event: GuardMachine.Event) {
        guard process.isAlive else { return }
        events.append(event)
        guard isArmed, !isDraining else { return }
        isDraining = true
        while !events.isEmpty {
            host.world.trace(host.id.rawValue, "guard: \(events[0])")
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
        case .note(let note):
            if host.run.step == step, host.run.token == token { host.run.guardNotes.append(note) }
        case .finish:
            if lingerNumber == 0 { host.guardFinished(machine.wasDisarmed) }
            lingerNumber += 1
            let number = lingerNumber
            process.run(after: machine.wasDisarmed ? 0 : 300_000) { [self] in
                if number == lingerNumber, machine.isFinished { process.kill() }
            }
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
            // As GuardShell does it: what came while it stood still is read first.
            return process.run(after: 1_000) { [self] in feed(.timerFired) }
        }
        process.run(after: min(left, HoldBudget.lookMicroseconds)) { [self] in
            if timer?.number == number { look(at, number) }
        }
    }

    private func killAgent() {
        if agent.isAlive { host.world.truth.guardKillsAgent(of: host) }
        agent.kill()
        process.run(after: budget.lastLinesMicroseconds) { [self] in
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
        input(.continueGuest(isConnected: place.monitor != nil), place)
    }
}

extension SimulatedMonitor {
    /// Asks in the machines' words.
    ///
    /// - Parameter answer: called once, unless this process dies.
    func ask(
        _ request: MonitorRequest, limit: Int64?, _ answer: @escaping (MonitorReply) -> Void
    ) {
        switch request {
        case .migrate: send(.migrate, limit: limit) { answer($0.reply) }
        case .stop: send(.stop, limit: limit) { answer($0.reply) }
        case .cont: send(.cont, limit: limit) { answer($0.reply) }
        case .queryMigrate: send(.queryMigrate, limit: limit) { answer($0.reply) }
        case .queryReadiness:
            var migration: MoveStatus?
            send(.queryMigrate, limit: limit) { result in
                if case .success(.migration(let state)) = result { migration = state.status }
            }
            send(.queryStatus, limit: limit) { result in
                guard case .success(.status(let runstate, let isExecuting)) = result else {
                    return answer(result.reply)
                }
                answer(
                    .readiness(
                        ContinueReadiness(
                            migration: migration, runstate: runstate, isExecuting: isExecuting)))
            }
        case .contAndLook:
            send(.cont, limit: limit) { _ in }
            send(.queryStatus, limit: limit) { result in
                guard case .success(.status(_, let isExecuting)) = result else {
                    return answer(result.reply)
                }
                answer(.executing(isExecuting))
            }
        }
    }
}

extension Result<QEMUReply, SimulatedMonitor.Failure> {
    fileprivate var reply: MonitorReply {
        switch self {
        case .success(.migration(let state)): .migration(state.status)
        case .success: .done
        case .failure(.refused(let reason)): .refused(reason)
        case .failure(.ended): .ended("its connection ended")
        }
    }
}
