// Which bulletins an event becomes.
//
//   holdFinished            succeeded or failed, of that guest: the annotation
//   stepEndedWithoutHold    cancelled, of every guest that was told of the step
//   any other               nothing

package import Fleet
import Presentation

extension Bulletin {
    /// The bulletins that follow from an event: from it and what was told before alone, so that every
    /// notifier comes to the same ones.
    ///
    /// - Parameters:
    ///   - recordedAt: now; stands in annotations.
    ///   - told: what was told of a step before, oldest first.
    package static func all(
        of event: FleetEvent, recordedAt: Timestamp, told: (StepID) throws -> [Bulletin]
    ) rethrows -> [Bulletin] {
        switch event.body {
        case .holdFinished(let hold):
            return [Bulletin(hold, event, recordedAt: recordedAt)]
        case .stepEndedWithoutHold(let step, _, let reason):
            return cancelled(by: event, try told(step), reason: reason)
        case .rolloutStarted, .rolloutChanged, .stepGranted, .lockReleased:
            return []
        }
    }

    private init(_ hold: FinishedHold, _ event: FleetEvent, recordedAt: Timestamp) {
        let record = hold.record
        self.init(
            id: hold.holdID, state: record.outcome == .succeeded ? .succeeded : .failed,
            sequence: event.sequence, at: event.at, guest: record.guest, host: hold.host,
            pair: hold.pair, step: hold.step, token: hold.token, release: hold.release,
            component: hold.component, version: hold.version,
            annotation: Annotation(hold: hold, recordedAt: recordedAt), reason: record.reason)
    }

    /// Of every guest whose newest bulletin says that something is to come.
    private static func cancelled(
        by event: FleetEvent, _ told: [Bulletin], reason: String
    ) -> [Bulletin] {
        var newest: [GuestID: Bulletin] = [:]
        for bulletin in told { newest[bulletin.guest] = bulletin }
        return newest.values.filter { $0.state == .noticed || $0.state == .started }
            .sorted { $0.guest < $1.guest }.map { before in
                var bulletin = before
                bulletin.id = "\(before.id)-cancelled"
                bulletin.state = .cancelled
                bulletin.sequence = event.sequence
                bulletin.at = event.at
                bulletin.notBefore = nil
                bulletin.reason = reason
                return bulletin
            }
    }
}
