public import Fleet

/// What somebody wants to become true. Checked by ``Coordinator/propose(_:at:)``.
public enum Command: Hashable, Sendable {
    /// A server has become the leader, with the log store's epoch as its term.
    case startTerm(term: UInt64, server: String)
    case reportHost(HostReport)
    case addRelease(Release, by: String)
    case startRollout(release: ReleaseID, selection: Selection, policy: Policy, by: String)
    case abortRollout(RolloutID, reason: String, by: String)
    /// Lets no further step start until it is resumed.
    case pauseRollout(RolloutID, reason: String, by: String)
    case resumeRollout(RolloutID, reason: String, by: String)
    /// Lets no step start on a host.
    case cordonHost(HostID, reason: String, by: String)
    case uncordonHost(HostID, reason: String, by: String)
    /// Opens a set whose lock nobody works on any more, or that missing guests keep closed.
    case releaseLock(SetID, reason: String, by: String)
    /// Grants whatever may start now. `connected` holds the hosts whose agents can be told.
    case schedule(connected: Set<HostID>)
    case reportStep(StepReport, host: HostID)
    /// An agent's answer to a directive, other than `accepted` and `busy`, which change nothing.
    case answerDirective(step: StepID, token: Token, host: HostID, answer: DirectiveAnswer)
    case acknowledgeEvents(notifier: String, sequence: UInt64)
    /// Keeps no more events for a notifier that is gone for good.
    case forgetNotifier(String, reason: String, by: String)
    /// `noticedAt` says which notice is meant; nil means whichever stands.
    case acknowledgeNotice(StepID, guest: GuestID, noticedAt: Timestamp?)
    /// The notifier shall deliver: nobody else does, or has been gone for long enough.
    case grantDeliveries(notifier: String)
    case giveUpDeliveries(notifier: String)
    case reportDelivered(notifier: String, number: UInt64, sink: String, sequence: UInt64)
}

/// What has become true. Folded into the state in the order of the log, on every server alike.
public struct Fact: Hashable, Sendable {
    /// The leader's wall clock when it was proposed; the only time there is in the state.
    public var at: Timestamp
    public var body: Body

    public enum Body: Hashable, Sendable {
        case termStarted(term: UInt64, server: String)
        case hostReported(HostReport, placements: [Placement])
        case releaseAdded(Release, by: String)
        case rolloutStarted(StartedRollout)
        case rolloutAborted(RolloutID, reason: String, by: String)
        /// The guests are told; the step is granted no earlier than `notBefore`, see ``StepNotice``.
        case stepNoticed(StepID, notBefore: Timestamp)
        case noticeAcknowledged(StepID, guest: GuestID)
        /// A noticed step waits again.
        case noticeWithdrawn(StepID, reason: String)
        case rolloutPaused(RolloutID, reason: String, by: String)
        case rolloutResumed(RolloutID, reason: String, by: String)
        case hostCordoned(HostID, reason: String, by: String)
        case hostUncordoned(HostID, reason: String, by: String)
        case stepGranted(StepID, token: Token)
        /// The same locks, a higher token: the agent had accepted one that we did not know of.
        case stepRegranted(StepID, token: Token)
        case stepCancelled(StepID, reason: String)
        case stepFinished(StepReport)
        /// A report of a grant that this log does not know, as after an old backup was restored.
        case strayReported(StepReport, host: HostID)
        case lockReleased(SetID, reason: String, by: String)
        case eventsAcknowledged(notifier: String, sequence: UInt64)
        case notifierForgotten(notifier: String, reason: String, by: String)
        case deliveryLeaseGranted(notifier: String, number: UInt64)
        case deliveryLeaseGivenUp(notifier: String)
        case deliveriesReported(notifier: String, sink: String, sequence: UInt64)
    }

    public init(at: Timestamp, body: Body) {
        self.at = at
        self.body = body
    }
}

/// The update domain that a reported guest gets; only guests of a set have one.
public struct Placement: Hashable, Sendable {
    public var guest: GuestID
    public var updateDomain: UpdateDomain
    /// Chosen by the leader, because the host's file names none.
    public var byLeader: Bool
    public init(guest: GuestID, updateDomain: UpdateDomain, byLeader: Bool) {
        self.guest = guest
        self.updateDomain = updateDomain
        self.byLeader = byLeader
    }
}

/// A rollout as it was accepted, with every step it will take.
public struct StartedRollout: Hashable, Sendable {
    public var id: RolloutID
    public var release: ReleaseID
    public var selection: Selection
    public var policy: Policy
    public var by: String
    public var steps: [PlannedStep]
    public var skipped: [PlanView.Skipped]
    public init(
        id: RolloutID, release: ReleaseID, selection: Selection, policy: Policy, by: String,
        steps: [PlannedStep], skipped: [PlanView.Skipped]
    ) {
        self.id = id
        self.release = release
        self.selection = selection
        self.policy = policy
        self.by = by
        self.steps = steps
        self.skipped = skipped
    }
}

/// The work on one pause group, before it has a number.
public struct PlannedStep: Hashable, Sendable {
    public var host: HostID
    /// In ascending order.
    public var guests: [GuestID]
    /// What it locks, in ascending order; one pair for each set at most.
    public var pairs: [SetPair]
    public init(host: HostID, guests: [GuestID], pairs: [SetPair]) {
        self.host = host
        self.guests = guests
        self.pairs = pairs
    }

    func covers(_ guest: GuestID) -> Bool {
        let index = guests.lowerBound { $0 < guest }
        return index < guests.count && guests[index] == guest
    }

    /// The one that it locks of a set.
    func pair(of set: SetID) -> SetPair? {
        let index = pairs.lowerBound { $0.set < set }
        return index < pairs.count && pairs[index].set == set ? pairs[index] : nil
    }
}

extension Array {
    /// Of an array in ascending order: where the elements end that are below something.
    fileprivate func lowerBound(_ isBelow: (Element) -> Bool) -> Int {
        var (low, high) = (0, count)
        while low < high {
            let middle = (low + high) / 2
            if isBelow(self[middle]) { low = middle + 1 } else { high = middle }
        }
        return low
    }
}
