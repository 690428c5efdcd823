import Coordination
import Fleet
import Wire

extension Coordinator {
    /// What a query asks for, but for the status, of which a server knows more.
    func answer(
        _ query: OperatorQuery, connected: Set<HostID>
    ) -> Result<OperatorQueryResult, Refusal> {
        switch query {
        case .status: preconditionFailure("the status is answered by the server")
        case .hosts: return .success(.hosts(hostViews(connected: connected)))
        case .guests: return .success(.guests(guestViews(connected: connected)))
        case .sets: return .success(.sets(setViews()))
        case .locks: return .success(.locks(lockViews()))
        case .notices:
            return .success(.notices(notices(), lastSequence: state.lastSequence))
        case .releases: return .success(.releases(releaseViews()))
        case .rollouts: return .success(.rollouts(rolloutViews()))
        case .rollout(let id):
            guard let view = rolloutView(id, connected: connected) else {
                return .failure(
                    Refusal(
                        .notFound, "there is no \(id)", advice: "See `fermata rollout list`."))
            }
            return .success(.rollout(view))
        case .plan(let release, let selection, let policy):
            return planView(release, selection, policy, connected: connected).map { .plan($0) }
        }
    }
}
