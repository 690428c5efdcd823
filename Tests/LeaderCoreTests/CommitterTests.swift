import Coordination
import Fleet
import Foundation
import LogCore
import LogStore
import Logging
import Testing
import UvLoop

@testable import LeaderCore

/// A log store in memory whose appends can be made slow or failing on demand.
private final class ScriptedStore: LogStore {
    let loop: Loop
    var appends: [[[UInt8]]] = []
    var failure: LogStoreError?
    var isSlow = false
    var waiting: [() -> Void] = []
    /// Chunks of snapshots, with the number of appends before each.
    var chunks: [(bytes: [UInt8], appendCount: Int)] = []
    var saves: [UInt64] = []
    var saveFailure: LogStoreError?

    init(loop: Loop) { self.loop = loop }

    let name = "scripted"
    let warnings: [String] = []

    func lead(
        as writer: LogWriter, after index: UInt64,
        completion: @escaping (Result<OpenedLog, LogStoreError>) -> Void
    ) {
        loop.soon {
            completion(.success(OpenedLog(epoch: 1, snapshot: nil, records: [])))
        }
    }
    func append(
        _ records: [[UInt8]], firstIndex: UInt64,
        completion: @escaping (Result<Void, LogStoreError>) -> Void
    ) {
        let result: Result<Void, LogStoreError> = failure.map { .failure($0) } ?? .success(())
        if failure == nil { appends.append(records) }
        if isSlow {
            waiting.append { completion(result) }
        } else {
            loop.soon { completion(result) }
        }
    }
    func confirm(completion: @escaping (Result<Void, LogStoreError>) -> Void) {
        loop.soon { completion(.success(())) }
    }
    func save(
        index: UInt64, next: @escaping () -> [UInt8]?,
        completion: @escaping (Result<Void, LogStoreError>) -> Void
    ) {
        saves.append(index)
        func go() {
            if let saveFailure {
                completion(.failure(saveFailure))
            } else if let chunk = next() {
                chunks.append((chunk, appends.count))
                loop.soon { go() }
            } else {
                completion(.success(()))
            }
        }
        loop.soon { go() }
    }
    func close() {}
}

@Suite("Committer")
final class CommitterTests {
    let loop: Loop
    let log = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
    let directory = NSTemporaryDirectory() + "fermata-committer-\(UUID().uuidString)"

    init() throws { loop = try Loop() }
    deinit { try? FileManager.default.removeItem(atPath: directory) }

    private func report(_ name: String) -> Command {
        .reportHost(
            HostReport(
                host: HostID(checked: name), agentVersion: "", bootID: "", acceptedToken: Token(0),
                sets: [], guests: []))
    }

    private func started(
        _ store: any LogStore, interval: UInt64 = 1_000, retry: Duration = .seconds(60)
    ) -> Committer {
        let committer = Committer(
            store: store, snapshotFactsInterval: interval, snapshotRetry: retry, loop: loop,
            log: log)
        committer.start(LogWriter(name: "s", address: "")) { [loop] result in
            if case .failure(let error) = result { Issue.record("\(error)") }
            loop.stop()
        }
        loop.run()
        return committer
    }

    @Test("what arrives during an append goes into the next one, together")
    func groupCommit() {
        let store = ScriptedStore(loop: loop)
        let committer = started(store)
        store.isSlow = true
        var answers = 0
        committer.submit(report("h0")) { _ in answers += 1 }
        loop.soon { [loop] in
            // The first append is in flight now.
            for number in 1...9 {
                committer.submit(self.report("h\(number)")) { _ in
                    answers += 1
                    if answers == 10 { loop.stop() }
                }
            }
            loop.soon {
                #expect(answers == 0, "answered before it was durable")
                store.isSlow = false
                store.waiting.removeFirst()()
            }
        }
        loop.run()
        #expect(store.appends.map(\.count) == [1, 1, 9])
        #expect(answers == 10)
    }

    @Test("reads wait until what they would see is durable")
    func reads() {
        let store = ScriptedStore(loop: loop)
        let committer = started(store)
        store.isSlow = true
        var seen: Int?
        committer.submit(report("a")) { _ in }
        committer.read { [loop] in
            seen = committer.coordinator.state.hosts.count
            loop.stop()
        }
        loop.soon { [loop] in
            loop.soon {
                #expect(seen == nil)
                store.waiting.removeFirst()()
            }
        }
        loop.run()
        #expect(seen == 1)
    }

    @Test("an append that fails ends the server without an answer")
    func failure() {
        let store = ScriptedStore(loop: loop)
        let committer = started(store)
        store.failure = .writeFailed(path: "p", reason: "full")
        var fatal: LogStoreError?
        var answered = false
        committer.onFatal = { [loop] error in
            fatal = error
            loop.stop()
        }
        committer.submit(report("a")) { _ in answered = true }
        loop.run()
        #expect(fatal == .writeFailed(path: "p", reason: "full"))
        #expect(!answered)
    }

    /// Commits one host's report after the other.
    private func commit(_ numbers: Range<Int>, _ committer: Committer) {
        for number in numbers {
            committer.submit(report("h\(number)")) { [loop] _ in loop.stop() }
            loop.run()
        }
    }

    @Test("a snapshot is written while commits go on, and of the state when it was begun")
    func snapshotBeside() throws {
        let store = ScriptedStore(loop: loop)
        // Some chunks' worth of guests.
        let committer = started(store, interval: 2)
        let guests = (1_000..<4_000).map { number in
            GuestReport(
                id: GuestID(checked: "guest-with-a-long-name-\(number)"), set: nil,
                updateDomain: nil, memoryBytes: 1, vcpuCount: 1, state: .running,
                hypervisorVersion: String(repeating: "v", count: 200), hasGuestAgent: false,
                handOverProblem: "")
        }
        let large = HostReport(
            host: HostID(checked: "large"), agentVersion: "", bootID: "", acceptedToken: Token(0),
            sets: [], guests: guests)
        committer.submit(.reportHost(large)) { [loop] _ in loop.stop() }
        loop.run()
        commit(0..<20, committer)
        #expect(store.saves == [2])
        #expect(Set(store.chunks.map(\.appendCount)).count > 1, "no append between the chunks")
        let state = try SnapshotDecoder.decode(store.chunks.map(\.bytes))
        #expect(state.index == 2 && state.hosts.count == 1 && state.guests.count == 3_000)
        committer.close()
    }

    @Test("the larger the snapshot, the more facts there are between two")
    func snapshotInterval() {
        let store = ScriptedStore(loop: loop)
        let committer = started(store, interval: 3)
        commit(0..<400, committer)
        // Each must be followed by facts of a quarter of its own length, so the gaps grow.
        let gaps = zip(store.saves.dropFirst(), store.saves).map { $0 - $1 }
        #expect(gaps.count >= 4 && gaps.first == 3)
        #expect(gaps == gaps.sorted() && gaps.last! > 20, "\(gaps)")
        committer.close()
    }

    @Test("a snapshot that cannot be written is tried again later and hurts nobody")
    func snapshotFailure() {
        let store = ScriptedStore(loop: loop)
        let committer = started(store, interval: 3, retry: .seconds(1))
        committer.onFatal = { Issue.record("ended by \($0)") }
        store.saveFailure = .writeFailed(path: "p", reason: "full")
        commit(0..<20, committer)
        #expect(store.saves == [3])
        store.saveFailure = nil
        loop.after(.milliseconds(1_100)) { [loop] in loop.stop() }
        loop.run()
        commit(20..<25, committer)
        #expect(store.saves == [3, 22])
        committer.close()
    }

    @Test("a snapshot that is fenced ends the server")
    func snapshotFenced() {
        let store = ScriptedStore(loop: loop)
        let committer = started(store, interval: 3)
        var fatal: LogStoreError?
        committer.onFatal = { [loop] error in
            fatal = error
            loop.stop()
        }
        store.saveFailure = .fenced(byEpoch: 7)
        for number in 0..<3 { committer.submit(report("h\(number)")) { _ in } }
        loop.run()
        #expect(fatal == .fenced(byEpoch: 7))
    }

    @Test("whoever applies what was appended has the same state, and was told of each fact once")
    func followed() throws {
        let store = ScriptedStore(loop: loop)
        var told: [Fact] = []
        let committer = Committer(
            store: store, snapshotFactsInterval: 1_000, loop: loop, log: log)
        committer.onDurable = { facts, firstIndex in
            #expect(firstIndex == UInt64(told.count) + 1)
            told += facts
            #expect(committer.coordinator.state.index == UInt64(told.count))
        }
        committer.start(LogWriter(name: "s", address: "")) { [loop] _ in loop.stop() }
        loop.run()
        commit(0..<10, committer)
        let appended = try store.appends.joined().map { try FactRecord.decode($0) }
        var other = Coordinator()
        for fact in appended { other.apply(fact) }
        #expect(told == appended && told.count == 11)
        #expect(other.state == committer.coordinator.state)
        committer.close()
    }

    @Test(
        "a restart finds the same state, from the log alone and from a snapshot",
        arguments: [
            UInt64(1_000), 4,
        ])
    func restart(interval: UInt64) throws {
        var states: [FleetState] = []
        for round in 0..<3 {
            let store = SQLiteLogStore(directory: directory, loop: loop)
            let committer = started(store, interval: interval)
            var state = committer.coordinator.state
            state.index -= 1
            state.term -= 1
            if let last = states.last { #expect(state == last) }
            for number in 0..<10 {
                committer.submit(report("r\(round)h\(number)")) { [loop] _ in
                    if number == 9 { loop.stop() }
                }
                // Each in a commit of its own, so that snapshots fall between.
                committer.read { [loop] in if number < 9 { loop.stop() } }
                loop.run()
            }
            // Lets a snapshot that is due be saved.
            committer.read { [loop] in loop.stop() }
            loop.run()
            states.append(committer.coordinator.state)
            committer.close()
            store.close()
        }
        #expect(states.last?.hosts.count == 30)
    }
}
