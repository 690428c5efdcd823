import Foundation
import GRDB
public import LogCore
public import UvLoop

/// The embedded log: one SQLite file in the data directory, for a single server.
///
/// Happy path: `lead` locks the directory, raises the epoch and reads; each append is one
/// transaction, fsynced (WAL, `synchronous=FULL`) before its completion. Snapshots are in
/// SQLiteSnapshots.swift, the tables in SQLiteTables.swift.
///
/// Failure modes: a second process on the directory → `inUse`; a file that is no database, has gaps
/// or a foreign format → `corrupt` or `newerFormat`; a full disk → `writeFailed`, with nothing of
/// the batch in the log. kill −9 at any moment leaves the last committed batch.
public final class SQLiteLogStore: LogStore {
    private let directory: String
    let loop: Loop
    private var lock: FileLock?
    private(set) var queue: DatabaseQueue?
    private(set) var epoch: UInt64 = 0
    /// The snapshot that is being written.
    var saving: Saving?
    /// Whether what no snapshot needs any more is being deleted.
    var isCleaning = false

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
            clean()
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
        begin(Saving(index: index, isAll: false, next: next, completion: completion))
    }

    public func close() {
        saving = nil
        try? queue?.close()
        queue = nil
        lock?.release()
        lock = nil
    }

    // MARK: Reading beside a server

    /// No lock, no new epoch and nothing written: a server may be running on the directory.
    fileprivate func readNow() throws(LogStoreError) -> StoredLog {
        guard Files.kind(path: path) != nil else {
            guard Files.kind(path: directory) ?? .directory == .directory else {
                throw .cannotOpen(path: directory, reason: "it is not a directory")
            }
            // Nothing is seen of what one may not look into.
            guard Files.isAbsent(path: path) else {
                throw .cannotOpen(path: directory, reason: "permission denied")
            }
            return StoredLog(epoch: 0, snapshot: nil, records: [])
        }
        do {
            var configuration = Configuration()
            configuration.readonly = true
            let queue = try DatabaseQueue(path: path, configuration: configuration)
            defer { try? queue.close() }
            return try queue.read { try SQLiteTables.load($0) }
        } catch {
            throw translate(error, writing: false)
        }
    }

    // MARK: The database

    private struct Fenced: Error { var byEpoch: UInt64 }

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
            let log = try queue.write { database in
                try SQLiteTables.prepare(database)
                try database.execute(sql: "UPDATE meta SET epoch = epoch + 1")
                return try SQLiteTables.load(database)
            }
            epoch = log.epoch
            return OpenedLog(epoch: log.epoch, snapshot: log.snapshot, records: log.records)
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

    static func checkEpoch(_ epoch: UInt64, _ database: Database) throws {
        let newest = try Int64.fetchOne(database, sql: "SELECT epoch FROM meta") ?? 0
        if UInt64(bitPattern: newest) != epoch { throw Fenced(byEpoch: UInt64(bitPattern: newest)) }
    }

    func write(_ body: (Database) throws -> Void) -> Result<Void, LogStoreError> {
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
        case let error as SQLiteTables.Damaged: return .corrupt(path: path, reason: error.reason)
        case let error as SQLiteTables.Newer:
            return .newerFormat(path: path, version: error.version)
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

extension SQLiteLogStore: ReadableLogStore {
    public func read(completion: @escaping (Result<StoredLog, LogStoreError>) -> Void) {
        let result: Result<StoredLog, LogStoreError>
        do {
            result = .success(try readNow())
        } catch {
            result = .failure(error)
        }
        loop.soon { completion(result) }
    }

    public func replace(
        index: UInt64, next: @escaping () -> [UInt8]?,
        completion: @escaping (Result<Void, LogStoreError>) -> Void
    ) {
        begin(Saving(index: index, isAll: true, next: next, completion: completion))
    }
}
