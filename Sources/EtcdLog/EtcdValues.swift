// What is asked of etcd and what it answers, as values: how they are written on the wire is not known here.

import LogCore

/// A part of a transaction's condition.
public enum EtcdCompare: Hashable, Sendable {
    /// The key was last changed by this revision; 0: there is no such key.
    case modRevision(key: String, Int64)
    /// Never holds if there is no such key.
    case value(key: String, [UInt8])
}

/// One thing that is done in a transaction.
public enum EtcdOperation: Hashable, Sendable {
    case put(key: String, [UInt8])
    case get(key: String)
    /// Keys from `from` on and below `to`, ascending, `limit` at most.
    case range(from: String, to: String, limit: Int)
    case delete(from: String, to: String)
}

/// `success` if all of `compare` hold, else `failure`; all at one moment, as one revision.
public struct EtcdTransaction: Hashable, Sendable {
    public var compare: [EtcdCompare]
    public var success: [EtcdOperation]
    public var failure: [EtcdOperation]

    public init(
        compare: [EtcdCompare], success: [EtcdOperation], failure: [EtcdOperation] = []
    ) {
        self.compare = compare
        self.success = success
        self.failure = failure
    }
}

// MARK: - Answers

public struct EtcdKeyValue: Hashable, Sendable {
    public var key: String
    public var value: [UInt8]
    /// The revision that changed it last.
    public var modRevision: Int64

    public init(key: String, value: [UInt8], modRevision: Int64) {
        self.key = key
        self.value = value
        self.modRevision = modRevision
    }

    var text: String { String(decoding: value, as: UTF8.self) }
}

/// Keys that were read, ascending.
public struct EtcdRange: Hashable, Sendable {
    public var values: [EtcdKeyValue]
    /// The limit has cut it off.
    public var hasMore: Bool

    public init(_ values: [EtcdKeyValue] = [], hasMore: Bool = false) {
        self.values = values
        self.hasMore = hasMore
    }

    public var first: EtcdKeyValue? { values.first }
}

public struct EtcdTransactionAnswer: Hashable, Sendable {
    /// Identity of the etcd cluster; another one if it was restored. Empty if it does not tell.
    public var cluster: String
    /// Of the whole store after this transaction.
    public var revision: Int64
    /// Whether the conditions held, so that `success` was carried out.
    public var isDone: Bool
    /// One for each operation that was carried out; empty for what does not read.
    public var ranges: [EtcdRange]

    public init(cluster: String, revision: Int64, isDone: Bool, ranges: [EtcdRange]) {
        self.cluster = cluster
        self.revision = revision
        self.isDone = isDone
        self.ranges = ranges
    }

    /// What the operation with this index has read.
    public func range(_ index: Int) -> EtcdRange {
        index < ranges.count ? ranges[index] : EtcdRange()
    }
}

/// What a watch tells, in order.
public enum EtcdWatchLine: Hashable, Sendable {
    /// What was put, oldest first; empty when the watch has begun, or only shows that it lives.
    case puts([EtcdKeyValue])
    /// etcd does not go on with it.
    ///
    /// - Parameter isCompacted: the revision from which it was to begin is gone.
    case cancelled(isCompacted: Bool, reason: String?)
}

public struct EtcdHealth: Hashable, Sendable {
    /// nil if this user may not know, as etcd wants it from 3.5.28 on for all but root.
    public var databaseByteCount: Int64?
    /// What it may grow to; nil if that is not told.
    public var quotaByteCount: Int64?
    /// `NOSPACE` or `CORRUPT`, each.
    public var alarms: [String]

    public init(databaseByteCount: Int64?, quotaByteCount: Int64? = nil, alarms: [String]) {
        self.databaseByteCount = databaseByteCount
        self.quotaByteCount = quotaByteCount
        self.alarms = alarms
    }
}

/// Why a question to etcd has no answer.
public enum EtcdFailure: Error, Hashable, Sendable {
    /// Nobody answered until the limit, or not to this question. A write may be there.
    case unavailable(String)
    /// NOSPACE: only reads and deletions are taken.
    case full(String)
    case notPermitted(String)
    /// The revision that was asked for has been compacted away.
    case compacted
    /// The answer is larger than we take.
    case tooLarge(String)
    /// What is in etcd cannot be what we wrote.
    case damaged(String)

    func error(_ store: String) -> LogStoreError {
        switch self {
        case .unavailable(let reason): .unavailable(store: store, reason: reason)
        case .full(let reason): .full(store: store, reason: reason)
        case .notPermitted(let reason): .notPermitted(store: store, reason: reason)
        case .compacted: .unavailable(store: store, reason: "what was to be read was compacted")
        case .tooLarge(let reason): .unavailable(store: store, reason: reason)
        case .damaged(let reason): .corrupt(path: store, reason: reason)
        }
    }
}
