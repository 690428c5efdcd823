// How a batch of events becomes part of the record.
//
//   event                                   what is stored
//   -----------------------------------     ----------------------------------------------------
//   at or before the cursor                 nothing: it came before
//   not the one after the cursor            a gap, then the event
//   the end of a hold, a new name           an annotation, its bulletin, and a row for each sink
//   … a known name, the same start          nothing: it is known
//   … a known name, another start           nothing, and it is told; but if the leader's events have
//                                           begun anew, an annotation under a name of its own
//   one that guests are told of             its bulletins, if new, and a row for each sink
//   any other                               nothing but the cursor
//   for one host: the end of a hold of another host, and whatever is no end of a hold: the same
//
//   the leader's events end before ours     the cursor goes back to 0, the history number up by one

public import Fleet
import Presentation

/// What came of storing a batch.
public struct StoredBatch: Hashable, Sendable {
    /// The last event stored, to be acknowledged.
    public var sequence: UInt64
    public var newAnnotationCount = 0
    public var gaps: [EventGap] = []
    /// The leader's events end before ours: the cursor is 0 now, and following must begin again.
    public var hasBegunAnew = false
    /// Ids that came again for another hold although the leader's history had not begun anew.
    public var conflictingIDs: [String] = []

    public init(sequence: UInt64) { self.sequence = sequence }
}

extension NoticeRecord {
    /// Stores a batch: bulletins, annotations, rows for the sinks, and the cursor, all or nothing.
    ///
    /// - Parameters:
    ///   - events: ascending; those at or before the cursor are passed over.
    ///   - lastSequence: the newest event that the leader has.
    ///   - recordedAt: now.
    ///   - sinks: those that shall get what is new and fits them.
    ///   - book: what is known of sets now.
    ///   - host: of whose guests finished holds alone are recorded; nil records everything.
    public func store(
        events: [FleetEvent], lastSequence: UInt64, recordedAt: Timestamp, sinks: [Sink],
        book: SetBook = SetBook(), host: HostID? = nil
    ) throws(Failure) -> StoredBatch {
        try change { transaction in
            var batch = BatchWriter(
                transaction: transaction, position: try transaction.position(),
                recordedAt: recordedAt, sinks: sinks, book: book, host: host)
            return try batch.write(events, lastSequence: lastSequence)
        }
    }
}

/// Writes one batch of events inside a transaction.
private struct BatchWriter<Transaction: NoticeTransaction> {
    let transaction: Transaction
    var position: FollowPosition
    let recordedAt: Timestamp
    let sinks: [Sink]
    let book: SetBook
    let host: HostID?

    mutating func write(_ events: [FleetEvent], lastSequence: UInt64) throws -> StoredBatch {
        var batch = StoredBatch(sequence: UInt64(clamping: position.sequence))
        // A leader that has fewer events than were stored here has lost some: it was restored from
        // a backup or set up anew. Its numbers from 1 on may name other events now.
        if lastSequence < batch.sequence {
            position = FollowPosition(sequence: 0, history: position.history + 1)
            batch.sequence = 0
            batch.hasBegunAnew = true
            try transaction.save(position)
            return batch
        }
        for event in events {
            // A number that SQLite cannot hold comes from a broken peer; nothing sound follows it.
            guard let sequence = Int64(exactly: event.sequence) else { break }
            guard sequence > position.sequence else { continue }
            if position.sequence > 0, sequence > position.sequence + 1 {
                let gap = EventGap(afterSequence: batch.sequence, beforeSequence: event.sequence)
                batch.gaps.append(gap)
                try transaction.save(gap, history: position.history, noticedAt: recordedAt)
            }
            for bulletin in try derive(event) {
                switch try save(bulletin) {
                case .new where bulletin.annotation != nil: batch.newAnnotationCount += 1
                case .new, .known: break
                case .conflicting: batch.conflictingIDs.append(bulletin.id)
                }
            }
            position.sequence = sequence
            batch.sequence = event.sequence
        }
        try transaction.save(position)
        return batch
    }

    private enum Saved { case new, known, conflicting }

    private func derive(_ event: FleetEvent) throws -> [Bulletin] {
        if let host {
            guard case .holdFinished(let hold) = event.body, hold.host == host else { return [] }
        }
        return try Bulletin.all(
            of: event, recordedAt: recordedAt, book: book,
            told: { try transaction.bulletins(of: $0, history: position.history) },
            unfinished: { try transaction.unfinished(of: $0, history: position.history) })
    }

    private func save(_ bulletin: Bulletin) throws -> Saved {
        var bulletin = bulletin
        if let hold = bulletin.annotation {
            // The same hold has the same start, however often and from whichever history it comes.
            // Another hold with the same name can only come from a history that began anew, and then
            // it gets a name of its own rather than being lost.
            if let known = try transaction.heldAt(bulletin.id) {
                if known == hold.record.heldAt { return .known }
                guard position.history > 1 else { return .conflicting }
                bulletin.id += "-history\(position.history)"
                bulletin.annotation?.annotationID = bulletin.id
                if try transaction.heldAt(bulletin.id) != nil { return .known }
            }
        } else if try transaction.hasBulletin(bulletin.id) {
            return .known
        }
        try transaction.insert(
            bulletin, history: position.history, recordedAt: recordedAt,
            sinks: sinks.filter { $0.filter.fits(bulletin) }.map(\.id))
        return .new
    }
}
