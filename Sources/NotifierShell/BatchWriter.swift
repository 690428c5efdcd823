import Fleet
import GRDB
import Presentation

/// Writes one batch of events inside a transaction.
struct BatchWriter {
    let database: Database
    var position: FollowPosition
    let recordedAt: Timestamp
    let sinks: [Sink]

    mutating func write(_ events: [FleetEvent], lastSequence: UInt64) throws -> StoredBatch {
        var batch = StoredBatch(
            sequence: UInt64(clamping: position.sequence), newAnnotationCount: 0, gaps: [],
            hasBegunAnew: false, conflictingIDs: [])
        // A leader that has fewer events than were stored here has lost some: it was restored from
        // a backup or set up anew. Its numbers from 1 on may name other events now.
        if lastSequence < batch.sequence {
            position = FollowPosition(sequence: 0, history: position.history + 1)
            batch.sequence = 0
            batch.hasBegunAnew = true
            try savePosition()
            return batch
        }
        for event in events {
            // A number that SQLite cannot hold comes from a broken peer; nothing sound follows it.
            guard let sequence = Int64(exactly: event.sequence) else { break }
            guard sequence > position.sequence else { continue }
            if position.sequence > 0, sequence > position.sequence + 1 {
                let gap = StoredBatch.Gap(
                    afterSequence: batch.sequence, beforeSequence: event.sequence)
                batch.gaps.append(gap)
                try saveGap(gap)
            }
            if case .holdFinished(let hold) = event.body {
                switch try save(hold, sequence: sequence) {
                case .new: batch.newAnnotationCount += 1
                case .known: break
                case .conflicting: batch.conflictingIDs.append(hold.holdID)
                }
            }
            position.sequence = sequence
            batch.sequence = event.sequence
        }
        try savePosition()
        return batch
    }

    private func savePosition() throws {
        try database.execute(
            sql: "UPDATE follower SET sequence = ?, history = ?",
            arguments: [position.sequence, position.history])
    }

    private func saveGap(_ gap: StoredBatch.Gap) throws {
        try database.execute(
            sql: """
                INSERT INTO gap (history, afterSequence, beforeSequence, noticedAtMicroseconds)
                VALUES (?, ?, ?, ?)
                """,
            arguments: [
                position.history, Int64(clamping: gap.afterSequence),
                Int64(clamping: gap.beforeSequence), recordedAt.microseconds,
            ])
    }

    private enum Saved { case new, known, conflicting }

    private func save(_ hold: FinishedHold, sequence: Int64) throws -> Saved {
        var annotation = Annotation(hold: hold, recordedAt: recordedAt)
        // The same hold has the same start, however often and from whichever history it comes.
        // Another hold with the same name can only come from a history that began anew, and then
        // it gets a name of its own rather than being lost.
        if let known = try heldAt(annotation.annotationID) {
            if known == hold.record.heldAt.microseconds { return .known }
            guard position.history > 1 else { return .conflicting }
            annotation.annotationID += "-history\(position.history)"
            if try heldAt(annotation.annotationID) != nil { return .known }
        }
        try annotation.insert(into: database, sequence: sequence)
        for sink in sinks {
            try database.execute(
                sql: "INSERT INTO outbox (annotationId, sink, line) VALUES (?, ?, ?)",
                arguments: [annotation.annotationID, sink.rawValue, annotation.line(for: sink)])
        }
        return .new
    }

    private func heldAt(_ annotationID: String) throws -> Int64? {
        try Int64.fetchOne(
            database, sql: "SELECT heldAtMicroseconds FROM annotation WHERE annotationId = ?",
            arguments: [annotationID])
    }
}

extension Annotation {
    func line(for sink: Sink) -> String {
        switch sink {
        case .stdout: text
        case .file: json.compact
        }
    }

    func insert(into database: Database, sequence: Int64) throws {
        try database.execute(
            sql: """
                INSERT INTO annotation (annotationId, sequence, guest, host, availabilitySet,
                    updateDomain, rollout, step, token, release, component, version,
                    heldAtMicroseconds, holdMicroseconds, outcome, reason, resumedBy,
                    clockErrorBeforeMicroseconds, clockErrorAfterMicroseconds, clockNote,
                    hypervisorBefore, hypervisorAfter, recordedAtMicroseconds)
                VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
                """,
            arguments: [
                annotationID, sequence, record.guest.rawValue, host.rawValue, pair?.set.rawValue,
                pair?.updateDomain.number, Int64(bitPattern: step.rollout.number), step.number,
                Int64(bitPattern: token.number), release.rawValue, component.description, version,
                record.heldAt.microseconds, record.holdMicroseconds, record.outcome.rawValue,
                record.reason, record.resumedBy.rawValue, record.clockErrorBeforeMicroseconds,
                record.clockErrorAfterMicroseconds, record.clockNote, record.hypervisorBefore,
                record.hypervisorAfter, recordedAt.microseconds,
            ])
    }

    /// - Returns: nil if a column holds what no notifier writes.
    init?(row: Row) {
        guard let guest = GuestID(row["guest"]), let host = HostID(row["host"]),
            let release = ReleaseID(row["release"]), let component = Component(row["component"]),
            let outcome = StepOutcome(rawValue: row["outcome"]),
            let resumedBy = Resumer(rawValue: row["resumedBy"])
        else { return nil }
        var pair: SetPair?
        if let set = row["availabilitySet"] as String?, let number = row["updateDomain"] as Int? {
            guard let set = SetID(set), let updateDomain = UpdateDomain(number) else { return nil }
            pair = SetPair(set: set, updateDomain: updateDomain)
        }
        let record = HoldRecord(
            guest: guest, outcome: outcome, reason: row["reason"],
            heldAt: Timestamp(microseconds: row["heldAtMicroseconds"]),
            holdMicroseconds: row["holdMicroseconds"], resumedBy: resumedBy,
            clockErrorBeforeMicroseconds: row["clockErrorBeforeMicroseconds"],
            clockErrorAfterMicroseconds: row["clockErrorAfterMicroseconds"],
            clockNote: row["clockNote"], hypervisorBefore: row["hypervisorBefore"],
            hypervisorAfter: row["hypervisorAfter"])
        let step = StepID(
            rollout: RolloutID(UInt64(bitPattern: row["rollout"])), number: row["step"])
        self.init(
            hold: FinishedHold(
                record: record, host: host, pair: pair, step: step,
                token: Token(UInt64(bitPattern: row["token"])), release: release,
                component: component, version: row["version"]),
            recordedAt: Timestamp(microseconds: row["recordedAtMicroseconds"]))
        annotationID = row["annotationId"]
    }
}
