import LogCore

/// When the next snapshot is due: after enough facts, by number and by bytes.
struct SnapshotSchedule {
    private struct Facts {
        var count: UInt64 = 0
        var byteCount = 0
    }

    /// Facts after which one is due at the earliest.
    let factsMin: UInt64
    /// They must have at least the last snapshot's bytes divided by this.
    let bytesDivisor: Int
    /// Of the last snapshot that was saved.
    private(set) var byteCount = 0
    /// Since the last snapshot was begun.
    private var facts = Facts()
    /// Those that the one being written covers.
    private var covered = Facts()
    private var writtenByteCount = 0

    init(factsMin: UInt64, bytesDivisor: Int) {
        self.factsMin = factsMin
        self.bytesDivisor = bytesDivisor
    }

    var isDue: Bool {
        facts.count >= factsMin
            && facts.byteCount >= byteCount / bytesDivisor
    }

    /// - Parameter index: of the state that the log has given, by now or to a standby.
    mutating func onLoaded(_ log: OpenedLog, index: UInt64) {
        byteCount = log.snapshot?.chunks.reduce(0) { $0 + $1.count } ?? 0
        onAppended(log.records)
        facts.count = index - log.snapshotIndex
    }

    mutating func onAppended(_ records: [[UInt8]]) {
        facts.count += UInt64(records.count)
        for record in records { facts.byteCount += record.count }
    }

    mutating func onBegun() {
        covered = facts
        facts = Facts()
        writtenByteCount = 0
    }

    mutating func onWritten(byteCount: Int) { writtenByteCount += byteCount }

    mutating func onSaved() { byteCount = writtenByteCount }

    mutating func onFailed() {
        facts.count += covered.count
        facts.byteCount += covered.byteCount
    }
}
