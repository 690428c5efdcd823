import Coordination
import Fleet
import Foundation
import LogCore
import LogStore
import Testing
import UvLoop

@testable import LeaderCore
@testable import LeaderShell

@Suite("Back-up and restore")
final class BackupTests {
    let directory = NSTemporaryDirectory() + "fermata-backup-\(UUID().uuidString)"
    let loop: Loop
    var file: String { directory + "/file" }

    init() throws {
        loop = try Loop()
        try FileManager.default.createDirectory(
            atPath: directory, withIntermediateDirectories: true)
    }
    deinit { try? FileManager.default.removeItem(atPath: directory) }

    private func store(_ name: String) -> SQLiteLogStore {
        SQLiteLogStore(directory: "\(directory)/\(name)", loop: loop)
    }

    private func wait<Value, Failure>(
        _ start: (@escaping (Result<Value, Failure>) -> Void) -> Void
    ) throws -> Value {
        var answer: Result<Value, Failure>?
        start { [loop] result in
            answer = result
            loop.stop()
        }
        #expect(answer == nil, "a completion came inside the call")
        loop.run()
        return try #require(answer).get()
    }

    private func lead(_ store: SQLiteLogStore) throws -> OpenedLog {
        try wait { store.lead(as: LogWriter(name: "s", address: ""), after: 0, completion: $0) }
    }

    /// A log with all kinds of facts, half of them in a snapshot; its server still runs.
    private func eventfulLog(_ name: String) throws -> (store: SQLiteLogStore, state: FleetState) {
        let (coordinator, facts) = eventfulFleet()
        var half = Coordinator()
        for fact in facts.prefix(facts.count / 2) { half.apply(fact) }
        var encoder = SnapshotEncoder(half.state, byteCountMax: 500)
        let store = store(name)
        _ = try lead(store)
        try wait {
            store.replace(index: half.state.index, next: { encoder.next() }, completion: $0)
        }
        try wait {
            store.append(
                facts[(facts.count / 2)...].map(FactRecord.encode),
                firstIndex: half.state.index + 1, completion: $0)
        }
        return (store, coordinator.state)
    }

    private func backUp(_ name: String) throws -> BackupDescription {
        try wait { Backup.make(of: store(name), at: file, software: "x", completion: $0) }
    }

    private func restore(
        _ name: String, isReplacing: Bool = false
    ) throws -> BackupDescription {
        try wait {
            Backup.restore(
                from: file, to: store(name), isReplacing: isReplacing, loop: loop,
                completion: $0)
        }
    }

    private func state(_ name: String) throws -> FleetState {
        let log = try wait { store(name).read(completion: $0) }
        return try Backup.state(of: log)
    }

    @Test("what was backed up beside a running server comes back in another store")
    func roundTrip() throws {
        let (running, state) = try eventfulLog("a")
        let made = try backUp("a")
        #expect(made.index == state.index && made.term == 3)
        #expect(made.digest == StateDigest.of(state))
        #expect(try Files.mode(path: file) == 0o600)
        let restored = try restore("b")
        #expect(restored == made)
        #expect(try self.state("b") == state)
        // The server was not disturbed, and the other store can go on where this one was.
        try wait {
            running.append([[1]], firstIndex: state.index + 1, completion: $0)
        }
        running.close()
        let other = store("b")
        _ = try lead(other)
        try wait { other.append([[1]], firstIndex: state.index + 1, completion: $0) }
        other.close()
    }

    @Test("a back-up of a restored store has the same digest: the way there and back")
    func thereAndBack() throws {
        try eventfulLog("a").store.close()
        let made = try backUp("a")
        _ = try restore("b")
        let again = try backUp("b")
        #expect(again.digest == made.digest && again.index == made.index)
        _ = try restore("a", isReplacing: true)
        #expect(StateDigest.of(try state("a")) == made.digest)
    }

    @Test("a store that has a log is left alone, unless it is to be replaced")
    func notEmpty() throws {
        try eventfulLog("a").store.close()
        let made = try backUp("a")
        let other = store("b")
        _ = try lead(other)
        let fact = FactRecord.encode(
            Fact(at: Timestamp(microseconds: 1), body: .termStarted(term: 1, server: "s")))
        try wait {
            other.append(
                [[UInt8]](repeating: fact, count: 400), firstIndex: 1, completion: $0)
        }
        #expect(throws: BackupError.log(.inUse(directory: directory + "/b"))) {
            try self.restore("b", isReplacing: true)
        }
        other.close()
        #expect(throws: BackupError.notEmpty(store: "sqlite:\(directory)/b", index: 400)) {
            try self.restore("b")
        }
        #expect(try state("b").index == 400)
        _ = try restore("b", isReplacing: true)
        #expect(StateDigest.of(try state("b")) == made.digest)
        // Whoever wrote there before has a lower epoch.
        #expect(try lead(other).epoch == 3)
        other.close()
    }

    @Test("a file that is cut off, changed, foreign or newer is named and changes nothing")
    func badFiles() throws {
        try eventfulLog("a").store.close()
        _ = try backUp("a")
        let whole = [UInt8](try Data(contentsOf: URL(fileURLWithPath: file)))
        func problem(_ bytes: [UInt8]) throws -> BackupError? {
            try Data(bytes).write(to: URL(fileURLWithPath: file))
            do {
                _ = try restore("b")
                return nil
            } catch let error as BackupError {
                return error
            }
        }
        for count in stride(from: 8, to: whole.count, by: 97) {
            guard case .damaged = try problem(Array(whole.prefix(count))) else {
                Issue.record("cut off after \(count) bytes, and not said to be damaged")
                return
            }
        }
        for index in stride(from: 12, to: whole.count, by: 61) {
            var bytes = whole
            bytes[index] ^= 4
            guard case .damaged = try problem(bytes) else {
                Issue.record("changed at \(index), and not said to be damaged")
                return
            }
        }
        #expect(
            try problem(whole + [0]) == .damaged(path: file, reason: "something follows its end"))
        #expect(try problem([]) == .notABackup(path: file))
        #expect(try problem(Array("SQLite format 3".utf8)) == .notABackup(path: file))
        var newer = whole
        newer[11] = 9
        #expect(try problem(newer) == .newerFormat(path: file, version: 9))
        #expect(try wait { store("b").read(completion: $0) }.isEmpty)
        #expect(throws: BackupError.nothingThere(store: "sqlite:\(directory)/none")) {
            try self.backUp("none")
        }
    }

    @Test("after an old back-up was restored, no agent gets a token that it knows")
    func oldBackup() throws {
        var (coordinator, _) = eventfulFleet()
        let old = coordinator.state
        func run(_ command: Command) {
            guard
                case .success(let facts) = coordinator.propose(
                    command, at: Timestamp(microseconds: 9))
            else { return }
            for fact in facts { coordinator.apply(fact) }
        }
        // What is lost: steps went on, with tokens up to 500 on one host.
        let active = old.active.elements.first!
        run(.startTerm(term: old.term + 1, server: "restored"))
        let before = coordinator.state.step(active.value)!.token!
        var report = old.hosts[active.key]!.report
        report.acceptedToken = Token(500)
        run(.reportHost(report))
        #expect(coordinator.state.nextToken == 501)
        // The agent has accepted more than the directive that the restored server believes in.
        run(
            .answerDirective(
                step: active.value, token: before, host: active.key,
                answer: .staleToken(acceptedToken: Token(500))))
        #expect(coordinator.state.step(active.value)!.token == Token(501))
        // Another host has lost its first report; its answer alone lifts the tokens.
        run(
            .answerDirective(
                step: active.value, token: Token(501), host: active.key,
                answer: .staleToken(acceptedToken: Token(700))))
        #expect(coordinator.state.step(active.value)!.token == Token(701))
        #expect(coordinator.brokenInvariants() == [])
    }
}
