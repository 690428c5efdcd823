// Many runs, one after the other, and what came of them.

/// A run that broke something.
public struct FailedSeed: Sendable {
    public var scenario: Scenario
    public var step: Int
    public var violations: [Violation]
    /// The newest lines of its trace.
    public var lines: [String]
}

public struct SeedResults: Sendable {
    public var seedCount = 0
    public var counts = RunCounts()
    public var failed: [FailedSeed] = []
    /// Seeds in which the code itself stopped. One at most: it takes the process with it.
    public var crashed: [UInt64] = []

    public init() {}

    /// One line.
    public var json: String {
        let numbers: [(String, Int)] = [
            ("seeds", seedCount), ("steps", counts.steps), ("holds", counts.holds),
            ("takeovers", counts.takeovers), ("faults", counts.faults),
            ("violations", failed.reduce(0) { $0 + $1.violations.count }),
            ("grants", counts.grants), ("facts", counts.facts),
            ("annotations", counts.annotations), ("guardActions", counts.guardActions),
            ("longestHoldMilliseconds", Int(counts.longestHold / 1_000)),
            ("crashes", crashed.count),
        ]
        let members = numbers.map { "\"\($0.0)\": \($0.1)" }
        func list(_ name: String, _ seeds: [UInt64]) -> String {
            ", \"\(name)\": [" + seeds.map(String.init).joined(separator: ", ") + "]"
        }
        return "{" + members.joined(separator: ", ")
            + list("crashedSeeds", crashed)
            + list("failedSeeds", failed.map(\.scenario.seed) + crashed) + "}"
    }

    /// 0: all is well; 1: safety; 2: liveness; 3: a crash. Of several the worst, in the order crash,
    /// safety, liveness.
    public var exitCode: Int32 {
        let kinds = failed.flatMap(\.violations).map(\.kind)
        if kinds.contains(.crash) { return 3 }
        if kinds.contains(.safety) { return 1 }
        return kinds.isEmpty ? 0 : 2
    }
}

public enum Seeds {
    /// Lines of a failure's trace that are kept.
    public static let lineCount = 120

    /// Runs one and tells everything.
    public static func trace(
        _ scenario: Scenario, into results: inout SeedResults, _ tell: @escaping (String) -> Void
    ) {
        let world = World(scenario, tracing: .everything(tell))
        let violations = world.run()
        results.seedCount += 1
        results.counts.add(world.counts)
        guard !violations.isEmpty else { return }
        results.failed.append(
            FailedSeed(
                scenario: scenario, step: world.counts.steps, violations: violations, lines: []))
    }

    /// Runs one, and once more with a trace if it breaks something.
    public static func run(_ scenario: Scenario, into results: inout SeedResults) {
        let world = World(scenario)
        let violations = world.run()
        results.seedCount += 1
        results.counts.add(world.counts)
        guard !violations.isEmpty else { return }
        let again = World(scenario, tracing: .newest(lineCount))
        var repeated = again.run()
        if repeated != violations {
            repeated.append(
                Violation(
                    kind: .crash, invariant: "the same seed, the same run",
                    text: "a second run broke something else than \(violations)"))
        }
        results.failed.append(
            FailedSeed(
                scenario: scenario, step: again.counts.steps, violations: repeated,
                lines: again.newestLines))
    }

    /// Runs one for a ``Shrinker``.
    public static func outcome(of scenario: Scenario) -> Outcome {
        let world = World(scenario)
        let violations = world.run()
        return Outcome(violations: violations, extent: world.extent)
    }
}
