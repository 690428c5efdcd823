public import Fleet
import GRDB
public import Notices
import Presentation

/// The notifier's database within one transaction. Not to be kept beyond it.
///
/// What is asked for each event is prepared once: preparing takes ten times as long as the answer, and there
/// may be tens of thousands of events when a rollout is aborted, before a change that guests wait for.
public struct NotifierTransaction: NoticeTransaction {
    let database: Database

    public func position() throws -> FollowPosition {
        let statement = try database.cachedStatement(
            sql: "SELECT sequence, history FROM follower")
        guard let row = try Row.fetchOne(statement) else { return FollowPosition() }
        return FollowPosition(sequence: row["sequence"], history: row["history"])
    }

    public func save(_ position: FollowPosition) throws {
        try database.cachedStatement(sql: "UPDATE follower SET sequence = ?, history = ?")
            .execute(arguments: [position.sequence, position.history])
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
        let statement = try database.cachedStatement(
            sql: "SELECT heldAtMicroseconds FROM annotation WHERE annotationId = ?")
        return try Int64.fetchOne(statement, arguments: [annotationID])
            .map { Timestamp(microseconds: $0) }
    }

    public func hasBulletin(_ id: String) throws -> Bool {
        let statement = try database.cachedStatement(
            sql: "SELECT 1 FROM bulletin WHERE bulletinId = ?")
        return try Int.fetchOne(statement, arguments: [id]) != nil
    }

    public func bulletins(of step: StepID, history: Int64) throws -> [Bulletin] {
        let statement = try database.cachedStatement(
            sql: """
                SELECT * FROM bulletin WHERE rollout = ? AND step = ? AND history = ?
                ORDER BY number
                """)
        return try Row.fetchAll(
            statement,
            arguments: [Int64(bitPattern: step.rollout.number), step.number, history]
        ).compactMap { Bulletin(row: $0) }
    }

    public func unfinished(of rollout: RolloutID, history: Int64) throws -> [Bulletin] {
        try Row.fetchAll(
            database,
            sql: """
                SELECT * FROM bulletin WHERE state IN ('noticed', 'started') AND number IN (
                    SELECT max(number) FROM bulletin WHERE rollout = ? AND history = ?
                    GROUP BY step, guest)
                ORDER BY number
                """, arguments: [Int64(bitPattern: rollout.number), history]
        ).compactMap { Bulletin(row: $0) }
    }

    public func insert(
        _ bulletin: Bulletin, history: Int64, recordedAt: Timestamp, sinks: [SinkID]
    ) throws {
        let sequence = Int64(clamping: bulletin.sequence)
        try bulletin.annotation?.insert(into: database, sequence: sequence)
        let statement = try database.cachedStatement(
            sql: """
                INSERT INTO bulletin (bulletinId, state, history, sequence, atMicroseconds, guest,
                    host, availabilitySet, updateDomain, rollout, step, token, release, component,
                    version, notBeforeMicroseconds, reason, recordedAtMicroseconds, possiblePairs,
                    setGuestCount, setUpdateDomainCount, wasStarted)
                VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
                """)
        try statement.execute(arguments: [
            bulletin.id, bulletin.state.rawValue, history, sequence, bulletin.at.microseconds,
            bulletin.guest.rawValue, bulletin.host.rawValue, bulletin.pair?.set.rawValue,
            bulletin.pair?.updateDomain.number, Int64(bitPattern: bulletin.step.rollout.number),
            bulletin.step.number, bulletin.token.map { Int64(bitPattern: $0.number) },
            bulletin.release.rawValue, bulletin.component.description, bulletin.version,
            bulletin.notBefore?.microseconds, bulletin.reason, recordedAt.microseconds,
            bulletin.possiblePairs.map { "\($0.set)/\($0.updateDomain.number)" }
                .joined(separator: " "),
            bulletin.setSize?.guestCount, bulletin.setSize?.updateDomainCount,
            bulletin.wasStarted,
        ])
        let number = database.lastInsertedRowID
        for sink in sinks {
            try database.cachedStatement(
                sql: "INSERT INTO outbox (bulletin, sink) VALUES (?, ?)"
            ).execute(arguments: [number, sink.rawValue])
        }
    }
}

extension Bulletin {
    /// Of a row of `bulletin`, joined with its annotation or not.
    ///
    /// - Returns: nil if a column holds what no notifier writes.
    init?(row: Row) {
        guard let state = State(rawValue: row["state"]), let guest = GuestID(row["guest"]),
            let host = HostID(row["host"]), let release = ReleaseID(row["release"]),
            let component = Component(row["component"])
        else { return nil }
        var pair: SetPair?
        if let set = row["availabilitySet"] as String?, let number = row["updateDomain"] as Int? {
            guard let set = SetID(set), let updateDomain = UpdateDomain(number) else { return nil }
            pair = SetPair(set: set, updateDomain: updateDomain)
        }
        var annotation: Annotation?
        if row.hasColumn("annotationId"), row["annotationId"] as String? != nil {
            guard let found = Annotation(row: row) else { return nil }
            annotation = found
        }
        self.init(
            id: row["bulletinId"], state: state,
            sequence: UInt64(clamping: row["sequence"] as Int64),
            at: Timestamp(microseconds: row["atMicroseconds"]), guest: guest, host: host,
            pair: pair, possiblePairs: readPairs(row["possiblePairs"]),
            step: StepID(
                rollout: RolloutID(UInt64(bitPattern: row["rollout"])), number: row["step"]),
            token: (row["token"] as Int64?).map { Token(UInt64(bitPattern: $0)) },
            release: release, component: component, version: row["version"],
            notBefore: (row["notBeforeMicroseconds"] as Int64?).map {
                Timestamp(microseconds: $0)
            },
            wasStarted: row["wasStarted"], annotation: annotation, reason: row["reason"],
            setSize: SetSize(row: row))
    }
}

private func readPairs(_ text: String) -> [SetPair] {
    text.split(separator: " ").compactMap { word in
        let parts = word.split(separator: "/")
        guard parts.count == 2, let set = SetID(String(parts[0])), let number = Int(parts[1]),
            let updateDomain = UpdateDomain(number)
        else { return nil }
        return SetPair(set: set, updateDomain: updateDomain)
    }
}

extension SetSize {
    /// Of a row of `bulletin`, or of one that has no bulletin any more.
    init?(row: Row) {
        guard let guestCount = row["setGuestCount"] as Int?,
            let updateDomainCount = row["setUpdateDomainCount"] as Int?
        else { return nil }
        self.init(guestCount: guestCount, updateDomainCount: updateDomainCount)
    }
}

extension Annotation {
    fileprivate func insert(into database: Database, sequence: Int64) throws {
        let statement = try database.cachedStatement(
            sql: """
                INSERT INTO annotation (annotationId, sequence, guest, host, availabilitySet,
                    updateDomain, rollout, step, token, release, component, version,
                    heldAtMicroseconds, holdMicroseconds, outcome, reason, resumedBy,
                    clockErrorBeforeMicroseconds, clockErrorAfterMicroseconds, clockNote,
                    hypervisorBefore, hypervisorAfter, recordedAtMicroseconds)
                VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
                """)
        try statement.execute(
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
