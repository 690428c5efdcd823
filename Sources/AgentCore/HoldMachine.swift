// One step over a pause group: its guests are held one by one and handed over (`hypervisor`), or all
// together while commands change the host under them; HoldMachineHost.swift has the table of that.
//
// The step:
//
//   idle ─begin─► verifying ─artifact─► preparing ─all prepared─► arming ─guard armed─► active ─► finished
//                     └───────────────────────┴──────────────────────┘
//              refused, failed, timed out: abandoned; every guest runs on untouched
//
// Each guest, once the step is active (at most `concurrency` of them at a time):
//
//   preparing ► prepared ► switching ► stopping ► moving ► committing ► continuing ► confirming(new) ► done
//                   │          │           └────┬────┘ ╲                    │               │
//                   ▼          ▼                ▼       ► orphaned ─────────┴──► lost ◄─────┘
//                done(failed), never held    undoing ► returning ► confirming(old) ► done
//
//  state           event                        next             effects
//  preparing       prepared                     prepared         after the last one: arm the guard
//  preparing …     prepareFailed, exited(new)   done(failed)     the step is abandoned
//  … prepared      exited(old)                  done(lost)       the step is abandoned
//  prepared        its turn                     switching        guard: holding; abort timer; queues to new
//  switching       queuesSwitched               stopping         stop and move
//  switching       queuesFailed, exited(new)    done(failed)     queues to old, discard new
//  stopping        stopped                      moving
//  stop./moving    moved                        committing       note and guard: committing; kill old
//  stop./moving    moveFailed, exited(new),     undoing          kill new, queues to old
//                  abort timer
//  stop./moving    exited(old)                  orphaned         what was sent may be complete
//  orphaned        moved                        committing
//  orphaned        any failure, abort timer     done(lost)
//  committing      killed(old)                  continuing       continue new
//  committing      killFailed(old)              undoing          guard: undoing; kill new, queues to old
//  continuing      continued(new)               confirming(new)  guard: released; adopt new; confirm
//  continuing      exited(new)                  done(lost)
//  undoing         killed(new) and exited(new),
//                  or retry timer after killed  returning        continue old
//  returning       continued(old)               confirming(old)  guard: released; discard new; confirm
//  undoing/return. exited(old)                  done(lost)
//  cont./return.   continueFailed               same             again after a short pause; long after the
//                                                                deadline: done(lost)
//  confirming      confirmed, confirm timer     done(…)          done(succeeded, failed or unhealthy)
//  confirming(s)   exited(s)                    done(lost)
//  done            anything                     done
//  unreachable     found                        as an agent's restart finds it: HoldReport.swift
//
// A pair that is not in the table changes nothing. Invariant 3 can be read off it: "continue new" is
// reached only through killed(old), and "continue old" only through killed(new), or when the guest
// was never handed to a process that could execute it.

public import Fleet

/// Computes what to do in one step, from what has happened. Has no clock: every event brings one.
public struct HoldMachine: Sendable {
    enum Phase: String, Hashable, Sendable {
        case idle, verifying, preparing, arming, active, finished
    }

    enum GuestState: Hashable, Sendable {
        case preparing, prepared, switching, stopping, moving, orphaned, committing, continuing
        case undoing, returning
        /// In a hold of the whole host.
        case pausing, paused
        /// After a restart: which of its processes it is on is not known yet.
        case unreachable
        case confirming(Side)
        case done(StepOutcome)
    }

    struct Guest: Hashable, Sendable {
        var plan: GuestPlan
        var state: GuestState = .preparing
        /// When `stop` was about to be sent; the deadline counts from here.
        var holdingAt: Int64?
        var holdingWall = Timestamp(microseconds: 0)
        /// When the guest stopped executing; nil if it never did.
        var heldAt: Int64?
        var heldWall = Timestamp(microseconds: 0)
        var resumedAt: Int64?
        var resumedBy: Resumer = .agent
        /// Where it executes, or would.
        var side: Side = .old
        var newKilled = false
        var newExited = false
        var reason = ""
        var confirmation: Confirmation?

        var isDone: Bool { if case .done = state { true } else { false } }

        /// Between the guard's `holding` and `released`.
        var isInHold: Bool {
            switch state {
            case .switching, .stopping, .moving, .orphaned, .committing, .continuing, .undoing,
                .returning, .pausing, .paused:
                true
            case .preparing, .prepared, .unreachable, .confirming, .done: false
            }
        }
    }

    public let directive: Directive
    public let budget: HoldBudget
    /// How many guests are held at a time: more on few CPUs would make each hold longer.
    let concurrency: Int
    /// Who continues a guest that this machine continues.
    let resumer: Resumer
    var phase: Phase = .idle
    /// In the order of the directive.
    var guests: [Guest]
    var phases: [PhaseTime] = []
    /// Why no further guest is held.
    var abandonReason: String?
    var guardIsArmed = false
    /// What a restarted agent begins with, one for each guest; empty otherwise.
    var actions: [RecoveryAction] = []
    var histories: [HoldHistory] = []
    var effects: [HoldEffect] = []
    /// Where the commands of a ``Work/host(_:)`` are; `none` for other work.
    var patch = Patch.none
    /// Why what `apply` has done must go again, although it ended well; empty if not.
    var cutShortReason = ""
    /// What a restarted agent knows of the commands.
    var commands = CommandHistory([])

    /// A step from its beginning.
    ///
    /// - Parameters:
    ///   - directive: accepted and kept safe.
    ///   - plans: one for each guest of the directive, in its order; 1 ... ``Limits/stepGuestsMax``, or
    ///     none if the release needs no guest.
    ///   - acceptedAt: when the directive was accepted.
    ///   - concurrency: how many guests are held at a time, of those that are handed over; at least 1.
    ///   - parts: what this host has needed before.
    public init(
        directive: Directive, plans: [GuestPlan], acceptedAt: Timestamp, concurrency: Int = 2,
        parts: MeasuredParts = MeasuredParts()
    ) {
        precondition(
            plans.map(\.id) == directive.guests
                && (!plans.isEmpty || directive.release.scope != .guest)
                && plans.count <= Limits.stepGuestsMax,
            "plans do not fit \(directive.step)")
        self.directive = directive
        self.concurrency = max(1, concurrency)
        budget = HoldBudget(directive, parts)
        resumer = .agent
        guests = plans.map { Guest(plan: $0) }
        phases = [PhaseTime(phase: .accepted, at: acceptedAt)]
    }

    /// Whether the step is over and its report given.
    public var isFinished: Bool { phase == .finished }

    /// The guests that a step holds, or is about to: neither running by themselves nor over.
    public var heldGuests: [GuestID] { guests.filter(\.isInHold).map(\.plan.id) }

    /// Takes in one event.
    ///
    /// - Parameters:
    ///   - event: what happened.
    ///   - now: the hold clock, in microseconds.
    ///   - wall: the wall clock, for the record.
    /// - Returns: what to do, in this order. Events that these bring come back through `handle`.
    public mutating func handle(_ event: HoldEvent, at now: Int64, wall: Timestamp) -> [HoldEffect]
    {
        effects = []
        switch event {
        case .begin: begin(at: now, wall: wall)
        case .artifactVerified:
            guard phase == .verifying else { break }
            phase = .preparing
            if work != nil {
                beginPreparingHost(at: now)
            } else {
                for guest in guests { effects.append(.prepare(guest.plan.id)) }
            }
        case .artifactRefused(let reason):
            guard phase == .verifying else { break }
            abandon(reason)
        case .guardArmed:
            guard phase == .arming else { break }
            phase = .active
            guardIsArmed = true
            effects.append(.cancelTimer(.prepare))
            if work != nil { pauseAll(at: now, wall: wall) }
        case .guardFailed(let reason):
            guardIsArmed = false
            abandon("the guard process failed: \(reason)")
            if work != nil { cutShort("the guard process failed: \(reason)", at: now) }
        case .holdRefused(let reason):
            guard phase == .arming else { break }
            abandon(reason)
        case .timerFired(.prepare):
            guard phase == .verifying || phase == .preparing || phase == .arming else { break }
            abandon("preparing took longer than \(budget.prepareMicroseconds / 1_000_000) s")
        case .timerFired(.patch): onPatchTimer(at: now)
        case .timerFired(.resume): onResumeTimer(at: now)
        case .commandEnded(let kind, let problem): onCommandEnded(kind, problem, at: now)
        case .timerFired(.abort(let id)): onGuest(id) { $0.onAbortTimer($1, at: now) }
        case .timerFired(.retry(let id)): onGuest(id) { $0.onRetryTimer($1, at: now) }
        case .timerFired(.confirm(let id)): onGuest(id) { $0.onConfirmTimer($1) }
        case .guest(let id, let event):
            onGuest(id) { $0.on(event, of: $1, at: now, wall: wall) }
        }
        advance(at: now, wall: wall)
        return effects
    }

    private mutating func onGuest(_ id: GuestID, _ body: (inout Self, Int) -> Void) {
        guard phase != .idle, phase != .finished,
            let index = guests.firstIndex(where: { $0.plan.id == id })
        else { return }
        body(&self, index)
    }

    private mutating func begin(at now: Int64, wall: Timestamp) {
        guard phase == .idle else { return }
        if resumer == .restartedAgent {
            phase = .active
            abandonReason = "the agent was restarted"
            if work != nil { return beginRecoveredHost(at: now) }
            for index in guests.indices { beginRecovered(index, at: now) }
        } else {
            phase = .verifying
            reach(.preparing, at: wall)
            effects.append(.setTimer(.prepare, at: now + budget.prepareMicroseconds))
            effects.append(.verifyArtifact)
        }
    }

    /// No further guest is held; those that have not been touched go on as they are.
    mutating func abandon(_ reason: String) {
        guard phase != .idle, phase != .finished else { return }
        if abandonReason == nil { abandonReason = reason }
        if work != nil, phase == .preparing { effects.append(.killCommand) }
        for index in guests.indices {
            guard guests[index].state == .preparing || guests[index].state == .prepared else {
                continue
            }
            end(index, .failed, reason: "not held: \(reason)")
            if work == nil { effects.append(.discard(guests[index].plan.id, .new)) }
        }
    }

    /// What follows from the states of all guests together.
    private mutating func advance(at now: Int64, wall: Timestamp) {
        if phase == .preparing, work == nil, guests.allSatisfy({ $0.state == .prepared }) {
            phase = mutated(.guardDropped) ? .active : .arming
            if phase == .arming { effects.append(.armGuard) }
        }
        if phase == .active, work == nil {
            // A failed hold stops the next ones: what hurt one guest would hurt its neighbours.
            if abandonReason == nil, let bad = guests.first(where: { !$0.reason.isEmpty }) {
                abandon("\(bad.plan.id): \(bad.reason)")
            }
            startHolds(at: now, wall: wall)
        }
        notePhases(wall: wall)
        guard phase != .idle, phase != .finished, guests.allSatisfy(\.isDone), isPatchOver else {
            return
        }
        phase = .finished
        effects.append(.cancelTimer(.prepare))
        if guardIsArmed { effects.append(.tellGuard(.disarm)) }
        effects.append(.finish(report()))
    }

    private mutating func startHolds(at now: Int64, wall: Timestamp) {
        var free = concurrency - guests.count(where: \.isInHold)
        for index in guests.indices where guests[index].state == .prepared {
            guard free > 0 else { return }
            free -= 1
            let id = guests[index].plan.id
            guests[index].state = .switching
            guests[index].holdingAt = now
            guests[index].holdingWall = wall
            effects.append(.note(.holding(id, at: now, wall: wall)))
            effects.append(.tellGuard(.holding(id, since: now)))
            effects.append(.setTimer(.abort(id), at: now + budget.abortMicroseconds))
            effects.append(.switchQueues(id, to: .new))
        }
    }

    private mutating func notePhases(wall: Timestamp) {
        let touched = guests.filter { $0.heldAt != nil }
        guard phase == .active, !touched.isEmpty else { return }
        reach(.held, at: wall)
        let isWaiting = guests.contains { $0.state == .prepared || $0.state == .switching }
        guard !isWaiting else { return }
        let isMoving = guests.contains {
            $0.state == .stopping || $0.state == .moving || $0.state == .orphaned
        }
        guard !isMoving else { return }
        reach(.patched, at: wall)
        guard !guests.contains(where: \.isInHold), touched.contains(where: { $0.resumedAt != nil })
        else { return }
        reach(.resumed, at: wall)
        guard guests.allSatisfy(\.isDone) else { return }
        reach(.confirmed, at: wall)
    }

    mutating func reach(_ reached: StepPhase, at wall: Timestamp) {
        guard !phases.contains(where: { $0.phase == reached }) else { return }
        phases.append(PhaseTime(phase: reached, at: wall))
        effects.append(.note(.phase(reached, at: wall)))
        effects.append(.progress(reached))
    }
}
