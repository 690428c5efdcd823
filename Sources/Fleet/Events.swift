/// Something that happened, for notifiers and watchers, in the order it was committed.
public struct FleetEvent: Hashable, Sendable {
    /// From 1, without gaps; the same on every server.
    public var sequence: UInt64
    /// When the leader committed it.
    public var at: Timestamp
    public var body: Body

    public enum Body: Hashable, Sendable {
        case rolloutStarted(rollout: RolloutID, release: ReleaseID, stepCount: UInt32)
        case rolloutChanged(rollout: RolloutID, state: RolloutState, reason: String)
        /// Guests are told what will come. Comes before ``stepGranted``, and only of rollouts with
        /// a notice time.
        case stepNoticed(Notice)
        /// A guest is ready for a step that is noticed and not started.
        case noticeAcknowledged(step: StepID, guest: GuestID)
        /// A noticed step goes back to waiting, or is cancelled, before it was granted.
        case noticeWithdrawn(step: StepID, reason: String)
        /// Locks are held and the agent has been told; the hold itself follows. The release is
        /// `unknown` in events that an older version has written.
        case stepGranted(
            step: StepID, host: HostID, guests: [GuestID], pairs: [SetPair], release: ReleaseID,
            component: Component, version: String)
        /// A step ended without holding any guest, or was cancelled.
        case stepEndedWithoutHold(step: StepID, host: HostID, reason: String)
        /// The last event of a step that was noticed and granted, behind its ``holdFinished(_:)`` or
        /// ``stepEndedWithoutHold``. The outcome is nil if it was cancelled.
        case stepEnded(step: StepID, host: HostID, outcome: StepOutcome?, reason: String)
        /// One hold of one guest is over. Exactly one for each hold.
        case holdFinished(FinishedHold)
        case lockReleased(set: SetID, by: String, reason: String)
    }

    public init(sequence: UInt64, at: Timestamp, body: Body) {
        self.sequence = sequence
        self.at = at
        self.body = body
    }
}

/// A hold with all that an annotation tells of it.
public struct FinishedHold: Hashable, Sendable {
    public var record: HoldRecord
    public var host: HostID
    public var pair: SetPair?
    public var step: StepID
    public var token: Token
    public var release: ReleaseID
    public var component: Component
    /// Version of the release.
    public var version: String

    public init(
        record: HoldRecord, host: HostID, pair: SetPair?, step: StepID, token: Token,
        release: ReleaseID, component: Component, version: String
    ) {
        self.record = record
        self.host = host
        self.pair = pair
        self.step = step
        self.token = token
        self.release = release
        self.component = component
        self.version = version
    }

    /// Names the hold, and so its annotation, for ever: the same grant of the same step never holds
    /// the same guest twice.
    public var holdID: String { "\(step)-t\(token)-\(record.guest)" }
}
