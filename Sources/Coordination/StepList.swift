/// The steps of a rollout, with counts that would take long to make anew for many steps.
public struct StepList: Hashable, Sendable {
    private var steps = PagedArray<StepRecord>()
    /// Steps that wait, are granted, or have ended otherwise than well.
    public private(set) var waitingCount = 0
    public private(set) var grantedCount = 0
    public private(set) var failureCount = 0

    public init() {}

    public init(_ steps: some Sequence<StepRecord>) {
        for step in steps { append(step) }
    }

    public mutating func append(_ step: StepRecord) {
        steps.append(step)
        count(step, 1)
    }

    /// Changes a step in its place.
    public mutating func update(at index: Int, _ change: (inout StepRecord) -> Void) {
        count(steps[index], -1)
        steps.update(at: index, change)
        count(steps[index], 1)
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
