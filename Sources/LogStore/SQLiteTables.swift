import Foundation
import GRDB
import LogCore

/// The tables of the embedded log, and older forms of them.
///
/// Format 2: `chunk` holds a snapshot's bytes in pieces; those of the generation that `meta` names
/// count. Format 1 had a table `snapshot` with one record a row.
enum SQLiteTables {
    static let format: Int64 = 2

    struct Damaged: Error { var reason: String }
    struct Newer: Error { var version: Int64 }

    /// Creates the tables, or brings them into the present form.
    static func prepare(_ database: Database) throws {
        switch try version(database) {
        case 0: try create(database)
        case 1: try migrateFromFormat1(database)
        default: break
        }
    }

    private static func version(_ database: Database) throws -> Int64 {
        let version = try Int64.fetchOne(database, sql: "PRAGMA user_version") ?? 0
        if version > format { throw Newer(version: version) }
        return version
    }

    private static func create(_ database: Database) throws {
        try database.execute(
            sql: """
                CREATE TABLE meta (
                    single INTEGER PRIMARY KEY CHECK (single = 1),
                    epoch INTEGER NOT NULL, snapshotIndex INTEGER,
                    generation INTEGER NOT NULL DEFAULT 0,
                    chunkCount INTEGER NOT NULL DEFAULT 0);
                INSERT INTO meta (single, epoch) VALUES (1, 0);
                CREATE TABLE record (idx INTEGER PRIMARY KEY, bytes BLOB NOT NULL);
                \(createChunk)
                PRAGMA user_version = \(format);
                """)
    }

    private static let createChunk = """
        CREATE TABLE chunk (
            generation INTEGER NOT NULL, number INTEGER NOT NULL, bytes BLOB NOT NULL,
            PRIMARY KEY (generation, number));
        """

    private static func migrateFromFormat1(_ database: Database) throws {
        try database.execute(
            sql: """
                ALTER TABLE meta ADD COLUMN generation INTEGER NOT NULL DEFAULT 0;
                ALTER TABLE meta ADD COLUMN chunkCount INTEGER NOT NULL DEFAULT 0;
                \(createChunk)
                """)
        let chunks = try chunksOfFormat1(database)
        for (number, chunk) in chunks.enumerated() {
            try database.execute(
                sql: "INSERT INTO chunk (generation, number, bytes) VALUES (1, ?, ?)",
                arguments: [number, Data(chunk)])
        }
        try database.execute(
            sql: """
                UPDATE meta SET generation = 1, chunkCount = \(chunks.count);
                DROP TABLE snapshot;
                PRAGMA user_version = \(format);
                """)
    }

    /// - Precondition: one transaction around it, so that it is all of one moment.
    static func load(_ database: Database) throws -> StoredLog {
        let version = try version(database)
        guard version > 0 else { return StoredLog(epoch: 0, snapshot: nil, records: []) }
        guard
            let meta = try Row.fetchOne(database, sql: "SELECT epoch, snapshotIndex FROM meta")
        else { throw Damaged(reason: "the table meta is empty") }
        let snapshotIndex: Int64? = meta["snapshotIndex"]
        var expected = (snapshotIndex ?? 0) + 1
        var records: [[UInt8]] = []
        let rows = try Row.fetchCursor(
            database, sql: "SELECT idx, bytes FROM record WHERE idx >= ? ORDER BY idx",
            arguments: [expected])
        while let row = try rows.next() {
            let index: Int64 = row["idx"]
            guard index == expected else {
                throw Damaged(reason: "record \(expected) is missing, \(index) is there")
            }
            records.append([UInt8](row["bytes"] as Data))
            expected += 1
        }
        let snapshot = try snapshotIndex.map { index in
            LogSnapshot(
                index: UInt64(index),
                chunks: try version == 1 ? chunksOfFormat1(database) : chunks(database))
        }
        return StoredLog(
            epoch: UInt64(bitPattern: meta["epoch"] as Int64), snapshot: snapshot,
            records: records)
    }

    private static func chunks(_ database: Database) throws -> [[UInt8]] {
        guard let meta = try Row.fetchOne(database, sql: "SELECT generation, chunkCount FROM meta")
        else { return [] }
        let count: Int64 = meta["chunkCount"]
        var chunks: [[UInt8]] = []
        let rows = try Row.fetchCursor(
            database, sql: "SELECT number, bytes FROM chunk WHERE generation = ? ORDER BY number",
            arguments: [meta["generation"] as Int64])
        while let row = try rows.next() {
            guard row["number"] as Int64 == Int64(chunks.count) else { break }
            chunks.append([UInt8](row["bytes"] as Data))
        }
        guard chunks.count == count else {
            throw Damaged(reason: "chunk \(chunks.count) of the snapshot's \(count) is missing")
        }
        return chunks
    }

    /// In format 1 a row was one record without its length. Chunks are a stream of records, each
    /// after its length, so the length goes in front.
    private static func chunksOfFormat1(_ database: Database) throws -> [[UInt8]] {
        try Data.fetchAll(database, sql: "SELECT bytes FROM snapshot ORDER BY number").map { row in
            var chunk: [UInt8] = []
            var rest = row.count
            while rest >= 0x80 {
                chunk.append(UInt8(truncatingIfNeeded: rest) | 0x80)
                rest >>= 7
            }
            chunk.append(UInt8(rest))
            return chunk + row
        }
    }
}
