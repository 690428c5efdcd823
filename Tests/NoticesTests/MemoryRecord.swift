import Edges
import Fleet
import Notices
import Presentation

/// A record in memory that can die: within a change, which then has not happened, or after it.
final class MemoryRecord: NoticeRecord {
    struct Failure: Error, Hashable {
        var reason: String
    }

    struct Row: Hashable {
        var item: OutboxItem
        var sink: SinkID
        var deliveredAt: Timestamp?
        var deadAt: Timestamp?
    }

    struct Contents {
        var position = FollowPosition()
        var annotations: [Annotation] = []
        var bulletins: [Bulletin] = []
        var outbox: [Row] = []
        var gaps: [EventGap] = []
    }

    final class Transaction: NoticeTransaction {
        var contents: Contents
        var writesLeft: Int?
        init(_ contents: Contents, writesLeft: Int?) {
            self.contents = contents
            self.writesLeft = writesLeft
        }

        private func write() throws {
            if writesLeft == 0 { throw Failure(reason: "died in a change") }
            writesLeft = writesLeft.map { $0 - 1 }
        }

        func position() -> FollowPosition { contents.position }

        func save(_ position: FollowPosition) throws {
            try write()
            contents.position = position
        }

        func save(_ gap: EventGap, history: Int64, noticedAt: Timestamp) throws {
            try write()
            contents.gaps.append(gap)
        }

        func heldAt(_ annotationID: String) -> Timestamp? {
            contents.annotations.first { $0.annotationID == annotationID }?.record.heldAt
        }

        func hasBulletin(_ id: String) -> Bool { contents.bulletins.contains { $0.id == id } }
        func bulletins(of step: StepID, history: Int64) -> [Bulletin] {
            contents.bulletins.filter { $0.step == step }
        }

        func unfinished(of rollout: RolloutID, history: Int64) -> [Bulletin] {
            Bulletin.newest(contents.bulletins.filter { $0.step.rollout == rollout })
                .filter(\.isUnfinished)
        }

        func insert(
            _ bulletin: Bulletin, history: Int64, recordedAt: Timestamp, sinks: [SinkID]
        ) throws {
            try write()
            precondition(!hasBulletin(bulletin.id), "\(bulletin.id) twice")
            contents.bulletins.append(bulletin)
            if let annotation = bulletin.annotation { contents.annotations.append(annotation) }
            for sink in sinks {
                let item = OutboxItem(number: Int64(contents.outbox.count + 1), bulletin: bulletin)
                contents.outbox.append(Row(item: item, sink: sink))
            }
        }
    }

    var contents = Contents()
    /// Writes within changes until one dies; nil for never.
    var writesLeft: Int?
    /// Marks until one dies before it is made; nil for never.
    var marksLeft: Int?

    func cursor() -> UInt64 { UInt64(clamping: contents.position.sequence) }

    func change<Value>(_ body: (Transaction) throws -> Value) throws(Failure) -> Value {
        let transaction = Transaction(contents, writesLeft: writesLeft)
        do {
            let value = try body(transaction)
            contents = transaction.contents
            writesLeft = transaction.writesLeft
            return value
        } catch {
            throw (error as? Failure) ?? Failure(reason: "\(error)")
        }
    }

    func pending(_ sink: SinkID, after number: Int64 = 0, limit: Int) -> [OutboxItem] {
        let rows = contents.outbox.filter {
            $0.sink == sink && $0.deliveredAt == nil && $0.deadAt == nil && $0.item.number > number
        }
        return rows.prefix(limit).map(\.item)
    }

    func mark(_ marks: [OutboxMark], at time: Timestamp) throws(Failure) {
        if marksLeft == 0 { throw Failure(reason: "died before the mark") }
        marksLeft = marksLeft.map { $0 - 1 }
        for mark in marks {
            let index = Int(mark.number) - 1
            switch mark.change {
            case .delivered: contents.outbox[index].deliveredAt = time
            case .dead: contents.outbox[index].deadAt = time
            case .failed(let attempts, let refusals, let next, _):
                contents.outbox[index].item.attempts = attempts
                contents.outbox[index].item.refusals = refusals
                contents.outbox[index].item.nextAttemptAt = next
            }
        }
    }

    func settledUpTo(_ sink: SinkID) -> UInt64 {
        pending(sink, limit: 1).first.map { $0.bulletin.sequence - 1 } ?? cursor()
    }

    func markDelivered(_ sink: SinkID, upTo sequence: UInt64, at time: Timestamp) {
        for index in contents.outbox.indices
        where contents.outbox[index].sink == sink
            && contents.outbox[index].item.bulletin.sequence <= sequence
        {
            contents.outbox[index].deliveredAt = time
        }
    }
}

/// A file in memory, which can be torn at any byte.
final class MemoryFile: LineAppender {
    var bytes: [UInt8] = []
    /// Of the next appends; nil for no limit.
    var bytesLeft: Int?

    var lines: [String] {
        bytes.split(separator: UInt8(ascii: "\n")).map { String(decoding: $0, as: UTF8.self) }
    }

    private func recover(_ due: [String]) -> Set<String> {
        let count = FileEnd.byteCount(for: due, fileByteCount: UInt64(bytes.count))
        let end = FileEnd(tail: Array(bytes.suffix(Int(count))), due: due)
        switch end.mending {
        case .none: break
        case .cut(let byteCount): bytes.removeLast(byteCount)
        case .endLine: bytes.append(UInt8(ascii: "\n"))
        }
        return end.present
    }

    func append(_ lines: [String], isRecovery: Bool, completion: @escaping (String?) -> Void) {
        let present = isRecovery ? recover(lines) : []
        let due = lines.filter { !present.contains($0) }
        let wanted = Array(due.map { $0 + "\n" }.joined().utf8)
        let written = min(wanted.count, bytesLeft ?? .max)
        bytes += wanted.prefix(written)
        bytesLeft = bytesLeft.map { $0 - written }
        completion(written < wanted.count ? "the disk is full" : nil)
    }
}

/// Takes what it is given when it is told to.
final class MemoryReceiver: Receiver {
    var handOvers: [(items: [OutboxItem], completion: (DeliveryOutcome) -> Void)] = []
    var ids: [String] { handOvers.flatMap { $0.items.map(\.bulletin.id) } }

    func take(_ items: [OutboxItem], completion: @escaping (DeliveryOutcome) -> Void) {
        handOvers.append((items, completion))
    }

    func answer(_ outcome: DeliveryOutcome) {
        handOvers.removeFirst().completion(outcome)
    }
}

/// A loop whose time goes on when it is told to.
final class TestLoop: EventLoop {
    final class Timer: LoopTimer {
        var body: (() -> Void)?
        func cancel() { body = nil }
    }
    private var timers: [(at: Int64, timer: Timer)] = []
    private(set) var nowMilliseconds: Int64 = 0
    /// By how much its clock was set, in microseconds.
    var wallOffset: Int64 = 0
    var wallMicroseconds: Int64 { Samples.now.microseconds + nowMilliseconds * 1_000 + wallOffset }

    func after(_ delay: Duration, _ body: @escaping () -> Void) -> Timer {
        let timer = Timer()
        timer.body = body
        timers.append((nowMilliseconds + delay.microseconds / 1_000, timer))
        return timer
    }

    func every(_ interval: Duration, _ body: @escaping () -> Void) -> Timer {
        preconditionFailure("nothing here repeats")
    }

    func soon(_ body: @escaping () -> Void) { _ = after(.zero, body) }
    func random(in range: ClosedRange<Int64>) -> Int64 { range.lowerBound }
    func randomBytes(_ count: Int) -> [UInt8] { [] }

    func run(milliseconds: Int64) {
        let end = nowMilliseconds + milliseconds
        while let index = timers.indices.filter({ timers[$0].at <= end })
            .min(by: { timers[$0].at < timers[$1].at })
        {
            let (at, timer) = timers.remove(at: index)
            nowMilliseconds = max(nowMilliseconds, at)
            timer.body?()
        }
        nowMilliseconds = end
    }
}

enum Samples {
    static let now = Timestamp(microseconds: 1_775_946_500_000_000)

    static let renderer = BulletinRenderer(cluster: "test")

    static func holdFinished(
        _ sequence: UInt64, step: UInt32, heldAt: Int64 = 9, guest: String = "db-0"
    ) -> FleetEvent {
        let record = HoldRecord(
            guest: GuestID(checked: guest), outcome: .succeeded, reason: "",
            heldAt: Timestamp(microseconds: heldAt), holdMicroseconds: 14_200, resumedBy: .agent,
            clockErrorBeforeMicroseconds: nil, clockErrorAfterMicroseconds: nil,
            clockNote: "", hypervisorBefore: "7.2.18", hypervisorAfter: "7.2.22")
        return FleetEvent(
            sequence: sequence, at: now,
            body: .holdFinished(
                FinishedHold(
                    record: record, host: HostID(checked: "a"), pair: nil,
                    step: StepID(rollout: RolloutID(1), number: step), token: Token(7),
                    release: ReleaseID(checked: "qemu-7.2.22"), component: .hypervisor,
                    version: "7.2.22")))
    }

    static func other(_ sequence: UInt64) -> FleetEvent {
        FleetEvent(
            sequence: sequence, at: now,
            body: .rolloutChanged(rollout: RolloutID(1), state: .succeeded, reason: ""))
    }
}
