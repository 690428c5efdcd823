import Fleet
import Foundation
import Notices
import Testing

@testable import NotifierShell

@Suite struct DeliveryTests {
    let scratch: Scratch
    let store: NotifierStore

    init() throws {
        scratch = try Scratch()
        store = try NotifierStore(path: scratch.path("notifier.db"), cluster: "demo")
    }

    private var file: LineFile { LineFile(path: scratch.path("lines.jsonl")) }

    private func keep(_ sequences: ClosedRange<UInt64>, _ delivery: Delivery<NotifierStore>) throws
    {
        _ = try store.store(
            events: sequences.map { Samples.holdFinished($0, step: UInt32($0)) },
            lastSequence: sequences.upperBound, recordedAt: Samples.now, sinks: delivery.sinks)
    }

    private func lines() throws -> [Substring] {
        try scratch.text("lines.jsonl").split(separator: "\n")
    }

    @Test("each sink gets each annotation once, in order")
    func once() throws {
        var printed: [String] = []
        let delivery = Delivery(store: store, printLine: { printed.append($0) }, file: file)
        try keep(1...3, delivery)
        #expect(try delivery.deliver(now: Samples.now).isEmpty)
        #expect(try delivery.deliver(now: Samples.now).isEmpty)
        #expect(printed.count == 3)
        let ids = try lines().map { $0.split(separator: "\"")[3] }
        #expect(ids == ["rollout-1.1-t7-db-0", "rollout-1.2-t7-db-0", "rollout-1.3-t7-db-0"])
    }

    @Test("more lines than fit one write are all delivered")
    func many() throws {
        let delivery = Delivery(store: store, printLine: nil, file: file)
        try keep(1...600, delivery)
        #expect(try delivery.deliver(now: Samples.now).isEmpty)
        #expect(try lines().count == 600)
        #expect(Set(try lines()).count == 600)
    }

    @Test(
        "a crash at any byte of the append leaves each line once in the file",
        arguments: [0.0, 0.2, 0.5, 0.77, 1.0])
    func crash(fraction: Double) throws {
        let before = Delivery(store: store, printLine: nil, file: file)
        try keep(1...1, before)
        #expect(try before.deliver(now: Samples.now).isEmpty)
        try keep(2...3, before)
        // What the crashed process had written of lines 2 and 3, and had not marked.
        let due = try store.pending(.file, limit: 9).map { $0.line + "\n" }.joined()
        let whole = try scratch.text("lines.jsonl")
        let written = String(due.prefix(Int(Double(due.count) * fraction)))
        try scratch.write(whole + written, to: "lines.jsonl")

        let after = Delivery(store: store, printLine: nil, file: file)
        #expect(try after.deliver(now: Samples.now).isEmpty)
        #expect(try scratch.text("lines.jsonl") == whole + due)
        #expect(try store.pending(.file, limit: 9).isEmpty)
    }

    @Test("a file that cannot be written is told and tried again, without loss")
    func fileFails() throws {
        let path = scratch.path("absent/lines.jsonl")
        let delivery = Delivery(store: store, printLine: nil, file: LineFile(path: path))
        try keep(1...2, delivery)
        #expect(try delivery.deliver(now: Samples.now).map(\.sink) == [.file])
        #expect(try store.pending(.file, limit: 9).count == 2)
        try FileManager.default.createDirectory(
            atPath: scratch.path("absent"), withIntermediateDirectories: true)
        #expect(try delivery.deliver(now: Samples.now).isEmpty)
        #expect(try String(contentsOfFile: path, encoding: .utf8).split(separator: "\n").count == 2)
    }

    @Test("when nobody reads stdout any more, the file still gets its lines")
    func stdoutCloses() throws {
        struct Closed: Error {}
        let delivery = Delivery(store: store, printLine: { _ in throw Closed() }, file: file)
        try keep(1...2, delivery)
        #expect(try delivery.deliver(now: Samples.now).map(\.sink) == [.stdout])
        #expect(try delivery.deliver(now: Samples.now).isEmpty, "said once")
        #expect(try lines().count == 2)
        var printed = 0
        let next = Delivery(store: store, printLine: { _ in printed += 1 }, file: file)
        #expect(try next.deliver(now: Samples.now).isEmpty)
        #expect(printed == 2)
    }
}
