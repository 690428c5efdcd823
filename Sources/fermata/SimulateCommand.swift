import ArgumentParser
import Fleet
import Foundation
import Simulation

struct SimulateCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
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

            The last line is JSON: seeds, steps, holds, takeovers, faults, violations, and more.

            Exit code: 0 if every promise was kept; 1 if one was broken (safety); 2 if something never \
            came to its end (liveness); 3 if the code itself stopped (a crash).
            """)

    @Option(help: ArgumentHelp("Run this one.", valueName: "number"))
    var seed: UInt64?
    @Option(help: ArgumentHelp("Run all of these.", valueName: "first..last"))
    var seeds: String?
    @Option(
        help: ArgumentHelp(
            "What worlds are drawn: \(Profile.all.map(\.name).joined(separator: ", ")). "
                + "(default: mixed)", valueName: "name"))
    var profile = "mixed"
    @Flag(help: "Print everything that happens. For one seed.")
    var trace = false
    @Option(help: ArgumentHelp("Stop after so many seeds that broke something.", valueName: "number"))
    var failuresMax = 5
    @Option(
        help: ArgumentHelp(
            "Switch on a deliberate bug; only test builds have them.", valueName: "name",
            visibility: .hidden))
    var mutant: String?

    func validate() throws {
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
        guard (seed == nil) != (seeds == nil) else {
            throw ValidationError("Give --seed or --seeds.")
        }
        guard Profile(name: profile) != nil else {
            throw ValidationError(
                "There is no profile \(profile); choose one of "
                    + Profile.all.map(\.name).joined(separator: ", ") + ".")
        }
        guard !trace || seed != nil else { throw ValidationError("--trace is for one --seed.") }
        if seeds != nil { _ = try range() }
    }

    private func range() throws -> ClosedRange<UInt64> {
        if let seed { return seed...seed }
        let ends = (seeds ?? "").components(separatedBy: "..").map { UInt64($0) }
        guard ends.count == 2, let first = ends[0], let last = ends[1], first <= last else {
            throw ValidationError("--seeds is FIRST..LAST, such as 1..1000.")
        }
        return first...last
    }

    func run() throws {
        let profile = Profile(name: profile)!
        let range = try range()
        CrashNote.install()
        #if MUTANTS
            Mutant.active = mutant.flatMap { Mutant(rawValue: $0) }
        #endif
        var results = SeedResults()
        if trace {
            CrashNote.seed = range.lowerBound
            Seeds.trace(range.lowerBound, profile, into: &results) { StandardOutput.write($0 + "\n") }
        } else {
            runAll(range, profile, &results)
        }
        if trace { for failed in results.failed { show(failed) } }
        StandardOutput.write(results.json + "\n")
        if results.exitCode != 0 { Foundation.exit(results.exitCode) }
    }

    private func runAll(
        _ range: ClosedRange<UInt64>, _ profile: Profile, _ results: inout SeedResults
    ) {
        let started = Date()
        var told = started
        for seed in range {
            CrashNote.seed = seed
            let failedBefore = results.failed.count
            Seeds.run(seed, profile, into: &results)
            for failed in results.failed.dropFirst(failedBefore) { show(failed) }
            if results.failed.count >= failuresMax { return }
            guard Date().timeIntervalSince(told) > 5 else { continue }
            told = Date()
            let perMinute = Double(results.counts.steps) / told.timeIntervalSince(started) * 60
            StandardError.write(
                "simulate: \(results.seedCount) seeds, \(results.counts.steps) steps, "
                    + "\(Int(perMinute)) a minute, \(results.failed.count) failed\n")
        }
    }

    private func show(_ failed: FailedSeed) {
        StandardOutput.write("seed \(failed.seed), profile \(failed.profile.name), step \(failed.step):\n")
        for violation in failed.violations {
            StandardOutput.write(
                "  \(violation.kind.rawValue): \(violation.invariant): \(violation.text)\n")
        }
        if !trace { for line in failed.lines { StandardOutput.write("    \(line)\n") } }
    }
}

/// Says which seed it was if the code itself stops.
private enum CrashNote {
    nonisolated(unsafe) static var seed: UInt64 = 0

    static func install() {
        for number in [SIGILL, SIGTRAP, SIGABRT, SIGSEGV, SIGFPE, SIGBUS] {
            signal(number) { _ in
                // Nothing here may allocate.
                var digits = (
                    UInt8(0), UInt8(0), UInt8(0), UInt8(0), UInt8(0), UInt8(0), UInt8(0), UInt8(0),
                    UInt8(0), UInt8(0), UInt8(0), UInt8(0), UInt8(0), UInt8(0), UInt8(0), UInt8(0),
                    UInt8(0), UInt8(0), UInt8(0), UInt8(0)
                )
                withUnsafeMutableBytes(of: &digits) { bytes in
                    var rest = CrashNote.seed
                    var at = bytes.count
                    repeat {
                        at -= 1
                        bytes[at] = UInt8(ascii: "0") + UInt8(rest % 10)
                        rest /= 10
                    } while rest > 0 && at > 0
                    let words: StaticString = "crash in seed "
                    write(2, words.utf8Start, words.utf8CodeUnitCount)
                    write(2, bytes.baseAddress! + at, bytes.count - at)
                    write(2, "\n", 1)
                }
                _exit(3)
            }
        }
    }
}
