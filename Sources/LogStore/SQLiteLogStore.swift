import Foundation
import GRDB
public import UvLoop

/// The embedded log: one SQLite file in the data directory, for a single server.
///
/// Happy path: `lead` locks the directory, raises the epoch and reads; each append is one
/// transaction, fsynced (WAL, `synchronous=FULL`) before its completion.
///
/// Failure modes: a second process on the directory → `inUse`; a file that is no database, has gaps
/// or a foreign format → `corrupt` or `newerFormat`; a full disk → `writeFailed`, with nothing of the batch
/// in the log. kill −9 at any moment leaves the last committed batch.
public final class SQLiteLogStore: LogStore {
    private static let format: Int64 = 1

    private let directory: String
    private let loop: Loop
    private var lock: FileLock?
    private var queue: DatabaseQueue?
    private var epoch: UInt64 = 0

    public var path: String { directory + "/log.sqlite" }
    public var name: String { "sqlite:\(directory)" }
    public var warnings: [String] { [] }

    /// - Parameter directory: is created if missing, with mode 0700.
    public init(directory: String, loop: Loop) {
        self.directory = directory
        self.loop = loop
    }

    public func lead(
        as writer: LogWriter, after index: UInt64,
        completion: @escaping (Result<OpenedLog, LogStoreError>) -> Void
    ) {
        let result: Result<OpenedLog, LogStoreError>
        do {
            result = .success(try openNow())
        } catch {
            close()
            result = .failure(error)
        }
        loop.soon { completion(result) }
    }

    public func append(
        _ records: [[UInt8]], firstIndex: UInt64,
        completion: @escaping (Result<Void, LogStoreError>) -> Void
    ) {
        let result = write { [epoch] database in
            try Self.checkEpoch(epoch, database)
            let statement = try database.cachedStatement(
                sql: "INSERT INTO record (idx, bytes) VALUES (?, ?)")
            for (offset, bytes) in records.enumerated() {
                try statement.execute(arguments: [
                    Int64(firstIndex) + Int64(offset), Data(bytes),
                ])
            }
        }
        loop.soon { completion(result) }
    }

    public func confirm(completion: @escaping (Result<Void, LogStoreError>) -> Void) {
        // The lock on the directory is held, so nobody else can have written.
        loop.soon { completion(.success(())) }
    }

    public func save(
        index: UInt64, next: @escaping () -> [UInt8]?,
        completion: @escaping (Result<Void, LogStoreError>) -> Void
    ) {
        var chunks: [[UInt8]] = []
        while let chunk = next() { chunks.append(chunk) }
        let result = write { [epoch] database in
            try Self.checkEpoch(epoch, database)
            try database.execute(sql: "DELETE FROM snapshot")
            let statement = try database.cachedStatement(
                sql: "INSERT INTO snapshot (number, bytes) VALUES (?, ?)")
            for (number, bytes) in chunks.enumerated() {
                try statement.execute(arguments: [Int64(number), Data(bytes)])
            }
            try database.execute(
                sql: "UPDATE meta SET snapshotIndex = ?", arguments: [Int64(index)])
            try database.execute(
                sql: "DELETE FROM record WHERE idx <= ?", arguments: [Int64(index)])
        }
        loop.soon { completion(result) }
    }

    public func close() {
        try? queue?.close()
        queue = nil
        lock?.release()
        lock = nil
    }

    // MARK: The database

    private struct Fenced: Error { var byEpoch: UInt64 }
    private struct Damaged: Error { var reason: String }
    private struct Newer: Error { var version: Int64 }

    private func openNow() throws(LogStoreError) -> OpenedLog {
        do {
            try Files.makeDirectory(path: directory, mode: 0o700, parents: true)
        } catch {
            throw .cannotOpen(path: directory, reason: "\(error)")
        }
        do {
            lock = try Files.lock(path: directory + "/lock")
        } catch {
            if error.name == "EWOULDBLOCK" || error.name == "EAGAIN" {
                throw .inUse(directory: directory)
            }
            throw .cannotOpen(path: directory, reason: "\(error)")
        }
        do {
            let queue = try DatabaseQueue(path: path, configuration: Self.configuration())
            self.queue = queue
            let log = try queue.write { try Self.load($0) }
            epoch = log.epoch
            return log
        } catch {
            throw translate(error, writing: false)
        }
    }

    private static func configuration() -> Configuration {
        var configuration = Configuration()
        configuration.prepareDatabase { database in
            try database.execute(sql: "PRAGMA journal_mode = WAL")
            try database.execute(sql: "PRAGMA synchronous = FULL")
        }
        return configuration
    }

    private static func load(_ database: Database) throws -> OpenedLog {
        let version = try Int64.fetchOne(database, sql: "PRAGMA user_version") ?? 0
        if version > format { throw Newer(version: version) }
        if version == 0 { try create(database) }
        guard
            let meta = try Row.fetchOne(database, sql: "SELECT epoch, snapshotIndex FROM meta")
        else { throw Damaged(reason: "the table meta is empty") }
        let epoch = UInt64(bitPattern: meta["epoch"] as Int64) + 1
        try database.execute(
            sql: "UPDATE meta SET epoch = ?", arguments: [Int64(bitPattern: epoch)])
        let snapshotIndex: Int64? = meta["snapshotIndex"]
        var expected = (snapshotIndex ?? 0) + 1
        var records: [[UInt8]] = []
        let rows = try Row.fetchCursor(database, sql: "SELECT idx, bytes FROM record ORDER BY idx")
        while let row = try rows.next() {
            let index: Int64 = row["idx"]
            guard index == expected else {
                throw Damaged(reason: "record \(expected) is missing, \(index) is there")
            }
            records.append([UInt8](row["bytes"] as Data))
            expected += 1
        }
        let snapshot = try snapshotIndex.map { index in
            let chunks = try Data.fetchAll(
                database, sql: "SELECT bytes FROM snapshot ORDER BY number")
            return LogSnapshot(index: UInt64(index), chunks: chunks.map { [UInt8]($0) })
        }
        return OpenedLog(epoch: epoch, snapshot: snapshot, records: records)
    }

    private static func create(_ database: Database) throws {
        try database.execute(
            sql: """
                CREATE TABLE meta (
                    single INTEGER PRIMARY KEY CHECK (single = 1),
                    epoch INTEGER NOT NULL, snapshotIndex INTEGER);
                INSERT INTO meta (single, epoch) VALUES (1, 0);
                CREATE TABLE record (idx INTEGER PRIMARY KEY, bytes BLOB NOT NULL);
                CREATE TABLE snapshot (number INTEGER PRIMARY KEY, bytes BLOB NOT NULL);
                PRAGMA user_version = \(format);
                """)
    }

    private static func checkEpoch(_ epoch: UInt64, _ database: Database) throws {
        let newest = try Int64.fetchOne(database, sql: "SELECT epoch FROM meta") ?? 0
        if UInt64(bitPattern: newest) != epoch { throw Fenced(byEpoch: UInt64(bitPattern: newest)) }
    }

    private func write(_ body: (Database) throws -> Void) -> Result<Void, LogStoreError> {
        guard let queue else {
            return .failure(.writeFailed(path: path, reason: "the log is closed"))
        }
        do {
            try queue.write { try body($0) }
            return .success(())
        } catch {
            return .failure(translate(error, writing: true))
        }
    }

    private func translate(_ error: any Error, writing: Bool) -> LogStoreError {
        switch error {
        case let error as Fenced: return .fenced(byEpoch: error.byEpoch)
        case let error as Damaged: return .corrupt(path: path, reason: error.reason)
        case let error as Newer: return .newerFormat(path: path, version: error.version)
        case let error as DatabaseError:
            let reason = error.message ?? "\(error.resultCode)"
            switch error.resultCode {
            case .SQLITE_CORRUPT, .SQLITE_NOTADB, .SQLITE_CONSTRAINT, .SQLITE_SCHEMA,
                .SQLITE_ERROR:
                return .corrupt(path: path, reason: reason)
            default:
                return writing
                    ? .writeFailed(path: path, reason: reason)
                    : .cannotOpen(path: path, reason: reason)
            }
        default:
            return writing
                ? .writeFailed(path: path, reason: "\(error)")
                : .cannotOpen(path: path, reason: "\(error)")
        }
    }
}
