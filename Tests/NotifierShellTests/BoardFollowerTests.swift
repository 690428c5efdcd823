import Fleet
import NoticeServer
import Notices
import SessionCore
import Testing
import UvLoop
import Wire

@testable import NotifierShell

/// A notifier's board, its database and a leader, without a web server's address.
private final class Bench {
    let loop: Loop
    let leader: ScriptedLeader
    let scratch: Scratch
    let store: NotifierStore
    var follower: BoardFollower
    private var client: SessionClient

    init(_ scratch: Scratch, host: HostID? = nil) throws {
        self.scratch = scratch
        loop = try Loop()
        leader = try ScriptedLeader(on: loop)
        store = try NotifierStore(path: scratch.path("notifier.db"), cluster: "demo")
        client = leader.client()
        follower = try BoardFollower(
            GuestService(listen: [], host: host), store: store, client: client,
            renderer: BulletinRenderer(cluster: "demo"), loop: loop, log: ScriptedLeader.log)
    }

    /// As the shell does it: what guests are told and what is recorded, together.
    func start() {
        client.onReady = { [unowned self] _ in follower.onSession() }
        client.onMessage = { [unowned self] message, _ in
            guard case .eventBatch(let events, let last) = message else { return }
            do {
                try store.together { () throws(NotifierStoreError) in
                    try follower.onBatch(events, lastSequence: last)
                    _ = try store.store(
                        events: events, lastSequence: last, recordedAt: Samples.now, sinks: [])
                }
                follower.publish()
            } catch {
                Issue.record("\(error)")
            }
        }
        client.start()
    }

    /// Lets the loop run until the condition holds, for 20 s at most.
    func wait(_ what: String, until condition: @escaping () -> Bool) {
        var isMet = false
        let looking = loop.every(.milliseconds(2)) { [loop] in
            isMet = condition()
            if isMet { loop.stop() }
        }
        let limit = loop.after(.seconds(20)) { [loop] in loop.stop() }
        loop.run()
        looking.cancel()
        limit.cancel()
        #expect(isMet, "waited for \(what)")
    }

    func stop() {
        client.stop()
        leader.close()
        loop.closeAll()
    }

    var events: [StepID] {
        follower.board.guest(Self.guest).map { follower.board.document(for: $0).events.map(\.step) }
            ?? []
    }

    static let guest = GuestID(checked: "db-0")
    static let view = GuestView(
        report: GuestReport(
            id: guest, set: SetID(checked: "db"), updateDomain: UpdateDomain(0),
            memoryBytes: 1 << 30, vcpuCount: 2, state: .running, hypervisorVersion: "1",
            hasGuestAgent: false),
        host: HostID(checked: "a"), updateDomain: UpdateDomain(0), placedByLeader: false,
        hostConnected: true)

    static func notice(
        _ step: UInt32, noticedAt: Timestamp = Samples.now, isStarted: Bool = false
    ) -> Notice {
        Notice(
            step: StepID(rollout: RolloutID(1), number: step), host: HostID(checked: "a"),
            guests: [guest],
            pairs: UpdateDomain(0).map { [SetPair(set: SetID(checked: "db"), updateDomain: $0)] }
                ?? [],
            release: ReleaseID(checked: "qemu-2"), component: .hypervisor, version: "2",
            noticedAt: noticedAt, notBefore: Timestamp(microseconds: .max / 2),
            deadlineMilliseconds: 8_000, isStarted: isStarted, acknowledgedBy: [])
    }

    static func noticed(_ sequence: UInt64, _ notice: Notice) -> FleetEvent {
        FleetEvent(sequence: sequence, at: notice.noticedAt, body: .stepNoticed(notice))
    }
}

@Suite struct BoardFollowerTests {
    let scratch: Scratch
    init() throws { scratch = try Scratch() }

    /// Answers what a notifier asks, with these notices as of that event.
    private func answers(
        _ notices: [Notice], _ sequence: UInt64, guests: Bool = true
    ) -> (Message) -> Message? {
        { message in
            switch message {
            case .query(.notices, _): .queryResult(.notices(notices, lastSequence: sequence))
            case .query(.guests, _): guests ? .queryResult(.guests([Bench.view])) : nil
            default: nil
            }
        }
    }

    /// A process that has served guests up to event 5, with a notice on its board.
    private func earlierProcess() throws {
        let bench = try Bench(scratch)
        bench.leader.answer = answers([], 4)
        bench.start()
        bench.wait("the board") { bench.follower.board.isReady }
        bench.leader.send(.eventBatch([Samples.other(4)], lastSequence: 4))
        bench.leader.send(
            .eventBatch([Bench.noticed(5, Bench.notice(1))], lastSequence: 5))
        bench.wait("the notice") { !bench.events.isEmpty }
        bench.stop()
    }

    @Test("what was kept is not given out when events went by while guests were not served")
    func servedAgain() throws {
        try earlierProcess()
        do {
            let store = try NotifierStore(path: scratch.path("notifier.db"), cluster: "demo")
            let withdrawn = FleetEvent(
                sequence: 6, at: Samples.now,
                body: .noticeWithdrawn(step: Bench.notice(1).step, reason: ""))
            _ = try store.store(
                events: [withdrawn], lastSequence: 6, recordedAt: Samples.now, sinks: [])
        }
        let bench = try Bench(scratch)
        // The guests are known, the notices not yet.
        bench.leader.answer = {
            if case .query(.guests, _) = $0 { .queryResult(.guests([Bench.view])) } else { nil }
        }
        bench.start()
        bench.wait("the question") { bench.leader.has(.notices) }
        #expect(bench.follower.board.guest(Bench.guest) != nil && !bench.follower.board.isReady)
        bench.leader.answer = answers([], 6)
        bench.leader.endSessions()
        bench.wait("the board") { bench.follower.board.isReady }
        #expect(bench.events.isEmpty && bench.follower.board.cursor == 6)
        bench.stop()
    }

    @Test("a restart that has missed nothing gives out what was kept without asking again")
    func restart() throws {
        try earlierProcess()
        let bench = try Bench(scratch)
        bench.leader.answer = {
            if case .query(.guests, _) = $0 { .queryResult(.guests([Bench.view])) } else { nil }
        }
        bench.start()
        bench.wait("the board") { bench.follower.board.isReady }
        #expect(bench.events == [Bench.notice(1).step])
        bench.stop()
    }

    @Test("a guest whose set changed while the notifier was down reads a higher number")
    func movedWhileDown() throws {
        try earlierProcess()
        let bench = try Bench(scratch)
        var moved = Bench.view
        moved.report.set = SetID(checked: "web")
        bench.leader.answer = { message in
            if case .query(.guests, _) = message { .queryResult(.guests([moved])) } else { nil }
        }
        bench.start()
        bench.wait("the board") { bench.follower.board.isReady }
        let guest = try #require(bench.follower.board.guest(Bench.guest))
        #expect(guest.set?.rawValue == "web")
        // Event 5 gave it number 6.
        #expect(bench.follower.board.document(for: guest).incarnation > 6)
        bench.stop()
    }

    @Test("a notice that came before the inventory outlives the session", arguments: [false, true])
    func droppedWhileWaiting(isKilled: Bool) throws {
        try earlierProcess()
        var bench = try Bench(scratch)
        bench.leader.answer = answers([Bench.notice(1)], 5, guests: false)
        bench.start()
        bench.wait("the question") { bench.leader.has(.guests) }
        bench.leader.send(.eventBatch([Bench.noticed(6, Bench.notice(2))], lastSequence: 6))
        let store = bench.store
        bench.wait("the event to be stored") { (try? store.cursor()) == 6 }
        #expect(!bench.follower.board.isReady)
        if isKilled {
            bench.stop()
            bench = try Bench(scratch)
        }
        bench.leader.answer = answers([Bench.notice(1), Bench.notice(2)], 6)
        if isKilled { bench.start() } else { bench.leader.endSessions() }
        bench.wait("the board") { [bench] in bench.follower.board.isReady }
        #expect(bench.events == [Bench.notice(1).step, Bench.notice(2).step])
        bench.stop()
    }

    @Test("an acknowledgement is of the notice that was read, and of no later one")
    func acknowledgement() throws {
        let bench = try Bench(scratch)
        let first = Bench.notice(1)
        bench.leader.answer = answers([first], 5)
        bench.start()
        bench.wait("the board") { !bench.events.isEmpty }
        bench.stop()
        // Without a leader it is kept.
        let (store, log) = (bench.store, ReplyLog())
        let request = ServerRequest.acknowledge(
            guest: Bench.guest, eventIDs: [first.eventID], mustBeSeen: true,
            reply: { _ in log.count += 1 })
        bench.follower.onRequest(request)
        let kept = PendingAcknowledgement(
            step: first.step, guest: Bench.guest, noticedAt: first.noticedAt)
        #expect(try store.pendingAcknowledgements() == [kept] && log.count == 1)

        let again = try Bench(scratch)
        let second = Bench.notice(
            1, noticedAt: Timestamp(microseconds: first.noticedAt.microseconds + 1))
        again.leader.answer = { [answers] message in
            switch message {
            case .command(.acknowledgeNotice): .refused(Refusal(.conflict, "noticed anew"))
            default: answers([second], 7, true)(message)
            }
        }
        again.start()
        again.wait("the refusal") { (try? again.store.pendingAcknowledgements()) == [] }
        let command = OperatorCommand.acknowledgeNotice(
            first.step, guest: Bench.guest, noticedAt: first.noticedAt)
        #expect(again.leader.received.contains(.command(command)))
        again.stop()
    }

    @Test("an acknowledgement of an earlier notice than the one on the board is dropped")
    func outdated() throws {
        let bench = try Bench(scratch)
        bench.leader.answer = answers([Bench.notice(1)], 5)
        bench.start()
        bench.wait("the board") { !bench.events.isEmpty }
        let old = PendingAcknowledgement(
            step: Bench.notice(1).step, guest: Bench.guest, noticedAt: Timestamp(microseconds: 5))
        try bench.store.save(old)
        bench.leader.endSessions()
        bench.wait("it to be dropped") { (try? bench.store.pendingAcknowledgements()) == [] }
        #expect(
            !bench.leader.received.contains { if case .command = $0 { true } else { false } })
        // One of a later notice takes its place, and is not removed with it.
        let new = PendingAcknowledgement(
            step: old.step, guest: old.guest, noticedAt: Bench.notice(1).noticedAt)
        try bench.store.save(old)
        try bench.store.save(new)
        try bench.store.remove(old)
        #expect(try bench.store.pendingAcknowledgements() == [new])
        bench.stop()
    }
}

private final class ReplyLog: @unchecked Sendable { var count = 0 }
