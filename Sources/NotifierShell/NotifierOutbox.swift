public import Fleet
import GRDB
public import Notices
import Presentation

// The outbox, as delivery and operators see it.
//
//   pending ──mark delivered──▶ delivered ──replay──▶ pending, behind all others
//      └────mark dead─────────▶ dead ───────replay──▶    ″
//                                 └────────drop─────▶ (gone)
//
// A row that comes back gets a new number: readers only ever look behind what they have seen. What other
// notifiers have delivered does not concern it: they say that of what was due before.

/// As SQL.
let isPending = "deliveredAtMicroseconds IS NULL AND deadAtMicroseconds IS NULL"

extension NotifierStore {
    public func pending(
        _ sink: SinkID, after number: Int64, limit: Int
    ) throws(NotifierStoreError) -> [OutboxItem] {
        // The bulletin's columns come first: where both have one, they say the same.
        let sql = """
            SELECT bulletin.*, outbox.number AS outboxNumber, attempts, refusals,
                nextAttemptAtMicroseconds, annotation.*
            FROM outbox JOIN bulletin ON bulletin.number = outbox.bulletin
                LEFT JOIN annotation ON annotationId = bulletinId
            WHERE sink = ? AND outbox.number > ? AND \(isPending)
            ORDER BY outbox.number LIMIT ?
            """
        return try guarded(path, "read") {
            try read { database in
                let statement = try database.cachedStatement(sql: sql)
                let rows = try Row.fetchAll(statement, arguments: [sink.rawValue, number, limit])
                return try rows.map { row in
                    guard let bulletin = Bulletin(row: row) else {
                        throw NotifierStoreError.damaged(
                            path: path, detail: "row \(row["outboxNumber"] as Int64) of outbox")
                    }
                    return OutboxItem(
                        number: row["outboxNumber"], bulletin: bulletin, attempts: row["attempts"],
                        refusals: row["refusals"],
                        nextAttemptAt: (row["nextAttemptAtMicroseconds"] as Int64?).map {
                            Timestamp(microseconds: $0)
                        })
                }
            }
        }
    }

    public func mark(_ marks: [OutboxMark], at time: Timestamp) throws(NotifierStoreError) {
        try guarded(path, "write to") {
            // What is marked and forgotten goes once more, under the same key.
            try writeSoon { database in
                for mark in marks { try mark.write(to: database, at: time) }
            }
        }
    }

    public func settledUpTo(_ sink: SinkID) throws(NotifierStoreError) -> UInt64 {
        try guarded(path, "read") {
            try read { database in
                let position = try NotifierTransaction(database: database).position()
                // Bulletins of one history are numbered in the order of their events.
                let first = try Int64.fetchOne(
                    database,
                    sql: """
                        SELECT sequence FROM outbox INDEXED BY outboxUnsettled
                            CROSS JOIN bulletin ON bulletin.number = outbox.bulletin
                        WHERE sink = ? AND history = ? AND \(isPending) AND isAgain = 0
                        ORDER BY outbox.bulletin LIMIT 1
                        """, arguments: [sink.rawValue, position.history])
                return UInt64(clamping: first.map { $0 - 1 } ?? position.sequence)
            }
        }
    }

    public func markDelivered(
        _ sink: SinkID, upTo sequence: UInt64, at time: Timestamp
    ) throws(NotifierStoreError) {
        try guarded(path, "write to") {
            try write { database in
                let position = try NotifierTransaction(database: database).position()
                try database.execute(
                    sql: """
                        UPDATE outbox SET deliveredAtMicroseconds = ?
                        WHERE sink = ? AND \(isPending) AND isAgain = 0 AND EXISTS (
                            SELECT 1 FROM bulletin WHERE number = outbox.bulletin
                                AND history = ? AND sequence <= ?)
                        """,
                    arguments: [
                        time.microseconds, sink.rawValue, position.history,
                        Int64(clamping: sequence),
                    ])
            }
        }
    }

    /// How many rows wait for a sink that is not among these.
    public func pendingForOthers(than sinks: [SinkID]) throws(NotifierStoreError) -> [String: Int] {
        try guarded(path, "read") {
            try read { database in
                let rows = try Row.fetchAll(
                    database,
                    sql: "SELECT sink, count(*) AS n FROM outbox WHERE \(isPending) GROUP BY sink")
                var counts: [String: Int] = [:]
                for row in rows where !sinks.contains(where: { $0.rawValue == row["sink"] }) {
                    counts[row["sink"]] = row["n"]
                }
                return counts
            }
        }
    }

    /// A number that another process's changes make another one.
    public func changeNumber() throws(NotifierStoreError) -> Int64 {
        try guarded(path, "read") {
            try read { try Int64.fetchOne($0, sql: "PRAGMA data_version") ?? 0 }
        }
    }
}

extension OutboxMark {
    fileprivate func write(to database: Database, at time: Timestamp) throws {
        switch change {
        case .delivered:
            let statement = try database.cachedStatement(
                sql:
                    "UPDATE outbox SET deliveredAtMicroseconds = ? WHERE number = ? AND \(isPending)"
            )
            try statement.execute(arguments: [time.microseconds, number])
        case .failed(let attempts, let refusals, let next, let reason):
            let statement = try database.cachedStatement(
                sql: """
                    UPDATE outbox SET attempts = ?, refusals = ?, nextAttemptAtMicroseconds = ?,
                        problem = ?
                    WHERE number = ? AND \(isPending)
                    """)
            try statement.execute(
                arguments: [attempts, refusals, next.microseconds, reason, number])
        case .dead(let attempts, let reason):
            let statement = try database.cachedStatement(
                sql: """
                    UPDATE outbox SET attempts = ?, deadAtMicroseconds = ?, problem = ?
                    WHERE number = ? AND \(isPending)
                    """)
            try statement.execute(arguments: [attempts, time.microseconds, reason, number])
        }
    }
}
