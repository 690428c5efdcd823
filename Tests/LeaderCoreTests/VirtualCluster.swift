import Edges
import Fleet
import LogCore
import Wire

@testable import LeaderCore

/// A loop whose time passes only when nothing is left to do at a moment.
final class VirtualLoop: EventLoop {
    final class Timer: LoopTimer {
        fileprivate var body: (() -> Void)?
        fileprivate init(_ body: @escaping () -> Void) { self.body = body }
        func cancel() { body = nil }
    }
    private var due: [(at: Int64, timer: Timer)] = []
    private(set) var nowMilliseconds: Int64 = 0
    var wallMicroseconds: Int64 { 1_700_000_000_000_000 + nowMilliseconds * 1_000 }

    @discardableResult
    func after(_ delay: Duration, _ body: @escaping () -> Void) -> Timer {
        let (seconds, attoseconds) = delay.components
        let timer = Timer(body)
        let at = nowMilliseconds + seconds * 1_000 + attoseconds / 1_000_000_000_000_000
        due.insert((at, timer), at: due.firstIndex { $0.at > at } ?? due.count)
        return timer
    }

    func every(_ interval: Duration, _ body: @escaping () -> Void) -> Timer {
        preconditionFailure("nothing here repeats")
    }

    func soon(_ body: @escaping () -> Void) { after(.zero, body) }
    func random(in range: ClosedRange<Int64>) -> Int64 { range.lowerBound }
    func randomBytes(_ count: Int) -> [UInt8] { Array(repeating: 7, count: count) }

    func run(milliseconds: Int64) {
        let end = nowMilliseconds + milliseconds
        while let first = due.first, first.at <= end {
            due.removeFirst()
            nowMilliseconds = first.at
            let body = first.timer.body
            first.timer.cancel()
            body?()
        }
        nowMilliseconds = end
    }
}

/// A log in memory, and those who have it open.
final class MemoryLog {
    fileprivate(set) var records: [[UInt8]] = []
    fileprivate var writer: LogWriter?
    fileprivate var epoch: UInt64 = 0
    fileprivate var stores: [MemoryStore] = []
    fileprivate func tell(_ update: LogUpdate) {
        for store in stores { store.onUpdate?(update) }
    }
}

final class MemoryStore: FollowableLogStore {
    let name = "memory"
    let warnings: [String] = []
    var onLost: ((LogStoreError) -> Void)?
    var deposesTheLiving = false
    fileprivate var onUpdate: ((LogUpdate) -> Void)?
    var isFollowing: Bool { onUpdate != nil }
    private let shared: MemoryLog
    private let loop: VirtualLoop
    private var epoch: UInt64 = 0
    private var isClosed = false

    init(_ shared: MemoryLog, _ loop: VirtualLoop) {
        self.shared = shared
        self.loop = loop
        shared.stores.append(self)
    }

    func lead(
        as writer: LogWriter, after index: UInt64,
        completion: @escaping (Result<OpenedLog, LogStoreError>) -> Void
    ) {
        onUpdate = nil
        soon { [self] in
            shared.epoch += 1
            epoch = shared.epoch
            shared.writer = writer
            shared.tell(.writer(writer, epoch: epoch))
            completion(
                .success(
                    OpenedLog(
                        epoch: epoch, snapshot: nil,
                        records: Array(shared.records[Int(index)...]))))
        }
    }

    func append(
        _ records: [[UInt8]], firstIndex: UInt64,
        completion: @escaping (Result<Void, LogStoreError>) -> Void
    ) {
        confirm { [self] result in
            if case .success = result {
                precondition(firstIndex == UInt64(shared.records.count) + 1, "a hole in the log")
                shared.records += records
                shared.tell(.appended(records, firstIndex: firstIndex))
            }
            completion(result)
        }
    }

    func confirm(completion: @escaping (Result<Void, LogStoreError>) -> Void) {
        soon { [self] in
            let isNewest = epoch == shared.epoch
            completion(isNewest ? .success(()) : .failure(.fenced(byEpoch: shared.epoch)))
        }
    }

    func save(
        index: UInt64, next: @escaping () -> [UInt8]?,
        completion: @escaping (Result<Void, LogStoreError>) -> Void
    ) {
        preconditionFailure("no test is so long")
    }

    func follow(_ onUpdate: @escaping (LogUpdate) -> Void) {
        self.onUpdate = onUpdate
        soon { [self] in
            onUpdate(.loaded(nil, records: shared.records))
            if let writer = shared.writer { onUpdate(.writer(writer, epoch: shared.epoch)) }
        }
    }

    func close() {
        isClosed = true
        onUpdate = nil
    }

    private func soon(_ body: @escaping () -> Void) {
        loop.soon { [self] in if !isClosed { body() } }
    }
}

/// A log that only one can open.
final class SingleStore: LogStore {
    private let store: MemoryStore
    init(_ store: MemoryStore) { self.store = store }
    var name: String { store.name }
    var warnings: [String] { store.warnings }
    func lead(
        as writer: LogWriter, after index: UInt64,
        completion: @escaping (Result<OpenedLog, LogStoreError>) -> Void
    ) { store.lead(as: writer, after: index, completion: completion) }
    func append(
        _ records: [[UInt8]], firstIndex: UInt64,
        completion: @escaping (Result<Void, LogStoreError>) -> Void
    ) { store.append(records, firstIndex: firstIndex, completion: completion) }
    func confirm(completion: @escaping (Result<Void, LogStoreError>) -> Void) {
        store.confirm(completion: completion)
    }
    func save(
        index: UInt64, next: @escaping () -> [UInt8]?,
        completion: @escaping (Result<Void, LogStoreError>) -> Void
    ) { store.save(index: index, next: next, completion: completion) }
    func close() { store.close() }
}

/// What a server says to a peer.
final class ScriptedSession: PeerSession {
    let identity: PeerIdentity
    let serial = "0A"
    let peer = "192.0.2.1:5"
    var isReady: Bool { closed == nil }
    var queuedByteCount = 0
    /// Messages that are too long.
    var refuses: (Message) -> Bool = { _ in false }
    private(set) var sent: [(message: Message, correlation: UInt64)] = []
    private(set) var closed: CloseCode?
    private(set) var workCount = 0

    init(_ role: Role, _ name: String) {
        identity = PeerIdentity(cluster: "test", role: role, name: name)!
    }

    func send(_ message: Message, correlation: UInt64) -> Bool {
        guard isReady, !refuses(message) else { return false }
        sent.append((message, correlation))
        return true
    }
    func close(_ code: CloseCode, reason: String) { closed = closed ?? code }
    func workBegan() { workCount += 1 }
    func workEnded() { workCount -= 1 }
}

final class ScriptedWatch: LeaderWatch {
    let address: String
    var isUrgent: () -> Bool = { false }
    var followsHints = true
    var onReady: ((HelloAccepted) -> Void)?
    private(set) var onDown: ((LeaderWatchDown) -> Void)?
    private(set) var startCount = 0
    private(set) var isStopped = false

    init(_ address: String) { self.address = address }
    func whenDown(_ body: @escaping (LeaderWatchDown) -> Void) { onDown = body }
    func start() { startCount += 1 }
    func stop(_ reason: String) { isStopped = true }
}

/// A server's surroundings, and what it asked of them.
final class ScriptedEdges: ServerEdges, AuditRecorder {
    private(set) var entries: [AuditEntry] = []
    private(set) var unrecorded: [() -> Void] = []
    private(set) var counts: [String] = []
    private(set) var closings: [CloseCode] = []
    private(set) var watches: [ScriptedWatch] = []

    var audit: any AuditRecorder { self }
    func record(_ entry: AuditEntry, then: @escaping () -> Void) {
        entries.append(entry)
        unrecorded.append(then)
    }
    func finishRecords() {
        let waiting = unrecorded
        unrecorded = []
        for then in waiting { then() }
    }
    func count(_ name: String, _ reason: String) { counts.append("\(name) \(reason)") }
    func complete(_ view: inout StatusView) { view.warnings.append("complete") }
    func closeSessions(_ code: CloseCode, reason: String) { closings.append(code) }
    func watch(_ address: String) -> any LeaderWatch {
        let watch = ScriptedWatch(address)
        watches.append(watch)
        return watch
    }
}
