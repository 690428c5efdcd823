// Which bulletins an event becomes.
//
//   stepNoticed             noticed, of each guest that will be held
//   stepGranted             started, of each guest that will be held
//   holdFinished            succeeded or failed, of that guest: the annotation
//   noticeWithdrawn, stepEndedWithoutHold, stepEnded
//                           cancelled, of each guest that was told that something is to come
//   rolloutChanged, to one that is over
//                           likewise: of a step without notice nothing says that some were not held
//   any other               nothing
//
// An event does not say which of several guests is in which pair: that is looked up in the SetBook, and
// where it does not say so either, every pair of the step that nobody else has may be the guest's.

package import Fleet
import Presentation

extension Bulletin {
    /// The bulletins that follow from an event: from it and what was told before alone, so that every
    /// notifier comes to the same ones.
    ///
    /// - Parameters:
    ///   - recordedAt: now; stands in annotations.
    ///   - book: what is known of sets; changes no id.
    ///   - told: what was told of a step before, oldest first.
    package static func all(
        of event: FleetEvent, recordedAt: Timestamp, book: SetBook,
        told: (StepID) throws -> [Bulletin], unfinished: (RolloutID) throws -> [Bulletin]
    ) rethrows -> [Bulletin] {
        switch event.body {
        case .holdFinished(let hold):
            let size = hold.pair.flatMap { book.size(of: $0.set) }
            return [Bulletin(hold, event, recordedAt: recordedAt, setSize: size)]
        case .stepNoticed(let notice):
            return notice.guests.map { Bulletin($0, notice, event, book) }
        case .stepGranted(
            let step, let host, let guests, let pairs, let release, let component, let version):
            return guests.map { guest in
                let place = book.place(of: guest, in: guests, pairs)
                return Bulletin(
                    id: "\(step)-\(guest)-started-\(event.at.microseconds)", state: .started,
                    sequence: event.sequence, at: event.at, guest: guest, host: host,
                    pair: place.pair, possiblePairs: place.possible, step: step, token: nil,
                    release: release, component: component, version: version)
            }
        case .stepEndedWithoutHold(let step, _, let reason), .noticeWithdrawn(let step, let reason),
            .stepEnded(let step, _, _, let reason):
            return cancelled(by: event, try told(step), reason: reason)
        case .rolloutChanged(let rollout, let state, _) where state.isOver:
            let reason = "its step ended without a hold of this guest"
            return cancelled(by: event, try unfinished(rollout), reason: reason)
        case .rolloutStarted, .rolloutChanged, .noticeAcknowledged, .lockReleased:
            return []
        }
    }

    private init(_ guest: GuestID, _ notice: Notice, _ event: FleetEvent, _ book: SetBook) {
        let place = book.place(of: guest, in: notice.guests, notice.pairs)
        self.init(
            id: "\(notice.step)-\(guest)-noticed-\(notice.noticedAt.microseconds)", state: .noticed,
            sequence: event.sequence, at: event.at, guest: guest, host: notice.host,
            pair: place.pair, possiblePairs: place.possible, step: notice.step, token: nil,
            release: notice.release, component: notice.component, version: notice.version,
            notBefore: notice.notBefore)
    }

    private init(
        _ hold: FinishedHold, _ event: FleetEvent, recordedAt: Timestamp, setSize: SetSize?
    ) {
        let record = hold.record
        self.init(
            id: hold.holdID, state: record.outcome == .succeeded ? .succeeded : .failed,
            sequence: event.sequence, at: event.at, guest: record.guest, host: hold.host,
            pair: hold.pair, step: hold.step, token: hold.token, release: hold.release,
            component: hold.component, version: hold.version,
            annotation: Annotation(hold: hold, recordedAt: recordedAt), reason: record.reason,
            setSize: setSize)
    }

    /// Of every guest whose newest bulletin says that something is to come.
    private static func cancelled(
        by event: FleetEvent, _ told: [Bulletin], reason: String
    ) -> [Bulletin] {
        newest(told).filter(\.isUnfinished).map { before in
            var bulletin = before
            bulletin.id = "\(before.id)-cancelled"
            bulletin.state = .cancelled
            bulletin.wasStarted = before.state == .started
            bulletin.sequence = event.sequence
            bulletin.at = event.at
            bulletin.notBefore = nil
            bulletin.reason = reason
            return bulletin
        }
    }

    /// Of each guest of each step, in ascending order.
    ///
    /// - Parameter told: oldest first.
    package static func newest(_ told: [Bulletin]) -> [Bulletin] {
        var newest: [StepID: [GuestID: Bulletin]] = [:]
        for bulletin in told { newest[bulletin.step, default: [:]][bulletin.guest] = bulletin }
        return newest.values.flatMap(\.values).sorted {
            ($0.step, $0.guest) < ($1.step, $1.guest)
        }
    }

    /// It says that something is to come.
    package var isUnfinished: Bool { state == .noticed || state == .started }
}
