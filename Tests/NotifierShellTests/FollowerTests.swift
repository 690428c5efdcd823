import Fleet
import Notices
import Testing
import Wire

@testable import NotifierShell

@Suite struct FollowerTests {
    let scratch: Scratch
    let store: NotifierStore
    /// A class, so that the follower's closure and the test see the same list.
    final class Notices { var all: [FollowProblem] = [] }
    let notices = Notices()

    init() throws {
        scratch = try Scratch()
        store = try NotifierStore(path: scratch.path("notifier.db"), cluster: "demo")
    }

    private func follower(path: String = "lines.jsonl") -> Follower<NotifierStore> {
        Follower(
            store: store,
            delivery: Delivery(
                store: store, printLine: nil, file: LineFile(path: scratch.path(path))),
            now: { Samples.now }, tell: { [notices] in notices.all.append($0) })
    }

    private func batch(_ events: [FleetEvent], last: UInt64) -> Message {
        .eventBatch(events, lastSequence: last)
    }

    @Test("it follows from its cursor, and acknowledges what it has stored")
    func follows() throws {
        let follower = follower()
        #expect(try follower.onEstablished() == .followEvents(afterSequence: 0, progress: false))
        #expect(try follower.onMessage(batch([], last: 0)).isEmpty)
        let events = [Samples.holdFinished(1, step: 1), Samples.other(2)]
        #expect(
            try follower.onMessage(batch(events, last: 2)) == [.acknowledgeEvents(sequence: 2)])
        #expect(try scratch.text("lines.jsonl").split(separator: "\n").count == 1)
        #expect(
            try self.follower().onEstablished() == .followEvents(afterSequence: 2, progress: false))
        #expect(notices.all.isEmpty)
    }

    @Test("after a reconnect it acknowledges again, since the first may not have arrived")
    func acknowledgesAgain() throws {
        let follower = follower()
        let events = [Samples.holdFinished(1, step: 1)]
        _ = try follower.onEstablished()
        _ = try follower.onMessage(batch(events, last: 1))
        #expect(try follower.onMessage(batch(events, last: 1)).isEmpty)
        _ = try follower.onEstablished()
        #expect(try follower.onMessage(batch([], last: 1)) == [.acknowledgeEvents(sequence: 1)])
        #expect(try scratch.text("lines.jsonl").split(separator: "\n").count == 1)
    }

    @Test("a leader that has lost events is said loudly and followed from its first")
    func begunAnew() throws {
        let follower = follower()
        _ = try follower.onEstablished()
        _ = try follower.onMessage(
            batch([Samples.holdFinished(1, step: 1), Samples.holdFinished(2, step: 2)], last: 2))
        _ = try follower.onEstablished()
        #expect(
            try follower.onMessage(batch([], last: 1)) == [
                .followEvents(afterSequence: 0, progress: false)
            ])
        #expect(notices.all == [.begunAnew(ours: 2, leaders: 1)])
        #expect(
            try follower.onMessage(batch([Samples.holdFinished(1, step: 1)], last: 1))
                == [.acknowledgeEvents(sequence: 1)])
        #expect(try scratch.text("lines.jsonl").split(separator: "\n").count == 2)
    }

    @Test("a gap is said, and what follows is kept")
    func gap() throws {
        let follower = follower()
        _ = try follower.onMessage(batch([Samples.other(1)], last: 1))
        #expect(
            try follower.onMessage(batch([Samples.holdFinished(4, step: 1)], last: 4))
                == [.acknowledgeEvents(sequence: 4)])
        #expect(notices.all == [.gap(.init(afterSequence: 1, beforeSequence: 4))])
    }

    @Test("a sink that fails is said once, and events are acknowledged all the same")
    func sinkFails() throws {
        let follower = follower(path: "absent/lines.jsonl")
        for number in UInt64(1)...3 {
            let events = [Samples.holdFinished(number, step: UInt32(number))]
            #expect(
                try follower.onMessage(batch(events, last: number))
                    == [.acknowledgeEvents(sequence: number)])
        }
        #expect(notices.all.count == 1)
        #expect(try store.pending(.file, limit: 9).count == 3)
    }

    @Test("what is not for a notifier is passed over")
    func others() throws {
        #expect(try follower().onMessage(.ping(nonce: 1)).isEmpty)
    }
}
