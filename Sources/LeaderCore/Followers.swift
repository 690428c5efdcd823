import Coordination
import Fleet
import Wire

/// Sessions that follow the events: notifiers, and operators who watch.
///
/// Events leave only after their commit, in order, each once a session. A follower that does not read
/// is closed by the session's high-water mark and comes back with its cursor.
final class Followers {
    private final class Follower {
        let session: any PeerSession
        let correlation: UInt64
        let wantsProgress: Bool
        var sentSequence: UInt64
        init(session: any PeerSession, correlation: UInt64, wantsProgress: Bool, after: UInt64) {
            self.session = session
            self.correlation = correlation
            self.wantsProgress = wantsProgress
            sentSequence = after
        }
    }

    /// Events in one frame at most: a few hundred kilobytes.
    private static let batchCountMax = 500

    private var followers: [Follower] = []

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
            let batch = Array(events.prefix(Self.batchCountMax))
            events = events.dropFirst(batch.count)
            follower.sentSequence = batch.last!.sequence
            send(batch, state, follower)
        }
    }

    private func send(_ events: [FleetEvent], _ state: FleetState, _ follower: Follower) {
        follower.session.send(
            .eventBatch(events, lastSequence: state.lastSequence),
            correlation: follower.correlation)
    }
}
