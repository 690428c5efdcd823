// Carries out what the production `HoldMachine` says, on simulated QEMU processes: what AgentShell's HoldRunner does
// on real ones, in the same order.

import AgentCore
import Fleet

final class HoldCarrier {
    let directive: Directive
    private(set) var machine: HoldMachine
    let agent: AgentProcess
    unowned let host: SimulatedHost
    private var guests: [CarriedGuest] = []
    var onFinish: ((StepReport) -> Void)?
    private var events: [HoldEvent] = []
    private var isDraining = false
    private var timers: [HoldTimer: Int] = [:]
    private var timerNumber = 0
    /// What must not be done while a guest is held, such as an fsync.
    private var putOff: [() -> Void] = []
    private var chance: Chance
    private var isOver = false
    /// Lines for the guard go in order, and it reads them all before it sees the channel's end.
    private var guardProcess: GuardProcess?

    init(
        _ machine: HoldMachine, _ agent: AgentProcess, _ host: SimulatedHost,
        _ guests: [AcceptedStep.Guest], _ chance: Chance
    ) {
        self.machine = machine
        directive = machine.directive
        self.agent = agent
        self.host = host
        self.chance = chance
        for entry in guests {
            guard let guest = host.guest(entry.plan.id) else { continue }
            self.guests.append(CarriedGuest(guest, entry, self))
        }
        // They hold this object.
        process.whenItDies { [weak self] _ in self?.letGo() }
    }

    private func letGo() {
        isOver = true
        for guest in guests { guest.close() }
        guests = []
        putOff = []
        onFinish = nil
    }

    var process: SimulatedProcess { agent.process }
    var now: Int64 { host.place.holdMicroseconds }
    var wall: Timestamp { Timestamp(microseconds: host.place.wallMicroseconds) }

    func fork() -> Chance { chance.fork() }

    func start() {
        for guest in guests {
            guest.find()
            guest.connectAll()
        }
        feed(.begin)
    }

    // MARK: Events

    func feed(_ event: HoldEvent) {
        guard process.isAlive, !isOver else { return }
        events.append(event)
        guard !isDraining else { return }
        isDraining = true
        while !events.isEmpty {
            let event = events.removeFirst()
            for effect in machine.handle(event, at: now, wall: wall) {
                guard process.edge(name(effect)) else { return }
                carryOut(effect)
            }
        }
        isDraining = false
        guard machine.heldGuests.isEmpty else { return }
        let bodies = putOff
        putOff = []
        for body in bodies { body() }
    }

    private func name(_ effect: HoldEffect) -> String {
        switch effect {
        case .verifyArtifact: "verifyArtifact"
        case .prepare: "prepare"
        case .armGuard: "armGuard"
        case .tellGuard(let message): "tellGuard \(message)".prefixed(20)
        case .setTimer, .cancelTimer: "timer"
        case .switchQueues: "switchQueues"
        case .stopAndMove: "stopAndMove"
        case .pause: "pause"
        case .run(let kind): "run \(kind)"
        case .killCommand: "killCommand"
        case .kill(_, let side): "kill \(side)"
        case .continueGuest(_, let side): "continue \(side)"
        case .adoptNew: "adoptNew"
        case .discard: "discard"
        case .confirm: "confirm"
        case .note: "note"
        case .progress: "progress"
        case .finish: "finish"
        }
    }

    private func with(_ id: GuestID, _ body: (CarriedGuest) -> Void) {
        if let guest = guests.first(where: { $0.id == id }) { body(guest) }
    }

    private func after(_ shortest: Int64, _ doublings: Int, _ body: @escaping () -> Void) {
        process.run(after: agent.world.faults.takes(shortest, doublings: doublings), body)
    }

    private func happens(_ count: Int) -> Bool { agent.world.faults.happens(oneIn: count) }

    // MARK: Effects

    private func carryOut(_ effect: HoldEffect) {
        switch effect {
        case .verifyArtifact:
            after(1_000, 4) { [self] in
                feed(
                    happens(60) ? .artifactRefused(reason: "its digest differs") : .artifactVerified
                )
            }
        case .prepare(let id): with(id) { $0.prepare(chance.fork(), fails: happens(40)) }
        case .armGuard: after(2_000, 6) { [self] in armGuard() }
        case .tellGuard(let message): tellGuard(.message(message))
        case .setTimer(let timer, let at): setTimer(timer, at)
        case .cancelTimer(let timer): timers.removeValue(forKey: timer)
        case .switchQueues(let id, _):
            let event: GuestEvent =
                happens(300) ? .queuesFailed(reason: "no such tap") : .queuesSwitched
            feed(.guest(id, event))
        case .stopAndMove(let id): with(id) { $0.input(.stopAndMove) }
        case .pause(let id): with(id) { $0.input(.pause) }
        case .run(let kind): run(kind)
        case .killCommand: host.command?.kill()
        case .kill(let id, let side): with(id) { $0.kill(side) }
        case .continueGuest(let id, let side): with(id) { $0.continueGuest(side) }
        case .adoptNew(let id):
            with(id) { guest in
                host.run.current[id] = guest.newNumber
                let version = directive.release.version
                putOff.append { [host] in host.disk.hypervisors[id] = version }
            }
        case .discard(let id, let side): with(id) { $0.qemu(side)?.kill() }
        case .confirm(let id, let side):
            // Reading a clock is worth nothing while other guests are in their hold.
            putOff.append { [self] in with(id) { confirm($0, side) } }
        case .note(let note): host.run.notes.append(note)
        case .progress(let phase):
            agent.sendProgress(directive.step, directive.token, phase)
        case .finish(let report): putOff.append { [self] in finish(report) }
        }
    }

    private func setTimer(_ timer: HoldTimer, _ at: Int64) {
        timerNumber += 1
        timers[timer] = timerNumber
        look(timer, at, timerNumber)
    }

    /// A sleep is short, so that a host that was suspended is not late.
    private func look(_ timer: HoldTimer, _ at: Int64, _ number: Int) {
        let left = at - now
        process.run(after: min(max(0, left), HoldBudget.lookMicroseconds)) { [self] in
            guard timers[timer] == number, !isOver else { return }
            guard at <= now else { return look(timer, at, number) }
            timers.removeValue(forKey: timer)
            feed(.timerFired(timer))
        }
    }

    // MARK: The guard

    private func armGuard() {
        guard !isOver, process.edge("arm") else { return }
        if let ill = guests.first(where: { !$0.guest.isWell }), directive.release.scope == .host {
            return feed(.holdRefused(reason: "unhealthy already before the hold: \(ill.id)"))
        }
        var pairs: [(guest: GuestID, old: SimulatedQEMU, new: SimulatedQEMU?)] = []
        for guest in guests {
            guard let old = guest.qemu(.old),
                guest.qemu(.new) != nil || directive.release.scope != .guest
            else { return feed(.guardFailed(reason: "\(guest.id) has no two processes")) }
            pairs.append((guest.id, old, guest.qemu(.new)))
        }
        guard !happens(80) else { return feed(.guardFailed(reason: "it cannot be started")) }
        var isAnswered = false
        let started = GuardProcess(
            host, agent: process, budget: machine.budget, pairs: pairs, chance.fork()
        ) { [weak self] answer in
            guard let self else { return }
            switch answer {
            case .armed:
                isAnswered = true
                feed(.guardArmed)
            case .failed(let reason):
                isAnswered = true
                feed(.guardFailed(reason: reason))
            case .ended: if guardProcess != nil { feed(.guardFailed(reason: "its channel ended")) }
            }
        }
        guardProcess = started
        process.whenItDies { [weak started] _ in
            started?.process.run(after: 50) { started?.receive(.end) }
        }
        process.run(after: 10_000_000) { [self] in
            guard !isAnswered, guardProcess === started else { return }
            started.process.kill()
            feed(.guardFailed(reason: "it was not armed within 10 s"))
        }
    }

    private func tellGuard(_ line: GuardLine) {
        guard let process = guardProcess else { return }
        switch line {
        case .message(.released), .message(.disarm): host.releasedAt = host.place.timeline.now
        default: break
        }
        process.process.run(after: 20) { process.receive(line) }
        if case .message(.disarm) = line {
            guardProcess = nil
            // One that does not end when it has been disarmed is killed.
            self.process.run(after: StuckGuard.stoppedMicroseconds) { process.process.kill() }
        }
    }

    // MARK: Commands

    private func run(_ kind: CommandKind) {
        guard case .host(let work) = directive.release.work,
            let command = work.commands.first(where: { $0.name == kind.rawValue })?.command
        else { return feed(.commandEnded(kind, problem: "the release does not have it")) }
        if kind == .apply, work.holdsGuests {
            agent.world.truth.applies(directive, on: host)
        }
        let limit = Int64(command.limitMilliseconds) * 1_000
        let duration: Int64? = happens(12) ? nil : chance.within(limit / 20...limit * 2 / 3)
        host.command = SimulatedCommand(
            kind, for: duration, problem: happens(10) ? "exit code 1" : nil, limit: limit, process
        ) { [self] problem in
            host.command = nil
            feed(.commandEnded(kind, problem: problem))
        }
    }

    // MARK: After the hold

    private func confirm(_ guest: CarriedGuest, _ side: Side) {
        after(30_000, 6) { [self] in
            guard let qemu = guest.qemu(side), qemu.isAlive else { return }
            let isHealthy = guest.guest.isWell && qemu.isExecuting && !happens(60)
            agent.world.truth.confirmed(guest.id, isHealthy: isHealthy, in: directive)
            let error = chance.within(-1_500...1_500)
            feed(
                .guest(
                    guest.id,
                    .confirmed(
                        Confirmation(
                            isHealthy: isHealthy, reason: isHealthy ? "" : "it does not answer",
                            clockErrorBeforeMicroseconds: error * 20,
                            clockErrorAfterMicroseconds: error))))
        }
    }

    private func finish(_ report: StepReport) {
        let body = onFinish
        letGo()
        body?(report)
    }
}
