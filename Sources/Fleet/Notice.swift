/// What becomes of the notice time when every guest has acknowledged.
public enum Acknowledgement: String, Hashable, Sendable, CaseIterable {
    /// The step may start at once.
    case shortens
    /// The step waits until the notice time is over all the same.
    case ignored
}

/// What guests are told of a step: before it holds them and while it does.
///
/// ```
/// waiting ──stepNoticed──▶ noticed ──stepGranted──▶ started ──stepEnded──▶ gone
///    ▲                        │
///    └────noticeWithdrawn─────┤
///                             └─noticeWithdrawn─▶ cancelled: gone
/// ```
/// A step without notice time, or without guests to tell, is started at once.
public struct Notice: Hashable, Sendable {
    public var step: StepID
    public var host: HostID
    /// Those that will be held, in ascending order.
    public var guests: [GuestID]
    /// What the step locks; one pair for each set at most, in ascending order.
    public var pairs: [SetPair]
    public var release: ReleaseID
    public var component: Component
    /// Version of the release.
    public var version: String
    /// When the guests were told; of a step without notice time, when it was granted.
    public var noticedAt: Timestamp
    /// The step does not start earlier, unless all guests acknowledge and its rollout lets that count.
    public var notBefore: Timestamp
    /// The longest that a guest may be held.
    public var deadlineMilliseconds: UInt32
    /// Its locks are held: the hold can come at any moment.
    public var isStarted: Bool
    /// In ascending order.
    public var acknowledgedBy: [GuestID]

    public init(
        step: StepID, host: HostID, guests: [GuestID], pairs: [SetPair], release: ReleaseID,
        component: Component, version: String, noticedAt: Timestamp, notBefore: Timestamp,
        deadlineMilliseconds: UInt32, isStarted: Bool, acknowledgedBy: [GuestID]
    ) {
        self.step = step
        self.host = host
        self.guests = guests
        self.pairs = pairs
        self.release = release
        self.component = component
        self.version = version
        self.noticedAt = noticedAt
        self.notBefore = notBefore
        self.deadlineMilliseconds = deadlineMilliseconds
        self.isStarted = isStarted
        self.acknowledgedBy = acknowledgedBy
    }
}

/// Up to where one sink has been delivered to.
public struct DeliveredSequence: Hashable, Sendable {
    /// As the notifiers' configuration names it; 1 to ``Limits/nameByteCountMax`` bytes.
    public var sink: String
    /// Of the last event whose delivery is over, and that of all before it.
    public var sequence: UInt64
    public init(sink: String, sequence: UInt64) {
        self.sink = sink
        self.sequence = sequence
    }
}

/// Which notifier delivers to sinks, so that several of them deliver each thing once.
public struct DeliveryLease: Hashable, Sendable {
    /// Name of the notifier; empty if none has it.
    public var holder: String
    /// Rises with every change of the holder; what is reported under a lower one is refused.
    public var number: UInt64
    /// Whether the notifier that is told this has it.
    public var isYours: Bool
    /// In ascending order of sink.
    public var delivered: [DeliveredSequence]
    public init(holder: String, number: UInt64, isYours: Bool, delivered: [DeliveredSequence]) {
        self.holder = holder
        self.number = number
        self.isYours = isYours
        self.delivered = delivered
    }
}
