internal import AgentCore
internal import Fleet
internal import Logging
internal import QMP
internal import UvLoop

// Steps: from a directive to its report, and from what an earlier agent left to its report.
extension AgentShell {
    func take(_ directive: Directive, answer: @escaping (DirectiveAnswer) -> Void) {
        asked.append((TokenGate.Grant(step: directive.step, token: directive.token), answer))
        feed(
            .directive(
                directive, at: Timestamp(microseconds: WallClock.nowMicroseconds),
                guests: keepers.map {
                    HostGuest(
                        id: $0.id, state: $0.state, generation: $0.current?.number,
                        hypervisorVersion: $0.current?.hypervisorVersion ?? "")
                }, parts: parts))
    }

    func carryOut(_ effect: AgentMachine.Effect) {
        switch effect {
        case .keep(let token, let step): keep(token, step)
        case .keepReport(let report): keep(report)
        case .forgetReport(let step, let token): store.forget(step: step, token: token)
        case .answer(let grant, let answer): self.answer(grant, answer)
        case .begin(let step): loop.soon { [self] in begin(step) }
        case .observe(let step): observe(step)
        case .resume(let step, let actions): resume(step, actions)
        case .undoAfterReboot(let step):
            logger.notice("undoing a step", metadata: ["step": "\(step.directive.step)"])
            run(HoldRunner(HoldMachine(undoingAfterReboot: step), guests: [], context: context))
        case .recoverUpgrade(let step): recoverUpgrade(step)
        case .takeUpGuests(let guests): takeUp(guests)
        case .startGuests(let guests): startAfresh(guests)
        case .becomeReady: becomeReady()
        case .send(let report): link.send(report)
        case .sendHostReport(let always): sendHostReport(always: always)
        case .removeNotes:
            StepNotes(path: paths.notes).remove()
            StepNotes(path: paths.guardNotes).remove()
        case .setTimer(let timer, let delay):
            loop.after(delay) { [self] in feed(.timerFired(timer)) }
        }
    }

    private func keep(_ token: Token, _ step: AcceptedStep?) {
        do {
            try store.keep(acceptedToken: token, inFlight: step)
            feed(.kept)
        } catch {
            logger.error("the accepted token cannot be kept: \(error)")
            feed(.keepFailed(reason: "\(error)"))
        }
    }

    private func keep(_ report: StepReport) {
        do {
            try store.keep(report)
            pause.reached("finished")
            feed(.kept)
        } catch {
            logger.error("the report cannot be kept: \(error)")
            feed(.keepFailed(reason: "\(error)"))
        }
    }

    private func answer(_ grant: TokenGate.Grant, _ answer: DirectiveAnswer) {
        if case .staleToken = answer {
            logger.warning(
                "stale token", metadata: ["step": "\(grant.step)", "token": "\(grant.token)"])
        }
        let mine = asked.filter { $0.0 == grant }
        asked.removeAll { $0.0 == grant }
        for (_, body) in mine { body(answer) }
    }

    private var context: HoldRunner.Context {
        HoldRunner.Context(
            launcher: launcher, guardProgram: guardProgram, loop: loop, logger: logger,
            pause: pause)
    }

    private func begin(_ step: AcceptedStep) {
        pause.reached("accepted")
        if case .agent = step.directive.release.work { return upgrade(step) }
        let guests = stepGuests(step)
        for guest in guests { guest.old = guest.keeper.current }
        StepNotes(path: paths.notes).begin(step.directive.step, step.directive.token)
        StepNotes(path: paths.guardNotes).begin(step.directive.step, step.directive.token)
        run(HoldRunner(HoldMachine(step, parts: parts), guests: guests, context: context))
    }

    /// Its guests, which from now on only the step works on.
    private func stepGuests(_ step: AcceptedStep) -> [StepGuest] {
        step.guests.compactMap { entry in
            guard let keeper = keepers.first(where: { $0.id == entry.plan.id }) else { return nil }
            keeper.step = step.directive.step
            return StepGuest(
                keeper, entry.plan, oldNumber: entry.oldGeneration,
                budget: HoldBudget(deadlineMilliseconds: step.directive.deadlineMilliseconds))
        }
    }

    private func run(_ next: HoldRunner) {
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
        }
        next.start()
    }

    /// What the next step has to know of this one.
    private func remember(_ report: StepReport, of runner: HoldRunner) {
        parts.note(report, runner.directive.release.scope, runner.guests.map(\.handOver))
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
        feed(.stepEnded(report))
    }

    // MARK: After a restart

    private func observe(_ step: AcceptedStep) {
        logger.notice("finishing a step", metadata: ["step": "\(step.directive.step)"])
        let guests = stepGuests(step)
        do {
            let found = try findProcesses()
            for guest in guests {
                let mine = found.filter { $0.label.guest == guest.id }
                if let old = mine.last(where: { $0.label.generation == guest.oldNumber }) {
                    guest.old = try makeGeneration(old)
                }
                if let new = mine.last(where: { $0.label.generation == guest.newNumber }) {
                    guest.new = try makeGeneration(new)
                }
                guest.old?.connect()
                guest.new?.connect()
            }
        } catch { return fail(error) }
        recovering = guests
        let deadline = Duration.milliseconds(step.directive.deadlineMilliseconds)
        let observer = StepObserver(guests, deadline: deadline, loop: loop) { [self] in
            feed(.observed($0))
        } found: { [self] guest, action in
            logger.notice("found", metadata: ["guest": "\(guest.id)", "action": "\(action)"])
            runner?.feed(guest, .found(action))
        }
        observer.begin()
    }

    private func resume(_ step: AcceptedStep, _ actions: [RecoveryAction]) {
        let directive = step.directive
        let notes =
            StepNotes(path: paths.notes).read(directive.step, directive.token)
            + StepNotes(path: paths.guardNotes).read(directive.step, directive.token)
        let guests = recovering
        recovering = []
        for (planned, action) in zip(step.guests, actions) {
            guard let guest = guests.first(where: { $0.id == planned.plan.id }) else {
                logger.warning(
                    "a guest of the step is not in the host's file any more; its QEMU is left alone",
                    metadata: ["guest": "\(planned.plan.id)"])
                continue
            }
            logger.notice("recovering", metadata: ["guest": "\(guest.id)", "action": "\(action)"])
            try? guest.copyQueues(.old)
            try? guest.copyQueues(.new)
            if action == .wait { guest.keeper.noAnswerYet() }
            if let current = guest.old ?? guest.new { guest.keeper.use(current) }
            guest.notedPids = HoldHistory(notes, of: guest.id).pids
        }
        let machine = HoldMachine(recovering: step, actions: actions, notes: notes)
        run(HoldRunner(machine, guests: guests, context: context))
    }
}
