import Fleet
import Notices
import Testing

@Suite struct DeliveryTests {
    let record = MemoryRecord()
    let file = MemoryFile()
    let loop = TestLoop()
    final class Problems { var all: [FollowProblem] = [] }
    let problems = Problems()

    private func delivery(_ receiver: MemoryReceiver? = nil) -> Delivery<MemoryRecord, TestLoop> {
        var ways: [(Sink, any Receiver)] = [
            (
                Sink(id: .file, batchCountMax: LineReceiver.batchCountMax),
                LineReceiver(file, Samples.renderer, format: .json)
            )
        ]
        if let receiver { ways.append((Self.hook, receiver)) }
        return Delivery(
            store: record, loop: loop, ways: ways, tell: { [problems] in problems.all.append($0) })
    }

    private static let hook = Sink(id: SinkID(checked: "hook"), inFlightMax: 3)

    private func keep(_ steps: ClosedRange<UInt32>, guest: String = "db-0") throws {
        _ = try record.store(
            events: steps.map { Samples.holdFinished(UInt64($0), step: $0, guest: guest) },
            lastSequence: UInt64(steps.upperBound), recordedAt: Samples.now,
            sinks: [Sink(id: .file), Self.hook])
    }

    /// Each line once, in order; a comparison of the lines themselves would print them all.
    private var isFileWhole: Bool {
        file.lines
            == record.contents.outbox.filter { $0.sink == .file }.compactMap {
                Samples.renderer.line($0.item.bulletin, .json)
            }
    }

    @Test("lines come in the order of the outbox, also when they are more than one write")
    func order() throws {
        try keep(1...600)
        let delivery = delivery()
        delivery.wake()
        loop.run(milliseconds: 100)
        #expect(isFileWhole && record.pending(.file, limit: 1).isEmpty)
    }

    @Test("a line is marked after its sink has taken it, and found at the file's end if not")
    func diesBeforeMark() throws {
        try keep(1...3)
        record.marksLeft = 0
        let first = delivery()
        var failures = 0
        first.onFailure = { _ in failures += 1 }
        first.wake()
        loop.run(milliseconds: 100)
        #expect(failures == 1 && isFileWhole && record.pending(.file, limit: 9).count == 3)
        record.marksLeft = nil
        try keep(4...4)
        let second = delivery()
        second.wake()
        loop.run(milliseconds: 100)
        #expect(isFileWhole && record.pending(.file, limit: 9).isEmpty)
    }

    @Test("an append that is torn at any byte leaves each line once in the file")
    func torn() throws {
        try keep(1...3)
        for byteCount in stride(from: 0, to: 1_500, by: 11) {
            file.bytes = []
            file.bytesLeft = byteCount
            for index in record.contents.outbox.indices {
                record.contents.outbox[index].deliveredAt = nil
                record.contents.outbox[index].item.nextAttemptAt = nil
                record.contents.outbox[index].item.attempts = 0
            }
            let delivery = delivery()
            delivery.wake()
            file.bytesLeft = nil
            loop.run(milliseconds: 5_000)
            #expect(isFileWhole)
        }
        #expect(!problems.all.isEmpty)
    }

    @Test("nothing goes out before the change in which it was recorded is over")
    func heldBack() throws {
        let hook = MemoryReceiver()
        let delivery = delivery(hook)
        try delivery.holdBack { () throws(any Error) in
            try keep(1...1)
            delivery.wake()
            loop.run(milliseconds: 100)
            #expect(hook.handOvers.isEmpty && file.lines.isEmpty)
        }
        #expect(hook.ids == ["rollout-1.1-t7-db-0"] && isFileWhole)
        struct Undone: Error {}
        #expect(throws: Undone.self) {
            try delivery.holdBack { () throws(any Error) in
                delivery.wake()
                throw Undone()
            }
        }
        // It is over for those that follow.
        try keep(2...2, guest: "db-1")
        delivery.wake()
        #expect(hook.handOvers.count == 2)
    }

    @Test("one that does not answer delays no other sink, and one guest is told things in order")
    func lanes() throws {
        try keep(1...2)
        try keep(3...3, guest: "db-1")
        let hook = MemoryReceiver()
        let delivery = delivery(hook)
        delivery.wake()
        loop.run(milliseconds: 100)
        #expect(isFileWhole && record.pending(.file, limit: 9).isEmpty)
        #expect(hook.ids == ["rollout-1.1-t7-db-0", "rollout-1.3-t7-db-1"])
        hook.answer(.taken)
        #expect(hook.ids == ["rollout-1.3-t7-db-1", "rollout-1.2-t7-db-0"])
        loop.run(milliseconds: 100)
        #expect(record.pending(Self.hook.id, limit: 9).count == 2)
    }

    @Test("a refused one is a dead letter after three attempts, and the others go on")
    func dead() throws {
        try keep(1...1)
        try keep(2...2, guest: "db-1")
        let hook = MemoryReceiver()
        let delivery = delivery(hook)
        delivery.wake()
        hook.answer(.refused(reason: "no"))
        hook.answer(.taken)
        for _ in 0..<2 {
            loop.run(milliseconds: 10_000)
            #expect(hook.ids == ["rollout-1.1-t7-db-0"])
            hook.answer(.refused(reason: "no"))
        }
        loop.run(milliseconds: 100_000)
        #expect(hook.handOvers.isEmpty && record.pending(Self.hook.id, limit: 9).isEmpty)
        #expect(record.contents.outbox.filter { $0.deadAt != nil }.count == 1)
        #expect(
            problems.all.contains(
                .dead(Self.hook.id, bulletin: "rollout-1.1-t7-db-0", reason: "no"))
        )
    }

    @Test("who was away for long may refuse as often as another, before and after a restart")
    func refusesAfterOutage() throws {
        try keep(1...1)
        let hook = MemoryReceiver()
        var delivery = delivery(hook)
        delivery.wake()
        for _ in 0..<20 {
            hook.answer(.later(reason: "away", afterMilliseconds: nil))
            loop.run(milliseconds: 61_000)
        }
        hook.answer(.refused(reason: "not yet"))
        loop.run(milliseconds: 61_000)
        try #require(!hook.handOvers.isEmpty, "one refusal was enough")
        hook.answer(.later(reason: "away", afterMilliseconds: nil))
        loop.run(milliseconds: 100)
        delivery.stop()
        delivery = self.delivery(hook)
        delivery.wake()
        for _ in 0..<2 {
            loop.run(milliseconds: 61_000)
            #expect(record.contents.outbox.allSatisfy { $0.deadAt == nil })
            try #require(!hook.handOvers.isEmpty)
            hook.answer(.refused(reason: "no"))
        }
        loop.run(milliseconds: 100)
        #expect(record.contents.outbox.filter { $0.deadAt != nil }.count == 1)
        let row = record.contents.outbox.first { $0.sink == Self.hook.id }
        #expect(row?.item.attempts == 23 && row?.item.refusals == 2)
    }

    @Test("while a receiver is away one is tried at a time, ever more seldom; then all go")
    func away() throws {
        for number in UInt32(1)...9 { try keep(number...number, guest: "db-\(number)") }
        let hook = MemoryReceiver()
        let delivery = delivery(hook)
        delivery.wake()
        #expect(hook.handOvers.count == 3)
        for _ in 0..<3 { hook.answer(.later(reason: "away", afterMilliseconds: nil)) }
        var tries = 0
        for _ in 0..<600 {
            loop.run(milliseconds: 1_000)
            #expect(hook.handOvers.count <= 1)
            guard !hook.handOvers.isEmpty else { continue }
            tries += 1
            hook.answer(.later(reason: "away", afterMilliseconds: nil))
        }
        #expect((5...20).contains(tries), "\(tries) tries in ten minutes")
        loop.run(milliseconds: 61_000)
        hook.answer(.taken)
        for _ in 0..<20 {
            while !hook.handOvers.isEmpty { hook.answer(.taken) }
            loop.run(milliseconds: 61_000)
        }
        #expect(record.pending(Self.hook.id, limit: 9).isEmpty)
    }

    @Test("hand-overs that fail together are one failure: the next try comes after the first wait")
    func failTogether() throws {
        for number in UInt32(1)...9 { try keep(number...number, guest: "db-\(number)") }
        let hook = MemoryReceiver()
        let wide = Sink(id: Self.hook.id, inFlightMax: 9)
        let delivery = Delivery(store: record, loop: loop, ways: [(wide, hook)], tell: { _ in })
        delivery.wake()
        #expect(hook.handOvers.count == 9)
        for _ in 0..<9 { hook.answer(.later(reason: "reset", afterMilliseconds: nil)) }
        loop.run(milliseconds: 1_100)
        #expect(hook.handOvers.count == 1)
        hook.answer(.taken)
        loop.run(milliseconds: 100)
        #expect(hook.handOvers.count == 8)
    }

    @Test("a clock that was set back keeps nothing longer than a wait of ours, after a restart")
    func clockSetBack() throws {
        try keep(1...1)
        let hook = MemoryReceiver()
        let first = delivery(hook)
        first.wake()
        hook.answer(.later(reason: "away", afterMilliseconds: nil))
        loop.run(milliseconds: 100)
        first.stop()
        loop.wallOffset = -1_800_000_000
        let second = delivery(hook)
        second.wake()
        #expect(hook.handOvers.isEmpty)
        loop.run(milliseconds: 60_000)
        #expect(hook.ids == ["rollout-1.1-t7-db-0"])
    }

    @Test("a wait that was asked for is kept")
    func retryAfter() {
        let policy = RetryPolicy()
        #expect(policy.waitMilliseconds(attempts: 1, askedMilliseconds: nil, chance: 0) == 1_000)
        #expect(
            policy.waitMilliseconds(attempts: 3, askedMilliseconds: nil, chance: 1_000) == 2_000)
        #expect(policy.waitMilliseconds(attempts: 99, askedMilliseconds: nil, chance: 0) == 60_000)
        #expect(
            policy.waitMilliseconds(attempts: 1, askedMilliseconds: 90_000, chance: 0) == 90_000)
        let date = DeliveryOutcome(
            httpStatus: 503, retryAfter: "Sun, 06 Nov 1994 08:49:37 GMT", nowSeconds: 784_111_757,
            words: "")
        #expect(date == .later(reason: "it answered 503", afterMilliseconds: 20_000))
        let seconds = DeliveryOutcome(httpStatus: 429, retryAfter: "7", nowSeconds: 0, words: "x")
        #expect(seconds == .later(reason: "it answered 429: x", afterMilliseconds: 7_000))
        #expect(
            DeliveryOutcome(httpStatus: 404, retryAfter: nil, nowSeconds: 0, words: "")
                == .refused(reason: "it answered 404"))
    }

    @Test("a shared sink is served by the holder of the lease, from where the one before came to")
    func lease() throws {
        try keep(1...3)
        let hook = MemoryReceiver()
        var shared = Self.hook
        shared.isShared = true
        let delivery = Delivery(store: record, loop: loop, ways: [(shared, hook)], tell: { _ in })
        let lease = LeaseFollower(
            store: record, delivery: delivery, loop: loop, clock: { [loop] in loop.nowMilliseconds }
        )
        delivery.wake()
        #expect(hook.handOvers.isEmpty && lease.claim(7) == [.claimDeliveries])
        try lease.onLease(
            DeliveryLease(
                holder: "n", number: 4, isYours: true,
                delivered: [DeliveredSequence(sink: "hook", sequence: 2)]), correlation: 7)
        #expect(hook.ids == ["rollout-1.3-t7-db-0"])
        hook.answer(.taken)
        loop.run(milliseconds: 100)
        #expect(try lease.onTick() == [.reportDelivered(number: 4, sink: "hook", sequence: 3)])
        #expect(try lease.onTick().isEmpty)
        lease.onDown()
        loop.run(milliseconds: 11_000)
        #expect(try lease.onTick().isEmpty)
        try keep(4...4)
        delivery.wake()
        #expect(hook.handOvers.isEmpty)
    }

    @Test("only as much of a file's end is looked at as could be due")
    func span() {
        #expect(FileEnd.byteCount(for: ["abc"], fileByteCount: 5) == 5)
        #expect(FileEnd.byteCount(for: ["abc", "d"], fileByteCount: 1 << 30) == 12 + 65_536)
    }
}
