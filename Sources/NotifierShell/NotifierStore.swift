public import Fleet
import Foundation
import GRDB
public import Notices
public import Presentation

// The notifier's memory. Happy path: a batch of events becomes annotations, outbox rows and the
// new cursor in one transaction; then each sink takes its pending rows and marks them.
//
// Failure modes:
// - killed before the transaction ends: nothing is stored, the leader sends the batch again;
// - killed after it: the cursor says so, the outbox still holds what no sink has taken;
// - the same event twice: the cursor, and behind it the UNIQUE annotationId, keep it out;
// - events missing: stored as a gap and told to the caller;
// - the leader's events begin anew (it was restored from a backup): the cursor goes back to 0, the
//   history number up by one, and what is known already is recognised by its id and its time.

/// What to look for among the annotations; nil means any.
public struct AnnotationFilter: Hashable, Sendable {
    public var guest: GuestID?
    public var set: SetID?
    public var host: HostID?
    public var rollout: RolloutID?

    public init(
        guest: GuestID? = nil, set: SetID? = nil, host: HostID? = nil, rollout: RolloutID? = nil
    ) {
        self.guest = guest
        self.set = set
        self.host = host
        self.rollout = rollout
    }
}

/// The notifier's SQLite file. One process writes; any number may read.
public final class NotifierStore: NoticeRecord {
    public let path: String
    let queue: DatabaseQueue

    /// Opens for writing, and creates what is not there.
    ///
    /// - Parameter cluster: the one that is followed; kept at first, compared ever after.
    public init(path: String, cluster: String) throws(NotifierStoreError) {
        self.path = path
        var configuration = Configuration()
        configuration.journalMode = .wal
        configuration.busyMode = .timeout(5)
        configuration.prepareDatabase { database in
            // What is acknowledged, the leader forgets: it must survive a power cut.
            try database.execute(sql: "PRAGMA synchronous = FULL")
        }
        queue = try guarded(path, "open") {
            let queue = try DatabaseQueue(path: path, configuration: configuration)
            try queue.read { try checkKind($0, path: path, mayBeEmpty: true) }
            try queue.read { try checkPages($0, path: path) }
            try notifierMigrator.migrate(queue)
            return queue
        }
        try guarded(path, "open") {
            try queue.write { database in
                try database.execute(
                    sql: "INSERT OR IGNORE INTO follower VALUES (1, ?, 0, 1)", arguments: [cluster])
                let kept = try String.fetchOne(database, sql: "SELECT cluster FROM follower")
                guard kept == cluster else {
                    throw NotifierStoreError.otherCluster(
                        path: path, cluster: kept ?? "", wanted: cluster)
                }
            }
        }
    }

    /// Opens for reading only, also while a notifier writes.
    public init(readingFrom path: String) throws(NotifierStoreError) {
        self.path = path
        guard FileManager.default.fileExists(atPath: path) else { throw .missing(path: path) }
        var configuration = Configuration()
        configuration.readonly = true
        configuration.busyMode = .timeout(5)
        queue = try guarded(path, "open") {
            let queue = try DatabaseQueue(path: path, configuration: configuration)
            try queue.read { database in
                try checkKind(database, path: path, mayBeEmpty: false)
                guard try notifierMigrator.hasCompletedMigrations(database) else {
                    throw NotifierStoreError.foreign(path: path)
                }
            }
            return queue
        }
    }

    /// Sequence of the last event stored; 0 if none.
    public func cursor() throws(NotifierStoreError) -> UInt64 {
        try guarded(path, "read") {
            try queue.read { database in
                UInt64(clamping: try NotifierTransaction(database: database).position().sequence)
            }
        }
    }

    public func change<Value>(
        _ body: (NotifierTransaction) throws -> Value
    ) throws(NotifierStoreError) -> Value {
        try guarded(path, "write to") {
            try queue.write { try body(NotifierTransaction(database: $0)) }
        }
    }

    /// Lines that `sink` has not taken, oldest first.
    public func pending(_ sink: Sink, limit: Int) throws(NotifierStoreError) -> [PendingLine] {
        try guarded(path, "read") {
            try queue.read { database in
                try Row.fetchAll(
                    database,
                    sql: """
                        SELECT number, annotationId, line FROM outbox
                        WHERE sink = ? AND deliveredAtMicroseconds IS NULL ORDER BY number LIMIT ?
                        """, arguments: [sink.rawValue, limit]
                ).map {
                    PendingLine(
                        number: $0["number"], annotationID: $0["annotationId"], line: $0["line"])
                }
            }
        }
    }

    /// Marks lines as taken; marking one again changes nothing.
    public func markDelivered(
        _ lines: [PendingLine], at time: Timestamp
    ) throws(NotifierStoreError) {
        try guarded(path, "write to") {
            try queue.write { database in
                let statement = try database.makeStatement(
                    sql: """
                        UPDATE outbox SET deliveredAtMicroseconds = ?
                        WHERE number = ? AND deliveredAtMicroseconds IS NULL
                        """)
                for line in lines {
                    try statement.execute(arguments: [time.microseconds, line.number])
                }
            }
        }
    }

    /// The newest annotations that fit the filter, oldest first.
    public func annotations(
        _ filter: AnnotationFilter = AnnotationFilter(), limit: Int
    ) throws(NotifierStoreError) -> [Annotation] {
        var conditions: [String] = []
        var arguments = StatementArguments()
        func require(_ column: String, _ value: (any DatabaseValueConvertible)?) {
            guard let value else { return }
            conditions.append("\(column) = ?")
            arguments += [value]
        }
        require("guest", filter.guest?.rawValue)
        require("availabilitySet", filter.set?.rawValue)
        require("host", filter.host?.rawValue)
        require("rollout", filter.rollout.map { Int64(bitPattern: $0.number) })
        let condition = conditions.isEmpty ? "" : "WHERE \(conditions.joined(separator: " AND "))"
        arguments += [limit]
        let sql = "SELECT * FROM annotation \(condition) ORDER BY number DESC LIMIT ?"
        return try guarded(path, "read") {
            try queue.read { database in
                try Row.fetchAll(database, sql: sql, arguments: arguments).reversed().map { row in
                    guard let annotation = Annotation(row: row) else {
                        throw NotifierStoreError.damaged(
                            path: path, detail: "row \(row["number"] as Int64) of annotation")
                    }
                    return annotation
                }
            }
        }
    }
}

/// Refuses a database of something else, and one of a newer version.
private func checkKind(_ database: Database, path: String, mayBeEmpty: Bool) throws {
    let isEmpty = try Int.fetchOne(database, sql: "SELECT count(*) FROM sqlite_master") == 0
    if isEmpty && mayBeEmpty { return }
    let id = try Int32.fetchOne(database, sql: "PRAGMA application_id")
    guard id == applicationID else { throw NotifierStoreError.foreign(path: path) }
    guard try !notifierMigrator.hasBeenSuperseded(database) else {
        throw NotifierStoreError.newer(path: path)
    }
}

private func checkPages(_ database: Database, path: String) throws {
    let findings = try String.fetchAll(database, sql: "PRAGMA quick_check(3)")
    guard findings == ["ok"] else {
        throw NotifierStoreError.damaged(path: path, detail: findings.joined(separator: "; "))
    }
}

/// Runs `body` and turns whatever GRDB throws into our own error.
func guarded<Value>(
    _ path: String, _ operation: String, _ body: () throws -> Value
) throws(NotifierStoreError) -> Value {
    do {
        return try body()
    } catch let error as NotifierStoreError {
        throw error
    } catch let error as DatabaseError {
        let detail = error.message ?? "\(error.resultCode)"
        switch error.resultCode {
        case .SQLITE_CORRUPT, .SQLITE_NOTADB: throw .damaged(path: path, detail: detail)
        default: throw .failed(path: path, operation: operation, detail: detail)
        }
    } catch {
        throw .failed(path: path, operation: operation, detail: "\(error)")
    }
}
