internal import Fleet

// A step whose guests are held all together, or not at all, while commands change their host.
//
//   preparing ─prepare ended─► arming ─armed─► pausing ─all paused─► applying ─► checking ─► applied
//                                 │ (no guest: straight to applying)     └────┬─────┘            │
//                                 ▼                                      undoing ─► undone       │
//                             abandoned                                     └─────► unsafe       │
//                                                                                  └──► resume ◄─┘
//
//  commands    event                                next       effects
//  none        prepare ended with 0                 none       arm the guard; without guests: run apply
//  none        prepare failed                       –          abandoned: nothing was held
//  none        guard armed                          none       every guest: guard: holding, pause; timers
//  none        last guest stopped                   applying   run apply
//  none        a guest cannot be paused, has ended  undone     continue all
//              the patch or resume timer            undone     continue all
//  applying    apply ended with 0                   checking   run check; without one: applied
//  app./check. failed, or cut short before          undoing    run undo; without one: unsafe
//  checking    check ended with 0                   applied    continue all
//  app./check. patch timer, guest ended, guard      same       kill the command; its end undoes
//              failed
//  undoing     undo ended with 0                    undone     continue all
//  undoing     undo failed                          unsafe     continue all
//  app./check./undoing  resume timer                unsafe     kill the command, continue all
//
//  guest       event                                next
//  prepared    guard armed                          pausing
//  pausing     stopped                              paused
//  pau./paused its QEMU ended                       done(lost)
//  pau./paused continue all                         returning, then as in the other table
//  confirming  confirmed, once the commands are over  done
//
// A guest ends `succeeded` with `applied`, `failed` with `undone`, and `unhealthy` with `unsafe`: it
// executes, but nobody knows what its host is like.
//
// After a restart the guests go first; then what the notes tell: apply and check were over: `applied`;
// apply had begun: undo it; else nothing had been touched.

/// Where the commands of a step are.
enum Patch: Hashable, Sendable {
    case none
    case applying, checking, undoing(reason: String)
    case applied
    /// The host is as it was before.
    case undone(reason: String)
    /// Nobody knows.
    case unsafe(reason: String)

    var reason: String {
        switch self {
        case .none, .applying, .checking, .applied: ""
        case .undoing(let reason), .undone(let reason), .unsafe(let reason): reason
        }
    }
}

extension HoldMachine {
    /// The commands, if that is what the release is.
    var work: HostWork? {
        if case .host(let work) = directive.release.work { work } else { nil }
    }

    /// Whether the commands have nothing to say any more.
    var isPatchOver: Bool {
        switch patch {
        case .applied, .undone, .unsafe: true
        case .none: work == nil || (abandonReason != nil && guests.allSatisfy { !$0.isInHold })
        case .applying, .checking, .undoing: false
        }
    }

    /// What the commands alone say about the outcome.
    var hostOutcomes: [StepOutcome] {
        switch patch {
        case .none: []
        case .applying, .checking, .undoing, .undone: [.failed]
        case .applied: [.succeeded]
        // Without a guest there is nothing that could be unhealthy.
        case .unsafe: [guests.isEmpty ? .failed : .unhealthy]
        }
    }

    /// Whether the host has the release now; nil if nobody knows.
    public var isPatched: Bool? {
        switch patch {
        case .applied: true
        case .none, .undone: false
        case .applying, .checking, .undoing, .unsafe: nil
        }
    }

    /// What an earlier agent has begun and noted no end of; after a reboot also what it may have begun.
    public var commandLeftRunning: CommandKind? { commands.running }

    // MARK: Before the hold

    mutating func beginPreparingHost(at now: Int64) {
        for index in guests.indices where guests[index].state == .preparing {
            guests[index].state = .prepared
        }
        if work?.prepare != nil { run(.prepare) } else { hostIsPrepared(at: now) }
    }

    private mutating func hostIsPrepared(at now: Int64) {
        guard phase == .preparing else { return }
        guard guests.isEmpty else {
            phase = .arming
            return effects.append(.armGuard)
        }
        phase = .active
        effects.append(.cancelTimer(.prepare))
        apply()
    }

    private mutating func run(_ kind: CommandKind) {
        effects.append(.note(.commandBegan(kind)))
        if guardIsArmed { effects.append(.tellGuard(.running(kind))) }
        effects.append(.run(kind))
    }

    // MARK: The hold

    mutating func pauseAll(at now: Int64, wall: Timestamp) {
        effects.append(.setTimer(.patch, at: now + budget.patchMicroseconds))
        effects.append(.setTimer(.resume, at: now + budget.resumeMicroseconds))
        for index in guests.indices where guests[index].state == .prepared {
            let id = guests[index].plan.id
            guests[index].state = .pausing
            guests[index].holdingAt = now
            guests[index].holdingWall = wall
            effects.append(.note(.holding(id, at: now, wall: wall)))
            effects.append(.tellGuard(.holding(id, since: now)))
        }
        // The guard knows of all of them before the first one stops.
        for guest in guests where guest.state == .pausing { effects.append(.pause(guest.plan.id)) }
    }

    mutating func applyOncePaused(at now: Int64) {
        guard work != nil, phase == .active, patch == .none,
            guests.allSatisfy({ $0.isDone || $0.state == .paused })
                || mutated(.applyBeforePaused)
        else { return }
        guard cutShortReason.isEmpty else { return }
        apply()
    }

    private mutating func apply() {
        patch = .applying
        run(.apply)
    }

    mutating func onCommandEnded(_ kind: CommandKind, _ problem: String?, at now: Int64) {
        guard phase != .idle, phase != .finished else { return }
        effects.append(.note(.commandEnded(kind, problem: problem)))
        if guardIsArmed { effects.append(.tellGuard(.ended(kind))) }
        switch (kind, patch) {
        case (.prepare, .none):
            guard phase == .preparing else { break }
            if let problem { return abandon("prepare: \(problem)") }
            hostIsPrepared(at: now)
        case (.apply, .applying), (.check, .checking):
            if !cutShortReason.isEmpty { return undo(cutShortReason, at: now) }
            if let problem { return undo("\(kind): \(problem)", at: now) }
            if kind == .apply, work?.check != nil {
                patch = .checking
                run(.check)
            } else {
                endPatch(.applied, at: now)
            }
        case (.undo, .undoing(let reason)):
            guard let problem else { return endPatch(.undone(reason: reason), at: now) }
            endPatch(.unsafe(reason: "\(reason); then undo: \(problem)"), at: now)
        default: break
        }
    }

    private mutating func undo(_ reason: String, at now: Int64) {
        guard work?.undo != nil else {
            return endPatch(
                .unsafe(reason: "\(reason); the release has nothing to undo it"), at: now)
        }
        patch = .undoing(reason: reason)
        effects.append(.cancelTimer(.patch))
        run(.undo)
    }

    /// What was applied is not wanted any more, for example because a guest was lost under it.
    mutating func cutShort(_ reason: String, at now: Int64) {
        guard work != nil, phase == .active, cutShortReason.isEmpty else { return }
        switch patch {
        case .none:
            cutShortReason = reason
            endPatch(.undone(reason: reason), at: now)
        case .applying, .checking:
            cutShortReason = reason
            effects.append(.killCommand)
        case .undoing, .applied, .undone, .unsafe: break
        }
    }

    mutating func onPatchTimer(at now: Int64) {
        let limit = budget.patchMicroseconds / 1_000
        cutShort("the hold had no time left for it after \(limit) ms", at: now)
    }

    mutating func onResumeTimer(at now: Int64) {
        let reason = "the guests had to go on before the host was done"
        switch patch {
        case .none: cutShort(reason, at: now)
        case .applying, .checking, .undoing:
            effects.append(.killCommand)
            let before = patch.reason.isEmpty ? cutShortReason : patch.reason
            endPatch(.unsafe(reason: before.isEmpty ? reason : "\(before); \(reason)"), at: now)
        case .applied, .undone, .unsafe: break
        }
    }

    private mutating func endPatch(_ end: Patch, at now: Int64) {
        patch = end
        effects.append(.cancelTimer(.patch))
        effects.append(.cancelTimer(.resume))
        for index in guests.indices {
            switch guests[index].state {
            case .pausing, .paused: continueOld(index, at: now)
            case .confirming:
                if let confirmation = guests[index].confirmation {
                    endConfirmed(index, confirmation)
                }
            default: break
            }
        }
    }

    // MARK: After a restart

    mutating func beginRecoveredHost(at now: Int64) {
        if commands.running != nil { effects.append(.killCommand) }
        for index in guests.indices { beginRecoveredOnHost(index, at: now) }
        switch commands.state(hasCheck: work?.check != nil) {
        case .untouched:
            endPatch(.undone(reason: "the agent ended before anything was applied"), at: now)
        case .applied: endPatch(.applied, at: now)
        case .undone(let reason): endPatch(.undone(reason: reason), at: now)
        case .unknown: undo("the agent ended in the middle of it", at: now)
        }
    }
}

extension HoldMachine {
    mutating func beginRecoveredOnHost(_ index: Int, at now: Int64) {
        guests[index].holdingAt = guests[index].holdingAt ?? now
        noteFoundStopped(index)
        switch actions[index] {
        case .keep(.old): settle(index, on: .old, at: now)
        case .continueGuest(.old):
            guests[index].resumedAt = nil
            continueOld(index, at: now)
        case .lost(let reason): loseFound(index, reason)
        // There never was a second process.
        case .keep(.new), .continueGuest(.new): lose(index, "its QEMU was not found")
        case .unnamed: endUnnamed(index)
        case .wait: guests[index].state = .unreachable
        }
    }
}

/// What the notes tell of a step's commands.
public struct CommandHistory: Hashable, Sendable {
    enum State: Hashable { case untouched, applied, unknown, undone(reason: String) }

    private var began: [CommandKind] = []
    private var succeeded: [CommandKind] = []
    private var ended = 0
    private var problem = ""

    public init(_ notes: [HoldNote]) {
        for note in notes {
            switch note {
            case .commandBegan(let kind): began.append(kind)
            case .commandEnded(let kind, nil):
                ended += 1
                succeeded.append(kind)
            case .commandEnded(let kind, let text?):
                ended += 1
                if problem.isEmpty { problem = "\(kind): \(text)" }
            default: break
            }
        }
    }

    /// Notes are gone when the host has been restarted: anything may have happened.
    public static var unknown: CommandHistory {
        CommandHistory([.commandBegan(.apply)])
    }

    /// Begun, and its end was not noted.
    public var running: CommandKind? { began.count > ended ? began.last : nil }

    func state(hasCheck: Bool) -> State {
        if succeeded.contains(.undo) {
            return .undone(reason: problem.isEmpty ? "it was undone" : problem)
        }
        guard began.contains(.apply) else { return .untouched }
        let last: CommandKind = hasCheck ? .check : .apply
        return succeeded.contains(last) && !began.contains(.undo) ? .applied : .unknown
    }
}
