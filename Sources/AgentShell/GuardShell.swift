// The guard: a small process that continues the guests of one step when the agent cannot.
//
// Happy path: the agent names the processes, the guard opens a pidfd and a monitor connection of
// its own to each, answers `armed`, listens, and ends at `disarm`.
// When the channel ends, or a hold comes near its deadline: what GuardMachine says, through the
// pidfds and connections that are open already. What it did goes into guard.notes for the
// restarted agent, which waits for the guard's lock before it looks at any guest.
// A QEMU that somebody else has started has one monitor, which the agent is connected to: the guard's
// connection waits in the socket's queue, and its turn comes when the agent's ends.
// Failure modes: it cannot arm: `failed`, and nothing is held. A monitor does not answer: connected
// again and tried again, until it works or the process has ended.

internal import AgentCore
internal import Fleet
internal import QMP
internal import UvLoop

public enum GuardShell {
    /// Runs a guard to its end.
    ///
    /// - Parameter channelDescriptor: a connected stream socket to the agent.
    /// - Returns: the exit code: 0, or 70 if it could not begin.
    public static func run(channelDescriptor: Int32 = 3) -> Int32 {
        do {
            let loop = try Loop()
            let process = try GuardProcess(channelDescriptor, on: loop)
            // Whoever ends the agent politely must not end the guard with it.
            for signal: Int32 in [1, 2, 15] { loop.onSignal(signal) {} }
            loop.run()
            return process.exitCode
        } catch { return 70 }
    }
}

final class GuardProcess {
    private final class Watched {
        let guest: GuestID
        let sides: [Side: WatchedSide]
        init(_ guest: GuestID, old: WatchedSide, new: WatchedSide?) {
            self.guest = guest
            sides = new.map { [.old: old, .new: $0] } ?? [.old: old]
        }
    }

    private final class WatchedSide {
        let process: ProcessReference
        let path: String
        /// Where the agent was connected: the way in when our own connection hangs.
        let agentsPath: String
        var triesAgentsMonitor = false
        let queues = TapQueues()
        var monitor: Monitor?
        var isQueued = false
        var guarded: GuardedSide
        /// The guard's connection waits for the agent's to end.
        var isShared: Bool { path == agentsPath }
        init(_ process: ProcessReference, _ paths: GenerationPaths, _ guarded: GuardedSide) {
            self.process = process
            self.guarded = guarded
            path = paths.guardMonitor
            agentsPath = paths.monitor
        }
    }

    private(set) var exitCode: Int32 = 70
    private let loop: Loop
    private let stream: SocketStream
    private var lines = LineBuffer()
    private var machine: GuardMachine?
    private var budget = HoldBudget(deadlineMilliseconds: Limits.deadlineMillisecondsMax)
    private var agent: ProcessReference?
    private var run = ""
    private var watched: [Watched] = []
    private var foreign: [Int32: GuardLine.Foreign] = [:]
    private var groups: [CommandKind: ProcessGroup] = [:]
    private var lock: FileLock?
    /// Of this step, also when the next one has begun another file by that name.
    private var notes: AppendFile?
    private var lingerNumber = 0
    private var timer: HoldClockTimer?
    private var isDraining = false
    private var events: [GuardMachine.Event] = []

    private static let lingerMilliseconds: Int64 = 300

    init(_ descriptor: Int32, on loop: Loop) throws(UvError) {
        self.loop = loop
        stream = try SocketStream.adopt(descriptor: descriptor, on: loop)
        stream.onBytes = { [self] bytes in for line in lines.append(bytes) { receive(line) } }
        stream.onEnd = { [self] _ in
            guard machine != nil else { return loop.stop() }
            lookAtProcesses()
            feed(machine?.isKillingAgent == true ? .agentEnded : .channelClosed)
        }
    }

    private func receive(_ line: String) {
        let fields = GuardLine.fields(line)
        switch fields[0] {
        case "begin": begin(fields)
        case "foreign":
            if let process = GuardLine.Foreign(fields) { foreign[process.pid] = process }
        case "guest" where fields.count == 6, "alone" where fields.count == 4: watch(fields)
        case "group":
            guard fields.count == 3, let kind = CommandKind(rawValue: fields[1]) else { break }
            groups[kind] = ProcessGroup(text: fields[2])
        case "arm": arm(triesLeft: 100)
        default: if let message = GuardLine.decode(fields) { feed(.message(message)) }
        }
    }

    private func begin(_ fields: [String]) {
        guard fields.count == 6, let milliseconds = UInt32(fields[1]), let pid = Int32(fields[2]),
            let agent = try? ProcessReference(pid: pid)
        else { return fail("the agent's first line cannot be read") }
        budget = HoldBudget(deadlineMilliseconds: milliseconds)
        self.agent = agent
        run = fields[3]
    }

    private func watch(_ fields: [String]) {
        guard let guest = GuestID(fields[1]) else { return fail("a guest's line cannot be read") }
        do {
            let old = try side(
                GuardedSide(guest, .old, budget: budget), pid: fields[2], generation: fields[3])
            let new =
                fields.count == 6
                ? try side(
                    GuardedSide(guest, .new, budget: budget), pid: fields[4], generation: fields[5])
                : nil
            watched.append(Watched(guest, old: old, new: new))
        } catch { fail("\(guest): \(error)") }
    }

    private func side(
        _ guarded: GuardedSide, pid: String, generation: String
    ) throws(AgentError) -> WatchedSide {
        do {
            guard let pid = Int32(pid), let generation = Int(generation) else {
                throw AgentError.hypervisor(reason: "a process's line cannot be read")
            }
            let process = try ProcessReference(pid: pid)
            if generation == ProcessLabel.foreignGeneration {
                return try foreignSide(process, guarded)
            }
            guard let label = try ProcessLabel(pid: pid, run: run),
                label.guest == guarded.guest, label.generation == generation
            else { throw AgentError.hypervisor(reason: "process \(pid) is not its QEMU") }
            let paths = HostPaths(run: run, state: "", memory: "")
                .generation(guarded.guest, generation)
            let side = WatchedSide(process, paths, guarded)
            try side.queues.copy(from: process, label.tapNumbers)
            return side
        } catch let error as AgentError {
            throw error
        } catch { throw .hypervisor(reason: "\(error)") }
    }

    private func foreignSide(
        _ process: ProcessReference, _ guarded: GuardedSide
    ) throws -> WatchedSide {
        guard let known = foreign[process.pid],
            known.startTime == ForeignProcess.startTime(process.pid)
        else { throw AgentError.hypervisor(reason: "process \(process.pid) is not its QEMU") }
        let side = WatchedSide(
            process, GenerationPaths(directory: "", onlyMonitor: known.monitor), guarded)
        try side.queues.copy(from: process, known.tapNumbers)
        return side
    }

    private func arm(triesLeft: Int) {
        guard exitCode == 70, machine == nil, let agent, !watched.isEmpty else { return }
        do {
            lock = try Files.lock(path: HostPaths(run: run, state: "", memory: "").guardLock)
        } catch {
            guard triesLeft > 0 else { return fail("an earlier guard is still at work") }
            loop.after(.milliseconds(20)) { [self] in arm(triesLeft: triesLeft - 1) }
            return
        }
        _ = agent
        notes = try? AppendFile(path: HostPaths(run: run, state: "", memory: "").guardNotes)
        var missing = watched.reduce(0) { $0 + $1.sides.count }
        for entry in watched {
            for side in Side.allCases {
                guard let place = entry.sides[side] else { continue }
                connect(entry, side) { [self] failure in
                    if let failure { return fail("\(entry.guest), \(side) QEMU: \(failure)") }
                    missing -= 1
                    if missing == 0 { armed() }
                }
                try? place.process.onExit(on: loop) { [self] in feed(.exited(entry.guest, side)) }
            }
        }
    }

    private func armed() {
        machine = GuardMachine(
            guests: watched.map(\.guest), budget: budget,
            isOfWholeHost: watched.allSatisfy { $0.sides[.new] == nil })
        rehearse()
        Scheduling.keepInMemory()
        // It sleeps; when it does not, a busy host must not make a held guest wait.
        Scheduling.prefer(0)
        stream.write(Array("armed\n".utf8))
    }

    /// Runs through what acting needs, on a copy, so that its code is in RAM and its first time has
    /// been: from here on nothing waits for a disk.
    private func rehearse() {
        for entry in watched {
            var copy = GuardMachine(guests: [entry.guest], budget: budget)
            _ = copy.handle(.message(.holding(entry.guest, since: 0)), at: 0)
            for event: GuardMachine.Event in [
                .channelClosed, .killed(entry.guest, .new), .exited(entry.guest, .new),
                .continued(entry.guest, .old, at: 0, wasHeld: true),
            ] { _ = copy.handle(event, at: 0) }
            for side in Side.allCases {
                var guarded = entry.sides[side]?.guarded
                for input: GuardedSide.Input in [
                    .continueGuest(isConnected: true), .event(.resume, stamp: 0),
                    .replied(.queryReadiness, .readiness(.ready(isExecuting: false))),
                    .replied(.contAndLook, .executing(true)),
                ] { _ = guarded?.handle(input, at: 0, wall: Timestamp(microseconds: 0)) }
                entry.sides[side]?.monitor?.send(.queryReadiness, limit: .seconds(2)) { _ in }
            }
        }
    }

    private func fail(_ reason: String) {
        guard machine == nil else { return }
        stream.write(Array("failed\t\(reason)\n".utf8))
        stream.closeAfterWriting()
        loop.after(.milliseconds(50)) { [self] in loop.stop() }
    }

    private func connect(
        _ entry: Watched, _ side: Side, _ completion: @escaping (MonitorFailure?) -> Void
    ) {
        guard let place = entry.sides[side] else { return }
        guard !place.isShared else { return queue(entry, side, place, completion) }
        let isArming = machine == nil
        let path = place.triesAgentsMonitor ? place.agentsPath : place.path
        Monitor.connect(
            path: path, on: loop, timeout: isArming ? .seconds(2) : budget.replyLimit
        ) { [self] result in
            switch result {
            case .failure(let failure): completion(failure)
            case .success(let monitor):
                place.monitor = monitor
                monitor.onEnd = { _ in
                    place.monitor = nil
                    // The agent has ended when the guard sends anything, so its place is free.
                    if self.machine != nil { place.triesAgentsMonitor.toggle() }
                }
                monitor.onEvent = { [self] in onEvent($0, entry, side) }
                completion(nil)
            }
        }
    }

    /// Waits behind the agent's connection, again whenever it comes to nothing.
    ///
    /// - Parameter completion: called when it waits, or with why it cannot.
    private func queue(
        _ entry: Watched, _ side: Side, _ place: WatchedSide,
        _ completion: @escaping (MonitorFailure?) -> Void
    ) {
        guard !place.isQueued else {
            return completion(.ended("the agent's connection has not ended yet"))
        }
        place.isQueued = true
        var waits: ((MonitorFailure?) -> Void)? = completion
        let again = { [self] in
            place.isQueued = false
            place.monitor = nil
            loop.after(.milliseconds(20)) { [self] in
                guard machine?.isFinished == false, !place.process.hasExited else { return }
                queue(entry, side, place) { _ in }
            }
        }
        Monitor.connect(
            path: place.path, on: loop, timeout: .seconds(2),
            queued: {
                waits?(nil)
                waits = nil
            },
            completion: { [self] result in
                guard case .success(let monitor) = result else {
                    if case .failure(let failure) = result { waits?(failure) }
                    waits = nil
                    return again()
                }
                place.monitor = monitor
                monitor.onEvent = { [self] in onEvent($0, entry, side) }
                monitor.onEnd = { _ in again() }
                // An agent that only lost its connection gets its turn back.
                loop.after(.milliseconds(200)) { [self] in
                    guard machine?.isWatching == true, place.monitor === monitor else { return }
                    monitor.close()
                    again()
                }
            })
    }

    private func onEvent(_ event: Event, _ entry: Watched, _ side: Side) {
        guard let place = entry.sides[side], let said = MonitorEvent(event) else { return }
        tell(entry, side, place, .event(said, stamp: event.timestampMicroseconds))
    }

    private func feed(_ event: GuardMachine.Event) {
        events.append(event)
        guard !isDraining else { return }
        isDraining = true
        while !events.isEmpty {
            let event = events.removeFirst()
            for effect in machine?.handle(event, at: HoldClock.nowMicroseconds) ?? [] {
                carryOut(effect)
            }
        }
        isDraining = false
    }

    private func carryOut(_ effect: GuardMachine.Effect) {
        switch effect {
        case .setTimer(let at): setTimer(at)
        case .killAgent: killAgent()
        case .killCommand(let kind): groups[kind]?.kill()
        case .kill(let guest, let side):
            feed(
                isKilled(place(guest, side)?.process)
                    ? .killed(guest, side) : .killFailed(guest, side))
        case .switchQueues(let guest, let side):
            try? place(guest, side)?.queues.setAttached(true)
            try? place(guest, side.other)?.queues.setAttached(false)
        case .continueGuest(let guest, let side): continueGuest(guest, side)
        case .note(let note): try? notes?.append(Array((note.line + "\n").utf8))
        case .finish:
            exitCode = 0
            // The agent that preferred them for the hold is no more.
            if machine?.wasDisarmed == false {
                for entry in watched {
                    for side in entry.sides.values {
                        Scheduling.treatAsOthers(side.process.pid)
                    }
                }
            }
            let linger = machine?.wasDisarmed == true ? 0 : Self.lingerMilliseconds
            lingerNumber += 1
            let number = lingerNumber
            loop.after(.milliseconds(linger)) { [self] in
                guard number == lingerNumber, machine?.isFinished == true else { return }
                lock?.release()
                loop.stop()
            }
        }
    }

    private func place(_ guest: GuestID, _ side: Side) -> WatchedSide? {
        watched.first { $0.guest == guest }?.sides[side]
    }

    private func setTimer(_ at: Int64) {
        if let timer {
            guard at < timer.at else { return }
            timer.cancel()
        }
        timer = HoldClockTimer(at: at, on: loop) { [self] in
            timer = nil
            // If this process stood still, what the agent has written meanwhile is read first.
            loop.after(.milliseconds(1)) { [self] in feed(.timerFired) }
        }
    }

    private func killAgent() {
        guard let agent else { return }
        // Its last lines are read first: the end of the channel comes behind them.
        try? agent.onExit(on: loop) { [self] in
            loop.after(.microseconds(budget.lastLinesMicroseconds)) { [self] in agentEnded() }
        }
        // One that cannot be killed is not waited for any longer either: what could run twice is killed.
        loop.after(.microseconds(budget.agentExitMicroseconds)) { [self] in agentEnded() }
        killHung(agent)
    }

    private func killHung(_ agent: ProcessReference) {
        guard machine?.isKillingAgent == true, !isKilled(agent) else { return }
        loop.after(.microseconds(budget.retryMicroseconds)) { [self] in killHung(agent) }
    }

    /// SIGKILL.
    ///
    /// - Returns: whether it was delivered, or there is nothing left that could run.
    private func isKilled(_ process: ProcessReference?) -> Bool {
        do {
            try process?.send(signal: 9)
            return true
        } catch { return error.name == "ESRCH" }
    }

    private func agentEnded() {
        lookAtProcesses()
        feed(.agentEnded)
    }

    /// What has ended may not have been told by the loop yet, and decides who is continued.
    private func lookAtProcesses() {
        for entry in watched {
            for side in Side.allCases where entry.sides[side]?.process.hasExited == true {
                feed(.exited(entry.guest, side))
            }
        }
    }

    private func continueGuest(_ guest: GuestID, _ side: Side) {
        guard let entry = watched.first(where: { $0.guest == guest }),
            let place = entry.sides[side]
        else { return }
        tell(entry, side, place, .continueGuest(isConnected: place.monitor != nil))
    }

    private func tell(
        _ entry: Watched, _ side: Side, _ place: WatchedSide, _ input: GuardedSide.Input
    ) {
        let outputs = place.guarded.handle(
            input, at: HoldClock.nowMicroseconds,
            wall: Timestamp(microseconds: WallClock.nowMicroseconds))
        for output in outputs {
            switch output {
            // Whoever stopped it in its hold (SIGSTOP) did not mean to strand its guest.
            case .wake: try? place.process.send(signal: Scheduling.continueSignal)
            case .connect:
                connect(entry, side) { [self] failure in
                    if failure != nil { place.triesAgentsMonitor.toggle() }
                    tell(
                        entry, side, place,
                        failure == nil
                            ? .continueGuest(isConnected: place.monitor != nil) : .connectFailed)
                }
            case .send(let request, let limit):
                let reply = { [self] in tell(entry, side, place, .replied(request, $0)) }
                guard let monitor = place.monitor else {
                    reply(.ended("not connected"))
                    break
                }
                monitor.send(request, limit: limit, reply)
            case .event(let event): feed(event)
            }
        }
    }
}
