public import Fleet
import Foundation
import GRDB
public import Notices

// The outbox, as operators see and change it, also while a notifier delivers what is in it.

/// One row of the outbox that its sink has not taken and will not be asked about again.
public struct DeadLetter: Hashable, Sendable {
    public var sink: SinkID
    public var bulletinID: String
    public var guest: GuestID
    public var attempts: Int
    public var deadAt: Timestamp
    /// Why, the last time.
    public var reason: String
}

/// Which dead letters; nil means any.
public struct DeadLetterFilter: Hashable, Sendable {
    public var sink: SinkID?
    public var bulletinID: String?
    /// Also what its sink is still to be asked about.
    public var includesPending: Bool
    public init(sink: SinkID? = nil, bulletinID: String? = nil, includesPending: Bool = false) {
        self.sink = sink
        self.bulletinID = bulletinID
        self.includesPending = includesPending
    }

    fileprivate var condition: (sql: String, values: StatementArguments) {
        var sql =
            includesPending
            ? "deliveredAtMicroseconds IS NULL" : "deadAtMicroseconds IS NOT NULL"
        var values = StatementArguments()
        if let sink {
            sql += " AND sink = ?"
            values += [sink.rawValue]
        }
        if let bulletinID {
            sql += " AND bulletin = (SELECT number FROM bulletin WHERE bulletinId = ?)"
            values += [bulletinID]
        }
        return (sql, values)
    }
}

extension NotifierStore {
    /// Oldest first; none of those that are pending.
    public func deadLetters(
        _ filter: DeadLetterFilter, limit: Int
    ) throws(NotifierStoreError) -> [DeadLetter] {
        var filter = filter
        filter.includesPending = false
        let (condition, values) = filter.condition
        return try guarded(path, "read") {
            try read { database in
                try Row.fetchAll(
                    database,
                    sql: """
                        SELECT sink, bulletinId, guest, attempts, deadAtMicroseconds, problem
                        FROM outbox JOIN bulletin ON bulletin.number = outbox.bulletin
                        WHERE \(condition) ORDER BY outbox.number LIMIT ?
                        """, arguments: values + [limit]
                ).compactMap { row in
                    guard let sink = SinkID(row["sink"]), let guest = GuestID(row["guest"])
                    else { return nil }
                    return DeadLetter(
                        sink: sink, bulletinID: row["bulletinId"], guest: guest,
                        attempts: row["attempts"],
                        deadAt: Timestamp(microseconds: row["deadAtMicroseconds"]),
                        reason: row["problem"])
                }
            }
        }
    }

    /// Whether anything was ever due to the sink, as far back as bulletins are kept.
    public func isKnown(_ sink: SinkID) throws(NotifierStoreError) -> Bool {
        try guarded(path, "read") {
            try read { database in
                try Int.fetchOne(
                    database, sql: "SELECT 1 FROM outbox WHERE sink = ? LIMIT 1",
                    arguments: [sink.rawValue]) != nil
            }
        }
    }

    /// Takes dead letters out, and what else the filter includes; their bulletins stay.
    ///
    /// - Returns: how many.
    public func drop(_ filter: DeadLetterFilter) throws(NotifierStoreError) -> Int {
        let (condition, values) = filter.condition
        return try inParts(
            "SELECT bulletin, sink, number FROM outbox WHERE \(condition)", values,
            by: "outbox.number", of: "outbox"
        ) { database, row in
            try database.cachedStatement(sql: "DELETE FROM outbox WHERE number = ?")
                .execute(arguments: [row[2] as Int64])
        }
    }

    /// Puts dead letters at the end of the outbox.
    ///
    /// - Returns: how many.
    public func replay(_ filter: DeadLetterFilter) throws(NotifierStoreError) -> Int {
        let (condition, values) = filter.condition
        return try inParts(
            "SELECT bulletin, sink, number FROM outbox WHERE \(condition)", values,
            by: "outbox.number", of: "outbox"
        ) { [self] in try putAgain($0, $1[0], for: $1[1]) }
    }

    /// Puts annotations at the end of the outbox, for one sink; what is pending there stays as it is. Where
    /// the bulletin is not kept any more it is made anew of the annotation.
    ///
    /// - Parameter now: from when on such a bulletin is kept.
    /// - Returns: how many.
    public func replay(
        _ filter: AnnotationFilter, to sink: SinkID, now: Timestamp
    ) throws(NotifierStoreError) -> Int {
        let (condition, values) = filter.condition
        return try inParts(
            """
            SELECT bulletin.number, ?, annotation.number FROM annotation
                LEFT JOIN bulletin ON bulletinId = annotationId
            \(condition) \(condition.isEmpty ? "WHERE" : "AND") NOT EXISTS (
                SELECT 1 FROM outbox WHERE bulletin = bulletin.number AND sink = ? AND \(isPending))
            """, [sink.rawValue] + values + [sink.rawValue], by: "annotation.number",
            of: "annotation"
        ) { [self] database, row in
            let kept = row[0] as Int64?
            try putAgain(
                database, kept ?? remake(annotation: row[2], now: now, in: database),
                for: row[1])
        }
    }

    /// - Returns: the number of its new bulletin.
    private func remake(
        annotation number: Int64, now: Timestamp, in database: Database
    ) throws -> Int64 {
        try database.cachedStatement(
            sql: """
                INSERT INTO bulletin (bulletinId, state, history, sequence, atMicroseconds, guest, host,
                        availabilitySet, updateDomain, rollout, step, token, release, component, version,
                        reason, recordedAtMicroseconds)
                    SELECT annotationId,
                        CASE outcome WHEN 'succeeded' THEN 'succeeded' ELSE 'failed' END,
                        (SELECT history FROM follower), sequence, recordedAtMicroseconds, guest, host,
                        availabilitySet, updateDomain, rollout, step, token, release, component, version,
                        reason, ?
                    FROM annotation WHERE number = ?
                """
        ).execute(arguments: [now.microseconds, number])
        return database.lastInsertedRowID
    }

    /// Changes rows, so many in a transaction that a notifier at work finds the file free in between: it
    /// waits for it in its loop, and not for ever. Interrupted and done again, it goes on where it was.
    ///
    /// - Parameters:
    ///   - selection: bulletin, sink, and the number by which rows are taken in ascending order.
    ///   - column: with that number, of `table`. Rows that are added meanwhile are not looked at.
    /// - Returns: how many.
    private func inParts(
        _ selection: String, _ values: StatementArguments, by column: String, of table: String,
        _ change: @escaping (Database, Row) throws -> Void
    ) throws(NotifierStoreError) -> Int {
        try guarded(path, "write to") {
            let last = try read {
                try Int64.fetchOne($0, sql: "SELECT max(number) FROM \(table)") ?? 0
            }
            let sql =
                "\(selection) AND \(column) > ? AND \(column) <= ? ORDER BY \(column) LIMIT ?"
            var count = 0
            var done: Int64 = 0
            while done < last {
                let begin = ContinuousClock.now
                let rows = try write { database in
                    let rows = try Row.fetchAll(
                        database, sql: sql, arguments: values + [done, last, Self.partCountMax])
                    for row in rows { try change(database, row) }
                    return rows
                }
                count += rows.count
                guard rows.count == Self.partCountMax, let row = rows.last else { break }
                done = row[2]
                // As long as it was kept: who looks for it now and then finds it free.
                Thread.sleep(
                    forTimeInterval: max(0.005, (ContinuousClock.now - begin) / .seconds(1)))
            }
            return count
        }
    }

    /// Of rows in one transaction.
    static let partCountMax = 1_000

    private func putAgain(_ database: Database, _ bulletin: Int64, for sink: String) throws {
        let place: [any DatabaseValueConvertible] = [bulletin, sink]
        try database.cachedStatement(sql: "DELETE FROM outbox WHERE bulletin = ? AND sink = ?")
            .execute(arguments: StatementArguments(place))
        try database.cachedStatement(
            sql: "INSERT INTO outbox (bulletin, sink, isAgain) VALUES (?, ?, 1)"
        ).execute(arguments: StatementArguments(place))
    }
}
