/// An ordered log of opaque records with snapshots, written by one server at a time.
///
/// Every writer has an epoch, taken when it opens the log and higher than any before it. An append
/// of a writer whose epoch is not the newest fails with ``LogStoreError/fenced(byEpoch:)``: a
/// deposed leader cannot write. Completions come on the loop thread, never inside the call.
///
/// Used as: ``open(completion:)`` once; then appends, one in flight at a time, each with all
/// that gathered during the one before; now and then a snapshot.
public protocol LogStore: AnyObject {
    /// Takes a new epoch and reads all there is.
    func open(completion: @escaping (Result<OpenedLog, LogStoreError>) -> Void)

    /// Makes `records` durable, all or none.
    ///
    /// - Parameter firstIndex: index of the first of them; one more than the newest in the log.
    func append(
        _ records: [[UInt8]], firstIndex: UInt64,
        completion: @escaping (Result<Void, LogStoreError>) -> Void)

    /// Replaces everything up to `snapshot.index` by the snapshot, all or nothing.
    func save(
        _ snapshot: LogSnapshot, completion: @escaping (Result<Void, LogStoreError>) -> Void)

    /// Lets go of the log, so that another process can open it.
    func close()
}

public struct OpenedLog: Hashable, Sendable {
    public var epoch: UInt64
    public var snapshot: LogSnapshot?
    /// What follows the snapshot, in order; the first has index `snapshot.index + 1`, or 1.
    public var records: [[UInt8]]
    public init(epoch: UInt64, snapshot: LogSnapshot?, records: [[UInt8]]) {
        self.epoch = epoch
        self.snapshot = snapshot
        self.records = records
    }
}

public struct LogSnapshot: Hashable, Sendable {
    /// Index of the last record that it covers.
    public var index: UInt64
    public var records: [[UInt8]]
    public init(index: UInt64, records: [[UInt8]]) {
        self.index = index
        self.records = records
    }
}

public enum LogStoreError: Error, Hashable, Sendable, CustomStringConvertible {
    /// Another writer has opened the log since.
    case fenced(byEpoch: UInt64)
    /// Another process has it open now.
    case inUse(directory: String)
    /// Cannot be opened or created.
    case cannotOpen(path: String, reason: String)
    /// The content cannot be what we wrote.
    case corrupt(path: String, reason: String)
    /// A write failed; nothing of it is in the log.
    case writeFailed(path: String, reason: String)
    /// Written by a newer version of Fermata.
    case newerFormat(path: String, version: Int64)

    public var description: String {
        switch self {
        case .fenced(let epoch):
            "another server has taken over the log with epoch \(epoch); this one must not write"
        case .inUse(let directory):
            "\(directory) is in use by another server; stop it, or give this one another --data"
        case .cannotOpen(let path, let reason):
            "cannot open \(path): \(reason); check the directory, its owner and its free space"
        case .corrupt(let path, let reason):
            "\(path) is damaged: \(reason); restore it from a copy, do not delete it: it holds the "
                + "locks"
        case .writeFailed(let path, let reason):
            "cannot write \(path): \(reason); free some space or mend the disk, then start again"
        case .newerFormat(let path, let version):
            "\(path) has format \(version), written by a newer Fermata; use that version"
        }
    }
}
