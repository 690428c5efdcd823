import Foundation
import GRDB
import LogCore
import Testing
import UvLoop

@testable import LogStore

/// Snapshots of the embedded log: chunk by chunk, all or nothing, beside appends.
@Suite("SQLite snapshots")
final class SQLiteSnapshotTests: SQLiteCase {
    let old = LogSnapshot(index: 2, chunks: [[1], [2], [3]])
    let new = LogSnapshot(index: 4, chunks: (10..<20).map { [$0] })

    private func append(_ store: SQLiteLogStore, _ bytes: [UInt8], at index: UInt64) throws {
        try wait {
            store.append(bytes.map { [$0] }, firstIndex: index, completion: $0)
        }
    }

    private func save(_ store: SQLiteLogStore, _ snapshot: LogSnapshot) throws {
        var chunks = snapshot.chunks[...]
        try wait {
            store.save(index: snapshot.index, next: { chunks.popFirst() }, completion: $0)
        }
    }

    /// Lets what goes on in the background come to its end.
    private func settle(_ store: SQLiteLogStore) {
        let limit = loop.after(.seconds(60)) { [loop] in
            Issue.record("it never ends")
            loop.stop()
        }
        let check = loop.every(.milliseconds(1)) { [loop] in
            if !store.isCleaning { loop.stop() }
        }
        loop.run()
        limit.cancel()
        check.cancel()
    }

    private func count(_ table: String) throws -> Int {
        let queue = try DatabaseQueue(path: directory + "/log.sqlite")
        defer { try? queue.close() }
        return try queue.read {
            try Int.fetchOne($0, sql: "SELECT count(*) FROM \(table)") ?? 0
        }
    }

    /// A log with an old snapshot and two records after it.
    private func prepared() throws -> SQLiteLogStore {
        let (store, _) = try open()
        try append(store, [1, 2, 3, 4], at: 1)
        try save(store, old)
        settle(store)
        return store
    }

    @Test("chunks go out one by one, and appends go on between them")
    func appendsBetween() throws {
        let store = try prepared()
        var chunks = new.chunks[...]
        var index: UInt64 = 5
        var appendedAt: [Int] = []
        func appendNext() {
            store.append([[UInt8(index)]], firstIndex: index) { _ in
                appendedAt.append(chunks.count)
                index += 1
                if !chunks.isEmpty { appendNext() }
            }
        }
        appendNext()
        try wait { store.save(index: 4, next: { chunks.popFirst() }, completion: $0) }
        settle(store)
        #expect(Set(appendedAt).count >= 8, "chunks left at each append: \(appendedAt)")
        store.close()
        let (again, log) = try open()
        #expect(log.snapshot == new)
        #expect(log.records == (5..<index).map { [UInt8($0)] })
        again.close()
    }

    @Test("wherever it is cut off, the old snapshot is there or the new one", arguments: 0...22)
    func cutOff(after turns: Int) throws {
        let store = try prepared()
        var chunks = new.chunks[...]
        var isSaved = false
        store.save(index: 4, next: { chunks.popFirst() }) { _ in isSaved = true }
        var turn = 0
        func tick() {
            if turn == turns {
                store.close()
                loop.stop()
                return
            }
            turn += 1
            loop.soon { tick() }
        }
        tick()
        loop.run()
        #expect(isSaved == (turns > 20), "after \(turns) turns")
        let (again, log) = try open()
        #expect(log.snapshot == (isSaved ? new : old))
        #expect(log.records == (isSaved ? [] : [[3], [4]]))
        // What was left behind is gone soon, and does not mix with the next one.
        try save(again, new)
        settle(again)
        #expect(try count("chunk") == new.chunks.count)
        #expect(try count("record") == 0)
        again.close()
        #expect(try open().1.snapshot == new)
    }

    @Test("leftovers are deleted after the next start, without a new snapshot")
    func leftovers() throws {
        let store = try prepared()
        var chunks = new.chunks[...]
        store.save(
            index: 4,
            next: { [loop] in
                if chunks.count == 3 {
                    store.close()
                    loop.stop()
                }
                return chunks.popFirst()
            }
        ) { _ in Issue.record("completed although the store was closed") }
        loop.run()
        #expect(try count("chunk") > old.chunks.count)
        let (again, log) = try open()
        #expect(log.snapshot == old)
        settle(again)
        #expect(try count("chunk") == old.chunks.count)
        #expect(try count("record") == 2)
        again.close()
    }

    @Test("a deposed writer's snapshot does not count")
    func fenced() throws {
        let store = try prepared()
        var chunks = new.chunks[...]
        let other = try DatabaseQueue(path: store.path)
        #expect(throws: LogStoreError.fenced(byEpoch: 9)) {
            try self.wait {
                store.save(
                    index: 4,
                    next: {
                        if chunks.count == 5 {
                            try? other.write { try $0.execute(sql: "UPDATE meta SET epoch = 9") }
                        }
                        return chunks.popFirst()
                    }, completion: $0)
            }
        }
        store.close()
        #expect(try open().1.snapshot == old)
    }

    @Test("a log of format 1 is read as it is, and brought into format 2 by the next server")
    func format1() throws {
        try FileManager.default.createDirectory(
            atPath: directory, withIntermediateDirectories: true)
        let long = [UInt8](repeating: 7, count: 300)
        let queue = try DatabaseQueue(path: directory + "/log.sqlite")
        try queue.writeWithoutTransaction { try $0.execute(sql: "PRAGMA journal_mode = WAL") }
        try queue.write { database in
            try database.execute(
                sql: """
                    CREATE TABLE meta (
                        single INTEGER PRIMARY KEY CHECK (single = 1),
                        epoch INTEGER NOT NULL, snapshotIndex INTEGER);
                    INSERT INTO meta (single, epoch, snapshotIndex) VALUES (1, 6, 2);
                    CREATE TABLE record (idx INTEGER PRIMARY KEY, bytes BLOB NOT NULL);
                    CREATE TABLE snapshot (number INTEGER PRIMARY KEY, bytes BLOB NOT NULL);
                    INSERT INTO record VALUES (3, x'0A0B');
                    INSERT INTO snapshot VALUES (0, x'0102');
                    PRAGMA user_version = 1;
                    """)
            try database.execute(
                sql: "INSERT INTO snapshot VALUES (1, ?)", arguments: [Data(long)])
        }
        try queue.close()
        let snapshot = LogSnapshot(index: 2, chunks: [[2, 1, 2], [0xAC, 2] + long])
        let reader = SQLiteLogStore(directory: directory, loop: loop)
        let read = try wait { reader.read(completion: $0) }
        #expect(read == StoredLog(epoch: 6, snapshot: snapshot, records: [[10, 11]]))
        let (store, log) = try open()
        #expect(log == OpenedLog(epoch: 7, snapshot: snapshot, records: [[10, 11]]))
        store.close()
        let (again, second) = try open()
        #expect(second == OpenedLog(epoch: 8, snapshot: snapshot, records: [[10, 11]]))
        try save(again, new)
        again.close()
        #expect(try open().1.snapshot == new)
    }

    @Test("a chunk that is missing is damage")
    func missingChunk() throws {
        let store = try prepared()
        store.close()
        let queue = try DatabaseQueue(path: store.path)
        try queue.write { try $0.execute(sql: "DELETE FROM chunk WHERE number = 1") }
        #expect(
            throws: LogStoreError.corrupt(
                path: store.path, reason: "chunk 1 of the snapshot's 3 is missing")
        ) { try self.open() }
    }

    @Test("a log is read beside the server that writes it, without a new epoch")
    func readBeside() throws {
        let reader = SQLiteLogStore(directory: directory, loop: loop)
        #expect(try wait { reader.read(completion: $0) }.isEmpty)
        let store = try prepared()
        var log = try wait { reader.read(completion: $0) }
        #expect(log == StoredLog(epoch: 1, snapshot: old, records: [[3], [4]]))
        #expect(log.index == 4)
        try append(store, [5], at: 5)
        log = try wait { reader.read(completion: $0) }
        #expect(log.index == 5)
        store.close()
        log = try wait { reader.read(completion: $0) }
        #expect(log.epoch == 1 && log.index == 5)
    }

    @Test("what is put in its place is all there is, whatever the index")
    func replace() throws {
        let store = try prepared()
        var chunks: ArraySlice<[UInt8]> = [[9], [8]]
        try wait { store.replace(index: 1, next: { chunks.popFirst() }, completion: $0) }
        try append(store, [22], at: 2)
        store.close()
        let (again, log) = try open()
        #expect(log.snapshot == LogSnapshot(index: 1, chunks: [[9], [8]]))
        #expect(log.records == [[22]])
        again.close()
    }
}
