public import Presentation

extension Bulletin {
    /// What is told of a finished hold, from its record.
    ///
    /// - Parameter sequence: of its event.
    public init(_ annotation: Annotation, sequence: UInt64) {
        self.init(
            id: annotation.annotationID,
            state: annotation.record.outcome == .succeeded ? .succeeded : .failed,
            sequence: sequence, at: annotation.recordedAt, guest: annotation.record.guest,
            host: annotation.host, pair: annotation.pair, step: annotation.step,
            token: annotation.token, release: annotation.release, component: annotation.component,
            version: annotation.version, annotation: annotation, reason: annotation.record.reason)
    }
}
