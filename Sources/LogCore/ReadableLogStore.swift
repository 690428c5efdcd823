/// A log that can be read by somebody who does not lead, and given a new content: what back-up,
/// restore and moving from one store to another need.
public protocol ReadableLogStore: LogStore {
    /// Reads all there is, as of one moment, while a server may be writing. Takes no epoch.
    func read(completion: @escaping (Result<StoredLog, LogStoreError>) -> Void)

    /// Makes a snapshot all there is, all or nothing: also records beyond `index` are gone. The next
    /// record has the index after it, also if the log was empty before.
    ///
    /// To be called by a writer that leads; parameters as in
    /// ``LogStore/save(index:next:completion:)``.
    func replace(
        index: UInt64, next: @escaping () -> [UInt8]?,
        completion: @escaping (Result<Void, LogStoreError>) -> Void)
}

/// What a log holds.
public struct StoredLog: Hashable, Sendable {
    /// Of the newest writer; 0 if there never was one.
    public var epoch: UInt64
    public var snapshot: LogSnapshot?
    /// In order; the first has the index after the snapshot's.
    public var records: [[UInt8]]
    public init(epoch: UInt64, snapshot: LogSnapshot?, records: [[UInt8]]) {
        self.epoch = epoch
        self.snapshot = snapshot
        self.records = records
    }

    public var isEmpty: Bool { index == 0 }
    /// Of the newest record.
    public var index: UInt64 { (snapshot?.index ?? 0) + UInt64(records.count) }
}
