import Foundation
import LogCore
import Testing
import UvLoop

@testable import EtcdLog
@testable import LogStore

/// Numbers from a seed.
struct Dice: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }
    mutating func roll(_ sides: Int) -> Int { Int.random(in: 0..<sides, using: &self) }
}

/// Several writers that depose each other over bad connections, and a follower: at the end the log is
/// what was acknowledged, in order; what was not is there once or not at all.
@Suite("etcd log store, random", .serialized)
struct EtcdFuzzTests {
    /// One of the writers.
    private final class Writer {
        let store: EtcdLogStore
        let relay: Relay
        let number: Int
        /// Nil while it does not lead.
        var next: UInt64?
        var isBusy = false
        var isSaving = false

        init(_ bench: Bench, _ endpoints: [String], number: Int) throws {
            self.number = number
            relay = try Relay(to: endpoints[number % endpoints.count], on: bench.loop)
            let other = endpoints[(number + 1) % endpoints.count]
            store = bench.store([relay.endpoint, other])
            store.onLost = { [weak self] _ in
                self?.next = nil
                self?.isBusy = false
            }
        }
    }

    /// `FERMATA_ETCD_SEEDS=200` for a long run.
    private static var seeds: Range<UInt64> {
        let count = ProcessInfo.processInfo.environment["FERMATA_ETCD_SEEDS"].flatMap { UInt64($0) }
        return 0..<(count ?? 3)
    }

    @Test("no acknowledged record is lost, doubled or out of order", arguments: Self.seeds)
    func random(seed: UInt64) throws {
        let ends = try EtcdCluster.shared.get().endpoints
        let bench = try Bench()
        var dice = Dice(state: seed)
        let writers = try (0..<3).map { try Writer(bench, ends, number: $0) }
        let follower = Followed(bench.store(ends))
        /// By index, and every batch that was ever tried.
        var acknowledged: [UInt64: String] = [:]
        var tried: Set<String> = []

        func step(_ writer: Writer) {
            guard !writer.isBusy else { return }
            guard let first = writer.next else {
                writer.isBusy = true
                // What was being saved in another epoch is over.
                writer.isSaving = false
                writer.store.lead(as: LogWriter(name: "\(writer.number)", address: ""), after: 0) {
                    writer.isBusy = false
                    if case .success(let log) = $0 {
                        writer.next = (log.snapshot?.index ?? 0) + UInt64(log.records.count) + 1
                    }
                }
                return
            }
            let texts = (0...dice.roll(3)).map { "\(writer.number).\(tried.count).\($0)" }
            tried.formUnion(texts)
            writer.isBusy = true
            writer.store.append(texts.map { Array($0.utf8) }, firstIndex: first) { result in
                writer.isBusy = false
                guard case .success = result else { return writer.next = nil }
                for (offset, text) in texts.enumerated() {
                    let index = first + UInt64(offset)
                    #expect(acknowledged[index] == nil, "seed \(seed): \(index) twice")
                    acknowledged[index] = text
                }
                writer.next = first + UInt64(texts.count)
            }
        }

        for turn in 0..<5_000 {
            if turn >= 250, acknowledged.count > 3 { break }
            let writer = writers[dice.roll(3)]
            switch dice.roll(40) {
            case 0: writer.relay.cut()
            case 1: writer.relay.mode = .cutAtAnswer
            case 2: writer.relay.mode = .delayAnswers(.milliseconds(dice.roll(60)))
            case 3:
                writer.relay.mode = .holdQuestions
                bench.loop.after(.milliseconds(dice.roll(150))) {
                    writer.relay.mode = .pass
                    writer.relay.release()
                }
            case 4, 5:
                writer.relay.mode = .pass
                writer.relay.release()
            case 6 where !writer.isBusy: writer.next = nil
            case 7:
                if let next = writer.next, !writer.isBusy, !writer.isSaving, next > 2 {
                    var left = [[UInt8](repeating: 1, count: 10), [2]][...]
                    writer.isSaving = true
                    writer.store.save(index: next - 2, next: { left.popFirst() }) { _ in
                        writer.isSaving = false
                    }
                }
            default: step(writer)
            }
            if dice.roll(3) == 0 { bench.pass(.milliseconds(dice.roll(8))) }
        }
        for writer in writers {
            writer.relay.mode = .pass
            writer.relay.release()
        }
        bench.until { writers.allSatisfy { !$0.isBusy } }
        let contents: EtcdContents = try bench.wait {
            EtcdReader(
                bench.gateway(ends), EtcdLayout(prefix: bench.prefix), after: 0, completion: $0)
        }
        bench.until { follower.index == contents.next - 1 }
        for (offset, record) in contents.records.enumerated() {
            let text = String(decoding: record, as: UTF8.self)
            let index = contents.firstIndex + UInt64(offset)
            #expect(acknowledged[index] == nil || acknowledged[index] == text, "seed \(seed)")
            #expect(tried.contains(text))
        }
        let texts = contents.records.map { String(decoding: $0, as: UTF8.self) }
        #expect(Set(texts).count == texts.count, "seed \(seed): doubled")
        #expect(acknowledged.keys.allSatisfy { $0 < contents.next }, "seed \(seed): lost")
        #expect(acknowledged.count > 3, "seed \(seed): little was done")
        // The follower saw all of it, also what snapshots have covered since.
        if follower.snapshot == nil {
            for (index, text) in acknowledged {
                #expect(follower.texts[Int(index) - 1] == text, "seed \(seed)")
            }
            #expect(Set(follower.texts).count == follower.texts.count)
        }
    }
}
