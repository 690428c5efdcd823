package import Coordination
import Fleet
package import LogCore
package import SwiftProtobuf
import Wire

/// What a log's record or snapshot cannot be.
package enum RecordError: Error, Hashable, CustomStringConvertible {
    case notAMessage(String)
    case missing(String)
    case wrongIndex(expected: UInt64, found: UInt64)

    package var description: String {
        switch self {
        case .notAMessage(let reason): "a record cannot be read: \(reason)"
        case .missing(let what): "a record lacks \(what)"
        case .wrongIndex(let expected, let found):
            "the snapshot for index \(expected) gives a state of index \(found)"
        }
    }
}

extension Coordinator {
    /// Folds in what a log has: a snapshot, which replaces what was there, and the records behind it.
    ///
    /// - Throws: ``RecordError`` or a conversion error; the log was not written by us.
    package mutating func load(_ snapshot: LogSnapshot?, _ records: [[UInt8]]) throws {
        if let snapshot {
            self = Coordinator(state: try SnapshotDecoder.decode(snapshot.chunks))
            guard state.index == snapshot.index else {
                throw RecordError.wrongIndex(expected: snapshot.index, found: state.index)
            }
        }
        for record in records { apply(try FactRecord.decode(record)) }
    }
}

/// Facts as bytes of the log: the message `Fact` of proto-spec/records.proto.
package enum FactRecord {
    package static func encode(_ fact: Fact) -> [UInt8] {
        var message = PBFact()
        message.atMicroseconds = fact.at.microseconds
        message.body = body(fact.body)
        return serialized(message)
    }

    /// - Throws: ``RecordError`` or a conversion error; the record was not written by us.
    package static func decode(_ bytes: [UInt8]) throws -> Fact {
        let message: PBFact
        do {
            message = try PBFact(serializedBytes: bytes)
        } catch {
            throw RecordError.notAMessage("\(error)")
        }
        guard let body = message.body else { throw RecordError.missing("its body") }
        return Fact(
            at: Timestamp(microseconds: message.atMicroseconds), body: try self.body(body))
    }

    private static func body(_ body: Fact.Body) -> PBFact.OneOf_Body {
        switch body {
        case .termStarted(let term, let server):
            return .termStarted(
                .with {
                    $0.term = term
                    $0.server = server
                })
        case .hostReported(let report, let placements):
            return .hostReported(
                .with {
                    $0.report = report.wire
                    $0.placements = placements.map { placement in
                        .with {
                            $0.guest = placement.guest.rawValue
                            $0.updateDomain = UInt32(placement.updateDomain.number)
                            $0.byLeader = placement.byLeader
                        }
                    }
                })
        case .releaseAdded(let release, let by):
            return .releaseAdded(
                .with {
                    $0.release = release.wire
                    $0.by = by
                })
        case .rolloutStarted(let started): return .rolloutStarted(rollout(started))
        case .rolloutAborted(let id, let reason, let by):
            return .rolloutAborted(
                .with {
                    $0.id = id.number
                    $0.reason = reason
                    $0.by = by
                })
        case .stepNoticed(let step, let notBefore):
            return .stepNoticed(
                .with {
                    $0.step = step.wire
                    $0.notBeforeMicroseconds = notBefore.microseconds
                })
        case .noticeAcknowledged(let step, let guest):
            return .noticeAcknowledged(
                .with {
                    $0.step = step.wire
                    $0.guest = guest.rawValue
                })
        case .noticeWithdrawn(let step, let reason):
            return .noticeWithdrawn(
                .with {
                    $0.step = step.wire
                    $0.reason = reason
                })
        case .rolloutPaused(let id, let reason, let by):
            return .rolloutPaused(held(id, reason, by))
        case .rolloutResumed(let id, let reason, let by):
            return .rolloutResumed(held(id, reason, by))
        case .hostCordoned(let host, let reason, let by):
            return .hostCordoned(held(host, reason, by))
        case .hostUncordoned(let host, let reason, let by):
            return .hostUncordoned(held(host, reason, by))
        case .stepGranted(let step, let token): return .stepGranted(grant(step, token))
        case .stepRegranted(let step, let token): return .stepRegranted(grant(step, token))
        case .stepCancelled(let step, let reason):
            return .stepCancelled(
                .with {
                    $0.step = step.wire
                    $0.reason = reason
                })
        case .stepFinished(let report): return .stepFinished(report.wire)
        case .strayReported(let report, let host):
            return .strayReported(
                .with {
                    $0.report = report.wire
                    $0.host = host.rawValue
                })
        case .lockReleased(let set, let reason, let by):
            return .lockReleased(
                .with {
                    $0.set = set.rawValue
                    $0.reason = reason
                    $0.by = by
                })
        case .eventsAcknowledged(let notifier, let sequence):
            return .eventsAcknowledged(
                .with {
                    $0.notifier = notifier
                    $0.sequence = sequence
                })
        case .notifierForgotten(let notifier, let reason, let by):
            return .notifierForgotten(
                .with {
                    $0.notifier = notifier
                    $0.reason = reason
                    $0.by = by
                })
        case .deliveryLeaseGranted(let notifier, let number):
            return .deliveryLeaseGranted(
                .with {
                    $0.notifier = notifier
                    $0.number = number
                })
        case .deliveryLeaseGivenUp(let notifier):
            return .deliveryLeaseGivenUp(.with { $0.notifier = notifier })
        case .deliveriesReported(let notifier, let sink, let sequence):
            return .deliveriesReported(
                .with {
                    $0.notifier = notifier
                    $0.sink = sink
                    $0.sequence = sequence
                })
        }
    }

    private static func held(
        _ id: RolloutID, _ reason: String, _ by: String
    ) -> PBFact.RolloutHeld {
        .with {
            $0.id = id.number
            $0.reason = reason
            $0.by = by
        }
    }

    private static func held(
        _ host: HostID, _ reason: String, _ by: String
    ) -> PBFact.HostHeld {
        .with {
            $0.host = host.rawValue
            $0.reason = reason
            $0.by = by
        }
    }

    private static func grant(_ step: StepID, _ token: Token) -> PBFact.StepGranted {
        .with {
            $0.step = step.wire
            $0.token = token.number
        }
    }

    private static func rollout(_ started: StartedRollout) -> PBFact.RolloutStarted {
        .with {
            $0.id = started.id.number
            $0.release = started.release.rawValue
            $0.selection = started.selection.wire
            $0.policy = started.policy.wire
            $0.by = started.by
            $0.steps = started.steps.map(PBPlannedStep.init)
            $0.skipped = started.skipped.map(\.wire)
        }
    }

    private static func body(_ body: PBFact.OneOf_Body) throws -> Fact.Body {
        switch body {
        case .termStarted(let message):
            return .termStarted(term: message.term, server: message.server)
        case .hostReported(let message):
            let placements = try message.placements.map { placement in
                Placement(
                    guest: try name(placement.guest, "guest"),
                    updateDomain: try domain(placement.updateDomain),
                    byLeader: placement.byLeader)
            }
            return .hostReported(try HostReport(wire: message.report), placements: placements)
        case .releaseAdded(let message):
            return .releaseAdded(try Release(wire: message.release), by: message.by)
        case .rolloutStarted(let message):
            return .rolloutStarted(
                StartedRollout(
                    id: RolloutID(message.id), release: try name(message.release, "release"),
                    selection: try Selection(wire: message.selection),
                    policy: Policy(wire: message.policy),
                    by: message.by, steps: try message.steps.map { try PlannedStep($0) },
                    skipped: try message.skipped.map { try PlanView.Skipped(wire: $0) }))
        case .rolloutAborted(let message):
            return .rolloutAborted(
                RolloutID(message.id), reason: message.reason, by: message.by)
        case .stepNoticed(let message):
            return .stepNoticed(
                try StepID(wire: message.step),
                notBefore: Timestamp(microseconds: message.notBeforeMicroseconds))
        case .noticeAcknowledged(let message):
            return .noticeAcknowledged(
                try StepID(wire: message.step), guest: try name(message.guest, "guest"))
        case .noticeWithdrawn(let message):
            return .noticeWithdrawn(try StepID(wire: message.step), reason: message.reason)
        case .rolloutPaused(let message):
            return .rolloutPaused(
                RolloutID(message.id), reason: message.reason, by: message.by)
        case .rolloutResumed(let message):
            return .rolloutResumed(
                RolloutID(message.id), reason: message.reason, by: message.by)
        case .hostCordoned(let message):
            return .hostCordoned(
                try name(message.host, "host"), reason: message.reason, by: message.by)
        case .hostUncordoned(let message):
            return .hostUncordoned(
                try name(message.host, "host"), reason: message.reason, by: message.by)
        case .stepGranted(let message):
            return .stepGranted(try StepID(wire: message.step), token: Token(message.token))
        case .stepRegranted(let message):
            return .stepRegranted(try StepID(wire: message.step), token: Token(message.token))
        case .stepCancelled(let message):
            return .stepCancelled(try StepID(wire: message.step), reason: message.reason)
        case .stepFinished(let message):
            return .stepFinished(try StepReport(wire: message))
        case .strayReported(let message):
            return .strayReported(
                try StepReport(wire: message.report), host: try name(message.host, "host"))
        case .lockReleased(let message):
            return .lockReleased(
                try name(message.set, "set"), reason: message.reason, by: message.by)
        case .eventsAcknowledged(let message):
            return .eventsAcknowledged(notifier: message.notifier, sequence: message.sequence)
        case .notifierForgotten(let message):
            return .notifierForgotten(
                notifier: message.notifier, reason: message.reason, by: message.by)
        case .deliveryLeaseGranted(let message):
            return .deliveryLeaseGranted(notifier: message.notifier, number: message.number)
        case .deliveryLeaseGivenUp(let message):
            return .deliveryLeaseGivenUp(notifier: message.notifier)
        case .deliveriesReported(let message):
            return .deliveriesReported(
                notifier: message.notifier, sink: message.sink, sequence: message.sequence)
        }
    }
}

// MARK: - Parts that facts and snapshots share

/// Never fails: our messages have no required fields and no invalid text.
package func serialized(_ message: some SwiftProtobuf.Message) -> [UInt8] {
    guard let bytes: [UInt8] = try? message.serializedBytes() else {
        preconditionFailure("a record cannot be serialized")
    }
    return bytes
}

func name<Kind>(_ text: String, _ what: String) throws -> Identifier<Kind> {
    guard let name = Identifier<Kind>(text) else {
        throw RecordError.missing("a valid \(what), it says \(text)")
    }
    return name
}

func domain(_ number: UInt32) throws -> UpdateDomain {
    guard let domain = UpdateDomain(Int(number)) else {
        throw RecordError.missing("a valid update domain, it says \(number)")
    }
    return domain
}

extension PBPlannedStep {
    init(_ plan: PlannedStep) {
        self.init()
        host = plan.host.rawValue
        guests = plan.guests.map(\.rawValue)
        pairs = plan.pairs.map(\.wire)
    }
}

extension PlannedStep {
    init(_ message: PBPlannedStep) throws {
        self.init(
            host: try name(message.host, "host"),
            guests: try message.guests.map { try name($0, "guest") },
            pairs: try message.pairs.map { try SetPair(wire: $0) })
    }
}
