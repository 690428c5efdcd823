public import Fleet
public import Presentation

/// One thing that is told about one guest: what sinks get, in whichever form.
///
/// Derived from the leader's events alone, so that every notifier derives the same ones under the
/// same ids. Only those of the states `succeeded` and `failed` are annotations: the record of a hold.
public struct Bulletin: Hashable, Sendable {
    public enum State: String, Hashable, Sendable, CaseIterable {
        /// The guest will be held, not before `notBefore`.
        case noticed
        /// The guest's locks are held; its hold follows.
        case started
        /// The hold is over and the guest runs on the new software.
        case succeeded
        /// The hold is over and the new software was not taken: `hold` says what came of the guest.
        case failed
        /// What was noticed or started will not take place, or ended without a hold.
        case cancelled
    }

    /// The idempotency key: for an annotation ``FinishedHold/holdID``, else that of its step with the
    /// guest, the state and the time.
    public var id: String
    public var state: State
    /// Of the event that it was derived from.
    public var sequence: UInt64
    /// When the leader committed that event.
    public var at: Timestamp
    public var guest: GuestID
    public var host: HostID
    /// The guest's set and update domain; nil for a guest without a set.
    public var pair: SetPair?
    /// Where ``pair`` is nil because several guests are in the step: those of which one may be the
    /// guest's. For filters.
    public var possiblePairs: [SetPair]
    public var step: StepID
    /// Of a hold that is over: only its event says it.
    public var token: Token?
    public var release: ReleaseID
    public var component: Component
    /// Version of the release.
    public var version: String
    /// For `noticed` only.
    public var notBefore: Timestamp?
    /// For `cancelled`: whether it had been told that it starts. Else false.
    public var wasStarted: Bool
    /// For `succeeded` and `failed`, and only for them.
    public var annotation: Annotation?
    /// Why it failed or was cancelled; else empty.
    public var reason: String
    /// Of the guest's set when this was recorded; nil if it was not known. Only for the advice in the text,
    /// and kept with the bulletin so that its text stays the same.
    public var setSize: SetSize?

    public init(
        id: String, state: State, sequence: UInt64, at: Timestamp, guest: GuestID, host: HostID,
        pair: SetPair?, possiblePairs: [SetPair] = [], step: StepID, token: Token?,
        release: ReleaseID, component: Component, version: String, notBefore: Timestamp? = nil,
        wasStarted: Bool = false, annotation: Annotation? = nil, reason: String = "",
        setSize: SetSize? = nil
    ) {
        self.id = id
        self.state = state
        self.sequence = sequence
        self.at = at
        self.guest = guest
        self.host = host
        self.pair = pair
        self.possiblePairs = possiblePairs
        self.step = step
        self.token = token
        self.release = release
        self.component = component
        self.version = version
        self.notBefore = notBefore
        self.wasStarted = wasStarted
        self.annotation = annotation
        self.reason = reason
        self.setSize = setSize
    }
}

extension Bulletin {
    /// One that says that nothing happened, for trying a sink.
    ///
    /// - Parameters:
    ///   - name: makes its id unique.
    ///   - isStart: it says that a hold begins, and the other one of the name that it is over.
    package static func trial(
        _ name: String, isStart: Bool = false, nowMicroseconds: Int64
    ) -> Bulletin {
        let now = Timestamp(microseconds: nowMicroseconds)
        let hold = FinishedHold(
            record: HoldRecord(
                guest: GuestID(checked: "test-guest"), outcome: .succeeded,
                reason: "this is a test of the sink; no guest was held", heldAt: now,
                holdMicroseconds: 14_200, resumedBy: .agent, clockErrorBeforeMicroseconds: nil,
                clockErrorAfterMicroseconds: nil, clockNote: "a test", hypervisorBefore: "1",
                hypervisorAfter: "2"),
            host: HostID(checked: "test-host"), pair: nil,
            step: StepID(rollout: RolloutID(1), number: 1), token: Token(1),
            release: ReleaseID(checked: "test"), component: .hypervisor, version: "2")
        var annotation = Annotation(hold: hold, recordedAt: now)
        annotation.annotationID = "test-\(name)"
        return Bulletin(
            id: annotation.annotationID + (isStart ? "-started" : ""),
            state: isStart ? .started : .succeeded, sequence: 0, at: now,
            guest: hold.record.guest, host: hold.host, pair: nil, step: hold.step,
            token: isStart ? nil : hold.token, release: hold.release, component: hold.component,
            version: hold.version, annotation: isStart ? nil : annotation,
            reason: isStart ? "" : hold.record.reason)
    }
}
