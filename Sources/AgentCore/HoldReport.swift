public import Fleet

// What a step tells in the end, and how a restarted agent takes one up again.
extension HoldMachine {
    /// The worst of the guests' outcomes, with a record for each guest that was really stopped.
    func report() -> StepReport {
        let outcomes = guests.compactMap {
            if case .done(let outcome) = $0.state { outcome } else { nil }
        }
        let sorted = (outcomes + hostOutcomes).sorted { severity($0) < severity($1) }
        let worst = (mutated(.bestOutcomeTold) ? sorted.first : sorted.last) ?? .failed
        var reasons = guests.filter { !$0.reason.isEmpty && $0.reason != patch.reason }
            .map { "\($0.plan.id): \($0.reason)" }
        if !patch.reason.isEmpty { reasons.insert(patch.reason, at: 0) }
        let reason: String
        if worst == .succeeded {
            reason = ""
        } else if guests.allSatisfy({ $0.heldAt == nil }), let abandonReason, worst == .failed,
            patch.reason.isEmpty
        {
            reason = "nothing was held: \(abandonReason)"
        } else {
            reason = reasons.joined(separator: "; ")
        }
        return StepReport(
            step: directive.step, token: directive.token, outcome: worst,
            reason: String(reason.prefix(Limits.reasonByteCountMax / 4)), phases: phases,
            holds: guests.compactMap(record))
    }

    private func record(_ guest: Guest) -> HoldRecord? {
        guard let heldAt = guest.heldAt, case .done(let outcome) = guest.state else { return nil }
        let isOnNew = guest.side == .new
        return HoldRecord(
            guest: guest.plan.id, outcome: outcome, reason: guest.reason, heldAt: guest.heldWall,
            holdMicroseconds: guest.resumedAt.map { max(0, $0 - heldAt) },
            resumedBy: guest.resumedBy,
            clockErrorBeforeMicroseconds: guest.confirmation?.clockErrorBeforeMicroseconds,
            clockErrorAfterMicroseconds: guest.confirmation?.clockErrorAfterMicroseconds,
            clockNote: guest.confirmation?.clockNote ?? "",
            hypervisorBefore: guest.plan.hypervisorBefore,
            hypervisorAfter: isOnNew ? directive.release.version : guest.plan.hypervisorBefore)
    }
}

private func severity(_ outcome: StepOutcome) -> Int {
    switch outcome {
    case .succeeded: 0
    case .failed: 1
    case .unhealthy: 2
    case .lost: 3
    }
}

/// One guest of a step that a restarted agent takes up again.
public struct RecoveredGuest: Hashable, Sendable {
    public var plan: GuestPlan
    /// As decided by ``Recovery/decide(old:new:)``. One that is still `wait` keeps no
    /// other guest waiting: `found` tells later what it has become.
    public var action: RecoveryAction
    public var history: HoldHistory

    public init(plan: GuestPlan, action: RecoveryAction, history: HoldHistory) {
        self.plan = plan
        self.action = action
        self.history = history
    }
}

extension HoldMachine {
    /// A step that an agent before this one began and did not report.
    ///
    /// - Parameters:
    ///   - directive: from the durable record.
    ///   - recovered: its guests, in the directive's order, with what their processes are doing.
    ///   - phases: what the notes tell, with `accepted` from the durable record first.
    ///   - commands: what the notes tell of the release's commands.
    public init(
        recovering directive: Directive, guests recovered: [RecoveredGuest], phases: [PhaseTime],
        commands: CommandHistory = CommandHistory([])
    ) {
        precondition(
            recovered.map(\.plan.id) == directive.guests, "guests do not fit \(directive.step)")
        self.directive = directive
        concurrency = Limits.stepGuestsMax
        budget = HoldBudget(directive, MeasuredParts())
        resumer = .restartedAgent
        self.commands = commands
        self.phases = phases
        actions = recovered.map(\.action)
        histories = recovered.map(\.history)
        guests = recovered.map { Guest(plan: $0.plan) }
        for index in guests.indices { takeHistory(index) }
    }

    private mutating func takeHistory(_ index: Int) {
        let history = histories[index]
        guests[index].holdingAt = history.holdingAt
        guests[index].holdingWall = history.holdingWall ?? Timestamp(microseconds: 0)
        // A guest that is found stopped was stopped even if nobody lived to note it.
        let isFoundStopped: Bool
        switch actions[index] {
        case .continueGuest:
            // Also one that was found executing before: the command of a dead agent came late.
            isFoundStopped = history.wasHeld == true || history.holdingAt != nil
        case .lost, .unnamed: isFoundStopped = history.wasHeld ?? (history.holdingAt != nil)
        case .keep(let side): isFoundStopped = history.wasHeld ?? (side == .new)
        case .wait: isFoundStopped = false
        }
        if isFoundStopped {
            guests[index].heldAt = history.heldAt
            guests[index].heldWall = history.heldWall ?? guests[index].holdingWall
        }
        guests[index].resumedAt = history.resumedAt ?? history.continuingAt
        guests[index].resumedBy = history.resumedBy ?? history.continuingBy ?? .agent
        guests[index].reason = history.reason
    }

    /// A guest that could not be reached when the others were taken up.
    mutating func onFound(_ index: Int, _ action: RecoveryAction, at now: Int64) {
        guard guests[index].state == .unreachable, action != .wait else { return }
        actions[index] = action
        takeHistory(index)
        if work != nil {
            beginRecoveredOnHost(index, at: now)
        } else {
            beginRecovered(index, at: now)
        }
    }

    /// That it stands still is seen now and by nobody later: should this agent die as well, the next one
    /// finds it executing, and has to know that it was held.
    mutating func noteFoundStopped(_ index: Int) {
        guard histories[index].wasHeld == nil, let heldAt = guests[index].heldAt,
            case .continueGuest = actions[index], !mutated(.finishedHoldForgotten)
        else { return }
        effects.append(
            .note(.stopped(guests[index].plan.id, at: heldAt, wall: guests[index].heldWall)))
    }

    /// Brings a recovered guest into the state that its processes are in.
    mutating func beginRecovered(_ index: Int, at now: Int64) {
        let id = guests[index].plan.id
        guests[index].holdingAt = guests[index].holdingAt ?? now
        noteFoundStopped(index)
        switch actions[index] {
        case .keep(.old):
            if guests[index].reason.isEmpty {
                guests[index].reason = "the agent ended before the guest was handed over"
            }
            effects.append(.switchQueues(id, to: .old))
            settle(index, on: .old, at: now)
        case .keep(.new):
            guests[index].reason = ""
            if guests[index].heldAt == nil, let accepted = phases.first {
                // It cannot be there without a hold; the notes of it are gone, its length with them.
                guests[index].heldAt = now
                guests[index].heldWall = accepted.at
            }
            effects.append(.switchQueues(id, to: .new))
            settle(index, on: .new, at: now)
        case .continueGuest(.old):
            if guests[index].reason.isEmpty {
                guests[index].reason = "the agent ended in the middle of the hand-over"
            }
            guests[index].resumedAt = nil
            guests[index].state = .undoing
            effects.append(.kill(id, .new))
            effects.append(.switchQueues(id, to: .old))
        case .continueGuest(.new) where !histories[index].isCommitted:
            loseFound(index, "nobody knows whether it went on in the old QEMU, which has ended")
        case .continueGuest(.new):
            guests[index].reason = ""
            guests[index].resumedAt = nil
            guests[index].state = .committing
            effects.append(.switchQueues(id, to: .new))
            effects.append(.kill(id, .old))
        case .lost(let reason): loseFound(index, reason)
        case .unnamed: endUnnamed(index)
        case .wait: guests[index].state = .unreachable
        }
    }

    /// What the notes tell of it is all that there will be.
    mutating func endUnnamed(_ index: Int) {
        let isKnownToGoOn = guests[index].heldAt == nil || guests[index].resumedAt != nil
        end(
            index, isKnownToGoOn ? .failed : .lost,
            reason: "the host's file does not name it any more")
    }
}
