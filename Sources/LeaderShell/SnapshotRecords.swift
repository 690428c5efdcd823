import Coordination
import Fleet
import OrderedCollections
import Wire

/// The state as a sequence of records: `SnapshotHeader` first, then one `SnapshotRecord` for each part, in
/// the order of the state's own collections, so that equal states give equal bytes.
enum SnapshotRecords {
    static func encode(_ state: FleetState) -> [[UInt8]] {
        var records: [[UInt8]] = []
        func add(_ record: PBSnapshotRecord.OneOf_Record) {
            records.append(serialized(PBSnapshotRecord.with { $0.record = record }))
        }
        add(
            .header(
                .with {
                    $0.index = state.index
                    $0.term = state.term
                    $0.leader = state.leader
                    $0.nextToken = state.nextToken
                    $0.nextRollout = state.nextRollout
                    $0.lastSequence = state.lastSequence
                }))
        for host in state.hosts.values {
            add(
                .host(
                    .with {
                        $0.report = host.report.wire
                        $0.reportedAtMicroseconds = host.reportedAt.microseconds
                    }))
        }
        for guest in state.guests.values { add(.guest(self.guest(guest))) }
        for (id, set) in state.sets { add(.set(self.set(id, set))) }
        for release in state.releases.values {
            add(
                .release(
                    .with {
                        $0.release = release.release.wire
                        $0.addedAtMicroseconds = release.addedAt.microseconds
                        $0.addedBy = release.addedBy
                    }))
        }
        for rollout in state.rollouts.values { add(.rollout(self.rollout(rollout))) }
        for (set, lock) in state.locks { add(.lock(self.lock(set, lock))) }
        for (host, step) in state.active {
            add(
                .active(
                    .with {
                        $0.host = host.rawValue
                        $0.step = step.wire
                    }))
        }
        for event in state.events { add(.event(event.wire)) }
        for (name, sequence) in state.notifiers {
            add(
                .notifier(
                    .with {
                        $0.name = name
                        $0.sequence = sequence
                    }))
        }
        return records
    }

    private static func guest(_ guest: GuestRecord) -> PBSnapshotRecord.Guest {
        .with {
            $0.report = guest.report.wire
            $0.host = guest.host.rawValue
            if let pair = guest.pair { $0.pair = pair.wire }
            $0.placedByLeader = guest.placedByLeader
        }
    }

    private static func set(_ id: SetID, _ set: SetRecord) -> PBSnapshotRecord.Set {
        .with {
            $0.id = id.rawValue
            $0.updateDomainCount = UInt32(set.updateDomainCount)
            if let host = set.definedBy { $0.definedBy = host.rawValue }
        }
    }

    private static func rollout(_ rollout: RolloutRecord) -> PBSnapshotRecord.Rollout {
        .with {
            $0.id = rollout.id.number
            $0.release = rollout.release.rawValue
            $0.selection = rollout.selection.wire
            $0.policy = rollout.policy.wire
            $0.state = rollout.state.wire
            $0.reason = rollout.reason
            $0.startedAtMicroseconds = rollout.startedAt.microseconds
            $0.startedBy = rollout.startedBy
            if let at = rollout.finishedAt { $0.finishedAtMicroseconds = at.microseconds }
            $0.steps = rollout.steps.map(step)
            $0.skipped = rollout.skipped.map(\.wire)
        }
    }

    private static func step(_ step: StepRecord) -> PBSnapshotRecord.Step {
        .with {
            $0.plan = PBPlannedStep(step.plan)
            $0.status =
                switch step.status {
                case .waiting: .waiting
                case .granted: .granted
                case .finished: .finished
                case .cancelled: .cancelled
                }
            if let token = step.token { $0.token = token.number }
            $0.bypassed = step.bypassed
            if let outcome = step.outcome { $0.outcome = outcome.wire }
            $0.reason = step.reason
            if let at = step.grantedAt { $0.grantedAtMicroseconds = at.microseconds }
            if let at = step.finishedAt { $0.finishedAtMicroseconds = at.microseconds }
            $0.phases = step.phases.map(\.wire)
            $0.holds = step.holds.map(\.wire)
        }
    }

    private static func lock(_ set: SetID, _ lock: SetLock) -> PBSnapshotRecord.Lock {
        .with {
            $0.set = set.rawValue
            $0.updateDomain = UInt32(lock.updateDomain.number)
            $0.holders = lock.holders.map { holder in
                .with {
                    $0.step = holder.step.wire
                    $0.token = holder.token.number
                    $0.grantedAtMicroseconds = holder.grantedAt.microseconds
                    $0.stuck = holder.stuck
                }
            }
        }
    }

    // MARK: Decoding

    /// - Throws: ``RecordError`` or a conversion error; the snapshot was not written by us.
    static func decode(_ records: [[UInt8]]) throws -> FleetState {
        var state = FleetState()
        var hasHeader = false
        for bytes in records {
            let message: PBSnapshotRecord
            do {
                message = try PBSnapshotRecord(serializedBytes: bytes)
            } catch {
                throw RecordError.notAMessage("\(error)")
            }
            guard let record = message.record else { throw RecordError.missing("its content") }
            if case .header = record {
                hasHeader = true
            } else if !hasHeader {
                throw RecordError.missing("the header before it")
            }
            try add(record, to: &state)
        }
        guard hasHeader else { throw RecordError.missing("everything: the snapshot is empty") }
        return state
    }

    private static func add(
        _ record: PBSnapshotRecord.OneOf_Record, to state: inout FleetState
    ) throws {
        switch record {
        case .header(let header):
            state.index = header.index
            state.term = header.term
            state.leader = header.leader
            state.nextToken = header.nextToken
            state.nextRollout = header.nextRollout
            state.lastSequence = header.lastSequence
        case .host(let message):
            let report = try HostReport(wire: message.report)
            state.hosts[report.host] = HostRecord(
                report: report, reportedAt: Timestamp(microseconds: message.reportedAtMicroseconds)
            )
        case .guest(let message):
            let report = try GuestReport(wire: message.report)
            guard state.guests[report.id] == nil else {
                throw RecordError.missing("a guest that is not there twice, as \(report.id) is")
            }
            state.keep(
                GuestRecord(
                    report: report, host: try name(message.host, "host"),
                    pair: message.hasPair ? try SetPair(wire: message.pair) : nil,
                    placedByLeader: message.placedByLeader))
        case .set(let message):
            try addSet(message, to: &state)
        case .release(let message):
            let release = try Release(wire: message.release)
            state.releases[release.id] = ReleaseRecord(
                release: release, addedAt: Timestamp(microseconds: message.addedAtMicroseconds),
                addedBy: message.addedBy)
        case .rollout(let message):
            state.rollouts[RolloutID(message.id)] = try rollout(message)
        case .lock(let message):
            state.locks[try name(message.set, "set")] = SetLock(
                updateDomain: try domain(message.updateDomain),
                holders: try message.holders.map { holder in
                    SetLock.Holder(
                        step: try StepID(wire: holder.step), token: Token(holder.token),
                        grantedAt: Timestamp(microseconds: holder.grantedAtMicroseconds),
                        stuck: holder.stuck)
                })
        case .active(let message):
            state.active[try name(message.host, "host")] = try StepID(wire: message.step)
        case .event(let message):
            state.events.append(try FleetEvent(wire: message))
        case .notifier(let message):
            state.notifiers[message.name] = message.sequence
        }
    }

    /// The guests have made it a set with members already, if it has any.
    private static func addSet(
        _ message: PBSnapshotRecord.Set, to state: inout FleetState
    ) throws {
        let id: SetID = try name(message.id, "set")
        let count = Int(message.updateDomainCount)
        let host: HostID? = message.hasDefinedBy ? try name(message.definedBy, "host") : nil
        if state.sets[id] == nil {
            state.sets[id] = SetRecord(updateDomainCount: count, definedBy: host)
        } else {
            state.sets.update(id) {
                $0.updateDomainCount = count
                $0.definedBy = host
            }
        }
    }

    private static func rollout(_ message: PBSnapshotRecord.Rollout) throws -> RolloutRecord {
        let id = RolloutID(message.id)
        return RolloutRecord(
            id: id, release: try name(message.release, "release"),
            selection: try Selection(wire: message.selection), policy: Policy(wire: message.policy),
            state: try RolloutState(wire: message.state), reason: message.reason,
            startedAt: Timestamp(microseconds: message.startedAtMicroseconds),
            startedBy: message.startedBy,
            finishedAt: message.hasFinishedAtMicroseconds
                ? Timestamp(microseconds: message.finishedAtMicroseconds) : nil,
            steps: StepList(
                try message.steps.enumerated().map { offset, step in
                    try self.step(step, StepID(rollout: id, number: UInt32(offset + 1)))
                }), skipped: try message.skipped.map { try PlanView.Skipped(wire: $0) })
    }

    private static func step(_ message: PBSnapshotRecord.Step, _ id: StepID) throws -> StepRecord {
        let status: StepRecord.Status =
            switch message.status {
            case .waiting: .waiting
            case .granted: .granted
            case .finished: .finished
            case .cancelled: .cancelled
            case .unspecified, .UNRECOGNIZED: throw RecordError.missing("the status of \(id)")
            }
        return StepRecord(
            id: id, plan: try PlannedStep(message.plan), status: status,
            token: message.hasToken ? Token(message.token) : nil, bypassed: message.bypassed,
            outcome: message.hasOutcome ? try StepOutcome(wire: message.outcome) : nil,
            reason: message.reason,
            grantedAt: message.hasGrantedAtMicroseconds
                ? Timestamp(microseconds: message.grantedAtMicroseconds) : nil,
            finishedAt: message.hasFinishedAtMicroseconds
                ? Timestamp(microseconds: message.finishedAtMicroseconds) : nil,
            phases: try message.phases.map { try PhaseTime(wire: $0) },
            holds: try message.holds.map { try HoldRecord(wire: $0) })
    }
}
