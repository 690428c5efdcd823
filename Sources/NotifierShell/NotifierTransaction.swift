public import Fleet
import GRDB
public import Notices
public import Presentation

/// The notifier's database within one transaction. Not to be kept beyond it.
public struct NotifierTransaction: NoticeTransaction {
    let database: Database

    public func position() throws -> FollowPosition {
        let sql = "SELECT sequence, history FROM follower"
        guard let row = try Row.fetchOne(database, sql: sql) else { return FollowPosition() }
        return FollowPosition(sequence: row["sequence"], history: row["history"])
    }

    public func save(_ position: FollowPosition) throws {
        try database.execute(
            sql: "UPDATE follower SET sequence = ?, history = ?",
            arguments: [position.sequence, position.history])
    }

    public func save(_ gap: EventGap, history: Int64, noticedAt: Timestamp) throws {
        try database.execute(
            sql: """
                INSERT INTO gap (history, afterSequence, beforeSequence, noticedAtMicroseconds)
                VALUES (?, ?, ?, ?)
                """,
            arguments: [
                history, Int64(clamping: gap.afterSequence), Int64(clamping: gap.beforeSequence),
                noticedAt.microseconds,
            ])
    }

    public func heldAt(_ annotationID: String) throws -> Timestamp? {
        try Int64.fetchOne(
            database, sql: "SELECT heldAtMicroseconds FROM annotation WHERE annotationId = ?",
            arguments: [annotationID]
        ).map { Timestamp(microseconds: $0) }
    }

    public func insert(_ annotation: Annotation, sequence: Int64, lines: [SinkLine]) throws {
        try annotation.insert(into: database, sequence: sequence)
        for line in lines {
            try database.execute(
                sql: "INSERT INTO outbox (annotationId, sink, line) VALUES (?, ?, ?)",
                arguments: [annotation.annotationID, line.sink.rawValue, line.line])
        }
    }
}

extension Annotation {
    fileprivate func insert(into database: Database, sequence: Int64) throws {
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
