import LogCore
import Testing

@testable import EtcdLog
@testable import Simulation

/// Ways to etcd that lose, delay and double.
@Suite("etcd log, faults simulated")
struct EtcdFaultTests {
    let bench = Bench()
    private let now = SimulatedEtcd.Fate.passes(there: .zero, back: .zero)

    /// Has the next `count` transactions of a server that write become `fate`.
    private func next(_ count: Int, of server: String, _ fate: SimulatedEtcd.Fate) {
        var left = count
        bench.etcd.fate = { [now] attempt in
            guard left > 0, attempt.server == server,
                case .transaction(let transaction) = attempt.request,
                transaction.success.contains(where: { if case .put = $0 { true } else { false } })
            else { return now }
            left -= 1
            return fate
        }
    }

    @Test(
        "an append whose outcome is unknown is resolved by the same transaction again",
        arguments: [10, 2 << 20])
    func unknown(byteCount: Int) throws {
        let store = bench.store()
        try bench.lead(store)
        let text = String(repeating: "x", count: byteCount)
        let fates: [SimulatedEtcd.Fate] = [
            .answerLost(there: .zero), .lost, .refused(after: .zero),
            .twice(there: .zero, again: .seconds(3), back: .milliseconds(1)),
            .passes(there: .seconds(30), back: .zero), .passes(there: .zero, back: .seconds(30)),
        ]
        for (index, fate) in fates.enumerated() {
            next(1, of: "one", fate)
            try bench.append(store, ["\(index)\(text)"], at: UInt64(index) + 1)
        }
        bench.pass(.seconds(60))
        try bench.append(store, ["6"], at: 7)
        #expect(try bench.texts().map(\.first) == ["0", "1", "2", "3", "4", "5", "6"])
    }

    @Test("answers that never come: unavailable after the limit, and the batch at most once")
    func unavailable() throws {
        let store = bench.store()
        try bench.lead(store)
        try bench.append(store, ["a"], at: 1)
        for (fate, isThere) in [
            (SimulatedEtcd.Fate.lost, false), (.answerLost(there: .milliseconds(5)), true),
        ] {
            bench.etcd.fate = { _ in fate }
            let start = bench.clock.nowMilliseconds
            do {
                try bench.append(store, ["b"], at: 2)
                Issue.record("it was appended")
            } catch LogStoreError.unavailable(_, let reason) {
                #expect(reason.contains("no answer"))
            }
            let took = bench.clock.nowMilliseconds - start
            #expect((6_000...6_200).contains(took), "\(took) ms")
            bench.etcd.fate = { [now] _ in now }
            let log = try bench.lead(store, after: 1)
            #expect(log.records == (isThere ? [Array("b".utf8)] : []))
        }
    }

    @Test("what a writer had sent and arrives after its successor finds nothing to do")
    func late() throws {
        let old = bench.store("old")
        try bench.lead(old, as: "old")
        try bench.append(old, ["a"], at: 1)
        var errors: [LogStoreError] = []
        bench.etcd.fate = { [now] in
            $0.server == "old" ? .passes(there: .seconds(30), back: .zero) : now
        }
        let note = { (result: Result<Void, LogStoreError>) in
            if case .failure(let error) = result { errors.append(error) }
        }
        old.append([[9]], firstIndex: 2, completion: note)
        let new = bench.store("new")
        try bench.lead(new, as: "new")
        try bench.append(new, ["b"], at: 2)
        bench.pass(.seconds(90))
        #expect(errors.count == 1)
        try bench.append(new, ["c"], at: 3)
        #expect(try bench.texts() == ["a", "b", "c"])
    }

    @Test("late manifests and deletions of an earlier snapshot change nothing")
    func lateSnapshots() throws {
        let store = bench.store()
        try bench.lead(store)
        try bench.append(store, ["a", "b", "c"], at: 1)
        // Each write of the first snapshot once more, after the second.
        bench.etcd.fate = { _ in .twice(there: .zero, again: .seconds(30), back: .zero) }
        try bench.save(store, [[1]], index: 1)
        bench.etcd.fate = { [now] _ in now }
        try bench.save(store, [[2], [3]], index: 2)
        bench.pass(.seconds(60))
        let log = try bench.lead(bench.store("two"))
        #expect(log.snapshot == LogSnapshot(index: 2, chunks: [[2], [3]]))
        #expect(log.records == [Array("c".utf8)])
    }

    @Test(
        "a manifest whose answer is lost, or that comes late, stops no later snapshot",
        arguments: [true, false])
    func lostManifest(comesLate: Bool) throws {
        let store = bench.store()
        try bench.lead(store)
        try bench.append(store, ["a", "b", "c"], at: 1)
        bench.etcd.fate = { [now] attempt in
            guard case .transaction(let transaction) = attempt.request,
                transaction.success.contains(where: {
                    if case .put(let key, _) = $0 { key.hasSuffix("/snapshot") } else { false }
                })
            else { return now }
            return comesLate
                ? .passes(there: .seconds(20), back: .zero) : .answerLost(there: .zero)
        }
        #expect(throws: LogStoreError.self) { try bench.save(store, [[1]], index: 1) }
        bench.etcd.fate = { [now] _ in now }
        try bench.save(store, [[2]], index: 2)
        bench.pass(.seconds(60))
        try bench.save(store, [[3]], index: 3)
        let log = try bench.lead(bench.store("two"))
        #expect(log.snapshot == LogSnapshot(index: 3, chunks: [[3]]))
    }

    @Test("one member that is not reached costs a part of the limit once")
    func oneMember() throws {
        let store = bench.store()
        try bench.lead(store)
        bench.etcd.fate = { [now] in $0.member == 0 ? .lost : now }
        var start = bench.clock.nowMilliseconds
        try bench.append(store, ["a"], at: 1)
        #expect(bench.clock.nowMilliseconds - start == 2_000)
        start = bench.clock.nowMilliseconds
        try bench.append(store, ["b"], at: 2)
        #expect(bench.clock.nowMilliseconds == start)
    }

    @Test("a writer that cannot reach etcd gives up, so that others can lead")
    func cutOff() throws {
        let store = bench.store()
        var lost: [LogStoreError] = []
        store.onLost = { lost.append($0) }
        try bench.lead(store)
        bench.etcd.fate = { _ in .refused(after: .milliseconds(1)) }
        bench.until(.seconds(9)) { !lost.isEmpty }
        guard case .unavailable = lost.first else {
            Issue.record("\(lost)")
            return
        }
        bench.pass(.seconds(60))
        #expect(lost.count == 1)
    }

    @Test("a follower whose member tells nothing finds out by asking, and follows another")
    func silentMember() throws {
        let follower = Followed(bench.store("two"))
        let writer = bench.store()
        try bench.lead(writer)
        try bench.append(writer, ["a"], at: 1)
        bench.until { follower.index == 1 }
        bench.etcd.lineFate = { server, member in
            server == "two" && member == 0 ? .silent : .passes(after: .milliseconds(1))
        }
        bench.etcd.fate = { [now] in $0.server == "two" && $0.member == 0 ? .lost : now }
        try bench.append(writer, ["b"], at: 2)
        bench.until(.seconds(10)) { follower.index == 2 }
        try bench.append(writer, ["c"], at: 3)
        bench.until(.milliseconds(10)) { follower.index == 3 }
        #expect(follower.texts == ["a", "b", "c"])
    }

    @Test("lines of a watch come late and never out of order; a watch that ends is begun anew")
    func lines() throws {
        let follower = Followed(bench.store("two"))
        let writer = bench.store()
        var dice = SplitMix(state: 5)
        bench.etcd.lineFate = { _, _ in
            let delay = Duration.milliseconds(dice.roll(300))
            return dice.roll(20) == 0 ? .ends(after: delay) : .passes(after: delay)
        }
        try bench.lead(writer)
        for index in UInt64(1)...200 {
            try bench.append(writer, ["r\(index)"], at: index)
            bench.pass(.milliseconds(dice.roll(50)))
        }
        bench.until { follower.index == 200 }
        #expect(follower.texts == (1...200).map { "r\($0)" })
        #expect(follower.interruptions.count > 3)
        #expect(follower.loadCount == 1)
    }
}
