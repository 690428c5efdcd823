public import Fleet

// Notices: guests are told of a step before it is granted.
//
// A waiting step of a rollout with a notice time is noticed as soon as nothing but parallelism, a
// busy host or the time itself keeps it from starting. From then on it closes its sets to other
// update domains, of every rollout, for notices and for grants, as a lock does: guests of two update
// domains are never told to make room at once. So its sets stay its own until it is granted, and a
// noticed step waits for nothing that another waiting step has: no deadlock. It does not heed doors:
// whoever closed one behind it waits for it, too.
//
// What can still keep it when its time is over, and what becomes of the notice:
// - parallelism, another step on its host: kept, these end by themselves;
// - a guest of another update domain that is not well: kept. Nobody else of the set could start
//   either, except in the update domain of that guest, which is the one not to touch;
// - its host is away, or its own guest is paused, held, starting or unknown: kept for
//   ``Limits/noticeOverdueMillisecondsMax`` beyond its time, since hosts and guests come back; then
//   it is withdrawn and waits, so that a host which is lost does not close the set for ever. It is
//   noticed anew when it can start;
// - the leader's clock was ahead when it was given, or another server's that led: withdrawn and given
//   anew, see ``Limits/noticeClockErrorMillisecondsMax``. A clock that is ahead now starts it early;
// - its rollout is paused or its host cordoned: withdrawn at once, since nobody knows for how long;
// - it became pointless: cancelled, as any waiting step.

/// That the guests of a step were told of it.
public struct StepNotice: Hashable, Sendable {
    public var noticedAt: Timestamp
    public var notBefore: Timestamp
    /// In ascending order.
    public var acknowledgedBy: [GuestID]
    public init(noticedAt: Timestamp, notBefore: Timestamp, acknowledgedBy: [GuestID] = []) {
        self.noticedAt = noticedAt
        self.notBefore = notBefore
        self.acknowledgedBy = acknowledgedBy
    }

    /// When it is withdrawn if its own host or guest keeps it from starting.
    var overdueAt: Timestamp {
        notBefore.adding(milliseconds: Limits.noticeOverdueMillisecondsMax)
    }
}

extension Timestamp {
    func adding(milliseconds: Int64) -> Timestamp {
        let sum = microseconds.addingReportingOverflow(milliseconds * 1_000)
        return Timestamp(microseconds: sum.partialValue)
    }
}

extension StepRecord {
    /// Its guests are told, and it is not granted.
    var isNoticed: Bool { status == .waiting && notice != nil }

    /// Whether guests are told before. A step that holds nobody has nobody to tell.
    func needsNotice(_ policy: Policy) -> Bool {
        policy.noticeMilliseconds > 0 && !plan.guests.isEmpty
    }

    /// Whether the time of its notice is over, or need not be waited for.
    func isDue(_ policy: Policy, at: Timestamp) -> Bool {
        guard let notice else { return !needsNotice(policy) || mutated(.noticeSkipped) }
        if at >= notice.notBefore { return true }
        guard policy.acknowledgement == .shortens else { return false }
        let isEnough = mutated(.acknowledgementOfOneCountsForAll) && !notice.acknowledgedBy.isEmpty
        return isEnough || notice.acknowledgedBy == plan.guests
    }
}

extension Coordinator {
    func proposeNoticeAcknowledgement(
        _ id: StepID, _ guest: GuestID, _ noticedAt: Timestamp?
    ) -> Result<[Fact.Body], Refusal> {
        guard let step = state.step(id) else {
            return .failure(
                Refusal(.notFound, "there is no \(id)", advice: "See `fermata notices`."))
        }
        guard step.plan.covers(guest) else {
            return .failure(
                Refusal(
                    .notFound, "\(id) does not hold guest \(guest)",
                    advice: "See `fermata notices`."))
        }
        switch step.status {
        case .granted: return .success([])
        case .waiting:
            guard let notice = step.notice else { break }
            if let noticedAt, noticedAt != notice.noticedAt {
                return .failure(
                    Refusal(
                        .conflict,
                        "\(id) was noticed anew: guest \(guest) is ready for an earlier notice of it",
                        advice: "Read the notice that stands, and acknowledge that one."))
            }
            return .success(
                notice.acknowledgedBy.contains(guest) ? [] : [.noticeAcknowledged(id, guest: guest)]
            )
        case .finished, .cancelled: break
        }
        return .failure(
            Refusal(
                .notFound, "\(id) is \(step.status.rawValue) and not noticed",
                advice: "See `fermata notices`."))
    }

    /// Every step from its notice, or without one from its grant, to its end, in ascending order.
    public func notices() -> [Notice] {
        let noticed = state.rollouts.open.flatMap { rollout in
            rollout.steps.noticed.map { rollout.steps[$0].id }
        }
        return (noticed + state.active.values).sorted().compactMap { state.step($0).map(notice) }
    }

    /// What the guests of a step are told.
    func notice(of step: StepRecord) -> Notice {
        let rollout = state.rollouts[step.id.rollout]
        let release = rollout.flatMap { state.releases[$0.release]?.release }
        let told = step.notice
        let start = step.grantedAt ?? Timestamp(microseconds: 0)
        return Notice(
            step: step.id, host: step.plan.host, guests: step.plan.guests, pairs: step.plan.pairs,
            release: rollout?.release ?? ReleaseID(checked: "unknown"),
            component: release?.component ?? .hypervisor, version: release?.version ?? "",
            noticedAt: told?.noticedAt ?? start, notBefore: told?.notBefore ?? start,
            deadlineMilliseconds: rollout?.policy.deadlineMilliseconds
                ?? Limits.deadlineMillisecondsMax,
            isStarted: step.status == .granted, acknowledgedBy: told?.acknowledgedBy ?? [])
    }

    /// When a round of grants should be asked for, because a notice time is over then, or a notice
    /// is overdue; nil if nothing waits for the time alone.
    ///
    /// - Parameter at: the leader's wall clock; what was due by then is not waited for.
    public func nextNoticeAt(after at: Timestamp) -> Timestamp? {
        var next: Timestamp?
        for rollout in state.rollouts.open {
            for index in rollout.steps.noticed {
                guard let notice = rollout.steps[index].notice else { continue }
                let moment = notice.notBefore > at ? notice.notBefore : notice.overdueAt
                if moment > at, moment < next ?? moment.adding(milliseconds: 1) { next = moment }
            }
        }
        return next
    }

    mutating func applyNotice(_ id: StepID, notBefore: Timestamp, at: Timestamp) {
        state.changeStep(id) { $0.notice = StepNotice(noticedAt: at, notBefore: notBefore) }
        emit(.stepNoticed(notice(of: state.step(id)!)), at: at)
    }

    mutating func applyNoticeAcknowledgement(_ id: StepID, _ guest: GuestID, at: Timestamp) {
        state.changeStep(id) { step in
            guard step.notice != nil, !step.notice!.acknowledgedBy.contains(guest) else { return }
            step.notice!.acknowledgedBy.append(guest)
            step.notice!.acknowledgedBy.sort()
        }
        emit(.noticeAcknowledged(step: id, guest: guest), at: at)
    }

    /// The step waits again, as if nobody had been told.
    mutating func withdrawNotice(_ id: StepID, reason: String, at: Timestamp) {
        guard state.step(id)?.isNoticed == true else { return }
        state.changeStep(id) { $0.notice = nil }
        emit(.noticeWithdrawn(step: id, reason: reason), at: at)
    }
}

extension Coordinator {
    /// Of a rollout that starts no step for now.
    mutating func withdrawNotices(of id: RolloutID, reason: String, at: Timestamp) {
        guard let steps = state.rollouts[id]?.steps else { return }
        for index in Array(steps.noticed) {
            withdrawNotice(steps[index].id, reason: reason, at: at)
        }
    }
}

extension GrantRound {
    /// An update domain of the set whose guests are told to make room, with a step of it.
    func noticed(in set: SetID) -> (UpdateDomain, StepID)? {
        if let found = notices[set] { return found }
        for rollout in state.rollouts.open {
            if let found = rollout.steps.noticedDomain(of: set) { return found }
        }
        return nil
    }

    mutating func notice(_ step: StepRecord) {
        for pair in step.plan.pairs { notices[pair.set] = (pair.updateDomain, step.id) }
    }

    /// What a waiting step of a rollout with a notice time comes to in this round; nil if it stays as
    /// it is. Of one that may start, whether it does is for ``obstacle(_:)`` to say.
    mutating func factOfNotice(_ step: StepRecord, _ policy: Policy, at: Timestamp) -> Fact.Body? {
        let obstacle = obstacle(step)
        if case .pointless(let reason) = obstacle { return .stepCancelled(step.id, reason: reason) }
        guard let notice = step.notice else {
            switch obstacle {
            case nil, .parallelism, .hostBusy: break
            case .some(let obstacle):
                refuse(step, obstacle)
                return nil
            }
            guard noticeCount < Limits.noticesPerRoundMax else { return nil }
            noticeCount += 1
            self.notice(step)
            return .stepNoticed(
                step.id, notBefore: at.adding(milliseconds: Int64(policy.noticeMilliseconds)))
        }
        let latest = at.adding(
            milliseconds: Int64(policy.noticeMilliseconds) + Limits.noticeClockErrorMillisecondsMax)
        if notice.notBefore > latest {
            return .noticeWithdrawn(
                step.id, reason: "the clock of the server that gave it was ahead; it is given anew")
        }
        switch obstacle {
        case .cordoned:
            return .noticeWithdrawn(step.id, reason: "host \(step.plan.host) is cordoned")
        case .hostNotConnected where at >= notice.overdueAt:
            return .noticeWithdrawn(
                step.id,
                reason: "host \(step.plan.host) is not connected; it is noticed anew "
                    + "when it is")
        case .guest(let guest, let state) where at >= notice.overdueAt:
            return .noticeWithdrawn(
                step.id,
                reason: "guest \(guest) is \(state.rawValue); it is noticed anew "
                    + "when it runs")
        default: return nil
        }
    }
}
