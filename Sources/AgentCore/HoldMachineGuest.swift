internal import Fleet

// The transitions of one guest; the table is at the top of HoldMachine.swift.
extension HoldMachine {
    mutating func on(_ event: GuestEvent, of index: Int, at now: Int64, wall: Timestamp) {
        switch event {
        case .prepared:
            guard phase == .preparing, guests[index].state == .preparing else { break }
            guests[index].state = .prepared
        case .prepareFailed(let reason):
            guard guests[index].state == .preparing else { break }
            abandon("\(guests[index].plan.id): \(reason)")
        case .queuesSwitched:
            guard guests[index].state == .switching else { break }
            guests[index].state = .stopping
            effects.append(.stopAndMove(guests[index].plan.id))
        case .queuesFailed(let reason): onQueuesFailed(index, reason, at: now)
        case .stopped(let at, let wall):
            onStopped(index, at: at, wall: wall, now: now)
        case .stopFailed(let reason):
            guard guests[index].state == .pausing else { break }
            cutShort("\(guests[index].plan.id) could not be paused: \(reason)", at: now)
        case .moved: onMoved(index, at: now, wall: wall)
        case .moveFailed(let reason): onMoveFailed(index, reason, at: now)
        case .killed(let side): onKilled(index, side, at: now)
        case .killFailed(let side, let reason): onKillFailed(index, side, reason, at: now)
        case .continued(let side, let at): onContinued(index, side, resumedAt: at, at: now)
        case .continueFailed(let side, let reason): onContinueFailed(index, side, reason, at: now)
        case .exited(let side): onExited(index, side, at: now)
        case .found(let action): onFound(index, action, at: now)
        case .confirmed(let confirmation):
            guard case .confirming = guests[index].state else { break }
            onConfirmed(index, confirmation)
        }
    }

    private mutating func onQueuesFailed(_ index: Int, _ reason: String, at now: Int64) {
        guard guests[index].state == .switching else { return }
        leaveUntouched(index, "its network could not be switched over: \(reason)", at: now)
    }

    /// The way back before anything was stopped.
    private mutating func leaveUntouched(_ index: Int, _ reason: String, at now: Int64) {
        let id = guests[index].plan.id
        effects.append(.note(.undoing(id, reason: reason)))
        effects.append(.note(.resumed(id, .old, at: now, by: .agent, wasHeld: false)))
        effects.append(.switchQueues(id, to: .old))
        effects.append(.discard(id, .new))
        release(index)
        end(index, .failed, reason: reason)
    }

    private mutating func onStopped(_ index: Int, at: Int64, wall: Timestamp, now: Int64) {
        switch guests[index].state {
        case .stopping: guests[index].state = .moving
        case .pausing: guests[index].state = .paused
        case .moving, .orphaned, .undoing, .returning: break
        default: return
        }
        guard guests[index].heldAt == nil else { return }
        guests[index].heldAt = at
        guests[index].heldWall = wall
        effects.append(.note(.stopped(guests[index].plan.id, at: at, wall: wall)))
        applyOncePaused(at: now)
    }

    private mutating func onMoved(_ index: Int, at now: Int64, wall: Timestamp) {
        switch guests[index].state {
        case .stopping, .moving, .orphaned: break
        default: return
        }
        let id = guests[index].plan.id
        if guests[index].heldAt == nil, let holdingAt = guests[index].holdingAt {
            // The state cannot have arrived without the guest having stopped.
            onStopped(index, at: holdingAt, wall: guests[index].holdingWall, now: now)
        }
        guests[index].state = .committing
        // For a restarted agent, which could not know otherwise how the old one ended.
        effects.append(.note(.committing(id)))
        if !mutated(.commitUntold) { effects.append(.tellGuard(.committing(id))) }
        if mutated(.continueBeforeKill) { return onKilled(index, .old, at: now) }
        effects.append(.kill(id, .old))
    }

    private mutating func onMoveFailed(_ index: Int, _ reason: String, at now: Int64) {
        switch guests[index].state {
        case .stopping, .moving: undo(index, reason, at: now)
        case .orphaned: lose(index, "the old QEMU ended during the move, and \(reason)")
        default: break
        }
    }

    private mutating func undo(_ index: Int, _ reason: String, at now: Int64) {
        let id = guests[index].plan.id
        guests[index].state = .undoing
        if guests[index].reason.isEmpty { guests[index].reason = reason }
        effects.append(.cancelTimer(.abort(id)))
        effects.append(.note(.undoing(id, reason: reason)))
        effects.append(.kill(id, .new))
        effects.append(.switchQueues(id, to: .old))
    }

    private mutating func onKilled(_ index: Int, _ side: Side, at now: Int64) {
        let id = guests[index].plan.id
        switch (guests[index].state, side) {
        case (.committing, .old):
            guests[index].state = .continuing
            guests[index].side = .new
            if mutated(.releasedTooEarly) { effects.append(.tellGuard(.released(id))) }
            effects.append(.note(.continuing(id, .new, at: now, by: resumer)))
            effects.append(.continueGuest(id, .new))
        case (.undoing, .new):
            guests[index].newKilled = true
            if guests[index].newExited {
                continueOld(index, at: now)
            } else {
                // Its disk locks go with it, so `cont` is better sent after it has ended.
                effects.append(.setTimer(.retry(id), at: now + budget.exitMicroseconds))
            }
        default: break
        }
    }

    mutating func continueOld(_ index: Int, at now: Int64) {
        let id = guests[index].plan.id
        guests[index].state = .returning
        guests[index].side = .old
        effects.append(.cancelTimer(.retry(id)))
        effects.append(.note(.continuing(id, .old, at: now, by: resumer)))
        effects.append(.continueGuest(id, .old))
    }

    private mutating func onKillFailed(
        _ index: Int, _ side: Side, _ reason: String, at now: Int64
    ) {
        let id = guests[index].plan.id
        switch (guests[index].state, side) {
        case (.committing, .old):
            effects.append(.tellGuard(.undoing(id)))
            undo(index, "the old QEMU could not be killed: \(reason)", at: now)
        case (.undoing, .new):
            effects.append(.setTimer(.retry(id), at: now + budget.retryMicroseconds))
        default: break
        }
    }

    private mutating func onContinued(
        _ index: Int, _ side: Side, resumedAt: Int64, at now: Int64
    ) {
        let id = guests[index].plan.id
        switch (guests[index].state, side) {
        case (.continuing, .new), (.returning, .old): break
        default: return
        }
        guests[index].resumedAt = resumedAt
        guests[index].resumedBy = resumer
        let wasHeld = guests[index].heldAt != nil
        effects.append(
            .note(.resumed(id, side, at: resumedAt, by: resumer, wasHeld: wasHeld)))
        release(index)
        settle(index, on: side, at: now)
    }

    /// The guest executes on `side`: the other one goes, and its health is looked at.
    mutating func settle(_ index: Int, on side: Side, at now: Int64) {
        let id = guests[index].plan.id
        guests[index].side = side
        if side == .new { effects.append(.adoptNew(id)) }
        if work == nil { effects.append(.discard(id, side.other)) }
        guard guests[index].heldAt != nil else {
            // It was never stopped, so there is nothing to confirm.
            return end(index, .failed, reason: guests[index].reason)
        }
        guests[index].state = .confirming(side)
        effects.append(.setTimer(.confirm(id), at: now + budget.confirmMicroseconds))
        effects.append(.confirm(id, side))
    }

    /// The hold of this guest is over as far as timers and guard are concerned.
    private mutating func release(_ index: Int) {
        let id = guests[index].plan.id
        effects.append(.cancelTimer(.abort(id)))
        effects.append(.cancelTimer(.retry(id)))
        effects.append(.tellGuard(.released(id)))
    }

    private mutating func onContinueFailed(
        _ index: Int, _ side: Side, _ reason: String, at now: Int64
    ) {
        let id = guests[index].plan.id
        switch (guests[index].state, side) {
        case (.continuing, .new), (.returning, .old): break
        default: return
        }
        let since = guests[index].holdingAt ?? now
        let limit = budget.deadlineMicroseconds + budget.giveUpMicroseconds
        if now - since > limit || mutated(.continueGivenUp) {
            lose(index, "the \(side) QEMU refuses to continue: \(reason)", discarding: false)
        } else {
            effects.append(.setTimer(.retry(id), at: now + budget.retryMicroseconds))
        }
    }

    private mutating func onExited(_ index: Int, _ side: Side, at now: Int64) {
        if side == .new { guests[index].newExited = true }
        switch (guests[index].state, side) {
        case (.preparing, .new), (.prepared, .new):
            abandon("\(guests[index].plan.id): its new QEMU ended while it waited")
        case (.preparing, .old), (.prepared, .old):
            let reason = "its QEMU ended before the hold"
            lose(index, reason)
            abandon("\(guests[index].plan.id): \(reason)")
        case (.pausing, .old), (.paused, .old):
            lose(index, "its QEMU ended while it was paused")
            cutShort("\(guests[index].plan.id): its QEMU ended", at: now)
        case (.switching, .new): leaveUntouched(index, "its new QEMU ended", at: now)
        case (.switching, .old): lose(index, "its QEMU ended before the hold")
        case (.stopping, .new), (.moving, .new): undo(index, "its new QEMU ended", at: now)
        case (.stopping, .old), (.moving, .old): guests[index].state = .orphaned
        case (.orphaned, .new): lose(index, "both QEMU processes ended during the move")
        case (.committing, .new):
            effects.append(.tellGuard(.undoing(guests[index].plan.id)))
            undo(index, "its new QEMU ended before it was continued", at: now)
        case (.continuing, .new): lose(index, "its new QEMU ended when it was to be continued")
        case (.undoing, .new):
            if guests[index].newKilled { continueOld(index, at: now) }
        case (.undoing, .old), (.returning, .old):
            let before = guests[index].reason.isEmpty ? patch.reason : guests[index].reason
            lose(index, before.isEmpty ? "its QEMU ended" : "\(before); then its QEMU ended too")
        case (.confirming(let here), let side) where here == side:
            effects.append(.cancelTimer(.confirm(guests[index].plan.id)))
            end(index, .lost, reason: "its QEMU ended after the hold")
        default: break
        }
    }

    mutating func lose(_ index: Int, _ reason: String, discarding: Bool = true) {
        let id = guests[index].plan.id
        effects.append(.note(.lost(id, reason: reason)))
        if discarding {
            if work == nil { effects.append(.discard(id, .new)) }
            effects.append(.discard(id, .old))
        }
        release(index)
        end(index, .lost, reason: reason)
    }

    /// Of a guest that a restarted agent finds so: it may have gone on before, and ended then.
    mutating func loseFound(_ index: Int, _ reason: String) {
        guests[index].resumedAt = histories[index].resumedAt
        lose(index, reason)
    }

    mutating func end(_ index: Int, _ outcome: StepOutcome, reason: String) {
        guests[index].state = .done(outcome)
        guests[index].reason = reason
    }

    mutating func onAbortTimer(_ index: Int, at now: Int64) {
        let reason = "the move took longer than \(budget.abortMicroseconds / 1_000) ms"
        switch guests[index].state {
        case .switching: leaveUntouched(index, reason, at: now)
        case .stopping, .moving: undo(index, reason, at: now)
        case .orphaned: lose(index, "the old QEMU ended during the move, and \(reason)")
        default: break
        }
    }

    mutating func onRetryTimer(_ index: Int, at now: Int64) {
        let id = guests[index].plan.id
        switch guests[index].state {
        case .continuing: effects.append(.continueGuest(id, .new))
        case .returning: effects.append(.continueGuest(id, .old))
        case .undoing where guests[index].newKilled: continueOld(index, at: now)
        case .undoing: effects.append(.kill(id, .new))
        default: break
        }
    }

    mutating func onConfirmTimer(_ index: Int) {
        guard case .confirming = guests[index].state else { return }
        let seconds = budget.confirmMicroseconds / 1_000_000
        onConfirmed(
            index,
            Confirmation(isHealthy: false, reason: "its health was not known after \(seconds) s"))
    }

    private mutating func onConfirmed(_ index: Int, _ confirmation: Confirmation) {
        effects.append(.cancelTimer(.confirm(guests[index].plan.id)))
        guests[index].confirmation = confirmation
        // Undo may go on after the guests were continued: what became of the host decides, too.
        if isPatchOver { endConfirmed(index, confirmation) }
    }

    mutating func endConfirmed(_ index: Int, _ confirmation: Confirmation) {
        let undone = work == nil ? guests[index].reason : patch.reason
        let outcome: StepOutcome
        switch (patch, guests[index].side) {
        case (.applied, _), (.none, .new): outcome = .succeeded
        case (.unsafe, _): outcome = .unhealthy
        default: outcome = .failed
        }
        guard !confirmation.isHealthy, !mutated(.alwaysHealthy) else {
            return end(index, outcome, reason: outcome == .succeeded ? "" : undone)
        }
        let reasons = [undone, confirmation.reason].filter { !$0.isEmpty }
        end(index, .unhealthy, reason: reasons.joined(separator: "; then "))
    }
}
