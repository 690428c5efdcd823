import Foundation
import Testing

/// `fermata simulate`, as a person uses it.
@Suite struct SimulateTests {
    private func run(_ line: String) throws -> Runner.Result {
        try Runner.run(["simulate"] + line.split(separator: " ").map(String.init))
    }

    private func summary(_ output: String) throws -> [String: Any] {
        let last = try #require(output.split(separator: "\n").last)
        let json = try JSONSerialization.jsonObject(with: Data(last.utf8))
        return try #require(json as? [String: Any])
    }

    @Test(
        "a seed gives the same bytes in every process, whatever its hash seed",
        arguments: [
            "--seed 1 --profile small", "--seed 2 --profile small", "--seed 3 --profile mixed",
            "--seed 4 --profile mixed", "--seed 5 --profile takeovers", "--seed 6 --profile calm",
            "--scenario seed=7|profile=large|hosts=40|guests=4|seconds=12",
        ])
    func sameBytes(_ line: String) throws {
        // Swift seeds its hashing anew in each process, since nothing of the environment is passed on.
        let words = line.split(separator: " ").map { $0.replacing("|", with: " ") }
        let one = try Runner.run(["simulate", "--trace"] + words.map { String($0) })
        let other = try Runner.run(["simulate", "--trace"] + words.map { String($0) })
        #expect(one.output.utf8.count > 20_000)
        #expect(one.code == other.code)
        // Their description would be as long as both of them.
        let isSame = one.output == other.output
        #expect(isSame, "\(Self.difference(one.output, other.output))")
    }

    private static func difference(_ one: String, _ other: String) -> String {
        let lines = zip(one.split(separator: "\n"), other.split(separator: "\n"))
        return lines.first { $0 != $1 }.map { "\($0)\n\($1)" } ?? "one is longer"
    }

    @Test("all that is said of seeds that keep every promise is one line of JSON")
    func quiet() throws {
        let result = try run("--scenario seed=1")
        #expect(result.output.split(separator: "\n").count == 1)
        let summary = try summary(result.output)
        for name in ["seeds", "steps", "holds", "takeovers", "faults", "violations"] {
            #expect(summary[name] is Int, "\(name)")
        }
        #expect(summary["seeds"] as? Int == 1)
        #expect(summary["violations"] as? Int == 0)
        #expect(result.code == 0)
    }

    @Test("the trace of a scenario that leaves out all faults has none")
    func scenario() throws {
        let result = try Runner.run(
            ["simulate", "--trace", "--scenario", "seed=1 profile=small faults=none seconds=20"])
        #expect(result.code == 0)
        #expect(result.output.contains(" left out: "))
        #expect(!result.output.contains(" mended: "))
        #expect(try summary(result.output)["faults"] as? Int == 0)
    }

    @Test("shrinking what keeps every promise says nothing")
    func nothingToShrink() throws {
        let result = try Runner.run(
            ["simulate", "--shrink", "--scenario", "seed=1 profile=small faults=none seconds=20"])
        #expect(result.code == 0)
        #expect(result.output.split(separator: "\n").count == 1)
    }

    @Test("a crash says which run it was, and exits with 3", .timeLimit(.minutes(2)))
    func crash() throws {
        let process = Process()
        process.executableURL = try Runner.executable()
        process.arguments = ["simulate", "--seeds", "1..3000", "--profile", "calm"]
        let (output, errors) = (Pipe(), Pipe())
        process.standardOutput = output
        process.standardError = errors
        try process.run()
        // It tells how it goes on after five seconds: by then it is at work. Of the signals of a crash this is
        // one that a test does not block.
        var text = errors.fileHandleForReading.availableData
        kill(process.processIdentifier, SIGILL)
        text += errors.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        #expect(process.terminationReason == .exit)
        #expect(process.terminationStatus == 3)
        let words = String(decoding: text, as: UTF8.self)
        let found = try #require(
            try /\ncrash in (seed=([0-9]+) profile=calm)\n.*--trace --scenario '(.*)'\n$/
                .firstMatch(in: words), "\(words)")
        #expect(found.1 == found.3)
        let summary = try summary(
            String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self))
        #expect(summary["crashes"] as? Int == 1)
        #expect(summary["seeds"] as? Int == Int(found.2))
        #expect(summary["crashedSeeds"] as? [Int] == [try #require(Int(found.2))])
    }

    #if MUTANTS
        @Test(
            "a broken promise says which, where and how it came about, and what kind it is",
            arguments: [
                ("lengthFromCommand", 1, "safety", "exactly one annotation per hold"),
                ("directiveNotRepeated", 2, "liveness", "every rollout ends"),
            ])
        func failure(_ mutant: String, _ code: Int32, _ kind: String, _ invariant: String) throws {
            let line = "--seeds 1..50 --profile small --failures-max 1 --mutant \(mutant)"
            let result = try run(line)
            #expect(result.code == code)
            let lines = result.output.split(separator: "\n")
            let first = try #require(lines.first?.wholeMatch(of: /seed=(\d+) .*, step (\d+):/))
            #expect(lines.dropFirst().first?.hasPrefix("  \(kind): ") == true)
            #expect(lines.contains { $0.hasPrefix("  \(kind): \(invariant): ") })
            // Each with its moment, its step and who does it.
            let trace = lines.count { $0.contains(#/^ {4}\d+\.\d{6} #\d+ \S+: /#) }
            #expect(trace >= 50)
            #expect(lines.contains { $0.contains(" VIOLATION: \(invariant)") })
            let summary = try summary(result.output)
            #expect((summary["violations"] as? Int ?? 0) >= 1)
            #expect(summary["crashes"] as? Int == 0)
            #expect(summary["failedSeeds"] as? [Int] == [try #require(Int(first.1))])
        }

        @Test("a precondition of the code that does not hold is a crash, and told with its bug")
        func precondition() throws {
            let result = try run(
                "--seeds 1..50 --profile small --mutant standbyAppliesBackwards")
            #expect(result.code == 3)
            #expect(
                result.errors.contains(/\n *fermata simulate .* --mutant standbyAppliesBackwards\n/)
            )
            #expect(try summary(result.output)["crashes"] as? Int == 1)
        }

        @Test(
            "scenarios that show a deliberate bug show it",
            arguments: try SimulateTests.regressions())
        func regression(_ scenario: String, _ mutant: String) throws {
            let result = try Runner.run(
                ["simulate", "--scenario", scenario, "--mutant", mutant])
            #expect([1, 2, 3].contains(result.code), "\(scenario) breaks nothing with \(mutant)")
        }

        /// Of SimulationTests, those that name a bug: that they hold without it is tested there.
        static func regressions() throws -> [(String, String)] {
            let file = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
                .appendingPathComponent("../SimulationTests/Regressions.txt")
            let text = try String(contentsOf: file, encoding: .utf8)
            let found = text.matches(of: #/\n  (seed=.*) mutant=(\w+)\n/#)
            return found.map { (String($0.1), String($0.2)) }
        }
    #endif

    @Test("a reader that goes away ends it quietly")
    func closed() throws {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/bin/bash")
        process.arguments = [
            "-c", "\"$0\" simulate --seed 1 --trace | head -n 2; echo ${PIPESTATUS[0]}",
            try Runner.executable().path,
        ]
        let (output, errors) = (Pipe(), Pipe())
        process.standardOutput = output
        process.standardError = errors
        try process.run()
        let text = output.fileHandleForReading.readDataToEndOfFile()
        let complaints = errors.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        #expect(String(decoding: text, as: UTF8.self).hasSuffix("\n141\n"))
        #expect(complaints.isEmpty)
    }

    @Test(
        "wrong use exits with 64 and says what is wrong",
        arguments: [
            ("", "--seed, --seeds or --scenario"),
            ("--seed 1 --seeds 1..2", "one of them"),
            ("--seed 1 --scenario seed=1", "one of them"),
            ("--seed x", "'x' is invalid for '--seed"),
            ("--seed 18446744073709551616", "is invalid for '--seed"),
            ("--seeds 5..1", "FIRST..LAST"), ("--seeds 1", "FIRST..LAST"),
            ("--seeds 1..", "FIRST..LAST"), ("--seeds 1..2..3", "FIRST..LAST"),
            ("--seeds 1...3", "FIRST..LAST"),
            ("--seed 1 --profile huge", "no profile 'huge'; choose one of mixed, small"),
            ("--seeds 1..2 --trace", "--trace is for one"),
            ("--seed 1 --trace --shrink", "not both"),
            ("--seed 1 --failures-max 0", "must be at least 1"),
            ("--scenario seed=1 --profile small", "leave --profile out"),
            ("--scenario seed=1,hosts=3", "seed is a number"),
            ("--scenario hosts=3", "begins with seed=NUMBER"),
        ])
    func wrong(_ line: String, _ says: String) throws {
        let result = try run(line)
        #expect(result.code == 64)
        #expect(result.errors.contains(says), "\(result.errors)")
        #expect(result.output.isEmpty)
    }

    @Test("a seed that no number is too large for is run")
    func largest() throws {
        let result = try run("--seeds 18446744073709551615..18446744073709551615 --profile calm")
        #expect(result.code == 0)
        #expect(try summary(result.output)["seeds"] as? Int == 1)
    }
}
