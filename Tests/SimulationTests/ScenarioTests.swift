import Testing

@testable import Simulation

@Suite struct ScenarioTests {
    @Test(
        "a scenario's line is read, and written as it was",
        arguments: [
            "seed=1 profile=mixed",
            "seed=18446744073709551615 profile=large",
            "seed=396 profile=small servers=1 hosts=3 guests=2 seconds=41 faults=4,9 commands=1-3",
            "seed=1 profile=calm faults=none commands=none",
            "seed=1 profile=small without-faults=1,3-5 without-commands=2",
        ])
    func both(_ line: String) throws {
        #expect(try Scenario(parsing: line).description == line)
    }

    @Test("order, spaces and ways to write numbers do not matter")
    func loose() throws {
        let scenario = try Scenario(parsing: "  faults=9,4,5-6,4   profile=small seed=7 ")
        #expect(scenario.description == "seed=7 profile=small faults=4-6,9")
        #expect(try Scenario(parsing: "seed=7").profile == .mixed)
    }

    @Test(
        "a line that is no scenario is refused, with what is wrong",
        arguments: [
            ("", "begins with seed="), ("profile=small", "begins with seed="),
            ("seed=-1", "seed is a number"), ("seed=", "seed is a number"),
            ("seed", "is not name=value"), ("seed=1 seed=2", "there twice"),
            ("seed=1 profile=huge", "no profile huge"), ("seed=1 hosts=0", "from 1 to 1000"),
            ("seed=1 hosts=1001", "from 1 to 1000"), ("seed=1 seconds=x", "from 1 to 86400"),
            ("seed=1 faults=", "none, or numbers"), ("seed=1 faults=0", "none, or numbers"),
            ("seed=1 faults=3-1", "none, or numbers"), ("seed=1 faults=1,,2", "none, or numbers"),
            ("seed=1 faults=1-", "none, or numbers"), ("seed=1 faults=1-2-3", "none, or numbers"),
            ("seed=1 faults=1-99999999999", "none, or numbers"),
            ("seed=1 faults=1 without-faults=2", "not both"),
            ("seed=1 colour=red", "nothing called colour"),
        ])
    func wrong(_ line: String, _ says: String) {
        let problem = #expect(throws: Scenario.Wrong.self) { try Scenario(parsing: line) }
        #expect(problem?.description.contains(says) == true, "\(problem?.description ?? "")")
    }

    static func trace(_ scenario: Scenario) -> (lines: [String], extent: RunExtent) {
        final class Lines { var all: [String] = [] }
        let lines = Lines()
        let world = World(scenario, tracing: .everything { lines.all.append($0) })
        _ = world.run()
        return (lines.all, world.extent)
    }

    @Test("what a scenario sets is so, and what it leaves out does not happen")
    func counts() throws {
        let scenario = try Scenario(
            parsing: "seed=3 profile=small servers=2 hosts=5 guests=3 seconds=20 faults=none "
                + "commands=2-3")
        let (lines, extent) = Self.trace(scenario)
        #expect((extent.servers, extent.hosts, extent.guests) == (2, 5, 3))
        #expect(extent.seconds == 20)
        #expect(extent.faults.isEmpty)
        #expect(extent.commands == [2, 3])
        #expect(lines.contains { $0.contains(" left out: ") })
        #expect(!lines.contains { $0.contains(" mended: ") })
        let without = try Scenario(parsing: "seed=3 profile=small without-faults=1-2")
        #expect(Self.trace(without).extent.faults.first == 3)
    }

    @Test("up to the first fault that is left out, a run is as it was")
    func prefix() throws {
        let whole = Self.trace(Scenario(seed: 5, profile: .small)).lines
        var scenario = Scenario(seed: 5, profile: .small)
        scenario.faults = .without(NumberSet([8]))
        let (lines, _) = Self.trace(scenario)
        let at = try #require(lines.firstIndex { $0.contains(" fault: 8 left out: ") })
        #expect(at > 100)
        #expect(lines[..<at] == whole[..<at])
        #expect(lines[(at + 1)...] != whole[(at + 1)...])
    }

    @Test("to keep what happens anyhow changes nothing")
    func same() {
        let whole = Self.trace(Scenario(seed: 6, profile: .small))
        var scenario = Scenario(seed: 6, profile: .small)
        scenario.faults = .only(NumberSet(whole.extent.faults))
        scenario.commands = .only(NumberSet(whole.extent.commands))
        scenario.seconds = whole.extent.seconds
        #expect(whole.extent.faults.count > 5)
        #expect(Self.trace(scenario).lines == whole.lines)
    }
}
