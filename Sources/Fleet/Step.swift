/// Where a step is. The leader commits `granted` and `finished`; the phases between are the
/// agent's own and are shown live, and their times come with the report.
public enum StepPhase: String, Hashable, Sendable, CaseIterable {
    /// Waits for locks, a free place, or its host's agent.
    case waiting
    /// Its guests are told of it; it holds no lock yet.
    case noticed
    /// Holds its locks; the directive is on its way.
    case granted
    /// The agent has accepted the directive and its token.
    case accepted
    case preparing
    case held
    case patched
    case resumed
    case confirmed
    /// Reported and committed; the locks may still be kept, see ``StepOutcome``.
    case finished
    case cancelled
}

/// What came of a step, or of one guest's hold.
public enum StepOutcome: String, Hashable, Sendable, CaseIterable {
    /// The guest runs on the new software and was confirmed healthy.
    case succeeded
    /// The guest runs on the old software and was confirmed healthy; the reason says why.
    case failed
    /// The guest executes, but its health could not be confirmed. Its locks stay.
    case unhealthy
    /// The guest does not execute any more. Its locks stay.
    case lost

    /// Whether the step's locks may go: the guests are confirmed healthy.
    public var releasesLocks: Bool { self == .succeeded || self == .failed }
}

/// Who continued a guest after its hold: the three layers.
public enum Resumer: String, Hashable, Sendable, CaseIterable {
    case agent
    case `guard`
    case restartedAgent
}

/// One hold of one guest, as its agent measured it. The source of its annotation.
public struct HoldRecord: Hashable, Sendable {
    public var guest: GuestID
    public var outcome: StepOutcome
    /// In words; empty if the outcome is `succeeded` and nothing is worth saying.
    public var reason: String
    /// When the guest stopped executing, on the host's wall clock.
    public var heldAt: Timestamp
    /// How long it did not execute, on the hold clock, in microseconds; nil if it never went on.
    public var holdMicroseconds: Int64?
    public var resumedBy: Resumer
    /// Guest clock minus host clock before it was set, in microseconds; nil if not measured.
    public var clockErrorBeforeMicroseconds: Int64?
    /// The same after it was set and read back.
    public var clockErrorAfterMicroseconds: Int64?
    /// Why the clock was not set or not measured, in words; empty if it was.
    public var clockNote: String
    public var hypervisorBefore: String
    public var hypervisorAfter: String

    public init(
        guest: GuestID, outcome: StepOutcome, reason: String, heldAt: Timestamp,
        holdMicroseconds: Int64?, resumedBy: Resumer, clockErrorBeforeMicroseconds: Int64?,
        clockErrorAfterMicroseconds: Int64?, clockNote: String, hypervisorBefore: String,
        hypervisorAfter: String
    ) {
        self.guest = guest
        self.outcome = outcome
        self.reason = reason
        self.heldAt = heldAt
        self.holdMicroseconds = holdMicroseconds
        self.resumedBy = resumedBy
        self.clockErrorBeforeMicroseconds = clockErrorBeforeMicroseconds
        self.clockErrorAfterMicroseconds = clockErrorAfterMicroseconds
        self.clockNote = clockNote
        self.hypervisorBefore = hypervisorBefore
        self.hypervisorAfter = hypervisorAfter
    }
}

/// When a step reached a phase, on the host's wall clock.
public struct PhaseTime: Hashable, Sendable {
    public var phase: StepPhase
    public var at: Timestamp
    public init(phase: StepPhase, at: Timestamp) {
        self.phase = phase
        self.at = at
    }
}

/// The agent's last word on a step. Repeated until the leader has committed it.
public struct StepReport: Hashable, Sendable {
    public var step: StepID
    /// The token of the grant that this report answers.
    public var token: Token
    /// The worst of the holds; `failed` if nothing was held at all.
    public var outcome: StepOutcome
    public var reason: String
    public var phases: [PhaseTime]
    /// One for each guest that was really held; a guest that was never stopped has none.
    public var holds: [HoldRecord]

    public init(
        step: StepID, token: Token, outcome: StepOutcome, reason: String, phases: [PhaseTime],
        holds: [HoldRecord]
    ) {
        self.step = step
        self.token = token
        self.outcome = outcome
        self.reason = reason
        self.phases = phases
        self.holds = holds
    }
}

/// Where a step is on its way between `accepted` and `finished`; shown live, never committed.
public struct StepProgress: Hashable, Sendable {
    public var step: StepID
    public var token: Token
    public var phase: StepPhase
    public var at: Timestamp
    public init(step: StepID, token: Token, phase: StepPhase, at: Timestamp) {
        self.step = step
        self.token = token
        self.phase = phase
        self.at = at
    }
}

/// The leader's order to an agent: run this step, whole, by yourself. Idempotent by step and token.
public struct Directive: Hashable, Sendable {
    public var step: StepID
    public var token: Token
    public var host: HostID
    public var release: Release
    /// The pause group, in ascending order: one or more for ``HoldScope/guest``, all that run
    /// on the host for ``HoldScope/host`` (none if none runs), none for ``HoldScope/none``.
    public var guests: [GuestID]
    public var deadlineMilliseconds: UInt32

    public init(
        step: StepID, token: Token, host: HostID, release: Release, guests: [GuestID],
        deadlineMilliseconds: UInt32
    ) {
        self.step = step
        self.token = token
        self.host = host
        self.release = release
        self.guests = guests
        self.deadlineMilliseconds = deadlineMilliseconds
    }
}

/// An agent's answer to a directive: taken, or why not. A refused directive had no effect.
public enum DirectiveAnswer: Hashable, Sendable {
    case accepted
    /// `token` is lower than `acceptedToken`: whoever sent it has been deposed.
    case staleToken(acceptedToken: Token)
    /// Another step runs on this host; ask again when it has reported.
    case busy(with: StepID)
    /// The agent cannot run it, for the reason given; nothing was touched.
    case refused(reason: String)
}

/// An ordinary answer to something that may not be done now.
public struct Refusal: Error, Hashable, Sendable {
    public enum Code: String, Hashable, Sendable, CaseIterable {
        case notFound
        case alreadyExists
        case conflict
        case invalid
        case notSupported
        case notPermitted
        case unavailable
        /// There is nothing to do, for example no guest that the release would change.
        case nothingToDo
    }
    public var code: Code
    /// What happened, to what.
    public var message: String
    /// What to do next, in the imperative; empty if nothing can be done.
    public var advice: String
    public init(_ code: Code, _ message: String, advice: String = "") {
        self.code = code
        self.message = message
        self.advice = advice
    }
}
