import Testing

@testable import Simulation

@Suite struct ShrinkerTests {
    static let broken = Violation(kind: .safety, invariant: "artificial", text: "for a test")

    /// A run of a real world that counts as broken if something in its trace says so.
    static func outcome(of scenario: Scenario, brokenBy words: [String]) -> Outcome {
        let (lines, extent) = ScenarioTests.trace(scenario)
        let isBroken = words.allSatisfy { word in
            lines.contains { $0.contains(word) && !$0.contains("left out") }
        }
        return Outcome(violations: isBroken ? [broken] : [], extent: extent)
    }

    @Test("of many faults the one that matters is left")
    func one() throws {
        let scenario = Scenario(seed: 2, profile: .small)
        let found = Shrinker(scenario) { Self.outcome(of: $0, brokenBy: ["is killed"]) }
        var shrinker = try #require(found)
        shrinker.shrink()
        #expect(shrinker.first.extent.faults.count > 10)
        #expect(shrinker.outcome.extent.faults.count == 1)
        #expect(shrinker.outcome.extent.commands.isEmpty)
        #expect(shrinker.outcome.extent.servers <= 2)
        #expect(shrinker.outcome.extent.guests <= 2)
        #expect(shrinker.runCount <= 200)
        // The line alone gives the same.
        let line = try Scenario(parsing: shrinker.scenario.description)
        #expect(line == shrinker.scenario)
        #expect(Self.outcome(of: line, brokenBy: ["is killed"]).violations == [Self.broken])
    }

    /// A run as a list: quick, and exact about what has to be left.
    static func listed(_ scenario: Scenario, _ check: ([Int], [Int], RunExtent) -> Bool) -> Outcome
    {
        var extent = RunExtent()
        extent.servers = scenario.servers ?? 3
        extent.hosts = scenario.hosts ?? 4
        extent.guests = scenario.guests ?? 2
        extent.seconds = scenario.seconds ?? 60
        extent.end = Int64(extent.seconds) * 1_000_000
        extent.faults = (1...40).filter(scenario.faults.contains)
        extent.commands = (1...20).filter(scenario.commands.contains)
        let isBroken = check(extent.faults, extent.commands, extent)
        return Outcome(violations: isBroken ? [broken] : [], extent: extent)
    }

    @Test("faults, commands, sizes and seconds go down to what is needed")
    func needed() throws {
        let found = Shrinker(Scenario(seed: 1, profile: .small)) {
            Self.listed($0) { faults, commands, extent in
                faults.contains(7) && faults.contains(31) && commands.contains(5)
                    && extent.seconds >= 13 && extent.hosts >= 2 && extent.servers >= 3
            }
        }
        var shrinker = try #require(found)
        shrinker.shrink()
        #expect(
            shrinker.scenario.description
                == "seed=1 profile=small hosts=2 guests=1 seconds=13 faults=7,31 commands=5")
        #expect(shrinker.runCount <= 200)
    }

    @Test("a scenario that breaks another promise is not the same")
    func other() throws {
        let found = Shrinker(Scenario(seed: 1, profile: .small)) { scenario in
            var outcome = Self.listed(scenario) { _, _, _ in true }
            if outcome.extent.faults.count < 40 { outcome.violations[0].invariant = "another" }
            return outcome
        }
        var shrinker = try #require(found)
        shrinker.shrink()
        #expect(shrinker.outcome.extent.faults.count == 40)
        #expect(shrinker.outcome.extent.hosts == 1)
    }

    @Test("no more runs than were asked for")
    func bounded() throws {
        var runs = 0
        let found = Shrinker(Scenario(seed: 1, profile: .small), runCountMax: 10) { scenario in
            runs += 1
            return Self.listed(scenario) { faults, _, _ in faults.contains(20) }
        }
        var shrinker = try #require(found)
        shrinker.shrink()
        #expect(runs == 10)
        #expect(shrinker.runCount == 10)
    }

    @Test("there is nothing to shrink where nothing breaks")
    func nothing() {
        #expect(
            Shrinker(Scenario(seed: 1, profile: .small)) { Self.listed($0) { _, _, _ in false } }
                == nil)
    }
}
