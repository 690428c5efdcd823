// The log in an etcd cluster, for several servers.
//
//   follow ──▶ EtcdFollower (loads, watches) ──lead──▶ epoch key put ─▶ what is new is read ─▶ leading
//                                                        │ somebody was faster        │
//                                                        ▼                            ▼ fenced, no etcd
//                                                     .fenced                     onLost, once
//
// Happy path of an append: one transaction that compares the epoch's revision and the next index.
// Failure modes: the epoch has gone on → `fenced`, whatever was tried is not in the log; no answer →
// the same transaction is sent again, to the next member too: its conditions let it count once; then
// `unavailable`, and only a reader knows; no space → `full`. After a failed append this store does not
// lead any more: only ``lead(as:after:completion:)`` finds out what is in the log.
// See EtcdLayout for the keys.

public import Edges
import Fleet
public import LogCore

public final class EtcdLogStore: FollowableLogStore {
    /// Of one request: etcd's default limit is 1.5 MiB with everything around.
    static let requestByteCountMax = 1 << 20
    /// How often the writer shows that it lives.
    public static let aliveInterval = Duration.seconds(1)
    /// An append this long before shows it as well: so a sign comes at least every 1.5 s.
    private static let quietMillisecondsMin: Int64 = 500
    private static let healthInterval = Duration.seconds(60)
    /// How much of its history etcd keeps while nothing else asks it to forget: signs of life are written
    /// also where nothing happens, and a snapshot may be weeks away.
    public static let historyIntervalDefault = Duration.seconds(3_600)
    /// etcd's own, where it does not tell.
    private static let quotaByteCountDefault: Int64 = 2 << 30

    public let name: String
    /// The right to write is lost, or etcd is, and it was not an append that found out: the owner starts
    /// over with ``follow(_:)``. Completions of what was under way are not called any more.
    public var onLost: ((LogStoreError) -> Void)?
    /// What an operator should look at.
    public private(set) var warnings: [String] = []

    let layout: EtcdLayout
    let etcd: any EtcdAccess
    let loop: any EventLoop
    private var follower: EtcdFollower?

    /// Of this writer; nil while it does not lead.
    var epoch: EtcdEpoch?
    var epochRevision: Int64 = 0
    private var aliveTimer: (any LoopTimer)?
    private var healthTimer: (any LoopTimer)?
    private let historyInterval: Duration
    private var historyTimer: (any LoopTimer)?
    /// The newest revision that this writer knows of, and the one of an interval before.
    private var newestRevision: Int64 = 0
    private var olderRevision: Int64 = 0
    /// Why etcd did not forget what it may; nil if it did.
    private var compactionProblem: String?
    /// When followers last saw it write, by the loop's clock.
    private var wroteAtMilliseconds: Int64 = 0
    private var isShowingLife = false
    private var confirming: [(Result<Void, LogStoreError>) -> Void] = []
    private var isConfirming = false
    /// Of the key `snapshot`: who has another one in mind is late.
    var manifestRevision: Int64 = 0
    var snapshotNumber: UInt64 = 0
    /// The writer whose snapshot is being written: one at a time.
    var saving: EtcdEpoch?
    /// Counts what the owner began: answers to what was before are not listened to.
    private var turn = 0
    /// Up to where etcd may forget its history: a follower that reads the last snapshot needs it.
    var compactableRevision: Int64 = 0

    /// - Parameters:
    ///   - name: see ``LogStore/name``.
    ///   - prefix: everything of ours is below it; ends with a slash.
    ///   - historyInterval: a leader has etcd forget what is older.
    public init(
        _ etcd: any EtcdAccess, name: String, prefix: String, on loop: any EventLoop,
        historyInterval: Duration = historyIntervalDefault
    ) {
        self.historyInterval = historyInterval
        self.etcd = etcd
        self.name = name
        self.loop = loop
        layout = EtcdLayout(prefix: prefix)
        // Servers that only follow want to know of a full etcd, too.
        healthTimer = loop.every(Self.healthInterval) { [weak self] in self?.lookAtHealth() }
        loop.soon { [weak self] in self?.lookAtHealth() }
    }

    deinit {
        aliveTimer?.cancel()
        healthTimer?.cancel()
        historyTimer?.cancel()
    }

    public func close() {
        turn += 1
        stopLeading()
        onLost = nil
        healthTimer?.cancel()
        follower?.stop()
        follower = nil
    }

    public var deposesTheLiving = true
    public var isFollowing: Bool { follower != nil }

    public func follow(_ onUpdate: @escaping (LogUpdate) -> Void) {
        turn += 1
        stopLeading()
        follower?.stop()
        follower = EtcdFollower(etcd, layout, store: name, on: loop, onUpdate)
    }

    // MARK: Leading

    public func lead(
        as writer: LogWriter, after index: UInt64,
        completion: @escaping (Result<OpenedLog, LogStoreError>) -> Void
    ) {
        turn += 1
        let turn = turn
        stopLeading()
        let finish = { [self] (result: Result<OpenedLog, LogStoreError>) in
            if self.turn == turn { completion(result) }
        }
        let look = EtcdTransaction(
            compare: [],
            success: [
                .get(key: layout.epoch), .get(key: layout.next), .get(key: layout.alive),
            ])
        etcd.transaction(look) { [self] result in
            guard self.turn == turn else { return }
            switch result {
            case .failure(let failure): finish(.failure(failure.error(name)))
            case .success(let answer):
                let found = answer.range(0).first
                let next = answer.range(1).first.flatMap { UInt64($0.text) } ?? 1
                let alive = answer.range(2).first?.modRevision ?? 0
                if !deposesTheLiving, follower?.isBehind(next: next, alive: alive) == true {
                    let reason = "its writer lives, and this server has not heard it"
                    return finish(.failure(.unavailable(store: name, reason: reason)))
                }
                let known = found.flatMap { EtcdEpoch($0.value) }
                guard found == nil || known != nil else {
                    let reason = "the key `epoch` is not ours"
                    return finish(.failure(.corrupt(path: name, reason: reason)))
                }
                take(writer, after: index, above: known, found?.modRevision ?? 0, finish)
            }
        }
    }

    private func take(
        _ writer: LogWriter, after index: UInt64, above known: EtcdEpoch?, _ revision: Int64,
        _ completion: @escaping (Result<OpenedLog, LogStoreError>) -> Void
    ) {
        let turn = turn
        let nonce = loop.randomBytes(16).map { String($0, radix: 16) }.joined()
        let mine = EtcdEpoch(
            epoch: (known?.epoch ?? 0) + 1, name: writer.name, address: writer.address,
            nonce: nonce)
        let transaction = EtcdTransaction(
            compare: [.modRevision(key: layout.epoch, revision)],
            success: [
                .put(key: layout.epoch, mine.bytes),
                .put(key: layout.alive, Array("\(mine.epoch)".utf8)),
            ], failure: [.get(key: layout.epoch)])
        etcd.transaction(transaction) { [self] result in
            guard self.turn == turn else { return }
            switch result {
            case .failure(let failure): completion(.failure(failure.error(name)))
            case .success(let answer) where answer.isDone:
                begin(mine, answer.revision, after: index, completion)
            case .success(let answer):
                let newest = answer.range(0).first
                let other = newest.flatMap { EtcdEpoch($0.value) }
                // Our own, sent twice.
                if let newest, other == mine {
                    return begin(mine, newest.modRevision, after: index, completion)
                }
                completion(.failure(.fenced(byEpoch: other?.epoch ?? 0)))
            }
        }
    }

    private func begin(
        _ mine: EtcdEpoch, _ revision: Int64, after index: UInt64,
        _ completion: @escaping (Result<OpenedLog, LogStoreError>) -> Void
    ) {
        let turn = turn
        let seen = follower
        // Nobody else writes from here on, so what is read now is all there is.
        EtcdReader(etcd, layout, after: index) { [self] result in
            guard self.turn == turn else { return }
            switch result {
            case .failure(.compacted):
                // Somebody else's doing: etcd keeps more when we do it.
                begin(mine, revision, after: index, completion)
            case .failure(let failure): completion(.failure(failure.error(name)))
            case .success(let contents) where contents.epoch != mine:
                completion(.failure(.fenced(byEpoch: contents.epoch?.epoch ?? 0)))
            case .success(let contents) where contents.isSetBack || seen?.isOther(contents) == true:
                // Ended, so that the owner follows anew.
                follower?.stop()
                follower = nil
                let reason = "it was set back to an older state; it has to be read anew"
                completion(.failure(.unavailable(store: name, reason: reason)))
            case .success(let contents):
                follower?.stop()
                follower = nil
                epoch = mine
                epochRevision = revision
                manifestRevision = contents.manifestRevision
                snapshotNumber = 0
                compactableRevision = revision
                wroteAtMilliseconds = loop.nowMilliseconds
                aliveTimer = loop.every(Self.aliveInterval) { [weak self] in self?.showLife() }
                olderRevision = 0
                historyTimer = loop.every(historyInterval) { [weak self] in
                    self?.forgetHistory()
                }
                completion(
                    .success(
                        OpenedLog(
                            epoch: mine.epoch, snapshot: contents.snapshot,
                            records: contents.records, snapshotIndex: contents.snapshotIndex)))
            }
        }
    }

    private func stopLeading() {
        aliveTimer?.cancel()
        aliveTimer = nil
        historyTimer?.cancel()
        historyTimer = nil
        epoch = nil
        confirming = []
    }

    var notLeading: LogStoreError {
        .unavailable(store: name, reason: "this server does not lead")
    }

    private func lose(_ error: LogStoreError) {
        guard epoch != nil else { return }
        stopLeading()
        let body = onLost
        body?(error)
    }

    /// Writes if, and only if, this writer's epoch is still the newest.
    ///
    /// - Parameter completion: gets the revision.
    func write(
        _ operations: [EtcdOperation],
        _ completion: @escaping (Result<Int64, LogStoreError>) -> Void
    ) {
        write(operations, ofEpoch: epochRevision, if: []) { completion($0.map(\.revision)) }
    }

    /// What came of a write that had conditions.
    struct Written {
        var revision: Int64
        /// What was looked at because a condition did not hold; nil if it was written.
        var seen: [EtcdKeyValue?]?
    }

    /// Writes if, and only if, the epoch of this revision is still the newest and `conditions` hold.
    ///
    /// - Parameter keys: looked at if one of the conditions does not hold.
    func write(
        _ operations: [EtcdOperation], ofEpoch epochRevision: Int64, if conditions: [EtcdCompare],
        elseLookAt keys: [String] = [],
        _ completion: @escaping (Result<Written, LogStoreError>) -> Void
    ) {
        let fence: [EtcdCompare] =
            mutated(.appendWithoutEpoch) ? [] : [.modRevision(key: layout.epoch, epochRevision)]
        let transaction = EtcdTransaction(
            compare: fence + conditions,
            success: operations,
            failure: ([layout.epoch] + keys).map { .get(key: $0) })
        etcd.transaction(transaction) { [self] result in
            switch result {
            case .failure(let failure): completion(.failure(failure.error(name)))
            case .success(let answer):
                let newest = answer.range(0).first
                newestRevision = max(newestRevision, answer.revision)
                if answer.isDone {
                    completion(.success(Written(revision: answer.revision)))
                } else if conditions.isEmpty || newest?.modRevision != epochRevision {
                    completion(.failure(fenced(by: newest)))
                } else {
                    let seen = keys.indices.map { answer.range($0 + 1).first }
                    completion(.success(Written(revision: answer.revision, seen: seen)))
                }
            }
        }
    }

    func fenced(by value: EtcdKeyValue?) -> LogStoreError {
        .fenced(byEpoch: value.flatMap { EtcdEpoch($0.value) }?.epoch ?? 0)
    }

    private func showLife() {
        guard let epoch else { return }
        let quiet = loop.nowMilliseconds - wroteAtMilliseconds
        guard !isShowingLife, quiet >= Self.quietMillisecondsMin else { return }
        isShowingLife = true
        write([.put(key: layout.alive, Array("\(epoch.epoch)".utf8))]) { [self] result in
            isShowingLife = false
            guard self.epoch == epoch else { return }
            // A writer that cannot write must not keep others from it.
            if case .failure(let error) = result { lose(error) }
        }
    }

    public func confirm(completion: @escaping (Result<Void, LogStoreError>) -> Void) {
        guard epoch != nil else {
            return loop.soon { [notLeading] in completion(.failure(notLeading)) }
        }
        confirming.append(completion)
        confirmNext()
    }

    /// One question for all who ask before it is sent.
    private func confirmNext() {
        guard !isConfirming, !confirming.isEmpty else { return }
        guard let epoch else { return }
        isConfirming = true
        let asked = confirming
        confirming = []
        etcd.range(.get(key: layout.epoch)) { [self] result in
            isConfirming = false
            // It may lead again, with a newer epoch, and be asked for that.
            guard self.epoch == epoch else { return confirmNext() }
            let answer: Result<Void, LogStoreError> =
                switch result {
                case .failure(let failure): .failure(failure.error(name))
                case .success(let range):
                    range.first?.modRevision == epochRevision
                        ? .success(()) : .failure(fenced(by: range.first))
                }
            for body in asked { body(answer) }
            confirmNext()
        }
    }

    // MARK: Appending

    public func append(
        _ records: [[UInt8]], firstIndex: UInt64,
        completion: @escaping (Result<Void, LogStoreError>) -> Void
    ) {
        guard let epoch else {
            return loop.soon { [notLeading] in completion(.failure(notLeading)) }
        }
        guard !records.isEmpty else { return confirm(completion: completion) }
        let finish = { [self] (result: Result<Void, LogStoreError>) in
            guard self.epoch == epoch else { return }
            switch result {
            case .success: wroteAtMilliseconds = loop.nowMilliseconds
            case .failure: stopLeading()
            }
            completion(result)
        }
        let last = firstIndex + UInt64(records.count) - 1
        let batch = EtcdBatch.encode(records)
        // Of this epoch to its end, also if this server leads again meanwhile.
        let revision = epochRevision
        guard batch.count > Self.requestByteCountMax else {
            return commit(batch, firstIndex, last, revision, finish)
        }
        let parts = stride(from: 0, to: batch.count, by: Self.requestByteCountMax).map {
            Array(batch[$0..<min($0 + Self.requestByteCountMax, batch.count)])
        }
        putParts(parts[...], 0, last, epoch.epoch) { [self] error in
            if let error { return finish(.failure(error)) }
            guard self.epoch == epoch else { return }
            commit(
                EtcdBatch.encodeParts(epoch: epoch.epoch, count: parts.count), firstIndex, last,
                revision, finish)
        }
    }

    private func putParts(
        _ parts: ArraySlice<[UInt8]>, _ number: Int, _ last: UInt64, _ epoch: UInt64,
        _ completion: @escaping (LogStoreError?) -> Void
    ) {
        guard let part = parts.first else { return completion(nil) }
        guard self.epoch?.epoch == epoch else { return completion(notLeading) }
        write([.put(key: layout.part(last, epoch, number), part)]) { [self] result in
            if case .failure(let error) = result { return completion(error) }
            putParts(parts.dropFirst(), number + 1, last, epoch, completion)
        }
    }

    private func commit(
        _ batch: [UInt8], _ index: UInt64, _ last: UInt64, _ epochRevision: Int64,
        _ completion: @escaping (Result<Void, LogStoreError>) -> Void
    ) {
        let next = last + 1
        // Before the first append of all there is no `next`.
        let expected: EtcdCompare =
            index == 1
            ? .modRevision(key: layout.next, 0)
            : .value(key: layout.next, Array("\(index)".utf8))
        let operations: [EtcdOperation] = [
            .put(key: layout.log(last), batch), .put(key: layout.next, Array("\(next)".utf8)),
        ]
        write(
            operations, ofEpoch: epochRevision,
            if: mutated(.appendWithoutNext) ? [] : [expected],
            elseLookAt: [layout.next, layout.log(last)]
        ) { [name] result in
            if mutated(.failedAppendCounts), case .failure = result {
                return completion(.success(()))
            }
            completion(
                result.flatMap { written in
                    guard let seen = written.seen else { return .success(()) }
                    // An earlier try of ours has come through although its answer did not.
                    if !mutated(.earlierTryForgotten), seen[0]?.text == "\(next)",
                        seen[1]?.value == batch
                    {
                        return .success(())
                    }
                    let found = seen[0]?.text ?? "nothing"
                    return .failure(
                        .corrupt(
                            path: name, reason: "the next record is \(found), expected \(index)"))
                })
        }
    }

    // MARK: Health

    /// What was an interval ago is needed by nobody: whoever was away for so long reads the log anew.
    private func forgetHistory() {
        if olderRevision > 0 { compact(olderRevision) {} }
        olderRevision = newestRevision
    }

    func compact(_ revision: Int64, _ completion: @escaping () -> Void) {
        etcd.compact(revision) { [self] result in
            switch result {
            // Somebody was first, by a setting of etcd's own perhaps.
            case .success, .failure(.compacted): compactionProblem = nil
            case .failure(let failure): compactionProblem = "\(failure.error(name))"
            }
            completion()
        }
    }

    private func lookAtHealth() {
        etcd.health { [weak self] result in
            guard let self else { return }
            switch result {
            case .failure(let failure): warnings = ["\(failure.error(name))"]
            case .success(let health):
                warnings = health.alarms.map { alarm in
                    alarm == "NOSPACE"
                        ? "\(LogStoreError.full(store: name, reason: "alarm NOSPACE"))"
                        : "\(name) has the alarm \(alarm): see `etcdctl alarm list`"
                }
                let quota = health.quotaByteCount ?? Self.quotaByteCountDefault
                if let size = health.databaseByteCount, size > quota / 10 * 8 {
                    warnings.append(
                        "the database of \(name) has \(size >> 20) MiB, and takes nothing any more at "
                            + "its quota of \(quota >> 20) MiB: defragment it, or raise "
                            + "--quota-backend-bytes")
                }
            }
            if let compactionProblem {
                warnings.append(
                    "\(name) keeps all its history, and grows without end: it was not compacted: "
                        + compactionProblem)
            }
        }
    }
}
