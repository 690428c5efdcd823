import LogCore
import Testing

@testable import EtcdLog
@testable import Simulation

/// What the tests of LogStore ask of a real etcd, of a simulated one, in which time and faults obey.
@Suite("etcd log, simulated")
struct EtcdLogStoreTests {
    let bench = Bench()
    private let now = SimulatedEtcd.Fate.passes(there: .zero, back: .zero)

    @Test("what was appended is there after a restart, each leader with a higher epoch")
    func append() throws {
        let store = bench.store()
        #expect(try bench.lead(store) == OpenedLog(epoch: 1, snapshot: nil, records: []))
        try bench.append(store, ["a", "b"], at: 1)
        try bench.append(store, [], at: 3)
        try bench.append(store, ["c", ""], at: 3)
        try bench.wait { store.confirm(completion: $0) }
        store.close()
        let log = try bench.lead(bench.store())
        #expect(log.epoch == 2)
        #expect(log.records == ["a", "b", "c", ""].map { Array($0.utf8) })
    }

    @Test("batches and records of any size come back, to followers too")
    func sizes() throws {
        let store = bench.store()
        let follower = Followed(bench.store("two"))
        try bench.lead(store)
        let megabyte = 1 << 20
        var all: [[UInt8]] = []
        for counts in [
            [megabyte - 6], [megabyte - 5], [megabyte - 4], [5 << 19, 3], [10],
            Array(repeating: 90, count: 15_000),
        ] {
            let batch = counts.map { [UInt8](repeating: UInt8(truncatingIfNeeded: $0), count: $0) }
            try bench.wait {
                store.append(batch, firstIndex: UInt64(all.count) + 1, completion: $0)
            }
            all += batch
        }
        bench.until { follower.index == all.count }
        #expect(follower.records == all)
        #expect(try bench.lead(bench.store()).records == all)
    }

    @Test("a deposed writer is fenced, and nothing of it is in the log")
    func fenced() throws {
        let old = bench.store("old")
        let new = bench.store("new")
        try bench.lead(old, as: "old")
        try bench.append(old, ["a"], at: 1)
        #expect(try bench.lead(new, as: "new").epoch == 2)
        let fenced = LogStoreError.fenced(byEpoch: 2)
        #expect(throws: fenced) { try bench.wait { old.confirm(completion: $0) } }
        #expect(throws: fenced) { try bench.save(old, [[1]], index: 1) }
        #expect(throws: fenced) { try bench.append(old, ["x"], at: 2) }
        try bench.append(new, ["b"], at: 2)
        #expect(try bench.texts() == ["a", "b"])
        let layout = EtcdLayout(prefix: "")
        #expect(bench.keys == ["alive", "epoch", layout.log(1), layout.log(2), "next"])
    }

    @Test("a deposed writer that writes nothing notices within two seconds")
    func idleFenced() throws {
        let old = bench.store("old")
        var lost: [LogStoreError] = []
        old.onLost = { lost.append($0) }
        try bench.lead(old)
        try bench.lead(bench.store("new"))
        bench.until(.milliseconds(2_001)) { !lost.isEmpty }
        #expect(lost == [.fenced(byEpoch: 2)])
    }

    @Test("a follower gets what there is, then each batch, who may write, and signs of life")
    func follows() throws {
        let follower = Followed(bench.store("two"))
        let store = bench.store()
        try bench.lead(store)
        for index in UInt64(1)...5 { try bench.append(store, ["r\(index)"], at: index) }
        bench.until { follower.index == 5 }
        let count = follower.aliveCount
        bench.pass(.seconds(10))
        #expect(follower.aliveCount >= count + 9)
        try bench.lead(bench.store("three"), as: "three")
        bench.until { follower.writers == ["one 1", "three 2"] }
        #expect(follower.texts == (1...5).map { "r\($0)" })
        #expect(follower.loadCount == 1)
        #expect(follower.interruptions.isEmpty)
    }

    @Test("a snapshot removes what it covers, older ones, and what was begun and not finished")
    func snapshot() throws {
        let writer = bench.store()
        try bench.lead(writer)
        try bench.append(writer, ["a", "b", "c"], at: 1)
        let first = LogSnapshot(index: 2, chunks: [[1, 2], [], [3]])
        try bench.save(writer, first.chunks, index: 2)
        let other = bench.store("two")
        let log = try bench.lead(other)
        #expect(log.snapshot == first)
        #expect(log.records == [Array("c".utf8)])
        try bench.append(other, [String(repeating: "x", count: 2 << 20)], at: 4)
        try bench.save(other, [[9]], index: 4)
        let id = EtcdLayout.snapshotID(2, 1)
        #expect(bench.keys == ["alive", "epoch", "next", "snapshot", "snapshot/\(id)/00000000"])
        #expect(try bench.lead(bench.store()).snapshot == LogSnapshot(index: 4, chunks: [[9]]))
    }

    @Test("what a snapshot replaced is compacted, and who was away gets the snapshot")
    func compacted() throws {
        let follower = Followed(bench.store("away"))
        let writer = bench.store()
        try bench.lead(writer)
        try bench.append(writer, ["a"], at: 1)
        bench.until { follower.index == 1 }
        bench.etcd.fate = { $0.server == "away" ? .lost : .passes(there: .zero, back: .zero) }
        bench.etcd.cutWatches(of: "away")
        let before = bench.etcd.revision
        for index in UInt64(2)...5 {
            try bench.append(writer, ["r\(index)"], at: index)
            try bench.save(writer, [[UInt8(index)]], index: index)
        }
        try bench.append(writer, ["last"], at: 6)
        bench.pass(.seconds(20))
        #expect(!follower.interruptions.isEmpty)
        #expect(throws: EtcdFailure.compacted) {
            let _: EtcdRange = try bench.wait {
                bench.etcd.access(of: "x", on: bench.loop).range(
                    .get(key: bench.prefix + "next"), revision: before, $0)
            }
        }
        bench.etcd.fate = { _ in .passes(there: .zero, back: .zero) }
        bench.until { follower.index == 6 }
        #expect(follower.snapshot == LogSnapshot(index: 5, chunks: [[5]]))
        #expect(follower.texts == ["last"])
    }

    @Test("a full etcd is named, loses nothing, and is seen by those that only look")
    func full() throws {
        let store = bench.store()
        try bench.lead(store)
        try bench.append(store, ["a"], at: 1)
        bench.etcd.isFull = true
        do {
            try bench.append(store, ["b"], at: 2)
            Issue.record("it was appended")
        } catch LogStoreError.full(_, let reason) {
            #expect(reason.contains("space exceeded"))
        }
        let other = bench.store("two")
        bench.until { !other.warnings.isEmpty }
        #expect(other.warnings.first?.contains("NOSPACE") == true)
        bench.etcd.isFull = false
        let log = try bench.lead(store)
        #expect(log.records == [Array("a".utf8)])
    }

    @Test("nothing is answered after close, nor to a process that died")
    func closed() throws {
        let loop = VirtualLoop(bench.clock)
        let stores = [bench.store(), bench.store("two", on: loop)]
        for (index, store) in stores.enumerated() {
            try bench.lead(store)
            store.append([[1]], firstIndex: UInt64(index) + 1) { _ in Issue.record("answered") }
            if index == 0 { store.close() } else { loop.die() }
        }
        bench.pass(.seconds(60))
        // What was sent is there all the same.
        #expect(try bench.contents().records.count == 2)
    }

    @Test("an etcd restored to an older state, or grown since, is told anew", arguments: [1, 5])
    func restored(count: Int) throws {
        let standby = bench.store("standby")
        let follower = Followed(standby)
        let writer = bench.store()
        try bench.lead(writer)
        try bench.append(writer, ["a"], at: 1)
        bench.until { follower.index == 1 }
        let copy = bench.etcd.copy
        try bench.append(writer, ["b", "c"], at: 2)
        bench.until { follower.index == 3 }
        bench.etcd.restore(copy, cluster: "2")
        let other = bench.store("other")
        try bench.lead(other, as: "other")
        for index in 2..<(count + 2) {
            try bench.append(other, ["new \(index)"], at: UInt64(index))
        }
        bench.until { follower.loadCount == 2 && follower.index == count + 1 }
        #expect(follower.texts == ["a"] + (2..<(count + 2)).map { "new \($0)" })
        #expect(follower.writers.last == "other 2")
    }

    /// As `fermata restore --replace` does, while a standby follows, or is away meanwhile.
    @Test(
        "a log that was replaced is told anew, also if it has grown beyond what is known of the old",
        arguments: [1, 3, 5], [false, true])
    func replaced(count: Int, isAway: Bool) throws {
        let follower = Followed(bench.store("standby"))
        let writer = bench.store()
        try bench.lead(writer)
        try bench.append(writer, ["a", "b", "c"], at: 1)
        bench.until { follower.index == 3 }
        if isAway {
            bench.etcd.lineFate = { server, _ in
                server == "standby" ? .silent : .passes(after: .milliseconds(1))
            }
            bench.etcd.fate = { [now] in $0.server == "standby" ? .lost : now }
        }
        let restoring = bench.store("restoring")
        try bench.lead(restoring, as: "restoring")
        var chunks: ArraySlice<[UInt8]> = [Array("A".utf8)]
        try bench.wait { restoring.replace(index: 1, next: { chunks.popFirst() }, completion: $0) }
        let other = bench.store("other")
        try bench.lead(other, as: "other", after: 1)
        for index in 2..<(count + 2) {
            try bench.append(other, ["new \(index)"], at: UInt64(index))
        }
        if isAway {
            bench.etcd.lineFate = { _, _ in .passes(after: .milliseconds(1)) }
            bench.etcd.fate = { [now] _ in now }
        }
        bench.until { follower.loadCount == 2 && follower.index == count + 1 }
        #expect(follower.snapshot == LogSnapshot(index: 1, chunks: [Array("A".utf8)]))
        #expect(follower.texts == (2..<(count + 2)).map { "new \($0)" })
        bench.pass(.seconds(5))
        #expect(follower.loadCount == 2)
    }

    @Test("who was behind a log that was replaced cannot lead by what it knows")
    func replacedUnseen() throws {
        let standby = bench.store("standby")
        let follower = Followed(standby)
        let writer = bench.store()
        try bench.lead(writer)
        try bench.append(writer, ["a", "b", "c"], at: 1)
        bench.until { follower.index == 3 }
        bench.etcd.lineFate = { server, _ in
            server == "standby" ? .silent : .passes(after: .milliseconds(1))
        }
        let restoring = bench.store("restoring")
        try bench.lead(restoring, as: "restoring")
        try bench.wait { restoring.replace(index: 3, next: { nil }, completion: $0) }
        #expect(throws: LogStoreError.self) { try bench.lead(standby, as: "standby", after: 3) }
    }
}
