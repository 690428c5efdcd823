import Fleet
import Wire

/// What the notifier does with what the leader says. The session is behind `send`, so that a
/// test can be the leader.
///
/// ```
///               established: followEvents(after: cursor)
///                    │
///                    ▼          eventBatch: store, deliver, acknowledgeEvents(cursor)
///   (no session) ─► following ◄─┐
///        ▲           │   │      │
///        └───────────┘   └──────┘
///         session lost     begun anew: followEvents(after: 0)
/// ```
/// Nothing is acknowledged before it is stored. Nothing here remembers what a session had said:
/// after a reconnect, the cursor in the store is where following begins.
final class Follower {
    /// Something worth a line in the log.
    enum Notice: Hashable {
        /// The leader has fewer events than are stored here.
        case begunAnew(ours: UInt64, leaders: UInt64)
        case gap(StoredBatch.Gap)
        case conflictingID(String)
        case refused(Refusal)
        case undelivered(Sink, reason: String)
    }

    private let store: NotifierStore
    private let delivery: Delivery
    private let now: () -> Timestamp
    private let notice: (Notice) -> Void
    private var acknowledged: UInt64?
    private var reported: [Sink: String] = [:]

    init(
        store: NotifierStore, delivery: Delivery, now: @escaping () -> Timestamp,
        notice: @escaping (Notice) -> Void
    ) {
        self.store = store
        self.delivery = delivery
        self.now = now
        self.notice = notice
    }

    /// A session with the leader is there.
    ///
    /// - Returns: what to send.
    func onEstablished() throws(NotifierStoreError) -> Message {
        acknowledged = nil
        return .followEvents(afterSequence: try store.cursor(), progress: false)
    }

    /// - Returns: what to send.
    func onMessage(_ message: Message) throws(NotifierStoreError) -> [Message] {
        switch message {
        case .eventBatch(let events, let lastSequence):
            return try onBatch(events, lastSequence: lastSequence)
        case .refused(let refusal):
            notice(.refused(refusal))
            return []
        default:
            return []
        }
    }

    private func onBatch(
        _ events: [FleetEvent], lastSequence: UInt64
    ) throws(NotifierStoreError) -> [Message] {
        let before = try store.cursor()
        let batch = try store.store(
            events: events, lastSequence: lastSequence, recordedAt: now(), sinks: delivery.sinks)
        if batch.hasBegunAnew {
            notice(.begunAnew(ours: before, leaders: lastSequence))
            acknowledged = nil
            return [.followEvents(afterSequence: 0, progress: false)]
        }
        for gap in batch.gaps { notice(.gap(gap)) }
        for id in batch.conflictingIDs { notice(.conflictingID(id)) }
        try deliver()
        guard batch.sequence > 0, batch.sequence != acknowledged else { return [] }
        acknowledged = batch.sequence
        return [.acknowledgeEvents(sequence: batch.sequence)]
    }

    /// Delivers what is pending; also called at the start and now and then.
    func deliver() throws(NotifierStoreError) {
        let problems = try delivery.deliver(now: now())
        for problem in problems where reported[problem.sink] != problem.text {
            notice(.undelivered(problem.sink, reason: problem.text))
        }
        reported = Dictionary(
            problems.map { ($0.sink, $0.text) }, uniquingKeysWith: { first, _ in first })
    }
}

extension Follower.Notice: CustomStringConvertible {
    var description: String {
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
        case .undelivered(.file, let reason):
            "cannot append annotations: \(reason); they are kept and tried again"
        }
    }
}
