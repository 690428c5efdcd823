public import Fleet
public import OrderedCollections

/// All that the servers agree on. Equal on every server that has applied the same facts, in order
/// too: nothing here iterates a `Set` or a `Dictionary`.
///
/// A copy is free, and the first changes of what was copied cost little: whatever grows with the
/// fleet is kept in pages. So a snapshot is written from a copy while commits go on.
public struct FleetState: Hashable, Sendable {
    /// Number of facts applied.
    public var index: UInt64 = 0
    public var term: UInt64 = 0
    public var leader = ""
    public var nextToken: UInt64 = 1
    public var nextRollout: UInt64 = 1
    public var hosts = PagedDictionary<HostID, HostRecord>()
    /// Changed by ``keep(_:)`` and `removeGuest`, which see to the sets and counts as well.
    public internal(set) var guests = PagedDictionary<GuestID, GuestRecord>()
    /// How many of them run.
    public internal(set) var runningGuestCount = 0
    public var sets = PagedDictionary<SetID, SetRecord>()
    public var releases: OrderedDictionary<ReleaseID, ReleaseRecord> = [:]
    public var rollouts = RolloutList()
    /// The sets that are locked, each by steps of one update domain.
    public var locks = PagedDictionary<SetID, SetLock>()
    /// Granted steps whose agent has not reported, in grant order; one for each host at most, so
    /// never many: a rollout's parallelism bounds them.
    public var active: OrderedDictionary<HostID, StepID> = [:]
    /// Not yet acknowledged by every notifier, in ascending order of sequence, without gaps.
    public var events = PagedArray<FleetEvent>()
    /// Sequence of the newest event there ever was; 0 before the first.
    public var lastSequence: UInt64 = 0
    /// Up to where each notifier has kept the events safe. Those that have never acknowledged, or were
    /// forgotten since, are not in it.
    public var notifiers: OrderedDictionary<String, UInt64> = [:]
    /// Who delivers to sinks, and how far that has come; ``DeliveryLease/isYours`` is false.
    public var deliveryLease = DeliveryLease(
        holder: "", number: 0, isYours: false, delivered: [])

    public init() {}
}

public struct HostRecord: Hashable, Sendable {
    public var report: HostReport
    public var reportedAt: Timestamp
    /// Nil if steps may start on it.
    public var cordon: Cordon?
    /// The guests that count as this host's, in ascending order. Follows from the guests' records.
    public internal(set) var guests: [GuestID] = []
    public init(report: HostReport, reportedAt: Timestamp, cordon: Cordon? = nil) {
        self.report = report
        self.reportedAt = reportedAt
        self.cordon = cordon
    }

    /// Whether no guest of its report belongs to another host.
    var ownsAllReported: Bool {
        var next = 0
        return report.guests.allSatisfy { guest in
            while next < guests.count {
                if guests[next] == guest.id { return true }
                guard guests[next] < guest.id else { return false }
                next += 1
            }
            return false
        }
    }
}

public struct GuestRecord: Hashable, Sendable {
    public var report: GuestReport
    public var host: HostID
    /// The set and update domain in force. Kept while a step works on the guest, whatever the
    /// host's file says meanwhile.
    public var pair: SetPair?
    public var placedByLeader: Bool
    /// A step that ended without having seen this guest well, which has not been seen to run since:
    /// as when its host lost power in the middle. Such a guest is `stopped` by nobody's will.
    public var missingSince: StepID?
    public init(
        report: GuestReport, host: HostID, pair: SetPair?, placedByLeader: Bool,
        missingSince: StepID? = nil
    ) {
        self.missingSince = missingSince
        self.report = report
        self.host = host
        self.pair = pair
        self.placedByLeader = placedByLeader
    }
}

public struct SetRecord: Hashable, Sendable {
    public var updateDomainCount: Int
    /// The host whose file gave the count; nil if it is the default.
    public var definedBy: HostID?
    /// With the update domain of each. Follows from the guests' records, like the counts.
    public private(set) var members = PagedDictionary<GuestID, UpdateDomain>()
    /// Members of each update domain; as long as there are members in higher ones.
    private(set) var memberCounts: [Int] = []
    /// Members that are known not to be well.
    private(set) var unwellCount = 0
    public init(updateDomainCount: Int, definedBy: HostID?) {
        self.updateDomainCount = updateDomainCount
        self.definedBy = definedBy
    }

    mutating func insert(_ guest: GuestID, _ domain: UpdateDomain, isWell: Bool) {
        members[guest] = domain
        while memberCounts.count <= domain.number { memberCounts.append(0) }
        memberCounts[domain.number] += 1
        if !isWell { unwellCount += 1 }
    }

    mutating func remove(_ guest: GuestID, isWell: Bool) {
        guard let domain = members.removeValue(forKey: guest) else { return }
        memberCounts[domain.number] -= 1
        while memberCounts.last == 0 { memberCounts.removeLast() }
        if !isWell { unwellCount -= 1 }
    }
}

public struct ReleaseRecord: Hashable, Sendable {
    public var release: Release
    public var addedAt: Timestamp
    public var addedBy: String
    public init(release: Release, addedAt: Timestamp, addedBy: String) {
        self.release = release
        self.addedAt = addedAt
        self.addedBy = addedBy
    }
}

/// A group lock: any number of steps of one update domain, none of another.
public struct SetLock: Hashable, Sendable {
    public struct Holder: Hashable, Sendable {
        public var step: StepID
        public var token: Token
        public var grantedAt: Timestamp
        /// The step is over but its guests are not confirmed healthy: only an operator opens it.
        public var stuck: Bool
        public init(step: StepID, token: Token, grantedAt: Timestamp, stuck: Bool) {
            self.step = step
            self.token = token
            self.grantedAt = grantedAt
            self.stuck = stuck
        }
    }
    public var updateDomain: UpdateDomain
    /// In the order of their grants; never empty.
    public var holders: [Holder]
    public init(updateDomain: UpdateDomain, holders: [Holder]) {
        self.updateDomain = updateDomain
        self.holders = holders
    }
}

public struct RolloutRecord: Hashable, Sendable {
    public var id: RolloutID
    public var release: ReleaseID
    public var selection: Selection
    public var policy: Policy
    public var state: RolloutState
    public var reason: String
    public var startedAt: Timestamp
    public var startedBy: String
    public var finishedAt: Timestamp?
    /// Step n is at index n − 1.
    public var steps: StepList
    public var skipped: [PlanView.Skipped]
    public init(
        id: RolloutID, release: ReleaseID, selection: Selection, policy: Policy,
        state: RolloutState, reason: String, startedAt: Timestamp, startedBy: String,
        finishedAt: Timestamp?, steps: StepList, skipped: [PlanView.Skipped]
    ) {
        self.id = id
        self.release = release
        self.selection = selection
        self.policy = policy
        self.state = state
        self.reason = reason
        self.startedAt = startedAt
        self.startedBy = startedBy
        self.finishedAt = finishedAt
        self.steps = steps
        self.skipped = skipped
    }
}

/// One step of a rollout.
///
/// ```
/// waiting ──grant──▶ granted ──report──▶ finished
///    │                  └─regrant─▶ granted (higher token)
///    └──cancel──▶ cancelled
/// ```
/// While it waits it may be noticed: its guests are told, see ``notice``.
public struct StepRecord: Hashable, Sendable {
    public enum Status: String, Hashable, Sendable, CaseIterable {
        case waiting, granted, finished, cancelled
    }
    public var id: StepID
    public var plan: PlannedStep
    public var status: Status
    /// Of the last grant.
    public var token: Token?
    /// Conflicting grants that were made while this step waited.
    public var bypassed: UInt32
    public var outcome: StepOutcome?
    public var reason: String
    public var grantedAt: Timestamp?
    public var finishedAt: Timestamp?
    public var phases: [PhaseTime]
    public var holds: [HoldRecord]
    /// That its guests were told; kept when it is granted.
    public var notice: StepNotice?
    public init(
        id: StepID, plan: PlannedStep, status: Status = .waiting, token: Token? = nil,
        bypassed: UInt32 = 0, outcome: StepOutcome? = nil, reason: String = "",
        grantedAt: Timestamp? = nil, finishedAt: Timestamp? = nil, phases: [PhaseTime] = [],
        holds: [HoldRecord] = [], notice: StepNotice? = nil
    ) {
        self.id = id
        self.plan = plan
        self.status = status
        self.token = token
        self.bypassed = bypassed
        self.outcome = outcome
        self.reason = reason
        self.grantedAt = grantedAt
        self.finishedAt = finishedAt
        self.phases = phases
        self.holds = holds
        self.notice = notice
    }
}

extension FleetState {
    /// Sequence of the oldest event that is kept; nil if none is.
    var firstSequence: UInt64? {
        events.isEmpty ? nil : lastSequence &- UInt64(events.count) &+ 1
    }

    public func step(_ id: StepID) -> StepRecord? {
        guard let rollout = rollouts[id.rollout], id.number >= 1,
            Int(id.number) <= rollout.steps.count
        else { return nil }
        return rollout.steps[Int(id.number) - 1]
    }

    /// Changes a step that is known to exist.
    mutating func changeStep(_ id: StepID, _ change: (inout StepRecord) -> Void) {
        precondition(step(id) != nil, "no \(id)")
        rollouts.update(id.rollout) { $0.steps.update(at: Int(id.number) - 1, change) }
    }

    /// Steps that hold locks or are being worked on, with the guests they cover.
    func isInActiveStep(_ guest: GuestID, on host: HostID) -> Bool {
        guard let id = active[host], let step = step(id) else { return false }
        return step.plan.covers(guest)
    }
}
