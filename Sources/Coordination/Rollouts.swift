import Fleet

// Which steps a rollout takes, and where guests without an update domain go.

extension Coordinator {
    func proposeRollout(
        _ releaseID: ReleaseID, _ selection: Selection, _ policy: Policy, _ by: String
    ) -> Result<[Fact.Body], Refusal> {
        if let refusal = check(releaseID, selection, policy) { return .failure(refusal) }
        let release = state.releases[releaseID]!.release
        let (steps, skipped) = planSteps(release, selection)
        guard !steps.isEmpty else {
            let why = skipped.prefix(3).map { "\($0.name): \($0.reason)" }
            let kind = release.scope == .guest ? "guest" : "host"
            return .failure(
                Refusal(
                    .nothingToDo,
                    "release \(releaseID) would change no \(kind)"
                        + (why.isEmpty ? "" : " (\(why.joined(separator: "; ")))"),
                    advice: "See `fermata plan --release \(releaseID)` and `fermata \(kind)s`."))
        }
        if let refusal = overlap(steps, release) { return .failure(refusal) }
        return .success([
            .rolloutStarted(
                StartedRollout(
                    id: RolloutID(state.nextRollout), release: releaseID, selection: selection,
                    policy: policy, by: by, steps: steps, skipped: skipped))
        ])
    }

    /// - Returns: why a rollout of this kind cannot be, or nil.
    func check(_ release: ReleaseID, _ selection: Selection, _ policy: Policy) -> Refusal? {
        guard let known = state.releases[release]?.release else {
            return Refusal(
                .notFound, "there is no release \(release)",
                advice: "Add it with `fermata release add`; `fermata release list` shows all.")
        }
        guard policy.parallelism >= 1, policy.parallelism <= Limits.parallelismMax else {
            return Refusal(
                .invalid, "parallelism \(policy.parallelism) is out of range",
                advice: "Choose 1 to \(Limits.parallelismMax).")
        }
        let deadlines = Limits.deadlineMillisecondsMin...Limits.deadlineMillisecondsMax
        guard deadlines.contains(policy.deadlineMilliseconds) else {
            return Refusal(
                .invalid, "a deadline of \(policy.deadlineMilliseconds) ms is out of range",
                advice: "Choose \(deadlines.lowerBound) to \(deadlines.upperBound) ms.")
        }
        guard policy.failuresMax >= 1 else {
            return Refusal(
                .invalid, "failures-max is 0",
                advice: "1 stops the rollout on the first failure.")
        }
        let notices = Limits.noticeMillisecondsMin...Limits.noticeMillisecondsMax
        guard policy.noticeMilliseconds == 0 || notices.contains(policy.noticeMilliseconds) else {
            return Refusal(
                .invalid, "a notice of \(policy.noticeMilliseconds) ms is out of range",
                advice: "Choose 0 for none, or \(notices.lowerBound) to \(notices.upperBound) ms.")
        }
        if case .host(let work) = known.work,
            let problem = work.holdProblem(deadlineMilliseconds: policy.deadlineMilliseconds)
        {
            return Refusal(
                .invalid, "release \(release): \(problem), the rollout's deadline",
                advice: "Choose a deadline of \(work.holdMillisecondsMax) ms or more.")
        }
        guard case .hosts(let hosts) = selection else { return nil }
        let unknown = hosts.filter { state.hosts[$0] == nil }
        guard unknown.isEmpty else {
            return Refusal(
                .notFound, "unknown host \(unknown.map(\.rawValue).joined(separator: ", "))",
                advice: "See `fermata hosts`; a host is known once its agent has connected.")
        }
        guard !hosts.isEmpty else { return Refusal(.invalid, "no host was selected") }
        return nil
    }

    /// - Returns: why these steps cannot be asked for while another rollout has still to do its own.
    private func overlap(_ steps: [PlannedStep], _ release: Release) -> Refusal? {
        // Only looked up, never iterated.
        let stepsOfHosts = Dictionary(grouping: steps, by: \.host)
        for rollout in state.rollouts.open {
            // Hypervisor steps are about their guests; anything else changes the host below them.
            let areBothOfGuests =
                release.scope == .guest
                && state.releases[rollout.release]?.release.scope == .guest
            guard rollout.steps.waitingCount + rollout.steps.grantedCount > 0 else { continue }
            for open in rollout.steps where open.status == .waiting || open.status == .granted {
                for step in stepsOfHosts[open.plan.host] ?? [] {
                    let guest = step.guests.first(where: open.plan.covers)
                    if areBothOfGuests, guest == nil { continue }
                    let what = areBothOfGuests ? guest.map { "guest \($0) on " } ?? "" : ""
                    return Refusal(
                        .conflict, "\(rollout.id) has still to do \(what)host \(step.host)",
                        advice: "Wait for it, or `fermata rollout abort \(rollout.id)`.")
                }
            }
        }
        return nil
    }

    /// One step for each guest that the release would change, since a hypervisor is replaced under
    /// one guest at a time; for other host software one for each host.
    func planSteps(
        _ release: Release, _ selection: Selection
    ) -> (steps: [PlannedStep], skipped: [PlanView.Skipped]) {
        guard release.scope == .guest else { return planHostSteps(release, selection) }
        var steps: [PlannedStep] = []
        var skipped: [PlanView.Skipped] = []
        for guest in selectedGuests(selection) {
            if let reason = reasonToSkip(guest, release) {
                skipped.append(
                    PlanView.Skipped(guest: guest.report.id, host: guest.host, reason: reason))
            } else {
                steps.append(
                    PlannedStep(
                        host: guest.host, guests: [guest.report.id],
                        pairs: guest.pair.map { [$0] } ?? []))
            }
        }
        return (steps, skipped)
    }

    /// In ascending order. A rollout over one host must not look at all there are.
    func selected(_ selection: Selection) -> [HostRecord] {
        switch selection {
        case .allHosts: Array(state.hosts.values)
        case .hosts(let hosts): Set(hosts).sorted().compactMap { state.hosts[$0] }
        }
    }

    private func selectedGuests(_ selection: Selection) -> [GuestRecord] {
        switch selection {
        case .allHosts: Array(state.guests.values)
        case .hosts: selected(selection).flatMap(\.guests).sorted().compactMap { state.guests[$0] }
        }
    }

    private func reasonToSkip(_ guest: GuestRecord, _ release: Release) -> String? {
        if guest.report.hypervisorVersion == release.version {
            return "runs on \(release.version) already"
        }
        if guest.report.state != .running { return "is \(guest.report.state.rawValue)" }
        if !guest.report.handOverProblem.isEmpty { return guest.report.handOverProblem }
        return nil
    }

    func proposeAbort(
        _ id: RolloutID, _ reason: String, _ by: String
    ) -> Result<[Fact.Body], Refusal> {
        guard let rollout = state.rollouts[id] else {
            return .failure(
                Refusal(
                    .notFound, "there is no \(id)", advice: "See `fermata rollout list`."))
        }
        if rollout.state == .aborting { return .success([]) }
        guard rollout.state.isGoingOn else {
            return .failure(
                Refusal(.conflict, "\(id) is \(rollout.state.rawValue) and cannot be aborted"))
        }
        return .success([.rolloutAborted(id, reason: reason, by: by)])
    }

    // MARK: Placement

    /// An update domain for each guest of a set, in the report's order.
    ///
    /// What the host's file names is taken. Otherwise a guest keeps the one it has; guests of one
    /// set on one host share one, so that the host can be held whole; the rest goes to the emptiest.
    func placements(for report: HostReport) -> [Placement] {
        var placements: [Placement] = []
        var neighbours = firstKnown(report)
        for (index, guest) in report.guests.enumerated() {
            guard let set = guest.set else { continue }
            if let known = state.guests[guest.id], known.host != report.host { continue }
            if let named = guest.updateDomain {
                placements.append(
                    Placement(guest: guest.id, updateDomain: named, byLeader: false))
                continue
            }
            let chosen =
                keptDomain(guest.id, set) ?? neighbours[set]?.domain
                ?? emptiestDomain(set, report)
            // Whoever comes first in the report decides, whether known or placed just now.
            if index < neighbours[set]?.index ?? .max { neighbours[set] = (index, chosen) }
            placements.append(Placement(guest: guest.id, updateDomain: chosen, byLeader: true))
        }
        return placements
    }

    private func keptDomain(_ guest: GuestID, _ set: SetID) -> UpdateDomain? {
        guard let known = state.guests[guest], known.pair?.set == set else { return nil }
        return known.pair?.updateDomain
    }

    /// For each set, the first guest of the report whose update domain is named or kept: others of
    /// the set on this host join it, so that one step can hold them all.
    private func firstKnown(_ report: HostReport) -> [SetID: (index: Int, domain: UpdateDomain)] {
        var found: [SetID: (index: Int, domain: UpdateDomain)] = [:]
        for (index, guest) in report.guests.enumerated() {
            guard let set = guest.set, found[set] == nil,
                let domain = guest.updateDomain ?? keptDomain(guest.id, set)
            else { continue }
            found[set] = (index, domain)
        }
        return found
    }

    private func emptiestDomain(_ set: SetID, _ report: HostReport) -> UpdateDomain {
        let count =
            report.sets.first { $0.id == set && state.sets[set]?.definedBy == nil }?
            .updateDomainCount
            ?? state.sets[set]?.updateDomainCount ?? Limits.updateDomainsDefault
        var used = [Int](repeating: 0, count: Limits.updateDomainsMax)
        for (number, count) in (state.sets[set]?.memberCounts ?? []).enumerated() {
            used[number] = count
        }
        // None of this report's guests has a domain in the set yet: they would be neighbours.
        let domains = 0..<max(1, min(count, Limits.updateDomainsMax))
        return UpdateDomain(domains.min { (used[$0], $0) < (used[$1], $1) }!)!
    }
}
