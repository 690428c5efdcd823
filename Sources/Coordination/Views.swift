public import Fleet

// What people and scripts are told. Nothing here changes the state.

extension Coordinator {
    /// - Parameter notifiers: names of those with a session; nil if that is not known.
    public func statusView(
        cluster: String, server: String, softwareVersion: String, connected: Set<HostID>,
        notifiers: Set<String>?
    ) -> StatusView {
        let notifiers = notifierViews(connected: notifiers)
        let stuck = state.locks.values.count { $0.holders.contains(where: \.stuck) }
        return StatusView(
            cluster: cluster, server: server, term: state.term, index: state.index,
            softwareVersion: softwareVersion, hostCount: UInt32(state.hosts.count),
            connectedHostCount: UInt32(state.hosts.keys.count(where: connected.contains)),
            guestCount: UInt32(state.guests.count),
            runningGuestCount: UInt32(state.runningGuestCount),
            setCount: UInt32(state.sets.count), lockedSetCount: UInt32(state.locks.count),
            stuckSetCount: UInt32(stuck),
            activeRollouts: state.rollouts.openIDs,
            notifiers: notifiers,
            warnings: warnings(connected: connected) + notifiers.compactMap(\.warning),
            keptEventCount: UInt64(state.events.count))
    }

    private func warnings(connected: Set<HostID>) -> [String] {
        var all: [String] = []
        for host in state.hosts.keys where !connected.contains(host) {
            all.append("host \(host): its agent is not connected; start it there")
        }
        for host in state.hosts.values {
            all += hostWarnings(host).map { "host \(host.report.host): \($0)" }
        }
        for lock in lockViews() where lock.stuck { all.append("set \(lock.set): \(lock.reason)") }
        for set in state.sets.keys { all += missingWarnings(set).map { "set \(set): \($0)" } }
        if state.notifiers.isEmpty, state.lastSequence > 0 {
            all.append("no notifier is known: no annotation is published; start one")
        }
        return all
    }

    public func hostViews(connected: Set<HostID>) -> [HostView] {
        state.hosts.values.map { record in
            let host = record.report.host
            let guests = record.report.guests
            return HostView(
                id: host, connected: connected.contains(host),
                agentVersion: record.report.agentVersion,
                acceptedToken: record.report.acceptedToken, guestCount: UInt32(guests.count),
                runningGuestCount: UInt32(guests.count { $0.state == .running }),
                lastReportAt: record.reportedAt, step: state.active[host],
                warnings: hostWarnings(record), software: record.report.software,
                cordon: record.cordon)
        }
    }

    private func hostWarnings(_ record: HostRecord) -> [String] {
        var all: [String] = []
        for guest in record.ownsAllReported ? [] : record.report.guests {
            if let owner = state.guests[guest.id]?.host, owner != record.report.host {
                all.append(
                    "guest \(guest.id) is reported by host \(owner) too and counts there; "
                        + "give one of them another id")
            }
        }
        for definition in record.report.sets {
            if let known = state.sets[definition.id],
                known.updateDomainCount != definition.updateDomainCount
            {
                all.append(
                    "set \(definition.id) has \(known.updateDomainCount) update domains, this "
                        + "host's file says \(definition.updateDomainCount); make them equal")
            }
        }
        return all
    }

    /// Of a set that is closed although nothing locks it.
    private func missingWarnings(_ set: SetID) -> [String] {
        state.missingGuests(of: set).map { missingText($0, state.guests[$0], set) }
    }

    private func missingText(_ id: GuestID, _ guest: GuestRecord?, _ set: SetID) -> String {
        "guest \(id) is \(guest?.report.state.rawValue ?? "gone") and was not seen to run since "
            + "\(guest?.missingSince?.description ?? "a step"); start it, or, if it is to stay so, "
            + "`fermata locks release \(set) --reason …`"
    }

    public func guestViews(connected: Set<HostID>) -> [GuestView] {
        state.guests.values.map {
            GuestView(
                report: $0.report, host: $0.host, updateDomain: $0.pair?.updateDomain,
                placedByLeader: $0.placedByLeader, hostConnected: connected.contains($0.host))
        }
    }

    public func setViews() -> [SetView] {
        state.sets.map { id, record in
            var domains: [[GuestID]] = Array(repeating: [], count: Limits.updateDomainsMax)
            for (member, domain) in record.members { domains[domain.number].append(member) }
            var warnings = missingWarnings(id)
            if domains.count(where: { !$0.isEmpty }) == 1, record.members.count > 1 {
                warnings.append("all its guests are in one update domain: they are held together")
            }
            for number in domains.indices
            where number >= record.updateDomainCount && !domains[number].isEmpty {
                warnings.append("UD\(number) is used, but the set has \(record.updateDomainCount)")
            }
            return SetView(
                id: id, updateDomainCount: record.updateDomainCount,
                domains: domains.indices.filter { !domains[$0].isEmpty }.map {
                    SetView.Domain(
                        updateDomain: UpdateDomain($0)!, guests: domains[$0])
                }, lockedUpdateDomain: state.locks[id]?.updateDomain, warnings: warnings)
        }
    }

    public func lockViews() -> [LockView] {
        state.locks.flatMap { set, lock in
            lock.holders.map { holder in
                let step = state.step(holder.step)
                return LockView(
                    set: set, updateDomain: lock.updateDomain, step: holder.step,
                    token: holder.token,
                    host: step?.plan.host ?? HostID(checked: "unknown"),
                    guests: step?.plan.guests ?? [], grantedAt: holder.grantedAt,
                    stuck: holder.stuck, reason: lockReason(set, holder, step))
            }
        }
    }

    private func lockReason(
        _ set: SetID, _ holder: SetLock.Holder, _ step: StepRecord?
    ) -> String {
        let guests = step?.plan.guests.map(\.rawValue).joined(separator: ", ") ?? ""
        guard holder.stuck else { return "\(holder.step) works on \(guests)" }
        return "\(holder.step) left \(guests) \(step?.outcome?.rawValue ?? "unknown"): "
            + "\(step?.reason ?? ""); see to it, then "
            + "`fermata locks release \(set) --reason …`"
    }

    public func releaseViews() -> [ReleaseView] {
        state.releases.values.sorted { $0.release.id < $1.release.id }.map {
            ReleaseView(release: $0.release, addedAt: $0.addedAt, addedBy: $0.addedBy)
        }
    }

    /// Every rollout, without its steps.
    public func rolloutViews() -> [RolloutView] {
        state.rollouts.values.map { view(of: $0, steps: []) }
    }

    /// - Returns: nil if there is no such rollout.
    public func rolloutView(_ id: RolloutID, connected: Set<HostID>) -> RolloutView? {
        guard let rollout = state.rollouts[id] else { return nil }
        let round = GrantRound(state: state, connected: connected)
        let steps = rollout.steps.map { step in
            let phase: StepPhase =
                switch step.status {
                case .waiting: step.notice == nil ? .waiting : .noticed
                case .granted: .granted
                case .finished: .finished
                case .cancelled: .cancelled
                }
            return StepView(
                id: step.id, host: step.plan.host, guests: step.plan.guests,
                pairs: step.plan.pairs, phase: phase, token: step.token, outcome: step.outcome,
                reason: step.status == .waiting
                    ? waitReason(round.obstacle(step), step, rollout.policy) : step.reason,
                grantedAt: step.grantedAt, finishedAt: step.finishedAt, phases: step.phases,
                holds: step.holds, noticedAt: step.notice?.noticedAt,
                notBefore: step.notice?.notBefore)
        }
        return view(of: rollout, steps: steps)
    }

    private func view(of rollout: RolloutRecord, steps: [StepView]) -> RolloutView {
        let release = state.releases[rollout.release]?.release
        return RolloutView(
            id: rollout.id, release: rollout.release,
            component: release?.component ?? .hypervisor, version: release?.version ?? "",
            selection: rollout.selection, policy: rollout.policy, state: rollout.state,
            reason: rollout.reason, startedAt: rollout.startedAt, startedBy: rollout.startedBy,
            finishedAt: rollout.finishedAt, steps: steps, skipped: rollout.skipped)
    }

    private func waitReason(
        _ obstacle: Obstacle?, _ step: StepRecord, _ policy: Policy
    ) -> String {
        switch obstacle {
        case nil where step.isNoticed: noticeReason(step, policy)
        case nil: step.needsNotice(policy) ? "its guests are told next" : "starts next"
        case .noticed(let pair, let by):
            "waits for set \(pair.set): guests of another update domain are told to make room "
                + "(\(by))"
        case .paused: "waits: the rollout is paused"
        case .cordoned(let cordon):
            "waits: host \(step.plan.host) is cordoned by \(cordon.by): \(cordon.reason)"
        case .hostNotConnected:
            "waits for the agent of host \(step.plan.host), which is not connected; start it there"
        case .hostBusy(let other): "waits for \(other) on the same host"
        case .parallelism: "waits for a free place (parallelism)"
        case .guest(let guest, let state): "waits: guest \(guest) is \(state.rawValue)"
        case .locked(let pair, let by):
            "waits for set \(pair.set): \(state.locks[pair.set]?.updateDomain.description ?? "another update domain") is out (\(by))"
        case .door(let pair, let waiter): "waits for set \(pair.set): \(waiter) is first"
        case .unhealthy(let pair, let guest) where guest.missingSince != nil:
            "waits for set \(pair.set): of another update domain, "
                + missingText(guest.report.id, guest, pair.set)
        case .unhealthy(let pair, let guest):
            "waits for set \(pair.set): guest \(guest.report.id) of another update domain is "
                + "\(guest.report.state.rawValue); see to it"
        case .pointless(let reason): reason
        }
    }

    private func noticeReason(_ step: StepRecord, _ policy: Policy) -> String {
        let count = step.notice?.acknowledgedBy.count ?? 0
        return "its guests are told; \(count) of \(step.plan.guests.count) acknowledged"
            + (policy.acknowledgement == .ignored ? ", which does not shorten the notice" : "")
    }

    // MARK: Plan

    /// What a rollout would do: its steps in the predicted order, as if all took equally long.
    public func planView(
        _ releaseID: ReleaseID, _ selection: Selection, _ policy: Policy, connected: Set<HostID>
    ) -> Result<PlanView, Refusal> {
        if let refusal = check(releaseID, selection, policy) { return .failure(refusal) }
        let release = state.releases[releaseID]!.release
        let (steps, skipped) = planSteps(release, selection)
        let (ordered, waveCount) = predict(steps, policy, releaseID)
        var problems: [String] = []
        for step in ordered where step.wave == 0 {
            let names = step.guests.map(\.rawValue).joined(separator: ", ")
            let what = release.scope == .guest ? "guest \(names)" : "host \(step.host)"
            problems.append(
                "\(what) would wait: a guest of another update domain of its set is not well")
        }
        for host in Set(steps.map(\.host)).subtracting(connected).sorted() {
            problems.append("host \(host): its agent is not connected, so its steps would wait")
        }
        for host in Set(steps.map(\.host)).sorted() {
            guard let cordon = state.hosts[host]?.cordon else { continue }
            problems.append(
                "host \(host) is cordoned by \(cordon.by), so its steps would wait: "
                    + cordon.reason)
        }
        for id in state.rollouts.openIDs { problems.append("\(id) is not over yet") }
        problems += lockProblems(of: ordered)
        return .success(
            PlanView(
                release: releaseID, policy: policy, steps: ordered, waveCount: waveCount,
                skipped: skipped, problems: problems))
    }

    /// What locks that an operator has to release would do to these steps: those of another update domain
    /// wait, those of the same one do not, not even for what was left unhealthy there.
    private func lockProblems(of steps: [PlanView.Step]) -> [String] {
        lockViews().filter(\.stuck).flatMap { lock in
            let own = SetPair(set: lock.set, updateDomain: lock.updateDomain)
            var problems: [String] = []
            if steps.contains(where: { $0.pairs.contains { $0.set == own.set && $0 != own } }) {
                problems.append("set \(lock.set): \(lock.reason)")
            }
            for step in steps where step.wave > 0 && step.pairs.contains(own) {
                for guest in step.guests
                where lock.guests.contains(guest) && state.guests[guest]?.pair == own {
                    let outcome = state.step(lock.step)?.outcome?.rawValue ?? "unknown"
                    problems.append(
                        "guest \(guest), which \(lock.step) left \(outcome), would be held again; "
                            + "see to it first, then `fermata locks release \(lock.set) --reason …`"
                    )
                }
            }
            return problems
        }
    }

    private func predict(
        _ steps: [PlannedStep], _ policy: Policy, _ release: ReleaseID
    ) -> ([PlanView.Step], UInt32) {
        // The real scheduler, on a copy in which this rollout is the only one. Notices shift the
        // steps of a set but leave their order: it is that without them.
        var policy = policy
        policy.noticeMilliseconds = 0
        var copy = self
        let id = RolloutID(copy.state.nextRollout)
        copy.state.rollouts = RolloutList()
        copy.state.active.removeAll()
        copy.state.locks = PagedDictionary()
        // What an operator holds back is said apart: the order is that of when he does no more.
        for host in Set(steps.map(\.host)).sorted() where state.hosts[host]?.cordon != nil {
            copy.state.hosts.update(host) { $0.cordon = nil }
        }
        copy.apply(
            Fact(
                at: Timestamp(microseconds: 0),
                body: .rolloutStarted(
                    StartedRollout(
                        id: id, release: release, selection: .allHosts, policy: policy, by: "",
                        steps: steps, skipped: []))))
        let everyone = Set(steps.map(\.host))
        var ordered: [PlanView.Step] = []
        var wave: UInt32 = 0
        while copy.state.rollouts[id]?.state == .running {
            let grants = copy.proposeGrants(connected: everyone, at: Timestamp(microseconds: 0))
            guard !grants.isEmpty else { break }
            wave += 1
            for body in grants {
                copy.apply(Fact(at: Timestamp(microseconds: 0), body: body))
                guard case .stepGranted(let step, _) = body, let plan = copy.state.step(step)?.plan
                else { continue }
                ordered.append(
                    PlanView.Step(
                        host: plan.host, guests: plan.guests, pairs: plan.pairs, wave: wave))
            }
            for step in copy.state.active.values {
                let token = copy.state.step(step)!.token!
                let report = StepReport(
                    step: step, token: token, outcome: .succeeded, reason: "", phases: [],
                    holds: [])
                copy.apply(Fact(at: Timestamp(microseconds: 0), body: .stepFinished(report)))
            }
        }
        // What could not start even then, for example because a neighbour is not well.
        for step in copy.state.rollouts[id]?.steps ?? StepList() where step.status == .waiting {
            ordered.append(
                PlanView.Step(
                    host: step.plan.host, guests: step.plan.guests, pairs: step.plan.pairs,
                    wave: 0))
        }
        return (ordered, wave)
    }
}
