import Fleet

extension Coordinator {
    /// Checks what must hold in every state.
    ///
    /// - Returns: what is broken, by the names of design.md; empty if all is well.
    public func brokenInvariants() -> [String] {
        exclusionProblems() + lockProblems() + tokenProblems() + eventProblems()
            + keptProblems() + noticeProblems()
    }

    /// Invariant 1: everything out of a set at once belongs to one update domain.
    private func exclusionProblems() -> [String] {
        var problems: [String] = []
        var out: [SetID: UpdateDomain] = [:]
        for pair in state.rollouts.values.flatMap(\.steps).flatMap(pairsOut) {
            if let other = out[pair.set], other != pair.updateDomain {
                problems.append("one update domain at a time: \(pair.set) has \(other) and \(pair)")
            }
            out[pair.set] = pair.updateDomain
        }
        return problems
    }

    /// What a step keeps out of its sets. Of a stuck one an operator may have opened some already.
    private func pairsOut(_ step: StepRecord) -> [SetPair] {
        if step.status == .granted { return step.plan.pairs }
        return step.plan.pairs.filter { pair in
            state.locks[pair.set]?.holders.contains { $0.step == step.id && $0.stuck } == true
        }
    }

    /// Guests of two update domains of a set are never told to make room, or out, at once.
    private func noticeProblems() -> [String] {
        var problems: [String] = []
        var told: [SetID: (UpdateDomain, StepID)] = [:]
        for rollout in state.rollouts.values where !rollout.state.isOver {
            for step in rollout.steps where step.isNoticed {
                if rollout.state != .running {
                    problems.append("\(step.id) is noticed, but \(rollout.id) starts no more")
                }
                for pair in step.plan.pairs {
                    let locked = state.locks[pair.set].map { ($0.updateDomain, $0.holders[0].step) }
                    for other in [told[pair.set], locked] {
                        guard let other, other.0 != pair.updateDomain else { continue }
                        problems.append(
                            "one update domain at a time: \(step.id) is noticed for \(pair), and "
                                + "\(other.1) is noticed or granted for \(other.0)")
                    }
                    told[pair.set] = (pair.updateDomain, step.id)
                }
            }
        }
        return problems
    }

    /// Locks and steps agree.
    private func lockProblems() -> [String] {
        var problems: [String] = []
        for (set, lock) in state.locks {
            if lock.holders.isEmpty { problems.append("lock of \(set) without a holder") }
            for holder in lock.holders {
                guard let step = state.step(holder.step) else {
                    problems.append("lock of \(set) is held by no step \(holder.step)")
                    continue
                }
                if step.status != .granted, !holder.stuck {
                    problems.append("lock of \(set): \(step.id) is \(step.status), not stuck")
                }
                let pair = SetPair(set: set, updateDomain: lock.updateDomain)
                if !step.plan.pairs.contains(pair) {
                    problems.append("lock of \(pair): \(step.id) did not ask for it")
                }
            }
        }
        for (host, id) in state.active {
            guard let step = state.step(id), step.status == .granted, step.plan.host == host else {
                problems.append("active \(id) on \(host) is not granted there")
                continue
            }
            for pair in step.plan.pairs
            where state.locks[pair.set]?.holders.contains(where: { $0.step == id }) != true {
                problems.append("\(id) works without its lock of \(pair)")
            }
        }
        return problems
    }

    /// Invariant 5, the leader's side: no token is given twice.
    private func tokenProblems() -> [String] {
        var problems: [String] = []
        var seen: Set<Token> = []
        for step in state.rollouts.values.flatMap(\.steps) {
            guard let token = step.token else { continue }
            if token.number >= state.nextToken {
                problems.append("fencing: \(step.id) has token \(token), not yet given out")
            }
            if !seen.insert(token).inserted { problems.append("fencing: token \(token) twice") }
        }
        return problems
    }

    private func eventProblems() -> [String] {
        guard let first = state.events.first else { return [] }
        let last = first.sequence + UInt64(state.events.count) - 1
        return last == state.lastSequence
            ? [] : ["nothing lost: events end at \(last), not \(state.lastSequence)"]
    }

    /// What is kept beside the records because it takes long to count is what counting gives.
    private func keptProblems() -> [String] {
        var anew = FleetState()
        for (id, host) in state.hosts {
            anew.hosts[id] = HostRecord(
                report: host.report, reportedAt: host.reportedAt, cordon: host.cordon)
        }
        for guest in state.guests.values { anew.keep(guest) }
        for (id, set) in state.sets {
            if anew.sets[id] == nil {
                anew.sets[id] = SetRecord(updateDomainCount: 0, definedBy: nil)
            }
            anew.sets.update(id) {
                $0.updateDomainCount = set.updateDomainCount
                $0.definedBy = set.definedBy
            }
        }
        var problems: [String] = []
        if anew.hosts != state.hosts { problems.append("guests of hosts") }
        if anew.sets != state.sets { problems.append("members of sets") }
        if anew.runningGuestCount != state.runningGuestCount { problems.append("running guests") }
        let open = state.rollouts.values.filter { !$0.state.isOver }.map(\.id)
        if open != state.rollouts.openIDs { problems.append("open rollouts") }
        for rollout in state.rollouts.values where StepList(rollout.steps) != rollout.steps {
            problems.append("steps of \(rollout.id)")
        }
        return problems.map { "\($0): what is kept is not what counting gives" }
    }
}
