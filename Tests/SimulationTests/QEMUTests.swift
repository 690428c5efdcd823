import AgentCore
import Fleet
import Testing

@testable import Simulation

/// A guest with an old QEMU that executes it and, mostly, a new one that waits for its state.
final class Lab {
    let timeline = Timeline()
    let place: Place
    let process: SimulatedProcess
    let guest: SimulatedGuest
    let old: SimulatedQEMU
    let new: SimulatedQEMU
    var monitors: [SimulatedMonitor] = []
    /// What happened to the guest, and what monitors told.
    var changes: [String] = []
    var unsettledCount = 0
    var events: [String] = []

    init(_ fate: HandOverFate = .completes(after: 20_000)) {
        place = Place("h1", on: timeline, drift: 0)
        process = SimulatedProcess("agent", at: place)
        guest = SimulatedGuest(GuestID(checked: "g1"), set: nil, domain: nil, at: place)
        old = SimulatedQEMU(
            guest, generation: 1, version: "1", isWaiting: false, Chance(seed: 1))
        new = SimulatedQEMU(
            guest, generation: 2, version: "2", isWaiting: true, Chance(seed: 2))
        old.successor = new
        old.fate = { fate }
        guest.onChange = { [unowned self] _, change in
            switch change {
            case .stopped(let cause): changes.append("stopped by \(cause)")
            case .resumed: changes.append("resumed")
            case .doubled: changes.append("doubled")
            case .unsettled: unsettledCount += 1
            case .corrupted: changes.append("corrupted")
            case .booted: changes.append("booted")
            case .gone: changes.append("gone")
            case .answersOrNot: changes.append("answers or not")
            }
        }
        for (name, qemu) in [("old", old), ("new", new)] {
            SimulatedMonitor.connect(process, to: qemu, limit: 1_000_000, Chance(seed: 3)) {
                [unowned self] in
                guard let monitor = $0 else { return }
                monitors.append(monitor)
                monitor.onEvent = { [unowned self] event, _ in events.append("\(name) \(event)") }
                monitor.onEnd = { [unowned self] in events.append("\(name) ended") }
            }
        }
        pass(10_000)
    }

    func pass(_ microseconds: Int64 = 1_000_000) {
        let end = timeline.now + microseconds
        timeline.after(microseconds) {}
        while timeline.step(until: end) {}
    }

    /// Sends, waits a second, and gives the answer in a word.
    func ask(_ qemu: SimulatedQEMU, _ command: QEMUCommand, limit: Int64? = nil) -> String {
        var answer = "none"
        guard let monitor = monitors.first(where: { $0.qemu === qemu }) else { return answer }
        monitor.send(command, limit: limit) { result in
            switch result {
            case .success(.done): answer = "done"
            case .success(.status(let runstate, _)): answer = runstate
            case .success(.migration(let state)): answer = "\(state)"
            case .success(.refused): answer = "refused"
            case .failure(.refused(let reason)): answer = "refused: \(reason)"
            case .failure(.ended): answer = "ended"
            }
        }
        pass()
        return answer
    }
}

/// The table at the top of QEMU.swift.
@Suite struct QEMUTests {
    @Test("a hand-over stops the guest, moves its state and lock, and both say that it is complete")
    func completes() {
        let lab = Lab()
        #expect(lab.ask(lab.new, .prepareIncoming) == "done")
        #expect(lab.ask(lab.old, .migrate) == "done")
        #expect(lab.changes == ["stopped by command"])
        #expect(
            lab.events.sorted() == [
                "new migrationCompleted", "old migrationCompleted", "old stopped",
            ])
        #expect(lab.ask(lab.old, .queryStatus) == "postmigrate")
        #expect(lab.ask(lab.old, .queryMigrate) == "completed")
        #expect(lab.ask(lab.new, .queryStatus) == "paused")
        #expect(lab.guest.lock === lab.new)
        #expect(lab.ask(lab.new, .cont) == "done")
        #expect(lab.changes == ["stopped by command", "resumed"])
        #expect(lab.guest.executing === lab.new)
        // The old one has not been killed.
        #expect(lab.unsettledCount == 1)
    }

    @Test(
        "the old one cannot be continued while the new one has the lock, and can once that is gone")
    func lock() {
        let lab = Lab()
        _ = lab.ask(lab.old, .migrate)
        #expect(lab.ask(lab.old, .cont).hasPrefix("refused: Failed to get"))
        lab.new.kill(exitsAfter: 500_000)
        #expect(!lab.guest.isExecuting)
        #expect(lab.ask(lab.old, .cont).hasPrefix("refused: Failed to get"))
        lab.pass()
        #expect(lab.ask(lab.old, .cont) == "done")
        #expect(lab.changes == ["stopped by command", "resumed"])
        #expect(lab.unsettledCount == 0)
    }

    @Test("a killed process executes nothing at once; its lock and sockets go later")
    func kill() {
        let lab = Lab()
        lab.old.kill(exitsAfter: 300_000)
        #expect(lab.changes == ["stopped by death"])
        #expect(!lab.old.isExecuting && !lab.old.hasExited && lab.guest.lock === lab.old)
        lab.pass(200_000)
        #expect(lab.events.isEmpty)
        lab.pass(200_000)
        #expect(lab.old.hasExited && lab.guest.lock == nil)
        #expect(lab.events == ["old ended"])
        #expect(lab.guest.processes.count == 1)
        lab.new.kill()
        #expect(lab.changes == ["stopped by death", "gone"])
    }

    @Test("a hand-over that fails continues the guest in the old one, and ends the new one")
    func fails() {
        let lab = Lab(.fails(after: 20_000))
        _ = lab.ask(lab.old, .migrate)
        #expect(lab.changes == ["stopped by command", "resumed"])
        #expect(lab.guest.executing === lab.old && lab.guest.lock === lab.old)
        #expect(lab.ask(lab.old, .queryMigrate) == "failed")
        #expect(!lab.new.isAlive)
    }

    @Test("a state that is older than what its guest has executed since is worth nothing")
    func splits() {
        let lab = Lab(.splits(after: 20_000))
        _ = lab.ask(lab.old, .migrate)
        #expect(lab.changes == ["stopped by command", "resumed"])
        #expect(lab.ask(lab.new, .queryStatus) == "paused")
        // Nothing keeps the new one from it once the old one is gone: whoever does this breaks memory.
        lab.old.kill()
        lab.pass()
        #expect(lab.ask(lab.new, .cont) == "done")
        #expect(lab.changes.suffix(2) == ["corrupted", "resumed"])
    }

    @Test("cont while it hands over aborts QEMU")
    func abort() {
        let lab = Lab(.hangs)
        _ = lab.ask(lab.old, .migrate)
        #expect(lab.ask(lab.old, .queryStatus) == "finish-migrate")
        #expect(lab.ask(lab.old, .queryMigrate) == "active")
        #expect(lab.ask(lab.old, .migrate).hasPrefix("refused"))
        let answer = lab.ask(lab.old, .cont)
        #expect(answer == "refused: it has aborted" || answer == "ended")
        #expect(!lab.old.isAlive)
    }

    @Test("the death of the new one fails a hand-over that hangs")
    func successor() {
        let lab = Lab(.hangs)
        _ = lab.ask(lab.old, .migrate)
        lab.new.kill()
        lab.pass()
        #expect(lab.guest.executing === lab.old)
        #expect(lab.ask(lab.old, .queryMigrate) == "failed")
    }

    @Test("one that waits for its state cannot be continued, nor migrated")
    func waiting() {
        let lab = Lab()
        #expect(lab.ask(lab.new, .cont).hasPrefix("refused"))
        #expect(lab.ask(lab.new, .migrate).hasPrefix("refused"))
        #expect(lab.ask(lab.old, .prepareIncoming).hasPrefix("refused"))
    }

    @Test("stop and cont, also twice")
    func pause() {
        let lab = Lab()
        #expect(lab.ask(lab.old, .stop) == "done")
        #expect(lab.ask(lab.old, .stop) == "done")
        #expect(lab.ask(lab.old, .queryStatus) == "paused")
        #expect(lab.ask(lab.old, .cont) == "done")
        #expect(lab.ask(lab.old, .cont) == "done")
        #expect(lab.changes == ["stopped by command", "resumed"])
        #expect(lab.events == ["old stopped", "old resumed"])
    }

    @Test("a paused guest is handed over without being stopped once more")
    func pausedMove() {
        let lab = Lab()
        _ = lab.ask(lab.old, .stop)
        #expect(lab.ask(lab.old, .migrate) == "done")
        #expect(lab.changes == ["stopped by command"])
        #expect(lab.ask(lab.new, .cont) == "done")
    }

    @Test("one that hangs answers nothing, and does all of it once it goes on")
    func hang() {
        let lab = Lab()
        lab.old.hang()
        #expect(lab.ask(lab.old, .stop) == "none")
        #expect(lab.guest.isExecuting)
        lab.old.goOn()
        #expect(!lab.guest.isExecuting)
        #expect(lab.ask(lab.old, .queryStatus) == "paused")
    }

    @Test("a connection to one that hangs ends at its limit; the process lives")
    func limit() {
        let lab = Lab()
        lab.old.hang()
        #expect(lab.ask(lab.old, .queryStatus, limit: 500_000) == "ended")
        #expect(lab.events == ["old ended"])
        #expect(lab.old.isAlive && lab.guest.isExecuting)
    }

    @Test("a command that was written is carried out although its sender dies")
    func written() {
        let lab = Lab()
        lab.monitors.first { $0.qemu === lab.old }?.send(.stop, limit: nil) { _ in }
        lab.process.kill()
        lab.pass()
        #expect(!lab.guest.isExecuting)
        #expect(lab.events.isEmpty)
    }

    @Test("two that execute one guest are seen")
    func doubled() {
        let lab = Lab()
        _ = SimulatedQEMU(
            lab.guest, generation: 3, version: "1", isWaiting: false, Chance(seed: 1))
        #expect(lab.changes.contains("doubled"))
        #expect(lab.guest.bootCount == 2)
    }

    @Test("power takes everything at once")
    func vanish() {
        let lab = Lab()
        lab.old.vanish()
        #expect(lab.old.hasExited && lab.guest.lock == nil && !lab.guest.isExecuting)
    }
}
