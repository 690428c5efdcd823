// Follows a log in etcd, for a server that does not lead.
//
//        ┌──────── pause ◀────────── failure ──────────┐
//        ▼                                             │
//     loading ──everything after what we have──▶ watching ──silence──▶ asking: is the watch behind?
//        ▲                                             │                      │ yes
//        └──────── the watch ended, was compacted ◀────┴──────────────────────┘
//
// Happy path: one load, then each batch as it is committed.
// Failure modes: no etcd → `interrupted`, and again; a watch at a member that is cut off from the
// others hears nothing and does not know it: after some silence a linearizable read tells, and another
// member is watched; compacted → loaded again from the snapshot; etcd restored from a back-up, or the
// log replaced by `fermata restore` → all is told anew.

import Edges
import LogCore

final class EtcdFollower {
    private static let pause = Duration.milliseconds(200)
    /// The writer shows life each second, or within two after its last append.
    private static let silence = Duration.milliseconds(2_200)

    private let etcd: any EtcdAccess
    private let loop: any EventLoop
    private let layout: EtcdLayout
    private let store: String
    private var onUpdate: ((LogUpdate) -> Void)?
    /// Index of the newest record that was told; nil before the first load.
    private var index: UInt64?
    /// Of etcd, as it was loaded; empty before.
    private var cluster = ""
    /// As of which was loaded.
    private var revision: Int64 = 0
    private var epochRevision: Int64 = 0
    private var aliveRevision: Int64 = 0
    private var history: UInt64 = 0
    private var epochNumber: UInt64 = 0
    private var watch: (any EtcdWatch)?
    private var timer: (any LoopTimer)?
    private var pending: [EtcdKeyValue] = []
    private var isReadingParts = false
    /// Counts loads and watches: what belongs to an earlier one is not listened to.
    private var turn = 0

    init(
        _ etcd: any EtcdAccess, _ layout: EtcdLayout, store: String, on loop: any EventLoop,
        _ onUpdate: @escaping (LogUpdate) -> Void
    ) {
        self.etcd = etcd
        self.loop = loop
        self.layout = layout
        self.store = store
        self.onUpdate = onUpdate
        load()
    }

    deinit {
        watch?.cancel()
        timer?.cancel()
    }

    func stop() {
        turn += 1
        onUpdate = nil
        watch?.cancel()
        watch = nil
        timer?.cancel()
        timer = nil
    }

    // MARK: Loading

    private func load() {
        turn += 1
        let turn = turn
        pending = []
        isReadingParts = false
        EtcdReader(etcd, layout, after: index ?? 0) { [weak self] result in
            guard let self, self.turn == turn else { return }
            switch result {
            case .success(let contents): loaded(contents)
            case .failure(.compacted): again(nil)
            case .failure(let failure): again(failure)
            }
        }
    }

    /// Reads what is new after a pause; whatever is under way is not listened to any more.
    private func again(_ failure: EtcdFailure?) {
        watch?.cancel()
        watch = nil
        if let failure { onUpdate?(.interrupted(failure.error(store))) }
        guard onUpdate != nil else { return }
        turn += 1
        let turn = turn
        timer?.cancel()
        timer = loop.after(failure == nil ? .milliseconds(10) : Self.pause) { [weak self] in
            guard let self, self.turn == turn else { return }
            load()
        }
    }

    private func loaded(_ contents: EtcdContents) {
        guard !isOther(contents) else {
            // It was restored from a back-up, replaced, or set up anew.
            return anew()
        }
        history = contents.history
        cluster = contents.cluster
        revision = contents.revision
        let known = index
        index = contents.next - 1
        if let known, contents.snapshot == nil {
            // Also if nothing is new: that the log can be read again is news after an interruption.
            onUpdate?(.appended(contents.records, firstIndex: known + 1))
        } else {
            onUpdate?(.loaded(contents.snapshot, records: contents.records))
        }
        if let epoch = contents.epoch { saw(epoch, contents.epochRevision) }
        sawAlive(contents.aliveRevision)
        startWatch()
    }

    /// Forgets what was read, and reads all.
    private func anew() {
        index = nil
        cluster = ""
        revision = 0
        epochRevision = 0
        aliveRevision = 0
        history = 0
        again(nil)
    }

    /// Whether the writer has done something of which nothing was told here.
    func isBehind(next: UInt64, alive: Int64) -> Bool {
        next > (index ?? 0) + 1 || alive > aliveRevision
    }

    /// Whether this is not the log that was read before, grown.
    func isOther(_ contents: EtcdContents) -> Bool {
        contents.isSetBack || contents.revision < revision || contents.epochRevision < epochRevision
            || !cluster.isEmpty && contents.cluster != cluster
            || index != nil && contents.history != history
    }

    private func saw(_ epoch: EtcdEpoch, _ revision: Int64) {
        guard revision > epochRevision else { return }
        epochRevision = revision
        epochNumber = epoch.epoch
        onUpdate?(.writer(epoch.writer, epoch: epoch.epoch))
    }

    private func sawAlive(_ revision: Int64) {
        guard revision > aliveRevision else { return }
        aliveRevision = revision
        onUpdate?(.alive(epoch: epochNumber))
    }

    // MARK: Watching

    private func startWatch() {
        guard onUpdate != nil else { return }
        turn += 1
        let turn = turn
        watch = etcd.watch(
            from: layout.alive, to: layout.endOfLog, revision: revision + 1,
            onLine: { [weak self] line in
                guard let self, self.turn == turn else { return }
                received(line)
            },
            onEnd: { [weak self] failure in
                guard let self, self.turn == turn else { return }
                again(failure)
            })
        listen()
    }

    private func listen() {
        let turn = turn
        timer?.cancel()
        timer = loop.after(Self.silence) { [weak self] in
            guard let self, self.turn == turn else { return }
            askAfterSilence()
        }
    }

    private func received(_ line: EtcdWatchLine) {
        switch line {
        case .cancelled(let isCompacted, let reason):
            // The load finds out more. Without a right there is nothing to hurry for.
            let reason = "the watch was cancelled: \(reason ?? "no reason given")"
            again(isCompacted ? nil : .unavailable(reason))
        case .puts(let values):
            listen()
            pending += values
            drain()
        }
    }

    private func drain() {
        guard !isReadingParts else { return }
        while let put = pending.first, onUpdate != nil {
            pending.removeFirst()
            if put.key == layout.epoch {
                if let epoch = EtcdEpoch(put.value) { saw(epoch, put.modRevision) }
            } else if put.key == layout.alive {
                sawAlive(put.modRevision)
            } else if put.key == layout.history {
                return anew()
            } else if let last = layout.lastIndex(put.key) {
                guard received(put, last: last) else { return }
            }
        }
    }

    /// - Returns: false if the rest has to wait.
    private func received(_ value: EtcdKeyValue, last: UInt64) -> Bool {
        guard let known = index else { return true }
        // What is watched comes after what was read, and each record is written once in a log.
        guard last > known else {
            anew()
            return false
        }
        switch EtcdBatch(value.value) {
        case .records(let records): return tell(records, last: last)
        case .parts(let epoch, let count):
            isReadingParts = true
            let turn = turn
            EtcdReader.readParts(
                etcd, layout, last: last, epoch: epoch, count: count,
                revision: value.modRevision
            ) { [weak self] result in
                guard let self, self.turn == turn else { return }
                isReadingParts = false
                switch result {
                case .failure: again(nil)
                case .success(let records): if tell(records, last: last) { drain() }
                }
            }
            return false
        case nil:
            again(nil)
            return false
        }
    }

    /// - Returns: false if this is not what follows, and all is read again.
    private func tell(_ records: [[UInt8]], last: UInt64) -> Bool {
        guard let known = index, known + UInt64(records.count) == last else {
            again(nil)
            return false
        }
        index = last
        onUpdate?(.appended(records, firstIndex: known + 1))
        onUpdate?(.alive(epoch: epochNumber))
        return true
    }

    /// Nothing came for a while: because nothing is written, or because nobody tells us?
    private func askAfterSilence() {
        let turn = turn
        etcd.transaction(
            EtcdTransaction(
                compare: [], success: [.get(key: layout.next), .get(key: layout.alive)])
        ) { [weak self] result in
            guard let self, self.turn == turn else { return }
            switch result {
            case .failure(let failure):
                again(failure)
            case .success(let answer):
                let next = answer.range(0).first.flatMap { UInt64($0.text) } ?? 1
                let alive = answer.range(1).first?.modRevision ?? 0
                guard isBehind(next: next, alive: alive) else { return listen() }
                // The watch is behind.
                again(nil)
            }
        }
    }
}
