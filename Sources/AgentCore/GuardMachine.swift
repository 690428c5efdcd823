// The guard's whole knowledge and what it does with it.
//
//   watching ─channel closed─────────────────────────► acting ─every guest settled─► finished
//      │  │                                             ▲  ▲ └◄─one stops once more──────┘
//      │  └──deadline less the guard's reserve──► killing the agent ─its end seen──►┘
//      └──disarm──────────────────────────────────────────────────────────────────► finished
//
//  guest         message               next
//  armed         holding               held         its deadline counts
//  held          committing            committed    the old QEMU may be dead already
//  committed     undoing               held
//  any           released              released
//
//  when acting:
//  armed         discard new                     it was never stopped
//  held          kill new, then continue old
//  committed     kill old, then continue new; if the new one has ended, continue old
//  released      nothing; one that the guard has continued and that stops once more: continue it again
//  A loser that cannot be killed (EPERM) is told to die again and again; until it is, its guest stays held,
//  also beyond the deadline: a guest that stands still can be helped, one that runs twice cannot.
//  In a hold of the whole host no guest has a second process: what runs is killed first (`killCommand`),
//  and a held guest is continued at once. What was half applied the restarted agent undoes.
//
// A hung agent is killed before the guard acts, and what it had still written is read to the end, so
// that two are never at work on one guest. `cont` that is refused is sent again after a short pause.
// What is noted for the next agent is noted last: a disk that is full or hangs holds no guest.

public import Fleet

/// The guard process's decisions; pure.
public struct GuardMachine: Hashable, Sendable {
    public enum Event: Hashable, Sendable {
        case message(GuardMessage)
        /// The agent's end of the channel is gone, and every message before that has been handled.
        case channelClosed
        /// The agent that was killed has ended, or does not end in time but executes no more.
        case agentEnded
        case timerFired
        /// It stands still; noted for the next agent, if the guard has to act.
        case stopped(GuestID, at: Int64, wall: Timestamp)
        /// SIGKILL was delivered, or the process had ended before.
        case killed(GuestID, Side)
        /// It was not: the process may live on.
        case killFailed(GuestID, Side)
        case exited(GuestID, Side)
        /// `wasHeld` is false if the guest had been executing already.
        case continued(GuestID, Side, at: Int64, wasHeld: Bool)
        case continueFailed(GuestID, Side)
    }

    public enum Effect: Hashable, Sendable {
        /// There is one timer: of the times that were set, the earliest counts until it has fired.
        case setTimer(at: Int64)
        case killAgent
        /// The release's command, with everything that it has started.
        case killCommand(CommandKind)
        case kill(GuestID, Side)
        case switchQueues(GuestID, to: Side)
        case continueGuest(GuestID, Side)
        case note(HoldNote)
        /// It ends a moment later, unless it is at work again by then: see `isFinished`.
        case finish
    }

    enum Knowledge: Hashable, Sendable {
        case armed, held, committed, released
        /// The loser is told to die, and nobody is continued before that has been done.
        case killing(winner: Side)
        /// The loser has been killed; the side is continued once its end is seen, or soon.
        case dying(winner: Side)
        case continuing(Side)
    }

    struct Guest: Hashable, Sendable {
        var id: GuestID
        var knowledge: Knowledge = .armed
        var heldSince: Int64?
        var exited: [Side] = []
        /// It was noted as one that had been executing all the time.
        var isNotedUnheld = false
        /// Where the guard has continued it, or was about to.
        var continuedSide: Side?
    }

    enum Phase: Hashable, Sendable { case watching, killingAgent, acting, finished }

    let budget: HoldBudget
    /// Guests are only paused: there are no new processes.
    let isOfWholeHost: Bool
    var phase: Phase = .watching
    /// What the agent has started and not seen the end of.
    var command: CommandKind?
    var guests: [Guest]
    var effects: [Effect] = []
    /// Notes go to a disk that may be full or hang, so they wait until no guest does.
    var heldBack: [Effect] = []

    public init(guests: [GuestID], budget: HoldBudget, isOfWholeHost: Bool = false) {
        self.guests = guests.map { Guest(id: $0) }
        self.budget = budget
        self.isOfWholeHost = isOfWholeHost
    }

    public var isFinished: Bool { phase == .finished }
    /// The agent is alive, as far as is known.
    public var isWatching: Bool { phase == .watching }
    /// A hung agent has been killed, and its end is awaited.
    public var isKillingAgent: Bool { phase == .killingAgent }
    /// It ended because it was told to, not by acting.
    public private(set) var wasDisarmed = false

    /// - Parameter now: the hold clock, in microseconds.
    /// - Returns: what to do, in this order.
    public mutating func handle(_ event: Event, at now: Int64) -> [Effect] {
        effects = []
        guard !wasDisarmed else { return effects }
        switch event {
        case .message(let message):
            if phase == .watching || phase == .killingAgent { take(message, at: now) }
        case .channelClosed: if phase == .watching { act(at: now) }
        case .agentEnded: if phase == .killingAgent { act(at: now) }
        case .timerFired: onTimer(at: now)
        case .stopped(let id, let at, let wall):
            onGuest(id) { $0.onStopped($1, at: at, wall: wall) }
        case .killed(let id, let side): onGuest(id) { $0.onKilled($1, side, at: now) }
        case .killFailed(let id, let side): onGuest(id) { $0.onKillFailed($1, side, at: now) }
        case .exited(let id, let side): onGuest(id) { $0.onExited($1, side, at: now) }
        case .continued(let id, let side, let at, let wasHeld):
            onGuest(id) { $0.onContinued($1, side, resumedAt: at, wasHeld: wasHeld) }
        case .continueFailed(let id, let side):
            onGuest(id) {
                guard $0.guests[$1].knowledge == .continuing(side) else { return }
                $0.effects.append(.setTimer(at: now + $0.budget.retryMicroseconds))
            }
        }
        if phase == .acting || phase == .finished, !wasDisarmed,
            guests.allSatisfy({ $0.knowledge == .released })
        {
            effects += heldBack
            heldBack = []
            if phase == .acting { effects.append(.finish) }
            phase = .finished
        }
        return effects
    }

    /// One that was continued may stop once more, since a command of the dead agent was still on its way:
    /// then the guard is at work again until that guest, too, goes on.
    private mutating func onStopped(_ index: Int, at: Int64, wall: Timestamp) {
        if phase == .acting || phase == .finished, guests[index].knowledge == .released,
            let side = guests[index].continuedSide
        {
            guests[index].knowledge = .continuing(side)
            phase = .acting
        }
        noteStop(index, at: at, wall: wall)
    }

    private mutating func noteStop(_ index: Int, at: Int64, wall: Timestamp) {
        // Whoever stopped it before was not this step.
        guard let since = guests[index].heldSince else { return }
        let early = max(0, since - at)
        let moved = Timestamp(microseconds: wall.microseconds + early)
        heldBack.append(.note(.stopped(guests[index].id, at: at + early, wall: moved)))
    }

    private mutating func onGuest(_ id: GuestID, _ body: (inout Self, Int) -> Void) {
        guard let index = guests.firstIndex(where: { $0.id == id }) else { return }
        body(&self, index)
    }

    private mutating func take(_ message: GuardMessage, at now: Int64) {
        switch message {
        case .holding(let id, let since):
            onGuest(id) {
                guard $0.guests[$1].knowledge == .armed else { return }
                $0.guests[$1].knowledge = .held
                $0.guests[$1].heldSince = since
            }
        case .committing(let id):
            onGuest(id) {
                if $0.guests[$1].knowledge == .held, !mutated(.guardForgetsCommit) {
                    $0.guests[$1].knowledge = .committed
                }
            }
        case .undoing(let id):
            onGuest(id) {
                if $0.guests[$1].knowledge == .committed { $0.guests[$1].knowledge = .held }
            }
        case .released where mutated(.guardForgetsRelease): break
        case .released(let id): onGuest(id) { $0.guests[$1].knowledge = .released }
        case .running(let kind): command = kind
        case .ended(let kind): if command == kind { command = nil }
        case .disarm:
            guard phase == .watching else { return }
            phase = .finished
            wasDisarmed = true
            effects.append(.finish)
            return
        }
        if phase == .watching, let at = nextDeadline() { effects.append(.setTimer(at: at)) }
    }

    /// When the first of the held guests runs into the guard's reserve.
    private func nextDeadline() -> Int64? {
        guests.filter { $0.knowledge == .held || $0.knowledge == .committed }
            .compactMap(\.heldSince).min().map {
                $0 + (mutated(.guardTooLate) ? 2 : 1) * budget.guardMicroseconds
            }
    }

    private mutating func onTimer(at now: Int64) {
        switch phase {
        case .watching:
            guard let at = nextDeadline() else { return }
            guard now >= at else { return effects.append(.setTimer(at: at)) }
            if mutated(.guardSparesAgent) { return act(at: now) }
            phase = .killingAgent
            effects.append(.killAgent)
        case .acting:
            for index in guests.indices {
                switch guests[index].knowledge {
                case .killing(let winner):
                    effects.append(.kill(guests[index].id, winner.other))
                case .dying(let winner): startContinuing(index, winner, at: now)
                case .continuing where mutated(.guardTriesOnce): break
                case .continuing(let side):
                    effects.append(.continueGuest(guests[index].id, side))
                default: break
                }
            }
        case .killingAgent, .finished: break
        }
    }

    private mutating func act(at now: Int64) {
        phase = .acting
        if isOfWholeHost { return resumeHost(at: now) }
        for index in guests.indices {
            let guest = guests[index]
            switch guest.knowledge {
            case .armed:
                effects.append(.kill(guest.id, .new))
                guests[index].knowledge = .released
            case .held where mutated(.guardTakesHeldForCommitted):
                settle(index, winner: .new, reason: nil)
            case .held: settle(index, winner: .old, reason: "the agent ended during the hold")
            case .committed:
                // The old one was killed before the new one could execute, so if the new one has
                // ended without that, the old one is whole.
                if guest.exited.contains(.new), !guest.exited.contains(.old) {
                    settle(index, winner: .old, reason: "the new QEMU ended at the commit")
                } else {
                    settle(index, winner: .new, reason: nil)
                }
            case .released, .killing, .dying, .continuing: break
            }
        }
    }

    private mutating func resumeHost(at now: Int64) {
        if let command { effects.append(.killCommand(command)) }
        for index in guests.indices {
            switch guests[index].knowledge {
            case .held, .committed:
                heldBack.append(
                    .note(.undoing(guests[index].id, reason: "the agent ended during the hold")))
                startContinuing(index, .old, at: now)
            case .armed: guests[index].knowledge = .released
            case .released, .killing, .dying, .continuing: break
            }
        }
    }

    private mutating func settle(_ index: Int, winner: Side, reason: String?) {
        let id = guests[index].id
        if let reason { heldBack.append(.note(.undoing(id, reason: reason))) }
        guests[index].knowledge = .killing(winner: winner)
        if mutated(.guardSparesLoser) {
            guests[index].knowledge = .dying(winner: winner)
            return effects.append(.setTimer(at: 0))
        }
        effects.append(.kill(id, winner.other))
        effects.append(.switchQueues(id, to: winner))
    }

    private mutating func onKilled(_ index: Int, _ side: Side, at now: Int64) {
        guard case .killing(let winner) = guests[index].knowledge, winner == side.other else {
            return
        }
        // The old one waits for the new one's end because of the disk locks; the new one need not.
        if winner == .new || guests[index].exited.contains(side) {
            startContinuing(index, winner, at: now)
        } else {
            guests[index].knowledge = .dying(winner: winner)
            effects.append(.setTimer(at: now + budget.exitMicroseconds))
        }
    }

    private mutating func onKillFailed(_ index: Int, _ side: Side, at now: Int64) {
        guard guests[index].knowledge == .killing(winner: side.other) else { return }
        let isLate = now >= (guests[index].heldSince ?? now) + budget.deadlineMicroseconds
        let pause = isLate ? HoldBudget.lookMicroseconds : budget.retryMicroseconds
        effects.append(.setTimer(at: now + pause))
    }

    private mutating func startContinuing(_ index: Int, _ side: Side, at now: Int64) {
        let id = guests[index].id
        if guests[index].exited.contains(side) { return lose(index) }
        guests[index].knowledge = .continuing(side)
        guests[index].continuedSide = side
        heldBack.append(.note(.continuing(id, side, at: now, by: .guard)))
        effects.append(.continueGuest(id, side))
    }

    private mutating func lose(_ index: Int) {
        guests[index].knowledge = .released
        let reason = isOfWholeHost ? "its QEMU has ended" : "both QEMU processes have ended"
        heldBack.append(.note(.lost(guests[index].id, reason: reason)))
    }

    private mutating func onExited(_ index: Int, _ side: Side, at now: Int64) {
        if !guests[index].exited.contains(side) { guests[index].exited.append(side) }
        switch guests[index].knowledge {
        case .killing(let winner) where winner == side, .dying(let winner) where winner == side:
            lose(index)
        case .killing(let winner), .dying(let winner): startContinuing(index, winner, at: now)
        case .continuing(side): lose(index)
        default: break
        }
    }

    private mutating func onContinued(
        _ index: Int, _ side: Side, resumedAt: Int64, wasHeld: Bool
    ) {
        if guests[index].knowledge == .released, guests[index].isNotedUnheld, wasHeld {
            // A `stop` of the dead agent was still on its way, behind our `cont`.
            guests[index].isNotedUnheld = false
            heldBack.append(
                .note(.resumed(guests[index].id, side, at: resumedAt, by: .guard, wasHeld: true)))
            return
        }
        guard guests[index].knowledge == .continuing(side) else { return }
        guests[index].knowledge = .released
        guests[index].isNotedUnheld = !wasHeld
        heldBack.append(
            .note(
                .resumed(guests[index].id, side, at: resumedAt, by: .guard, wasHeld: wasHeld)))
    }
}
