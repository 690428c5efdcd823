import EtcdLog
import Testing

@testable import Simulation

/// What the simulated etcd does; `LogStoreTests` compare it with a real one.
@Suite("etcd, simulated")
struct EtcdTableTests {
    private var table = EtcdTable()

    private mutating func change(_ operations: EtcdOperation...) -> Int64 {
        let transaction = EtcdTransaction(compare: [], success: operations)
        guard case .answer(let answer) = table.transaction(transaction, cluster: "1") else {
            Issue.record("not carried out")
            return 0
        }
        return answer.revision
    }

    private func kind(_ verdict: EtcdVerdict<some Any>) -> String {
        switch verdict {
        case .answer: "answer"
        case .failure(let failure): "failure \("\(failure)".prefix { $0 != "(" })"
        case .another: "another"
        case .refusal, .sameAgain: "neither"
        }
    }

    private func texts(_ verdict: EtcdVerdict<EtcdRange>) -> [String]? {
        guard case .answer(let range) = verdict else { return nil }
        return range.values.map {
            "\($0.key)=\(String(decoding: $0.value, as: UTF8.self))@\($0.modRevision)"
        } + (range.hasMore ? ["…"] : [])
    }

    @Test("revisions count what changes; the past can be read until it is compacted")
    mutating func revisions() {
        #expect(change(.put(key: "a", [49]), .put(key: "b", [50])) == 2)
        #expect(change(.get(key: "a")) == 2)
        #expect(change(.delete(from: "x", to: "y")) == 2)
        #expect(change(.put(key: "a", [51])) == 3)
        #expect(change(.delete(from: "a", to: "b")) == 4)
        #expect(change(.put(key: "c", [52])) == 5)
        let all = EtcdOperation.range(from: "a", to: "z", limit: 0)
        #expect(texts(table.range(all, revision: 0)) == ["b=2@2", "c=4@5"])
        #expect(texts(table.range(all, revision: 3)) == ["a=3@3", "b=2@2"])
        let two = EtcdOperation.range(from: "a", to: "z", limit: 1)
        #expect(texts(table.range(two, revision: 3)) == ["a=3@3", "…"])
        #expect(kind(table.range(all, revision: 6)) == "another")
        #expect(kind(table.compact(4)) == "answer")
        #expect(texts(table.range(all, revision: 4)) == ["b=2@2"])
        #expect(kind(table.range(all, revision: 3)) == "failure compacted")
        #expect(kind(table.compact(4)) == "failure compacted")
        #expect(kind(table.compact(6)) == "another")
        #expect(table.puts(from: "a", to: "z", since: 3) == nil)
        #expect(table.puts(from: "a", to: "z", since: 4)?.flatMap { $0.map(\.key) } == ["c"])
    }

    @Test("conditions, and what etcd does not take")
    mutating func conditions() {
        _ = change(.put(key: "a", [1]))
        for (condition, holds) in [
            (EtcdCompare.modRevision(key: "a", 2), true), (.modRevision(key: "a", 1), false),
            (.modRevision(key: "b", 0), true), (.value(key: "a", [1]), true),
            (.value(key: "a", []), false), (.value(key: "b", []), false),
        ] {
            let transaction = EtcdTransaction(
                compare: [.modRevision(key: "none", 0), condition], success: [],
                failure: [.get(key: "a")])
            guard case .answer(let answer) = table.transaction(transaction, cluster: "1") else {
                Issue.record("\(condition)")
                continue
            }
            #expect(answer.isDone == holds)
            #expect(answer.range(0).values.count == (holds ? 0 : 1))
        }
        for operations: [EtcdOperation] in [
            [.put(key: "k", [1]), .put(key: "k", [2])],
            [.delete(from: "j", to: "l"), .put(key: "k", [2])],
            [.put(key: "k", [UInt8](repeating: 0, count: 3 << 19))],
            (0..<129).map { .get(key: "\($0)") },
        ] {
            let refused = table.transaction(
                EtcdTransaction(compare: [], success: operations), cluster: "1")
            #expect(kind(refused) == "failure unavailable")
        }
        table.isFull = true
        let put = EtcdTransaction(compare: [], success: [], failure: [.put(key: "a", [])])
        #expect(kind(table.transaction(put, cluster: "1")) == "failure full")
        #expect(change(.delete(from: "a", to: "b")) == 3)
    }
}
