public import Fleet

/// One line that agent and guard leave in the run directory for an agent that is started again.
///
/// Ownership of a guest is read from its processes, and from these lines only times and names for the
/// report, since a line may be missing because its writer was killed just before. `committing` alone
/// says more, and is missing only if what it announces was not done.
public enum HoldNote: Hashable, Sendable {
    case phase(StepPhase, at: Timestamp)
    /// `stop` is about to be sent.
    case holding(GuestID, at: Int64, wall: Timestamp)
    case stopped(GuestID, at: Int64, wall: Timestamp)
    /// `cont` is about to be sent to that side.
    case continuing(GuestID, Side, at: Int64, by: Resumer)
    /// `wasHeld` is false if the guest had been executing all the time.
    case resumed(GuestID, Side, at: Int64, by: Resumer, wasHeld: Bool)
    /// The new process has everything, and the old one is about to be killed: what the new one has is
    /// the newest there is. Of an old one that ended otherwise nobody knows whether its guest went on.
    case committing(GuestID)
    case undoing(GuestID, reason: String)
    case lost(GuestID, reason: String)
    /// Its processes, before the file in which a supervisor finds one of them is changed.
    case processes(GuestID, old: Int32, new: Int32)
    /// A command of the release is about to be started.
    case commandBegan(CommandKind)
    /// It has ended; nil if with 0.
    case commandEnded(CommandKind, problem: String?)

    /// Fields separated by tabs, without a line end.
    public var line: String {
        switch self {
        case .phase(let phase, let at): "phase\t\(phase.rawValue)\t\(at.microseconds)"
        case .holding(let guest, let at, let wall):
            "holding\t\(guest)\t\(at)\t\(wall.microseconds)"
        case .stopped(let guest, let at, let wall):
            "stopped\t\(guest)\t\(at)\t\(wall.microseconds)"
        case .continuing(let guest, let side, let at, let by):
            "continuing\t\(guest)\t\(side)\t\(at)\t\(by.rawValue)"
        case .resumed(let guest, let side, let at, let by, let wasHeld):
            "resumed\t\(guest)\t\(side)\t\(at)\t\(by.rawValue)\t\(wasHeld ? 1 : 0)"
        case .committing(let guest): "committing\t\(guest)"
        case .undoing(let guest, let reason): "undoing\t\(guest)\t\(oneLine(reason))"
        case .lost(let guest, let reason): "lost\t\(guest)\t\(oneLine(reason))"
        case .processes(let guest, let old, let new): "processes\t\(guest)\t\(old)\t\(new)"
        case .commandBegan(let kind): "began\t\(kind.rawValue)"
        case .commandEnded(let kind, nil): "succeeded\t\(kind.rawValue)"
        case .commandEnded(let kind, let problem?): "failed\t\(kind.rawValue)\t\(oneLine(problem))"
        }
    }

    /// - Returns: nil for a line that is cut off or otherwise not one of ours.
    public init?(line: some StringProtocol) {
        let fields: [String] = String(line).split(
            separator: "\t" as Character, omittingEmptySubsequences: false
        ).map { String($0) }
        func field(_ index: Int) -> String? { index < fields.count ? fields[index] : nil }
        func number(_ index: Int) -> Int64? { field(index).flatMap { Int64($0) } }
        func guest() -> GuestID? { field(1).flatMap { GuestID($0) } }
        func side() -> Side? { field(2).flatMap { Side(rawValue: $0) } }
        func wall(_ index: Int) -> Timestamp? { number(index).map { Timestamp(microseconds: $0) } }
        switch fields.first {
        case "phase":
            guard let phase = field(1).flatMap({ StepPhase(rawValue: $0) }), let at = wall(2)
            else { return nil }
            self = .phase(phase, at: at)
        case "holding":
            guard let guest = guest(), let at = number(2), let wall = wall(3) else { return nil }
            self = .holding(guest, at: at, wall: wall)
        case "stopped":
            guard let guest = guest(), let at = number(2), let wall = wall(3) else { return nil }
            self = .stopped(guest, at: at, wall: wall)
        case "continuing":
            guard let guest = guest(), let side = side(), let at = number(3),
                let by = field(4).flatMap({ Resumer(rawValue: $0) })
            else { return nil }
            self = .continuing(guest, side, at: at, by: by)
        case "resumed":
            guard let guest = guest(), let side = side(), let at = number(3),
                let by = field(4).flatMap({ Resumer(rawValue: $0) }), let held = number(5)
            else { return nil }
            self = .resumed(guest, side, at: at, by: by, wasHeld: held == 1)
        case "committing":
            guard let guest = guest() else { return nil }
            self = .committing(guest)
        case "undoing":
            guard let guest = guest(), let reason = field(2) else { return nil }
            self = .undoing(guest, reason: reason)
        case "lost":
            guard let guest = guest(), let reason = field(2) else { return nil }
            self = .lost(guest, reason: reason)
        case "processes":
            guard let guest = guest(), let old = field(2).flatMap({ Int32($0) }),
                let new = field(3).flatMap({ Int32($0) })
            else { return nil }
            self = .processes(guest, old: old, new: new)
        case "began", "succeeded", "failed":
            guard let kind = field(1).flatMap({ CommandKind(rawValue: $0) }) else { return nil }
            switch fields[0] {
            case "began": self = .commandBegan(kind)
            case "succeeded": self = .commandEnded(kind, problem: nil)
            default: self = .commandEnded(kind, problem: field(2) ?? "")
            }
        default: return nil
        }
    }

    /// The guest that the line is about.
    public var guest: GuestID? {
        switch self {
        case .phase, .commandBegan, .commandEnded: nil
        case .holding(let guest, _, _), .stopped(let guest, _, _), .continuing(let guest, _, _, _),
            .resumed(let guest, _, _, _, _), .committing(let guest), .undoing(let guest, _),
            .lost(let guest, _), .processes(let guest, _, _):
            guest
        }
    }
}

private func oneLine(_ text: String) -> String {
    String(text.map { $0 == "\t" || $0.isNewline ? " " : $0 })
}

/// What the notes of one guest tell, folded.
public struct HoldHistory: Hashable, Sendable {
    /// When `stop` was about to be sent.
    public private(set) var holdingAt: Int64?
    public private(set) var holdingWall: Timestamp?
    /// When the guest was seen to stop.
    public private(set) var stoppedAt: Int64?
    public private(set) var stoppedWall: Timestamp?
    /// The first `cont` that was about to be sent, and who was about to.
    public private(set) var continuingAt: Int64?
    public private(set) var continuingBy: Resumer?
    public private(set) var resumedAt: Int64?
    public private(set) var resumedBy: Resumer?
    public private(set) var resumedSide: Side?
    /// Known to have been stopped; nil if the notes do not tell.
    public private(set) var wasHeld: Bool?
    /// When it was found executing, and was taken for one that had done so all the time.
    public private(set) var unheldAt: Int64?
    /// The old process was killed, or was about to be, and nobody has given that up.
    public private(set) var isCommitted = false
    public private(set) var reason = ""
    /// The processes of an adopted guest, of which either may have ended since.
    public private(set) var pids: [Side: Int32] = [:]

    /// - Parameters:
    ///   - notes: the agent's, then the guard's; those of other guests are skipped.
    ///   - guest: the guest.
    public init(_ notes: [HoldNote], of guest: GuestID) {
        for note in notes where note.guest == guest { fold(note) }
    }

    /// When it stopped, or the last that is known of before, on the hold clock.
    public var heldAt: Int64? { stoppedAt ?? unheldAt ?? holdingAt }

    /// The same by the wall clock.
    public var heldWall: Timestamp? {
        if let stoppedWall { return stoppedWall }
        guard let unheldAt, let holdingAt, let holdingWall else { return holdingWall }
        return Timestamp(microseconds: holdingWall.microseconds + unheldAt - holdingAt)
    }

    private mutating func fold(_ note: HoldNote) {
        switch note {
        case .phase, .commandBegan, .commandEnded: break
        case .holding where mutated(.noteOfHoldIgnored): break
        case .holding(_, let at, let wall):
            holdingAt = at
            holdingWall = wall
        case .stopped(_, let at, let wall):
            // The guard may have seen it, too.
            if stoppedAt == nil {
                stoppedAt = at
                stoppedWall = wall
            }
            wasHeld = true
        case .continuing(_, _, let at, let by):
            if resumedAt == nil, continuingAt == nil {
                continuingAt = at
                continuingBy = by
            }
            // It continues only whom it has found standing still.
            if by == .restartedAgent, !mutated(.finishedHoldForgotten) { wasHeld = true }
        case .resumed(_, let side, let at, let by, let held):
            guard resumedAt == nil else { break }
            resumedSide = side
            if held {
                resumedAt = at
                resumedBy = by
                wasHeld = true
            } else if stoppedAt != nil || (continuingBy != nil && continuingBy != .guard) {
                // It was found executing: whoever wrote `continuing` continued it and died before
                // it could say so. An agent that had come that far had stopped it, too.
                resumedAt = continuingAt ?? at
                resumedBy = continuingBy ?? by
                wasHeld = true
            } else {
                wasHeld = wasHeld ?? false
                unheldAt = at
            }
        case .lost(_, let text):
            // Whoever gave it up had not seen it stop.
            wasHeld = wasHeld ?? false
            if reason.isEmpty { reason = text }
        case .committing: isCommitted = true
        case .undoing(_, let text):
            isCommitted = false
            if reason.isEmpty { reason = text }
        case .processes(_, let old, let new): pids = [.old: old, .new: new]
        }
    }
}
