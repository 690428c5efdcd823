// Reads a log out of etcd: snapshot chunks and batches, page by page, all as of one revision.
//
//   read(after:) ─▶ next, epoch, snapshot, alive ─▶ chunks … ─▶ batches … (parts …) ─▶ EtcdContents
//
// Failure modes: the revision was compacted meanwhile → `compacted`, and the caller begins again; a gap
// or a value that we did not write → `unexpected`, which is a damaged log.

import UvLoop

/// What is in etcd as of one revision, as far as the reader did not have it.
struct EtcdContents {
    var revision: Int64 = 0
    var epoch: EtcdEpoch?
    /// Of the key `epoch`; 0 if there is none.
    var epochRevision: Int64 = 0
    var aliveRevision: Int64 = 0
    var next: UInt64 = 1
    var snapshot: LogSnapshot?
    var records: [[UInt8]] = []
    /// Index of the first of `records`.
    var firstIndex: UInt64 = 1
}

/// One reading; stays alive by itself until its completion.
final class EtcdReader {
    /// Values of about a megabyte at most: a page of them is a few megabytes.
    private static let pageLimit = 16

    private let gateway: EtcdGateway
    private let layout: EtcdLayout
    private let after: UInt64
    private var contents = EtcdContents()
    private var manifest: EtcdManifest?
    private let completion: (Result<EtcdContents, EtcdFailure>) -> Void

    /// - Parameters:
    ///   - after: the caller has everything up to this index.
    ///   - completion: called once, later.
    @discardableResult
    init(
        _ gateway: EtcdGateway, _ layout: EtcdLayout, after: UInt64,
        completion: @escaping (Result<EtcdContents, EtcdFailure>) -> Void
    ) {
        self.gateway = gateway
        self.layout = layout
        self.after = after
        self.completion = completion
        gateway.transaction(
            EtcdTransaction(
                compare: [],
                success: [
                    .get(key: layout.epoch), .get(key: layout.next), .get(key: layout.snapshot),
                    .get(key: layout.alive),
                ])
        ) { [self] result in
            switch result {
            case .failure(let failure): completion(.failure(failure))
            case .success(let answer): begin(answer)
            }
        }
    }

    private func begin(_ answer: EtcdTransactionAnswer) {
        contents.revision = answer.header.number
        if let value = answer.range(0).first {
            guard let epoch = value.decoded(as: EtcdEpoch.self) else {
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
        if let value = answer.range(2).first {
            guard let manifest = value.decoded(as: EtcdManifest.self) else {
                return fail("the key `snapshot` is not ours")
            }
            self.manifest = manifest
        }
        contents.aliveRevision = answer.range(3).first?.modRevision ?? 0
        contents.firstIndex = after + 1
        guard let manifest, manifest.index > after else { return readLog(from: after + 1) }
        contents.snapshot = LogSnapshot(index: manifest.index, chunks: [])
        contents.firstIndex = manifest.index + 1
        readChunks(manifest, from: layout.chunks(manifest.id))
    }

    private func readChunks(_ manifest: EtcdManifest, from key: String) {
        page(key, EtcdGateway.endOfPrefix(layout.chunks(manifest.id))) { [self] range in
            for value in range.all { contents.snapshot?.chunks.append(value.bytes) }
            if range.more == true, let last = range.all.last {
                return readChunks(manifest, from: last.name + "\0")
            }
            let found = contents.snapshot?.chunks.count ?? 0
            guard found == manifest.count else {
                return fail("the snapshot has \(found) of its \(manifest.count) chunks")
            }
            readLog(from: manifest.index + 1)
        }
    }

    private var expected: UInt64 { contents.firstIndex + UInt64(contents.records.count) }

    private func readLog(from index: UInt64) {
        guard index < contents.next else { return finish() }
        page(layout.log(index), layout.endOfLog) { [self] range in
            add(range.all[...]) { [self] in
                if range.more == true, expected > index { return readLog(from: expected) }
                finish()
            }
        }
    }

    private func add(_ values: ArraySlice<EtcdKeyValue>, _ then: @escaping () -> Void) {
        var values = values
        while let value = values.popFirst() {
            guard let index = layout.logIndex(value.name), let batch = EtcdBatch(value.bytes) else {
                return fail("the key \(value.name) is not ours")
            }
            guard index == expected else {
                return fail("record \(expected) is missing, \(index) is there")
            }
            switch batch {
            case .records(let records): contents.records += records
            case .parts(let epoch, let count):
                Self.readParts(
                    gateway, layout, index: index, epoch: epoch, count: count,
                    revision: contents.revision
                ) { [self, values] result in
                    switch result {
                    case .failure(let failure): completion(.failure(failure))
                    case .success(let records):
                        contents.records += records
                        add(values, then)
                    }
                }
                return
            }
        }
        then()
    }

    /// A batch that did not fit one key.
    static func readParts(
        _ gateway: EtcdGateway, _ layout: EtcdLayout, index: UInt64, epoch: UInt64, count: Int,
        revision: Int64, bytes: [UInt8] = [], found: Int = 0, from key: String? = nil,
        completion: @escaping (Result<[[UInt8]], EtcdFailure>) -> Void
    ) {
        let prefix = layout.parts(index, epoch)
        let operation = EtcdOperation.range(
            from: key ?? prefix, to: EtcdGateway.endOfPrefix(prefix), limit: pageLimit)
        gateway.range(operation, revision: revision) { result in
            switch result {
            case .failure(let failure): completion(.failure(failure))
            case .success(let range):
                let all = range.all.reduce(into: bytes) { $0 += $1.bytes }
                let found = found + range.all.count
                if range.more == true, let last = range.all.last {
                    return readParts(
                        gateway, layout, index: index, epoch: epoch, count: count,
                        revision: revision, bytes: all, found: found, from: last.name + "\0",
                        completion: completion)
                }
                guard found == count, case .records(let records) = EtcdBatch(all) else {
                    return completion(
                        .failure(.unexpected("record \(index) has \(found) of \(count) parts")))
                }
                completion(.success(records))
            }
        }
    }

    private func page(
        _ from: String, _ to: String, _ then: @escaping (EtcdRange) -> Void
    ) {
        gateway.range(
            .range(from: from, to: to, limit: Self.pageLimit), revision: contents.revision
        ) { [self] result in
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

    private func fail(_ reason: String) { completion(.failure(.unexpected(reason))) }
}
