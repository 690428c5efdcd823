public import Fleet

/// The coordination machine: the one place where it is decided who may hold what, and when.
///
/// A deterministic value without I/O, clock, randomness or logging.
/// - ``propose(_:at:)`` checks a command and answers with the facts it makes true, or refuses;
/// - ``apply(_:)`` folds a committed fact into the state;
/// - ``outstandingDirectives()`` says what should be happening now, derived from the state alone,
///   so that a new leader only asks again.
public struct Coordinator: Hashable, Sendable {
    public internal(set) var state: FleetState

    public init(state: FleetState = FleetState()) { self.state = state }

    /// Checks `command` against the state and says what it makes true.
    ///
    /// Changes nothing. An empty answer means that it is true already.
    /// - Parameter at: the leader's wall clock; goes into the facts. Only the end of a notice time is
    ///   compared with it, since guests are told that by the wall clock too: servers whose clocks
    ///   differ start a step that much earlier or later after a take-over.
    public func propose(_ command: Command, at: Timestamp) -> Result<[Fact], Refusal> {
        let bodies: Result<[Fact.Body], Refusal> =
            switch command {
            case .startTerm(let term, let server):
                proposeTerm(term, server)
            case .reportHost(let report):
                proposeHostReport(report)
            case .addRelease(let release, let by):
                proposeRelease(release, by)
            case .startRollout(let release, let selection, let policy, let by):
                proposeRollout(release, selection, policy, by)
            case .abortRollout(let id, let reason, let by):
                proposeAbort(id, reason, by)
            case .pauseRollout(let id, let reason, let by):
                proposePause(id, reason, by)
            case .resumeRollout(let id, let reason, let by):
                proposeResume(id, reason, by)
            case .cordonHost(let host, let reason, let by):
                proposeCordon(host, reason, by)
            case .uncordonHost(let host, let reason, let by):
                proposeUncordon(host, reason, by)
            case .releaseLock(let set, let reason, let by):
                proposeLockRelease(set, reason, by)
            case .schedule(let connected):
                .success(proposeGrants(connected: connected, at: at))
            case .reportStep(let report, let host):
                proposeStepReport(report, host)
            case .answerDirective(let step, let token, let host, let answer):
                proposeDirectiveAnswer(step, token, host, answer)
            case .acknowledgeEvents(let notifier, let sequence):
                proposeAcknowledgement(notifier, sequence)
            case .forgetNotifier(let notifier, let reason, let by):
                proposeForget(notifier, reason, by)
            case .acknowledgeNotice(let step, let guest, let noticedAt):
                proposeNoticeAcknowledgement(step, guest, noticedAt)
            case .grantDeliveries(let notifier): proposeDeliveryLease(notifier)
            case .giveUpDeliveries(let notifier): proposeDeliveryGiveUp(notifier)
            case .reportDelivered(let notifier, let number, let sink, let sequence):
                proposeDelivered(notifier, number, sink, sequence)
            }
        return bodies.map { $0.map { Fact(at: at, body: $0) } }
    }

    /// What the agents should be doing now, one directive for each active step, in grant order.
    public func outstandingDirectives() -> [Directive] {
        state.active.values.map { directive(for: $0) }
    }

    /// - Precondition: `id` is a granted step.
    public func directive(for id: StepID) -> Directive {
        guard let step = state.step(id), step.status == .granted, let token = step.token,
            let rollout = state.rollouts[id.rollout],
            let release = state.releases[rollout.release]?.release
        else { preconditionFailure("\(id) is active but not granted") }
        return Directive(
            step: id, token: token, host: step.plan.host, release: release,
            guests: step.plan.guests,
            deadlineMilliseconds: rollout.policy.deadlineMilliseconds)
    }
}

// MARK: - Commands that are checked here; rollouts and grants have their own files

extension Coordinator {
    private func proposeTerm(_ term: UInt64, _ server: String) -> Result<[Fact.Body], Refusal> {
        guard term > state.term else {
            return .failure(
                Refusal(.conflict, "term \(term) is not above the current term \(state.term)"))
        }
        return .success([.termStarted(term: term, server: server)])
    }

    private func proposeHostReport(_ report: HostReport) -> Result<[Fact.Body], Refusal> {
        guard report.guests.count <= Limits.hostGuestsMax else {
            return .failure(
                Refusal(
                    .invalid, "host \(report.host) reports \(report.guests.count) guests",
                    advice: "Keep at most \(Limits.hostGuestsMax) guests on one host."))
        }
        for (earlier, later) in zip(report.guests, report.guests.dropFirst())
        where earlier.id >= later.id {
            return .failure(
                Refusal(.invalid, "guests of \(report.host) are not in order at \(later.id)"))
        }
        for (earlier, later) in zip(report.sets, report.sets.dropFirst())
        where earlier.id >= later.id {
            return .failure(
                Refusal(.invalid, "sets of \(report.host) are not in order at \(later.id)"))
        }
        if let refusal = refusal(ofAccepted: report.acceptedToken, by: report.host) {
            return .failure(refusal)
        }
        let tokenIsKnown = report.acceptedToken.number < state.nextToken
        if let known = state.hosts[report.host], known.report == report, tokenIsKnown,
            isAdopted(report)
        {
            return .success([])
        }
        return .success([.hostReported(report, placements: placements(for: report))])
    }

    /// Later grants have higher tokens than any that was accepted, so one host's number concerns all.
    private func refusal(ofAccepted token: Token, by host: HostID) -> Refusal? {
        guard token.number > state.nextToken, token.number - state.nextToken > Limits.tokensLostMax
        else { return nil }
        return Refusal(
            .invalid,
            "host \(host) says that it has accepted token \(token); the next one is "
                + "\(state.nextToken), and so many cannot have been lost",
            advice: "The agent's state directory is damaged, or of another cluster.")
    }

    /// Whether every guest of a report already belongs to its host, or cannot.
    private func isAdopted(_ report: HostReport) -> Bool {
        report.guests.allSatisfy { state.guests[$0.id] != nil }
    }

    private func proposeRelease(_ release: Release, _ by: String) -> Result<[Fact.Body], Refusal> {
        if let known = state.releases[release.id] {
            if known.release == release { return .success([]) }
            return .failure(
                Refusal(
                    .alreadyExists,
                    "release \(release.id) exists and is another one",
                    advice: "Releases do not change: choose another id."))
        }
        if let refusal = release.refusal { return .failure(refusal) }
        return .success([.releaseAdded(release, by: by)])
    }

    private func proposeLockRelease(
        _ set: SetID, _ reason: String, _ by: String
    ) -> Result<[Fact.Body], Refusal> {
        guard !reason.isEmpty else {
            return .failure(
                Refusal(
                    .invalid, "a lock is released with a reason only",
                    advice: "Say why with --reason; it is kept."))
        }
        guard let lock = state.locks[set] else {
            if !state.missingGuests(of: set).isEmpty {
                return .success([.lockReleased(set, reason: reason, by: by)])
            }
            return .failure(
                state.sets[set] == nil
                    ? Refusal(.notFound, "there is no availability set \(set)")
                    : Refusal(.notFound, "availability set \(set) is not locked"))
        }
        guard lock.holders.contains(where: \.stuck) || hasUnreachableHolder(lock) else {
            let steps = lock.holders.map { "\($0.step)" }.joined(separator: ", ")
            return .failure(
                Refusal(
                    .conflict, "availability set \(set) is held by \(steps), still at work",
                    advice: "Wait for it; a hold ends by itself within its deadline."))
        }
        return .success([.lockReleased(set, reason: reason, by: by)])
    }

    /// A granted step can be released by an operator too: its host may be gone for ever. The shell
    /// refuses while the host's agent is connected.
    private func hasUnreachableHolder(_ lock: SetLock) -> Bool {
        lock.holders.contains { state.step($0.step)?.status == .granted }
    }

    private func proposeAcknowledgement(
        _ notifier: String, _ sequence: UInt64
    ) -> Result<[Fact.Body], Refusal> {
        guard sequence <= state.lastSequence else {
            return .failure(
                Refusal(
                    .invalid,
                    "notifier \(notifier) acknowledges event \(sequence); the newest is "
                        + "\(state.lastSequence)",
                    advice: "The server's data is older than the notifier's: see the README."))
        }
        if let known = state.notifiers[notifier], known >= sequence { return .success([]) }
        return .success([.eventsAcknowledged(notifier: notifier, sequence: sequence)])
    }

    private func proposeStepReport(
        _ report: StepReport, _ host: HostID
    ) -> Result<[Fact.Body], Refusal> {
        // After an old back-up was restored, a step of the lost log has no name, or that of another's.
        guard let step = state.step(report.step) else { return .success(stray(report, host)) }
        guard step.plan.host == host else {
            if isForOther(report.step, report.token, holds: report.holds, host) {
                return .failure(
                    Refusal(
                        .notPermitted, "\(report.step) is not on host \(host)",
                        advice: "An agent speaks for its own host only."))
            }
            return .success(stray(report, host))
        }
        if let problem = problem(in: report, of: step) {
            return .failure(Refusal(.invalid, "report of \(report.step): \(problem)"))
        }
        if step.status == .granted, step.token == report.token {
            return .success([.stepFinished(report)])
        }
        let isRepeated =
            step.status == .finished && step.token == report.token && !step.holds.isEmpty
        if isRepeated { return .success([]) }
        // Not the grant we know, or one that was given up. What was held is recorded all the same.
        return .success(report.holds.isEmpty ? [] : [.strayReported(report, host: host)])
    }

    /// Whether an agent speaks of what another host is doing now. If the token is another, it speaks of a
    /// step of its own, which this log knows nothing of; the same if it has held guests of its own.
    public func isForOther(
        _ id: StepID, _ token: Token, holds: [HoldRecord] = [], _ host: HostID
    ) -> Bool {
        guard let step = state.step(id), step.plan.host != host, step.status == .granted,
            step.token == token
        else { return false }
        return holds.isEmpty || !holds.allSatisfy { isOwn($0.guest, host) }
    }

    private func isOwn(_ guest: GuestID, _ host: HostID) -> Bool {
        state.guests[guest].map { $0.host == host } ?? true
    }

    /// What is recorded of a step that this log does not know as `host`'s: holds of guests that are
    /// not another host's.
    private func stray(_ report: StepReport, _ host: HostID) -> [Fact.Body] {
        var own = report
        own.holds.removeAll { !isOwn($0.guest, host) }
        return own.holds.isEmpty ? [] : [.strayReported(own, host: host)]
    }

    private func problem(in report: StepReport, of step: StepRecord) -> String? {
        // Only looked up, never iterated.
        var seen: Set<GuestID> = []
        for hold in report.holds {
            if !step.plan.covers(hold.guest) { return "guest \(hold.guest) is not part of it" }
            if !seen.insert(hold.guest).inserted { return "guest \(hold.guest) is there twice" }
        }
        if report.outcome == .succeeded, seen.count != step.plan.guests.count {
            return "it succeeded, but \(seen.count) of \(step.plan.guests.count) guests were held"
        }
        return nil
    }

    private func proposeDirectiveAnswer(
        _ id: StepID, _ token: Token, _ host: HostID, _ answer: DirectiveAnswer
    ) -> Result<[Fact.Body], Refusal> {
        guard let step = state.step(id), step.plan.host == host, step.status == .granted,
            step.token == token
        else { return .success([]) }
        switch answer {
        case .accepted, .busy:
            return .success([])
        case .staleToken(let accepted):
            if let refusal = refusal(ofAccepted: accepted, by: host) { return .failure(refusal) }
            let number = max(state.nextToken, accepted.number + 1)
            return .success([.stepRegranted(id, token: Token(number))])
        case .refused(let reason):
            let report = StepReport(
                step: id, token: token, outcome: .failed,
                reason: "the agent refused: \(reason)", phases: [], holds: [])
            return .success([.stepFinished(report)])
        }
    }
}
