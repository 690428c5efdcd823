import Coordination
import Edges
import Fleet
import Logging
import Wire

/// Notifiers that want to deliver to sinks, in the order in which they claimed, and the one whose turn
/// it is.
///
/// ```
/// claim ──nobody has it, or its holder was gone for 10 s──▶ holder ──gives up / gone──▶ next claimant
/// ```
/// Who holds it is in the log. When its holder was seen last is not, so after a take-over it counts
/// from the start of the term: a holder that comes back within the time keeps what it has.
final class DeliveryClaims {
    private final class Claimant {
        let session: any PeerSession
        let correlation: UInt64
        /// What it was told last.
        var told: (holder: String, number: UInt64)?
        var name: String { session.identity.name }
        init(session: any PeerSession, correlation: UInt64) {
            self.session = session
            self.correlation = correlation
        }
    }

    private let committer: Committer
    private let refusals: Refusals
    private let loop: any EventLoop
    private let log: Logger
    private var claimants: [Claimant] = []
    /// Names of notifiers with an open session, each with the session.
    private var sessions: [String: any PeerSession] = [:]
    /// When a session of the holder was seen last, in milliseconds of the loop's clock.
    private var holderSeenAt: Int64
    private var timer: (any LoopTimer)?

    /// Names of notifiers with an open session, whether they claim or not.
    var connectedNotifiers: Set<String> { Set(sessions.keys) }

    private var lease: DeliveryLease { committer.coordinator.state.deliveryLease }

    init(committer: Committer, refusals: Refusals, loop: any EventLoop, log: Logger) {
        self.committer = committer
        self.refusals = refusals
        self.loop = loop
        self.log = log
        holderSeenAt = loop.nowMilliseconds
    }

    func close() {
        timer?.cancel()
        claimants = []
        sessions = [:]
    }

    func add(_ session: any PeerSession) { sessions[session.identity.name] = session }

    func remove(_ session: any PeerSession) {
        claimants.removeAll { $0.session === session }
        let name = session.identity.name
        guard sessions[name] === session else { return }
        sessions.removeValue(forKey: name)
        if lease.holder == name { holderSeenAt = loop.nowMilliseconds }
        settle()
    }

    func claim(_ session: any PeerSession, correlation: UInt64) {
        claimants.removeAll { $0.session === session }
        let claimant = Claimant(session: session, correlation: correlation)
        claimants.append(claimant)
        // What it is told must be durable, and of a server that still leads.
        committer.read(for: session) { [self] in
            guard claimants.contains(where: { $0 === claimant }) else { return }
            tell(claimant)
            settle()
        }
    }

    func giveUp(_ session: any PeerSession) {
        claimants.removeAll { $0.session === session }
        committer.submit(.giveUpDeliveries(notifier: session.identity.name), for: session) {
            [self] _ in settle()
        }
    }

    func report(
        _ number: UInt64, _ sink: String, _ sequence: UInt64, correlation: UInt64,
        of session: any PeerSession
    ) {
        committer.submit(
            .reportDelivered(
                notifier: session.identity.name, number: number, sink: sink, sequence: sequence),
            for: session
        ) { [refusals] result in
            if case .failure(let refusal) = result {
                refusals.answer(
                    refusal, to: .reportDelivered, of: session, correlation: correlation)
            }
        }
    }

    /// Tells whoever claims of a lease that has changed. Only called when the state is durable.
    func sendNew() {
        for claimant in claimants
        where claimant.told?.holder != lease.holder || claimant.told?.number != lease.number {
            tell(claimant)
        }
    }

    private func tell(_ claimant: Claimant) {
        claimant.told = (lease.holder, lease.number)
        claimant.session.send(
            .deliveryLease(committer.coordinator.state.deliveryLease(for: claimant.name)),
            correlation: claimant.correlation)
    }

    /// Gives the lease to the first claimant if nobody has it, or its holder has been gone for long.
    private func settle() {
        timer?.cancel()
        timer = nil
        // A holder with a session that does not claim is there all the same: it may be about to.
        guard let next = claimants.first(where: { $0.session.isReady }), lease.holder != next.name
        else { return }
        if !lease.holder.isEmpty {
            guard sessions[lease.holder] == nil else { return }
            let gone = loop.nowMilliseconds - holderSeenAt
            let left = Int64(Limits.deliveryLeaseMilliseconds) - gone
            if left > 0 {
                timer = loop.after(.milliseconds(left)) { [self] in settle() }
                return
            }
        }
        log.notice("deliveries are the business of", metadata: ["notifier": "\(next.name)"])
        committer.submit(.grantDeliveries(notifier: next.name)) { _ in }
    }
}
