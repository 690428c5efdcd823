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
// - another process writes (dead letters, replay): seen by ``hasChangedElsewhere()``;
// - the same event twice: the cursor, and behind it the UNIQUE annotationId, keep it out;
// - events missing: stored as a gap and told to the caller;
// - the leader's events begin anew (it was restored from a backup): the cursor goes back to 0, the
//   history number up by one, and what is known already is recognised by its id and its time.

/// The notifier's SQLite file. One process follows and delivers; any number may read, and change what
/// the outbox holds.
public final class NotifierStore: NoticeRecord {
    public let path: String
    let queue: DatabaseQueue
    /// While changes are made together.
    private var open: Database?

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
            // A burst may make the log of changes large; it need not stay so.
            try database.execute(sql: "PRAGMA journal_size_limit = 16777216")
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

    /// Opens one that is there, also while a notifier writes.
    ///
    /// - Parameter mayChange: whether the outbox is to be changed.
    public init(existing path: String, mayChange: Bool) throws(NotifierStoreError) {
        self.path = path
        guard FileManager.default.fileExists(atPath: path) else { throw .missing(path: path) }
        var configuration = Configuration()
        configuration.readonly = !mayChange
        configuration.busyMode = .timeout(5)
        queue = try guarded(path, "open") {
            let queue = try DatabaseQueue(path: path, configuration: configuration)
            try queue.read { database in
                try checkKind(database, path: path, mayBeEmpty: false)
                let done = try notifierMigrator.appliedIdentifiers(database)
                guard !done.isEmpty else { throw NotifierStoreError.foreign(path: path) }
                guard try notifierMigrator.hasCompletedMigrations(database) else {
                    throw NotifierStoreError.older(path: path)
                }
            }
            return queue
        }
    }

    /// Opens for reading only.
    public convenience init(readingFrom path: String) throws(NotifierStoreError) {
        try self.init(existing: path, mayChange: false)
    }

    /// Makes all changes within `body` durable together, which costs one write to the disk: all of them come
    /// true, or if it throws none.
    public func together<Value>(
        _ body: () throws(NotifierStoreError) -> Value
    ) throws(NotifierStoreError) -> Value {
        precondition(open == nil, "changes are made together already")
        return try guarded(path, "write to") {
            try queue.write { database in
                open = database
                defer { open = nil }
                return try body()
            }
        }
    }

    func read<Value>(_ body: (Database) throws -> Value) throws -> Value {
        if let open { return try body(open) }
        return try queue.read(body)
    }

    func write<Value>(_ body: (Database) throws -> Value) throws -> Value {
        if let open { return try body(open) }
        return try queue.write(body)
    }

    /// Survives this process's death; a power cut may undo the newest.
    func writeSoon(_ body: (Database) throws -> Void) throws {
        if let open { return try body(open) }
        try queue.writeWithoutTransaction { database in
            try database.execute(sql: "PRAGMA synchronous = NORMAL")
            let result = Result {
                try database.inTransaction {
                    try body(database)
                    return .commit
                }
            }
            try database.execute(sql: "PRAGMA synchronous = FULL")
            try result.get()
        }
    }

    /// Sequence of the last event stored; 0 if none.
    public func cursor() throws(NotifierStoreError) -> UInt64 {
        try guarded(path, "read") {
            try read { database in
                UInt64(clamping: try NotifierTransaction(database: database).position().sequence)
            }
        }
    }

    public func change<Value>(
        _ body: (NotifierTransaction) throws -> Value
    ) throws(NotifierStoreError) -> Value {
        try guarded(path, "write to") {
            try write { try body(NotifierTransaction(database: $0)) }
        }
    }

    /// The newest annotations that fit the filter, oldest first.
    public func annotations(
        _ filter: AnnotationFilter = AnnotationFilter(), limit: Int
    ) throws(NotifierStoreError) -> [Annotation] {
        let (condition, values) = filter.condition
        let sql = "SELECT * FROM annotation \(condition) ORDER BY number DESC LIMIT ?"
        return try guarded(path, "read") {
            try read { database in
                try Row.fetchAll(database, sql: sql, arguments: values + [limit]).reversed().map {
                    row in
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
