public import Fleet

/// A step that this host's agent has accepted, as it is kept until its report is.
public struct AcceptedStep: Hashable, Sendable {
    public struct Guest: Hashable, Sendable {
        public var plan: GuestPlan
        /// Number of the generation that it runs on; the step's own is the next.
        public var oldGeneration: Int

        public init(plan: GuestPlan, oldGeneration: Int) {
            self.plan = plan
            self.oldGeneration = oldGeneration
        }
    }

    public var directive: Directive
    public var acceptedAt: Timestamp
    /// The host's boot in which it was accepted.
    public var bootID: String
    /// One for each guest of the directive, in its order.
    public var guests: [Guest]

    public init(directive: Directive, acceptedAt: Timestamp, bootID: String, guests: [Guest]) {
        self.directive = directive
        self.acceptedAt = acceptedAt
        self.bootID = bootID
        self.guests = guests
    }

    public var grant: TokenGate.Grant {
        TokenGate.Grant(step: directive.step, token: directive.token)
    }

    /// The report of a step that has held nobody.
    public func report(_ outcome: StepOutcome, _ reason: String) -> StepReport {
        StepReport(
            step: directive.step, token: directive.token, outcome: outcome, reason: reason,
            phases: [PhaseTime(phase: .accepted, at: acceptedAt)], holds: [])
    }
}

extension StepReport {
    var grant: TokenGate.Grant { TokenGate.Grant(step: step, token: token) }
}

/// What an agent has on its disk of steps.
public struct AgentRecords: Hashable, Sendable {
    /// 0 if none was ever accepted.
    public var acceptedToken: Token
    public var inFlight: AcceptedStep?
    /// Those that the leader has not committed. In the middle of the end of a step its report is
    /// among them while the step is still in flight.
    public var reports: [StepReport]

    public init(
        acceptedToken: Token = Token(0), inFlight: AcceptedStep? = nil, reports: [StepReport] = []
    ) {
        self.acceptedToken = acceptedToken
        self.inFlight = inFlight
        self.reports = reports
    }
}

// The HoldMachine of an accepted step, wherever it stands.
extension HoldMachine {
    /// From its beginning.
    ///
    /// - Parameter parts: what this host has needed before.
    public init(_ step: AcceptedStep, parts: MeasuredParts) {
        self.init(
            directive: step.directive, plans: step.guests.map(\.plan), acceptedAt: step.acceptedAt,
            parts: parts)
    }

    /// From where an agent before this one has left it.
    ///
    /// - Parameters:
    ///   - actions: one for each guest, in the directive's order.
    ///   - notes: the agent's, then the guard's.
    public init(recovering step: AcceptedStep, actions: [RecoveryAction], notes: [HoldNote]) {
        precondition(
            actions.count == step.guests.count, "actions do not fit \(step.directive.step)")
        var phases = [PhaseTime(phase: .accepted, at: step.acceptedAt)]
        for case .phase(let phase, let at) in notes
        where !phases.contains(where: { $0.phase == phase }) {
            phases.append(PhaseTime(phase: phase, at: at))
        }
        self.init(
            recovering: step.directive,
            guests: zip(step.guests, actions).map { guest, action in
                RecoveredGuest(
                    plan: guest.plan, action: action, history: HoldHistory(notes, of: guest.plan.id)
                )
            },
            phases: phases, commands: CommandHistory(notes))
    }

    /// After a reboot of the host. What `apply` had changed may be half there, and the notes are
    /// gone with the guests: it is undone, so that these start on a host that is as it was.
    public init(undoingAfterReboot step: AcceptedStep) {
        var alone = step.directive
        alone.guests = []
        self.init(
            recovering: alone, guests: [],
            phases: [PhaseTime(phase: .accepted, at: step.acceptedAt)], commands: .unknown)
    }
}
