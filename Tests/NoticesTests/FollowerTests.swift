import Fleet
import Notices
import Testing
import Wire

@Suite struct FollowerTests {
    let record = MemoryRecord()
    let file = MemoryFile()
    final class Problems { var all: [FollowProblem] = [] }
    let problems = Problems()

    let loop = TestLoop()

    private func follower() -> Follower<MemoryRecord, TestLoop> {
        let tell: (FollowProblem) -> Void = { [problems] in problems.all.append($0) }
        let delivery = Delivery(
            store: record, loop: loop,
            ways: [
                (
                    Sink(id: .file, batchCountMax: 256),
                    LineReceiver(file, Samples.renderer, format: .json)
                )
            ], tell: tell)
        delivery.wake()
        return Follower(store: record, delivery: delivery, now: { Samples.now }, tell: tell)
    }

    @Test("it follows from what is stored, and acknowledges that once in a session")
    func follows() throws {
        let follower = follower()
        #expect(try follower.onEstablished() == .followEvents(afterSequence: 0, progress: false))
        let batch = Message.eventBatch([Samples.holdFinished(1, step: 1)], lastSequence: 1)
        #expect(try follower.onMessage(batch) == [.acknowledgeEvents(sequence: 1)])
        #expect(try follower.onMessage(batch).isEmpty)
        #expect(try follower.onEstablished() == .followEvents(afterSequence: 1, progress: false))
        #expect(try follower.onMessage(batch) == [.acknowledgeEvents(sequence: 1)])
        #expect(file.lines.count == 1 && problems.all.isEmpty)
    }

    @Test("a batch that could not be stored is not acknowledged")
    func dies() throws {
        let follower = follower()
        let batch = Message.eventBatch([Samples.holdFinished(1, step: 1)], lastSequence: 1)
        record.writesLeft = 1
        #expect(throws: MemoryRecord.Failure.self) { try follower.onMessage(batch) }
        #expect(file.lines.isEmpty)
        #expect(
            try self.follower().onEstablished() == .followEvents(afterSequence: 0, progress: false))
    }

    @Test("a leader that has fewer events is followed from its first")
    func begunAnew() throws {
        let follower = follower()
        _ = try follower.onMessage(.eventBatch([Samples.other(4)], lastSequence: 4))
        #expect(
            try follower.onMessage(.eventBatch([], lastSequence: 2)) == [
                .followEvents(afterSequence: 0, progress: false)
            ])
        #expect(
            try follower.onMessage(.eventBatch([Samples.other(4)], lastSequence: 4))
                == [.acknowledgeEvents(sequence: 4)])
        #expect(problems.all == [.begunAnew(ours: 4, leaders: 2)])
    }

    @Test("a sink's trouble is told when it changes, and does not stop acknowledging")
    func sinkFails() throws {
        let follower = follower()
        file.bytesLeft = 0
        for number in UInt64(1)...3 {
            let batch = Message.eventBatch(
                [Samples.holdFinished(number, step: UInt32(number))], lastSequence: number)
            #expect(try follower.onMessage(batch) == [.acknowledgeEvents(sequence: number)])
        }
        #expect(problems.all.count == 1)
        file.bytesLeft = nil
        loop.run(milliseconds: 10_000)
        #expect(file.lines.count == 3)
    }

    /// A leader that keeps what is not acknowledged; the notifier dies at the numbered write, then at
    /// the numbered mark, and is started again.
    @Test("wherever it dies, each hold has one annotation and one line", arguments: 0..<12)
    func diesAnywhere(at point: Int) throws {
        let events = (1...5).map { Samples.holdFinished(UInt64($0), step: UInt32($0)) }
        var acknowledged: UInt64 = 0
        record.writesLeft = point / 2
        record.marksLeft = point / 3
        file.bytesLeft = point * 300
        for _ in 0..<4 {
            let follower = follower()
            do {
                guard case .followEvents(var after, _) = try follower.onEstablished() else {
                    Issue.record("it does not follow")
                    return
                }
                #expect(after >= acknowledged, "it asks for what the leader may have forgotten")
                while after < 5 {
                    let next = events.filter { $0.sequence > after }.prefix(2)
                    let answers = try follower.onMessage(
                        .eventBatch(Array(next), lastSequence: 5))
                    for case .acknowledgeEvents(let sequence) in answers {
                        acknowledged = sequence
                    }
                    after = next.last!.sequence
                }
                loop.run(milliseconds: 10_000)
            } catch {
                record.writesLeft = nil
                record.marksLeft = nil
            }
            if record.marksLeft == 0 { record.marksLeft = nil }
            file.bytesLeft = nil
        }
        #expect(acknowledged == 5)
        #expect(record.contents.annotations.count == 5)
        let isFileWhole =
            file.lines
            == record.contents.bulletins.compactMap { Samples.renderer.line($0, .json) }
        #expect(isFileWhole)
    }
}
