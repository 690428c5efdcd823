import Fleet

// Releases that change a host and not its guests one by one: commands, and the agent's program.
// They take one step for each host, which holds all its running guests together, or none.

extension FleetState {
    /// - Returns: why `release` cannot or need not be installed on the host at all, or nil.
    func reasonToSkip(_ host: HostReport, _ release: Release) -> String? {
        let isInstalled = host.software.contains {
            $0.component == release.component && $0.version == release.version
        }
        if isInstalled { return "has \(release.component) \(release.version) already" }
        if let ability = release.neededAbility, !host.abilities.contains(ability) {
            let work =
                switch ability {
                case .hostCommands: "releases that are commands"
                case .agentUpgrade: "replacing its own program"
                }
            return "its agent is too old for \(work): upgrade it first"
        }
        return nil
    }

    /// A guest of the host that another host has reported first: it belongs to that one, so no step
    /// of this host could hold it.
    func foreignGuest(_ host: HostReport) -> (guest: GuestID, owner: HostID)? {
        if hosts[host.host]?.ownsAllReported == true { return nil }
        for guest in host.guests {
            if let owner = guests[guest.id]?.host, owner != host.host { return (guest.id, owner) }
        }
        return nil
    }
}

extension Coordinator {
    func planHostSteps(
        _ release: Release, _ selection: Selection
    ) -> (steps: [PlannedStep], skipped: [PlanView.Skipped]) {
        var steps: [PlannedStep] = []
        var skipped: [PlanView.Skipped] = []
        for record in selected(selection) {
            let host = record.report.host
            switch planHostStep(record.report, release) {
            case .success(let step): steps.append(step)
            case .failure(let reason):
                skipped.append(PlanView.Skipped(guest: nil, host: host, reason: reason.text))
            }
        }
        return (steps, skipped)
    }

    private struct SkipReason: Error {
        var text: String
    }

    private func planHostStep(
        _ host: HostReport, _ release: Release
    ) -> Result<PlannedStep, SkipReason> {
        if let reason = state.reasonToSkip(host, release) {
            return .failure(SkipReason(text: reason))
        }
        guard release.scope == .host else {
            return .success(PlannedStep(host: host.host, guests: [], pairs: []))
        }
        if let (guest, owner) = state.foreignGuest(host) {
            return .failure(
                SkipReason(
                    text: "guest \(guest) is reported by host \(owner) too: give one of them "
                        + "another id"))
        }
        var guests: [GuestID] = []
        // At most one guest for each set: whoever is first decides the update domain.
        var pairs: [SetPair] = []
        // Only looked up, never iterated.
        var firsts: [SetID: (pair: SetPair, guest: GuestID)] = [:]
        for guest in host.guests {
            switch guest.state {
            case .paused, .stopped: continue  // It stays as it is.
            case .starting, .held, .unknown, .lost:
                return .failure(
                    SkipReason(text: "guest \(guest.id) is \(guest.state.rawValue): see to it"))
            case .running: guests.append(guest.id)
            }
            guard let pair = state.guests[guest.id]?.pair else { continue }
            guard let first = firsts[pair.set] else {
                firsts[pair.set] = (pair, guest.id)
                pairs.append(pair)
                continue
            }
            guard first.pair == pair else {
                return .failure(
                    SkipReason(
                        text: "guests \(first.guest) and \(guest.id) are in "
                            + "\(first.pair.updateDomain) and \(pair.updateDomain) of set "
                            + "\(pair.set), which are never held together: give them one update "
                            + "domain, or move one to another host"))
            }
        }
        guard guests.count <= Limits.stepGuestsMax else {
            return .failure(
                SkipReason(
                    text: "\(guests.count) guests run on it, more than the "
                        + "\(Limits.stepGuestsMax) that can be held together: move some away"))
        }
        return .success(
            PlannedStep(
                host: host.host, guests: guests.sorted(), pairs: pairs.sorted()))
    }
}

extension GrantRound {
    /// What has changed on the host since the step was planned so that it cannot start.
    func hostProblem(_ step: StepRecord, _ release: Release) -> Obstacle? {
        guard let host = state.hosts[step.plan.host]?.report else {
            return .pointless("host \(step.plan.host) is not known any more")
        }
        if let reason = state.reasonToSkip(host, release) {
            return .pointless("host \(host.host): \(reason)")
        }
        guard release.scope == .host else { return nil }
        if let (guest, owner) = state.foreignGuest(host) {
            return .pointless("guest \(guest) is reported by host \(owner) too")
        }
        // Whoever runs and is not held would notice what the commands do.
        for guest in host.guests where !step.plan.covers(guest.id) {
            switch guest.state {
            case .paused, .stopped: continue
            case .starting, .held, .unknown: return .guest(guest.id, guest.state)
            case .running, .lost:
                return .pointless(
                    "guest \(guest.id) is \(guest.state.rawValue) since the rollout started: "
                        + "start another one for this host")
            }
        }
        return nil
    }
}
