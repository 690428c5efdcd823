import AgentCore
import Fleet
import Testing
import UvLoop

/// Real QEMU, real processes. One at a time: each of these wants the CPUs for itself.
@Suite(.serialized) struct HandOverTests {
    @Test("two guests are handed over, twice, and the old processes are gone")
    func handOver() throws {
        let host = try ProbeHost("ho", guests: ["g0", "g1"])
        defer { host.end() }
        try host.startAgent()
        for step in UInt32(1)...2 {
            try host.give(
                host.directive(step: step, token: UInt64(step), guests: ["g0", "g1"]))
            let report = try host.waitForReport(step: step)
            #expect(report.outcome == .succeeded, "\(report)")
            #expect(report.holds.count == 2)
            for hold in report.holds {
                #expect((hold.holdMicroseconds ?? 0) > 0)
                #expect((hold.holdMicroseconds ?? .max) < 5_000_000)
                #expect(hold.hypervisorAfter == "new")
                #expect(hold.resumedBy == .agent)
            }
        }
        try host.wait("the old processes' end") { host.processes.count == 2 }
        #expect(host.processes.allSatisfy { $0.generation == 3 })
        let kept = try Files.read(
            path: "\(host.directory)/state/hypervisors/g0", byteCountMax: 9_999)
        #expect(String(decoding: kept, as: UTF8.self).contains("\"new\""))
    }

    @Test("a release that is missing, not executable or of another digest holds nothing")
    func badArtifact() throws {
        let host = try ProbeHost("ba")
        defer { host.end() }
        try host.startAgent()
        let sha = [UInt8](repeating: 7, count: 32)
        let plain = try host.write("plain", "no program", mode: 0o644)
        let cases: [(String, String)] = [
            ("\(host.directory)/none", "does not exist"), (plain, "is not executable"),
            (ProbeHost.qemu, "has another SHA-256"),
        ]
        for (index, (path, words)) in cases.enumerated() {
            let step = UInt32(index + 1)
            try host.give(
                host.directive(step: step, token: UInt64(step), path: path, sha256: sha))
            let report = try host.waitForReport(step: step)
            #expect(report.outcome == .failed)
            #expect(report.reason.contains(words), "\(report.reason)")
            #expect(report.holds.isEmpty)
        }
        #expect(host.processes.map(\.generation) == [1])
    }

    @Test("a new QEMU that ends at start holds nothing, and says what it said")
    func endsAtStart() throws {
        let host = try ProbeHost("es")
        defer { host.end() }
        try host.startAgent()
        let fake = try host.write("fake", "#!/bin/sh\necho 'no such machine' >&2\nexit 1\n")
        try host.give(host.directive(path: fake))
        let report = try host.waitForReport()
        #expect(report.outcome == .failed)
        #expect(report.reason.contains("no such machine"), "\(report.reason)")
        #expect(report.holds.isEmpty)
        try host.wait("only the old process") { host.processes.map(\.generation) == [1] }
    }

    @Test("device state that the new QEMU refuses: the old one continues, and a second try works")
    func stateRefused() throws {
        let host = try ProbeHost("sr", arguments: ", arguments: [-device, virtio-rng-pci]")
        defer { host.end() }
        try host.startAgent()
        // The same device, with other PCI registers.
        let wrapper = try host.write(
            "wrapper",
            """
            #!/bin/sh
            for word; do
                shift
                [ "$word" = virtio-rng-pci ] && word=virtio-rng-pci,disable-modern=on
                set -- "$@" "$word"
            done
            exec \(ProbeHost.qemu) "$@"

            """)
        try host.give(host.directive(path: wrapper))
        let refused = try host.waitForReport()
        #expect(refused.outcome == .failed, "\(refused)")
        #expect(refused.reason.contains("refused"), "\(refused.reason)")
        let hold = try #require(refused.holds.first)
        #expect(hold.hypervisorAfter == "old")
        #expect((hold.holdMicroseconds ?? .max) < 3_000_000)
        try host.wait("only the old process") { host.processes.map(\.generation) == [1] }
        try host.give(host.directive(step: 2, token: 2))
        #expect(try host.waitForReport(step: 2).outcome == .succeeded)
    }

    @Test("of 32 guests one is bad: it goes on where it was, and nobody is left held")
    func oneOfMany() throws {
        let guests = (0..<32).map { "g\($0)" }
        let host = try ProbeHost(
            "om", guests: guests, arguments: ", arguments: [-device, virtio-rng-pci]")
        defer { host.end() }
        try host.startAgent(seconds: 120)
        let wrapper = try host.write(
            "wrapper",
            """
            #!/bin/sh
            bad=; [ "$2" = g7 ] && bad=,disable-modern=on
            for word; do
                shift
                [ "$word" = virtio-rng-pci ] && word=virtio-rng-pci$bad
                set -- "$@" "$word"
            done
            exec \(ProbeHost.qemu) "$@"

            """)
        try host.give(host.directive(guests: guests, path: wrapper, deadlineMilliseconds: 30_000))
        let report = try host.waitForReport(seconds: 240)
        #expect(report.outcome == .failed, "\(report.outcome): \(report.reason)")
        #expect(report.reason.contains("g7"), "\(report.reason)")
        let bad = try #require(report.holds.first { $0.guest.rawValue == "g7" })
        #expect(bad.outcome == .failed)
        #expect(bad.hypervisorAfter == "old")
        for hold in report.holds where hold.guest != bad.guest {
            #expect(hold.outcome == .succeeded)
            #expect((hold.holdMicroseconds ?? .max) < 30_000_000)
        }
        // One process each: the new one of those that were handed over, the old one of the others.
        try host.wait("one QEMU for each guest", seconds: 60) { host.processes.count == 32 }
        let moved = Set(report.holds.filter { $0.outcome == .succeeded }.map(\.guest))
        for process in host.processes {
            let isMoved = moved.contains(GuestID(checked: process.guest))
            #expect(process.generation == (isMoved ? 2 : 1))
        }
        try host.wait("each to be known as running") {
            host.hostReport?.guests.allSatisfy { $0.state == .running } ?? false
        }
    }

    @Test("a stale token is refused, also after a restart, and a repeated directive reports again")
    func staleToken() throws {
        let host = try ProbeHost("st")
        defer { host.end() }
        try host.startAgent()
        try host.give(host.directive(token: 5))
        _ = try host.waitForReport()
        try host.give(host.directive(step: 2, token: 4))
        // It takes the directive away first, and answers then.
        try host.wait("its answer") { host.answers.count == 2 }
        host.killAgent()
        try host.startAgent()
        try host.give(host.directive(step: 3, token: 5))
        let count = host.reports.count
        try host.give(host.directive(token: 5))
        try host.wait("the report again") { host.reports.count > count }
        try host.wait("the answers") { host.answers.count == 4 }
        #expect(host.answers == ["accepted", "stale 5", "stale 5", "accepted"])
        #expect(Set(host.reports).count == 1)
    }

    @Test(
        "an agent killed at any point: the guest runs, is held once, and is reported once",
        arguments: [
            "accepted", "prepared", "armed", "holding", "stopped", "moved", "committing", "killed",
            "continued", "confirming", "finished",
        ])
    func killedAgent(point: String) throws {
        let host = try ProbeHost("ka")
        defer { host.end() }
        try host.startAgent(pause: point)
        let first = try #require(host.processes.first)
        try host.give(host.directive())
        try host.waitForAgentsEnd()
        try host.startAgent()
        let report = try host.waitForReport()
        #expect(Set(host.reports).count == 1)
        let isNew = ["committing", "killed", "continued", "confirming", "finished"].contains(point)
        let wasHeld = isNew || point == "stopped" || point == "moved"
        #expect(report.outcome == (isNew ? .succeeded : .failed), "\(report)")
        if wasHeld { #expect(report.holds.count == 1, "\(report)") }
        for hold in report.holds {
            #expect((hold.holdMicroseconds ?? 0) > 0)
            #expect(hold.hypervisorAfter == (isNew ? "new" : "old"))
            if point == "stopped" || point == "killed" { #expect(hold.resumedBy == .guard) }
        }
        try host.wait("one process") { host.processes.count == 1 }
        #expect((host.processes.first?.pid == first.pid) == !isNew)
        try host.give(host.directive(step: 2, token: 2))
        #expect(try host.waitForReport(step: 2).outcome == .succeeded)
    }

    @Test("an agent that hangs in a hold is killed by the guard before the deadline")
    func hungAgent() throws {
        let host = try ProbeHost("ha")
        defer { host.end() }
        try host.startAgent(pause: "stopped:stop")
        try host.give(host.directive(deadlineMilliseconds: 1_000))
        try host.waitForAgentsEnd()
        try host.startAgent()
        let report = try host.waitForReport()
        let hold = try #require(report.holds.first)
        #expect(report.outcome == .failed)
        #expect(hold.resumedBy == .guard)
        #expect((hold.holdMicroseconds ?? .max) < 1_500_000, "\(hold)")
    }

    @Test("a guest that ends by itself is not started again in the same boot of the host")
    func endedByItself() throws {
        let host = try ProbeHost("eb")
        defer { host.end() }
        try host.startAgent()
        let process = try #require(host.processes.first)
        try ProcessReference(pid: process.pid).send(signal: 9)
        try host.wait("its end") { host.processes.isEmpty }
        // The agent may learn of it a moment later.
        try host.wait("the agent to see it") { host.hostReport?.guests.first?.state == .stopped }
        try host.give(host.directive())
        try host.wait("the answer") { !host.answers.isEmpty }
        #expect(host.answers.first?.hasPrefix("refused guest g0 is stopped") == true)
        host.killAgent()
        try host.startAgent()
        #expect(host.processes.isEmpty)
    }
}
