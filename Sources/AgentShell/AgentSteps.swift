internal import AgentCore
internal import Fleet
internal import Logging
internal import QMP
internal import UvLoop

// Steps: from a directive to its report, and from what an earlier agent left to its report.
extension AgentShell {
    /// Answers a directive and, if it is new and can be carried out, begins.
    func take(_ directive: Directive) -> DirectiveAnswer {
        switch gate.judge(directive) {
        case .staleToken(let accepted):
            logger.warning(
                "stale token",
                metadata: ["step": "\(directive.step)", "token": "\(directive.token)"])
            return .staleToken(acceptedToken: accepted)
        case .busy(let step): return .busy(with: step)
        case .repeatedInFlight: return .accepted
        case .repeatedFinished:
            for report in reports where report.step == directive.step { link.send(report) }
            return .accepted
        case .fresh: break
        }
        if let reason = refusal(directive) { return .refused(reason: reason) }
        let guests = directive.guests.compactMap { id in keepers.first { $0.id == id } }
        let record = StepRecord(
            directive: directive,
            acceptedAt: Timestamp(microseconds: WallClock.nowMicroseconds),
            bootID: HostFacts.bootID,
            guests: guests.map {
                StepRecord.Guest(
                    plan: GuestPlan(
                        id: $0.id, hypervisorBefore: $0.current?.hypervisorVersion ?? ""),
                    oldGeneration: $0.current?.number ?? 0)
            })
        do {
            try store.keep(acceptedToken: directive.token, inFlight: record)
        } catch {
            return .refused(reason: "the token cannot be kept: \(error)")
        }
        gate.accept(directive)
        // After this turn, so that the answer is on its way before the work begins.
        loop.soon { [self] in begin(record) }
        return .accepted
    }

    /// Why this host cannot carry the directive out; nil if it can.
    private func refusal(_ directive: Directive) -> String? {
        guard directive.host == host.host else {
            return "this is host \(host.host), not \(directive.host)"
        }
        let limits = Limits.deadlineMillisecondsMin...Limits.deadlineMillisecondsMax
        guard limits.contains(directive.deadlineMilliseconds) else {
            return "the deadline of \(directive.deadlineMilliseconds) ms is out of range"
        }
        guard directive.guests.count <= Limits.stepGuestsMax,
            Set(directive.guests).count == directive.guests.count
        else { return "a step has at most \(Limits.stepGuestsMax) guests, each once" }
        if let reason = scopeProblem(directive) { return reason }
        if let reason = HoldBudget.problem(directive, parts) { return reason }
        for id in directive.guests {
            guard let keeper = keepers.first(where: { $0.id == id }) else {
                return "this host has no guest \(id)"
            }
            guard keeper.current != nil, keeper.state == .running else {
                return "guest \(id) is \(keeper.state.rawValue)"
            }
        }
        return nil
    }

    /// Why its guests are not those that this release holds; nil if they are.
    private func scopeProblem(_ directive: Directive) -> String? {
        switch directive.release.scope {
        case .guest:
            return directive.guests.isEmpty ? "a step of this component has a guest" : nil
        case .none:
            return directive.guests.isEmpty ? nil : "release \(directive.release.id) holds no guest"
        case .host:
            // One that runs and is not held would lose its network, and its set is not locked.
            for keeper in keepers where !directive.guests.contains(keeper.id) {
                switch keeper.state {
                case .stopped, .paused: break
                default:
                    return "guest \(keeper.id) is \(keeper.state.rawValue) and is not in the step"
                }
            }
            return nil
        }
    }

    private var context: HoldRunner.Context {
        HoldRunner.Context(
            launcher: launcher, guardProgram: guardProgram, loop: loop, logger: logger,
            pause: pause)
    }

    private func begin(_ record: StepRecord) {
        pause.reached("accepted")
        if case .agent = record.directive.release.work { return upgrade(record) }
        let guests = record.guests.compactMap { entry -> StepGuest? in
            guard let keeper = keepers.first(where: { $0.id == entry.plan.id }) else { return nil }
            keeper.step = record.directive.step
            let guest = StepGuest(keeper, entry.plan, oldNumber: entry.oldGeneration)
            guest.old = keeper.current
            return guest
        }
        StepNotes(path: paths.notes).begin(record.directive.step, record.directive.token)
        StepNotes(path: paths.guardNotes).begin(record.directive.step, record.directive.token)
        let machine = HoldMachine(
            directive: record.directive, plans: record.guests.map(\.plan),
            acceptedAt: record.acceptedAt, parts: parts)
        run(HoldRunner(machine, guests: guests, context: context), {})
    }

    private func run(_ next: HoldRunner, _ finished: @escaping () -> Void) {
        let directive = next.directive
        runner = next
        logger.info(
            "step begins",
            metadata: ["step": "\(directive.step)", "token": "\(directive.token)"])
        next.onProgress = { [unowned self] phase, at in
            link.send(
                StepProgress(step: directive.step, token: directive.token, phase: phase, at: at))
        }
        next.onFinish = { [unowned self] in
            remember($0, of: next)
            finish($0, guests: next.guests)
            finished()
        }
        next.start()
    }

    /// What the next step has to know of this one.
    private func remember(_ report: StepReport, of runner: HoldRunner) {
        runner.measure(&parts, report)
        partsRecord.write(parts)
        let release = runner.directive.release
        guard case .host = release.work else { return }
        switch runner.machine.isPatched {
        case true?: recordInstalled(release)
        case false?: break
        case nil:
            software.forget(release.component)
            installed = software.read()
        }
        removeOldOutputs()
    }

    func recordInstalled(_ release: Release) {
        do {
            try software.write(
                InstalledSoftware(component: release.component, version: release.version))
        } catch { logger.error("what was installed could not be recorded: \(error)") }
        installed = software.read()
    }

    /// Of the commands' outputs only the newest are kept.
    private func removeOldOutputs() {
        let names = ((try? Files.list(path: paths.outputs)) ?? []).map { name in
            (name, (try? Files.modified(path: "\(paths.outputs)/\(name)")) ?? 0)
        }
        for (name, _) in names.sorted(by: { ($0.1, $0.0) < ($1.1, $1.0) })
            .dropLast(Limits.stepOutputsMax)
        {
            try? Files.removeTree(path: "\(paths.outputs)/\(name)")
        }
    }

    private func finish(_ report: StepReport, guests: [StepGuest]) {
        pause.reached("confirmed")
        logger.info(
            "step ended",
            metadata: [
                "step": "\(report.step)", "outcome": "\(report.outcome.rawValue)",
                "reason": "\(report.reason)",
            ])
        for guest in guests {
            guest.keeper.drainMonitor()
            let record = report.holds.first { $0.guest == guest.id }
            guest.keeper.stepEnded(lost: record?.outcome == .lost)
        }
        runner = nil
        for guest in guests {
            // A drained monitor is connected again in a moment.
            let pause = guest.keeper.current?.isForeign == true ? Duration.seconds(1) : .zero
            loop.after(pause) { [self] in preflight?.look(at: guest.keeper) }
        }
        keep(report)
    }

    /// Kept before it is sent, and tried again for as long as that does not work.
    private func keep(_ report: StepReport) {
        do {
            try store.keep(report)
            pause.reached("finished")
            try store.keep(acceptedToken: gate.acceptedToken, inFlight: nil)
        } catch {
            logger.error("the report cannot be kept: \(error)")
            loop.after(.seconds(1)) { [self] in keep(report) }
            return
        }
        gate.finish()
        reports.append(report)
        StepNotes(path: paths.notes).remove()
        StepNotes(path: paths.guardNotes).remove()
        link.send(report)
        scheduleHostReport()
    }

    // MARK: After a restart

    /// Finishes a step that an earlier agent began.
    ///
    /// - Parameters:
    ///   - found: the processes of its guests.
    ///   - settled: called once, when the step is over.
    func recover(
        _ record: StepRecord, _ found: [(label: ProcessLabel, process: ProcessReference)],
        settled: @escaping () -> Void
    ) {
        logger.notice("finishing a step", metadata: ["step": "\(record.directive.step)"])
        guard record.bootID == HostFacts.bootID else { return endAfterReboot(record, settled) }
        var guests: [StepGuest] = []
        for entry in record.guests {
            guard let keeper = keepers.first(where: { $0.id == entry.plan.id }) else { continue }
            keeper.step = record.directive.step
            let guest = StepGuest(keeper, entry.plan, oldNumber: entry.oldGeneration)
            for process in found where process.label.guest == entry.plan.id {
                let generation = makeGeneration(process)
                generation?.connect()
                if process.label.generation == entry.oldGeneration { guest.old = generation }
                if process.label.generation == guest.newNumber { guest.new = generation }
            }
            guests.append(guest)
        }
        guard guests.map(\.id) == record.directive.guests else {
            return endWithoutGuests(record, settled)
        }
        var whenSettled: (() -> Void)? = settled
        let once = {
            whenSettled?()
            whenSettled = nil
        }
        let observer = StepObserver(guests, loop: loop)
        observer.begin { [self] actions in
            resume(record, guests, actions, once)
            // One QEMU that nobody reaches must not keep the agent from the leader.
            loop.after(StepObserver.patience) { once() }
        } found: { [self] guest, action in
            logger.notice("found", metadata: ["guest": "\(guest.id)", "action": "\(action)"])
            runner?.feed(guest, .found(action))
        }
    }

    private func resume(
        _ record: StepRecord, _ guests: [StepGuest], _ actions: [RecoveryAction],
        _ settled: @escaping () -> Void
    ) {
        let directive = record.directive
        let notes =
            StepNotes(path: paths.notes).read(directive.step, directive.token)
            + StepNotes(path: paths.guardNotes).read(directive.step, directive.token)
        var phases = [PhaseTime(phase: .accepted, at: record.acceptedAt)]
        for case .phase(let phase, let at) in notes
        where !phases.contains(where: { $0.phase == phase }) {
            phases.append(PhaseTime(phase: phase, at: at))
        }
        var recovered: [RecoveredGuest] = []
        for (guest, action) in zip(guests, actions) {
            logger.notice("recovering", metadata: ["guest": "\(guest.id)", "action": "\(action)"])
            try? guest.copyQueues(.old)
            try? guest.copyQueues(.new)
            if action == .wait { guest.keeper.noAnswerYet() }
            if let current = guest.old ?? guest.new { guest.keeper.use(current) }
            let history = HoldHistory(notes, of: guest.id)
            guest.notedPids = history.pids
            recovered.append(
                RecoveredGuest(plan: guest.plan, action: action, history: history))
        }
        let machine = HoldMachine(
            recovering: directive, guests: recovered, phases: phases,
            commands: CommandHistory(notes))
        run(HoldRunner(machine, guests: guests, context: context), settled)
    }

    /// The host itself was restarted: whatever was held is gone, with the notes that knew of it.
    private func endAfterReboot(_ record: StepRecord, _ settled: @escaping () -> Void) {
        // What `apply` had changed may be half there, and the notes are gone: it is undone, and the
        // guests start on a host that is as it was.
        if case .host = record.directive.release.work {
            var alone = record.directive
            alone.guests = []
            let machine = HoldMachine(
                recovering: alone, guests: [],
                phases: [PhaseTime(phase: .accepted, at: record.acceptedAt)], commands: .unknown)
            return run(HoldRunner(machine, guests: [], context: context)) { [self] in
                startAfresh(record, settled)
            }
        }
        end(record, "the host was restarted during the step; its guests start afresh")
        startAfresh(record, settled)
    }

    private func startAfresh(_ record: StepRecord, _ settled: @escaping () -> Void) {
        let guests = keepers.filter { record.directive.guests.contains($0.id) }
        var missing = guests.count
        guard missing > 0 else { return settled() }
        for keeper in guests {
            keeper.start {
                missing -= 1
                if missing == 0 { settled() }
            }
        }
    }

    private func endWithoutGuests(_ record: StepRecord, _ settled: @escaping () -> Void) {
        end(record, "the host's file does not name the step's guests any more")
        settled()
    }

    private func end(_ record: StepRecord, _ reason: String) { end(record, .failed, reason) }

    /// Of a step that has held nobody.
    func end(_ record: StepRecord, _ outcome: StepOutcome, _ reason: String) {
        keep(
            StepReport(
                step: record.directive.step, token: record.directive.token, outcome: outcome,
                reason: reason, phases: [PhaseTime(phase: .accepted, at: record.acceptedAt)],
                holds: []))
    }
}
