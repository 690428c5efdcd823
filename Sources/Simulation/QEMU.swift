// A guest and its QEMU processes, as they are and not as anybody believes them to be.
//
// What is modelled is what a hold depends on, as it was measured on QEMU 7.2 (see AgentShell's HoldRunner):
//   migrate     stops the guest once its set-up is done; the state arrives; both say completed. One that fails
//               continues its guest by itself; the new one ends. The device state is worth nothing once the
//               old one has executed again.
//   cont        needs the disk lock, which goes with the state and with a process's end; in
//               `finish-migrate` QEMU 7.2 ends with abort().
//   SIGKILL     nothing executes from that moment; the process is gone, with its lock, some time later.
//   a process that hangs answers nothing until it goes on; its monitor queues what it was sent.
// Memory is shared: whoever executes changes it for both.

import AgentCore
import Fleet

/// How a hand-over goes, chosen by the run before it begins.
enum HandOverFate: Equatable {
    case completes(after: Int64)
    /// The old QEMU says so and continues its guest; the new one ends.
    case fails(after: Int64)
    /// The new one has all; the old one does not hear of it and continues its guest.
    case splits(after: Int64)
    case hangs
}

enum QEMUCommand: Equatable {
    case prepareIncoming
    case migrate
    case queryMigrate
    case queryStatus
    case cont
    case stop
}

enum QEMUReply: Equatable {
    case done
    case status(runstate: String, isExecuting: Bool)
    case migration(MigrationState)
    case refused(String)
}

enum MigrationState: Equatable { case none, active, completed, failed }

enum QEMUEvent: Equatable {
    case stopped, resumed, migrationCompleted, migrationFailed
}

/// One virtual machine.
final class SimulatedGuest {
    let id: GuestID
    let set: SetID?
    /// As its host's file says; nil lets the leader choose.
    let namedDomain: UpdateDomain?
    let place: Place
    /// In the order of their start; those that have not ended.
    var processes: [SimulatedQEMU] = []
    var lock: SimulatedQEMU?
    /// Each start from nothing is another one: invariant 4.
    var bootCount = 0
    /// Grows whenever it executes again: what a device state of before is worth nothing for.
    var runCount = 0
    /// On the hold clock; nil while it executes.
    private(set) var stoppedAt: Int64?
    private(set) var executing: SimulatedQEMU?
    /// What went on: told at each change of who executes it.
    var onChange: (SimulatedGuest, Change) -> Void = { _, _ in }
    /// Its own agent answers, and says it is well.
    var isWell = true
    var hasGuestAgent = true

    enum Change: Equatable {
        case stopped(by: SimulatedQEMU.StopCause)
        case resumed(after: Int64)
        /// Two processes execute it.
        case doubled
        /// A process is continued while another one lives that could be, too.
        case unsettled
        /// It goes on with a state that is not its own.
        case corrupted
        /// It began from nothing.
        case booted
        /// No process of it is left.
        case gone
        /// A process of it hangs, or goes on.
        case answersOrNot
    }

    init(_ id: GuestID, set: SetID?, domain: UpdateDomain?, at place: Place) {
        self.id = id
        self.set = set
        namedDomain = domain
        self.place = place
    }

    var isExecuting: Bool { executing != nil }

    fileprivate func begins(_ process: SimulatedQEMU) {
        if let executing, executing !== process, executing.isAlive {
            onChange(self, .doubled)
        }
        executing = process
        runCount += 1
        let stopped = stoppedAt
        stoppedAt = nil
        onChange(self, .resumed(after: stopped.map { place.holdMicroseconds - $0 } ?? 0))
    }

    fileprivate func lookWhoIsLeft() {
        if !processes.contains(where: \.isAlive) { onChange(self, .gone) }
    }

    fileprivate func ends(_ process: SimulatedQEMU, _ cause: SimulatedQEMU.StopCause) {
        guard executing === process else { return }
        executing = nil
        stoppedAt = place.holdMicroseconds
        onChange(self, .stopped(by: cause))
    }
}

final class SimulatedQEMU {
    enum StopCause: Equatable {
        /// `stop`, or the stop that is part of `migrate`.
        case command
        /// It was killed, has crashed, or its host lost power.
        case death
    }

    let guest: SimulatedGuest
    let generation: Int
    let version: String
    private(set) var isAlive = true
    /// It is gone, with its lock and its sockets.
    private(set) var hasExited = false
    private(set) var runstate: String
    private(set) var migration = MigrationState.none
    /// Counts its migrations: what an earlier one had planned is nothing any more.
    private var moveNumber = 0
    /// Of the device state that it has; nil if it has none.
    private var stateOfRun: Int?
    private(set) var isHung = false
    private var whileHung: [() -> Void] = []
    private var monitors: [SimulatedMonitor] = []
    private var onExit: [() -> Void] = []
    private unowned let timeline: Timeline
    private var chance: Chance
    /// Decided by the run when the move begins.
    var fate: () -> HandOverFate = { .completes(after: 20_000) }
    /// How long after its end it is gone, if that is out of the ordinary.
    var lingers: () -> Int64? = { nil }
    /// The process that waits for this one's state.
    weak var successor: SimulatedQEMU? {
        didSet { successor?.predecessor = self }
    }
    private weak var predecessor: SimulatedQEMU?

    /// - Parameter isWaiting: for a state to come; otherwise it boots its guest.
    init(
        _ guest: SimulatedGuest, generation: Int, version: String, isWaiting: Bool, _ chance: Chance
    ) {
        self.guest = guest
        self.generation = generation
        self.version = version
        self.chance = chance
        timeline = guest.place.timeline
        runstate = isWaiting ? "inmigrate" : "running"
        guest.processes.append(self)
        guard !isWaiting else { return }
        guest.bootCount += 1
        guest.lock = self
        guest.onChange(guest, .booted)
        guest.begins(self)
    }

    var isExecuting: Bool { isAlive && runstate == "running" }
    /// It has all of its guest, as it was last: it could be continued.
    var isWhole: Bool { isAlive && stateOfRun == guest.runCount }

    // MARK: Life

    func whenItExits(_ process: SimulatedProcess, _ body: @escaping () -> Void) {
        if hasExited { return process.run(body) }
        onExit.append { process.run(body) }
    }

    /// SIGKILL, a crash: its code runs no more.
    func kill(exitsAfter: Int64? = nil) {
        guard isAlive else { return }
        isAlive = false
        guest.ends(self, .death)
        guest.lookWhoIsLeft()
        predecessor?.lostSuccessor()
        let delay = exitsAfter ?? lingers() ?? chance.longTailed(2_000, doublings: 8)
        timeline.after(delay) { [self] in exit() }
    }

    /// The host's power has gone.
    func vanish() {
        isAlive = false
        guest.ends(self, .death)
        exit()
    }

    private func exit() {
        guard !hasExited else { return }
        hasExited = true
        guest.processes.removeAll { $0 === self }
        if guest.lock === self { guest.lock = nil }
        let bodies = onExit
        onExit = []
        for monitor in monitors { monitor.breakOff() }
        monitors = []
        for body in bodies { body() }
    }

    func hang() {
        isHung = true
        guest.onChange(guest, .answersOrNot)
    }

    func goOn() {
        isHung = false
        guest.onChange(guest, .answersOrNot)
        let bodies = whileHung
        whileHung = []
        // One of them may be its end.
        for body in bodies where isAlive { body() }
    }

    /// Something it does by itself, or when it hangs, later.
    private func act(_ body: @escaping () -> Void) {
        guard isAlive else { return }
        if isHung { whileHung.append(body) } else { body() }
    }

    // MARK: Monitor

    fileprivate func connect(_ monitor: SimulatedMonitor) { monitors.append(monitor) }
    fileprivate func forget(_ monitor: SimulatedMonitor) { monitors.removeAll { $0 === monitor } }

    fileprivate func take(_ command: QEMUCommand, _ answer: @escaping (QEMUReply) -> Void) {
        act { [self] in answer(carryOut(command)) }
    }

    private func tell(_ event: QEMUEvent) { for monitor in monitors { monitor.heard(event) } }

    private func carryOut(_ command: QEMUCommand) -> QEMUReply {
        switch command {
        case .queryStatus: return .status(runstate: runstate, isExecuting: isExecuting)
        case .queryMigrate: return .migration(migration)
        case .prepareIncoming:
            return runstate == "inmigrate" ? .done : .refused("it waits for no state")
        case .stop:
            if runstate == "running" { pause("paused") }
            return .done
        case .cont: return cont()
        case .migrate:
            guard runstate == "running" || runstate == "paused", migration != .active else {
                return .refused("it cannot migrate in runstate \(runstate)")
            }
            migration = .active
            moveNumber += 1
            let number = moveNumber
            timeline.after(chance.within(3_000...8_000)) { [self] in
                act { [self] in if number == moveNumber { startMove() } }
            }
            return .done
        }
    }

    private func pause(_ state: String) {
        runstate = state
        stateOfRun = guest.runCount
        guest.ends(self, .command)
        tell(.stopped)
    }

    private func cont() -> QEMUReply {
        switch runstate {
        case "running": return .done
        case "finish-migrate":
            // QEMU 7.2 asserts that nobody executes when its migration ends.
            kill()
            return .refused("it has aborted")
        case "inmigrate": return .refused("it waits for its state")
        default: break
        }
        guard guest.lock == nil || guest.lock === self else {
            return .refused("Failed to get \"write\" lock")
        }
        guest.lock = self
        if guest.processes.contains(where: { $0 !== self && $0.isAlive }) {
            guest.onChange(guest, .unsettled)
        }
        if let stateOfRun, stateOfRun != guest.runCount { guest.onChange(guest, .corrupted) }
        stateOfRun = nil
        runstate = "running"
        guest.begins(self)
        tell(.resumed)
        return .done
    }

    // MARK: Handing over

    /// Its connection to the other side breaks; what was not complete has failed.
    private func lostSuccessor() {
        let number = moveNumber
        timeline.after(chance.longTailed(1_000, doublings: 5)) { [self] in
            guard migration == .active, number == moveNumber else { return }
            act { [self] in fail() }
        }
    }

    private func startMove() {
        guard migration == .active else { return }
        if runstate == "running" { pause("finish-migrate") } else { runstate = "finish-migrate" }
        let state = guest.runCount
        let number = moveNumber
        switch fate() {
        case .completes(let after):
            timeline.after(after) { [self] in
                act { [self] in if number == moveNumber { complete(state) } }
            }
        case .fails(let after):
            timeline.after(after) { [self] in
                guard number == moveNumber else { return }
                successor?.kill()
                act { [self] in fail() }
            }
        case .splits(let after):
            timeline.after(after) { [self] in
                guard number == moveNumber, migration == .active else { return }
                guest.lock = nil
                successor?.receive(state)
                act { [self] in fail() }
            }
        case .hangs: break
        }
    }

    private func complete(_ state: Int) {
        guard migration == .active else { return }
        guard let successor, successor.isAlive, successor.runstate == "inmigrate" else {
            return fail()
        }
        // Its images are let go of before the other side takes them.
        guest.lock = nil
        migration = .completed
        successor.receive(state)
        timeline.after(chance.longTailed(500, doublings: 4)) { [self] in
            act { [self] in
                guard migration == .completed, runstate == "finish-migrate" else { return }
                runstate = "postmigrate"
                tell(.migrationCompleted)
            }
        }
    }

    /// It has taken in a whole state and waits to be continued.
    private func receive(_ state: Int) {
        act { [self] in
            guard runstate == "inmigrate" else { return }
            stateOfRun = state
            runstate = "paused"
            migration = .completed
            guest.lock = self
            timeline.after(chance.longTailed(500, doublings: 4)) { [self] in
                act { [self] in tell(.migrationCompleted) }
            }
        }
    }

    private func fail() {
        guard migration == .active || migration == .completed, isAlive else { return }
        migration = .failed
        tell(.migrationFailed)
        guard runstate == "finish-migrate" else { return }
        // It takes its images back and goes on by itself.
        guest.lock = self
        runstate = "running"
        guest.begins(self)
        tell(.resumed)
    }
}

/// A connection to a QEMU's monitor, of one process.
final class SimulatedMonitor {
    enum Failure: Error { case refused(String), ended }

    let process: SimulatedProcess
    let qemu: SimulatedQEMU
    /// With QEMU's own stamp: its host's wall clock, in microseconds.
    var onEvent: (QEMUEvent, Int64) -> Void = { _, _ in }
    var onEnd: () -> Void = {}
    private var chance: Chance
    private var isOver = false
    private var waiting: [Int: (Result<QEMUReply, Failure>) -> Void] = [:]
    private var lastNumber = 0
    /// What comes from QEMU comes in order, and so does what goes to it.
    private var lastArrival: Int64 = 0
    private var lastDeparture: Int64 = 0

    private init(_ process: SimulatedProcess, _ qemu: SimulatedQEMU, _ chance: Chance) {
        self.process = process
        self.qemu = qemu
        self.chance = chance
        process.whenItDies { [weak self] _ in self?.close() }
    }

    /// - Parameter completion: called once in a later turn, unless the process dies: nil if it has
    ///   ended or hangs for longer than the limit.
    static func connect(
        _ process: SimulatedProcess, to qemu: SimulatedQEMU, limit: Int64, _ chance: Chance,
        _ completion: @escaping (SimulatedMonitor?) -> Void
    ) {
        var once: ((SimulatedMonitor?) -> Void)? = completion
        let finish = { (monitor: SimulatedMonitor?) in
            let body = once
            once = nil
            if let body { body(monitor) } else { monitor?.close() }
        }
        guard !qemu.hasExited else { return process.run { finish(nil) } }
        process.run(after: limit) { finish(nil) }
        let monitor = SimulatedMonitor(process, qemu, chance)
        // The greeting comes from the process itself.
        process.timeline.after(300) {
            qemu.take(.queryStatus) { _ in
                guard process.isAlive else { return }
                qemu.connect(monitor)
                process.run { finish(monitor) }
            }
        }
    }

    private func deliver(_ body: @escaping () -> Void) {
        lastArrival = max(lastArrival, process.timeline.now + chance.longTailed(60, doublings: 3))
        process.run(after: lastArrival - process.timeline.now) { [weak self] in
            if self?.isOver == false { body() }
        }
    }

    /// - Parameter limit: after so long without a reply the connection counts as hung, and ends.
    func send(
        _ command: QEMUCommand, limit: Int64?,
        _ completion: @escaping (Result<QEMUReply, Failure>) -> Void
    ) {
        guard !isOver, process.edge("monitor") else { return completion(.failure(.ended)) }
        lastNumber += 1
        let number = lastNumber
        waiting[number] = completion
        // Written is written: it is carried out although its sender dies.
        lastDeparture = max(
            lastDeparture, process.timeline.now + chance.longTailed(40, doublings: 3))
        process.timeline.after(lastDeparture - process.timeline.now) { [weak self, qemu] in
            qemu.take(command) { reply in
                self?.deliver { [weak self] in
                    guard let body = self?.waiting.removeValue(forKey: number) else { return }
                    if case .refused(let reason) = reply {
                        body(.failure(.refused(reason)))
                    } else {
                        body(.success(reply))
                    }
                }
            }
        }
        guard let limit else { return }
        process.run(after: limit) { [weak self, process] in
            // As AgentShell's Monitor does it: what has come meanwhile is read first.
            guard self?.waiting[number] != nil else { return }
            process.run(after: 1_000) {
                if self?.waiting[number] != nil { self?.end() }
            }
        }
    }

    fileprivate func heard(_ event: QEMUEvent) {
        let stamp = qemu.guest.place.wallMicroseconds
        deliver { [weak self] in self?.onEvent(event, stamp) }
    }

    fileprivate func breakOff() { process.run { [weak self] in self?.end() } }

    private func end() {
        guard !isOver else { return }
        isOver = true
        qemu.forget(self)
        let bodies = waiting.sorted { $0.key < $1.key }
        waiting = [:]
        for (_, body) in bodies { body(.failure(.ended)) }
        let body = onEnd
        close()
        body()
    }

    func close() {
        isOver = true
        qemu.forget(self)
        onEvent = { _, _ in }
        onEnd = {}
        waiting = [:]
    }
}
