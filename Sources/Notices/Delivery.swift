public import Fleet

/// A file of lines that grows at its end.
public protocol LineAppender {
    /// Puts the end of the file in order and finds out which lines are there already: see ``FileEnd``.
    ///
    /// - Parameter due: lines, without line feeds, that may or may not have been written.
    /// - Returns: those of them that are in the file, whole.
    func recover(_ due: [String]) throws -> Set<String>
    /// Appends lines; they are durable when it returns.
    func append(_ lines: [String]) throws
}

/// What a sink said when it did not take a line. The line stays and is tried again.
public struct DeliveryProblem: Hashable, Sendable {
    public var sink: Sink
    public var text: String
}

/// Hands what the outbox holds to the sinks.
///
/// At least once for each line and sink: a line is marked after its sink has taken it. For the
/// file, the lines due are looked for at its end before the first append and after every failed
/// one, so that in the usual case each is there exactly once, also after a crash in between.
public final class Delivery<Record: NoticeRecord> {
    private let store: Record
    private let printLine: ((String) throws -> Void)?
    private let file: (any LineAppender)?
    private var fileIsInOrder = false
    private var printingHasFailed = false

    /// Lines that go in one write: large enough for speed, small enough for memory.
    private var lineCountMax: Int { 256 }

    /// - Parameters:
    ///   - printLine: writes a line of text to stdout; nil if nothing is to be printed.
    ///   - file: where lines of JSON go; nil if nowhere.
    public init(
        store: Record, printLine: ((String) throws -> Void)?, file: (any LineAppender)?
    ) {
        self.store = store
        self.printLine = printLine
        self.file = file
    }

    /// The sinks that get a row for every new annotation.
    public var sinks: [Sink] {
        (printLine == nil ? [] : [.stdout]) + (file == nil ? [] : [.file])
    }

    /// Delivers everything that is pending.
    ///
    /// - Returns: at most one problem for each sink.
    public func deliver(now: Timestamp) throws(Record.Failure) -> [DeliveryProblem] {
        var problems: [DeliveryProblem] = []
        for sink in sinks {
            if let problem = try deliver(to: sink, now: now) { problems.append(problem) }
        }
        return problems
    }

    private func deliver(
        to sink: Sink, now: Timestamp
    ) throws(Record.Failure) -> DeliveryProblem? {
        // A reader of stdout that has gone does not come back; the lines stay for the next start.
        if sink == .stdout, printingHasFailed { return nil }
        while true {
            let lines = try store.pending(sink, limit: lineCountMax)
            guard !lines.isEmpty else { return nil }
            do {
                switch sink {
                case .stdout: try printAll(lines)
                case .file: try appendAll(lines)
                }
            } catch {
                if sink == .stdout { printingHasFailed = true }
                fileIsInOrder = false
                return DeliveryProblem(sink: sink, text: "\(error)")
            }
            try store.markDelivered(lines, at: now)
        }
    }

    private func printAll(_ lines: [PendingLine]) throws {
        for line in lines { try printLine?(line.line) }
    }

    private func appendAll(_ lines: [PendingLine]) throws {
        guard let file else { return }
        var due = lines.map(\.line)
        if !fileIsInOrder {
            let present = try file.recover(due)
            due.removeAll { present.contains($0) }
            fileIsInOrder = true
        }
        if !due.isEmpty { try file.append(due) }
    }
}
