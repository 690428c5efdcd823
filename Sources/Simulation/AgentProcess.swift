// The agent of a host: the production `AgentMachine`, `HoldMachine` and `Recovery` on a virtual loop, with a
// session of the production `SessionClient`. What AgentShell does with disk, processes and monitors is done here
// with simulated ones, in the same order.

import AgentCore
import Edges
import Fleet
import SessionCore
import Wire

final class AgentProcess {
    let process: SimulatedProcess
    let loop: SimulatedLoop
    let world: World
    private unowned let host: SimulatedHost
    private var machine: AgentMachine
    private var chance: Chance
    private var client: SessionClient
    private(set) var runner: HoldCarrier?
    private var unanswered: [(grant: TokenGate.Grant, answer: (DirectiveAnswer) -> Void)] = []
    private var events: [AgentMachine.Event] = []
    private var isDraining = false
    private var lastReport: HostReport?
    /// Guests that a step has lost, for the next report.
    private var lost: [GuestID] = []
    private var unsettled = 0

    init(
        _ host: SimulatedHost, _ process: SimulatedProcess, world: World, _ chance: Chance
    ) {
        self.host = host
        self.process = process
        self.world = world
        var chance = chance
        loop = SimulatedLoop(process, chance.fork())
        self.chance = chance
        machine = AgentMachine(host: host.id, bootID: host.bootID, records: host.disk.records)
        let identity = PeerIdentity(
            cluster: World.cluster, role: .agent, name: host.id.rawValue)!
        client = SessionClient(
            on: loop, servers: world.serverAddresses,
            dialer: SimulatedDialer(identity, process, world), software: "0",
            logger: world.logger(host.id.rawValue))
        connectClient()
    }

    private var readySince: Int64 = 0

    /// Its leader must have heard of it by now.
    var isLongReady: Bool {
        client.isReady && !process.isFrozen && process.timeline.now - readySince > 20_000_000
    }

    /// It has died: nothing may hold it any more.
    func letGo() {
        unanswered = []
        events = []
        runner = nil
        client.stop()
    }

    /// A step is at work here, or its end is being written.
    var isInStep: Bool { runner != nil || machine.inFlight != nil }

    func start() { afterGuard(since: host.place.holdMicroseconds) }

    /// A guard that is still at work goes first: it may be continuing guests at this moment. One that hangs
    /// is killed.
    private func afterGuard(since: Int64) {
        guard let guardProcess = host.guardProcess?.process, guardProcess.isAlive else {
            return feed(.start(guests: host.guests.map(\.id)))
        }
        let waited = host.place.holdMicroseconds - since
        if StuckGuard.isStuck(isStopped: guardProcess.isFrozen, waitedMicroseconds: waited) {
            guardProcess.kill()
        }
        process.run(after: 20_000) { [self] in afterGuard(since: since) }
    }

    // MARK: The machine

    func feed(_ event: AgentMachine.Event) {
        guard process.isAlive else { return }
        if case .stepEnded(let report) = event { world.truth.stepEnds(report.step, on: host) }
        events.append(event)
        guard !isDraining else { return }
        isDraining = true
        while !events.isEmpty {
            for effect in machine.handle(events.removeFirst()) {
                guard process.edge(name(effect)) else { return }
                carryOut(effect)
            }
        }
        isDraining = false
    }

    private func name(_ effect: AgentMachine.Effect) -> String {
        switch effect {
        case .keep: "keep"
        case .keepReport: "keepReport"
        case .forgetReport: "forgetReport"
        case .answer: "answer"
        case .begin: "begin"
        case .observe: "observe"
        case .resume: "resume"
        case .undoAfterReboot: "undoAfterReboot"
        case .recoverUpgrade: "recoverUpgrade"
        case .takeUpGuests: "takeUpGuests"
        case .startGuests: "startGuests"
        case .becomeReady: "becomeReady"
        case .send: "sendReport"
        case .sendHostReport: "sendHostReport"
        case .removeNotes: "removeNotes"
        case .setTimer: "setTimer"
        }
    }

    private func carryOut(_ effect: AgentMachine.Effect) {
        switch effect {
        case .keep(let token, let step):
            write { [host, world] in
                world.truth.agentKeeps(token, on: host.id)
                host.disk.records.acceptedToken = token
                host.disk.records.inFlight = step
            }
        case .keepReport(let report):
            write { [host] in
                host.disk.records.reports.removeAll {
                    $0.step == report.step && $0.token == report.token
                }
                host.disk.records.reports.append(report)
            }
        case .forgetReport(let step, let token):
            host.disk.records.reports.removeAll { $0.step == step && $0.token == token }
        case .answer(let grant, let answer):
            let waiting = unanswered.filter { $0.grant == grant }
            unanswered.removeAll { $0.grant == grant }
            for (_, body) in waiting { body(answer) }
        case .begin(let step): process.run { [self] in begin(step) }
        case .observe(let step): Observing(self, host, step, chance.fork()).begin()
        case .resume(let step, let actions): resume(step, actions)
        case .undoAfterReboot(let step):
            run(HoldMachine(undoingAfterReboot: step), guests: [])
        case .recoverUpgrade(let step):
            process.run(after: 200_000) { [self] in
                feed(.stepEnded(step.report(.failed, "it fell back")))
            }
        case .takeUpGuests(let guests): takeUp(guests)
        case .startGuests(let guests): start(guests)
        case .becomeReady: client.start()
        case .send(let report): client.send(.stepReport(report))
        case .sendHostReport(let always): sendHostReport(always: always)
        case .removeNotes: host.run.step = nil
        case .setTimer(let timer, let delay):
            loop.after(delay) { [self] in feed(.timerFired(timer)) }
        }
    }

    /// Durable, or not: a crash can come before, and after.
    private func write(_ body: @escaping () -> Void) {
        process.run(after: world.faults.takes(1_000, doublings: 8)) { [self] in
            guard !host.disk.isFull, !world.faults.happens(oneIn: 100) else {
                return feed(.keepFailed(reason: "no space left"))
            }
            guard process.edge("write") else { return }
            body()
            guard process.edge("written") else { return }
            process.run { [self] in feed(.kept) }
        }
    }

    // MARK: The leader

    private func connectClient() {
        client.isUrgent = { [unowned self] in isInStep || !machine.reports.isEmpty }
        client.onReady = { [unowned self] _ in
            readySince = process.timeline.now
            lastReport = nil
            feed(.sessionReady)
        }
        client.onMessage = { [unowned self] message, correlation in
            switch message {
            case .directive(let directive): take(directive, correlation)
            case .stepReportCommitted(let step, let token): feed(.reportCommitted(step, token))
            default: break
            }
        }
    }

    private func take(_ directive: Directive, _ correlation: UInt64) {
        let grant = TokenGate.Grant(step: directive.step, token: directive.token)
        unanswered.append(
            (
                grant,
                { [self] answer in
                    client.send(
                        .directiveAnswer(
                            step: directive.step, token: directive.token, answer: answer),
                        correlation: correlation)
                }
            ))
        feed(
            .directive(
                directive, at: Timestamp(microseconds: loop.wallMicroseconds),
                guests: host.guests.map(view), parts: host.disk.parts))
    }

    private func sendHostReport(always: Bool) {
        let report = HostReport(
            host: host.id, agentVersion: "0", bootID: host.bootID,
            acceptedToken: machine.gate.acceptedToken, sets: host.definitions,
            guests: host.guests.map(report).sorted { $0.id < $1.id },
            abilities: AgentAbility.allCases, software: host.disk.installed)
        guard always || report != lastReport else { return }
        lastReport = report
        client.send(.hostReport(report))
    }

    // MARK: Guests

    func guestChanged(_ guest: SimulatedGuest) {
        process.run { [self] in feed(.hostChanged) }
    }

    func current(_ guest: SimulatedGuest) -> SimulatedQEMU? {
        let alive = guest.processes.filter { !$0.hasExited }
        return alive.first { $0.generation == host.run.current[guest.id] } ?? alive.last
    }

    private func state(_ guest: SimulatedGuest) -> GuestState {
        guard let qemu = current(guest), qemu.isAlive else {
            return lost.contains(guest.id) ? .lost : .stopped
        }
        if runner?.machine.heldGuests.contains(guest.id) == true { return .held }
        if qemu.isHung { return .unknown }
        if qemu.isExecuting { return .running }
        return lost.contains(guest.id) ? .lost : .paused
    }

    private func view(_ guest: SimulatedGuest) -> HostGuest {
        let qemu = current(guest)
        return HostGuest(
            id: guest.id, state: state(guest), generation: qemu?.generation,
            hypervisorVersion: qemu?.version ?? "")
    }

    private func report(_ guest: SimulatedGuest) -> GuestReport {
        GuestReport(
            id: guest.id, set: guest.set, updateDomain: guest.namedDomain,
            memoryBytes: 1 << 30, vcpuCount: 1, state: state(guest),
            hypervisorVersion: current(guest)?.version ?? "", hasGuestAgent: guest.hasGuestAgent)
    }

    private func takeUp(_ guests: [GuestID]) {
        var missing: [GuestID] = []
        for id in guests {
            guard let guest = host.guest(id) else { continue }
            let found = guest.processes.filter { !$0.hasExited }
            guard let keep = current(guest) else {
                missing.append(id)
                continue
            }
            host.run.current[id] = keep.generation
            // What a step left behind: it never executed.
            for other in found where other !== keep {
                guard process.edge("kill left-over") else { return }
                other.kill()
            }
        }
        start(missing)
    }

    private func start(_ guests: [GuestID]) {
        process.run(after: world.faults.takes(20_000, doublings: 3)) { [self] in
            for id in guests {
                guard let guest = host.guest(id), !host.run.started.contains(id) else { continue }
                guard process.edge("start guest") else { return }
                host.run.started.append(id)
                let qemu = SimulatedQEMU(
                    guest, generation: 1, version: host.disk.hypervisors[id] ?? "v0",
                    isWaiting: false, chance.fork())
                host.run.current[id] = 1
                prepareFate(qemu)
            }
            feed(.guestsSettled)
        }
    }

    func prepareFate(_ qemu: SimulatedQEMU) {
        qemu.fate = { [world] in world.faults.handOverFate() }
    }

    // MARK: Steps

    private func begin(_ step: AcceptedStep) {
        guard process.edge("accepted") else { return }
        if case .agent = step.directive.release.work {
            world.truth.agentBegins(step.directive, on: host.id)
            return process.run(after: 500_000) { [self] in
                feed(.stepEnded(step.report(.succeeded, "")))
            }
        }
        host.run.begin(step.directive.step, step.directive.token)
        world.truth.agentBegins(step.directive, on: host.id)
        run(HoldMachine(step, parts: host.disk.parts), guests: step.guests)
    }

    private func resume(_ step: AcceptedStep, _ actions: [RecoveryAction]) {
        for (guest, action) in zip(step.guests, actions) { tell(guest.plan.id, action) }
        let notes = host.run.read(step.directive.step, step.directive.token)
        run(
            HoldMachine(recovering: step, actions: actions, notes: notes), guests: step.guests)
    }

    /// - Parameter guests: with the generations that they began on.
    private func run(_ hold: HoldMachine, guests: [AcceptedStep.Guest]) {
        let runner = HoldCarrier(hold, self, host, guests, chance.fork())
        self.runner = runner
        runner.onFinish = { [unowned self] report in
            self.runner = nil
            for record in report.holds {
                lost.removeAll { $0 == record.guest }
                if record.outcome == .lost { lost.append(record.guest) }
            }
            if case .host(let work) = runner.directive.release.work,
                runner.machine.isPatched != false
            {
                remember(runner.directive.release.component, work.version, runner.machine.isPatched)
            }
            feed(.stepEnded(report))
        }
        runner.start()
    }

    private func remember(_ component: Component, _ version: String, _ isPatched: Bool?) {
        host.disk.installed.removeAll { $0.component == component }
        guard isPatched == true else { return }
        host.disk.installed.append(InstalledSoftware(component: component, version: version))
    }

    func sendProgress(_ step: StepID, _ token: Token, _ phase: StepPhase) {
        client.send(
            .stepProgress(
                StepProgress(
                    step: step, token: token, phase: phase,
                    at: Timestamp(microseconds: loop.wallMicroseconds))))
    }

    private func tell(_ guest: GuestID, _ action: RecoveryAction) {
        if case .continueGuest = action { world.truth.agentFindsHeld(guest) }
    }

    func found(_ guest: GuestID, _ action: RecoveryAction) {
        tell(guest, action)
        runner?.feed(.guest(guest, .found(action)))
    }
}
