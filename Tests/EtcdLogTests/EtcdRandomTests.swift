import LogCore
import Testing

@testable import EtcdLog
@testable import Simulation

/// Several writers that depose each other over bad ways, and a follower: at the end the log is what was
/// acknowledged, in order; what was not is there once or not at all.
@Suite("etcd log, random and simulated")
struct EtcdRandomTests {
    private final class Writer {
        let store: EtcdLogStore
        let number: Int
        /// Nil while it does not lead.
        var next: UInt64?
        var isBusy = false
        /// A store saves one snapshot at a time.
        var isSaving = false

        init(_ bench: Bench, number: Int) {
            self.number = number
            store = bench.store("\(number)")
            store.onLost = { [weak self] _ in
                self?.next = nil
                self?.isBusy = false
                self?.isSaving = false
            }
        }
    }

    private final class Run {
        let bench: Bench
        let writers: [Writer]
        let follower: Followed
        var dice: SplitMix
        var acknowledged: [UInt64: String] = [:]
        var tried: [String] = []
        /// Everything that happened, for the comparison of two runs.
        var trace: [String] = []

        init(seed: UInt64) {
            bench = Bench(seed: seed)
            dice = SplitMix(state: seed)
            let bench = bench
            writers = (0..<3).map { Writer(bench, number: $0) }
            follower = Followed(bench.store("follower"))
        }

        func note(_ text: String) { trace.append("\(bench.clock.nowMilliseconds) \(text)") }

        func disturb() {
            bench.etcd.fate = { [unowned self] attempt in
                let there = Duration.milliseconds(dice.roll(20))
                let back = Duration.milliseconds(dice.roll(20))
                let late = Duration.milliseconds(dice.roll(40_000))
                let fate: SimulatedEtcd.Fate =
                    switch dice.roll(40) {
                    case 0: .lost
                    case 1, 2: .answerLost(there: there)
                    case 3: .refused(after: there)
                    case 4: .passes(there: late, back: back)
                    case 5: .passes(there: there, back: late)
                    case 6: .twice(there: there, again: late, back: back)
                    default: .passes(there: there, back: back)
                    }
                note("\(attempt.server) \(attempt.member) \(fate)")
                return fate
            }
            bench.etcd.lineFate = { [unowned self] _, _ in
                switch dice.roll(60) {
                case 0: .silent
                case 1: .ends(after: .milliseconds(dice.roll(50)))
                default: .passes(after: .milliseconds(dice.roll(50)))
                }
            }
        }

        func calm() {
            bench.etcd.fate = { _ in .passes(there: .zero, back: .zero) }
            bench.etcd.lineFate = { _, _ in .passes(after: .zero) }
            bench.pass(.seconds(60))
        }

        func step(_ writer: Writer) {
            guard !writer.isBusy else { return }
            writer.isBusy = true
            guard let first = writer.next else {
                writer.isSaving = false
                let name = LogWriter(name: "\(writer.number)", address: "")
                return writer.store.lead(as: name, after: 0) { [unowned self] in
                    writer.isBusy = false
                    note("\(writer.number) leads: \($0.map(\.epoch))")
                    if case .success(let log) = $0 {
                        writer.next = (log.snapshot?.index ?? 0) + UInt64(log.records.count) + 1
                    }
                }
            }
            let texts = (0...dice.roll(3)).map { "\(writer.number).\(tried.count).\($0)" }
            tried += texts
            writer.store.append(texts.map { Array($0.utf8) }, firstIndex: first) {
                [unowned self] result in
                writer.isBusy = false
                note("\(writer.number) appended \(texts) at \(first): \(result)")
                guard case .success = result else { return writer.next = nil }
                for (offset, text) in texts.enumerated() {
                    let index = first + UInt64(offset)
                    #expect(acknowledged[index] == nil, "\(index) twice")
                    acknowledged[index] = text
                }
                writer.next = first + UInt64(texts.count)
            }
        }

        func go(_ count: Int) {
            disturb()
            for _ in 0..<count {
                let writer = writers[dice.roll(10) < 8 ? 0 : dice.roll(3)]
                switch dice.roll(40) {
                case 0: bench.etcd.cutWatches(of: "follower")
                case 1 where !writer.isBusy: writer.next = nil
                case 2:
                    if let next = writer.next, !writer.isBusy, !writer.isSaving, next > 2 {
                        writer.isSaving = true
                        var left = [[UInt8](repeating: 1, count: 10), [2]][...]
                        writer.store.save(index: next - 2, next: { left.popFirst() }) { _ in
                            writer.isSaving = false
                        }
                    }
                default: step(writer)
                }
                if dice.roll(3) == 0 { bench.pass(.milliseconds(dice.roll(200))) }
            }
            calm()
        }
    }

    @Test("no acknowledged record is lost, doubled or out of order", arguments: 0..<UInt64(60))
    func random(seed: UInt64) throws {
        let run = Run(seed: seed)
        run.go(400)
        #expect(run.writers.allSatisfy { !$0.isBusy })
        let contents = try run.bench.contents()
        run.bench.until { run.follower.index == contents.next - 1 }
        let texts = contents.records.map { String(decoding: $0, as: UTF8.self) }
        for (offset, text) in texts.enumerated() {
            let known = run.acknowledged[contents.firstIndex + UInt64(offset)]
            #expect(known == nil || known == text, "seed \(seed)")
            #expect(run.tried.contains(text))
        }
        #expect(Set(texts).count == texts.count, "seed \(seed): doubled")
        #expect(run.acknowledged.keys.allSatisfy { $0 < contents.next }, "seed \(seed): lost")
        #expect(run.acknowledged.count > 2, "seed \(seed): little was done")
        let first = (run.follower.snapshot?.index ?? 0) + 1
        for (offset, text) in run.follower.texts.enumerated() {
            let known = run.acknowledged[first + UInt64(offset)]
            #expect(known == nil || known == text, "seed \(seed): the follower saw \(text)")
        }
    }

    @Test("the same seed gives the same run")
    func same() {
        let runs = (0..<2).map { _ in Run(seed: 77) }
        for run in runs { run.go(300) }
        #expect(runs[0].trace == runs[1].trace)
        #expect(runs[0].trace.count > 150)
    }
}
