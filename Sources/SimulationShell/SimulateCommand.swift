// `fermata simulate`, in a target of its own: the check of the deliberate bugs builds it without the rest of Fermata.

public import ArgumentParser
import Fleet
import Foundation
import Simulation

public struct SimulateCommand: ParsableCommand {
    public static let configuration = CommandConfiguration(
        commandName: "simulate",
        abstract: "Runs whole clusters on a virtual clock and looks for what breaks a promise.",
        discussion: """
            Each seed is a cluster of its own (servers, their log, hosts with agents, guards, QEMUs \
            and guests, operators, a notifier, the network) with faults at the worst moments. The code \
            that decides is the one that runs in a real cluster; time, network, disks and processes are \
            not real. A seed gives the same run everywhere, to the byte of its trace.

              fermata simulate --seed 17
              fermata simulate --seeds 1..1000
              fermata simulate --seeds 1..200 --profile takeovers
              fermata simulate --seed 17 --trace | less
              fermata simulate --seed 17 --shrink
              fermata simulate --scenario 'seed=17 profile=mixed hosts=3 faults=4,9 seconds=41'

            A scenario is a seed, and what is set instead of drawn: servers, hosts, guests (of each \
            host), seconds (of faults and commands), faults and commands (the numbers of those that \
            happen: 1-3,9 or none), without-faults and without-commands (of those that do not). \
            --shrink looks for the smallest that breaks the same, in at most \
            \(Self.shrinkRunsMax) runs, and prints it so that --scenario takes it.

            Profiles:
            \(Profile.all.map { "  \($0.name): \($0.words)" }.joined(separator: "\n"))

            The last line is JSON: seeds, steps, holds, takeovers, faults, violations, and more; \
            without --trace and a failure it is all there is. After a crash, too.

            Exit code: 0 if every promise was kept; 1 if one was broken (safety); 2 if something never \
            came to its end (liveness); 3 if the code itself stopped (a crash).
            """)

    @Option(help: ArgumentHelp("Run this one.", valueName: "number"))
    var seed: UInt64?
    @Option(help: ArgumentHelp("Run all of these.", valueName: "first..last"))
    var seeds: String?
    @Option(help: ArgumentHelp("Run this one: a seed with changes.", valueName: "line"))
    var scenario: String?
    @Option(
        help: ArgumentHelp(
            "What worlds are drawn: \(Profile.all.map(\.name).joined(separator: ", ")). "
                + "(default: mixed)", valueName: "name"))
    var profile: String?
    @Flag(help: "Print everything that happens. For one seed or scenario.")
    var trace = false
    @Flag(help: "Look for the smallest scenario that breaks the same, and print it.")
    var shrink = false
    @Option(
        help: ArgumentHelp("Stop after so many seeds that broke something.", valueName: "number"))
    var failuresMax = 5
    @Option(
        help: ArgumentHelp(
            "Switch on a deliberate bug; only test builds have them.", valueName: "name",
            visibility: .hidden))
    var mutant: String?

    static let shrinkRunsMax = 200

    public init() {}

    public func validate() throws {
        if let mutant {
            #if !MUTANTS
                throw ValidationError(
                    "This build has no deliberate bugs: see scripts/check-mutants.py.")
            #else
                guard Mutant(rawValue: mutant) != nil else {
                    throw ValidationError(
                        "There is no mutant \(mutant); choose one of "
                            + Mutant.allCases.map(\.rawValue).joined(separator: ", ") + ".")
                }
            #endif
        }
        guard [seed != nil, seeds != nil, scenario != nil].filter({ $0 }).count == 1 else {
            throw ValidationError("Give --seed, --seeds or --scenario: one of them.")
        }
        guard scenario == nil || profile == nil else {
            throw ValidationError("A scenario says its profile itself: leave --profile out.")
        }
        guard !trace || seeds == nil else {
            throw ValidationError("--trace is for one --seed or --scenario.")
        }
        guard !trace || !shrink else {
            throw ValidationError("Give --trace or --shrink, not both.")
        }
        guard failuresMax >= 1 else { throw ValidationError("--failures-max must be at least 1.") }
        _ = try range()
        _ = try scenario(range().lowerBound)
    }

    private func range() throws -> ClosedRange<UInt64> {
        if let seed { return seed...seed }
        guard let seeds else { return 0...0 }
        let ends = seeds.components(separatedBy: "..").map { UInt64($0) }
        guard ends.count == 2, let first = ends[0], let last = ends[1], first <= last else {
            throw ValidationError("--seeds is FIRST..LAST, such as 1..1000; '\(seeds)' is not.")
        }
        return first...last
    }

    private func scenario(_ seed: UInt64) throws -> Scenario {
        if let scenario {
            do { return try Scenario(parsing: scenario) } catch {
                throw ValidationError("--scenario '\(scenario)': \(error)")
            }
        }
        guard let profile = Profile(name: profile ?? "mixed") else {
            throw ValidationError(
                "There is no profile '\(profile ?? "")'; choose one of "
                    + Profile.all.map(\.name).joined(separator: ", ") + ".")
        }
        return Scenario(seed: seed, profile: profile)
    }

    public func run() throws {
        CrashNote.install()
        #if MUTANTS
            Mutant.active = mutant.flatMap { Mutant(rawValue: $0) }
        #endif
        var results = SeedResults()
        if trace {
            let scenario = try scenario(range().lowerBound)
            CrashNote.tell(scenario, mutant, results)
            Seeds.trace(scenario, into: &results) { write($0 + "\n") }
            for failed in results.failed { show(failed) }
        } else {
            try runAll(&results)
        }
        write(results.json + "\n")
        if results.exitCode != 0 { Foundation.exit(results.exitCode) }
    }

    private func runAll(_ results: inout SeedResults) throws {
        let started = Date()
        var told = started
        for seed in try range() {
            let scenario = try scenario(seed)
            CrashNote.tell(scenario, mutant, results)
            let failedBefore = results.failed.count
            Seeds.run(scenario, into: &results)
            for failed in results.failed.dropFirst(failedBefore) {
                show(failed)
                if shrink { shrink(failed, results) }
            }
            if results.failed.count >= failuresMax { return }
            guard Date().timeIntervalSince(told) > 5 else { continue }
            told = Date()
            let perMinute = Double(results.counts.steps) / told.timeIntervalSince(started) * 60
            let line =
                "simulate: \(results.seedCount) seeds, \(results.counts.steps) steps, "
                + "\(Int(perMinute)) a minute, \(results.failed.count) failed\n"
            try? FileHandle.standardError.write(contentsOf: Data(line.utf8))
        }
    }

    private func shrink(_ failed: FailedSeed, _ results: SeedResults) {
        let mutant = mutant
        let shrinker = Shrinker(failed.scenario, runCountMax: Self.shrinkRunsMax) { scenario in
            CrashNote.tell(scenario, mutant, results, isCounted: true)
            return Seeds.outcome(of: scenario)
        }
        guard var shrinker else { return }
        shrinker.shrink()
        let (before, after) = (shrinker.first.extent, shrinker.outcome.extent)
        func change(_ what: String, _ before: Int, _ after: Int) -> String {
            before == after ? "\(after) \(what)" : "\(before) \(what) to \(after)"
        }
        let changes = [
            change("faults", before.faults.count, after.faults.count),
            change("commands", before.commands.count, after.commands.count),
            change("servers", before.servers, after.servers),
            change("hosts", before.hosts, after.hosts),
            change("guests of a host", before.guests, after.guests),
            change("seconds", before.seconds, after.seconds),
        ]
        write(
            "shrunk in \(shrinker.runCount) runs: \(changes.joined(separator: ", "))\n"
                + "  \(shrinker.scenario)\n")
        for violation in shrinker.outcome.violations { show(violation) }
    }

    private func show(_ failed: FailedSeed) {
        write("\(failed.scenario), step \(failed.step):\n")
        for violation in failed.violations { show(violation) }
        if !trace { for line in failed.lines { write("    \(line)\n") } }
    }

    /// At once. Ends the process quietly if nobody reads any more, as one that SIGPIPE ends.
    private func write(_ text: String) {
        do {
            try FileHandle.standardOutput.write(contentsOf: Data(text.utf8))
        } catch { Foundation.exit(128 + SIGPIPE) }
    }

    private func show(_ violation: Violation) {
        write(
            "  \(violation.kind.rawValue): \(violation.invariant): \(violation.text)\n")
    }
}

/// Says which run it was, and what there was before it, if the code itself stops.
private enum CrashNote {
    /// Written before a run: a signal's handler may not allocate.
    private struct Text {
        private let bytes = UnsafeMutableRawBufferPointer.allocate(byteCount: 8_192, alignment: 1)
        private var count = 0

        mutating func set(_ text: String) {
            let utf8 = text.utf8.prefix(bytes.count - 1)
            bytes.copyBytes(from: utf8)
            bytes[utf8.count] = UInt8(ascii: "\n")
            count = utf8.count + 1
        }

        func write(to descriptor: Int32) {
            // Whether anybody reads it or not: the process ends.
            _ = Foundation.write(descriptor, bytes.baseAddress!, count)
        }
    }

    nonisolated(unsafe) private static var words = Text()
    nonisolated(unsafe) private static var json = Text()

    /// - Parameters:
    ///   - mutant: the deliberate bug that is switched on.
    ///   - results: of the runs before this one.
    ///   - isCounted: whether the seed is among them.
    static func tell(
        _ scenario: Scenario, _ mutant: String?, _ results: SeedResults, isCounted: Bool = false
    ) {
        let option = mutant.map { " --mutant \($0)" } ?? ""
        words.set(
            "crash in \(scenario)\n"
                + "  fermata simulate --trace --scenario '\(scenario)'\(option)")
        var results = results
        if !isCounted { results.seedCount += 1 }
        results.crashed = [scenario.seed]
        json.set(results.json)
    }

    static func install() {
        // Before anything can go wrong: both are made when they are used first.
        words.set("crash")
        json.set("{}")
        for number in [SIGILL, SIGTRAP, SIGABRT, SIGSEGV, SIGFPE, SIGBUS] {
            signal(number) { _ in
                CrashNote.words.write(to: 2)
                CrashNote.json.write(to: 1)
                _exit(3)
            }
        }
    }
}
