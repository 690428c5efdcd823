public import Fleet
public import OrderedCollections

/// All that the servers agree on. Equal on every server that has applied the same facts, in order
/// too: nothing here iterates a `Set` or a `Dictionary`.
public struct FleetState: Hashable, Sendable {
    /// Number of facts applied.
    public var index: UInt64 = 0
    public var term: UInt64 = 0
    public var leader = ""
    public var nextToken: UInt64 = 1
    public var nextRollout: UInt64 = 1
    public var hosts: OrderedDictionary<HostID, HostRecord> = [:]
    public var guests: OrderedDictionary<GuestID, GuestRecord> = [:]
    public var sets: OrderedDictionary<SetID, SetRecord> = [:]
    public var releases: OrderedDictionary<ReleaseID, ReleaseRecord> = [:]
    public var rollouts: OrderedDictionary<RolloutID, RolloutRecord> = [:]
    /// The sets that are locked, each by steps of one update domain.
    public var locks: OrderedDictionary<SetID, SetLock> = [:]
    /// Granted steps whose agent has not reported; one for each host at most.
    public var active: OrderedDictionary<HostID, StepID> = [:]
    /// Not yet acknowledged by every notifier, in ascending order of sequence, without gaps.
    public var events: [FleetEvent] = []
    /// Sequence of the newest event there ever was; 0 before the first.
    public var lastSequence: UInt64 = 0
    /// Up to where each notifier has kept the events safe.
    public var notifiers: OrderedDictionary<String, UInt64> = [:]

    public init() {}
}

public struct HostRecord: Hashable, Sendable {
    public var report: HostReport
    public var reportedAt: Timestamp
    public init(report: HostReport, reportedAt: Timestamp) {
        self.report = report
        self.reportedAt = reportedAt
    }
}

public struct GuestRecord: Hashable, Sendable {
    public var report: GuestReport
    public var host: HostID
    /// The set and update domain in force. Kept while a step works on the guest, whatever the
    /// host's file says meanwhile.
    public var pair: SetPair?
    public var placedByLeader: Bool
    public init(report: GuestReport, host: HostID, pair: SetPair?, placedByLeader: Bool) {
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
    /// In the order in which they were first reported.
    public var members: [GuestID]
    public init(updateDomainCount: Int, definedBy: HostID?, members: [GuestID]) {
        self.updateDomainCount = updateDomainCount
        self.definedBy = definedBy
        self.members = members
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
    public var steps: [StepRecord]
    public var skipped: [PlanView.Skipped]
    public init(
        id: RolloutID, release: ReleaseID, selection: Selection, policy: Policy,
        state: RolloutState, reason: String, startedAt: Timestamp, startedBy: String,
        finishedAt: Timestamp?, steps: [StepRecord], skipped: [PlanView.Skipped]
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

    public var failureCount: Int {
        steps.count { step in step.outcome.map { $0 != .succeeded } ?? false }
    }
    public var activeCount: Int { steps.count { $0.status == .granted } }
}

/// One step of a rollout.
///
/// ```
/// waiting ──grant──▶ granted ──report──▶ finished
///    │                  └─regrant─▶ granted (higher token)
///    └──cancel──▶ cancelled
/// ```
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
    public init(
        id: StepID, plan: PlannedStep, status: Status = .waiting, token: Token? = nil,
        bypassed: UInt32 = 0, outcome: StepOutcome? = nil, reason: String = "",
        grantedAt: Timestamp? = nil, finishedAt: Timestamp? = nil, phases: [PhaseTime] = [],
        holds: [HoldRecord] = []
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
    }
}

extension FleetState {
    public func step(_ id: StepID) -> StepRecord? {
        guard let rollout = rollouts[id.rollout], id.number >= 1,
            Int(id.number) <= rollout.steps.count
        else { return nil }
        return rollout.steps[Int(id.number) - 1]
    }

    /// Changes a step that is known to exist.
    mutating func changeStep(_ id: StepID, _ change: (inout StepRecord) -> Void) {
        precondition(step(id) != nil, "no \(id)")
        change(&rollouts[id.rollout]!.steps[Int(id.number) - 1])
    }

    /// Steps that hold locks or are being worked on, with the guests they cover.
    func isInActiveStep(_ guest: GuestID, on host: HostID) -> Bool {
        guard let id = active[host], let step = step(id) else { return false }
        return step.plan.guests.contains(guest)
    }
}
