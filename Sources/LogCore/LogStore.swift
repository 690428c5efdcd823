/// An ordered log of opaque records with snapshots, written by one server at a time.
///
/// Every writer has an epoch, taken by ``lead(as:after:completion:)`` and higher than any before it.
/// An append of a writer whose epoch is not the newest fails with
/// ``LogStoreError/fenced(byEpoch:)``: a deposed leader cannot write. Completions come on the loop
/// thread, never inside the call.
///
/// Used as: ``lead(as:after:completion:)`` once; then appends, one in flight at a time, each with
/// all that gathered during the one before; now and then a snapshot, whose chunks go out between
/// the appends.
public protocol LogStore: AnyObject {
    /// For messages: `sqlite:/var/lib/fermata/server` or `etcd:https://a:2379,…`.
    var name: String { get }
    /// What an operator should look at, a sentence each.
    var warnings: [String] { get }

    /// Takes a new epoch and reads what the caller does not have yet.
    ///
    /// - Parameter index: the caller has everything up to here from ``FollowableLogStore/follow(_:)``;
    ///   0 if it has nothing.
    func lead(
        as writer: LogWriter, after index: UInt64,
        completion: @escaping (Result<OpenedLog, LogStoreError>) -> Void)

    /// Makes `records` durable, all or none. A store that cannot tell whether they are finds out
    /// before it answers.
    ///
    /// - Parameter firstIndex: index of the first of them; one more than the newest in the log.
    func append(
        _ records: [[UInt8]], firstIndex: UInt64,
        completion: @escaping (Result<Void, LogStoreError>) -> Void)

    /// Whether this writer's epoch is still the newest: what it knows is then all there is.
    func confirm(completion: @escaping (Result<Void, LogStoreError>) -> Void)

    /// Replaces everything up to `index` by a snapshot, all or nothing. Appends go on meanwhile.
    ///
    /// - Parameters:
    ///   - index: of the last record that it covers; it was durable when this was called.
    ///   - next: gives the next chunk, or nil after the last one. Called once for each, never two
    ///     within one turn of the loop.
    func save(
        index: UInt64, next: @escaping () -> [UInt8]?,
        completion: @escaping (Result<Void, LogStoreError>) -> Void)

    /// Lets go of the log, so that another process can lead. No completion is called any more.
    func close()
}

/// A log that others can read while one writes.
public protocol FollowableLogStore: LogStore {
    /// While this writer leads: the right to write is lost, or the store is. Once.
    var onLost: ((LogStoreError) -> Void)? { get set }
    /// Whether ``LogStore/lead(as:after:completion:)`` deposes a writer that has shown life of which
    /// this follower was not told. False for whoever only infers its death from silence: that may
    /// be his own deafness.
    var deposesTheLiving: Bool { get set }
    /// Whether updates still come; a ``LogStore/lead(as:after:completion:)`` that fails late has ended them.
    var isFollowing: Bool { get }

    /// Reads all there is and then what is added, until ``LogStore/lead(as:after:completion:)`` or
    /// ``LogStore/close()``. What cannot be read now is tried again for ever.
    func follow(_ onUpdate: @escaping (LogUpdate) -> Void)
}

public enum LogUpdate: Hashable, Sendable {
    /// All there is; replaces what was told before.
    case loaded(LogSnapshot?, records: [[UInt8]])
    case appended([[UInt8]], firstIndex: UInt64)
    /// Who may write: told at the start, if anybody ever could, and whenever it changes.
    case writer(LogWriter, epoch: UInt64)
    /// The writer has written something, if only to show that it lives.
    case alive(epoch: UInt64)
    /// Nothing can be read at the moment. It is tried again.
    case interrupted(LogStoreError)
}

/// Who writes a log.
public struct LogWriter: Hashable, Sendable {
    /// Name of the server, as in its certificate.
    public var name: String
    /// `host:port` where others reach it; empty if nobody has to.
    public var address: String
    public init(name: String, address: String) {
        self.name = name
        self.address = address
    }
}

public struct OpenedLog: Hashable, Sendable {
    public var epoch: UInt64
    /// Nil if there is none, or if what the caller has goes beyond it.
    public var snapshot: LogSnapshot?
    /// In order; the first has the index after the snapshot's, else the one after what the caller
    /// has.
    public var records: [[UInt8]]
    /// Of the newest snapshot that there is, also if it is not here; 0 without one.
    public var snapshotIndex: UInt64
    public init(
        epoch: UInt64, snapshot: LogSnapshot?, records: [[UInt8]], snapshotIndex: UInt64? = nil
    ) {
        self.epoch = epoch
        self.snapshot = snapshot
        self.records = records
        self.snapshotIndex = snapshotIndex ?? snapshot?.index ?? 0
    }
}

public struct LogSnapshot: Hashable, Sendable {
    /// Index of the last record that it covers.
    public var index: UInt64
    public var chunks: [[UInt8]]
    public init(index: UInt64, chunks: [[UInt8]]) {
        self.index = index
        self.chunks = chunks
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
    /// Nobody answered for too long. Whether a write that was under way is in the log is not known
    /// until it is read.
    case unavailable(store: String, reason: String)
    /// The store takes no more data until somebody makes room.
    case full(store: String, reason: String)
    /// The store does not let this server in.
    case notPermitted(store: String, reason: String)

    /// What is in the log, and will not be better after another look.
    public var isFinal: Bool {
        switch self {
        case .corrupt, .newerFormat: true
        case .fenced, .inUse, .cannotOpen, .writeFailed, .unavailable, .full, .notPermitted: false
        }
    }

    public var description: String {
        switch self {
        case .fenced(let epoch):
            "another server has taken over the log with epoch \(epoch); this one must not write"
        case .inUse(let directory):
            "\(directory) is in use by a server; stop it first, or use another directory"
        case .cannotOpen(let path, let reason):
            "cannot open \(path): \(reason); check the directory, its owner and its free space"
        case .corrupt(let path, let reason):
            "\(path) is damaged: \(reason); restore it from a copy, do not delete it: it holds the "
                + "locks"
        case .writeFailed(let path, let reason):
            "cannot write \(path): \(reason); free some space or mend the disk, then start again"
        case .newerFormat(let path, let version):
            "\(path) has format \(version), written by a newer Fermata; use that version"
        case .unavailable(let store, let reason):
            "\(store) does not answer: \(reason); see whether a majority of its members runs and can "
                + "be reached from here"
        case .full(let store, let reason):
            "\(store) is full: \(reason); make room (compact and defragment it, or raise its quota), "
                + "then disarm its alarm with `etcdctl alarm disarm`"
        case .notPermitted(let store, let reason):
            "\(store) refuses this server: \(reason); check its certificate, or user and password"
        }
    }
}
