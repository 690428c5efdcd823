import Fleet

/// The steps of a rollout, with counts that would take long to make anew for many steps.
public struct StepList: Hashable, Sendable {
    private var steps = PagedArray<StepRecord>()
    /// Steps that wait, are granted, or have ended otherwise than well.
    public private(set) var waitingCount = 0
    public private(set) var grantedCount = 0
    public private(set) var failureCount = 0
    /// Of the steps that wait: where those are that want to lock the set, ascending.
    private var waiting = PagedDictionary<SetID, [Int]>()

    public init() {}

    /// Where the waiting steps are that want another update domain of a set than one of `pairs` is,
    /// ascending.
    func waitingAgainst(_ pairs: [SetPair]) -> [Int] {
        var found: [Int] = []
        // Ascending; names that belong together are often neighbours.
        guard let first = pairs.first, let last = pairs.last,
            !waiting.isOutside(first.set...last.set)
        else { return found }
        for pair in pairs {
            for index in waiting[pair.set] ?? []
            where steps[index].plan.pairs.contains(where: {
                $0.set == pair.set && $0.updateDomain != pair.updateDomain
            }) {
                found.append(index)
            }
        }
        // One that wants several of the sets counts once.
        return pairs.count < 2 ? found : Set(found).sorted()
    }

    public init(_ steps: some Sequence<StepRecord>) {
        for step in steps { append(step) }
    }

    public mutating func append(_ step: StepRecord) {
        steps.append(step)
        count(step, 1)
        if step.status == .waiting { wait(at: steps.count - 1, step) }
    }

    /// Changes a step in its place.
    public mutating func update(at index: Int, _ change: (inout StepRecord) -> Void) {
        let before = steps[index]
        steps.update(at: index, change)
        let after = steps[index]
        count(before, -1)
        count(after, 1)
        guard (before.status == .waiting) != (after.status == .waiting) else { return }
        if after.status == .waiting { wait(at: index, after) } else { leave(index, before) }
    }

    private mutating func wait(at index: Int, _ step: StepRecord) {
        for pair in step.plan.pairs {
            var known = waiting[pair.set] ?? []
            // Nearly always the last.
            let isLast = known.last.map { $0 < index } ?? true
            let place = isLast ? nil : known.firstIndex { $0 > index }
            known.insert(index, at: place ?? known.endIndex)
            waiting[pair.set] = known
        }
    }

    private mutating func leave(_ index: Int, _ step: StepRecord) {
        for pair in step.plan.pairs {
            let left = (waiting[pair.set] ?? []).filter { $0 != index }
            if left.isEmpty {
                waiting.removeValue(forKey: pair.set)
            } else {
                waiting[pair.set] = left
            }
        }
    }

    private mutating func count(_ step: StepRecord, _ difference: Int) {
        switch step.status {
        case .waiting: waitingCount += difference
        case .granted: grantedCount += difference
        case .finished, .cancelled: break
        }
        if let outcome = step.outcome, outcome != .succeeded { failureCount += difference }
    }
}

extension StepList: RandomAccessCollection {
    public var startIndex: Int { 0 }
    public var endIndex: Int { steps.count }
    public subscript(index: Int) -> StepRecord { steps[index] }
}
