// What a server tells of its state: between the vocabulary (`Fleet`) and the schema (`PB…`).
public import Fleet

extension NotifierView {
    public var wire: PBNotifierView {
        var wire = PBNotifierView()
        wire.name = name
        wire.acknowledgedSequence = acknowledgedSequence
        wire.lastSequence = lastSequence
        if let connected { wire.connected = connected }
        return wire
    }
    public init(wire: PBNotifierView) throws(ConversionError) {
        self.init(
            name: try checkedText(wire.name, "name"),
            acknowledgedSequence: wire.acknowledgedSequence, lastSequence: wire.lastSequence,
            connected: wire.hasConnected ? wire.connected : nil)
    }
}

extension StatusView {
    public var wire: PBStatusView {
        var wire = PBStatusView()
        wire.cluster = cluster
        wire.server = server
        wire.term = term
        wire.index = index
        wire.softwareVersion = softwareVersion
        wire.hostCount = hostCount
        wire.connectedHostCount = connectedHostCount
        wire.guestCount = guestCount
        wire.runningGuestCount = runningGuestCount
        wire.setCount = setCount
        wire.lockedSetCount = lockedSetCount
        wire.stuckSetCount = stuckSetCount
        wire.activeRollouts = activeRollouts.map(\.number)
        wire.notifiers = notifiers.map(\.wire)
        wire.warnings = warnings
        wire.counters = traffic.counters.map(\.wire)
        wire.certificates = traffic.certificates.map(\.wire)
        wire.sessionCount = traffic.sessionCount
        wire.halfOpenCount = traffic.halfOpenCount
        wire.store = store
        wire.isStandby = isStandby
        wire.leader = leader
        wire.keptEventCount = keptEventCount
        return wire
    }
    public init(wire: PBStatusView) throws(ConversionError) {
        self.init(
            cluster: try checkedText(wire.cluster, "cluster"),
            server: try checkedText(wire.server, "server"), term: wire.term, index: wire.index,
            softwareVersion: try checkedText(wire.softwareVersion, "software_version"),
            hostCount: wire.hostCount, connectedHostCount: wire.connectedHostCount,
            guestCount: wire.guestCount, runningGuestCount: wire.runningGuestCount,
            setCount: wire.setCount, lockedSetCount: wire.lockedSetCount,
            stuckSetCount: wire.stuckSetCount,
            activeRollouts: try list(wire.activeRollouts, "active_rollouts") {
                number throws(ConversionError) in try checkedRollout(number, "")
            },
            notifiers: try list(wire.notifiers, "notifiers", NotifierView.init(wire:)),
            warnings: wire.warnings.map(cutText),
            traffic: ServerTraffic(
                sessionCount: wire.sessionCount, halfOpenCount: wire.halfOpenCount,
                counters: try list(wire.counters, "counters", Counter.init(wire:)),
                certificates: try list(
                    wire.certificates, "certificates", CertificateView.init(wire:))),
            store: try checkedText(wire.store, "store"), isStandby: wire.isStandby,
            leader: try checkedText(wire.leader, "leader"), keptEventCount: wire.keptEventCount)
    }
}

extension Counter {
    public var wire: PBCounter {
        var wire = PBCounter()
        wire.name = name
        wire.reason = reason
        wire.count = count
        return wire
    }
    public init(wire: PBCounter) throws(ConversionError) {
        self.init(
            name: try checkedText(wire.name, "name"),
            reason: try checkedText(wire.reason, "reason"), count: wire.count)
    }
}

extension CertificateView {
    public var wire: PBCertificateView {
        var wire = PBCertificateView()
        wire.identity = identity
        wire.serial = serial
        wire.expiresAtMicroseconds = expiresAt.microseconds
        return wire
    }
    public init(wire: PBCertificateView) throws(ConversionError) {
        self.init(
            identity: try checkedText(wire.identity, "identity"),
            serial: try checkedText(wire.serial, "serial"),
            expiresAt: Timestamp(microseconds: wire.expiresAtMicroseconds))
    }
}

extension HostView {
    public var wire: PBHostView {
        var wire = PBHostView()
        wire.id = id.rawValue
        wire.connected = connected
        wire.agentVersion = agentVersion
        wire.acceptedToken = acceptedToken.number
        wire.guestCount = guestCount
        wire.runningGuestCount = runningGuestCount
        wire.lastReportAtMicroseconds = lastReportAt.microseconds
        if let step { wire.step = step.wire }
        wire.warnings = warnings
        wire.software = software.map(\.wire)
        if let cordon { wire.cordon = cordon.wire }
        return wire
    }
    public init(wire: PBHostView) throws(ConversionError) {
        self.init(
            id: try checkedName(wire.id, "id"), connected: wire.connected,
            agentVersion: try checkedText(wire.agentVersion, "agent_version"),
            acceptedToken: Token(wire.acceptedToken), guestCount: wire.guestCount,
            runningGuestCount: wire.runningGuestCount,
            lastReportAt: Timestamp(microseconds: wire.lastReportAtMicroseconds),
            step: try optional(wire.hasStep, wire.step, "step", StepID.init(wire:)),
            warnings: wire.warnings.map(cutText),
            software: try list(wire.software, "software", InstalledSoftware.init(wire:)),
            cordon: try optional(wire.hasCordon, wire.cordon, "cordon", Cordon.init(wire:)))
    }
}

extension Cordon {
    public var wire: PBCordon {
        var wire = PBCordon()
        wire.reason = reason
        wire.by = by
        wire.sinceMicroseconds = since.microseconds
        return wire
    }
    public init(wire: PBCordon) throws(ConversionError) {
        self.init(
            reason: cutText(wire.reason), by: try checkedText(wire.by, "by"),
            since: Timestamp(microseconds: wire.sinceMicroseconds))
    }
}

extension GuestView {
    public var wire: PBGuestView {
        var wire = PBGuestView()
        wire.report = report.wire
        wire.host = host.rawValue
        if let updateDomain { wire.updateDomain = updateDomain.wire }
        wire.placedByLeader = placedByLeader
        wire.hostConnected = hostConnected
        return wire
    }
    public init(wire: PBGuestView) throws(ConversionError) {
        self.init(
            report: try required(wire.hasReport, wire.report, "report", GuestReport.init(wire:)),
            host: try checkedName(wire.host, "host"),
            updateDomain: wire.hasUpdateDomain
                ? try checkedUpdateDomain(wire.updateDomain, "update_domain") : nil,
            placedByLeader: wire.placedByLeader, hostConnected: wire.hostConnected)
    }
}

extension SetView.Domain {
    public var wire: PBSetView.Domain {
        var wire = PBSetView.Domain()
        wire.updateDomain = updateDomain.wire
        wire.guests = guests.map(\.rawValue)
        return wire
    }
    public init(wire: PBSetView.Domain) throws(ConversionError) {
        self.init(
            updateDomain: try checkedUpdateDomain(wire.updateDomain, "update_domain"),
            guests: try checkedNames(wire.guests, "guests"))
    }
}

extension SetView {
    public var wire: PBSetView {
        var wire = PBSetView()
        wire.id = id.rawValue
        wire.updateDomainCount = UInt32(updateDomainCount)
        wire.domains = domains.map(\.wire)
        if let lockedUpdateDomain { wire.lockedUpdateDomain = lockedUpdateDomain.wire }
        wire.warnings = warnings
        return wire
    }
    public init(wire: PBSetView) throws(ConversionError) {
        self.init(
            id: try checkedName(wire.id, "id"),
            updateDomainCount: try checkedUpdateDomainCount(
                wire.updateDomainCount, "update_domain_count"),
            domains: try list(wire.domains, "domains", Domain.init(wire:)),
            lockedUpdateDomain: wire.hasLockedUpdateDomain
                ? try checkedUpdateDomain(wire.lockedUpdateDomain, "locked_update_domain") : nil,
            warnings: wire.warnings.map(cutText))
    }
}

extension LockView {
    public var wire: PBLockView {
        var wire = PBLockView()
        wire.set = set.rawValue
        wire.updateDomain = updateDomain.wire
        wire.step = step.wire
        wire.token = token.number
        wire.host = host.rawValue
        wire.guests = guests.map(\.rawValue)
        wire.grantedAtMicroseconds = grantedAt.microseconds
        wire.stuck = stuck
        wire.reason = reason
        return wire
    }
    public init(wire: PBLockView) throws(ConversionError) {
        self.init(
            set: try checkedName(wire.set, "set"),
            updateDomain: try checkedUpdateDomain(wire.updateDomain, "update_domain"),
            step: try required(wire.hasStep, wire.step, "step", StepID.init(wire:)),
            token: try checkedToken(wire.token, "token"),
            host: try checkedName(wire.host, "host"),
            guests: try checkedNames(wire.guests, "guests"),
            grantedAt: Timestamp(microseconds: wire.grantedAtMicroseconds), stuck: wire.stuck,
            reason: cutText(wire.reason))
    }
}

extension ReleaseView {
    public var wire: PBReleaseView {
        var wire = PBReleaseView()
        wire.release = release.wire
        wire.addedAtMicroseconds = addedAt.microseconds
        wire.addedBy = addedBy
        return wire
    }
    public init(wire: PBReleaseView) throws(ConversionError) {
        self.init(
            release: try required(wire.hasRelease, wire.release, "release", Release.init(wire:)),
            addedAt: Timestamp(microseconds: wire.addedAtMicroseconds),
            addedBy: try checkedText(wire.addedBy, "added_by"))
    }
}

extension PlanView.Skipped {
    public var wire: PBSkipped {
        var wire = PBSkipped()
        if let guest { wire.guest = guest.rawValue }
        wire.host = host.rawValue
        wire.reason = reason
        return wire
    }
    public init(wire: PBSkipped) throws(ConversionError) {
        self.init(
            guest: wire.guest.isEmpty ? nil : try checkedName(wire.guest, "guest"),
            host: try checkedName(wire.host, "host"), reason: cutText(wire.reason))
    }
}

extension PlanView.Step {
    public var wire: PBPlanView.Step {
        var wire = PBPlanView.Step()
        wire.host = host.rawValue
        wire.guests = guests.map(\.rawValue)
        wire.pairs = pairs.map(\.wire)
        wire.wave = wave
        return wire
    }
    public init(wire: PBPlanView.Step) throws(ConversionError) {
        self.init(
            host: try checkedName(wire.host, "host"),
            guests: try checkedNames(wire.guests, "guests"),
            pairs: try list(wire.pairs, "pairs", SetPair.init(wire:)), wave: wire.wave)
    }
}

extension PlanView {
    public var wire: PBPlanView {
        var wire = PBPlanView()
        wire.release = release.rawValue
        wire.policy = policy.wire
        wire.steps = steps.map(\.wire)
        wire.waveCount = waveCount
        wire.skipped = skipped.map(\.wire)
        wire.problems = problems
        return wire
    }
    public init(wire: PBPlanView) throws(ConversionError) {
        guard wire.hasPolicy else { throw ConversionError(.missing, field: "policy") }
        self.init(
            release: try checkedName(wire.release, "release"), policy: Policy(wire: wire.policy),
            steps: try list(wire.steps, "steps", Step.init(wire:)), waveCount: wire.waveCount,
            skipped: try list(wire.skipped, "skipped", Skipped.init(wire:)),
            problems: wire.problems.map(cutText))
    }
}

extension StepView {
    public var wire: PBStepView {
        var wire = PBStepView()
        wire.id = id.wire
        wire.host = host.rawValue
        wire.guests = guests.map(\.rawValue)
        wire.pairs = pairs.map(\.wire)
        wire.phase = phase.wire
        if let token { wire.token = token.number }
        if let outcome { wire.outcome = outcome.wire }
        wire.reason = reason
        if let grantedAt { wire.grantedAtMicroseconds = grantedAt.microseconds }
        if let finishedAt { wire.finishedAtMicroseconds = finishedAt.microseconds }
        wire.phases = phases.map(\.wire)
        wire.holds = holds.map(\.wire)
        if let noticedAt { wire.noticedAtMicroseconds = noticedAt.microseconds }
        if let notBefore { wire.notBeforeMicroseconds = notBefore.microseconds }
        return wire
    }
    public init(wire: PBStepView) throws(ConversionError) {
        self.init(
            id: try required(wire.hasID, wire.id, "id", StepID.init(wire:)),
            host: try checkedName(wire.host, "host"),
            guests: try checkedNames(wire.guests, "guests"),
            pairs: try list(wire.pairs, "pairs", SetPair.init(wire:)),
            phase: try StepPhase.checked(wire.phase, "phase"),
            token: wire.hasToken ? try checkedToken(wire.token, "token") : nil,
            outcome: wire.hasOutcome ? try StepOutcome.checked(wire.outcome, "outcome") : nil,
            reason: cutText(wire.reason),
            grantedAt: wire.hasGrantedAtMicroseconds
                ? Timestamp(microseconds: wire.grantedAtMicroseconds) : nil,
            finishedAt: wire.hasFinishedAtMicroseconds
                ? Timestamp(microseconds: wire.finishedAtMicroseconds) : nil,
            phases: try list(wire.phases, "phases", PhaseTime.init(wire:)),
            holds: try list(wire.holds, "holds", HoldRecord.init(wire:)),
            noticedAt: wire.hasNoticedAtMicroseconds
                ? Timestamp(microseconds: wire.noticedAtMicroseconds) : nil,
            notBefore: wire.hasNotBeforeMicroseconds
                ? Timestamp(microseconds: wire.notBeforeMicroseconds) : nil)
    }
}

extension RolloutView {
    public var wire: PBRolloutView {
        var wire = PBRolloutView()
        wire.id = id.number
        wire.release = release.rawValue
        wire.component = component.description
        wire.version = version
        wire.selection = selection.wire
        wire.policy = policy.wire
        wire.state = state.wire
        wire.isPaused = state == .paused
        wire.reason = reason
        wire.startedAtMicroseconds = startedAt.microseconds
        wire.startedBy = startedBy
        if let finishedAt { wire.finishedAtMicroseconds = finishedAt.microseconds }
        wire.steps = steps.map(\.wire)
        wire.skipped = skipped.map(\.wire)
        return wire
    }
    public init(wire: PBRolloutView) throws(ConversionError) {
        guard wire.hasPolicy else { throw ConversionError(.missing, field: "policy") }
        self.init(
            id: try checkedRollout(wire.id, "id"),
            release: try checkedName(wire.release, "release"),
            component: try checkedComponent(wire.component, "component"),
            version: try checkedText(wire.version, "version"),
            selection: try required(
                wire.hasSelection, wire.selection, "selection", Selection.init(wire:)),
            policy: Policy(wire: wire.policy),
            state: try RolloutState.checked(wire.state, "state", isPaused: wire.isPaused),
            reason: cutText(wire.reason),
            startedAt: Timestamp(microseconds: wire.startedAtMicroseconds),
            startedBy: try checkedText(wire.startedBy, "started_by"),
            finishedAt: wire.hasFinishedAtMicroseconds
                ? Timestamp(microseconds: wire.finishedAtMicroseconds) : nil,
            steps: try list(wire.steps, "steps", StepView.init(wire:)),
            skipped: try list(wire.skipped, "skipped", PlanView.Skipped.init(wire:)))
    }
}
