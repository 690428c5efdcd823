import Fleet
import Notices
import Testing
import Wire

/// One of several notifiers, with a sink that all share. Its clock can go on while it stands still.
@Suite("A notifier's lease of deliveries")
struct LeaseTests {
    private let record = MemoryRecord()
    private let loop = TestLoop()
    private let hook = MemoryReceiver()
    private final class Clock { var ahead: Int64 = 0 }
    private let clock = Clock()
    private let delivery: Delivery<MemoryRecord, TestLoop>
    private let lease: LeaseFollower<MemoryRecord, TestLoop>

    private static let sink = Sink(id: SinkID(checked: "hook"), isShared: true)

    init() throws {
        delivery = Delivery(
            store: record, loop: loop, ways: [(Self.sink, hook)], tell: { _ in })
        lease = LeaseFollower(
            store: record, delivery: delivery, loop: loop,
            clock: { [loop, clock] in loop.nowMilliseconds + clock.ahead })
        _ = try record.store(
            events: (UInt32(1)...9).map { Samples.holdFinished(UInt64($0), step: $0) },
            lastSequence: 9, recordedAt: Samples.now, sinks: [Self.sink])
        delivery.wake()
    }

    private func told(
        _ number: UInt64, ours: Bool = true, upTo sequence: UInt64 = 0, under correlation: UInt64
    ) throws {
        try lease.onLease(
            DeliveryLease(
                holder: ours ? "n" : "m", number: number, isYours: ours,
                delivered: sequence == 0
                    ? [] : [DeliveredSequence(sink: "hook", sequence: sequence)]),
            correlation: correlation)
    }

    /// Takes what is handed over, for as long as anything is.
    private func takeAll() -> Int {
        var count = 0
        while !hook.handOvers.isEmpty {
            hook.answer(.taken)
            count += 1
        }
        return count
    }

    @Test(
        "is good for a time that counts from the claim, and is made longer by claims that are answered"
    )
    func time() throws {
        _ = lease.claim(1)
        loop.run(milliseconds: 3_000)
        try told(4, under: 1)
        #expect(hook.ids == ["rollout-1.1-t7-db-0"])
        loop.run(milliseconds: 4_499)
        hook.answer(.taken)
        #expect(hook.ids == ["rollout-1.2-t7-db-0"])
        loop.run(milliseconds: 1)
        hook.answer(.taken)
        #expect(hook.handOvers.isEmpty)
        _ = lease.claim(2)
        try told(4, upTo: 2, under: 2)
        #expect(hook.ids == ["rollout-1.3-t7-db-0"])
        // A later word on an old claim says nothing of now.
        loop.run(milliseconds: 7_500)
        try told(4, upTo: 2, under: 2)
        hook.answer(.taken)
        #expect(hook.handOvers.isEmpty)
        #expect(try lease.onTick() == [])
    }

    @Test("one that stood still hands nothing over when it wakes, whoever tells it first")
    func stoodStill() throws {
        _ = lease.claim(1)
        try told(4, under: 1)
        clock.ahead += 60_000
        // The receiver's answer from before, a tick, and what the leader sent before.
        hook.answer(.taken)
        #expect(hook.handOvers.isEmpty)
        #expect(try lease.onTick() == [])
        try told(4, under: 1)
        delivery.wake()
        loop.run(milliseconds: 1_000)
        #expect(hook.handOvers.isEmpty)
        // Another one had it, and has delivered all but the last two.
        lease.onDown()
        _ = lease.claim(2)
        try told(5, ours: false, upTo: 6, under: 2)
        #expect(hook.handOvers.isEmpty)
        _ = lease.claim(3)
        try told(6, upTo: 7, under: 3)
        #expect(hook.ids == ["rollout-1.8-t7-db-0"] && takeAll() == 2)
    }

    @Test(
        "one that had it, lost it unawares and has it again marks first what was delivered meanwhile"
    )
    func unawares() throws {
        _ = lease.claim(1)
        try told(4, under: 1)
        hook.answer(.taken)
        loop.run(milliseconds: 100)
        _ = lease.claim(2)
        try told(6, upTo: 8, under: 2)
        // What was on its way comes to its end.
        #expect(hook.ids == ["rollout-1.2-t7-db-0"] && takeAll() == 2)
        #expect(record.pending(Self.sink.id, limit: 9).count <= 2)
        loop.run(milliseconds: 100)
        #expect(record.pending(Self.sink.id, limit: 9).isEmpty)
        #expect(
            try lease.onTick() == [.reportDelivered(number: 6, sink: "hook", sequence: 9)])
    }

    @Test("what was reported to a session that ended is reported again")
    func reportsAgain() throws {
        _ = lease.claim(1)
        try told(4, under: 1)
        hook.answer(.taken)
        loop.run(milliseconds: 100)
        let report = [Message.reportDelivered(number: 4, sink: "hook", sequence: 1)]
        #expect(try lease.onTick() == report)
        #expect(try lease.onTick() == [])
        lease.onDown()
        #expect(try lease.onTick() == [])
        _ = lease.claim(2)
        try told(4, under: 2)
        #expect(try lease.onTick() == report)
        _ = lease.claim(3)
        try told(4, upTo: 1, under: 3)
        #expect(try lease.onTick() == [])
    }

    @Test("one that ends waits for what is on its way, reports it and gives the lease up")
    func ends() throws {
        _ = lease.claim(1)
        try told(4, under: 1)
        var ends = 0
        delivery.finish(within: .seconds(2)) { ends += 1 }
        loop.run(milliseconds: 1_999)
        #expect(ends == 0)
        hook.answer(.taken)
        #expect(ends == 1 && hook.handOvers.isEmpty)
        #expect(
            try lease.onEnd() == [
                .reportDelivered(number: 4, sink: "hook", sequence: 1), .giveUpDeliveries,
            ])
        loop.run(milliseconds: 10_000)
        #expect(ends == 1)
    }

    @Test("one that ends does not wait for ever, nor for a lease that is another's")
    func endsInTime() throws {
        _ = lease.claim(1)
        try told(4, under: 1)
        var ends = 0
        delivery.finish(within: .seconds(2)) { ends += 1 }
        loop.run(milliseconds: 2_000)
        #expect(ends == 1)
        clock.ahead += 60_000
        #expect(try lease.onEnd() == [])
    }

    @Test(
        "one that has no shared sink gives up once in a session what an earlier process may have had"
    )
    func withoutSinks() {
        let local = Sink(id: SinkID(checked: "lines"))
        let delivery = Delivery(
            store: record, loop: loop, ways: [(local, MemoryReceiver())], tell: { _ in })
        let lease = LeaseFollower(store: record, delivery: delivery, loop: loop, clock: { 0 })
        #expect(lease.claim(1) == [.giveUpDeliveries])
        #expect(lease.claim(2) == [])
        lease.onDown()
        #expect(lease.claim(3) == [.giveUpDeliveries])
    }
}
