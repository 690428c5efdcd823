public import Fleet

/// All rollouts there ever were, by number.
///
/// Most of them are over, and only their history grows. Those that are not are few, and are kept apart:
/// whoever looks for work must not look at all that was ever done.
public struct RolloutList: Hashable, Sendable {
    private var records = PagedDictionary<RolloutID, RolloutRecord>()
    /// Those that are not over, in ascending order.
    public private(set) var openIDs: [RolloutID] = []

    public init() {}

    public var isEmpty: Bool { records.isEmpty }
    public var count: Int { records.count }
    /// In ascending order of their numbers.
    public var values: some Sequence<RolloutRecord> { records.values }
    /// The records of ``openIDs``.
    public var open: some Sequence<RolloutRecord> { openIDs.lazy.map { records[$0]! } }

    public subscript(id: RolloutID) -> RolloutRecord? { records[id] }

    /// Keeps a rollout, in place of an older one with its number.
    public mutating func keep(_ rollout: RolloutRecord) {
        records[rollout.id] = rollout
        see(rollout.id, isOpen: !rollout.state.isOver)
    }

    /// Changes a rollout in its place.
    ///
    /// - Returns: what `change` answers, or nil if there is no such rollout.
    @discardableResult
    public mutating func update<Result>(
        _ id: RolloutID, _ change: (inout RolloutRecord) -> Result
    ) -> Result? {
        var isOpen = false
        let result = records.update(id) { rollout in
            defer { isOpen = !rollout.state.isOver }
            return change(&rollout)
        }
        if result != nil { see(id, isOpen: isOpen) }
        return result
    }

    private mutating func see(_ id: RolloutID, isOpen: Bool) {
        // Nearly always a young one.
        var place = openIDs.endIndex
        while place > 0, id < openIDs[place - 1] { place -= 1 }
        let isListed = place > 0 && openIDs[place - 1] == id
        if isOpen, !isListed { openIDs.insert(id, at: place) }
        if !isOpen, isListed { openIDs.remove(at: place - 1) }
    }
}
