import LogCore
import Testing
import UvLoop

@testable import EtcdLog
@testable import LogStore

/// On a real cluster of three members that all run.
@Suite("etcd log store", .serialized)
final class EtcdLogStoreTests {
    let cluster: EtcdCluster
    let bench: Bench

    init() throws {
        cluster = try EtcdCluster.shared.get()
        bench = try Bench()
    }

    private var ends: [String] { cluster.endpoints }

    @Test("a deposed writer is fenced, told so, and nothing of it is in the log")
    func fenced() throws {
        let old = bench.store(ends)
        let new = bench.store(ends)
        var lost: [LogStoreError] = []
        old.onLost = { lost.append($0) }
        try bench.lead(old, as: "old")
        try bench.append(old, ["a"], at: 1)
        #expect(try bench.lead(new, as: "new").epoch == 2)
        #expect(throws: LogStoreError.fenced(byEpoch: 2)) {
            try bench.wait { old.confirm(completion: $0) }
        }
        #expect(throws: LogStoreError.fenced(byEpoch: 2)) {
            try bench.save(old, [[1]], index: 1)
        }
        #expect(throws: LogStoreError.fenced(byEpoch: 2)) { try bench.append(old, ["x"], at: 2) }
        // Only who leads anew may write.
        let reason = "this server does not lead"
        let refused = LogStoreError.unavailable(store: old.name, reason: reason)
        #expect(throws: refused) { try bench.append(old, ["x"], at: 2) }
        #expect(throws: refused) { try bench.wait { old.confirm(completion: $0) } }
        #expect(throws: refused) { try bench.save(old, [[1]], index: 1) }
        #expect(lost.isEmpty)
        try bench.append(new, ["b"], at: 2)
        #expect(try bench.texts(ends) == ["a", "b"])
        let layout = EtcdLayout(prefix: "")
        #expect(
            try bench.keys(ends) == ["alive", "epoch", layout.log(1), layout.log(2), "next"])
    }

    @Test("a deposed writer that writes nothing notices within two seconds")
    func idleFenced() throws {
        let old = bench.store(ends)
        let new = bench.store(ends)
        var lost: [LogStoreError] = []
        old.onLost = { lost.append($0) }
        try bench.lead(old)
        try bench.lead(new)
        bench.until(.seconds(6)) { !lost.isEmpty }
        #expect(lost == [.fenced(byEpoch: 2)])
    }

    @Test("of two that lead at once one wins; the other is fenced or comes after it")
    func race() throws {
        let stores = (0..<3).map { _ in bench.store(ends) }
        for _ in 0..<6 {
            var results: [Result<OpenedLog, LogStoreError>?] = [nil, nil, nil]
            for number in 0..<3 {
                stores[number].lead(as: LogWriter(name: "\(number)", address: ""), after: 0) {
                    results[number] = $0
                }
            }
            bench.until { results.allSatisfy { $0 != nil } }
            let epochs = results.compactMap { try? $0?.get().epoch }
            #expect(!epochs.isEmpty)
            #expect(Set(epochs).count == epochs.count, "two lead with one epoch")
            // Only the newest of them can write.
            var written = 0
            for number in 0..<3 {
                let next = try bench.texts(ends).count + 1
                if (try? bench.append(stores[number], ["by \(number)"], at: UInt64(next))) != nil {
                    written += 1
                }
            }
            #expect(written == 1)
        }
    }

    @Test("a follower gets what there is, then each batch, who may write, and signs of life")
    func follows() throws {
        let follower = Followed(bench.store(ends))
        bench.until { follower.loadCount == 1 }
        #expect(follower.index == 0)
        #expect(follower.writers.isEmpty)
        let writer = bench.store(ends)
        try bench.lead(writer, as: "w")
        try bench.append(writer, ["a", "b"], at: 1)
        try bench.append(writer, ["c"], at: 3)
        bench.until { follower.index == 3 }
        #expect(follower.texts == ["a", "b", "c"])
        #expect(follower.writers == ["w 1"])
        // Nothing is written: but the writer lives.
        let count = follower.aliveEpochs.count
        bench.until(.seconds(10)) { follower.aliveEpochs.count >= count + 2 }
        #expect(follower.aliveEpochs.last == 1)
        try bench.lead(bench.store(ends), as: "v")
        bench.until { follower.writers == ["w 1", "v 2"] }
        #expect(follower.loadCount == 1)
        #expect(follower.interruptions.isEmpty)
    }

    @Test("etcd forgets its history also where nothing happens and no snapshot is written")
    func historyIsForgotten() throws {
        let options = EtcdOptions(endpoints: ends, prefix: bench.prefix)
        let store = EtcdLogStore(
            options, on: bench.loop, limit: .seconds(6), historyInterval: .milliseconds(200))
        defer { store.close() }
        let follower = Followed(bench.store(ends))
        try bench.lead(store)
        try bench.append(store, ["a"], at: 1)
        bench.until { follower.index == 1 }
        let gateway = bench.gateway(ends)
        let first: EtcdRange = try bench.wait {
            gateway.range(.get(key: bench.prefix + "next"), $0)
        }
        let revision = try #require(first.first?.modRevision)
        var isForgotten = false
        let look = bench.loop.every(.milliseconds(100)) { [prefix = bench.prefix] in
            gateway.range(.get(key: prefix + "epoch"), revision: revision) {
                if case .failure(.compacted) = $0 { isForgotten = true }
            }
        }
        bench.until { isForgotten }
        look.cancel()
        // Nobody who was there minds.
        try bench.append(store, ["b"], at: 2)
        bench.until { follower.index == 2 }
        #expect(follower.loadCount == 1)
        #expect(store.warnings.isEmpty)
    }

    @Test("a follower that leads gets only what it does not have")
    func followsThenLeads() throws {
        let writer = bench.store(ends)
        try bench.lead(writer)
        try bench.append(writer, ["a", "b"], at: 1)
        let standby = bench.store(ends)
        let follower = Followed(standby)
        bench.until { follower.index == 2 }
        try bench.append(writer, ["c", "d"], at: 3)
        let opened = try bench.lead(standby, after: 2)
        #expect(opened.snapshot == nil)
        #expect(opened.records == [Array("c".utf8), Array("d".utf8)])
        // It may have the middle of a batch.
        let other = try bench.lead(bench.store(ends), after: 3)
        #expect(other.records == [Array("d".utf8)])
        #expect(throws: LogStoreError.self) { try bench.lead(bench.store(ends), after: 5) }
    }

    @Test("followers get batches beyond one request whole")
    func largeBatches() throws {
        let follower = Followed(bench.store(ends))
        let writer = bench.store(ends)
        try bench.lead(writer)
        var all: [[UInt8]] = []
        for count in [3 << 20, 10, 2 << 20] {
            let batch = [[UInt8](repeating: UInt8(all.count), count: count), [7]]
            try bench.wait {
                writer.append(batch, firstIndex: UInt64(all.count) + 1, completion: $0)
            }
            all += batch
        }
        bench.until { follower.index == 6 }
        #expect(follower.records == all)
        #expect(follower.loadCount == 1)
    }

    @Test("a snapshot removes what it covers, older ones, and what was begun and not finished")
    func removed() throws {
        let writer = bench.store(ends)
        try bench.lead(writer)
        try bench.append(writer, ["a", "b"], at: 1)
        try bench.wait {
            writer.append([[UInt8](repeating: 1, count: 2 << 20)], firstIndex: 3, completion: $0)
        }
        try bench.save(writer, [[1], [2]], index: 2)
        #expect(try bench.keys(ends).filter { $0.hasPrefix("part/") }.count == 3)
        // Of a writer that died in the middle.
        try bench.put(ends, "snapshot/" + EtcdLayout.snapshotID(1, 2) + "/00000000", [9])
        let other = bench.store(ends)
        try bench.lead(other)
        try bench.save(other, [[3], [4], [5]], index: 3)
        let id = EtcdLayout.snapshotID(2, 1)
        #expect(
            try bench.keys(ends)
                == [
                    "alive", "epoch", "next", "snapshot", "snapshot/\(id)/00000000",
                    "snapshot/\(id)/00000001", "snapshot/\(id)/00000002",
                ])
        try bench.append(other, ["d"], at: 4)
        #expect(
            try bench.lead(bench.store(ends)).snapshot
                == LogSnapshot(index: 3, chunks: [[3], [4], [5]]))
    }

    @Test("what a snapshot replaced is compacted, and who was away gets the snapshot")
    func compacted() throws {
        let relay = try Relay(to: ends[0], on: bench.loop)
        let follower = Followed(bench.store([relay.endpoint]))
        let writer = bench.store(ends)
        try bench.lead(writer)
        try bench.append(writer, ["a"], at: 1)
        bench.until { follower.index == 1 }
        relay.mode = .swallowAnswers
        let before: EtcdTransactionAnswer = try bench.wait {
            bench.gateway(ends).transaction(
                EtcdTransaction(compare: [], success: []), $0)
        }
        for index in UInt64(2)...5 {
            try bench.append(writer, ["r\(index)"], at: index)
            try bench.save(writer, [[UInt8(index)]], index: index)
        }
        try bench.append(writer, ["last"], at: 6)
        #expect(throws: EtcdFailure.compacted) {
            let _: EtcdRange = try bench.wait {
                bench.gateway(ends).range(
                    .get(key: bench.prefix + "next"), revision: before.revision, $0)
            }
        }
        relay.mode = .pass
        relay.cut()
        bench.until { follower.index == 6 }
        #expect(follower.snapshot == LogSnapshot(index: 5, chunks: [[5]]))
        #expect(follower.texts == ["last"])
    }

    @Test("clusters with other prefixes are other logs")
    func prefixes() throws {
        let names = ["", "a/", "a", "b/"].map { bench.prefix + $0 + ($0.hasSuffix("/") ? "" : "/") }
        let followers = names.map { Followed(bench.store(ends, prefix: $0)) }
        for (number, prefix) in names.enumerated() where number != 1 {
            let writer = bench.store(ends, prefix: prefix)
            #expect(try bench.lead(writer).epoch == 1)
            try bench.append(writer, ["of \(number)"], at: 1)
            try bench.save(writer, [[UInt8(number)]], index: 1)
            try bench.append(writer, ["more"], at: 2)
        }
        for number in [0, 2, 3] {
            bench.until { followers[number].index == 2 }
            let opened = try bench.lead(bench.store(ends, prefix: names[number]))
            #expect(opened.snapshot?.chunks == [[UInt8(number)]])
            #expect(opened.records == [Array("more".utf8)])
        }
    }

    @Test(
        "a value that is not ours is named",
        arguments: [
            ("epoch", "x"), ("next", "x"), ("snapshot", "{}"), ("log/00000000000000000001", "x"),
            ("log/00000000000000000003", "\u{0}\u{1}\u{0}\u{0}\u{0}x"), ("next", "7"),
        ])
    func damaged(key: String, value: String) throws {
        let writer = bench.store(ends)
        try bench.lead(writer)
        try bench.append(writer, ["a"], at: 1)
        try bench.append(writer, ["b", "c"], at: 2)
        writer.close()
        try bench.put(ends, key, Array(value.utf8))
        let follower = Followed(bench.store(ends))
        bench.until { !follower.interruptions.isEmpty }
        for error in [follower.interruptions.first, failure { try bench.lead(bench.store(ends)) }] {
            guard case .corrupt(_, let reason) = error else {
                Issue.record("\(String(describing: error))")
                continue
            }
            #expect(!reason.isEmpty)
        }
    }

    private func failure(_ body: () throws -> some Any) -> LogStoreError? {
        do {
            _ = try body()
            return nil
        } catch { return error as? LogStoreError }
    }
}
