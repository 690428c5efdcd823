package import Coordination
import Fleet
import Wire

/// The state as a stream of records, cut into chunks: what a snapshot and a back-up hold, and what
/// the digest is made of. Equal states give equal bytes.
///
/// It works on a copy of the state, which is free to make and stays what it was, and does a few
/// milliseconds of work for each chunk, so that the loop serves others between the chunks.
///
/// - Source: proto-spec/README.md, section 12.
package struct SnapshotEncoder {
    private let byteCountMax: Int
    /// What is still to be written, in order: each gives one record after the other.
    private var parts: [() -> [UInt8]?]
    private var pending: [UInt8] = []

    /// - Parameter byteCountMax: of a chunk.
    package init(_ state: FleetState, byteCountMax: Int = Limits.snapshotChunkByteCount) {
        self.byteCountMax = byteCountMax
        parts = SnapshotRecords.parts(of: state).reversed()
    }

    /// The next chunk, or nil after the last one. It ends with a record unless one is longer.
    package mutating func next() -> [UInt8]? {
        while pending.count < byteCountMax, let record = nextRecord() {
            var framed: [UInt8] = []
            framed.reserveCapacity(record.count + 5)
            appendLength(record.count, to: &framed)
            framed += record
            if !pending.isEmpty, pending.count + framed.count > byteCountMax {
                swap(&pending, &framed)
                return framed
            }
            pending += framed
        }
        guard !pending.isEmpty else { return nil }
        let chunk = Array(pending.prefix(byteCountMax))
        pending.removeFirst(chunk.count)
        return chunk
    }

    private mutating func nextRecord() -> [UInt8]? {
        while let part = parts.last {
            if let record = part() { return record }
            parts.removeLast()
        }
        return nil
    }
}

/// As Protocol Buffers delimit messages: seven bits a byte, the lowest first.
private func appendLength(_ length: Int, to bytes: inout [UInt8]) {
    var rest = length
    while rest >= 0x80 {
        bytes.append(UInt8(truncatingIfNeeded: rest) | 0x80)
        rest >>= 7
    }
    bytes.append(UInt8(rest))
}

private enum SnapshotRecords {
    /// Of a rollout in one record.
    private static let stepsMax = 16

    static func parts(of state: FleetState) -> [() -> [UInt8]?] {
        let hosts = state.hosts
        return [
            each(CollectionOfOne(state)) { .header(header($0)) },
            each(hosts.values) { .host(host($0)) },
            each(state.sets) { .set(set($0.key, $0.value)) },
            each(state.guests.values) { .guest(guest($0, hosts)) },
            each(state.releases.values) { .release(release($0)) },
            each(state.rollouts.values.lazy.flatMap(rolloutRecords)) { $0 },
            each(mutated(.snapshotWithoutLocks) ? PagedDictionary() : state.locks) {
                .lock(lock($0.key, $0.value))
            },
            each(state.active) { host, step in
                .active(
                    .with {
                        $0.host = host.rawValue
                        $0.step = step.wire
                    })
            },
            each(mutated(.snapshotWithoutEvents) ? [] : state.events) { .event($0.wire) },
            each(state.notifiers) { name, sequence in
                .notifier(
                    .with {
                        $0.name = name
                        $0.sequence = sequence
                    })
            },
            // Absent if nobody ever had it, so that a state without notifiers stays what it was.
            each(state.deliveryLease.number == 0 ? [] : [state.deliveryLease]) {
                .deliveryLease($0.wire)
            },
        ]
    }

    private static func each<Parts: Sequence>(
        _ parts: Parts, _ record: @escaping (Parts.Element) -> PBSnapshotRecord.OneOf_Record
    ) -> () -> [UInt8]? {
        var iterator = parts.makeIterator()
        return {
            iterator.next().map { part in
                serialized(PBSnapshotRecord.with { $0.record = record(part) })
            }
        }
    }

    private static func header(_ state: FleetState) -> PBSnapshotHeader {
        .with {
            $0.index = state.index
            $0.term = state.term
            $0.leader = state.leader
            $0.nextToken = mutated(.snapshotWithoutToken) ? 1 : state.nextToken
            $0.nextRollout = state.nextRollout
            $0.lastSequence = state.lastSequence
        }
    }

    private static func host(_ host: HostRecord) -> PBSnapshotRecord.Host {
        .with {
            $0.report = host.report.wire
            $0.reportedAtMicroseconds = host.reportedAt.microseconds
            if let cordon = host.cordon { $0.cordon = cordon.wire }
        }
    }

    private static func release(_ release: ReleaseRecord) -> PBReleaseView {
        .with {
            $0.release = release.release.wire
            $0.addedAtMicroseconds = release.addedAt.microseconds
            $0.addedBy = release.addedBy
        }
    }

    private static func rolloutRecords(
        _ rollout: RolloutRecord
    ) -> some Sequence<PBSnapshotRecord.OneOf_Record> {
        let id = rollout.id.number
        let steps = stride(from: 0, to: rollout.steps.count, by: stepsMax).lazy.map { first in
            PBSnapshotRecord.OneOf_Record.rolloutPart(
                .with {
                    $0.rollout = id
                    $0.steps = rollout.steps[first...].prefix(stepsMax).map(step)
                })
        }
        let skipped = stride(from: 0, to: rollout.skipped.count, by: stepsMax).lazy.map { first in
            PBSnapshotRecord.OneOf_Record.rolloutPart(
                .with {
                    $0.rollout = id
                    $0.skipped = rollout.skipped[first...].prefix(stepsMax).map(\.wire)
                })
        }
        return [
            AnySequence(CollectionOfOne(.rollout(self.rollout(rollout)))), AnySequence(steps),
            AnySequence(skipped),
        ].lazy.joined()
    }

    private static func guest(
        _ guest: GuestRecord, _ hosts: PagedDictionary<HostID, HostRecord>
    ) -> PBSnapshotRecord.Guest {
        .with {
            // Nearly always the host's report says the same.
            if hosts[guest.host]?.report.guest(guest.report.id) == guest.report {
                $0.id = guest.report.id.rawValue
            } else {
                $0.report = guest.report.wire
            }
            $0.host = guest.host.rawValue
            if let pair = guest.pair { $0.pair = pair.wire }
            $0.placedByLeader = guest.placedByLeader
            if let step = guest.missingSince { $0.missingSince = step.wire }
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
            $0.isPaused = rollout.state == .paused
            $0.reason = rollout.reason
            $0.startedAtMicroseconds = rollout.startedAt.microseconds
            $0.startedBy = rollout.startedBy
            if let at = rollout.finishedAt { $0.finishedAtMicroseconds = at.microseconds }
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
            if let notice = step.notice, !mutated(.snapshotWithoutNotices) {
                $0.notice = .with {
                    $0.noticedAtMicroseconds = notice.noticedAt.microseconds
                    $0.notBeforeMicroseconds = notice.notBefore.microseconds
                    $0.acknowledgedBy = notice.acknowledgedBy.map(\.rawValue)
                }
            }
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
}

extension HostReport {
    /// What it says of a guest. Its guests are in ascending order.
    func guest(_ id: GuestID) -> GuestReport? {
        var low = 0
        var high = guests.count
        while low < high {
            let middle = (low + high) / 2
            if guests[middle].id < id { low = middle + 1 } else { high = middle }
        }
        return low < guests.count && guests[low].id == id ? guests[low] : nil
    }
}
