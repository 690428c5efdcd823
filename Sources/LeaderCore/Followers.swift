import Coordination
import Edges
import Fleet
import Wire

/// Sessions that follow the events: notifiers, and operators who watch.
///
/// Events leave only after their commit, in order, each once a session, and no faster than they are
/// read: there may be far more of them than a session may have waiting. A follower that has read nothing for
/// ``patienceMilliseconds`` although events wait is closed, and comes back with its cursor.
final class Followers {
    private final class Follower {
        let session: any PeerSession
        let correlation: UInt64
        let wantsProgress: Bool
        var sentSequence: UInt64
        /// When this follower was first found not to have read what it was sent, in milliseconds of the
        /// loop's clock; nil if it has room.
        var fullSince: Int64?
        init(session: any PeerSession, correlation: UInt64, wantsProgress: Bool, after: UInt64) {
            self.session = session
            self.correlation = correlation
            self.wantsProgress = wantsProgress
            sentSequence = after
        }
    }

    /// Events in one frame at most: a few hundred kilobytes.
    private static let batchCountMax = 500
    /// While more than this waits, no batch is added. One batch may go beyond it.
    private static let queuedByteCountMax = Limits.sessionQueueByteCountMax / 8
    private static let pause = Duration.milliseconds(20)
    private static let patienceMilliseconds: Int64 = 30_000

    private let loop: any EventLoop
    private var followers: [Follower] = []
    private var timer: (any LoopTimer)?

    /// Asks for ``sendNew(_:)`` of what is durable: somebody who had not read may have.
    var onSlow: () -> Void = {}

    init(_ loop: any EventLoop) { self.loop = loop }

    func close() {
        timer?.cancel()
        timer = nil
        onSlow = {}
        followers = []
    }

    func add(
        _ session: any PeerSession, correlation: UInt64, after sequence: UInt64, progress: Bool,
        state: FleetState
    ) {
        remove(session)
        let follower = Follower(
            session: session, correlation: correlation, wantsProgress: progress, after: sequence)
        followers.append(follower)
        // Always one answer, so that the follower knows where the leader is.
        send(state, to: follower, evenIfEmpty: true)
    }

    func remove(_ session: any PeerSession) { followers.removeAll { $0.session === session } }

    func sendNew(_ state: FleetState) {
        for follower in followers { send(state, to: follower, evenIfEmpty: false) }
    }

    func sendProgress(_ progress: StepProgress) {
        for follower in followers where follower.wantsProgress {
            follower.session.send(.stepProgress(progress), correlation: follower.correlation)
        }
    }

    private func send(_ state: FleetState, to follower: Follower, evenIfEmpty: Bool) {
        var events = PagedArray<FleetEvent>()[...]
        if let first = state.events.first?.sequence {
            let behind: UInt64 = mutated(.eventSkipped) ? 2 : 1
            let skipped =
                follower.sentSequence >= first ? follower.sentSequence - first + behind : 0
            events = state.events.dropFirst(Int(min(skipped, UInt64(state.events.count))))
        }
        if events.isEmpty {
            if evenIfEmpty { send([], state, follower) }
            return
        }
        while !events.isEmpty {
            guard hasRoom(follower) else { return }
            let batch = Array(events.prefix(Self.batchCountMax))
            events = events.dropFirst(batch.count)
            follower.sentSequence = batch.last!.sequence
            send(batch, state, follower)
        }
    }

    /// Whether the follower reads; else it is looked at again a little later.
    private func hasRoom(_ follower: Follower) -> Bool {
        guard follower.session.queuedByteCount > Self.queuedByteCountMax else {
            follower.fullSince = nil
            return true
        }
        let now = loop.nowMilliseconds
        let since = follower.fullSince ?? now
        follower.fullSince = since
        if now - since >= Self.patienceMilliseconds {
            let count = follower.session.queuedByteCount
            follower.session.close(
                .tooSlow, reason: "\(count) bytes wait to be read for \((now - since) / 1_000) s")
        } else if timer == nil {
            timer = loop.after(Self.pause) { [weak self] in
                self?.timer = nil
                self?.onSlow()
            }
        }
        return false
    }

    private func send(_ events: [FleetEvent], _ state: FleetState, _ follower: Follower) {
        follower.session.send(
            .eventBatch(events, lastSequence: state.lastSequence),
            correlation: follower.correlation)
    }
}
