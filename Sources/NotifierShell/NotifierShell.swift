// The notifier's process: one session with the leader, one database, the sinks.
//
// Happy path: open the database → hand over what an earlier process had not delivered → connect as
// `notifier` → follow events from the cursor → store, wake the sinks, acknowledge, for ever.
//
// Failure modes: the server is away → the session client tries again, nothing is lost, since the
// leader keeps what is not acknowledged; the session cannot be cured (certificate, cluster,
// version, a second notifier of the same name) → `onFatal`; the database cannot be written →
// `onFatal`, nothing of the batch is acknowledged and the next start asks for it again; a sink does
// not take what is due to it → it stays in the outbox, and is tried again as its policy says. Whether all is
// well is told by the lock file: held by a process that lives, and touched by one that follows.
import Fleet
public import Logging
import Notices
public import SessionCore
public import SessionShell
public import UvLoop
import Wire

/// Why a notifier has to end.
public enum NotifierError: Error, Hashable, Sendable, CustomStringConvertible {
    case store(NotifierStoreError)
    case session(SessionProblem)
    /// Another process has the database.
    case databaseInUse(path: String)
    case cannotLock(path: String, UvError)
    /// Guests cannot be served at an address.
    case cannotListen(String)
    case sink(SinkProblem)

    public var message: String {
        switch self {
        case .store(let error): error.description
        case .session(let problem): problem.message
        case .databaseInUse(let path): "another notifier uses the database \(path)"
        case .cannotLock(let path, let error):
            "cannot open the notifier database \(path): \(error)"
        case .cannotListen(let reason): "cannot listen on \(reason)"
        case .sink(let problem): problem.description
        }
    }

    public var advice: String {
        switch self {
        case .store(let error): error.advice
        case .session(let problem): problem.advice
        case .databaseInUse: "Stop it, or give this one another --database and certificate."
        case .cannotLock: "Check that the directory exists and is writable."
        case .cannotListen:
            "Give an address of this host, and a port that nobody uses, to --listen."
        case .sink(let problem): problem.advice
        }
    }

    public var description: String { advice.isEmpty ? message : "\(message): \(advice)" }
}

/// Follows the leader's events and publishes an annotation for each hold, exactly once.
public final class NotifierShell {
    /// The first session is there and events are being followed; guests, if any, are served.
    ///
    /// - Parameter sequence: the last event stored before.
    public var onReady: ((_ sequence: UInt64) -> Void)?
    /// The process must end; see ``NotifierError``.
    public var onFatal: ((NotifierError) -> Void)?

    private let loop: Loop
    private let log: Logger
    private let client: SessionClient
    private let store: NotifierStore
    private let lock: FileLock
    private let databasePath: String
    private let delivery: Delivery<NotifierStore, Loop>
    private let follower: Follower<NotifierStore, Loop>
    private let lease: LeaseFollower<NotifierStore, Loop>
    private let sets: SetBookKeeper
    private let pause: TestPause
    private let retention: Retention
    private var ticking: UvLoop.Timer?
    private var cleaning: UvLoop.Timer?
    private var touching: UvLoop.Timer?
    private var claiming: UvLoop.Timer?
    private var changeNumber: Int64 = 0
    private let board: BoardFollower?
    private var isReady = false
    /// The last event stored before the first session.
    private var firstSequence: UInt64?
    /// The leader of this session says the release with a grant. One of the first version 1 did not, and
    /// would close the session on a query, which notifiers could not ask yet.
    private var isLeaderOfToday = false

    /// How often what another process has put into the outbox is looked for.
    private static let changeInterval = Duration.milliseconds(500)
    /// How often the lock file is touched.
    private static let touchInterval = Duration.seconds(5)
    private static let cleanInterval = Duration.seconds(600)
    /// Old bulletins deleted in one turn, and the pause between turns while there are more.
    private static let cleanCountMax = 500
    private static let cleanPause = Duration.milliseconds(50)
    /// For what is on its way when the process is to end.
    private static let finishLimit = Duration.seconds(5)

    /// Opens the database and locks it.
    ///
    /// - Parameters:
    ///   - servers: `host:port` each.
    ///   - credentials: of the role `notifier`.
    ///   - databasePath: created if it is not there.
    ///   - sinks: opened here; those of a file, and what else is wanted.
    ///   - guests: how guests are served; nil if they are not.
    ///   - software: what peers are told.
    ///   - pauseAt: see ``TestPause``.
    public init(
        servers: [String], credentials: Credentials, databasePath: String, sinks: NotifierSinks,
        retention: Retention = Retention(), guests: GuestService? = nil, software: String,
        pauseAt: String? = nil, loop: Loop, log: Logger
    ) throws(NotifierError) {
        do {
            lock = try Files.lock(path: NotifierHealth.lockPath(databasePath))
        } catch {
            throw error.name == "EAGAIN" || error.name == "EWOULDBLOCK"
                ? .databaseInUse(path: databasePath) : .cannotLock(path: databasePath, error)
        }
        do {
            store = try NotifierStore(path: databasePath, cluster: credentials.identity.cluster)
        } catch {
            throw .store(error)
        }
        self.loop = loop
        self.log = log
        self.databasePath = databasePath
        client = SessionClient(
            on: loop, servers: servers, credentials: credentials, software: software, logger: log)
        sets = SetBookKeeper(client, loop: loop, log: log)
        let pause = TestPause(pauseAt)
        self.pause = pause
        self.retention = retention
        let tell: (FollowProblem) -> Void = { log.log(level: $0.level, "\($0)") }
        do {
            let cluster = credentials.identity.cluster
            delivery = Delivery(
                store: store, loop: loop, ways: try sinks.open(cluster: cluster, on: loop),
                tell: tell, pause: pause)
        } catch {
            throw .sink(error)
        }
        lease = LeaseFollower(
            store: store, delivery: delivery, loop: loop,
            clock: { HoldClock.nowMicroseconds / 1_000 })
        follower = Follower(
            store: store, delivery: delivery, host: guests?.host,
            now: { Timestamp(microseconds: WallClock.nowMicroseconds) }, tell: tell)
        sets.onBook = { [follower] in follower.book = $0 }
        if let guests {
            board = try BoardFollower(
                guests, store: store, client: client,
                renderer: sinks.renderer(cluster: credentials.identity.cluster), loop: loop,
                log: log)
        } else {
            board = nil
        }
        delivery.onFailure = { [unowned self] in onFatal?(.store($0)) }
        let names = delivery.sinks.map(\.id)
        do {
            for (sink, count) in try store.pendingForOthers(than: names).sorted(by: <) {
                log.warning(
                    "\(count) bulletins wait for sink \(sink), which is not configured",
                    metadata: ["to let them go": "fermata notifier dead-letters drop --pending"])
            }
        } catch {
            throw .store(error)
        }
    }

    /// Called with each address at which guests are served, with the port really bound.
    public var onListening: ((String) -> Void)?

    /// It serves the guests of one host, with their own record, and leaves sinks to the central ones.
    private var isForOneHost: Bool { board?.isForOneHost ?? false }

    /// Delivers what is left from before, and begins to follow.
    public func start() {
        client.onReady = { [unowned self] _ in onSession() }
        client.onMessage = { [unowned self] message, correlation in
            guarded { () throws(NotifierStoreError) in try onMessage(message, correlation) }
        }
        client.onDown = { [unowned self] down in
            lease.onDown()
            // Without a next try the problem cannot be cured by waiting.
            if down.retryAfter == nil { onFatal?(.session(down.problem)) }
        }
        ticking = loop.every(Self.changeInterval) { [unowned self] in lookForChanges() }
        touching = loop.every(Self.touchInterval) { [unowned self] in
            guard client.isReady else { return }
            NotifierHealth.touch(databasePath)
        }
        claiming = loop.every(LeaseFollower<NotifierStore, Loop>.claimInterval) { [unowned self] in
            if client.isReady { claim() }
        }
        if !isForOneHost { sets.start() }
        clean()
        delivery.wake()
        board?.onFatal = { [unowned self] in onFatal?($0) }
        board?.onListening = { [unowned self] address in
            onListening?(address)
            becomeReady()
        }
        board?.start()
        client.start()
    }

    /// Waits a moment for what is on its way to sinks, lets another notifier deliver, and ends the
    /// session. What is stored and not delivered is delivered by that one, or by the next start.
    ///
    /// - Parameter completion: called once, now or later: nothing is left to do then.
    public func stop(completion: @escaping () -> Void) {
        for timer in [ticking, touching, claiming, cleaning] { timer?.cancel() }
        sets.stop()
        board?.stop()
        delivery.finish(within: Self.finishLimit) { [self] in
            for message in (try? lease.onEnd()) ?? [] { send(message) }
            client.stop("the notifier is shutting down")
            lock.release()
            completion()
        }
    }

    /// Uses these from the next connect on.
    public func use(_ credentials: Credentials) { client.use(credentials) }

    private func onMessage(
        _ message: Message, _ correlation: UInt64
    ) throws(NotifierStoreError) {
        var answers: [Message] = []
        switch message {
        case .eventBatch(let events, let lastSequence):
            // What guests are told and what is recorded of an event become durable together, and only
            // then is anything given out.
            let hasHold = events.contains(where: \.isHold)
            if hasHold { pause.reached("heard") }
            try delivery.holdBack { () throws(NotifierStoreError) in
                try store.together { () throws(NotifierStoreError) in
                    try board?.onBatch(events, lastSequence: lastSequence)
                    if isForOneHost { follower.book = board?.book ?? SetBook() }
                    answers = try follower.onMessage(message)
                }
                if hasHold { pause.reached("stored") }
            }
            board?.publish()
            if !isForOneHost { learn(events) }
        case .deliveryLease(let lease):
            if !isForOneHost { try self.lease.onLease(lease, correlation: correlation) }
        default:
            answers = try follower.onMessage(message)
        }
        for answer in answers {
            send(answer)
            if case .acknowledgeEvents = answer { pause.reached("acknowledged") }
        }
    }

    private func learn(_ events: [FleetEvent]) {
        isLeaderOfToday = isLeaderOfToday || events.contains(where: \.saysItsRelease)
        if isLeaderOfToday { sets.onEvents(events) }
    }

    /// Dead letters that were replayed, say.
    private func lookForChanges() {
        guarded { () throws(NotifierStoreError) in
            for message in try lease.onTick() {
                send(message)
                pause.reached("reported")
            }
            let number = try store.changeNumber()
            guard number != changeNumber else { return }
            changeNumber = number
            delivery.wake()
        }
    }

    private func clean() {
        guarded { () throws(NotifierStoreError) in
            let now = Timestamp(microseconds: WallClock.nowMicroseconds)
            let deleted = try store.deleteOld(retention, now: now, countMax: Self.cleanCountMax)
            if deleted.undelivered > 0 {
                log.warning(
                    "\(deleted.undelivered) deliveries that no sink had taken are too old to be kept",
                    metadata: ["kept for days (--keep)": "\(retention.bulletinDays)"])
            }
            let pause = deleted.count < Self.cleanCountMax ? Self.cleanInterval : Self.cleanPause
            cleaning = loop.after(pause) { [unowned self] in clean() }
        }
    }

    /// Asks to be the one that delivers to shared sinks; without any, gives up what an earlier process had.
    private func claim() {
        guard !isForOneHost, lease.hasSinks || isLeaderOfToday else { return }
        let correlation = client.nextCorrelation()
        for message in lease.claim(correlation) {
            client.send(message, correlation: message == .claimDeliveries ? correlation : 0)
        }
    }

    private func onSession() {
        guarded { () throws(NotifierStoreError) in
            var sequence = try store.cursor()
            if let board, board.isForOneHost {
                // Each half passes over what it has.
                sequence = min(board.cursor, sequence)
                send(.followEvents(afterSequence: sequence, progress: false))
            } else {
                isLeaderOfToday = false
                sets.onSession()
                send(try follower.onEstablished())
            }
            board?.onSession()
            claim()
            NotifierHealth.touch(databasePath)
            firstSequence = firstSequence ?? sequence
            becomeReady()
        }
    }

    private func becomeReady() {
        guard !isReady, let firstSequence, board?.isListening ?? true else { return }
        isReady = true
        onReady?(firstSequence)
    }

    private func send(_ message: Message) {
        let correlation =
            switch message {
            case .followEvents: client.nextCorrelation()
            default: UInt64(0)
            }
        client.send(message, correlation: correlation)
    }

    private func guarded(_ body: () throws(NotifierStoreError) -> Void) {
        do {
            try body()
        } catch {
            onFatal?(.store(error))
        }
    }
}

extension FleetEvent {
    fileprivate var isHold: Bool { if case .holdFinished = body { true } else { false } }

    fileprivate var saysItsRelease: Bool {
        switch body {
        case .stepNoticed: true
        case .stepGranted(_, _, _, _, let release, _, _): !release.rawValue.isEmpty
        default: false
        }
    }
}

extension FollowProblem {
    var level: Logger.Level {
        switch self {
        case .begunAnew, .gap, .conflictingID: .critical
        case .refused, .dead: .error
        case .undelivered: .warning
        }
    }
}
