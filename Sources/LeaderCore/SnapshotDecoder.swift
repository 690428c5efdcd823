package import Coordination
import Fleet
import Wire

/// Makes the state again from the chunks of a snapshot, one by one.
///
/// - Source: proto-spec/README.md, section 12.
package struct SnapshotDecoder {
    /// A record longer than this was not written by us.
    private static let recordByteCountMax = 1 << 30

    private var state = FleetState()
    private var hasHeader = false
    /// The beginning of a record whose end is in a later chunk.
    private var carried: [UInt8] = []

    package init() {}

    /// - Throws: ``RecordError`` or a conversion error; the snapshot was not written by us.
    package mutating func add(_ chunk: [UInt8]) throws {
        let bytes = carried.isEmpty ? chunk : carried + chunk
        carried = []
        var position = 0
        while position < bytes.count {
            guard let (length, start) = try Self.length(bytes, at: position),
                start + length <= bytes.count
            else { break }
            try addRecord(Array(bytes[start..<start + length]))
            position = start + length
        }
        carried = Array(bytes[position...])
    }

    /// - Throws: ``RecordError`` if something is missing at the end.
    package func finish() throws -> FleetState {
        guard carried.isEmpty else { throw RecordError.missing("its end") }
        guard hasHeader else { throw RecordError.missing("everything: the snapshot is empty") }
        return state
    }

    package static func decode(_ chunks: [[UInt8]]) throws -> FleetState {
        var decoder = SnapshotDecoder()
        for chunk in chunks { try decoder.add(chunk) }
        return try decoder.finish()
    }

    /// - Returns: the length of the record at `position` and where it starts; nil if the bytes end
    ///   before that is known.
    private static func length(
        _ bytes: [UInt8], at position: Int
    ) throws -> (length: Int, start: Int)? {
        var length = 0
        for offset in 0..<5 {
            guard position + offset < bytes.count else { return nil }
            let byte = bytes[position + offset]
            length |= Int(byte & 0x7F) << (7 * offset)
            guard byte < 0x80 else { continue }
            guard length <= recordByteCountMax else { break }
            return (length, position + offset + 1)
        }
        throw RecordError.missing("a length that can be")
    }

    private mutating func addRecord(_ bytes: [UInt8]) throws {
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
        try add(record)
    }

    private mutating func add(_ record: PBSnapshotRecord.OneOf_Record) throws {
        switch record {
        case .header(let header): read(header)
        case .host(let message):
            let report = try HostReport(wire: message.report)
            state.hosts[report.host] = HostRecord(
                report: report, reportedAt: Timestamp(microseconds: message.reportedAtMicroseconds),
                cordon: message.hasCordon ? try Cordon(wire: message.cordon) : nil)
        case .guest(let message): try addGuest(message)
        case .set(let message):
            try addSet(message)
        case .release(let message):
            let release = try Release(wire: message.release)
            state.releases[release.id] = ReleaseRecord(
                release: release, addedAt: Timestamp(microseconds: message.addedAtMicroseconds),
                addedBy: message.addedBy)
        case .rollout(let message):
            state.rollouts.keep(try Self.rollout(message))
        case .rolloutPart(let message): try addPart(message)
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
        case .deliveryLease(let message):
            state.deliveryLease = try DeliveryLease(wire: message)
        }
    }

    private mutating func read(_ header: PBSnapshotHeader) {
        state.index = header.index
        state.term = header.term
        state.leader = header.leader
        state.nextToken = header.nextToken
        state.nextRollout = header.nextRollout
        state.lastSequence = header.lastSequence
    }

    private mutating func addGuest(_ message: PBSnapshotRecord.Guest) throws {
        let host: HostID = try name(message.host, "host")
        let report: GuestReport
        if message.hasReport {
            report = try GuestReport(wire: message.report)
        } else {
            let id: GuestID = try name(message.id, "guest")
            guard let known = state.hosts[host]?.report.guest(id) else {
                throw RecordError.missing("what guest \(id) of host \(host) is")
            }
            report = known
        }
        guard state.guests[report.id] == nil else {
            throw RecordError.missing("a guest that is not there twice, as \(report.id) is")
        }
        state.keep(
            GuestRecord(
                report: report, host: host,
                pair: message.hasPair ? try SetPair(wire: message.pair) : nil,
                placedByLeader: message.placedByLeader,
                missingSince: message.hasMissingSince
                    ? try StepID(wire: message.missingSince) : nil))
    }

    /// In snapshots of older versions the guests come first, and their sets exist already.
    private mutating func addSet(_ message: PBSnapshotRecord.Set) throws {
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

    private mutating func addPart(_ message: PBSnapshotRecord.RolloutPart) throws {
        let id = RolloutID(message.rollout)
        guard let known = state.rollouts[id]?.steps.count else {
            throw RecordError.missing("\(id) before its steps")
        }
        let steps = try message.steps.enumerated().map { offset, step in
            try Self.step(step, StepID(rollout: id, number: UInt32(known + offset + 1)))
        }
        let skipped = try message.skipped.map { try PlanView.Skipped(wire: $0) }
        state.rollouts.update(id) { rollout in
            for step in steps { rollout.steps.append(step) }
            rollout.skipped += skipped
        }
    }

    private static func rollout(_ message: PBSnapshotRecord.Rollout) throws -> RolloutRecord {
        let id = RolloutID(message.id)
        return RolloutRecord(
            id: id, release: try name(message.release, "release"),
            selection: try Selection(wire: message.selection), policy: Policy(wire: message.policy),
            state: try RolloutState(wire: message.state, isPaused: message.isPaused),
            reason: message.reason,
            startedAt: Timestamp(microseconds: message.startedAtMicroseconds),
            startedBy: message.startedBy,
            finishedAt: message.hasFinishedAtMicroseconds
                ? Timestamp(microseconds: message.finishedAtMicroseconds) : nil,
            steps: StepList(
                try message.steps.enumerated().map { offset, step in
                    try self.step(step, StepID(rollout: id, number: UInt32(offset + 1)))
                }), skipped: try message.skipped.map { try PlanView.Skipped(wire: $0) })
    }

    private static func notice(_ message: PBSnapshotRecord.Notice) throws -> StepNotice {
        StepNotice(
            noticedAt: Timestamp(microseconds: message.noticedAtMicroseconds),
            notBefore: Timestamp(microseconds: message.notBeforeMicroseconds),
            acknowledgedBy: try message.acknowledgedBy.map { try name($0, "guest") })
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
            holds: try message.holds.map { try HoldRecord(wire: $0) },
            notice: message.hasNotice ? try notice(message.notice) : nil)
    }
}
