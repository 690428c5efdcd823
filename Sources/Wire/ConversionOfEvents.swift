// Events and finished holds: between the vocabulary (`Fleet`) and the schema (`PB…`).
public import Fleet

extension FinishedHold {
    public var wire: PBFinishedHold {
        var wire = PBFinishedHold()
        wire.record = record.wire
        wire.host = host.rawValue
        if let pair { wire.pair = pair.wire }
        wire.step = step.wire
        wire.token = token.number
        wire.release = release.rawValue
        wire.component = component.description
        wire.version = version
        return wire
    }
    public init(wire: PBFinishedHold) throws(ConversionError) {
        self.init(
            record: try required(wire.hasRecord, wire.record, "record", HoldRecord.init(wire:)),
            host: try checkedName(wire.host, "host"),
            pair: try optional(wire.hasPair, wire.pair, "pair", SetPair.init(wire:)),
            step: try required(wire.hasStep, wire.step, "step", StepID.init(wire:)),
            token: try checkedToken(wire.token, "token"),
            release: try checkedName(wire.release, "release"),
            component: try checkedComponent(wire.component, "component"),
            version: try checkedText(wire.version, "version"))
    }
}

extension FleetEvent {
    public var wire: PBFleetEvent {
        var wire = PBFleetEvent()
        wire.sequence = sequence
        wire.atMicroseconds = at.microseconds
        wire.body = body.wire
        return wire
    }
    public init(wire: PBFleetEvent) throws(ConversionError) {
        guard wire.sequence > 0 else { throw outOfRange(0, 1, Int64.max, "sequence") }
        self.init(
            sequence: wire.sequence, at: Timestamp(microseconds: wire.atMicroseconds),
            body: try Body(wire: wire.body))
    }
}

extension FleetEvent.Body {
    public var wire: PBFleetEvent.OneOf_Body {
        switch self {
        case .rolloutStarted(let rollout, let release, let stepCount):
            var wire = PBFleetEvent.RolloutStarted()
            wire.rollout = rollout.number
            wire.release = release.rawValue
            wire.stepCount = stepCount
            return .rolloutStarted(wire)
        case .rolloutChanged(let rollout, let state, let reason):
            var wire = PBFleetEvent.RolloutChanged()
            wire.rollout = rollout.number
            wire.state = state.wire
            wire.isPaused = state == .paused
            wire.reason = reason
            return .rolloutChanged(wire)
        case .stepNoticed(let notice): return .stepNoticed(notice.wire)
        case .noticeAcknowledged(let step, let guest):
            var wire = PBFleetEvent.NoticeAcknowledged()
            wire.step = step.wire
            wire.guest = guest.rawValue
            return .noticeAcknowledged(wire)
        case .noticeWithdrawn(let step, let reason):
            var wire = PBFleetEvent.NoticeWithdrawn()
            wire.step = step.wire
            wire.reason = reason
            return .noticeWithdrawn(wire)
        case .stepGranted(
            let step, let host, let guests, let pairs, let release, let component, let version):
            var wire = PBFleetEvent.StepGranted()
            wire.step = step.wire
            wire.host = host.rawValue
            wire.guests = guests.map(\.rawValue)
            wire.pairs = pairs.map(\.wire)
            wire.release = release.rawValue
            wire.component = component.description
            wire.version = version
            return .stepGranted(wire)
        case .stepEndedWithoutHold(let step, let host, let reason):
            var wire = PBFleetEvent.StepEndedWithoutHold()
            wire.step = step.wire
            wire.host = host.rawValue
            wire.reason = reason
            return .stepEndedWithoutHold(wire)
        case .stepEnded(let step, let host, let outcome, let reason):
            var wire = PBFleetEvent.StepEnded()
            wire.step = step.wire
            wire.host = host.rawValue
            if let outcome { wire.outcome = outcome.wire }
            wire.reason = reason
            return .stepEnded(wire)
        case .holdFinished(let hold): return .holdFinished(hold.wire)
        case .lockReleased(let set, let by, let reason):
            var wire = PBFleetEvent.LockReleased()
            wire.set = set.rawValue
            wire.by = by
            wire.reason = reason
            return .lockReleased(wire)
        }
    }

    public init(wire: PBFleetEvent.OneOf_Body?) throws(ConversionError) {
        switch wire {
        case .rolloutStarted(let wire):
            self = .rolloutStarted(
                rollout: try checkedRollout(wire.rollout, "rollout_started.rollout"),
                release: try checkedName(wire.release, "rollout_started.release"),
                stepCount: wire.stepCount)
        case .rolloutChanged(let wire):
            self = .rolloutChanged(
                rollout: try checkedRollout(wire.rollout, "rollout_changed.rollout"),
                state: try RolloutState.checked(
                    wire.state, "rollout_changed.state", isPaused: wire.isPaused),
                reason: cutText(wire.reason))
        case .stepGranted(let wire):
            self = .stepGranted(
                step: try required(
                    wire.hasStep, wire.step, "step_granted.step", StepID.init(wire:)),
                host: try checkedName(wire.host, "step_granted.host"),
                guests: try checkedNames(wire.guests, "step_granted.guests"),
                pairs: try list(wire.pairs, "step_granted.pairs", SetPair.init(wire:)),
                // Older versions did not say what is installed.
                release: wire.release.isEmpty
                    ? ReleaseID(checked: "unknown")
                    : try checkedName(wire.release, "step_granted.release"),
                component: wire.component.isEmpty
                    ? .hypervisor : try checkedComponent(wire.component, "step_granted.component"),
                version: try checkedText(wire.version, "step_granted.version"))
        case .stepNoticed(let wire):
            self = .stepNoticed(try required(true, wire, "step_noticed", Notice.init(wire:)))
        case .noticeAcknowledged(let wire):
            self = .noticeAcknowledged(
                step: try required(
                    wire.hasStep, wire.step, "notice_acknowledged.step", StepID.init(wire:)),
                guest: try checkedName(wire.guest, "notice_acknowledged.guest"))
        case .noticeWithdrawn(let wire):
            self = .noticeWithdrawn(
                step: try required(
                    wire.hasStep, wire.step, "notice_withdrawn.step", StepID.init(wire:)),
                reason: cutText(wire.reason))
        case .stepEnded(let wire):
            self = .stepEnded(
                step: try required(wire.hasStep, wire.step, "step_ended.step", StepID.init(wire:)),
                host: try checkedName(wire.host, "step_ended.host"),
                outcome: wire.hasOutcome
                    ? try StepOutcome.checked(wire.outcome, "step_ended.outcome") : nil,
                reason: cutText(wire.reason))
        case .stepEndedWithoutHold(let wire):
            self = .stepEndedWithoutHold(
                step: try required(
                    wire.hasStep, wire.step, "step_ended_without_hold.step", StepID.init(wire:)),
                host: try checkedName(wire.host, "step_ended_without_hold.host"),
                reason: cutText(wire.reason))
        case .holdFinished(let wire):
            self = .holdFinished(
                try required(true, wire, "hold_finished", FinishedHold.init(wire:)))
        case .lockReleased(let wire):
            self = .lockReleased(
                set: try checkedName(wire.set, "lock_released.set"),
                by: try checkedText(wire.by, "lock_released.by"), reason: cutText(wire.reason))
        case nil: throw ConversionError(.missing, field: "body")
        }
    }
}
