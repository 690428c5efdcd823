// Hello, commands and queries: between the messages of this module and the schema (`PB…`).
import Fleet
import SwiftProtobuf

extension Hello {
    var wire: PBHello {
        var wire = PBHello()
        wire.magic = Self.magic
        wire.versionMin = versionMin
        wire.versionMax = versionMax
        wire.cluster = identity.cluster
        wire.role = identity.role.rawValue
        wire.name = identity.name
        wire.instance = .init(instance)
        wire.software = software
        return wire
    }
    /// Reads only what every version of a hello has: magic number and versions.
    static func versions(in body: [UInt8]) throws(ConversionError) -> ClosedRange<UInt32> {
        let wire: PBHello
        do { wire = try PBHello(serializedBytes: body) } catch {
            throw ConversionError(.unreadable, field: "hello")
        }
        do { return try checkedVersions(wire) } catch { throw error.within("hello") }
    }

    private static func checkedVersions(
        _ wire: PBHello
    ) throws(ConversionError) -> ClosedRange<UInt32> {
        guard wire.magic == Self.magic else {
            throw ConversionError(.unknownValue(Int(wire.magic)), field: "magic")
        }
        guard wire.versionMin > 0, wire.versionMin <= wire.versionMax else {
            throw outOfRange(Int64(wire.versionMin), 1, Int64(wire.versionMax), "version_min")
        }
        return wire.versionMin...wire.versionMax
    }

    init(wire: PBHello) throws(ConversionError) {
        let versions = try Self.checkedVersions(wire)
        guard wire.instance.count == Self.instanceByteCount else {
            throw ConversionError(
                .wrongByteCount(wire.instance.count, expected: Self.instanceByteCount),
                field: "instance")
        }
        guard HostID.isValid(wire.cluster) else {
            throw ConversionError(.invalidName(wire.cluster), field: "cluster")
        }
        guard let role = Role(rawValue: wire.role) else {
            throw ConversionError(.invalidName(wire.role), field: "role")
        }
        guard
            let identity = PeerIdentity(cluster: wire.cluster, role: role, name: wire.name)
        else { throw ConversionError(.invalidName(wire.name), field: "name") }
        self.init(
            versionMin: versions.lowerBound, versionMax: versions.upperBound, identity: identity,
            instance: [UInt8](wire.instance), software: cutText(wire.software))
    }
}

extension HelloAccepted {
    var wire: PBHelloAccepted {
        var wire = PBHelloAccepted()
        wire.version = version
        wire.server = server
        wire.isLeader = isLeader
        wire.term = term
        wire.keepaliveMilliseconds = keepaliveMilliseconds
        wire.silenceMilliseconds = silenceMilliseconds
        wire.servers = servers
        wire.software = software
        return wire
    }
    init(wire: PBHelloAccepted) throws(ConversionError) {
        guard HostID.isValid(wire.server) else {
            throw ConversionError(.invalidName(wire.server), field: "server")
        }
        // Zero would make every peer dead at once; an hour would never notice a dead one.
        let range: ClosedRange<UInt32> = 100...60_000
        guard range.contains(wire.keepaliveMilliseconds) else {
            throw outOfRange(
                Int64(wire.keepaliveMilliseconds), Int64(range.lowerBound),
                Int64(range.upperBound), "keepalive_milliseconds")
        }
        guard range.contains(wire.silenceMilliseconds),
            wire.silenceMilliseconds > wire.keepaliveMilliseconds
        else {
            throw outOfRange(
                Int64(wire.silenceMilliseconds), Int64(wire.keepaliveMilliseconds) + 1,
                Int64(range.upperBound), "silence_milliseconds")
        }
        self.init(
            version: wire.version, server: wire.server, isLeader: wire.isLeader, term: wire.term,
            keepaliveMilliseconds: wire.keepaliveMilliseconds,
            silenceMilliseconds: wire.silenceMilliseconds,
            servers: try list(wire.servers, "servers") {
                text throws(ConversionError) in try checkedText(text, "")
            },
            software: cutText(wire.software))
    }
}

private func wireOfStart(
    _ release: ReleaseID, _ selection: Selection, _ policy: Policy
) -> PBStartRollout {
    var wire = PBStartRollout()
    wire.release = release.rawValue
    wire.selection = selection.wire
    wire.policy = policy.wire
    return wire
}

private func wireOfHold(_ rollout: RolloutID, _ reason: String) -> PBHoldRollout {
    var wire = PBHoldRollout()
    wire.rollout = rollout.number
    wire.reason = reason
    return wire
}

private func wireOfHold(_ host: HostID, _ reason: String) -> PBHoldHost {
    var wire = PBHoldHost()
    wire.host = host.rawValue
    wire.reason = reason
    return wire
}

private func selection(_ wire: PBStartRollout) throws(ConversionError) -> Selection {
    try required(wire.hasSelection, wire.selection, "selection", Selection.init(wire:))
}

extension OperatorCommand {
    var wire: PBCommand {
        var wire = PBCommand()
        switch self {
        case .addRelease(let release): wire.command = .addRelease(release.wire)
        case .startRollout(let release, let selection, let policy):
            wire.command = .startRollout(wireOfStart(release, selection, policy))
        case .abortRollout(let rollout, let reason):
            var abort = PBAbortRollout()
            abort.rollout = rollout.number
            abort.reason = reason
            wire.command = .abortRollout(abort)
        case .releaseLock(let set, let reason):
            var release = PBReleaseLock()
            release.set = set.rawValue
            release.reason = reason
            wire.command = .releaseLock(release)
        case .stepDown: wire.command = .stepDown(PBEmpty())
        case .acknowledgeNotice(let step, let guest, let noticedAt):
            var acknowledge = PBAcknowledgeNotice()
            acknowledge.step = step.wire
            acknowledge.guest = guest.rawValue
            if let noticedAt { acknowledge.noticedAtMicroseconds = noticedAt.microseconds }
            wire.command = .acknowledgeNotice(acknowledge)
        case .pauseRollout(let rollout, let reason):
            wire.command = .pauseRollout(wireOfHold(rollout, reason))
        case .resumeRollout(let rollout, let reason):
            wire.command = .resumeRollout(wireOfHold(rollout, reason))
        case .cordonHost(let host, let reason):
            wire.command = .cordonHost(wireOfHold(host, reason))
        case .uncordonHost(let host, let reason):
            wire.command = .uncordonHost(wireOfHold(host, reason))
        case .forgetNotifier(let notifier, let reason):
            var forget = PBForgetNotifier()
            forget.notifier = notifier.rawValue
            forget.reason = reason
            wire.command = .forgetNotifier(forget)
        }
        return wire
    }
    init(wire: PBCommand) throws(ConversionError) {
        switch wire.command {
        case .addRelease(let release):
            self = .addRelease(try required(true, release, "add_release", Release.init(wire:)))
        case .startRollout(let start):
            self = .startRollout(
                release: try checkedName(start.release, "start_rollout.release"),
                selection: try required(true, start, "start_rollout", selection),
                policy: start.hasPolicy ? Policy(wire: start.policy) : Policy())
        case .abortRollout(let abort):
            self = .abortRollout(
                try checkedRollout(abort.rollout, "abort_rollout.rollout"),
                reason: cutText(abort.reason))
        case .releaseLock(let release):
            self = .releaseLock(
                try checkedName(release.set, "release_lock.set"), reason: cutText(release.reason))
        case .stepDown: self = .stepDown
        case .acknowledgeNotice(let acknowledge):
            self = .acknowledgeNotice(
                try required(
                    acknowledge.hasStep, acknowledge.step, "acknowledge_notice.step",
                    StepID.init(wire:)),
                guest: try checkedName(acknowledge.guest, "acknowledge_notice.guest"),
                noticedAt: acknowledge.hasNoticedAtMicroseconds
                    ? Timestamp(microseconds: acknowledge.noticedAtMicroseconds) : nil)
        case .pauseRollout(let hold):
            self = .pauseRollout(
                try checkedRollout(hold.rollout, "pause_rollout.rollout"),
                reason: cutText(hold.reason))
        case .resumeRollout(let hold):
            self = .resumeRollout(
                try checkedRollout(hold.rollout, "resume_rollout.rollout"),
                reason: cutText(hold.reason))
        case .cordonHost(let hold):
            self = .cordonHost(
                try checkedName(hold.host, "cordon_host.host"), reason: cutText(hold.reason))
        case .uncordonHost(let hold):
            self = .uncordonHost(
                try checkedName(hold.host, "uncordon_host.host"), reason: cutText(hold.reason))
        case .forgetNotifier(let forget):
            self = .forgetNotifier(
                try checkedName(forget.notifier, "forget_notifier.notifier"),
                reason: cutText(forget.reason))
        case nil: throw ConversionError(.missing, field: "command")
        }
    }
}

extension OperatorQuery {
    var wire: PBQuery {
        var wire = PBQuery()
        let nothing = PBEmpty()
        switch self {
        case .status: wire.query = .status(nothing)
        case .hosts: wire.query = .hosts(nothing)
        case .guests: wire.query = .guests(nothing)
        case .sets: wire.query = .sets(nothing)
        case .locks: wire.query = .locks(nothing)
        case .releases: wire.query = .releases(nothing)
        case .rollouts: wire.query = .rollouts(nothing)
        case .rollout(let rollout): wire.query = .rollout(rollout.number)
        case .plan(let release, let selection, let policy):
            wire.query = .plan(wireOfStart(release, selection, policy))
        case .notices: wire.query = .notices(nothing)
        }
        return wire
    }
    init(wire: PBQuery) throws(ConversionError) {
        switch wire.query {
        case .status: self = .status
        case .hosts: self = .hosts
        case .guests: self = .guests
        case .sets: self = .sets
        case .locks: self = .locks
        case .releases: self = .releases
        case .rollouts: self = .rollouts
        case .rollout(let number): self = .rollout(try checkedRollout(number, "rollout"))
        case .plan(let plan):
            self = .plan(
                release: try checkedName(plan.release, "plan.release"),
                selection: try required(true, plan, "plan", selection),
                policy: plan.hasPolicy ? Policy(wire: plan.policy) : Policy())
        case .notices: self = .notices
        case nil: throw ConversionError(.missing, field: "query")
        }
    }
}

extension OperatorQueryResult {
    var wire: PBQueryResult {
        var wire = PBQueryResult()
        switch self {
        case .status(let view): wire.result = .status(view.wire)
        case .hosts(let views): wire.result = .hosts(.with { $0.hosts = views.map(\.wire) })
        case .guests(let views): wire.result = .guests(.with { $0.guests = views.map(\.wire) })
        case .sets(let views): wire.result = .sets(.with { $0.sets = views.map(\.wire) })
        case .locks(let views): wire.result = .locks(.with { $0.locks = views.map(\.wire) })
        case .releases(let views):
            wire.result = .releases(.with { $0.releases = views.map(\.wire) })
        case .rollouts(let views):
            wire.result = .rollouts(.with { $0.rollouts = views.map(\.wire) })
        case .rollout(let view): wire.result = .rollout(view.wire)
        case .plan(let view): wire.result = .plan(view.wire)
        case .notices(let notices, let lastSequence):
            wire.result = .notices(
                .with {
                    $0.notices = notices.map(\.wire)
                    $0.lastSequence = lastSequence
                })
        }
        return wire
    }
    init(wire: PBQueryResult) throws(ConversionError) {
        switch wire.result {
        case .status(let view):
            self = .status(try required(true, view, "status", StatusView.init(wire:)))
        case .hosts(let views):
            self = .hosts(try list(views.hosts, "hosts.hosts", HostView.init(wire:)))
        case .guests(let views):
            self = .guests(try list(views.guests, "guests.guests", GuestView.init(wire:)))
        case .sets(let views):
            self = .sets(try list(views.sets, "sets.sets", SetView.init(wire:)))
        case .locks(let views):
            self = .locks(try list(views.locks, "locks.locks", LockView.init(wire:)))
        case .releases(let views):
            self = .releases(try list(views.releases, "releases.releases", ReleaseView.init(wire:)))
        case .rollouts(let views):
            self = .rollouts(try list(views.rollouts, "rollouts.rollouts", RolloutView.init(wire:)))
        case .rollout(let view):
            self = .rollout(try required(true, view, "rollout", RolloutView.init(wire:)))
        case .plan(let view):
            self = .plan(try required(true, view, "plan", PlanView.init(wire:)))
        case .notices(let views):
            self = .notices(
                try list(views.notices, "notices.notices", Notice.init(wire:)),
                lastSequence: views.lastSequence)
        case nil: throw ConversionError(.missing, field: "result")
        }
    }
}
