// The guard: a small process that continues the guests of one step when the agent cannot.
//
// Happy path: the agent names the processes, the guard opens a pidfd and a monitor connection of
// its own to each, answers `armed`, listens, and ends at `disarm`.
// When the channel ends, or a hold comes near its deadline: what GuardMachine says, through the
// pidfds and connections that are open already. What it did goes, afterwards, into guard.notes
// for the restarted agent, which waits for the guard's lock before it looks at any guest.
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
        init(_ guest: GuestID, old: WatchedSide, new: WatchedSide) {
            self.guest = guest
            sides = [.old: old, .new: new]
        }
    }

    private final class WatchedSide {
        let process: ProcessReference
        let path: String
        let queues = TapQueues()
        var monitor: Monitor?
        /// The guard has sent `cont`; since when, on the hold clock.
        var continuedAt: Int64?
        var stoppedAt: Int64?
        var resumed: EventTime?
        init(_ process: ProcessReference, path: String) {
            self.process = process
            self.path = path
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
    private var lock: FileLock?
    private var timer: (timer: Timer, at: Int64)?
    private var isDraining = false
    private var events: [GuardMachine.Event] = []

    /// What the restarted agent is to read, not yet in the file.
    private var unwritten: [HoldNote] = []

    private static let lingerMilliseconds: Int64 = 300
    private static let writeDelayMilliseconds: Int64 = 50

    init(_ descriptor: Int32, on loop: Loop) throws(UvError) {
        self.loop = loop
        stream = try SocketStream.adopt(descriptor: descriptor, on: loop)
        stream.onBytes = { [self] bytes in for line in lines.append(bytes) { receive(line) } }
        stream.onEnd = { [self] _ in
            guard machine != nil else { return loop.stop() }
            feedExits()
            feed(machine?.isKillingAgent == true ? .agentEnded : .channelClosed)
        }
    }

    private var notes: StepNotes {
        StepNotes(path: HostPaths(run: run, state: "", memory: "").guardNotes)
    }

    /// A guest is continued first: a disk that is full or hangs must not be in its way.
    private func writeLater(_ note: HoldNote) {
        unwritten.append(note)
        guard unwritten.count == 1 else { return }
        loop.after(.milliseconds(Self.writeDelayMilliseconds)) { [self] in writeNotes() }
    }

    private func writeNotes() {
        for note in unwritten { notes.append(note) }
        unwritten = []
    }

    private func receive(_ line: String) {
        let fields = GuardLine.fields(line)
        switch fields[0] {
        case "begin": begin(fields)
        case "guest": watch(fields)
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
        guard fields.count == 6, let guest = GuestID(fields[1]) else {
            return fail("a guest's line cannot be read")
        }
        do {
            let old = try side(guest, pid: fields[2], generation: fields[3])
            let new = try side(guest, pid: fields[4], generation: fields[5])
            watched.append(Watched(guest, old: old, new: new))
        } catch { fail("\(guest): \(error)") }
    }

    private func side(
        _ guest: GuestID, pid: String, generation: String
    ) throws(AgentError) -> WatchedSide {
        do {
            guard let pid = Int32(pid), let generation = Int(generation) else {
                throw AgentError.hypervisor(reason: "a process's line cannot be read")
            }
            let process = try ProcessReference(pid: pid)
            guard let label = ProcessLabel(pid: pid), label.run == run, label.guest == guest,
                label.generation == generation
            else { throw AgentError.hypervisor(reason: "process \(pid) is not its QEMU") }
            let paths = HostPaths(run: run, state: "", memory: "").generation(guest, generation)
            let side = WatchedSide(process, path: paths.guardMonitor)
            try side.queues.copy(from: process, label.tapNumbers)
            return side
        } catch let error as AgentError {
            throw error
        } catch { throw .hypervisor(reason: "\(error)") }
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
        var missing = watched.count * 2
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
        machine = GuardMachine(guests: watched.map(\.guest), budget: budget)
        stream.write(Array("armed\n".utf8))
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
        Monitor.connect(path: place.path, on: loop, timeout: .seconds(2)) { [self] result in
            switch result {
            case .failure(let failure): completion(failure)
            case .success(let monitor):
                place.monitor = monitor
                monitor.onEnd = { _ in place.monitor = nil }
                monitor.onEvent = { [self] in onEvent($0, entry, side) }
                completion(nil)
            }
        }
    }

    private func onEvent(_ event: Event, _ entry: Watched, _ side: Side) {
        guard let place = entry.sides[side] else { return }
        switch event.kind {
        case .resume:
            // An old one whose migration failed continues by itself.
            guard let since = place.continuedAt ?? place.stoppedAt else { break }
            place.resumed = EventTime(event, notBefore: since)
        case .stop where place.continuedAt == nil:
            place.stoppedAt = HoldClock.nowMicroseconds
            place.resumed = nil
        case .stop:
            // A `stop` of the dead agent that was still on its way, behind our `cont`.
            place.monitor?.send(.cont) { _ in }
        default: break
        }
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

    /// Who is to be killed depends on who lives, and a notice of an end may still be on its way.
    private func feedExits() {
        for entry in watched {
            for side in Side.allCases where entry.sides[side]?.process.hasExited == true {
                feed(.exited(entry.guest, side))
            }
        }
    }

    private func carryOut(_ effect: GuardMachine.Effect) {
        switch effect {
        case .setTimer(let at): setTimer(at)
        case .killAgent: killAgent()
        case .kill(let guest, let side):
            try? place(guest, side)?.process.send(signal: 9)
            feed(.killed(guest, side))
        case .switchQueues(let guest, let side):
            try? place(guest, side)?.queues.setAttached(true)
            try? place(guest, side.other)?.queues.setAttached(false)
        case .continueGuest(let guest, let side): continueGuest(guest, side)
        case .note(let note): writeLater(note)
        case .finish:
            writeNotes()
            exitCode = 0
            let linger = machine?.wasDisarmed == true ? 0 : Self.lingerMilliseconds
            loop.after(.milliseconds(linger)) { [self] in
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
            timer.timer.cancel()
        }
        let delay = Duration.microseconds(max(0, at - HoldClock.nowMicroseconds))
        let started = loop.after(delay) { [self] in
            timer = nil
            feed(.timerFired)
        }
        timer = (started, at)
    }

    private func killAgent() {
        guard let agent else { return }
        try? agent.send(signal: 9)
        // Its last lines are read first: the end of the channel comes behind them.
        try? agent.onExit(on: loop) { [self] in
            loop.after(.milliseconds(100)) { [self] in feed(.agentEnded) }
        }
        loop.after(.milliseconds(300)) { [self] in feed(.agentEnded) }
    }

    private func continueGuest(_ guest: GuestID, _ side: Side) {
        guard let entry = watched.first(where: { $0.guest == guest }),
            let place = entry.sides[side]
        else { return }
        guard let monitor = place.monitor else {
            connect(entry, side) { [self] failure in
                if failure != nil {
                    feed(.continueFailed(guest, side))
                } else {
                    continueGuest(guest, side)
                }
            }
            return
        }
        if place.continuedAt == nil { place.continuedAt = HoldClock.nowMicroseconds }
        guard side == .old else { return cont(guest, side, monitor, place) }
        monitor.isReadyToContinue { [self] problem in
            if problem != nil {
                feed(.continueFailed(guest, side))
            } else {
                cont(guest, side, monitor, place)
            }
        }
    }

    private func cont(_ guest: GuestID, _ side: Side, _ monitor: Monitor, _ place: WatchedSide) {
        monitor.send([.cont, .queryStatus]) { [self] index, result in
            guard index == 1 else { return }
            if case .success(let value) = result, StatusReply(value)?.running == true {
                let at = place.resumed?.hold ?? HoldClock.nowMicroseconds
                feed(.continued(guest, side, at: at, wasHeld: place.resumed != nil))
            } else {
                feed(.continueFailed(guest, side))
            }
        }
    }
}
