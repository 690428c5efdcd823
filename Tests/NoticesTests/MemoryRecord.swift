import Fleet
import Notices
import Presentation

/// A record in memory that can die: within a change, which then has not happened, or after it.
final class MemoryRecord: NoticeRecord {
    struct Failure: Error, Hashable {
        var reason: String
    }

    struct Line: Hashable {
        var pending: PendingLine
        var sink: Sink
        var deliveredAt: Timestamp?
    }

    struct Contents {
        var position = FollowPosition()
        var annotations: [Annotation] = []
        var outbox: [Line] = []
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

        func insert(_ annotation: Annotation, sequence: Int64, lines: [SinkLine]) throws {
            try write()
            precondition(heldAt(annotation.annotationID) == nil, "\(annotation.annotationID) twice")
            contents.annotations.append(annotation)
            for line in lines {
                let pending = PendingLine(
                    number: Int64(contents.outbox.count + 1),
                    annotationID: annotation.annotationID, line: line.line)
                contents.outbox.append(Line(pending: pending, sink: line.sink))
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

    func pending(_ sink: Sink, limit: Int) -> [PendingLine] {
        let lines = contents.outbox.filter { $0.sink == sink && $0.deliveredAt == nil }
        return lines.prefix(limit).map(\.pending)
    }

    func markDelivered(_ lines: [PendingLine], at time: Timestamp) throws(Failure) {
        if marksLeft == 0 { throw Failure(reason: "died before the mark") }
        marksLeft = marksLeft.map { $0 - 1 }
        let numbers = lines.map(\.number)
        for index in contents.outbox.indices
        where numbers.contains(contents.outbox[index].pending.number) {
            contents.outbox[index].deliveredAt = contents.outbox[index].deliveredAt ?? time
        }
    }
}

/// A file in memory, which can be torn at any byte.
final class MemoryFile: LineAppender {
    struct Failure: Error {}

    var bytes: [UInt8] = []
    /// Of the next appends; nil for no limit.
    var bytesLeft: Int?

    var lines: [String] {
        bytes.split(separator: UInt8(ascii: "\n")).map { String(decoding: $0, as: UTF8.self) }
    }

    func recover(_ due: [String]) -> Set<String> {
        let count = FileEnd.byteCount(for: due, fileByteCount: UInt64(bytes.count))
        let end = FileEnd(tail: Array(bytes.suffix(Int(count))), due: due)
        switch end.mending {
        case .none: break
        case .cut(let byteCount): bytes.removeLast(byteCount)
        case .endLine: bytes.append(UInt8(ascii: "\n"))
        }
        return end.present
    }

    func append(_ lines: [String]) throws {
        let wanted = Array(lines.map { $0 + "\n" }.joined().utf8)
        let written = min(wanted.count, bytesLeft ?? .max)
        bytes += wanted.prefix(written)
        bytesLeft = bytesLeft.map { $0 - written }
        if written < wanted.count { throw Failure() }
    }
}

enum Samples {
    static let now = Timestamp(microseconds: 1_775_946_500_000_000)

    static func holdFinished(_ sequence: UInt64, step: UInt32, heldAt: Int64 = 9) -> FleetEvent {
        let record = HoldRecord(
            guest: GuestID(checked: "db-0"), outcome: .succeeded, reason: "",
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
