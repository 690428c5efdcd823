import Fleet
import Notices
import Testing

@Suite struct DeliveryTests {
    let record = MemoryRecord()
    let file = MemoryFile()

    private var delivery: Delivery<MemoryRecord> {
        Delivery(store: record, printLine: nil, file: file)
    }

    private func keep(_ steps: ClosedRange<UInt32>) throws {
        _ = try record.store(
            events: steps.map { Samples.holdFinished(UInt64($0), step: $0) },
            lastSequence: UInt64(steps.upperBound), recordedAt: Samples.now, sinks: [.file])
    }

    /// Each line once, in order; a comparison of the lines themselves would print them all.
    private var isFileWhole: Bool { file.lines == wanted }
    private var wanted: [String] { record.contents.outbox.map(\.pending.line) }

    @Test("lines come in the order of the outbox, also when they are more than one write")
    func order() throws {
        try keep(1...600)
        #expect(try delivery.deliver(now: Samples.now).isEmpty)
        #expect(isFileWhole && record.pending(.file, limit: 1).isEmpty)
    }

    @Test("a line is marked after its sink has taken it, and found at the file's end if not")
    func diesBeforeMark() throws {
        try keep(1...3)
        record.marksLeft = 0
        #expect(throws: MemoryRecord.Failure.self) { try delivery.deliver(now: Samples.now) }
        #expect(isFileWhole && record.pending(.file, limit: 9).count == 3)
        record.marksLeft = nil
        try keep(4...4)
        #expect(try delivery.deliver(now: Samples.now).isEmpty)
        #expect(isFileWhole)
    }

    @Test("an append that is torn at any byte leaves each line once in the file")
    func torn() throws {
        try keep(1...3)
        let whole = wanted.map { $0 + "\n" }.joined().utf8.count
        for byteCount in stride(from: 0, to: whole, by: 7) {
            file.bytes = []
            file.bytesLeft = byteCount
            for index in record.contents.outbox.indices {
                record.contents.outbox[index].deliveredAt = nil
            }
            let delivery = delivery
            #expect(try delivery.deliver(now: Samples.now).map(\.sink) == [.file])
            file.bytesLeft = nil
            #expect(try delivery.deliver(now: Samples.now).isEmpty)
            #expect(isFileWhole)
        }
    }

    @Test("a torn line of somebody else is ended, not cut")
    func foreign() throws {
        file.bytes = Array("somebody's".utf8)
        try keep(1...1)
        #expect(try delivery.deliver(now: Samples.now).isEmpty)
        #expect(file.lines.first == "somebody's")
        file.bytes.removeFirst("somebody's\n".utf8.count)
        #expect(isFileWhole)
    }

    @Test("only as much of a file's end is looked at as could be due")
    func span() {
        #expect(FileEnd.byteCount(for: ["abc"], fileByteCount: 5) == 5)
        #expect(FileEnd.byteCount(for: ["abc", "d"], fileByteCount: 1 << 30) == 12 + 65_536)
    }

    @Test("stdout that has closed is told once and not tried again in this process")
    func stdoutCloses() throws {
        struct Closed: Error {}
        _ = try record.store(
            events: [Samples.holdFinished(1, step: 1)], lastSequence: 1, recordedAt: Samples.now,
            sinks: Sink.allCases)
        let delivery = Delivery(store: record, printLine: { _ in throw Closed() }, file: file)
        #expect(delivery.sinks == [.stdout, .file])
        #expect(try delivery.deliver(now: Samples.now).map(\.sink) == [.stdout])
        #expect(try delivery.deliver(now: Samples.now).isEmpty)
        #expect(file.lines.count == 1 && record.pending(.stdout, limit: 9).count == 1)
    }
}
