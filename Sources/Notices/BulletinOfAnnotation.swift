public import Fleet
public import Presentation

extension Bulletin {
    /// What is told of a finished hold, from its record.
    ///
    /// - Parameters:
    ///   - sequence: of its event.
    ///   - at: when the leader committed it; nil if that is not kept any more, or with the record that is
    ///     just made.
    ///   - setSize: of its guest's set at that time, if it is known.
    public init(
        _ annotation: Annotation, sequence: UInt64, at: Timestamp? = nil, setSize: SetSize?
    ) {
        self.init(
            id: annotation.annotationID,
            state: annotation.record.outcome == .succeeded ? .succeeded : .failed,
            sequence: sequence, at: at ?? annotation.recordedAt,
            guest: annotation.record.guest, host: annotation.host, pair: annotation.pair,
            step: annotation.step,
            token: annotation.token, release: annotation.release, component: annotation.component,
            version: annotation.version, annotation: annotation, reason: annotation.record.reason,
            setSize: setSize)
    }
}
