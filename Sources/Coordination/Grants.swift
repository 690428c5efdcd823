import Fleet

// The scheduler: who may start now. Work is released step by step, not in rounds.
//
// A step takes all its (set, update domain) pairs at once or none, so there is no deadlock. A step
// that has been passed ``Limits/bypassMax`` times closes the door of its sets to other update
// domains, so there is no starvation.

/// Why a waiting step does not start now.
enum Obstacle: Hashable, Sendable {
    case paused
    case cordoned(Cordon)
    case hostNotConnected
    case hostBusy(StepID)
    case parallelism
    case guest(GuestID, GuestState)
    case locked(SetPair, by: StepID)
    /// An older step wants another update domain of the set first.
    case door(SetPair, StepID)
    /// Guests of another update domain of the set are told to make room.
    case noticed(SetPair, by: StepID)
    /// A guest of another update domain of the set is not well.
    case unhealthy(SetPair, GuestRecord)
    /// It will never start.
    case pointless(String)
}

/// A round of granting: what the state would be after the grants made so far.
struct GrantRound {
    let state: FleetState
    let connected: Set<HostID>
    /// Of this round. Only looked up, never iterated.
    private var locks: [SetID: (UpdateDomain, StepID)] = [:]
    private var doors: [SetID: (UpdateDomain, StepID)] = [:]
    private var busy: [HostID: StepID] = [:]
    private var inFlight: [RolloutID: Int] = [:]
    var notices: [SetID: (UpdateDomain, StepID)] = [:]
    var noticeCount = 0

    init(state: FleetState, connected: Set<HostID>) {
        self.state = state
        self.connected = connected
        for (host, step) in state.active {
            busy[host] = step
            inFlight[step.rollout, default: 0] += 1
        }
    }

    /// Waiting steps of running rollouts, the one that should start first in front.
    func candidates() -> [StepRecord] {
        var all: [StepRecord] = []
        for rollout in state.rollouts.open
        where rollout.state == .running || rollout.state == .paused && mutated(.pauseIgnored) {
            // Parallelism counts at the grant: guests may be told before.
            guard rollout.steps.waitingCount > 0,
                rollout.policy.noticeMilliseconds > 0
                    || inFlight[rollout.id, default: 0] < Int(rollout.policy.parallelism)
            else { continue }
            let waiting = rollout.steps.filter { $0.status == .waiting }
            let chains = remainingDomains(waiting)
            let keyed = waiting.map { step in
                let aged = step.bypassed >= Limits.bypassMax
                let chain = step.plan.pairs.map { chains[$0.set, default: 0].nonzeroBitCount }
                let joins = step.plan.pairs.contains {
                    state.locks[$0.set]?.updateDomain == $0.updateDomain
                }
                return (
                    key: (
                        aged ? 0 : 1, aged ? Int(UInt32.max - step.bypassed) : 0,
                        -(chain.max() ?? 0), joins ? 0 : 1,
                        step.plan.pairs.first?.updateDomain.number ?? 0
                    ),
                    step: step
                )
            }
            all += keyed.sorted { left, right in
                left.key == right.key ? left.step.id < right.step.id : left.key < right.key
            }.map(\.step)
        }
        return all
    }

    /// For each set a bit for every update domain that still has to be done: the longest chain of
    /// work that cannot overlap, so the set with most of them goes first.
    private func remainingDomains(_ waiting: [StepRecord]) -> [SetID: UInt32] {
        var bits: [SetID: UInt32] = [:]
        for step in waiting {
            for pair in step.plan.pairs {
                bits[pair.set, default: 0] |= 1 << UInt32(pair.updateDomain.number)
            }
        }
        return bits
    }

    /// What keeps `step` from starting now; nil if nothing does.
    func obstacle(_ step: StepRecord) -> Obstacle? {
        guard let rollout = state.rollouts[step.id.rollout] else { return .pointless("no rollout") }
        guard let release = state.releases[rollout.release]?.release else {
            return .pointless("no release \(rollout.release)")
        }
        if release.scope != .guest, let problem = hostProblem(step, release) { return problem }
        if let problem = guestProblem(step, release) { return problem }
        if rollout.state == .paused, !mutated(.pauseIgnored) { return .paused }
        if let cordon = state.hosts[step.plan.host]?.cordon, !mutated(.cordonIgnored) {
            return .cordoned(cordon)
        }
        if !connected.contains(step.plan.host) { return .hostNotConnected }
        for pair in step.plan.pairs {
            if let (domain, holder) = lock(of: pair.set), domain != pair.updateDomain,
                !mutated(.grantIgnoresLocks)
            {
                return .locked(pair, by: holder)
            }
            if let (domain, other) = noticed(in: pair.set), domain != pair.updateDomain,
                !mutated(.noticeIgnoresOtherDomain)
            {
                return .noticed(pair, by: other)
            }
            // Whoever closed a door to a noticed step waits for that one to be over.
            if let (domain, waiter) = doors[pair.set], domain != pair.updateDomain,
                !step.isNoticed
            {
                return .door(pair, waiter)
            }
            if let guest = unwell(outside: pair), !mutated(.grantIgnoresUnwell) {
                return .unhealthy(pair, guest)
            }
        }
        if let other = busy[step.plan.host] { return .hostBusy(other) }
        if inFlight[step.id.rollout, default: 0] >= Int(rollout.policy.parallelism) {
            return .parallelism
        }
        return nil
    }

    private func guestProblem(_ step: StepRecord, _ release: Release) -> Obstacle? {
        for id in step.plan.guests {
            guard let guest = state.guests[id], guest.host == step.plan.host else {
                return .pointless("guest \(id) is not on host \(step.plan.host) any more")
            }
            if release.scope == .guest, guest.report.hypervisorVersion == release.version,
                guest.report.state == .running
            {
                return .pointless("guest \(id) runs on \(release.version) already")
            }
            // What the step was planned to lock must still be what the guest is in.
            if let pair = guest.pair, step.plan.pair(of: pair.set) != pair {
                return .pointless("guest \(id) moved to \(pair) since the rollout started")
            }
            switch guest.report.state {
            case .running: continue
            case .stopped, .lost:
                return .pointless("guest \(id) is \(guest.report.state.rawValue)")
            case .starting, .held, .paused, .unknown: return .guest(id, guest.report.state)
            }
        }
        return nil
    }

    /// A guest of another update domain of the set that is known not to be well.
    private func unwell(outside pair: SetPair) -> GuestRecord? {
        guard let set = state.sets[pair.set], set.unwellCount > 0 else { return nil }
        for (member, domain) in set.members where domain != pair.updateDomain {
            if let guest = state.guests[member], !guest.isWell { return guest }
        }
        return nil
    }

    /// The update domain of the set that is out, with a step that holds it.
    private func lock(of set: SetID) -> (UpdateDomain, StepID)? {
        locks[set] ?? state.locks[set].map { ($0.updateDomain, $0.holders[0].step) }
    }

    mutating func grant(_ step: StepRecord) {
        for pair in step.plan.pairs { locks[pair.set] = (pair.updateDomain, step.id) }
        busy[step.plan.host] = step.id
        inFlight[step.id.rollout, default: 0] += 1
    }

    /// `step` waits; if it has waited long enough, nobody else may start on its sets before it.
    mutating func refuse(_ step: StepRecord, _ obstacle: Obstacle) {
        guard step.bypassed >= Limits.bypassMax, !mutated(.doorStaysOpen) else { return }
        switch obstacle {
        case .locked, .door, .noticed, .parallelism, .hostBusy:
            for pair in step.plan.pairs where doors[pair.set] == nil {
                doors[pair.set] = (pair.updateDomain, step.id)
            }
        case .paused, .cordoned, .hostNotConnected, .guest, .unhealthy, .pointless:
            break  // It could not start anyway: nobody should wait for it.
        }
    }
}

extension Coordinator {
    /// - Parameter at: the leader's wall clock, by which notice times are over.
    func proposeGrants(connected: Set<HostID>, at: Timestamp) -> [Fact.Body] {
        var round = GrantRound(state: state, connected: connected)
        var token = state.nextToken
        var facts: [Fact.Body] = []
        for step in round.candidates() {
            let policy = state.rollouts[step.id.rollout]?.policy ?? Policy()
            if step.isNoticed || !step.isDue(policy, at: at) {
                if let fact = round.factOfNotice(step, policy, at: at) {
                    facts.append(fact)
                    continue
                }
                if !step.isDue(policy, at: at) { continue }
            }
            switch round.obstacle(step) {
            case nil:
                round.grant(step)
                facts.append(.stepGranted(step.id, token: Token(token)))
                token += 1
            case .pointless(let reason):
                facts.append(.stepCancelled(step.id, reason: reason))
            case .some(let obstacle):
                round.refuse(step, obstacle)
            }
        }
        return facts
    }
}
