import Fleet
import Testing

@testable import AgentCore

/// An agent's machine with a disk, a leader, and a crash at any point between two effects.
private struct CrashWorld {
    var random: Dice
    var disk = AgentRecords()
    var machine: AgentMachine
    var queue: [AgentMachine.Event] = []
    var failures: [String] = []

    // What the leader knows.
    var wanted: Directive?
    var nextToken: UInt64 = 1
    var accepted: [TokenGate.Grant] = []
    var committed: [TokenGate.Grant: StepReport] = [:]
    /// Begun here, and how often.
    var begun: [TokenGate.Grant: Int] = [:]
    /// What happens to the step at work when its time comes.
    var working: AcceptedStep?

    init(seed: UInt64) {
        random = Dice(state: seed)
        machine = AgentMachine(host: HostID(checked: "h"), bootID: "boot")
    }

    mutating func chance(_ percent: UInt64) -> Bool { random.next() % 100 < percent }

    mutating func restart() {
        queue = []
        working = nil
        machine = AgentMachine(host: HostID(checked: "h"), bootID: "boot", records: disk)
        if machine.gate.acceptedToken < (accepted.map(\.token).max() ?? Token(0)) {
            failures.append("it forgot a token that it had accepted")
        }
        queue = [.start(guests: [guestA]), .guestsSettled, .sessionReady]
    }

    /// - Returns: false if the agent was killed.
    mutating func carryOut(_ effect: AgentMachine.Effect) -> Bool {
        switch effect {
        case .keep(let token, let step):
            write { world in
                world.disk.acceptedToken = token
                world.disk.inFlight = step
            }
        case .keepReport(let report):
            write { world in
                world.disk.reports.removeAll { $0.grant == report.grant }
                world.disk.reports.append(report)
            }
        case .forgetReport(let step, let token):
            disk.reports.removeAll { $0.step == step && $0.token == token }
        case .answer(let grant, .accepted):
            if disk.inFlight?.grant != grant, !disk.reports.contains(where: { $0.grant == grant }) {
                failures.append("\(grant) was accepted and is not kept")
            }
            accepted.append(grant)
            if wanted.map({ $0.token == grant.token }) == true { wanted = nil }
        case .answer(_, .refused), .answer(_, .staleToken): wanted = nil
        case .begin(let step):
            begun[step.grant, default: 0] += 1
            if disk.inFlight != step { failures.append("\(step.grant) begins and is not kept") }
            working = step
        case .observe: queue.append(.observed([.keep(.old)]))
        case .resume(let step, _): working = step
        case .send(let report):
            if let first = committed[report.grant], first != report {
                failures.append("\(report.grant) has two reports")
            }
            committed[report.grant] = report
            // The answer may be lost with its session.
            if chance(70) { queue.append(.reportCommitted(report.step, report.token)) }
        case .setTimer(let timer, _): queue.append(.timerFired(timer))
        case .answer, .undoAfterReboot, .recoverUpgrade, .takeUpGuests, .startGuests, .becomeReady,
            .sendHostReport, .removeNotes:
            break
        }
        return !chance(3)
    }

    private mutating func write(_ body: (inout CrashWorld) -> Void) {
        switch random.next() % 10 {
        case 0: queue.append(.keepFailed(reason: "full"))
        case 1:
            // It is there all the same.
            body(&self)
            queue.append(.keepFailed(reason: "the directory could not be synchronised"))
        default:
            body(&self)
            queue.append(.kept)
        }
    }

    mutating func turn() {
        if queue.isEmpty || chance(10) {
            if wanted == nil {
                wanted = directive(token: nextToken, step: UInt32(nextToken))
                nextToken += 1
            }
            if let working, chance(50) {
                queue.append(.stepEnded(working.report(.failed, "\(random.next())")))
                self.working = nil
            } else if let wanted {
                queue.append(
                    .directive(
                        wanted, at: epoch,
                        guests: [
                            HostGuest(
                                id: guestA, state: .running, generation: 1, hypervisorVersion: "")
                        ], parts: MeasuredParts()))
            }
        }
        guard !queue.isEmpty else { return }
        for effect in machine.handle(queue.removeFirst()) where !carryOut(effect) {
            return restart()
        }
    }
}

@Suite struct AgentCrashTests {
    @Test(
        "killed between any two effects, on a disk that fails: kept first, begun once, reported once"
    )
    func crashes() {
        for seed in 0..<300 as Range<UInt64> {
            var world = CrashWorld(seed: seed)
            world.restart()
            for _ in 0..<400 { world.turn() }
            for failure in Set(world.failures) { Issue.record("seed \(seed): \(failure)") }
            for (grant, count) in world.begun where count != 1 {
                Issue.record("seed \(seed): \(grant) began \(count) times")
            }
            #expect(!world.committed.isEmpty, "seed \(seed)")
            // What was accepted is reported, or still on its way.
            let onItsWay =
                world.disk.reports.map(\.grant) + [world.machine.gate.inFlight].compactMap(\.self)
            for grant in world.accepted
            where world.committed[grant] == nil && !onItsWay.contains(grant) {
                Issue.record("seed \(seed): \(grant) was accepted and is not reported")
            }
        }
    }
}
