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
    /// Of the steps that are noticed and wait: where they are.
    private var noticedSteps = PagedDictionary<Int, Bool>()
    /// Of the sets that they want: the update domain, and where they are.
    private var noticedSets = PagedDictionary<SetID, NoticedSet>()

    private struct NoticedSet: Hashable, Sendable {
        var updateDomain: UpdateDomain
        /// Ascending.
        var steps: [Int]
    }

    /// Where the noticed steps are that wait, ascending.
    var noticed: some Sequence<Int> { noticedSteps.keys }

    /// The update domain of a set that noticed steps want, with the first of these.
    func noticedDomain(of set: SetID) -> (UpdateDomain, StepID)? {
        noticedSets[set].map { ($0.updateDomain, steps[$0.steps[0]].id) }
    }

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
        if step.isNoticed { notice(at: steps.count - 1, step) }
    }

    /// Changes a step in its place.
    public mutating func update(at index: Int, _ change: (inout StepRecord) -> Void) {
        let before = steps[index]
        steps.update(at: index, change)
        let after = steps[index]
        count(before, -1)
        count(after, 1)
        if before.isNoticed != after.isNoticed {
            if after.isNoticed { notice(at: index, after) } else { forget(index, before) }
        }
        guard (before.status == .waiting) != (after.status == .waiting) else { return }
        if after.status == .waiting { wait(at: index, after) } else { leave(index, before) }
    }

    private mutating func notice(at index: Int, _ step: StepRecord) {
        noticedSteps[index] = true
        for pair in step.plan.pairs {
            if noticedSets[pair.set] == nil {
                noticedSets[pair.set] = NoticedSet(updateDomain: pair.updateDomain, steps: [])
            }
            noticedSets.update(pair.set) { known in
                let place = known.steps.firstIndex { $0 > index } ?? known.steps.endIndex
                known.steps.insert(index, at: place)
            }
        }
    }

    private mutating func forget(_ index: Int, _ step: StepRecord) {
        noticedSteps.removeValue(forKey: index)
        for pair in step.plan.pairs {
            let isLast = noticedSets.update(pair.set) { known in
                known.steps.removeAll { $0 == index }
                return known.steps.isEmpty
            }
            if isLast == true { noticedSets.removeValue(forKey: pair.set) }
        }
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
