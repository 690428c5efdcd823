import Foundation
import GRDB
import LogCore
import LogStore
import Testing
import UvLoop

@Suite("SQLite log store")
final class SQLiteLogStoreTests: SQLiteCase {
    private func append(_ store: SQLiteLogStore, _ texts: [String], at index: UInt64) throws {
        try wait {
            store.append(texts.map { Array($0.utf8) }, firstIndex: index, completion: $0)
        }
    }

    @Test("what was appended is there after a restart, and each opening has a higher epoch")
    func appendAndReopen() throws {
        let (store, first) = try open()
        #expect(first == OpenedLog(epoch: 1, snapshot: nil, records: []))
        try append(store, ["a", "b"], at: 1)
        try append(store, ["c"], at: 3)
        store.close()
        let (again, log) = try open()
        #expect(log.epoch == 2)
        #expect(log.records == [Array("a".utf8), Array("b".utf8), Array("c".utf8)])
        again.close()
    }

    @Test("a snapshot replaces what it covers")
    func snapshot() throws {
        let (store, _) = try open()
        try append(store, ["a", "b", "c"], at: 1)
        let snapshot = LogSnapshot(index: 2, chunks: [[1, 2], [3]])
        var chunks = snapshot.chunks[...]
        try wait { store.save(index: 2, next: { chunks.popFirst() }, completion: $0) }
        store.close()
        let (again, log) = try open()
        #expect(log.snapshot == snapshot)
        #expect(log.records == [Array("c".utf8)])
        again.close()
    }

    @Test("a second process on the same directory is told so")
    func inUse() throws {
        let (store, _) = try open()
        #expect(throws: LogStoreError.inUse(directory: directory)) { try self.open() }
        store.close()
        let (again, _) = try open()
        again.close()
    }

    @Test("a deposed writer cannot write")
    func fenced() throws {
        let (store, _) = try open()
        let other = try DatabaseQueue(path: store.path)
        try other.write { try $0.execute(sql: "UPDATE meta SET epoch = 7") }
        #expect(throws: LogStoreError.fenced(byEpoch: 7)) {
            try self.append(store, ["x"], at: 1)
        }
        #expect(try other.read { try Int.fetchOne($0, sql: "SELECT count(*) FROM record") } == 0)
        store.close()
    }

    @Test("a batch is written whole or not at all")
    func atomicBatch() throws {
        let (store, _) = try open()
        try append(store, ["a"], at: 1)
        // Index 1 is taken: the second record of the batch cannot be written, so neither is the first.
        let other = try DatabaseQueue(path: store.path)
        try other.write { try $0.execute(sql: "INSERT INTO record VALUES (3, x'00')") }
        #expect(throws: LogStoreError.self) { try self.append(store, ["b", "c"], at: 2) }
        #expect(
            try other.read { try Int64.fetchAll($0, sql: "SELECT idx FROM record") } == [1, 3])
        store.close()
    }

    @Test("a gap, a file that is no database, and a newer format are named")
    func damaged() throws {
        let (store, _) = try open()
        try append(store, ["a", "b", "c"], at: 1)
        store.close()
        let other = try DatabaseQueue(path: store.path)
        try other.write { try $0.execute(sql: "DELETE FROM record WHERE idx = 2") }
        #expect(
            throws: LogStoreError.corrupt(
                path: store.path, reason: "record 2 is missing, 3 is there")
        ) { try self.open() }
        try other.write { try $0.execute(sql: "PRAGMA user_version = 9") }
        #expect(throws: LogStoreError.newerFormat(path: store.path, version: 9)) {
            try self.open()
        }
        try other.close()
        for suffix in ["", "-wal", "-shm"] {
            try? FileManager.default.removeItem(atPath: store.path + suffix)
        }
        try Data("this is not a database, however long it is".utf8).write(
            to: URL(fileURLWithPath: store.path))
        #expect(throws: LogStoreError.self) { try self.open() }
    }

    @Test("a directory that cannot be made is named")
    func cannotOpen() throws {
        #expect(FileManager.default.createFile(atPath: directory, contents: nil))
        #expect(throws: LogStoreError.self) { try self.open() }
    }
}
