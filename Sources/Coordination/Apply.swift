import Fleet

extension Coordinator {
    /// Folds one committed fact into the state.
    ///
    /// Total: a fact that ``propose(_:at:)`` made of this very state always applies.
    public mutating func apply(_ fact: Fact) {
        state.index += 1
        switch fact.body {
        case .termStarted(let term, let server):
            state.term = term
            state.leader = server
        case .hostReported(let report, let placements):
            applyHostReport(report, placements, at: fact.at)
        case .releaseAdded(let release, let by):
            state.releases[release.id] = ReleaseRecord(
                release: release, addedAt: fact.at, addedBy: by)
        case .rolloutStarted(let started):
            applyRollout(started, at: fact.at)
        case .rolloutAborted(let id, let reason, let by):
            state.rollouts.update(id) {
                $0.state = .aborting
                $0.reason = "aborted by \(by): \(reason)"
            }
            if !mutated(.abortLeavesSteps) {
                cancelWaiting(of: id, reason: "the rollout was aborted", at: fact.at)
            }
            emitRolloutChange(id, at: fact.at)
            concludeIfDone(id, at: fact.at)
        case .stepNoticed(let id, let notBefore):
            applyNotice(id, notBefore: notBefore, at: fact.at)
        case .noticeAcknowledged(let id, let guest):
            applyNoticeAcknowledgement(id, guest, at: fact.at)
        case .noticeWithdrawn(let id, let reason):
            withdrawNotice(id, reason: reason, at: fact.at)
        case .rolloutPaused, .rolloutResumed, .hostCordoned, .hostUncordoned:
            applyPause(fact)
        case .stepGranted(let id, let token):
            applyGrant(id, token, at: fact.at)
        case .stepRegranted(let id, let token):
            applyRegrant(id, token)
        case .stepCancelled(let id, let reason):
            cancel(id, reason: reason, at: fact.at)
            concludeIfDone(id.rollout, at: fact.at)
        case .stepFinished(let report):
            applyFinish(report, at: fact.at)
        case .strayReported(let report, let host):
            applyStray(report, host, at: fact.at)
        case .lockReleased(let set, let reason, let by):
            applyLockRelease(set, reason, by, at: fact.at)
        case .eventsAcknowledged(let notifier, let sequence):
            state.notifiers[notifier] = sequence
            trimEvents()
        case .notifierForgotten(let notifier, _, _): applyForget(notifier)
        case .deliveryLeaseGranted(let notifier, let number):
            state.deliveryLease.holder = notifier
            state.deliveryLease.number = number
        case .deliveryLeaseGivenUp:
            state.deliveryLease.holder = ""
            state.deliveryLease.number += 1
        case .deliveriesReported(_, let sink, let sequence): applyDelivered(sink, sequence)
        }
    }

    // MARK: Inventory

    private mutating func applyHostReport(
        _ report: HostReport, _ placements: [Placement], at: Timestamp
    ) {
        if report.acceptedToken.number >= state.nextToken {
            state.nextToken = report.acceptedToken.number + 1
        }
        defineSets(report)
        leaveSets(report)
        if state.hosts[report.host] == nil {
            state.hosts[report.host] = HostRecord(report: report, reportedAt: at)
        } else {
            state.hosts.update(report.host) {
                $0.report = report
                $0.reportedAt = at
            }
        }
        var placements = placements[...]
        for guest in report.guests {
            let placement = placements.first?.guest == guest.id ? placements.removeFirst() : nil
            adopt(guest, on: report.host, placement)
        }
        removeMissing(report)
    }

    private mutating func defineSets(_ report: HostReport) {
        for definition in report.sets {
            let known = state.sets[definition.id]
            let isOurs = known?.definedBy == nil || known?.definedBy == report.host
            guard isOurs else { continue }
            let count = definition.updateDomainCount
            if known == nil {
                state.sets[definition.id] = SetRecord(
                    updateDomainCount: count, definedBy: report.host)
            } else {
                state.sets.update(definition.id) {
                    $0.updateDomainCount = count
                    $0.definedBy = report.host
                }
            }
        }
    }

    /// Sets that the host defined, and does no more.
    private mutating func leaveSets(_ report: HostReport) {
        let defined = Set(report.sets.map(\.id))
        for known in state.hosts[report.host]?.report.sets ?? []
        where !defined.contains(known.id) && state.sets[known.id]?.definedBy == report.host {
            state.sets.update(known.id) { $0.definedBy = nil }
            state.dropIfUnused(known.id)
        }
    }

    private mutating func adopt(_ guest: GuestReport, on host: HostID, _ placement: Placement?) {
        let known = state.guests[guest.id]
        if let known, known.host != host {
            return  // Another host has it; the views name the conflict.
        }
        var pair: SetPair?
        if let set = guest.set, let placement {
            pair = SetPair(set: set, updateDomain: placement.updateDomain)
        }
        if let known, state.isInActiveStep(guest.id, on: host) { pair = known.pair }
        state.keep(
            GuestRecord(
                report: guest, host: host, pair: pair,
                placedByLeader: placement?.byLeader ?? false,
                missingSince: guest.state == .running ? nil : known?.missingSince))
    }

    private mutating func removeMissing(_ report: HostReport) {
        let reported = Set(report.guests.map(\.id))
        for guest in state.hosts[report.host]?.guests ?? []
        where !reported.contains(guest) && !state.isInActiveStep(guest, on: report.host) {
            state.removeGuest(guest)
        }
    }

    // MARK: Rollouts and steps

    private mutating func applyRollout(_ started: StartedRollout, at: Timestamp) {
        state.nextRollout = max(state.nextRollout, started.id.number + 1)
        let steps = StepList(
            started.steps.lazy.enumerated().map { offset, plan in
                StepRecord(id: StepID(rollout: started.id, number: UInt32(offset + 1)), plan: plan)
            })
        state.rollouts.keep(
            RolloutRecord(
                id: started.id, release: started.release, selection: started.selection,
                policy: started.policy, state: .running, reason: "", startedAt: at,
                startedBy: started.by, finishedAt: nil, steps: steps, skipped: started.skipped))
        emit(
            .rolloutStarted(
                rollout: started.id, release: started.release, stepCount: UInt32(steps.count)),
            at: at)
    }

    private mutating func applyGrant(_ id: StepID, _ token: Token, at: Timestamp) {
        guard let plan = state.step(id)?.plan else { preconditionFailure("grant of no \(id)") }
        precondition(state.active[plan.host] == nil, "\(plan.host) has an active step already")
        if !mutated(.tokenReused) { state.nextToken = max(state.nextToken, token.number + 1) }
        for pair in plan.pairs {
            let holder = SetLock.Holder(step: id, token: token, grantedAt: at, stuck: false)
            guard let lock = state.locks[pair.set] else {
                state.locks[pair.set] = SetLock(updateDomain: pair.updateDomain, holders: [holder])
                continue
            }
            precondition(
                lock.updateDomain == pair.updateDomain,
                "\(id) wants \(pair), locked for another update domain")
            state.locks.update(pair.set) { $0.holders.append(holder) }
        }
        state.active[plan.host] = id
        state.changeStep(id) {
            $0.status = .granted
            $0.token = token
            $0.grantedAt = at
            $0.reason = ""
        }
        countBypasses(by: plan)
        let release = state.rollouts[id.rollout].flatMap { state.releases[$0.release]?.release }
        emit(
            .stepGranted(
                step: id, host: plan.host, guests: plan.guests, pairs: plan.pairs,
                release: release?.id ?? ReleaseID(checked: "unknown"),
                component: release?.component ?? .hypervisor, version: release?.version ?? ""),
            at: at)
    }

    /// Every waiting step that wants another update domain of a set that was just locked has been
    /// passed once more.
    private mutating func countBypasses(by plan: PlannedStep) {
        guard !plan.pairs.isEmpty else { return }
        for id in state.rollouts.openIDs {
            state.rollouts.update(id) { rollout in
                guard rollout.state.isGoingOn else { return }
                for offset in rollout.steps.waitingAgainst(plan.pairs) {
                    rollout.steps.update(at: offset) { $0.bypassed += 1 }
                }
            }
        }
    }

    private mutating func applyRegrant(_ id: StepID, _ token: Token) {
        state.nextToken = max(state.nextToken, token.number + 1)
        guard let plan = state.step(id)?.plan else { preconditionFailure("regrant of no \(id)") }
        state.changeStep(id) { $0.token = token }
        for pair in plan.pairs {
            state.locks.update(pair.set) { lock in
                guard let offset = lock.holders.firstIndex(where: { $0.step == id }) else { return }
                lock.holders[offset].token = token
            }
        }
    }

    /// - Parameter isGivenUp: by an operator, who has seen to the guests.
    private mutating func applyFinish(
        _ report: StepReport, isGivenUp: Bool = false, at: Timestamp
    ) {
        guard let step = state.step(report.step) else {
            preconditionFailure("report of no \(report.step)")
        }
        state.active.removeValue(forKey: step.plan.host)
        state.changeStep(report.step) {
            $0.status = .finished
            $0.outcome = report.outcome
            $0.reason = report.reason
            $0.finishedAt = at
            $0.phases = report.phases
            $0.holds = report.holds
        }
        if !isGivenUp { state.noteMissing(after: report, step.plan) }
        if report.outcome.releasesLocks || mutated(.unhealthyUnlocks) {
            unlock(step.plan, report.step)
        } else {
            markStuck(step.plan, report.step)
        }
        if report.holds.isEmpty {
            emit(
                .stepEndedWithoutHold(
                    step: report.step, host: step.plan.host,
                    reason: reasonWithoutHold(report)), at: at)
        }
        emitHolds(report, host: step.plan.host, at: at)
        // Followers from before notices refuse it, so they only see it where notices are used; of other
        // steps the holds say as much.
        if step.notice != nil {
            emit(
                .stepEnded(
                    step: report.step, host: step.plan.host, outcome: report.outcome,
                    reason: report.reason), at: at)
        }
        // Those that the host has named no more since: as long as the step was at work they stayed.
        if let known = state.hosts[step.plan.host]?.report { removeMissing(known) }
        if !mutated(.failuresIgnored) { stopIfFailing(report.step.rollout, at: at) }
        concludeIfDone(report.step.rollout, at: at)
    }

    /// A success has no reason of its own, and without one it would read like a failure.
    private func reasonWithoutHold(_ report: StepReport) -> String {
        guard report.outcome == .succeeded, report.reason.isEmpty,
            let rollout = state.rollouts[report.step.rollout],
            let release = state.releases[rollout.release]?.release
        else { return report.reason }
        return "\(release.component) \(release.version) is installed; no guest had to be held"
    }

    private mutating func applyStray(_ report: StepReport, _ host: HostID, at: Timestamp) {
        emitHolds(report, host: host, at: at)
        guard let step = state.step(report.step), step.status == .finished,
            step.token == report.token, step.holds.isEmpty
        else { return }
        state.changeStep(report.step) {
            $0.holds = report.holds
            $0.phases = report.phases
        }
    }

    private mutating func unlock(_ plan: PlannedStep, _ id: StepID) {
        for pair in plan.pairs {
            let isFree = state.locks.update(pair.set) { lock in
                lock.holders.removeAll { $0.step == id }
                return lock.holders.isEmpty
            }
            if isFree == true {
                state.locks.removeValue(forKey: pair.set)
                state.dropIfUnused(pair.set)
            }
        }
    }

    private mutating func markStuck(_ plan: PlannedStep, _ id: StepID) {
        for pair in plan.pairs {
            state.locks.update(pair.set) { lock in
                guard let offset = lock.holders.firstIndex(where: { $0.step == id }) else { return }
                lock.holders[offset].stuck = true
            }
        }
    }

    private mutating func applyLockRelease(
        _ set: SetID, _ reason: String, _ by: String, at: Timestamp
    ) {
        let lock = state.locks.removeValue(forKey: set)
        emit(.lockReleased(set: set, by: by, reason: reason), at: at)
        state.forgetMissing(of: set)
        for holder in lock?.holders ?? [] {
            guard let step = state.step(holder.step), step.status == .granted else { continue }
            // Given up for lost: what its agent still reports is recorded when it comes.
            applyFinish(
                StepReport(
                    step: holder.step, token: holder.token, outcome: .lost,
                    reason: "given up by \(by), who released the lock of set \(set): \(reason)",
                    phases: [], holds: []), isGivenUp: true, at: at)
        }
    }

    // MARK: The end of a rollout

    private mutating func stopIfFailing(_ id: RolloutID, at: Timestamp) {
        guard let rollout = state.rollouts[id], rollout.state.isGoingOn,
            rollout.steps.failureCount >= Int(rollout.policy.failuresMax)
        else { return }
        let failed = rollout.steps.filter { ($0.outcome ?? .succeeded) != .succeeded }
        let reason =
            "stopped after \(failed.count) failed step\(failed.count == 1 ? "" : "s"); the last: "
            + "\(failed.last!.id) on host \(failed.last!.plan.host): \(failed.last!.reason.prefix(1_000))"
        state.rollouts.update(id) {
            $0.state = .stopping
            $0.reason = reason
        }
        cancelWaiting(of: id, reason: "the rollout stopped on a failure", at: at)
        emitRolloutChange(id, at: at)
    }

    private mutating func cancelWaiting(of id: RolloutID, reason: String, at: Timestamp) {
        for step in state.rollouts[id]?.steps ?? StepList() where step.status == .waiting {
            cancel(step.id, reason: reason, at: at)
        }
    }

    private mutating func cancel(_ id: StepID, reason: String, at: Timestamp) {
        withdrawNotice(id, reason: reason, at: at)
        state.changeStep(id) {
            $0.status = .cancelled
            $0.reason = reason
            $0.finishedAt = at
        }
        emit(
            .stepEndedWithoutHold(step: id, host: state.step(id)!.plan.host, reason: reason),
            at: at)
    }

    private mutating func concludeIfDone(_ id: RolloutID, at: Timestamp) {
        guard let rollout = state.rollouts[id], !rollout.state.isOver,
            rollout.steps.waitingCount == 0, rollout.steps.grantedCount == 0
        else { return }
        let failureCount = rollout.steps.failureCount
        state.rollouts.update(id) { rollout in
            switch rollout.state {
            case .running, .paused:
                rollout.reason = ""
                rollout.state = failureCount == 0 ? .succeeded : .failed
                if failureCount > 0 { rollout.reason = "\(failureCount) steps failed" }
            case .stopping: rollout.state = .failed
            case .aborting: rollout.state = .aborted
            case .succeeded, .failed, .aborted: break
            }
            rollout.finishedAt = at
        }
        emitRolloutChange(id, at: at)
    }

    // MARK: Events

    mutating func emit(_ body: FleetEvent.Body, at: Timestamp) {
        state.lastSequence += 1
        state.events.append(FleetEvent(sequence: state.lastSequence, at: at, body: body))
        trimEvents()
    }

    mutating func emitRolloutChange(_ id: RolloutID, at: Timestamp) {
        guard let rollout = state.rollouts[id] else { return }
        emit(
            .rolloutChanged(rollout: id, state: rollout.state, reason: rollout.reason), at: at)
    }

    private mutating func emitHolds(_ report: StepReport, host: HostID, at: Timestamp) {
        // A stray report may be of a step that another host's has the name of now.
        let step = state.step(report.step).flatMap { $0.plan.host == host ? $0 : nil }
        let release = step.flatMap { state.rollouts[$0.id.rollout] }.flatMap {
            state.releases[$0.release]
        }
        for record in report.holds {
            let own = state.guests[record.guest]?.pair
            // The update domain that was locked, should the guest have moved since.
            let pair = own.flatMap { step?.plan.pair(of: $0.set) }
            emit(
                .holdFinished(
                    FinishedHold(
                        record: record, host: host,
                        pair: pair ?? own, step: report.step,
                        token: report.token,
                        release: release?.release.id ?? ReleaseID(checked: "unknown"),
                        component: release?.release.component ?? .hypervisor,
                        version: release?.release.version ?? record.hypervisorAfter)), at: at)
        }
    }

    /// Drops events that every notifier has kept safe, but for the newest; without a notifier, the
    /// oldest beyond a limit.
    mutating func trimEvents() {
        guard let first = state.firstSequence else { return }
        let kept = UInt64(
            state.notifiers.isEmpty
                ? Limits.eventsWithoutNotifierMax : Limits.eventsForWatchersMin)
        let old = state.lastSequence > kept ? state.lastSequence - kept : 0
        let safe =
            mutated(.eventTrimmedEarly)
            ? state.lastSequence : min(old, state.notifiers.values.min() ?? old)
        guard safe >= first else { return }
        state.events.removeFirst(Int(clamping: safe - first + 1))
    }
}
