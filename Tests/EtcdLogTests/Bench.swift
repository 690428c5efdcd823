import LogCore
import Testing

@testable import EtcdLog
@testable import Simulation

/// A simulated etcd with servers around it.
final class Bench {
    let clock: VirtualClock
    let loop: VirtualLoop
    let etcd: SimulatedEtcd
    let prefix = "/test/"
    private var stores: [EtcdLogStore] = []

    init(seed: UInt64 = 1, memberCount: Int = 3) {
        clock = VirtualClock(seed: seed)
        loop = VirtualLoop(clock)
        etcd = SimulatedEtcd(memberCount: memberCount, on: loop)
    }

    /// A store of a server, on a loop of its own.
    func store(_ server: String = "one", on loop: VirtualLoop? = nil) -> EtcdLogStore {
        let loop = loop ?? VirtualLoop(clock)
        let store = EtcdLogStore(
            etcd.access(of: server, on: loop), name: "etcd:\(server)", prefix: prefix, on: loop)
        stores.append(store)
        return store
    }

    func until(
        _ limit: Duration = .seconds(30), sourceLocation: SourceLocation = #_sourceLocation,
        _ condition: () -> Bool
    ) {
        if !clock.run(for: limit, until: condition) {
            Issue.record("nothing came of it in \(limit)", sourceLocation: sourceLocation)
        }
    }

    func pass(_ time: Duration) { _ = clock.run(for: time) }

    func wait<T, E: Error>(
        sourceLocation: SourceLocation = #_sourceLocation,
        _ start: (@escaping (Result<T, E>) -> Void) -> Void
    ) throws -> T {
        var answer: Result<T, E>?
        start {
            #expect(answer == nil, "two completions", sourceLocation: sourceLocation)
            answer = $0
        }
        #expect(answer == nil, "a completion came inside the call", sourceLocation: sourceLocation)
        until(sourceLocation: sourceLocation) { answer != nil }
        return try #require(answer, sourceLocation: sourceLocation).get()
    }

    @discardableResult
    func lead(
        _ store: EtcdLogStore, as name: String = "one", after index: UInt64 = 0,
        sourceLocation: SourceLocation = #_sourceLocation
    ) throws -> OpenedLog {
        try wait(sourceLocation: sourceLocation) {
            store.lead(
                as: LogWriter(name: name, address: "\(name):1"), after: index, completion: $0)
        }
    }

    func append(
        _ store: EtcdLogStore, _ texts: [String], at index: UInt64,
        sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        try wait(sourceLocation: sourceLocation) {
            store.append(texts.map { Array($0.utf8) }, firstIndex: index, completion: $0)
        }
    }

    func save(
        _ store: EtcdLogStore, _ chunks: [[UInt8]], index: UInt64,
        sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        var left = chunks[...]
        try wait(sourceLocation: sourceLocation) {
            store.save(index: index, next: { left.popFirst() }, completion: $0)
        }
    }

    /// All there is, by a reader of its own.
    func contents() throws -> EtcdContents {
        try wait {
            EtcdReader(
                etcd.access(of: "reader", on: VirtualLoop(clock)), EtcdLayout(prefix: prefix),
                after: 0, completion: $0)
        }
    }

    func texts() throws -> [String] {
        try contents().records.map { String(decoding: $0, as: UTF8.self) }
    }

    /// The keys below the prefix, without it.
    var keys: [String] {
        etcd.values(from: prefix, to: EtcdLayout.endOfPrefix(prefix)).map {
            String($0.key.dropFirst(prefix.count))
        }
    }
}

/// What a follower was told.
final class Followed {
    private(set) var snapshot: LogSnapshot?
    private(set) var records: [[UInt8]] = []
    private(set) var loadCount = 0
    private(set) var writers: [String] = []
    private(set) var aliveCount = 0
    private(set) var interruptions: [LogStoreError] = []

    var texts: [String] { records.map { String(decoding: $0, as: UTF8.self) } }
    var index: UInt64 { (snapshot?.index ?? 0) + UInt64(records.count) }

    init(_ store: EtcdLogStore) { store.follow { [weak self] in self?.take($0) } }

    private func take(_ update: LogUpdate) {
        switch update {
        case .loaded(let snapshot, let records):
            self.snapshot = snapshot
            self.records = records
            loadCount += 1
        case .appended(let new, let firstIndex):
            #expect(firstIndex == index + 1)
            records += new
        case .writer(let writer, let epoch): writers.append("\(writer.name) \(epoch)")
        case .alive: aliveCount += 1
        case .interrupted(let error): interruptions.append(error)
        }
    }
}
