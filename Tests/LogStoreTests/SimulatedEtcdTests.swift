import Testing
import UvLoop

@testable import EtcdLog
@testable import LogStore
@testable import Simulation

/// The simulated etcd does what a real one does, with the same transactions, reads and watches.
@Suite("etcd, simulated and real", .serialized)
final class SimulatedEtcdTests {
    let bench: Bench
    let prefix: String
    let real: EtcdGateway
    var table = EtcdTable()
    /// How much further the real one was at the start.
    var offset: Int64 = 0
    var dice = Dice(state: 0)
    /// By the table.
    var puts: [EtcdKeyValue] = []

    /// Nobody else's: revisions count for the whole cluster.
    private static let own = Result { try EtcdCluster() }

    init() throws {
        bench = try Bench()
        prefix = bench.prefix
        real = bench.gateway(try Self.own.get().endpoints)
    }

    // MARK: What can be compared

    private func shifted(_ values: [EtcdKeyValue]) -> [EtcdKeyValue] {
        values.map {
            EtcdKeyValue(key: $0.key, value: $0.value, modRevision: $0.modRevision + offset)
        }
    }

    private func shifted(_ range: EtcdRange) -> EtcdRange {
        EtcdRange(shifted(range.values), hasMore: range.hasMore)
    }

    /// Of a failure only its kind.
    private func kind(_ failure: EtcdFailure) -> EtcdFailure {
        .unavailable(String("\(failure)".prefix { $0 != "(" }))
    }

    private func plain<T>(_ verdict: EtcdVerdict<T>) -> Result<T, EtcdFailure> {
        switch verdict {
        case .answer(let answer): .success(answer)
        case .failure(let failure): .failure(kind(failure))
        case .another, .refusal, .sameAgain: .failure(kind(.unavailable("")))
        }
    }

    private func ask<T>(
        _ start: (@escaping (Result<T, EtcdFailure>) -> Void) -> Void
    ) throws -> Result<T, EtcdFailure> {
        var result: Result<T, EtcdFailure>?
        start { result = $0 }
        bench.until { result != nil }
        return try #require(result).mapError(kind)
    }

    // MARK: What is asked

    private func key() -> String { prefix + ["a", "b", "b0", "c/1", "c/2", "d"][dice.roll(6)] }

    private func value() -> [UInt8] {
        [UInt8](repeating: UInt8(dice.roll(3)), count: dice.roll(3))
    }

    private func operation() -> EtcdOperation {
        let key = key()
        return switch dice.roll(6) {
        case 0: .get(key: key)
        case 1: .range(from: key, to: prefix + "z", limit: 1 + dice.roll(4))
        case 2: .delete(from: key, to: key + "\0")
        default: .put(key: key, value())
        }
    }

    private func condition() -> EtcdCompare {
        let key = key()
        guard dice.roll(2) == 0, case .answer(let range) = table.range(.get(key: key), revision: 0)
        else { return .value(key: key, value()) }
        return .modRevision(key: key, range.first?.modRevision ?? 0)
    }

    private func compact() throws {
        let asked = max(1, table.revision - Int64(dice.roll(12)))
        let theirs = try ask { real.compact(asked + offset, $0) }.map { "done" }
        #expect(theirs == plain(table.compact(asked)).map { "done" }, "\(asked)")
    }

    private func read() throws {
        let asked = dice.roll(3) == 0 ? 0 : max(1, table.revision - Int64(dice.roll(12)))
        let operation = EtcdOperation.range(from: key(), to: prefix + "z", limit: dice.roll(5))
        let theirs = try ask {
            real.range(operation, revision: asked > 0 ? asked + offset : 0, $0)
        }
        let ours = plain(table.range(operation, revision: asked)).map { shifted($0) }
        #expect(theirs == ours, "\(operation) at \(asked) of \(table.revision)")
    }

    private func change() throws {
        let transaction = EtcdTransaction(
            compare: (0..<dice.roll(3)).map { _ in condition() },
            success: (0..<dice.roll(4)).map { _ in operation() },
            failure: (0..<dice.roll(3)).map { _ in operation() })
        var asked = transaction
        asked.compare = transaction.compare.map {
            guard case .modRevision(let key, let revision) = $0, revision > 0 else { return $0 }
            return .modRevision(key: key, revision + offset)
        }
        let theirs = try ask { real.transaction(asked, $0) }.map { answer in
            var answer = answer
            answer.cluster = ""
            return answer
        }
        let before = table.revision
        let ours = plain(table.transaction(transaction, cluster: "")).map { answer in
            EtcdTransactionAnswer(
                cluster: "", revision: answer.revision + offset, isDone: answer.isDone,
                ranges: answer.ranges.map { shifted($0) })
        }
        #expect(theirs == ours, "\(transaction)")
        let new = table.puts(
            from: prefix, to: EtcdLayout.endOfPrefix(prefix), since: before + 1)
        puts += shifted(try #require(new).flatMap { $0 })
    }

    @Test("random transactions, reads, compactions and a watch", arguments: 0..<UInt64(4))
    func same(seed: UInt64) throws {
        dice = Dice(state: seed)
        let nothing = EtcdTransaction(compare: [], success: [])
        offset = try ask { real.transaction(nothing, $0) }.get().revision - table.revision
        var told: [EtcdKeyValue] = []
        var hasBegun = false
        let watch = real.watch(
            from: prefix, to: EtcdLayout.endOfPrefix(prefix), revision: offset + 2,
            onLine: { line in
                hasBegun = true
                guard case .puts(let values) = line else { return _ = Issue.record("\(line)") }
                told += values
            },
            onEnd: { Issue.record("\($0)") })
        defer { watch.cancel() }
        // What it is to tell must not be compacted away before.
        bench.until { hasBegun }
        for _ in 0..<300 {
            switch dice.roll(12) {
            case 0: try compact()
            case 1, 2, 3: try read()
            default: try change()
            }
        }
        #expect(puts.count > 50)
        bench.until { [puts] in told.count >= puts.count }
        #expect(told == puts)
    }

    @Test("what an etcd does not take, and what was compacted away from a watch")
    func refused() throws {
        let key = prefix + "k"
        for operations: [EtcdOperation] in [
            [.put(key: key, [UInt8](repeating: 0, count: 3 << 19))],
            (0..<129).map { .get(key: "\(key)\($0)") },
            [.put(key: key, [1]), .put(key: key, [1])],
        ] {
            let transaction = EtcdTransaction(compare: [], success: operations)
            let theirs = try ask { real.transaction(transaction, $0) }.map(\.isDone)
            #expect(theirs == plain(table.transaction(transaction, cluster: "")).map(\.isDone))
        }
        for _ in 0..<3 { _ = try ask { real.transaction(put(key), $0) }.get() }
        let newest = try ask { real.transaction(put(key), $0) }.get().revision
        try ask { real.compact(newest, $0) }.get()
        for (revision, isThere) in [(newest, true), (newest - 1, false)] {
            var lines: [EtcdWatchLine] = []
            let watch = real.watch(
                from: key, to: key + "\0", revision: revision, onLine: { lines.append($0) },
                onEnd: { _ in })
            bench.until { lines.contains { $0 != .puts([]) } }
            watch.cancel()
            let isCancelled =
                if case .cancelled(let isCompacted, _) = lines.last { isCompacted } else { false }
            #expect(isCancelled != isThere, "\(lines)")
        }
    }

    private func put(_ key: String) -> EtcdTransaction {
        EtcdTransaction(compare: [], success: [.put(key: key, [1])])
    }
}
