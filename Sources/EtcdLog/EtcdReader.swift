// Reads a log out of etcd: snapshot chunks and batches, page by page, all as of one revision.
//
//   read(after:) ─▶ next, epoch, snapshot, alive ─▶ chunks … ─▶ batches … (parts …) ─▶ EtcdContents
//
// Failure modes: the revision was compacted meanwhile → `compacted`, and the caller begins again; a gap
// or a value that we did not write → `damaged`; the log ends before what the caller has →
// `isSetBack`, since etcd was restored from a back-up.

import LogCore

/// What is in etcd as of one revision, as far as the reader did not have it.
struct EtcdContents {
    /// Of etcd; another one if it was restored.
    var cluster = ""
    var revision: Int64 = 0
    var epoch: EtcdEpoch?
    /// Of the key `epoch`; 0 if there is none.
    var epochRevision: Int64 = 0
    var aliveRevision: Int64 = 0
    /// The epoch in which the whole log was last replaced; 0 if never.
    var history: UInt64 = 0
    /// Of the key `snapshot`; 0 if there is none.
    var manifestRevision: Int64 = 0
    var next: UInt64 = 1
    /// The reader has records that are not there.
    var isSetBack = false
    var snapshot: LogSnapshot?
    /// Of the newest snapshot, also if it was not read.
    var snapshotIndex: UInt64 = 0
    var records: [[UInt8]] = []
    /// Index of the first of `records`.
    var firstIndex: UInt64 = 1
}

/// One reading; stays alive by itself until its completion.
final class EtcdReader {
    private let etcd: any EtcdAccess
    private let layout: EtcdLayout
    private let after: UInt64
    private var contents = EtcdContents()
    private var page = EtcdPage()
    private let completion: (Result<EtcdContents, EtcdFailure>) -> Void

    /// - Parameters:
    ///   - after: the caller has everything up to this index.
    ///   - completion: called once, later.
    @discardableResult
    init(
        _ etcd: any EtcdAccess, _ layout: EtcdLayout, after: UInt64,
        completion: @escaping (Result<EtcdContents, EtcdFailure>) -> Void
    ) {
        self.etcd = etcd
        self.layout = layout
        self.after = after
        self.completion = completion
        etcd.transaction(
            EtcdTransaction(
                compare: [],
                success: [
                    .get(key: layout.epoch), .get(key: layout.next), .get(key: layout.snapshot),
                    .get(key: layout.alive), .get(key: layout.history),
                ])
        ) { [self] result in
            switch result {
            case .failure(let failure): completion(.failure(failure))
            case .success(let answer): begin(answer)
            }
        }
    }

    private func begin(_ answer: EtcdTransactionAnswer) {
        contents.revision = answer.revision
        contents.cluster = answer.cluster
        if let value = answer.range(0).first {
            guard let epoch = EtcdEpoch(value.value) else {
                return fail("the key `epoch` is not ours")
            }
            contents.epoch = epoch
            contents.epochRevision = value.modRevision
        }
        if let value = answer.range(1).first {
            guard let next = UInt64(value.text), next >= 1 else {
                return fail("the key `next` is not a number")
            }
            contents.next = next
        }
        var manifest: EtcdManifest?
        if let value = answer.range(2).first {
            manifest = EtcdManifest(value.value)
            guard let manifest, manifest.index < contents.next else {
                return fail("the key `snapshot` is not ours")
            }
            contents.snapshotIndex = manifest.index
            contents.manifestRevision = value.modRevision
        }
        contents.aliveRevision = answer.range(3).first?.modRevision ?? 0
        contents.history = answer.range(4).first.flatMap { UInt64($0.text) } ?? 0
        contents.firstIndex = after + 1
        guard after < contents.next else {
            contents.isSetBack = true
            return completion(.success(contents))
        }
        guard let manifest, manifest.index > after else { return readLog() }
        contents.snapshot = LogSnapshot(index: manifest.index, chunks: [])
        contents.firstIndex = manifest.index + 1
        readChunks(manifest, from: layout.chunks(manifest.id))
    }

    private func readChunks(_ manifest: EtcdManifest, from key: String) {
        read(key, EtcdLayout.endOfPrefix(layout.chunks(manifest.id))) { [self] range in
            for value in range.values { contents.snapshot?.chunks.append(value.value) }
            if range.hasMore, let last = range.values.last {
                return readChunks(manifest, from: last.key + "\0")
            }
            let found = contents.snapshot?.chunks.count ?? 0
            guard found == manifest.count else {
                return fail("the snapshot has \(found) of its \(manifest.count) chunks")
            }
            readLog()
        }
    }

    private var expected: UInt64 { contents.firstIndex + UInt64(contents.records.count) }

    private func readLog() {
        let index = expected
        guard index < contents.next else { return finish() }
        read(layout.log(index), layout.endOfLog) { [self] range in
            add(range.values[...]) { [self] in
                if range.hasMore, expected > index { return readLog() }
                finish()
            }
        }
    }

    private func add(_ values: ArraySlice<EtcdKeyValue>, _ then: @escaping () -> Void) {
        var values = values
        while let value = values.popFirst() {
            guard let last = layout.lastIndex(value.key), let batch = EtcdBatch(value.value) else {
                return fail("the key \(value.key) is not ours")
            }
            switch batch {
            case .records(let records):
                guard add(records, last: last) else { return }
            case .parts(let epoch, let count):
                Self.readParts(
                    etcd, layout, last: last, epoch: epoch, count: count,
                    revision: contents.revision
                ) { [self, values] result in
                    switch result {
                    case .failure(let failure): completion(.failure(failure))
                    case .success(let records):
                        if add(records, last: last) { add(values, then) }
                    }
                }
                return
            }
        }
        then()
    }

    /// - Returns: false if the reading has failed.
    private func add(_ records: [[UInt8]], last: UInt64) -> Bool {
        let count = UInt64(records.count)
        guard count > 0, count <= last else {
            fail("the batch that ends with record \(last) has \(count)")
            return false
        }
        let first = last + 1 - count
        // A snapshot, or what the caller has, may end within a batch.
        guard first == expected || first < expected && contents.records.isEmpty else {
            fail("record \(expected) is missing, \(first) is there")
            return false
        }
        contents.records += records.dropFirst(Int(expected - first))
        return true
    }

    /// A batch that did not fit one key.
    static func readParts(
        _ etcd: any EtcdAccess, _ layout: EtcdLayout, last: UInt64, epoch: UInt64, count: Int,
        revision: Int64, completion: @escaping (Result<[[UInt8]], EtcdFailure>) -> Void
    ) {
        let prefix = layout.parts(last, epoch)
        let page = EtcdPage()
        var bytes: [UInt8] = []
        var found = 0
        func next(_ key: String) {
            page.read(etcd, key, EtcdLayout.endOfPrefix(prefix), revision: revision) { result in
                switch result {
                case .failure(let failure): completion(.failure(failure))
                case .success(let range):
                    for value in range.values { bytes += value.value }
                    found += range.values.count
                    if range.hasMore, let last = range.values.last {
                        return next(last.key + "\0")
                    }
                    guard found == count, case .records(let records) = EtcdBatch(bytes) else {
                        let reason = "record \(last) has \(found) of its \(count) parts"
                        return completion(.failure(.damaged(reason)))
                    }
                    completion(.success(records))
                }
            }
        }
        next(prefix)
    }

    private func read(_ from: String, _ to: String, _ then: @escaping (EtcdRange) -> Void) {
        page.read(etcd, from, to, revision: contents.revision) { [self] result in
            switch result {
            case .failure(let failure): completion(.failure(failure))
            case .success(let range): then(range)
            }
        }
    }

    private func finish() {
        guard expected == contents.next else {
            return fail("the log ends at \(expected - 1), and \(contents.next - 1) was written")
        }
        completion(.success(contents))
    }

    private func fail(_ reason: String) { completion(.failure(.damaged(reason))) }
}

/// How many values are read at once: few large ones, many small ones.
final class EtcdPage {
    /// Decoding so much does not hold up the loop for long, and it goes through a slow line in time.
    private static let byteCountTarget = 3 << 20
    private static let limitMax = 256
    private var limit = 4

    func read(
        _ etcd: any EtcdAccess, _ from: String, _ to: String, revision: Int64,
        _ completion: @escaping (Result<EtcdRange, EtcdFailure>) -> Void
    ) {
        etcd.range(.range(from: from, to: to, limit: limit), revision: revision) {
            [self] result in
            switch result {
            case .failure(.tooLarge) where limit > 1:
                limit = max(1, limit / 8)
                read(etcd, from, to, revision: revision, completion)
            case .failure: completion(result)
            case .success(let range):
                // In base64, as they come.
                let byteCount = range.values.reduce(0) { $0 + ($1.value.count + 2) / 3 * 4 }
                if byteCount > 2 * Self.byteCountTarget {
                    limit = max(1, limit / 2)
                } else if byteCount < Self.byteCountTarget {
                    limit = min(Self.limitMax, limit * 2)
                }
                completion(result)
            }
        }
    }
}
