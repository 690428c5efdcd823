import AgentCore
import Fleet

/// One guest of a step: the production `HandOver` between the HoldMachine and two simulated QEMUs.
final class CarriedGuest {
    let guest: SimulatedGuest
    let newNumber: Int
    private let entry: AcceptedStep.Guest
    private let carrier: HoldCarrier
    private var handOver: HandOver
    private var processes: [Side: SimulatedQEMU] = [:]
    private var monitors: [Side: SimulatedMonitor] = [:]
    private var isConnecting: [Side: Bool] = [:]
    /// Whose end was told.
    private var toldExits: [Side] = []
    private var isPreparing = false
    private var isClosed = false

    init(_ guest: SimulatedGuest, _ entry: AcceptedStep.Guest, _ carrier: HoldCarrier) {
        self.guest = guest
        self.entry = entry
        self.carrier = carrier
        newNumber = entry.oldGeneration + 1
        handOver = HandOver(budget: carrier.machine.budget)
    }

    var id: GuestID { guest.id }
    func qemu(_ side: Side) -> SimulatedQEMU? { processes[side] }
    private var process: SimulatedProcess { carrier.process }

    /// From the processes themselves, never from a journal.
    func find() {
        for qemu in guest.processes where !qemu.hasExited {
            if qemu.generation == entry.oldGeneration { take(qemu, .old) }
            if qemu.generation == newNumber { take(qemu, .new) }
        }
    }

    private func take(_ qemu: SimulatedQEMU, _ side: Side) {
        processes[side] = qemu
        qemu.whenItExits(process) { [self] in
            toldExits.append(side)
            input(.exited(side, lastWords: ""))
        }
    }

    func close() {
        isClosed = true
        for side in Side.allCases { monitors[side]?.close() }
        monitors = [:]
    }

    // MARK: The hand-over

    func input(_ input: HandOver.Input) {
        guard !isClosed, process.isAlive else { return }
        carrier.agent.world.trace(carrier.host.id.rawValue, "guest \(id) hand-over: \(input)")
        for output in handOver.handle(input, at: carrier.now, wall: carrier.wall) {
            guard process.isAlive else { return }
            carryOut(output)
        }
    }

    private func carryOut(_ output: HandOver.Output) {
        switch output {
        case .event(let event): carrier.feed(.guest(id, event))
        case .send(let request, let side, let limit): send(request, side, limit)
        case .wake(let side): if processes[side]?.isHung == true { processes[side]?.goOn() }
        case .kill(let side):
            processes[side]?.kill()
            input(.killed(side, problem: nil))
        case .handPidOver: break
        case .setTimer(let timer, let delay):
            process.run(after: delay.microseconds) { [self] in input(.timerFired(timer)) }
        case .reached(let point): _ = process.edge(point)
        }
    }

    private func send(_ request: MonitorRequest, _ side: Side, _ limit: Duration?) {
        guard let monitor = monitors[side] else {
            return input(.replied(request, side, .ended("not connected")))
        }
        monitor.ask(request, limit: limit?.microseconds) { [self] reply in
            input(.replied(request, side, reply))
        }
    }

    // MARK: From the machine

    func kill(_ side: Side) {
        input(
            .kill(
                side, isOldAlive: processes[.old] != nil && !toldExits.contains(.old),
                isNewEnding: processes[.new]?.isAlive != true))
    }

    func continueGuest(_ side: Side) {
        let reach: HandOver.Reach =
            processes[side] == nil
            ? .absent : (monitors[side] == nil ? .disconnected : .connected)
        input(.continueGuest(side, reach))
    }

    // MARK: Monitors

    func connectAll() { for side in Side.allCases { connect(side) } }

    private func connect(_ side: Side) {
        guard let qemu = processes[side], monitors[side] == nil, isConnecting[side] != true,
            !isClosed, !qemu.hasExited
        else { return }
        isConnecting[side] = true
        SimulatedMonitor.connect(process, to: qemu, limit: 2_000_000, carrier.fork()) {
            [self] monitor in
            isConnecting[side] = false
            guard let monitor, !isClosed else {
                monitor?.close()
                return process.run(after: 20_000) { [self] in connect(side) }
            }
            monitors[side] = monitor
            monitor.onEvent = { [self] in input(.event($0.word, side, stamp: $1)) }
            monitor.onEnd = { [self] in
                monitors[side] = nil
                process.run(after: 20_000) { [self] in connect(side) }
            }
            if side == .new { configureNew() }
            input(.connected(side))
        }
    }

    // MARK: Preparing

    func prepare(_ chance: Chance, fails: Bool) {
        guard let old = processes[.old], monitors[.old] != nil, !fails else {
            return carrier.feed(.guest(id, .prepareFailed(reason: "it cannot be started")))
        }
        var chance = chance
        isPreparing = true
        let new = SimulatedQEMU(
            guest, generation: newNumber, version: carrier.directive.release.version,
            isWaiting: true, chance.fork())
        carrier.agent.prepareFate(new)
        let (faults, directive) = (carrier.agent.world.faults, carrier.directive)
        new.lingers = { faults?.lingers(directive) }
        old.successor = new
        take(new, .new)
        process.run(after: chance.longTailed(20_000, doublings: 4)) { [self] in connect(.new) }
    }

    private func configureNew() {
        guard isPreparing, let new = monitors[.new] else { return }
        new.send(.prepareIncoming, limit: nil) { [self] result in
            guard isPreparing else { return }
            isPreparing = false
            if case .failure = result {
                carrier.feed(.guest(id, .prepareFailed(reason: "migrate-incoming was refused")))
            } else {
                carrier.feed(.guest(id, .prepared))
            }
        }
    }
}

extension QEMUEvent {
    var word: MonitorEvent {
        switch self {
        case .stopped: .stop
        case .resumed: .resume
        case .migrationCompleted: .migration(.completed)
        case .migrationFailed: .migration(.failed)
        }
    }
}

extension MigrationState {
    var status: MoveStatus {
        switch self {
        case .none: .notBegun
        case .active: .underWay("active")
        case .completed: .completed
        case .failed: .failed
        }
    }
}
