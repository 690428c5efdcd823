import Foundation
import LogCore
import Testing
import UvLoop

@testable import EtcdLog
@testable import LogStore

/// Members that die or sleep, networks that lose and delay.
@Suite("etcd log store, faults", .serialized)
final class EtcdFaultTests {
    let cluster: EtcdCluster
    let bench: Bench

    /// A cluster of its own: the others must not see what happens to it.
    private static let own = Result { try EtcdCluster(memberCount: 3) }

    init() throws {
        cluster = try Self.own.get()
        bench = try Bench()
    }

    private var ends: [String] { cluster.endpoints }
    /// Short, for tests that wait for it.
    private let limit = Duration.milliseconds(1_500)

    @Test("an append whose answer is cut off is there once and is said to be")
    func answerCut() throws {
        let relay = try Relay(to: ends[0], on: bench.loop)
        let store = bench.store([relay.endpoint])
        try bench.lead(store)
        for (index, isLarge) in [(UInt64(1), false), (2, true), (3, false)] {
            relay.mode = .cutAtAnswer
            let count = relay.answerCount
            // The second time it goes through, with the answer that it has been done.
            relay.onAnswer = {
                if relay.answerCount > count + (isLarge ? 3 : 1) { relay.mode = .pass }
            }
            let text = isLarge ? String(repeating: "x", count: 2 << 20) : "r\(index)"
            try bench.append(store, [text], at: index)
        }
        relay.onAnswer = nil
        #expect(try bench.texts(ends).map { $0.utf8.count } == [2, 2 << 20, 2])
    }

    @Test("an answer that does not come is asked for at another member; the batch is there once")
    func answerSwallowed() throws {
        let relay = try Relay(to: ends[0], on: bench.loop)
        let store = bench.store([relay.endpoint, ends[1]], limit: limit)
        try bench.lead(store)
        relay.mode = .swallowAnswers
        try bench.append(store, ["a"], at: 1)
        // From here on the other member is asked at once.
        let count = relay.questions.count
        try bench.append(store, ["b"], at: 2)
        #expect(relay.questions.count == count)
        #expect(try bench.texts(ends) == ["a", "b"])
    }

    @Test("answers that all come too late: unavailable after the limit, and the batch at most once")
    func tooLate() throws {
        let relay = try Relay(to: ends[0], on: bench.loop)
        let store = bench.store([relay.endpoint], limit: limit)
        try bench.lead(store)
        try bench.append(store, ["a"], at: 1)
        relay.mode = .delayAnswers(.seconds(1))
        let start = HoldClock.nowMicroseconds
        let unavailable = #expect(throws: LogStoreError.self) {
            try bench.append(store, ["b"], at: 2)
        }
        guard case .unavailable = unavailable else {
            Issue.record("\(String(describing: unavailable))")
            return
        }
        let took = HoldClock.nowMicroseconds - start
        #expect(took > 1_400_000 && took < 6_000_000)
        relay.mode = .pass
        relay.cut()
        // Who leads again knows.
        let opened = try bench.lead(store, after: 1)
        #expect(opened.records.count <= 1)
        try bench.append(store, ["c"], at: 2 + UInt64(opened.records.count))
        #expect(try bench.texts(ends) == ["a"] + opened.records.map { _ in "b" } + ["c"])
    }

    @Test("what a paused writer had sent and wakes up to write is not in the log")
    func lateWrites() throws {
        let relay = try Relay(to: ends[0], on: bench.loop)
        let old = bench.store([relay.endpoint])
        try bench.lead(old, as: "old")
        try bench.append(old, ["a"], at: 1)
        relay.mode = .holdQuestions
        var errors: [LogStoreError?] = []
        let note = { (result: Result<Void, LogStoreError>) in
            if case .failure(let error) = result {
                errors.append(error)
            } else {
                errors.append(nil)
            }
        }
        old.append([[9]], firstIndex: 2, completion: note)
        old.save(index: 1, next: { [9] }, completion: note)
        bench.until { relay.isHolding }
        let new = bench.store(ends)
        try bench.lead(new, as: "new")
        try bench.append(new, ["b"], at: 2)
        relay.mode = .pass
        relay.release()
        bench.until { !errors.isEmpty }
        #expect(errors.allSatisfy { $0 == .fenced(byEpoch: 2) })
        try bench.append(new, ["c"], at: 3)
        #expect(try bench.texts(ends) == ["a", "b", "c"])
        #expect(try bench.keys(ends).filter { $0.hasPrefix("snapshot") }.isEmpty)
    }

    @Test("what a member that slept carries out late does not undo what came after it")
    func lateDuplicates() throws {
        // The first member gets everything first, and keeps it.
        let relay = try Relay(to: ends[0], on: bench.loop)
        let store = bench.store([relay.endpoint, ends[1]], limit: limit)
        try bench.lead(store)
        try bench.append(store, ["a"], at: 1)
        relay.mode = .holdQuestions
        try bench.append(store, ["b"], at: 2)
        // Whatever was sent there first.
        for round in UInt64(1)...2 {
            try bench.save(store, [[UInt8(round)], [0]], index: round)
        }
        try bench.append(store, ["c"], at: 3)
        relay.mode = .pass
        relay.release()
        bench.pass(.milliseconds(300))
        let opened = try bench.lead(bench.store(ends))
        #expect(opened.snapshot == LogSnapshot(index: 2, chunks: [[2], [0]]))
        #expect(opened.records == [Array("c".utf8)])
    }

    @Test("late manifests and late deletions of an earlier snapshot change nothing")
    func lateSnapshots() throws {
        let store = bench.store(ends)
        try bench.lead(store)
        try bench.append(store, ["a", "b"], at: 1)
        // Each write of the first snapshot, once more, after the second.
        let recorder = try Relay(to: ends[0], on: bench.loop)
        let early = bench.store([recorder.endpoint])
        try bench.lead(early)
        try bench.save(early, [[1]], index: 1)
        let questions = recorder.questions
        try bench.save(early, [[2], [3]], index: 2)
        for question in questions where question.contains("/v3/kv/txn") {
            let _: HTTPAnswer = try bench.wait { completion in
                let parts = question.split(separator: "\r\n\r\n", maxSplits: 1)
                bench.http.send(
                    HTTPRequest(url: ends[1] + "/v3/kv/txn", body: Array(parts[1].utf8)),
                    completion: completion)
            }
        }
        let opened = try bench.lead(bench.store(ends))
        #expect(opened.snapshot == LogSnapshot(index: 2, chunks: [[2], [3]]))
        #expect(questions.count > 5)
    }

    @Test(
        "one member dies, or sleeps, while appends go on: none fails, none is lost",
        arguments: [0, 1, 2])
    func oneMember(member: Int) throws {
        let store = bench.store(ends)
        let follower = Followed(bench.store(ends))
        var lost: [LogStoreError] = []
        store.onLost = { lost.append($0) }
        try bench.lead(store)
        var index: UInt64 = 0
        func some(_ count: Int) throws {
            for _ in 0..<count {
                index += 1
                try bench.append(store, ["r\(index)"], at: index)
            }
        }
        try some(5)
        cluster.pause(member)
        defer { cluster.resume(member) }
        try some(5)
        bench.until { follower.index == index }
        cluster.resume(member)
        try some(5)
        cluster.end(member)
        try some(5)
        bench.until { follower.index == index }
        try cluster.start(member)
        try some(5)
        bench.until { follower.index == index }
        let all = (1...index).map { "r\($0)" }
        #expect(follower.texts == all)
        #expect(try bench.texts(ends) == all)
        #expect(follower.loadCount == 1)
        #expect(lost.isEmpty)
    }

    @Test("without a quorum it is unavailable after the limit, and goes on afterwards")
    func noQuorum() throws {
        let store = bench.store(ends, limit: limit)
        let follower = Followed(bench.store(ends, limit: limit))
        try bench.lead(store)
        try bench.append(store, ["a"], at: 1)
        bench.until { follower.index == 1 }
        for member in 0..<2 { cluster.pause(member) }
        defer { for member in 0..<2 { cluster.resume(member) } }
        let start = HoldClock.nowMicroseconds
        do {
            try bench.append(store, ["b"], at: 2)
            Issue.record("it was appended without a quorum")
        } catch LogStoreError.unavailable(_, let reason) {
            #expect(!reason.isEmpty)
        }
        let took = HoldClock.nowMicroseconds - start
        #expect(took > 1_400_000 && took < 6_000_000)
        bench.until { !follower.interruptions.isEmpty }
        for member in 0..<2 { cluster.resume(member) }
        var opened: OpenedLog?
        while opened == nil { opened = try? bench.lead(store, after: 1) }
        let count = try #require(opened).records.count
        #expect(count <= 1)
        try bench.append(store, ["c"], at: 2 + UInt64(count))
        let all = ["a"] + (count == 1 ? ["b"] : []) + ["c"]
        bench.until { follower.index == all.count }
        #expect(follower.texts == all)
        #expect(try bench.texts(ends) == all)
    }

    @Test("a writer that cannot reach etcd gives up, so that others can lead")
    func cutOff() throws {
        let relay = try Relay(to: ends[0], on: bench.loop)
        let store = bench.store([relay.endpoint], limit: limit)
        var lost: [LogStoreError] = []
        store.onLost = { lost.append($0) }
        try bench.lead(store)
        relay.close()
        bench.until(.seconds(20)) { !lost.isEmpty }
        guard case .unavailable = lost.first else {
            Issue.record("\(lost)")
            return
        }
        #expect(lost.count == 1)
    }

    @Test("a follower whose member tells nothing finds out by asking, and follows another")
    func silentMember() throws {
        let relay = try Relay(to: ends[0], on: bench.loop)
        let follower = Followed(bench.store([relay.endpoint, ends[1]], limit: limit))
        let writer = bench.store(ends)
        try bench.lead(writer)
        try bench.append(writer, ["a"], at: 1)
        bench.until { follower.index == 1 }
        relay.mode = .swallowAnswers
        try bench.append(writer, ["b"], at: 2)
        bench.until(.seconds(10)) { follower.index == 2 }
        #expect(follower.texts == ["a", "b"])
        // Now it is told at once.
        try bench.append(writer, ["c"], at: 3)
        bench.until(.seconds(1)) { follower.index == 3 }
    }

    @Test("an etcd restored to an older state, or grown since, is told anew", arguments: [1, 5])
    func restored(count: Int) throws {
        let other = try EtcdCluster.shared.get()
        let copy = bench.store(other.endpoints)
        try bench.lead(copy, as: "copy")
        for index in 1...count { try bench.append(copy, ["old \(index)"], at: UInt64(index)) }
        copy.close()

        let relay = try Relay(to: ends[0], on: bench.loop)
        let standby = bench.store([relay.endpoint])
        let follower = Followed(standby)
        let writer = bench.store(ends)
        try bench.lead(writer)
        try bench.append(writer, ["a", "b"], at: 1)
        bench.until { follower.index == 2 }
        relay.turn(to: other.endpoints[0])
        let writers = follower.writers.count
        bench.until { follower.loadCount == 2 && follower.writers.count > writers }
        #expect(follower.texts == (1...count).map { "old \($0)" })
        #expect(follower.writers.last == "copy 1")
        relay.turn(to: ends[0])
        // Who had followed the other one must not lead with what it knows of that.
        let opened = try? bench.lead(standby, after: UInt64(count))
        #expect(opened == nil || follower.loadCount == 3)
    }

    @Test("stores that are dropped while they follow, watch and ask leave nothing open")
    func dropped() throws {
        let relay = try Relay(to: ends[0], on: bench.loop)
        weak var weakStore: EtcdLogStore?
        do {
            let options = EtcdOptions(endpoints: [relay.endpoint], prefix: bench.prefix)
            var store: EtcdLogStore? = EtcdLogStore(options, on: bench.loop)
            weakStore = store
            var followed: Followed? = store.map { Followed($0) }
            bench.until { followed?.loadCount == 1 }
            followed = nil
            store = nil
        }
        bench.until { weakStore == nil }
        bench.until { relay.openCount == 0 }
    }
}
