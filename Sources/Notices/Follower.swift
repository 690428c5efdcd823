public import Edges
public import Fleet
public import Wire

/// Something that went wrong with following, worth a line in the log.
public enum FollowProblem: Hashable, Sendable {
    /// The leader has fewer events than are stored here.
    case begunAnew(ours: UInt64, leaders: UInt64)
    case gap(EventGap)
    case conflictingID(String)
    case refused(Refusal)
    case undelivered(SinkID, reason: String)
    /// A sink has not taken this one, and will not be asked again.
    case dead(SinkID, bulletin: String, reason: String)
}

/// What the notifier does with what the leader says. The session is behind `send`, so that a
/// test can be the leader.
///
/// ```
///               established: followEvents(after: cursor)
///                    │
///                    ▼          eventBatch: store, wake delivery, acknowledgeEvents(cursor)
///   (no session) ─► following ◄─┐
///        ▲           │   │      │
///        └───────────┘   └──────┘
///         session lost     begun anew: followEvents(after: 0)
/// ```
/// Nothing is acknowledged before it is stored. Nothing here remembers what a session had said:
/// after a reconnect, the cursor in the store is where following begins.
public final class Follower<Record: NoticeRecord, Turns: EventLoop> {
    private let store: Record
    private let delivery: Delivery<Record, Turns>
    private let now: () -> Timestamp
    private let tell: (FollowProblem) -> Void
    /// Of whose guests finished holds are recorded, and nothing else.
    private let host: HostID?
    private var acknowledged: UInt64?
    /// What is known of sets now.
    public var book = SetBook()

    /// - Parameters:
    ///   - host: only holds of its guests are recorded, and nothing is acknowledged: the leader is not to keep
    ///     events for each host's notifier. What it no longer has is missing there, and is no gap to tell of.
    ///   - now: the wall clock; goes into the record and is never compared.
    ///   - tell: takes what an operator should know of.
    public init(
        store: Record, delivery: Delivery<Record, Turns>, host: HostID? = nil,
        now: @escaping () -> Timestamp, tell: @escaping (FollowProblem) -> Void
    ) {
        self.store = store
        self.delivery = delivery
        self.host = host
        self.now = now
        self.tell = tell
    }

    /// A session with the leader is there.
    ///
    /// - Returns: what to send.
    public func onEstablished() throws(Record.Failure) -> Message {
        acknowledged = nil
        return .followEvents(afterSequence: try store.cursor(), progress: false)
    }

    /// - Returns: what to send.
    public func onMessage(_ message: Message) throws(Record.Failure) -> [Message] {
        switch message {
        case .eventBatch(let events, let lastSequence):
            return try onBatch(events, lastSequence: lastSequence)
        case .refused(let refusal):
            tell(.refused(refusal))
            return []
        default:
            return []
        }
    }

    private func onBatch(
        _ events: [FleetEvent], lastSequence: UInt64
    ) throws(Record.Failure) -> [Message] {
        let before = try store.cursor()
        let batch = try store.store(
            events: events, lastSequence: lastSequence, recordedAt: now(), sinks: delivery.sinks,
            book: book, host: host)
        if batch.hasBegunAnew {
            tell(.begunAnew(ours: before, leaders: lastSequence))
            acknowledged = nil
            return [.followEvents(afterSequence: 0, progress: false)]
        }
        if host == nil { for gap in batch.gaps { tell(.gap(gap)) } }
        for id in batch.conflictingIDs { tell(.conflictingID(id)) }
        delivery.wake()
        guard host == nil, batch.sequence > 0, batch.sequence != acknowledged else { return [] }
        acknowledged = batch.sequence
        return [.acknowledgeEvents(sequence: batch.sequence)]
    }
}

extension FollowProblem: CustomStringConvertible {
    public var description: String {
        switch self {
        case .begunAnew(let ours, let leaders):
            "THE SERVER HAS LOST EVENTS: it has \(leaders), \(ours) are stored here. It was "
                + "restored from a backup or set up anew. Nothing stored here is lost; following "
                + "begins again from its first event, and holds that are known are not repeated. "
                + "Check with `fermata status` and `fermata rollout list` what the server forgot."
        case .gap(let gap):
            "EVENTS ARE MISSING: the server no longer has those after \(gap.afterSequence) and "
                + "before \(gap.beforeSequence). Holds in between have no annotation here; "
                + "`fermata rollout show` still knows them. Keep a notifier connected."
        case .conflictingID(let id):
            "the server sent another hold under the name \(id), which is taken; the first is "
                + "kept. Please report this."
        case .refused(let refusal): "the server refused: \(refusal.message) \(refusal.advice)"
        case .undelivered(.stdout, let reason):
            "nobody reads the standard output any more (\(reason)); what is due there will be "
                + "printed after the next start"
        case .undelivered(let sink, let reason):
            "sink \(sink) does not take what is due to it: \(reason); it is kept and tried again"
        case .dead(let sink, let bulletin, let reason):
            "sink \(sink) has not taken \(bulletin) and is not asked again: \(reason); see "
                + "`fermata notifier dead-letters list`"
        }
    }
}
