import Fleet

// What operators hold back without ending it: a rollout that is paused, a host that is cordoned. No
// step starts there until they say so; what is in flight runs to its end.

extension Coordinator {
    func proposePause(
        _ id: RolloutID, _ reason: String, _ by: String
    ) -> Result<[Fact.Body], Refusal> {
        let known = state.rollouts[id]
        return switch known?.state {
        case nil: .failure(noRollout(id))
        case .paused where reason.isEmpty || known?.reason == pausedReason(reason, by):
            .success([])
        case .running, .paused: .success([.rolloutPaused(id, reason: reason, by: by)])
        case .some(let other):
            .failure(
                Refusal(.conflict, "\(id) is \(other.rawValue): no further step of it starts"))
        }
    }

    func proposeResume(
        _ id: RolloutID, _ reason: String, _ by: String
    ) -> Result<[Fact.Body], Refusal> {
        switch state.rollouts[id]?.state {
        case nil: .failure(noRollout(id))
        case .running: .success([])
        case .paused: .success([.rolloutResumed(id, reason: reason, by: by)])
        case .some(let other):
            .failure(
                Refusal(
                    .conflict, "\(id) is \(other.rawValue) and does not go on",
                    advice: "Start another rollout for what it has left."))
        }
    }

    private func noRollout(_ id: RolloutID) -> Refusal {
        Refusal(.notFound, "there is no \(id)", advice: "See `fermata rollout list`.")
    }

    func proposeCordon(
        _ host: HostID, _ reason: String, _ by: String
    ) -> Result<[Fact.Body], Refusal> {
        guard !reason.isEmpty else {
            return .failure(
                Refusal(
                    .invalid, "a host is cordoned with a reason only",
                    advice: "Say why with --reason; everybody who waits for it is shown."))
        }
        guard let known = state.hosts[host] else { return .failure(noHost(host)) }
        if known.cordon?.reason == reason, known.cordon?.by == by { return .success([]) }
        return .success([.hostCordoned(host, reason: reason, by: by)])
    }

    func proposeUncordon(
        _ host: HostID, _ reason: String, _ by: String
    ) -> Result<[Fact.Body], Refusal> {
        guard let known = state.hosts[host] else { return .failure(noHost(host)) }
        return .success(
            known.cordon == nil ? [] : [.hostUncordoned(host, reason: reason, by: by)])
    }

    private func pausedReason(_ reason: String, _ by: String) -> String {
        "paused by \(by)" + (reason.isEmpty ? "" : ": \(reason)")
    }

    private func noHost(_ host: HostID) -> Refusal {
        Refusal(
            .notFound, "unknown host \(host)",
            advice: "See `fermata hosts`; a host is known once its agent has connected.")
    }

    /// Folds in one of the facts that these proposals make.
    mutating func applyPause(_ fact: Fact) {
        switch fact.body {
        case .rolloutPaused(let id, let reason, let by):
            let words = pausedReason(reason, by)
            state.rollouts.update(id) {
                $0.state = .paused
                $0.reason = words
            }
            withdrawNotices(of: id, reason: "the rollout is paused", at: fact.at)
            emitRolloutChange(id, at: fact.at)
        case .rolloutResumed(let id, _, _):
            state.rollouts.update(id) {
                $0.state = .running
                $0.reason = ""
            }
            emitRolloutChange(id, at: fact.at)
        case .hostCordoned(let host, let reason, let by):
            state.hosts.update(host) {
                $0.cordon = Cordon(reason: reason, by: by, since: fact.at)
            }
        case .hostUncordoned(let host, _, _): state.hosts.update(host) { $0.cordon = nil }
        default: preconditionFailure("\(fact.body) pauses nothing")
        }
    }
}
