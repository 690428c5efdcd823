// Makes a scenario that breaks something smaller, for as long as it breaks the same.
//
// Every change is tried by a whole run. One that leaves a fault out changes what comes after it, so a smaller
// scenario is another run that ends alike, and not a part of the first. Faults are therefore left out from the
// last to the first: what is before the one in question stays as it was.

/// What came of a run, as far as shrinking needs it.
public struct Outcome: Sendable {
    public var violations: [Violation]
    public var extent: RunExtent

    public init(violations: [Violation], extent: RunExtent) {
        self.violations = violations
        self.extent = extent
    }
}

public struct Shrinker {
    /// The smallest so far.
    public private(set) var scenario: Scenario
    public private(set) var outcome: Outcome
    /// Of the scenario that it was given.
    public let first: Outcome
    public private(set) var runCount = 1
    private let runCountMax: Int
    private let invariant: String
    private let run: (Scenario) -> Outcome

    /// Runs `scenario` once.
    ///
    /// - Parameters:
    ///   - runCountMax: how many runs there are at most, with this one.
    ///   - run: gives the same for the same.
    /// - Returns: nil if it breaks nothing: then there is nothing to shrink.
    public init?(
        _ scenario: Scenario, runCountMax: Int = 200,
        run: @escaping (Scenario) -> Outcome = Seeds.outcome(of:)
    ) {
        let outcome = run(scenario)
        guard let violation = outcome.violations.first else { return nil }
        self.scenario = scenario
        self.outcome = outcome
        self.run = run
        self.runCountMax = runCountMax
        first = outcome
        invariant = violation.invariant
    }

    /// Until nothing can be taken away any more, or there were enough runs.
    public mutating func shrink() {
        var before: Scenario
        repeat {
            before = scenario
            shortenToItsEnd()
            leaveOut(\.faults, \.faults)
            leaveOut(\.commands, \.commands)
            lower(\.hosts, from: \.hosts)
            lower(\.guests, from: \.guests)
            lower(\.servers, from: \.servers)
            halveSeconds()
        } while scenario != before && runCount < runCountMax
    }

    /// - Returns: whether `candidate` breaks the same, and is now the smallest.
    private mutating func accept(_ candidate: Scenario) -> Bool {
        guard candidate != scenario, runCount < runCountMax else { return false }
        runCount += 1
        let outcome = run(candidate)
        guard outcome.violations.contains(where: { $0.invariant == invariant }) else {
            return false
        }
        scenario = candidate
        self.outcome = outcome
        return true
    }

    /// Faults and commands that would come after it has broken.
    private mutating func shortenToItsEnd() {
        let seconds = Int(outcome.extent.end / 1_000_000) + 1
        guard seconds < outcome.extent.seconds else { return }
        var candidate = scenario
        candidate.seconds = seconds
        _ = accept(candidate)
    }

    private mutating func halveSeconds() {
        var step = outcome.extent.seconds / 2
        while step > 0 {
            var candidate = scenario
            candidate.seconds = outcome.extent.seconds - step
            if candidate.seconds! < 1 || !accept(candidate) { step /= 2 }
        }
    }

    /// All of them at once, then halves, quarters, and so on down to each of them.
    private mutating func leaveOut(
        _ kept: WritableKeyPath<Scenario, Kept>, _ happened: KeyPath<RunExtent, [Int]>
    ) {
        var size = outcome.extent[keyPath: happened].count
        while size > 0 {
            var end = outcome.extent[keyPath: happened].count
            while end > 0 {
                let numbers = outcome.extent[keyPath: happened]
                end = min(end, numbers.count)
                let begin = max(0, end - size)
                var candidate = scenario
                candidate[keyPath: kept] = .only(NumberSet(numbers[..<begin] + numbers[end...]))
                _ = accept(candidate)
                end = begin
            }
            size /= 2
        }
        // Only those that still happen, which is the same run.
        var candidate = scenario
        candidate[keyPath: kept] = .only(NumberSet(outcome.extent[keyPath: happened]))
        if scenario[keyPath: kept] != .all { _ = accept(candidate) }
    }

    private mutating func lower(
        _ count: WritableKeyPath<Scenario, Int?>, from drawn: KeyPath<RunExtent, Int>
    ) {
        for fewer in 1..<max(1, outcome.extent[keyPath: drawn]) {
            var candidate = scenario
            candidate[keyPath: count] = fewer
            if accept(candidate) { return }
        }
    }
}
