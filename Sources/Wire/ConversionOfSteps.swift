// Directives and reports: between the vocabulary (`Fleet`) and the schema (`PB…`).
public import Fleet

extension PhaseTime {
    public var wire: PBPhaseTime {
        var wire = PBPhaseTime()
        wire.phase = phase.wire
        wire.atMicroseconds = at.microseconds
        return wire
    }
    public init(wire: PBPhaseTime) throws(ConversionError) {
        self.init(
            phase: try StepPhase.checked(wire.phase, "phase"),
            at: try checkedTime(wire.atMicroseconds, "at_microseconds"))
    }
}

extension HoldRecord {
    public var wire: PBHoldRecord {
        var wire = PBHoldRecord()
        wire.guest = guest.rawValue
        wire.outcome = outcome.wire
        wire.reason = reason
        wire.heldAtMicroseconds = heldAt.microseconds
        if let holdMicroseconds { wire.holdMicroseconds = holdMicroseconds }
        wire.resumedBy = resumedBy.wire
        if let clockErrorBeforeMicroseconds {
            wire.clockErrorBeforeMicroseconds = clockErrorBeforeMicroseconds
        }
        if let clockErrorAfterMicroseconds {
            wire.clockErrorAfterMicroseconds = clockErrorAfterMicroseconds
        }
        wire.clockNote = clockNote
        wire.hypervisorBefore = hypervisorBefore
        wire.hypervisorAfter = hypervisorAfter
        return wire
    }
    public init(wire: PBHoldRecord) throws(ConversionError) {
        let longest = Limits.timeMicroseconds.upperBound
        try checkRange(wire.holdMicroseconds, 0...longest, "hold_microseconds")
        try checkRange(
            wire.clockErrorBeforeMicroseconds, -longest...longest,
            "clock_error_before_microseconds")
        try checkRange(
            wire.clockErrorAfterMicroseconds, -longest...longest, "clock_error_after_microseconds")
        self.init(
            guest: try checkedName(wire.guest, "guest"),
            outcome: try StepOutcome.checked(wire.outcome, "outcome"),
            reason: cutText(wire.reason),
            heldAt: try checkedTime(wire.heldAtMicroseconds, "held_at_microseconds"),
            holdMicroseconds: wire.hasHoldMicroseconds ? wire.holdMicroseconds : nil,
            resumedBy: try Resumer.checked(wire.resumedBy, "resumed_by"),
            clockErrorBeforeMicroseconds: wire.hasClockErrorBeforeMicroseconds
                ? wire.clockErrorBeforeMicroseconds : nil,
            clockErrorAfterMicroseconds: wire.hasClockErrorAfterMicroseconds
                ? wire.clockErrorAfterMicroseconds : nil,
            clockNote: cutText(wire.clockNote),
            hypervisorBefore: try checkedText(wire.hypervisorBefore, "hypervisor_before"),
            hypervisorAfter: try checkedText(wire.hypervisorAfter, "hypervisor_after"))
    }
}

extension StepReport {
    public var wire: PBStepReport {
        var wire = PBStepReport()
        wire.step = step.wire
        wire.token = token.number
        wire.outcome = outcome.wire
        wire.reason = reason
        wire.phases = phases.map(\.wire)
        wire.holds = holds.map(\.wire)
        return wire
    }
    public init(wire: PBStepReport) throws(ConversionError) {
        try checkCount(wire.holds.count, max: Limits.stepGuestsMax, "holds")
        self.init(
            step: try required(wire.hasStep, wire.step, "step", StepID.init(wire:)),
            token: try checkedToken(wire.token, "token"),
            outcome: try StepOutcome.checked(wire.outcome, "outcome"),
            reason: cutText(wire.reason),
            phases: try list(wire.phases, "phases", PhaseTime.init(wire:)),
            holds: try list(wire.holds, "holds", HoldRecord.init(wire:)))
    }
}

extension StepProgress {
    public var wire: PBStepProgress {
        var wire = PBStepProgress()
        wire.step = step.wire
        wire.token = token.number
        wire.phase = phase.wire
        wire.atMicroseconds = at.microseconds
        return wire
    }
    public init(wire: PBStepProgress) throws(ConversionError) {
        self.init(
            step: try required(wire.hasStep, wire.step, "step", StepID.init(wire:)),
            token: try checkedToken(wire.token, "token"),
            phase: try StepPhase.checked(wire.phase, "phase"),
            at: try checkedTime(wire.atMicroseconds, "at_microseconds"))
    }
}

extension Directive {
    public var wire: PBDirective {
        var wire = PBDirective()
        wire.step = step.wire
        wire.token = token.number
        wire.host = host.rawValue
        wire.release = release.wire
        wire.guests = guests.sorted().map(\.rawValue)
        wire.deadlineMilliseconds = deadlineMilliseconds
        return wire
    }
    /// Checks the deadline too: no agent may hold longer than the promise, whoever asks.
    public init(wire: PBDirective) throws(ConversionError) {
        try checkCount(wire.guests.count, max: Limits.stepGuestsMax, "guests")
        let guests: [GuestID] = try checkedNames(wire.guests, "guests")
        try checkAscending(guests, "guests") { $0 }
        let deadlines = Limits.deadlineMillisecondsMin...Limits.deadlineMillisecondsMax
        guard deadlines.contains(wire.deadlineMilliseconds) else {
            throw outOfRange(
                Int64(wire.deadlineMilliseconds), Int64(deadlines.lowerBound),
                Int64(deadlines.upperBound), "deadline_milliseconds")
        }
        let release = try required(
            wire.hasRelease, wire.release, "release", Release.init(wire:))
        switch release.scope {
        case .guest where guests.isEmpty: throw ConversionError(.missing, field: "guests")
        case .none where !guests.isEmpty:
            throw ConversionError(
                .contradiction("not empty, but the release holds no guest"), field: "guests")
        case .guest, .host, .none: break
        }
        self.init(
            step: try required(wire.hasStep, wire.step, "step", StepID.init(wire:)),
            token: try checkedToken(wire.token, "token"),
            host: try checkedName(wire.host, "host"), release: release,
            guests: guests, deadlineMilliseconds: wire.deadlineMilliseconds)
    }
}

extension DirectiveAnswer {
    public var wire: PBDirectiveAnswer.OneOf_Answer {
        switch self {
        case .accepted: .accepted(PBEmpty())
        case .staleToken(let acceptedToken): .staleAcceptedToken(acceptedToken.number)
        case .busy(let step): .busyWith(step.wire)
        case .refused(let reason): .refusedReason(reason)
        }
    }
    public init(wire: PBDirectiveAnswer.OneOf_Answer?) throws(ConversionError) {
        switch wire {
        case .accepted: self = .accepted
        case .staleAcceptedToken(let number):
            self = .staleToken(acceptedToken: try checkedToken(number, "stale_accepted_token"))
        case .busyWith(let step):
            self = .busy(with: try required(true, step, "busy_with", StepID.init(wire:)))
        case .refusedReason(let reason): self = .refused(reason: cutText(reason))
        case nil: throw ConversionError(.missing, field: "answer")
        }
    }
}
