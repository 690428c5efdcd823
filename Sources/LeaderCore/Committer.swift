package import Coordination
package import Edges
package import Fleet
package import LogCore
package import Logging

/// What a command has made true, durably.
package struct Committed {
    /// Of the state that has it.
    package var index: UInt64
    /// Empty if it was true already.
    package var facts: [Fact]
}

/// Turns commands into committed facts: the only place where the coordinator's state changes.
///
/// Group commit: one append is in flight at most; what arrives meanwhile goes into the next. A
/// command is proposed against a state that has all earlier ones applied, and its answer, like
/// every read, waits until all it has seen is durable. So nobody is ever told of something that a
/// crash could take back.
///
/// ```
/// submit/read ──▶ queue ──turn──▶ propose + apply ──append──▶ durable ──▶ answers, events, directives
///                   ▲                                  │
///                   └────────── gathers meanwhile ◀────┘
/// ```
/// Snapshots are written from a copy of the state, chunk by chunk, while commits go on.
///
/// Failure: an append that fails, or whose outcome is not known, ends this server (``onFatal``):
/// its state is ahead of the log, and only a fresh load is right. A snapshot that fails is tried
/// again later, since the log has all that it would have said.
package final class Committer {
    private enum Item {
        case command(Command, (Result<Committed, Refusal>) -> Void)
        case read(() -> Void)
    }

    private let store: any LogStore
    private let snapshotRetry: Duration
    private let loop: any EventLoop
    private let log: Logger
    private let pause: (any PausePoint)?
    package private(set) var coordinator: Coordinator
    private var queue: [Item] = []
    private var isInFlight = false
    private var isPumpPlanned = false
    /// For tests: what is about to be written has a grant.
    private var hasGranted = false
    private var mustSchedule = false
    private var isOver = false
    private var snapshots: SnapshotSchedule
    private var isSaving = false
    /// Runs while a notice time does.
    private var noticeTimer: (any LoopTimer)?
    private var noticeTimerAt: Timestamp?
    /// Runs while no snapshot may be tried again.
    private var retryTimer: (any LoopTimer)?

    /// The hosts whose agents can be told something now.
    package var connectedHosts: () -> Set<HostID> = { [] }
    /// After every commit, before anybody is told: its facts and the index of the first of them.
    package var onDurable: ([Fact], _ firstIndex: UInt64) -> Void = { _, _ in }
    /// After every commit, when all that the state says is durable and the answers are given.
    package var onCommitted: () -> Void = {}
    /// The log cannot be written any more.
    package var onFatal: (LogStoreError) -> Void = { _ in }

    /// - Parameters:
    ///   - snapshotFactsInterval: facts after which a snapshot is written, if they are long enough.
    ///   - snapshotFactBytesDivisor: of the last snapshot's bytes; how long is long enough.
    ///   - snapshotRetry: pause after a snapshot that failed.
    ///   - warm: what is known of the log already; nil for nothing.
    package init(
        store: any LogStore, snapshotFactsInterval: UInt64,
        snapshotFactBytesDivisor: Int = Limits.snapshotFactBytesDivisor,
        snapshotRetry: Duration = .milliseconds(Limits.snapshotRetryMilliseconds),
        loop: any EventLoop, log: Logger, warm: Coordinator? = nil,
        pause: (any PausePoint)? = nil
    ) {
        coordinator = warm ?? Coordinator()
        self.pause = pause
        self.store = store
        self.snapshotRetry = snapshotRetry
        snapshots = SnapshotSchedule(
            factsMin: snapshotFactsInterval, bytesDivisor: snapshotFactBytesDivisor)
        self.loop = loop
        self.log = log
    }

    /// Takes the log, loads what is missing and starts a term of this server.
    ///
    /// - Parameter completion: the term, once it is durable.
    package func start(
        _ writer: LogWriter, completion: @escaping (Result<UInt64, LogStoreError>) -> Void
    ) {
        store.lead(as: writer, after: coordinator.state.index) { [self] result in
            guard !isOver else { return }
            switch result {
            case .failure(let error):
                completion(.failure(error))
            case .success(let opened):
                do {
                    try load(opened)
                } catch {
                    completion(.failure(.corrupt(path: "the log", reason: "\(error)")))
                    return
                }
                let term = max(opened.epoch, coordinator.state.term + 1)
                var whenDone: ((Result<UInt64, LogStoreError>) -> Void)? = completion
                let fatal = onFatal
                onFatal = { error in
                    whenDone?(.failure(error))
                    whenDone = nil
                }
                submit(.startTerm(term: term, server: writer.name)) { [self] _ in
                    onFatal = fatal
                    whenDone?(.success(term))
                    whenDone = nil
                }
            }
        }
    }

    private func load(_ opened: OpenedLog) throws {
        if !mutated(.leaderLoadsNothing) {
            try coordinator.load(opened.snapshot, opened.records)
        }
        snapshots.onLoaded(opened, index: coordinator.state.index)
        log.info(
            "log loaded",
            metadata: [
                "index": "\(coordinator.state.index)", "snapshot": "\(opened.snapshot?.index ?? 0)",
                "records": "\(opened.records.count)",
            ])
    }

    /// Proposes `command` in its turn; `completion` runs when it is durable or refused.
    package func submit(
        _ command: Command, completion: @escaping (Result<Committed, Refusal>) -> Void
    ) {
        guard !isOver else { return }
        queue.append(.command(command, completion))
        planPump()
    }

    /// Runs `body` when all that ``coordinator`` says is durable.
    package func read(_ body: @escaping () -> Void) {
        guard !isOver else { return }
        queue.append(.read(body))
        planPump()
    }

    /// ``submit(_:completion:)`` for a peer that waits for no answer: until it is done it counts against what
    /// is read of the session, see ``PeerSession/workBegan()``.
    func submit(
        _ command: Command, for session: any PeerSession,
        completion: @escaping (Result<Committed, Refusal>) -> Void
    ) {
        session.workBegan()
        submit(command) {
            completion($0)
            session.workEnded()
        }
    }

    /// ``read(_:)`` in the same way.
    func read(for session: any PeerSession, _ body: @escaping () -> Void) {
        session.workBegan()
        read {
            session.workEnded()
            body()
        }
    }

    /// Asks for a round of grants, for example because an agent has connected.
    package func schedule() {
        mustSchedule = true
        planPump()
    }

    /// After this nothing is proposed, written or answered, and nothing is kept that still comes.
    package func close() {
        isOver = true
        retryTimer?.cancel()
        noticeTimer?.cancel()
        queue = []
        // They hold, through those who set them, this object and its state.
        connectedHosts = { [] }
        onDurable = { _, _ in }
        onCommitted = {}
        onFatal = { _ in }
    }

    private func planPump() {
        guard !isPumpPlanned, !isInFlight, !isOver else { return }
        isPumpPlanned = true
        loop.soon { [self] in
            isPumpPlanned = false
            pump()
        }
    }

    private func pump() {
        guard !isInFlight, !isOver else { return }
        let items = queue
        queue = []
        let firstIndex = coordinator.state.index + 1
        var facts: [Fact] = []
        var answers: [() -> Void] = []
        for item in items {
            switch item {
            case .read(let body):
                answers.append(body)
            case .command(let command, let completion):
                let result = carryOut(command, &facts)
                answers.append { completion(result) }
            }
        }
        if mustSchedule || !facts.isEmpty {
            mustSchedule = false
            let known = facts.count
            _ = carryOut(.schedule(connected: connectedHosts()), &facts)
            // There may be more to tell of than goes into one batch, and what is withdrawn opens
            // sets to others.
            mustSchedule =
                facts.count - known >= Limits.noticesPerRoundMax
                || facts[known...].contains { $0.opensSets }
            watchNotices()
        }
        if facts.isEmpty {
            if !answers.isEmpty { confirm(answers) }
            return
        }
        let grants = hasGranted
        hasGranted = false
        if grants { pause?.reached("granted") }
        if mutated(.answerBeforeDurable) { for answer in answers { answer() } }
        if mutated(.directiveBeforeDurable) { onCommitted() }
        isInFlight = true
        let records = facts.map(FactRecord.encode)
        store.append(records, firstIndex: firstIndex) { [self] result in
            settle(result) {
                if grants { pause?.reached("committed") }
                snapshots.onAppended(records)
                onDurable(facts, firstIndex)
                for answer in answers where !mutated(.answerBeforeDurable) { answer() }
                // An answer may have ended this server's leadership.
                guard !isOver else { return }
                onCommitted()
                saveSnapshotIfDue()
            }
        }
    }

    /// Sees to it that a round of grants comes as soon as a notice time is over. The wall clock may
    /// be set meanwhile, so a long time is waited for in pieces.
    private func watchNotices() {
        let now = Timestamp(microseconds: loop.wallMicroseconds)
        let next = coordinator.nextNoticeAt(after: now)
        guard next != noticeTimerAt || noticeTimer == nil else { return }
        noticeTimer?.cancel()
        noticeTimer = nil
        noticeTimerAt = next
        guard let next else { return }
        let microseconds = next.microseconds - now.microseconds
        // Rounded up, so that the time is over when the timer fires.
        let milliseconds = min((microseconds + 999) / 1_000, Self.noticeWatchMilliseconds)
        noticeTimer = loop.after(.milliseconds(milliseconds)) { [self] in
            noticeTimer = nil
            noticeTimerAt = nil
            schedule()
        }
    }

    /// A clock that was set forward is noticed after this.
    private static let noticeWatchMilliseconds: Int64 = 10_000

    /// Answers that rest on what was known before: only right if no other server leads meanwhile.
    private func confirm(_ answers: [() -> Void]) {
        if mutated(.readUnconfirmed) { return answers.forEach { $0() } }
        isInFlight = true
        store.confirm { [self] result in
            settle(result) { for answer in answers { answer() } }
        }
    }

    /// What was in flight has ended; what came meanwhile is next.
    private func settle(_ result: Result<Void, LogStoreError>, _ onSuccess: () -> Void) {
        isInFlight = false
        guard !isOver else { return }
        switch result {
        case .failure(let error):
            isOver = true
            onFatal(error)
        case .success:
            onSuccess()
            // Nothing is planned if this server leads no more.
            if !queue.isEmpty || mustSchedule { planPump() }
        }
    }

    private func carryOut(
        _ command: Command, _ facts: inout [Fact]
    ) -> Result<Committed, Refusal> {
        let now = Timestamp(microseconds: loop.wallMicroseconds)
        switch coordinator.propose(command, at: now) {
        case .failure(let refusal):
            return .failure(refusal)
        case .success(let new):
            for fact in new {
                if case .stepGranted = fact.body { hasGranted = true }
                coordinator.apply(fact)
            }
            facts += new
            return .success(Committed(index: coordinator.state.index, facts: new))
        }
    }

    /// To be called right after an append: the state is then exactly what the log says.
    private func saveSnapshotIfDue() {
        guard !isSaving, retryTimer == nil, snapshots.isDue else { return }
        isSaving = true
        let index = coordinator.state.index
        var encoder = SnapshotEncoder(coordinator.state)
        snapshots.onBegun()
        let next = { [self] in
            let chunk = encoder.next()
            snapshots.onWritten(byteCount: chunk?.count ?? 0)
            return chunk
        }
        store.save(index: index, next: next) { [self] result in
            isSaving = false
            guard !isOver else { return }
            switch result {
            case .success:
                snapshots.onSaved()
                log.info(
                    "snapshot saved",
                    metadata: ["index": "\(index)", "bytes": "\(snapshots.byteCount)"])
            case .failure(.fenced(let epoch)):
                isOver = true
                onFatal(.fenced(byEpoch: epoch))
            case .failure(let error):
                snapshots.onFailed()
                log.warning(
                    "a snapshot could not be written and will be tried again; the log has all",
                    metadata: ["index": "\(index)", "reason": "\(error)"])
                retryTimer = loop.after(snapshotRetry) { [self] in retryTimer = nil }
            }
        }
    }
}

extension Fact {
    /// Whether the scheduler may find something to do that it did not find in the same round.
    fileprivate var opensSets: Bool {
        switch body {
        case .noticeWithdrawn, .stepCancelled: true
        default: false
        }
    }
}
