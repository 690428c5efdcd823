import EtcdLog

/// What an etcd holds: each key with its versions since the last compaction, under revisions that count
/// the transactions that changed anything.
///
/// As etcd 3.5 does it: the words of its errors, and what the gateway makes of their codes, are its
/// own. Of a transaction's conditions and operations only those that Fermata uses are there.
struct EtcdTable {
    /// etcd's own limits for one request.
    static let requestByteCountMax = 3 << 19
    static let operationCountMax = 128
    /// What the gateway takes, in base64.
    static let answerByteCountMax = 32 << 20

    /// Of the newest change; an empty etcd is at 1.
    private(set) var revision: Int64 = 1
    /// What was before it is forgotten.
    private(set) var compactedRevision: Int64 = -1
    /// NOSPACE: no transaction is taken that could put anything.
    var isFull = false

    private struct Version {
        var revision: Int64
        /// Nil: deleted.
        var value: [UInt8]?
    }
    private struct Entry {
        var key: String
        /// Ascending, never empty.
        var versions: [Version]
    }
    /// Ascending by key.
    private var entries: [Entry] = []
    /// What each revision put, for watches; ascending, only those that put something.
    private var puts: [(revision: Int64, values: [EtcdKeyValue])] = []

    /// Of all keys and values, also those of the past.
    var byteCount: Int {
        entries.reduce(0) { sum, entry in
            entry.versions.reduce(sum) { $0 + entry.key.utf8.count + ($1.value?.count ?? 0) }
        }
    }

    // MARK: Requests

    mutating func transaction(
        _ transaction: EtcdTransaction, cluster: String
    ) -> EtcdVerdict<EtcdTransactionAnswer> {
        if let failure = refusal(transaction) { return .failure(failure) }
        let isDone = transaction.compare.allSatisfy(holds)
        let next = revision + 1
        var changed = false
        var new: [EtcdKeyValue] = []
        var ranges: [EtcdRange] = []
        for operation in isDone ? transaction.success : transaction.failure {
            ranges.append(EtcdRange())
            switch operation {
            case .get, .range: ranges[ranges.count - 1] = read(operation, at: .max)
            case .put(let key, let value):
                add(Version(revision: next, value: value), to: key)
                new.append(EtcdKeyValue(key: key, value: value, modRevision: next))
                changed = true
            case .delete(let from, let to):
                for index in indexes(from, to) where entries[index].versions.last?.value != nil {
                    entries[index].versions.append(Version(revision: next, value: nil))
                    changed = true
                }
            }
        }
        if changed { revision = next }
        if !new.isEmpty { puts.append((next, new)) }
        return .answer(
            EtcdTransactionAnswer(
                cluster: cluster, revision: revision, isDone: isDone, ranges: ranges))
    }

    /// - Parameter asked: a revision; 0 for now.
    func range(_ operation: EtcdOperation, revision asked: Int64) -> EtcdVerdict<EtcdRange> {
        guard asked <= revision else {
            return .another("etcdserver: mvcc: required revision is a future revision")
        }
        guard asked <= 0 || asked >= compactedRevision else { return .failure(.compacted) }
        let range = read(operation, at: asked > 0 ? asked : .max)
        let byteCount = range.values.reduce(0) { $0 + ($1.value.count + 2) / 3 * 4 }
        guard byteCount <= Self.answerByteCountMax else {
            return .failure(.tooLarge("the answer has \(byteCount) bytes"))
        }
        return .answer(range)
    }

    mutating func compact(_ asked: Int64) -> EtcdVerdict<Void> {
        guard asked > compactedRevision else { return .failure(.compacted) }
        guard asked <= revision else {
            return .another("etcdserver: mvcc: required revision is a future revision")
        }
        compactedRevision = asked
        for index in entries.indices.reversed() {
            var versions = entries[index].versions[...]
            // Only the newest as of then is kept, and only if it was there.
            while versions.count > 1, versions[versions.startIndex + 1].revision <= asked {
                versions.removeFirst()
            }
            if let first = versions.first, first.revision <= asked, first.value == nil {
                versions.removeFirst()
            }
            if versions.isEmpty {
                entries.remove(at: index)
            } else if versions.count < entries[index].versions.count {
                entries[index].versions = Array(versions)
            }
        }
        puts.removeFirst(puts.firstIndex { $0.revision >= asked } ?? puts.count)
        return .answer(())
    }

    /// What was put from `revision` on, each revision by itself; nil if that is not known any more.
    func puts(
        from: String, to: String, since asked: Int64
    ) -> [[EtcdKeyValue]]? {
        guard asked >= compactedRevision else { return nil }
        return puts.drop { $0.revision < asked }.compactMap {
            let values = $0.values.filter { Self.contains($0.key, from, to) }
            return values.isEmpty ? nil : values
        }
    }

    static func contains(_ key: String, _ from: String, _ to: String) -> Bool {
        !isBelow(key, from) && isBelow(key, to)
    }

    // MARK: Keys

    private func refusal(_ transaction: EtcdTransaction) -> EtcdFailure? {
        var byteCount = 0
        var hasPut = false
        for branch in [transaction.success, transaction.failure] {
            guard branch.count <= Self.operationCountMax else {
                return .unavailable("etcdserver: too many operations in txn request")
            }
            var keys: [String] = []
            for case .put(let key, let value) in branch {
                byteCount += key.utf8.count + value.count
                hasPut = true
                let isDeleted = branch.contains {
                    if case .delete(let from, let to) = $0 {
                        Self.contains(key, from, to)
                    } else {
                        false
                    }
                }
                guard !keys.contains(key), !isDeleted else {
                    return .unavailable("etcdserver: duplicate key given in txn request")
                }
                keys.append(key)
            }
        }
        for case .value(let key, let value) in transaction.compare {
            byteCount += key.utf8.count + value.count
        }
        guard byteCount <= Self.requestByteCountMax else {
            return .unavailable("etcdserver: request is too large")
        }
        return isFull && hasPut ? .full("etcdserver: mvcc: database space exceeded") : nil
    }

    private func holds(_ condition: EtcdCompare) -> Bool {
        switch condition {
        case .modRevision(let key, let revision): newest(key)?.modRevision ?? 0 == revision
        case .value(let key, let value): newest(key)?.value == value
        }
    }

    private func newest(_ key: String) -> EtcdKeyValue? { read(.get(key: key), at: .max).first }

    private func read(_ operation: EtcdOperation, at asked: Int64) -> EtcdRange {
        switch operation {
        case .get(let key):
            let index = lowerBound(key)
            guard index < entries.count, entries[index].key == key else { return EtcdRange() }
            return EtcdRange(value(entries[index], at: asked).map { [$0] } ?? [])
        case .range(let from, let to, let limit):
            var range = EtcdRange()
            for index in indexes(from, to) {
                guard let value = value(entries[index], at: asked) else { continue }
                guard limit <= 0 || range.values.count < limit else {
                    range.hasMore = true
                    break
                }
                range.values.append(value)
            }
            return range
        case .put, .delete: preconditionFailure("\(operation) does not read")
        }
    }

    private func value(_ entry: Entry, at asked: Int64) -> EtcdKeyValue? {
        guard let version = entry.versions.last(where: { $0.revision <= asked }),
            let value = version.value
        else { return nil }
        return EtcdKeyValue(key: entry.key, value: value, modRevision: version.revision)
    }

    private mutating func add(_ version: Version, to key: String) {
        let index = lowerBound(key)
        if index < entries.count, entries[index].key == key {
            entries[index].versions.append(version)
        } else {
            entries.insert(Entry(key: key, versions: [version]), at: index)
        }
    }

    private func indexes(_ from: String, _ to: String) -> Range<Int> {
        let start = lowerBound(from)
        return start..<max(start, lowerBound(to))
    }

    /// Index of the first key that is not below `key`.
    private func lowerBound(_ key: String) -> Int {
        var low = 0
        var high = entries.count
        while low < high {
            let middle = (low + high) / 2
            if Self.isBelow(entries[middle].key, key) { low = middle + 1 } else { high = middle }
        }
        return low
    }

    /// As etcd orders them: by their bytes.
    private static func isBelow(_ one: String, _ other: String) -> Bool {
        one.utf8.lexicographicallyPrecedes(other.utf8)
    }
}
