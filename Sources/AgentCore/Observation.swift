// Asks every process of a step what it does, until what to do with each guest is known.
//
//   ask all ─► answers of all, or 500 ms ─► decide ─┬─ every guest known, or 1 s over ─► begun
//      ▲                                            │
//      └──── 50 ms (500 ms once out of patience) ───┴─ a guest of which too little is known
//
// Before `begun` nobody watches the guests that were found, so a round asks about them anew. After it
// only the others are asked about, and `found` tells of each.
//
// A guest whose old process has ended while the new one still reads has the step's deadline to arrive,
// from the first answer that says so to the question of another: whether the agent stood still
// meanwhile, and answers lay about, makes no difference.

/// What a restarted agent learns of the guests of a step; pure. See ``Recovery`` for one guest.
public struct Observation: Hashable, Sendable {
    public enum Input: Hashable, Sendable {
        case begin
        /// What one process of a guest does, as asked for in that round.
        case answered(Int, round: Int, Side, ProcessState)
        case timerFired(Timer)
    }

    public enum Timer: Hashable, Sendable {
        /// What has not answered in this round does not count in it.
        case round(Int)
        case look
    }

    public enum Output: Hashable, Sendable {
        /// Both processes of the guest with this index; each answer is `answered`.
        case ask(Int, round: Int)
        case setTimer(Timer, after: Duration)
        /// Comes once: an action for each guest; `wait` for one that does not answer.
        case begun([RecoveryAction])
        /// Comes once for each of these, after that.
        case found(Int, RecoveryAction)
    }

    /// Monitors that do not answer for so long are asked less often.
    public static let patience = Duration.seconds(10)
    /// How long guests that are found wait for those that are not: monitors need a moment.
    static let grace = Duration.seconds(1)
    static let roundLimit = Duration.milliseconds(500)

    private let since: Int64
    private let arrivalLimit: Duration
    /// Of each guest, when its new process was first heard to read yet, with the old one gone.
    private var arrivingSince: [Int64?]
    /// When the round under way was asked.
    private var askedAt: Int64 = 0
    private var isUndecided: [Bool]
    private var actions: [RecoveryAction]
    private var hasBegun = false
    private var round = 0
    private var isAsking = false
    /// Of the guests that this round asks about; empty of all others.
    private var states: [[Side: ProcessState]]
    private var missing = 0
    private var outputs: [Output] = []

    /// - Parameters:
    ///   - guestCount: how many guests the step has.
    ///   - deadline: the step's.
    ///   - now: the hold clock, in microseconds.
    public init(guestCount: Int, deadline: Duration, at now: Int64) {
        since = now
        arrivalLimit = deadline
        arrivingSince = Array(repeating: nil, count: guestCount)
        isUndecided = Array(repeating: true, count: guestCount)
        actions = Array(repeating: .wait, count: guestCount)
        states = Array(repeating: [:], count: guestCount)
    }

    /// - Parameter now: the hold clock, in microseconds.
    /// - Returns: what to do, in this order.
    public mutating func handle(_ input: Input, at now: Int64) -> [Output] {
        outputs = []
        switch input {
        case .begin, .timerFired(.look): look(at: now)
        case .answered(let index, let round, let side, let state):
            guard isAsking, round == self.round, states[index][side] == nil else { break }
            states[index][side] = state
            missing -= 1
            if missing == 0 { decide(at: now) }
        case .timerFired(.round(let round)):
            guard isAsking, round == self.round else { break }
            decide(at: now)
        }
        return outputs
    }

    private mutating func look(at now: Int64) {
        guard !isAsking else { return }
        round += 1
        askedAt = now
        isAsking = true
        states = states.map { _ in [:] }
        let indices = isUndecided.indices.filter { isUndecided[$0] }
        missing = indices.count * 2
        outputs.append(.setTimer(.round(round), after: Self.roundLimit))
        for index in indices { outputs.append(.ask(index, round: round)) }
    }

    private mutating func action(of index: Int, at now: Int64) -> RecoveryAction {
        let old = states[index][.old] ?? .unreachable
        let new = states[index][.new] ?? .unreachable
        guard old == .absent, new == .inmigrate else { return Recovery.decide(old: old, new: new) }
        let since = arrivingSince[index] ?? now
        arrivingSince[index] = since
        let isLate = Duration.microseconds(askedAt - since) >= arrivalLimit
        return Recovery.decide(old: old, new: new, isLate: isLate)
    }

    private mutating func decide(at now: Int64) {
        isAsking = false
        let waited = Duration.microseconds(now - since)
        let isPatient = waited < Self.patience
        for index in isUndecided.indices where isUndecided[index] {
            let action = action(of: index, at: now)
            guard action != .wait else { continue }
            isUndecided[index] = false
            actions[index] = action
            if hasBegun { outputs.append(.found(index, action)) }
        }
        let isComplete = !isUndecided.contains(true)
        if isComplete || waited >= Self.grace, !hasBegun {
            hasBegun = true
            outputs.append(.begun(actions))
        }
        guard !isComplete else { return }
        if !hasBegun {
            isUndecided = isUndecided.map { _ in true }
            actions = actions.map { _ in .wait }
        }
        outputs.append(.setTimer(.look, after: .milliseconds(isPatient ? 50 : 500)))
    }
}
