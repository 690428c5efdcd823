// Snapshots in etcd, and the whole log read or replaced.
//
// Happy path: chunk after chunk, each a write of its own beside the appends; then `snapshot` names them; then
// what they cover is deleted and compacted.
// Failure modes: whatever ends it before `snapshot` is written leaves the old one, and chunks that the
// next one deletes. An answer to `snapshot` that is lost: it may be there, or come yet; the next one finds
// it there and goes on from it, or makes it come too late.

import Fleet
public import LogCore

extension EtcdLogStore: ReadableLogStore {
    public func save(
        index: UInt64, next: @escaping () -> [UInt8]?,
        completion: @escaping (Result<Void, LogStoreError>) -> Void
    ) {
        put(index, next, and: [], completion)
    }

    public func read(completion: @escaping (Result<StoredLog, LogStoreError>) -> Void) {
        EtcdReader(etcd, layout, after: 0) { [self] result in
            switch result {
            // A server has just written a snapshot.
            case .failure(.compacted): read(completion: completion)
            case .failure(let failure): completion(.failure(failure.error(name)))
            case .success(let contents):
                completion(
                    .success(
                        StoredLog(
                            epoch: contents.epoch?.epoch ?? 0, snapshot: contents.snapshot,
                            records: contents.records)))
            }
        }
    }

    public func replace(
        index: UInt64, next: @escaping () -> [UInt8]?,
        completion: @escaping (Result<Void, LogStoreError>) -> Void
    ) {
        let operations: [EtcdOperation] = [
            .put(key: layout.next, Array("\(index + 1)".utf8)),
            // Who follows must know it, also if the new log has grown beyond what it knows of the old.
            .put(key: layout.history, Array("\(epoch?.epoch ?? 0)".utf8)),
            .delete(from: layout.log(0), to: layout.endOfLog),
        ]
        put(index, next, and: operations, completion)
    }

    private func put(
        _ index: UInt64, _ next: @escaping () -> [UInt8]?, and operations: [EtcdOperation],
        _ completion: @escaping (Result<Void, LogStoreError>) -> Void
    ) {
        guard let epoch else {
            return loop.soon { [notLeading] in completion(.failure(notLeading)) }
        }
        precondition(saving != epoch, "\(name) is writing a snapshot already")
        saving = epoch
        snapshotNumber += 1
        let id = EtcdLayout.snapshotID(epoch.epoch, snapshotNumber)
        let finish = { [self] (result: Result<Void, LogStoreError>) in
            guard self.epoch == epoch else { return }
            saving = nil
            completion(result)
        }
        putChunk(id, 0, next) { [self] result in
            switch result {
            case .failure(let error): finish(.failure(error))
            case .success(let count):
                let manifest = EtcdManifest(index: index, id: id, count: count)
                putManifest(manifest, and: operations) { [self] result in
                    switch result {
                    case .failure(let error): finish(.failure(error))
                    case .success(let revision): removeCovered(manifest, revision, finish)
                    }
                }
            }
        }
    }

    private func putChunk(
        _ id: String, _ number: Int, _ next: @escaping () -> [UInt8]?,
        _ completion: @escaping (Result<Int, LogStoreError>) -> Void
    ) {
        guard let chunk = next() else { return completion(.success(number)) }
        let epoch = epoch
        write([.put(key: layout.chunk(id, number), chunk)]) { [self] result in
            guard epoch == self.epoch else { return }
            switch result {
            case .failure(let error): completion(.failure(error))
            case .success: putChunk(id, number + 1, next, completion)
            }
        }
    }

    /// - Parameters:
    ///   - operations: what happens in the same moment.
    ///   - completion: gets its revision.
    private func putManifest(
        _ manifest: EtcdManifest, and operations: [EtcdOperation],
        _ completion: @escaping (Result<Int64, LogStoreError>) -> Void
    ) {
        let value = manifest.bytes
        let epoch = epoch
        write(
            [.put(key: layout.snapshot, value)] + operations, ofEpoch: epochRevision,
            if: [.modRevision(key: layout.snapshot, manifestRevision)],
            elseLookAt: [layout.snapshot]
        ) { [self] result in
            guard epoch == self.epoch else { return }
            switch result {
            case .failure(let error): completion(.failure(error))
            case .success(let written):
                guard let seen = written.seen else {
                    manifestRevision = written.revision
                    return completion(.success(manifestRevision))
                }
                guard let found = seen[0], let epoch,
                    let there = EtcdManifest(found.value), there.isOf(epoch.epoch)
                else {
                    let reason = "somebody else has changed the key `snapshot`"
                    return completion(.failure(.corrupt(path: name, reason: reason)))
                }
                manifestRevision = found.modRevision
                // An earlier try of this one; or one before it, whose answer nobody has got. There
                // are only so many of them, and each comes once.
                if there == manifest { return completion(.success(manifestRevision)) }
                putManifest(manifest, and: operations, completion)
            }
        }
    }

    private func removeCovered(
        _ manifest: EtcdManifest, _ revision: Int64,
        _ completion: @escaping (Result<Void, LogStoreError>) -> Void
    ) {
        write([
            .delete(
                from: layout.log(0),
                to: mutated(.snapshotDeletesAll)
                    ? layout.endOfLog : layout.log(manifest.index + 1)),
            .delete(from: layout.partsFrom(0), to: layout.partsFrom(manifest.index + 1)),
            // Of older snapshots, whole or not.
            .delete(from: layout.allChunks, to: layout.chunks(manifest.id)),
        ]) { [self] result in
            guard case .success = result else { return completion(result.map { _ in () }) }
            // Not up to now: who is just reading the snapshot before needs that history.
            let until = compactableRevision
            compactableRevision = revision
            compact(until) { completion(.success(())) }
        }
    }
}
