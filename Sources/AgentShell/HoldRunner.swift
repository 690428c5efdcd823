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
// Why `cont` on the old one waits: in runstate `finish-migrate` the migration's end would find a
// running guest, which QEMU 7.2 answers with abort().
//
// Failure modes: every one is an event for the machine, which has the table. Nothing here decides.

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
                lookAgain(generation, side, guest)
            case .disconnected: break
            case .event(let event): onEvent(event, side, guest)
            case .exited:
                if side == .new {
                    let said = generation.paths.lastLogLine()
                    let reason = "its new QEMU ended" + (said.isEmpty ? "" : ": \(said)")
                    feed(guest, .prepareFailed(reason: reason))
                    feed(guest, .moveFailed(reason: reason))
                    donePreparing(guest)
                }
                feed(guest, .exited(side))
                guard side == .old else { break }
                // What it had sent before it ended may be all there was to send, and the new one may
                // still be reading it. An ended process never continues its guest.
                guest.hasLeft = true
                if guest.hasArrived { feed(guest, .moved) }
            }
        }
    }

    private func onEvent(_ event: Event, _ side: Side, _ guest: StepGuest) {
        switch (event.kind, side) {
        case (.stop, .old):
            guard let sentAt = guest.stopSentAt else { break }
            let time = EventTime(event, notBefore: sentAt)
            guest.stopped = time
            feed(guest, .stopped(at: time.hold, wall: time.wall))
            context.pause.reached("stopped")
        case (.resume, _):
            // An old one whose migration failed continues by itself.
            guard let sentAt = guest.continueSentAt ?? guest.stopSentAt else { break }
            guest.resumed = EventTime(event, notBefore: sentAt)
            // The event is proof enough: the reply behind it may be lost with its connection.
            if guest.continueSentAt != nil { onContinued(guest, side) }
        case (.migration(.completed), _):
            onCompleted(side, guest)
        case (.migration(.failed), .old), (.migration(.cancelled), .old): onMoveFailed(guest)
        case (.migration(.failed), .new):
            feed(guest, .moveFailed(reason: refusal(guest)))
        default: break
        }
    }

    private func onMoveFailed(_ guest: StepGuest) {
        // The new one says why in its log, and ends; its end usually comes first.
        context.loop.after(.milliseconds(20)) { [self] in
            feed(guest, .moveFailed(reason: "the device state could not be handed over"))
        }
    }

    private func onCompleted(_ side: Side, _ guest: StepGuest) {
        if side == .old { guest.hasLeft = true } else { guest.hasArrived = true }
        guard guest.hasLeft, guest.hasArrived else { return askTheOther(side.other, guest) }
        if guest.new?.origin != nil, let old = guest.pid(.old), let new = guest.pid(.new) {
            notes.append(.processes(guest.id, old: old, new: new))
        }
        guest.new?.takePidFile(from: guest.pid(.old))
        context.pause.reached("moved")
        feed(guest, .moved)
    }

    /// One side has everything, and the other one's word does not come: its connection may be hung.
    private func askTheOther(_ side: Side, _ guest: StepGuest) {
        context.loop.after(machine.budget.replyLimit) { [self] in
            guard !guest.hasLeft || !guest.hasArrived, let generation = guest.generation(side)
            else { return }
            lookAgain(generation, side, guest)
        }
    }

    /// A monitor connection that came back in the middle of the move: its events are lost.
    private func lookAgain(_ generation: Generation, _ side: Side, _ guest: StepGuest) {
        guard guest.stopSentAt != nil, guest.continueSentAt == nil else { return }
        generation.send([.queryMigrate], limit: machine.budget.replyLimit) { [self] _, result in
            // Without an answer the connection ends, and this is called again when it is back.
            guard case .success(let value) = result, let reply = MigrationReply(value) else {
                return
            }
            switch reply.status {
            case .completed: onCompleted(side, guest)
            case .none where side == .old:
                feed(
                    guest, .moveFailed(reason: "the monitor connection ended before the move began")
                )
            case .failed where side == .old, .cancelled where side == .old: onMoveFailed(guest)
            default: break
            }
        }
    }

    private func refusal(_ guest: StepGuest) -> String {
        let said = guest.new?.paths.lastLogLine() ?? ""
        return "the new QEMU refused the device state" + (said.isEmpty ? "" : ": \(said)")
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
        case .continueGuest(let id, let side): with(id) { continueGuest($0, side) }
        case .adoptNew(let id): with(id) { adoptNew($0) }
        case .discard(let id, let side): with(id) { discard($0, side) }
        case .confirm(let id, let side): with(id) { confirm($0, side) }
        case .note(let note): notes.append(note)
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
        guest.stopSentAt = HoldClock.nowMicroseconds
        old.send([.migrate(uri: "unix:\(new.paths.incoming)")]) { [self] _, result in
            // Only a refusal is certain: after a lost connection `lookAgain` finds out.
            guard case .failure(.refused(let error)) = result else { return }
            feed(guest, .moveFailed(reason: "migrate: \(error.text)"))
        }
    }

    private func kill(_ guest: StepGuest, _ side: Side) {
        // The last look before the commit: a new one that has ended since it said `completed` cannot
        // be continued, and its end may not have been read yet. The old one is whole.
        if side == .old, guest.new?.isEnding != false, guest.old?.hasExited == false {
            return feed(guest, .exited(.new))
        }
        do {
            try guest.generation(side)?.kill()
            feed(guest, .killed(side))
        } catch { feed(guest, .killFailed(side, reason: error.description)) }
        if side == .old { context.pause.reached("killed") }
    }

    private func continueGuest(_ guest: StepGuest, _ side: Side) {
        guard let generation = guest.generation(side) else {
            return feed(guest, .continueFailed(side, reason: "there is no such process"))
        }
        // Whoever stopped it in its hold (SIGSTOP) did not mean to strand its guest.
        try? generation.process.send(signal: Scheduling.continueSignal)
        guard generation.isConnected else {
            return feed(guest, .continueFailed(side, reason: "its monitor is not connected"))
        }
        guard side == .old else { return cont(guest, generation, side) }
        generation.isReadyToContinue(limit: machine.budget.replyLimit) { [self] readiness in
            switch readiness {
            case .notYet(let reason): feed(guest, .continueFailed(side, reason: reason))
            case .ready(let isExecuting):
                if !isExecuting { noteLostStop(guest) }
                cont(guest, generation, side)
            }
        }
    }

    /// Its STOP was lost with a connection, or never told. When it stopped nobody knows, but not
    /// before it was told to: its record makes the hold some milliseconds too long, not too short.
    private func noteLostStop(_ guest: StepGuest) {
        guard guest.stopped == nil, let sentAt = guest.stopSentAt else { return }
        let ago = HoldClock.nowMicroseconds - sentAt
        let wall = Timestamp(microseconds: WallClock.nowMicroseconds - ago)
        feed(guest, .stopped(at: sentAt, wall: wall))
    }

    private func cont(_ guest: StepGuest, _ generation: Generation, _ side: Side) {
        if guest.continueSentAt == nil { guest.continueSentAt = HoldClock.nowMicroseconds }
        generation.send([.cont], limit: machine.budget.replyLimit) { [self] _, result in
            switch result {
            case .success:
                // The event comes before the reply; without one the guest had never stopped.
                onContinued(guest, side)
            case .failure(let failure):
                feed(guest, .continueFailed(side, reason: failure.description))
            }
        }
    }

    private func onContinued(_ guest: StepGuest, _ side: Side) {
        if side == .new { context.pause.reached("continued") }
        feed(guest, .continued(side, at: guest.resumed?.hold ?? HoldClock.nowMicroseconds))
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
        putOff.append { [self] in removeOnceEnded(generation, directory) }
    }

    private func removeOnceEnded(_ generation: Generation, _ directory: String) {
        guard generation.hasExited else {
            context.loop.after(.milliseconds(20)) { [self] in
                removeOnceEnded(generation, directory)
            }
            return
        }
        generation.close()
        generation.removeTemporarySockets()
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
        guardLink = nil
        let body = onFinish
        onFinish = nil
        onProgress = nil
        body?(report)
    }
}
