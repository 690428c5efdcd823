import Foundation
import GRDB
import LogCore
import UvLoop

// Snapshots of the embedded log.
//
// ```
// save ──▶ make a chunk ──▶ write it (a new generation) ──▶ … ──▶ switch ──▶ deletions, some a turn
//          one turn of the loop each                   (one small transaction)
// ```
// Until the switch the old snapshot counts with all its records, after it the new one. A crash
// between leaves rows that do not count; they are deleted after the next `lead`. Appends go on
// all the time.

extension SQLiteLogStore {
    /// Of rows deleted in one turn of the loop: as long as writing some chunks takes.
    private static let cleanedByteCountMax = 1 << 20
    private static let cleanedRowsMax = 500

    /// A snapshot on its way into the file.
    final class Saving {
        let index: UInt64
        /// Whether records beyond `index` go, too.
        let isAll: Bool
        let next: () -> [UInt8]?
        let completion: (Result<Void, LogStoreError>) -> Void
        var generation: Int64 = 0
        var chunkCount: Int64 = 0

        init(
            index: UInt64, isAll: Bool, next: @escaping () -> [UInt8]?,
            completion: @escaping (Result<Void, LogStoreError>) -> Void
        ) {
            self.index = index
            self.isAll = isAll
            self.next = next
            self.completion = completion
        }
    }

    func begin(_ saving: Saving) {
        precondition(self.saving == nil, "a snapshot is being saved already")
        self.saving = saving
        loop.soon { [self] in
            guard self.saving === saving else { return }
            let result = write { database in
                // Above every leftover, so that its chunks cannot mix with ours.
                let newest = try Int64.fetchOne(
                    database,
                    sql: """
                        SELECT max(generation) FROM
                            (SELECT generation FROM meta UNION ALL SELECT generation FROM chunk)
                        """)
                saving.generation = (newest ?? 0) + 1
            }
            if case .failure = result { end(saving, result) } else { go(on: saving) }
        }
    }

    private func go(on saving: Saving) {
        guard self.saving === saving else { return }
        guard let chunk = saving.next() else {
            end(saving, write { [epoch] in try Self.finish(saving, epoch, $0) })
            return
        }
        // Making it and writing it take some milliseconds each: others are served between them.
        loop.soon { [self] in
            guard self.saving === saving else { return }
            keep(chunk, of: saving)
        }
    }

    private func keep(_ chunk: [UInt8], of saving: Saving) {
        let result = write { [epoch] database in
            try Self.checkEpoch(epoch, database)
            try database.cachedStatement(
                sql: "INSERT INTO chunk (generation, number, bytes) VALUES (?, ?, ?)"
            ).execute(arguments: [saving.generation, saving.chunkCount, Data(chunk)])
        }
        if case .failure = result {
            end(saving, result)
            return
        }
        saving.chunkCount += 1
        loop.soon { [self] in go(on: saving) }
    }

    /// From here on the new snapshot counts.
    private static func finish(_ saving: Saving, _ epoch: UInt64, _ database: Database) throws {
        try checkEpoch(epoch, database)
        try database.execute(
            sql: "UPDATE meta SET snapshotIndex = ?, generation = ?, chunkCount = ?",
            arguments: [Int64(saving.index), saving.generation, saving.chunkCount])
        if saving.isAll { try database.execute(sql: "DELETE FROM record") }
    }

    private func end(_ saving: Saving, _ result: Result<Void, LogStoreError>) {
        guard self.saving === saving else { return }
        self.saving = nil
        clean()
        saving.completion(result)
    }

    // MARK: Deleting what does not count

    /// Deletes old chunks, unfinished ones and covered records, a few each turn of the loop.
    func clean() {
        guard !isCleaning else { return }
        isCleaning = true
        loop.soon { [self] in cleanSome() }
    }

    private func cleanSome() {
        guard queue != nil else {
            isCleaning = false
            return
        }
        var deletedCount = 0
        let result = write { [epoch] database in
            try Self.checkEpoch(epoch, database)
            deletedCount = try Self.deleteChunks(database, but: saving?.generation)
            if deletedCount == 0 { deletedCount = try Self.deleteRecords(database) }
        }
        // What cannot be deleted now takes room and does no other harm; the next snapshot tries again.
        guard case .success = result, deletedCount > 0 else {
            isCleaning = false
            return
        }
        loop.soon { [self] in cleanSome() }
    }

    private static func deleteChunks(_ database: Database, but saved: Int64?) throws -> Int {
        try database.execute(
            sql: """
                DELETE FROM chunk WHERE rowid IN (
                    SELECT rowid FROM chunk
                    WHERE generation <> (SELECT generation FROM meta) AND generation IS NOT ?
                    LIMIT 4)
                """, arguments: [saved])
        return database.changesCount
    }

    private static func deleteRecords(_ database: Database) throws -> Int {
        var byteCount = 0
        var last: Int64?
        let rows = try Row.fetchCursor(
            database,
            sql: """
                SELECT idx, length(bytes) AS byteCount FROM record
                WHERE idx <= (SELECT snapshotIndex FROM meta) ORDER BY idx LIMIT \(cleanedRowsMax)
                """)
        while byteCount < cleanedByteCountMax, let row = try rows.next() {
            last = row["idx"]
            byteCount += row["byteCount"]
        }
        guard let last else { return 0 }
        try database.execute(sql: "DELETE FROM record WHERE idx <= ?", arguments: [last])
        return database.changesCount
    }
}
