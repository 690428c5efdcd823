// Carries out what the HoldMachine of one step says, on real QEMU processes.
//
// Happy path of a guest, with what is sent to whom:
//   prepare    new QEMU started (`-incoming defer -S`); both: migrate-set-capabilities; new:
//              migrate-incoming unix:…/in; tap queues of both copied
//   guard      started, armed
//   hold       queues switched; old: migrate, which stops the guest once its set-up is done; old
//              says STOP; both say MIGRATION completed; guard told; SIGKILL to old; new: cont;
//              new says RESUME
//   after      durable record of the guest's QEMU; old's directory removed; clock; health
// In the hold nothing is fsynced, nothing waits for a reply that is not needed, and the only file
// writes are short appends in the run directory. What can wait is put off until no guest is held.
//
// Why no `stop` before `migrate`: the set-up, 4 to 8 ms, then counts as hold. Without it a QEMU whose
// migration fails continues its guest by itself, so the new one's word is not enough for a commit:
// it could have the whole state while the old one runs on. Once the old one has said `completed`
// too, it never will.
//
// Failure modes: every one is an input for a guest's HandOver or an event for the HoldMachine, which
// have the tables. Nothing here decides.

internal import AgentCore
internal import Fleet
internal import HostConfiguration
internal import Logging
internal import QMP
internal import UvLoop

final class HoldRunner {
    struct Context {
        var launcher: Launcher
        var guardProgram: GuardProgram
        var loop: Loop
        var logger: Logger
        var pause: TestPause
        var paths: HostPaths { launcher.paths }
    }

    let directive: Directive
    let context: Context
    let guests: [StepGuest]
    var onProgress: ((StepPhase, Timestamp) -> Void)?
    var onFinish: ((StepReport) -> Void)?

    var guardLink: GuardLink?
    private(set) var machine: HoldMachine
    private var timers: [HoldTimer: HoldClockTimer] = [:]
    private var events: [HoldEvent] = []
    private var isDraining = false
    /// What must not be done while a guest is held, such as an fsync.
    private var putOff: [() -> Void] = []
    /// The release's command that runs.
    var command: CommandRun?
    var preparing: [StepGuest] = []
    var preparingCount = 0

    let notes: StepNotes

    init(
        _ machine: HoldMachine, guests: [StepGuest], context: Context
    ) {
        self.machine = machine
        directive = machine.directive
        self.guests = guests
        self.context = context
        notes = StepNotes(path: context.paths.notes)
        for guest in guests {
            if let old = guest.old { watch(old, .old, of: guest) }
            if let new = guest.new { watch(new, .new, of: guest) }
        }
    }

    func start() { feed(.begin) }

    func isHeld(_ id: GuestID) -> Bool { machine.heldGuests.contains(id) }

    // MARK: Events

    func feed(_ event: HoldEvent) {
        events.append(event)
        guard !isDraining else { return }
        isDraining = true
        while !events.isEmpty {
            let event = events.removeFirst()
            let effects = machine.handle(
                event, at: HoldClock.nowMicroseconds,
                wall: Timestamp(microseconds: WallClock.nowMicroseconds))
            for effect in effects { carryOut(effect) }
        }
        isDraining = false
        guard machine.heldGuests.isEmpty else { return }
        let bodies = putOff
        putOff = []
        for body in bodies { body() }
    }

    func feed(_ guest: StepGuest, _ event: GuestEvent) { feed(.guest(guest.id, event)) }

    func watch(_ generation: Generation, _ side: Side, of guest: StepGuest) {
        generation.onStepNotice = { [self] notice in
            switch notice {
            case .connected:
                if side == .new { configureNew(guest) }
                tell(guest, .connected(side))
            case .disconnected: break
            case .event(let event): onEvent(event, side, guest)
            case .exited:
                let said = side == .new ? generation.paths.lastLogLine() : ""
                tell(guest, .exited(side, lastWords: said))
                if side == .new { donePreparing(guest) }
            }
        }
    }

    private func onEvent(_ event: Event, _ side: Side, _ guest: StepGuest) {
        if case (.migration(.failed), .new) = (event.kind, side) {
            tell(guest, .refused(lastWords: guest.new?.paths.lastLogLine() ?? ""))
        } else if let said = MonitorEvent(event) {
            tell(guest, .event(said, side, stamp: event.timestampMicroseconds))
        }
    }

    // MARK: A guest's QEMUs

    /// Gives a guest's ``HandOver`` an input and carries out what it says, in its order.
    func tell(_ guest: StepGuest, _ input: HandOver.Input) {
        let outputs = guest.handOver.handle(
            input, at: HoldClock.nowMicroseconds,
            wall: Timestamp(microseconds: WallClock.nowMicroseconds))
        for output in outputs { carryOut(output, guest) }
    }

    private func carryOut(_ output: HandOver.Output, _ guest: StepGuest) {
        switch output {
        case .event(let event): feed(guest, event)
        case .send(let request, let side, let limit): send(request, to: guest, side, limit)
        case .wake(let side):
            try? guest.generation(side)?.process.send(signal: Scheduling.continueSignal)
        case .kill(let side):
            do {
                try guest.generation(side)?.kill()
                tell(guest, .killed(side, problem: nil))
            } catch { tell(guest, .killed(side, problem: error.description)) }
        case .handPidOver:
            if guest.new?.origin != nil, let old = guest.pid(.old), let new = guest.pid(.new) {
                notes.append(.processes(guest.id, old: old, new: new))
            }
            guest.new?.takePidFile(from: guest.pid(.old))
        case .setTimer(let timer, let delay):
            context.loop.after(delay) { [self] in tell(guest, .timerFired(timer)) }
        case .reached(let point): context.pause.reached(point)
        }
    }

    private func send(
        _ request: MonitorRequest, to guest: StepGuest, _ side: Side, _ limit: Duration?
    ) {
        let reply = { [self] in tell(guest, .replied(request, side, $0)) }
        guard let generation = guest.generation(side) else {
            return reply(.ended("there is no such process"))
        }
        generation.send(request, incoming: guest.new?.paths.incoming ?? "", limit: limit, reply)
    }

    // MARK: Effects

    private func carryOut(_ effect: HoldEffect) {
        switch effect {
        case .verifyArtifact: verifyArtifact()
        case .prepare(let id): with(id) { preparing.append($0) }; prepareNext()
        case .armGuard: DiskFlush.run(guests.map(\.keeper.configuration), context.loop, armGuard)
        case .tellGuard(let message): tellGuard(message)
        case .setTimer(let timer, let at):
            timers.removeValue(forKey: timer)?.cancel()
            setTimer(timer, at)
        case .cancelTimer(let timer): timers.removeValue(forKey: timer)?.cancel()
        case .switchQueues(let id, let side): with(id) { switchQueues($0, to: side) }
        case .stopAndMove(let id): with(id) { stopAndMove($0) }
        case .pause(let id): with(id) { pause($0) }
        case .run(let kind): run(kind)
        case .killCommand: killCommand()
        case .kill(let id, let side): with(id) { kill($0, side) }
        case .continueGuest(let id, let side):
            with(id) { tell($0, .continueGuest(side, $0.reach(side))) }
        case .adoptNew(let id): with(id) { adoptNew($0) }
        case .discard(let id, let side): with(id) { discard($0, side) }
        case .confirm(let id, let side): with(id) { confirm($0, side) }
        case .note(let note):
            // What an agent finds that follows on one that dies here is not of this command.
            if case .commandBegan = note { forgetCommandGroup() }
            notes.append(note)
        case .progress(let phase):
            onProgress?(phase, Timestamp(microseconds: WallClock.nowMicroseconds))
        case .finish(let report): putOff.append { [self] in finish(report) }
        }
    }

    private func setTimer(_ timer: HoldTimer, _ at: Int64) {
        timers[timer] = HoldClockTimer(at: at, on: context.loop) { [self] in
            timers[timer] = nil
            feed(.timerFired(timer))
        }
    }

    private func with(_ id: GuestID, _ body: (StepGuest) -> Void) {
        if let guest = guests.first(where: { $0.id == id }) { body(guest) }
    }

    private func tellGuard(_ message: GuardMessage) {
        guardLink?.tell(message)
        switch message {
        case .holding: context.pause.reached("holding")
        case .committing: context.pause.reached("committing")
        case .released(let id): with(id) { treatAsOthers($0) }
        default: break
        }
    }

    private func treatAsOthers(_ guest: StepGuest) {
        for generation in [guest.old, guest.new] {
            if let generation { Scheduling.treatAsOthers(generation.process.pid) }
        }
        if machine.heldGuests.isEmpty { Scheduling.treatAsOthers(0) }
    }

    private func verifyArtifact() {
        if let problem = Artifact.problem(directive.release) {
            feed(.artifactRefused(reason: problem))
        } else {
            feed(.artifactVerified)
        }
    }

    private func armGuard() {
        checkAllHealth { [self] in startGuard() }
    }

    private func startGuard() {
        // The step may have been over while disks were flushed and guests asked.
        guard !machine.isFinished else { return }
        context.pause.reached("prepared")
        var watched: [GuardLink.Watched] = []
        for guest in guests {
            guard let old = guest.old, guest.new != nil || directive.release.scope != .guest else {
                return feed(.guardFailed(reason: "\(guest.id) has no two processes"))
            }
            watched.append(GuardLink.Watched(guest: guest.id, old: old, new: guest.new))
        }
        do {
            guardLink = try GuardLink(
                context.guardProgram, directive: directive, paths: context.paths,
                watched: watched, on: context.loop,
                onArmed: { [self] in
                    context.pause.reached("armed")
                    feed(.guardArmed)
                },
                onFailure: { [self] in
                    context.logger.warning("the guard failed", metadata: ["reason": "\($0)"])
                    feed(.guardFailed(reason: $0))
                })
        } catch { feed(.guardFailed(reason: "\(error)")) }
    }

    private func switchQueues(_ guest: StepGuest, to side: Side) {
        do {
            // The one that is to have them first, so that at no time nobody does.
            try guest.queues(side).setAttached(true)
            try guest.queues(side.other).setAttached(false)
            feed(guest, .queuesSwitched)
        } catch { feed(guest, .queuesFailed(reason: error.description)) }
    }

    private func stopAndMove(_ guest: StepGuest) {
        guard let old = guest.old, let new = guest.new else { return }
        // Both main loops and our own do little, but the hold waits for each of them in turn.
        for pid in [old.process.pid, new.process.pid, 0] { Scheduling.prefer(pid) }
        tell(guest, .stopAndMove)
    }

    private func kill(_ guest: StepGuest, _ side: Side) {
        guard side == .old else {
            return tell(guest, .kill(.new, isOldAlive: false, isNewEnding: false))
        }
        tell(
            guest,
            .kill(
                .old, isOldAlive: guest.old?.hasExited == false,
                isNewEnding: guest.new?.isEnding != false))
    }

    private func adoptNew(_ guest: StepGuest) {
        guard let new = guest.new, let hypervisor = directive.release.hypervisor else { return }
        new.takePidFile(from: guest.pid(.old))
        new.takeSocketNames()
        guest.keeper.adoptNew(new, on: hypervisor)
        putOff.append { guest.keeper.keepHypervisor() }
    }

    private func discard(_ guest: StepGuest, _ side: Side) {
        guest.queues(side).close()
        guest.queues(side.other).close()
        let number = side == .old ? guest.newNumber - 1 : guest.newNumber
        let directory = context.paths.generation(guest.id, number).directory
        if side == .new { guest.old?.takePidFile(from: guest.pid(.new)) }
        guard let generation = guest.generation(side) else {
            if side == .new { putOff.append { try? Files.removeTree(path: directory) } }
            return
        }
        try? generation.kill()
        putOff.append { [self] in remove(generation, directory) }
    }

    /// The guest's next step may use the directory and the names of sockets again, and begin while this
    /// QEMU still waits for a disk in order to end: they are out of its way before.
    private func remove(_ generation: Generation, _ directory: String) {
        generation.removeTemporarySockets()
        let aside = "\(directory).ended-\(generation.process.pid)"
        guard !generation.hasExited, (try? Files.rename(from: directory, to: aside)) != nil else {
            return removeOnceEnded(generation, directory)
        }
        removeOnceEnded(generation, aside)
    }

    private func removeOnceEnded(_ generation: Generation, _ directory: String) {
        guard generation.hasExited else {
            context.loop.after(.milliseconds(20)) { [self] in
                removeOnceEnded(generation, directory)
            }
            return
        }
        generation.close()
        try? Files.removeTree(path: directory)
    }

    private func confirm(_ guest: StepGuest, _ side: Side) {
        guard let generation = guest.generation(side) else { return }
        context.pause.reached("confirming")
        announceMove(generation)
        let confirmer = Confirmer(
            guest.keeper.configuration, on: generation,
            addsForwards: side == .new && guest.addsForwards, loop: context.loop
        ) { [self] in feed(guest, .confirmed($0)) }
        // Reading a clock is worth nothing while other guests are in their hold.
        putOff.append { confirmer.start() }
    }

    private func finish(_ report: StepReport) {
        for timer in timers.values { timer.cancel() }
        timers = [:]
        for guest in guests {
            guest.oldQueues.close()
            guest.newQueues.close()
            guest.old?.onStepNotice = nil
            guest.new?.onStepNotice = nil
        }
        // One that arms now, too late, would keep the next step's from its lock and its monitors.
        guardLink?.end()
        guardLink = nil
        let body = onFinish
        onFinish = nil
        onProgress = nil
        body?(report)
    }
}
