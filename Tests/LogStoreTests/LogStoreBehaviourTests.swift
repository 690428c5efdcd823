import Foundation
import LogCore
import LogStore
import Testing
import UvLoop

/// What every log store does, whatever is behind it.
@Suite("Log stores", .serialized)
final class LogStoreBehaviourTests {
    enum Kind: CaseIterable, Sendable { case sqlite, etcd }

    let bench: Bench
    let directory = NSTemporaryDirectory() + "fermata-log-\(UUID().uuidString)"

    init() throws { bench = try Bench() }
    deinit { try? FileManager.default.removeItem(atPath: directory) }

    /// Each call: as another process would open the same log.
    private func open(_ kind: Kind) throws -> any LogStore {
        switch kind {
        case .sqlite: SQLiteLogStore(directory: directory, loop: bench.loop)
        case .etcd: bench.store(try EtcdCluster.shared.get().endpoints)
        }
    }

    private func reopen(_ store: any LogStore, _ kind: Kind) throws -> OpenedLog {
        store.close()
        let other = try open(kind)
        defer { other.close() }
        return try bench.lead(other)
    }

    private func bytes(_ texts: String...) -> [[UInt8]] { texts.map { Array($0.utf8) } }

    @Test(
        "what was appended is there after a restart, each leader with a higher epoch",
        arguments: Kind.allCases)
    func append(kind: Kind) throws {
        let store = try open(kind)
        #expect(try bench.lead(store) == OpenedLog(epoch: 1, snapshot: nil, records: []))
        try bench.append(store, ["a", "b"], at: 1)
        try bench.append(store, [], at: 3)
        try bench.append(store, ["c", ""], at: 3)
        try bench.wait { store.confirm(completion: $0) }
        let log = try reopen(store, kind)
        #expect(log == OpenedLog(epoch: 2, snapshot: nil, records: bytes("a", "b", "c", "")))
    }

    @Test(
        "a snapshot replaces what it covers, also if it ends within a batch",
        arguments: Kind.allCases)
    func snapshot(kind: Kind) throws {
        let store = try open(kind)
        try bench.lead(store)
        try bench.append(store, ["a", "b", "c"], at: 1)
        try bench.append(store, ["d"], at: 4)
        let first = LogSnapshot(index: 2, chunks: [[1, 2], [], [3]])
        try bench.save(store, first.chunks, index: 2)
        try bench.append(store, ["e"], at: 5)
        store.close()
        let other = try open(kind)
        let log = try bench.lead(other)
        #expect(log.snapshot == first)
        #expect(log.records == bytes("c", "d", "e"))

        let second = LogSnapshot(index: 5, chunks: [[9]])
        try bench.save(other, second.chunks, index: 5)
        let last = try reopen(other, kind)
        #expect(last == OpenedLog(epoch: 3, snapshot: second, records: []))
    }

    @Test("batches and records of any size come back", arguments: Kind.allCases)
    func sizes(kind: Kind) throws {
        let store = try open(kind)
        try bench.lead(store)
        let megabyte = 1 << 20
        var all: [[UInt8]] = []
        // Around the limit of one request; one record beyond it; many small ones that are.
        for counts in [
            [megabyte - 6], [megabyte - 5], [megabyte - 4], [5 << 19, 3], [10],
            Array(repeating: 90, count: 15_000),
        ] {
            let batch = counts.map { count in
                (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ all.count) }
            }
            try bench.wait {
                store.append(batch, firstIndex: UInt64(all.count) + 1, completion: $0)
            }
            all += batch
        }
        let log = try reopen(store, kind)
        #expect(log.records == all)
    }

    @Test("appends go on between the chunks of a snapshot, or after it", arguments: Kind.allCases)
    func appendsMeanwhile(kind: Kind) throws {
        let store = try open(kind)
        try bench.lead(store)
        try bench.append(store, ["a"], at: 1)
        var left = 40
        var isSaved = false
        store.save(
            index: 1,
            next: {
                left -= 1
                return left >= 0 ? [UInt8](repeating: UInt8(left), count: 50_000) : nil
            }, completion: { result in isSaved = (try? result.get()) != nil })
        var index: UInt64 = 1
        while !isSaved || index == 1 {
            index += 1
            try bench.append(store, ["r\(index)"], at: index)
        }
        let log = try reopen(store, kind)
        #expect(log.snapshot?.chunks.map(\.first) == (0..<40).reversed().map { UInt8($0) })
        #expect(log.records == (2...index).map { Array("r\($0)".utf8) })
    }

    @Test("nothing is answered after close", arguments: Kind.allCases)
    func closed(kind: Kind) throws {
        let store = try open(kind)
        try bench.lead(store)
        try bench.append(store, ["a"], at: 1)
        guard kind == .etcd else { return store.close() }
        let wrong: (Result<Void, LogStoreError>) -> Void = { _ in
            Issue.record("a completion after close()")
        }
        store.append(bytes("b"), firstIndex: 2, completion: wrong)
        store.confirm(completion: wrong)
        store.save(index: 1, next: { nil }, completion: wrong)
        store.close()
        let other = try open(kind)
        other.lead(as: LogWriter(name: "x", address: ""), after: 0) { _ in
            Issue.record("a completion after close()")
        }
        other.close()
        bench.pass(.milliseconds(300))
    }
}
