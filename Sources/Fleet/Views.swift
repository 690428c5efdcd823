// What a server tells of its state to those who ask. Values for people and scripts, built by the
// coordination machine and rendered by the command line.

public struct StatusView: Hashable, Sendable {
    public var cluster: String
    public var server: String
    public var term: UInt64
    /// Index of the last committed fact.
    public var index: UInt64
    public var softwareVersion: String
    public var hostCount: UInt32
    public var connectedHostCount: UInt32
    public var guestCount: UInt32
    public var runningGuestCount: UInt32
    public var setCount: UInt32
    public var lockedSetCount: UInt32
    /// Locks whose guests are not confirmed healthy and that nobody works on.
    public var stuckSetCount: UInt32
    public var activeRollouts: [RolloutID]
    public var notifiers: [NotifierView]
    /// Events in the server's state: what a notifier has not acknowledged, and the newest.
    public var keptEventCount: UInt64
    /// What a person should look at, each a full sentence.
    public var warnings: [String]
    public var traffic: ServerTraffic
    /// Where the log is kept, such as `sqlite:DIRECTORY`.
    public var store: String
    /// The server that answers does not lead.
    public var isStandby: Bool
    /// Name of the server that leads, as far as the one that answers knows.
    public var leader: String
    public init(
        cluster: String, server: String, term: UInt64, index: UInt64, softwareVersion: String,
        hostCount: UInt32, connectedHostCount: UInt32, guestCount: UInt32,
        runningGuestCount: UInt32, setCount: UInt32, lockedSetCount: UInt32,
        stuckSetCount: UInt32, activeRollouts: [RolloutID], notifiers: [NotifierView],
        warnings: [String], traffic: ServerTraffic = ServerTraffic(), store: String = "",
        isStandby: Bool = false, leader: String = "", keptEventCount: UInt64 = 0
    ) {
        self.keptEventCount = keptEventCount
        self.store = store
        self.isStandby = isStandby
        self.leader = leader
        self.cluster = cluster
        self.server = server
        self.term = term
        self.index = index
        self.softwareVersion = softwareVersion
        self.hostCount = hostCount
        self.connectedHostCount = connectedHostCount
        self.guestCount = guestCount
        self.runningGuestCount = runningGuestCount
        self.setCount = setCount
        self.lockedSetCount = lockedSetCount
        self.stuckSetCount = stuckSetCount
        self.activeRollouts = activeRollouts
        self.notifiers = notifiers
        self.warnings = warnings
        self.traffic = traffic
    }
}

public struct NotifierView: Hashable, Sendable {
    public var name: String
    public var acknowledgedSequence: UInt64
    public var lastSequence: UInt64
    /// Nil if the server that answers does not know.
    public var connected: Bool?
    public init(
        name: String, acknowledgedSequence: UInt64, lastSequence: UInt64, connected: Bool? = nil
    ) {
        self.name = name
        self.acknowledgedSequence = acknowledgedSequence
        self.lastSequence = lastSequence
        self.connected = connected
    }

    /// Events that it has not acknowledged.
    public var eventsBehind: UInt64 {
        lastSequence > acknowledgedSequence ? lastSequence - acknowledgedSequence : 0
    }
}

public struct HostView: Hashable, Sendable {
    public var id: HostID
    public var connected: Bool
    public var agentVersion: String
    public var acceptedToken: Token
    public var guestCount: UInt32
    public var runningGuestCount: UInt32
    public var lastReportAt: Timestamp
    /// Step in flight on this host.
    public var step: StepID?
    public var warnings: [String]
    /// What steps have installed, in ascending order of component.
    public var software: [InstalledSoftware]
    /// Nil if steps may start on it.
    public var cordon: Cordon?
    public init(
        id: HostID, connected: Bool, agentVersion: String, acceptedToken: Token,
        guestCount: UInt32, runningGuestCount: UInt32, lastReportAt: Timestamp, step: StepID?,
        warnings: [String], software: [InstalledSoftware] = [], cordon: Cordon? = nil
    ) {
        self.cordon = cordon
        self.id = id
        self.connected = connected
        self.agentVersion = agentVersion
        self.acceptedToken = acceptedToken
        self.guestCount = guestCount
        self.runningGuestCount = runningGuestCount
        self.lastReportAt = lastReportAt
        self.step = step
        self.warnings = warnings
        self.software = software
    }
}

/// An operator's word that no step shall start on a host.
public struct Cordon: Hashable, Sendable {
    public var reason: String
    /// The operator.
    public var by: String
    public var since: Timestamp
    public init(reason: String, by: String, since: Timestamp) {
        self.reason = reason
        self.by = by
        self.since = since
    }
}

public struct GuestView: Hashable, Sendable {
    /// As the agent reported it last; `updateDomain` is what the host's file names.
    public var report: GuestReport
    public var host: HostID
    /// The update domain in force; nil for a guest without a set.
    public var updateDomain: UpdateDomain?
    /// Whether the update domain was chosen by the leader.
    public var placedByLeader: Bool
    public var hostConnected: Bool
    public init(
        report: GuestReport, host: HostID, updateDomain: UpdateDomain?, placedByLeader: Bool,
        hostConnected: Bool
    ) {
        self.report = report
        self.host = host
        self.updateDomain = updateDomain
        self.placedByLeader = placedByLeader
        self.hostConnected = hostConnected
    }
}

public struct SetView: Hashable, Sendable {
    public struct Domain: Hashable, Sendable {
        public var updateDomain: UpdateDomain
        /// In ascending order.
        public var guests: [GuestID]
        public init(updateDomain: UpdateDomain, guests: [GuestID]) {
            self.updateDomain = updateDomain
            self.guests = guests
        }
    }
    public var id: SetID
    public var updateDomainCount: Int
    /// Those that have guests, ascending.
    public var domains: [Domain]
    /// The update domain that is locked now.
    public var lockedUpdateDomain: UpdateDomain?
    public var warnings: [String]
    public init(
        id: SetID, updateDomainCount: Int, domains: [Domain], lockedUpdateDomain: UpdateDomain?,
        warnings: [String]
    ) {
        self.id = id
        self.updateDomainCount = updateDomainCount
        self.domains = domains
        self.lockedUpdateDomain = lockedUpdateDomain
        self.warnings = warnings
    }
}

public struct LockView: Hashable, Sendable {
    public var set: SetID
    public var updateDomain: UpdateDomain
    public var step: StepID
    public var token: Token
    public var host: HostID
    public var guests: [GuestID]
    public var grantedAt: Timestamp
    /// Nobody works on it any more: its guests are lost or not confirmed healthy.
    public var stuck: Bool
    /// Why it is held, and if it is stuck what to do, in a sentence.
    public var reason: String
    public init(
        set: SetID, updateDomain: UpdateDomain, step: StepID, token: Token, host: HostID,
        guests: [GuestID], grantedAt: Timestamp, stuck: Bool, reason: String
    ) {
        self.set = set
        self.updateDomain = updateDomain
        self.step = step
        self.token = token
        self.host = host
        self.guests = guests
        self.grantedAt = grantedAt
        self.stuck = stuck
        self.reason = reason
    }
}

public struct ReleaseView: Hashable, Sendable {
    public var release: Release
    public var addedAt: Timestamp
    public var addedBy: String
    public init(release: Release, addedAt: Timestamp, addedBy: String) {
        self.release = release
        self.addedAt = addedAt
        self.addedBy = addedBy
    }
}

/// What a rollout would do, before it does it.
public struct PlanView: Hashable, Sendable {
    public struct Step: Hashable, Sendable {
        public var host: HostID
        public var guests: [GuestID]
        /// (set, update domain) pairs that it locks, in ascending order of set.
        public var pairs: [SetPair]
        /// The predicted order, from 1: steps of one wave can run at the same time. 0 if the step
        /// would wait for somebody to mend something.
        public var wave: UInt32
        public init(host: HostID, guests: [GuestID], pairs: [SetPair], wave: UInt32) {
            self.host = host
            self.guests = guests
            self.pairs = pairs
            self.wave = wave
        }
    }
    public struct Skipped: Hashable, Sendable {
        /// Nil if it is the whole host.
        public var guest: GuestID?
        public var host: HostID
        public var reason: String
        public init(guest: GuestID?, host: HostID, reason: String) {
            self.guest = guest
            self.host = host
            self.reason = reason
        }
        /// What is left alone, for a sentence.
        public var name: String { guest.map(\.rawValue) ?? "host \(host)" }
    }
    public var release: ReleaseID
    public var policy: Policy
    /// In predicted order.
    public var steps: [Step]
    public var waveCount: UInt32
    /// Guests and hosts that would be left alone, and why.
    public var skipped: [Skipped]
    /// What would make the rollout wait or be refused, by name.
    public var problems: [String]
    public init(
        release: ReleaseID, policy: Policy, steps: [Step], waveCount: UInt32, skipped: [Skipped],
        problems: [String]
    ) {
        self.release = release
        self.policy = policy
        self.steps = steps
        self.waveCount = waveCount
        self.skipped = skipped
        self.problems = problems
    }
}

/// One update domain of one set: what a step locks.
public struct SetPair: Hashable, Comparable, Sendable, CustomStringConvertible {
    public var set: SetID
    public var updateDomain: UpdateDomain
    public init(set: SetID, updateDomain: UpdateDomain) {
        self.set = set
        self.updateDomain = updateDomain
    }
    public static func < (left: Self, right: Self) -> Bool {
        (left.set, left.updateDomain) < (right.set, right.updateDomain)
    }
    public var description: String { "\(set)/\(updateDomain)" }
}

public enum RolloutState: String, Hashable, Sendable, CaseIterable {
    case running
    /// No further step starts until an operator resumes it; steps in flight run to their end.
    case paused
    /// No further step starts because of failures; steps in flight run to their end.
    case stopping
    /// As `stopping`, asked for by an operator.
    case aborting
    /// Every step finished and succeeded.
    case succeeded
    /// Stopped by failures.
    case failed
    case aborted

    /// It has steps that may start, now or once it is resumed.
    public var isGoingOn: Bool { self == .running || self == .paused }
    public var isOver: Bool { self == .succeeded || self == .failed || self == .aborted }
}

public struct StepView: Hashable, Sendable {
    public var id: StepID
    public var host: HostID
    public var guests: [GuestID]
    public var pairs: [SetPair]
    public var phase: StepPhase
    public var token: Token?
    public var outcome: StepOutcome?
    /// Why it waits, failed or was cancelled, and what to do, in words.
    public var reason: String
    public var grantedAt: Timestamp?
    public var finishedAt: Timestamp?
    public var phases: [PhaseTime]
    public var holds: [HoldRecord]
    /// When its guests were told of it; nil if they were not, or it goes back to waiting.
    public var noticedAt: Timestamp?
    /// The end of its notice time.
    public var notBefore: Timestamp?
    public init(
        id: StepID, host: HostID, guests: [GuestID], pairs: [SetPair], phase: StepPhase,
        token: Token?, outcome: StepOutcome?, reason: String, grantedAt: Timestamp?,
        finishedAt: Timestamp?, phases: [PhaseTime], holds: [HoldRecord],
        noticedAt: Timestamp? = nil, notBefore: Timestamp? = nil
    ) {
        self.id = id
        self.host = host
        self.guests = guests
        self.pairs = pairs
        self.phase = phase
        self.token = token
        self.outcome = outcome
        self.reason = reason
        self.grantedAt = grantedAt
        self.finishedAt = finishedAt
        self.phases = phases
        self.holds = holds
        self.noticedAt = noticedAt
        self.notBefore = notBefore
    }
}

public struct RolloutView: Hashable, Sendable {
    public var id: RolloutID
    public var release: ReleaseID
    public var component: Component
    public var version: String
    public var selection: Selection
    public var policy: Policy
    public var state: RolloutState
    /// Why it is paused, stops, failed or was aborted; empty otherwise.
    public var reason: String
    public var startedAt: Timestamp
    public var startedBy: String
    public var finishedAt: Timestamp?
    /// In ascending order of number.
    public var steps: [StepView]
    public var skipped: [PlanView.Skipped]
    public init(
        id: RolloutID, release: ReleaseID, component: Component, version: String,
        selection: Selection, policy: Policy, state: RolloutState, reason: String,
        startedAt: Timestamp, startedBy: String, finishedAt: Timestamp?, steps: [StepView],
        skipped: [PlanView.Skipped]
    ) {
        self.id = id
        self.release = release
        self.component = component
        self.version = version
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
