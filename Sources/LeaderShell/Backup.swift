import Coordination
public import Fleet
import LeaderCore
public import LogCore
public import UvLoop

// Back-up and restore of a log, whatever store it is in. Moving a cluster from one store to another is a
// back-up of the one and a restore into the other.

/// What a back-up is of.
public struct BackupDescription: Hashable, Sendable {
    /// Facts that the state has.
    public var index: UInt64
    public var term: UInt64
    /// SHA-256 of the state's records, in hexadecimal; equal states have equal digests.
    public var digest: String
    public var madeAt: Timestamp
    /// Where it was read.
    public var store: String
    public var software: String
    /// Of the file.
    public var byteCount: Int
}

public enum BackupError: Error, Hashable, Sendable, CustomStringConvertible {
    case log(LogStoreError)
    /// The file cannot be read or written.
    case file(String)
    /// There is no log where one was to be backed up.
    case nothingThere(store: String)
    case notABackup(path: String)
    case newerFormat(path: String, version: UInt32)
    case damaged(path: String, reason: String)
    /// The log's content cannot be what we wrote.
    case unreadable(store: String, reason: String)
    /// There is a log already where one was to be restored.
    case notEmpty(store: String, index: UInt64)
    /// A server runs on the store.
    case isWritten(store: String, by: String)
    /// What was read back after a restore is not what was written.
    case differs(store: String, expected: String, found: String)

    public var description: String {
        switch self {
        case .log(let error): "\(error)"
        case .file(let reason): reason
        case .nothingThere(let store): "there is no log in \(store)"
        case .notABackup(let path): "\(path) is not a back-up made by `fermata backup`"
        case .newerFormat(let path, let version):
            "\(path) has format \(version), which this version of Fermata does not know"
        case .damaged(let path, let reason): "\(path) is damaged: \(reason)"
        case .unreadable(let store, let reason): "the log in \(store) cannot be read: \(reason)"
        case .notEmpty(let store, let index):
            "\(store) has a log already, with \(index) fact\(index == 1 ? "" : "s")"
        case .isWritten(let store, let writer): "\(store) is in use: server \(writer) writes it"
        case .differs(let store, let expected, let found):
            "\(store) does not have what was written: its digest is \(found), not \(expected)"
        }
    }
}

public enum Backup {
    /// Reads a log, while a server may be writing it, and writes its state into a file, durably and
    /// all or nothing.
    ///
    /// - Parameter completion: called on the loop's thread.
    public static func make(
        of store: any ReadableLogStore, at path: String, software: String,
        completion: @escaping (Result<BackupDescription, BackupError>) -> Void
    ) {
        read(store) { result in
            completion(
                result.flatMap { state in
                    guard let state else { return .failure(.nothingThere(store: store.name)) }
                    var description = BackupDescription(
                        index: state.index, term: state.term, digest: StateDigest.of(state),
                        madeAt: Timestamp(microseconds: WallClock.nowMicroseconds),
                        store: store.name, software: software, byteCount: 0)
                    do throws(BackupError) {
                        description.byteCount = try BackupFile.write(
                            state, description, to: path)
                    } catch {
                        return .failure(error)
                    }
                    return .success(description)
                })
        }
    }

    /// Puts what a file holds into a store, all or nothing, reads it back and compares.
    ///
    /// The store's epoch goes up, so that a server that still writes there is shut out.
    /// - Parameters:
    ///   - isReplacing: whether a log that is there already may go.
    ///   - completion: called on the loop's thread; the store is closed then.
    public static func restore(
        from path: String, to store: any ReadableLogStore, isReplacing: Bool, loop: Loop,
        completion: @escaping (Result<BackupDescription, BackupError>) -> Void
    ) {
        let restoring = Restoring(
            path: path, store: store, isReplacing: isReplacing, loop: loop)
        restoring.run { result in
            // Also what fails at once is told after the call, as everywhere.
            loop.soon {
                store.close()
                completion(result)
            }
        }
    }

    /// - Parameter completion: the state, or nil if there is no log.
    static func read(
        _ store: any ReadableLogStore,
        completion: @escaping (Result<FleetState?, BackupError>) -> Void
    ) {
        store.read { result in
            switch result {
            case .failure(let error): completion(.failure(.log(error)))
            case .success(let log):
                do {
                    completion(.success(log.isEmpty ? nil : try state(of: log)))
                } catch {
                    completion(
                        .failure(.unreadable(store: store.name, reason: "\(error)")))
                }
            }
        }
    }

    /// The state after a snapshot and the records behind it.
    static func state(of log: StoredLog) throws -> FleetState {
        var coordinator = Coordinator()
        try coordinator.load(log.snapshot, log.records)
        return coordinator.state
    }
}

/// One restore on its way: check the file → look at the store → listen whether somebody writes it → lead
/// it → replace → read back.
private final class Restoring {
    typealias Completion = (Result<BackupDescription, BackupError>) -> Void

    private let path: String
    private let store: any ReadableLogStore
    private let isReplacing: Bool
    private let loop: Loop
    /// Twice what a writer is silent at most.
    private static let silence = Duration.seconds(3)

    init(path: String, store: any ReadableLogStore, isReplacing: Bool, loop: Loop) {
        self.loop = loop
        self.path = path
        self.store = store
        self.isReplacing = isReplacing
    }

    func run(_ completion: @escaping Completion) {
        let description: BackupDescription
        let chunks: [[UInt8]]
        do throws(BackupError) {
            (description, chunks) = try BackupFile.read(path)
            try check(description, chunks)
        } catch {
            completion(.failure(error))
            return
        }
        // Leading would depose a server that runs on it, so an ordinary look comes first.
        store.read { [self] result in
            switch result {
            case .failure(let error): completion(.failure(.log(error)))
            case .success(let log) where !log.isEmpty && !isReplacing:
                completion(.failure(.notEmpty(store: store.name, index: log.index)))
            case .success(let log):
                guard !log.isEmpty, let shared = store as? any FollowableLogStore else {
                    return lead(description, chunks, completion)
                }
                listen(to: shared) { writer in
                    if let writer {
                        completion(.failure(.isWritten(store: shared.name, by: writer)))
                    } else {
                        self.lead(description, chunks, completion)
                    }
                }
            }
        }
    }

    /// A store that servers share does not refuse a second one: whoever may write it shows in each 1.5 s
    /// that it lives.
    ///
    /// - Parameter completion: gets the name of who writes, or nil if nobody does.
    private func listen(
        to store: any FollowableLogStore, _ completion: @escaping (String?) -> Void
    ) {
        var writer = "a server"
        var isListening = false
        var isOver = false
        let finish = { (found: String?) in
            guard !isOver else { return }
            isOver = true
            completion(found)
        }
        store.follow { [loop] update in
            switch update {
            case .writer(let found, _): writer = found.name
            case .alive, .appended: if isListening { finish(writer) }
            case .loaded:
                // What is told with it is of before.
                loop.soon { isListening = true }
                loop.after(Self.silence) { finish(nil) }
            case .interrupted: break
            }
        }
    }

    private func check(
        _ description: BackupDescription, _ chunks: [[UInt8]]
    ) throws(BackupError) {
        let state: FleetState
        do {
            state = try SnapshotDecoder.decode(chunks)
        } catch {
            throw .damaged(path: path, reason: "\(error)")
        }
        guard state.index == description.index, state.index > 0 else {
            throw .damaged(
                path: path, reason: "its state has index \(state.index), not \(description.index)")
        }
        // Made anew, this would also tell of fields that we do not know and would lose.
        let digest = StateDigest.of(state)
        guard digest == description.digest else {
            throw .damaged(
                path: path,
                reason: "its state has the digest \(digest), not \(description.digest); if it was "
                    + "made by a newer Fermata, restore it with that version")
        }
    }

    private func lead(
        _ description: BackupDescription, _ chunks: [[UInt8]], _ completion: @escaping Completion
    ) {
        // A server that takes over meanwhile, or an etcd that is gone: nobody else would answer.
        (store as? any FollowableLogStore)?.onLost = { completion(.failure(.log($0))) }
        store.lead(as: LogWriter(name: "restore", address: ""), after: 0) { [self] result in
            switch result {
            case .failure(let error): completion(.failure(.log(error)))
            case .success(let log):
                let stored = StoredLog(
                    epoch: log.epoch, snapshot: log.snapshot, records: log.records)
                guard stored.isEmpty || isReplacing else {
                    completion(.failure(.notEmpty(store: store.name, index: stored.index)))
                    return
                }
                var rest = chunks[...]
                store.replace(index: description.index, next: { rest.popFirst() }) { result in
                    switch result {
                    case .failure(let error): completion(.failure(.log(error)))
                    case .success: self.compare(description, completion)
                    }
                }
            }
        }
    }

    private func compare(_ description: BackupDescription, _ completion: @escaping Completion) {
        Backup.read(store) { [store] result in
            completion(
                result.flatMap { state in
                    let found = state.map(StateDigest.of) ?? "missing"
                    guard found == description.digest else {
                        return .failure(
                            .differs(
                                store: store.name, expected: description.digest, found: found))
                    }
                    return .success(description)
                })
        }
    }
}
