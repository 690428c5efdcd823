import Foundation
import LogCore
import Testing
import UvLoop

@testable import EtcdLog
@testable import LogStore

/// A loop with stores on it.
final class Bench {
    let loop: Loop
    let prefix = "/fermata-test/\(UUID().uuidString)/"
    let http: HTTPClient
    private var stores: [EtcdLogStore] = []

    init() throws {
        loop = try Loop()
        http = HTTPClient(on: loop)
    }

    deinit {
        for store in stores { store.close() }
        loop.closeAll()
    }

    func store(
        _ endpoints: [String], tls: HTTPRequest.TLS = HTTPRequest.TLS(), user: String? = nil,
        password: String? = nil, prefix: String? = nil, limit: Duration = .seconds(6)
    ) -> EtcdLogStore {
        let options = EtcdOptions(
            endpoints: endpoints, tls: tls, user: user, password: password,
            prefix: prefix ?? self.prefix)
        stores.append(EtcdLogStore(options, on: loop, limit: limit))
        return stores[stores.count - 1]
    }

    func until(
        _ limit: Duration = .seconds(30), sourceLocation: SourceLocation = #_sourceLocation,
        _ condition: @escaping () -> Bool
    ) {
        let check = loop.every(.milliseconds(1)) { [loop] in if condition() { loop.stop() } }
        // A busy computer is given more: no test waits for time.
        let patience = max(limit, .seconds(60))
        let timer = loop.after(patience) { [loop] in
            Issue.record("nothing came of it in \(patience)", sourceLocation: sourceLocation)
            loop.stop()
        }
        loop.run()
        check.cancel()
        timer.cancel()
    }

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

    func pass(_ time: Duration) {
        loop.after(time) { [loop] in loop.stop() }
        loop.run()
    }

    // MARK: What stores do

    @discardableResult
    func lead(
        _ store: any LogStore, as name: String = "one", after index: UInt64 = 0,
        sourceLocation: SourceLocation = #_sourceLocation
    ) throws -> OpenedLog {
        try wait(sourceLocation: sourceLocation) {
            store.lead(
                as: LogWriter(name: name, address: "\(name):1"), after: index, completion: $0)
        }
    }

    func append(
        _ store: any LogStore, _ texts: [String], at index: UInt64,
        sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        try wait(sourceLocation: sourceLocation) {
            store.append(texts.map { Array($0.utf8) }, firstIndex: index, completion: $0)
        }
    }

    func save(
        _ store: any LogStore, _ chunks: [[UInt8]], index: UInt64,
        sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        var left = chunks[...]
        try wait(sourceLocation: sourceLocation) {
            store.save(index: index, next: { left.popFirst() }, completion: $0)
        }
    }

    /// The texts of all records, by a reader of its own.
    func texts(_ endpoints: [String]) throws -> [String] {
        let contents: EtcdContents = try wait {
            EtcdReader(gateway(endpoints), EtcdLayout(prefix: prefix), after: 0, completion: $0)
        }
        return contents.records.map { String(decoding: $0, as: UTF8.self) }
    }

    func gateway(_ endpoints: [String]) -> EtcdGateway {
        EtcdGateway(EtcdOptions(endpoints: endpoints, prefix: prefix), on: loop)
    }

    /// The keys below the prefix, without it.
    func keys(_ endpoints: [String]) throws -> [String] {
        let range: EtcdRange = try wait {
            gateway(endpoints).range(
                .range(from: prefix, to: EtcdLayout.endOfPrefix(prefix), limit: 10_000), $0)
        }
        return range.values.map { String($0.key.dropFirst(prefix.count)) }
    }

    func put(_ endpoints: [String], _ key: String, _ value: [UInt8]) throws {
        let answer: EtcdTransactionAnswer = try wait {
            gateway(endpoints).transaction(
                EtcdTransaction(compare: [], success: [.put(key: prefix + key, value)]), $0)
        }
        #expect(answer.isDone)
    }
}

/// What a follower was told.
final class Followed {
    private(set) var snapshot: LogSnapshot?
    private(set) var records: [[UInt8]] = []
    private(set) var loadCount = 0
    private(set) var writers: [String] = []
    private(set) var aliveEpochs: [UInt64] = []
    private(set) var interruptions: [LogStoreError] = []

    var texts: [String] { records.map { String(decoding: $0, as: UTF8.self) } }
    var index: UInt64 { (snapshot?.index ?? 0) + UInt64(records.count) }

    init(_ store: any FollowableLogStore) { store.follow { [weak self] in self?.take($0) } }

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
        case .alive(let epoch): aliveEpochs.append(epoch)
        case .interrupted(let error): interruptions.append(error)
        }
    }
}
