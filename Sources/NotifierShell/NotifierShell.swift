// The notifier's process: one session with the leader, one database, the sinks.
//
// Happy path: open the database → hand over what an earlier process had not delivered → connect as
// `notifier` → follow events from the cursor → store, deliver, acknowledge, for ever.
//
// Failure modes: the server is away → the session client tries again, nothing is lost, since the
// leader keeps what is not acknowledged; the session cannot be cured (certificate, cluster,
// version, a second notifier of the same name) → `onFatal`; the database cannot be written →
// `onFatal`, nothing of the batch is acknowledged and the next start asks for it again; a sink does
// not take its lines → they stay in the outbox and are tried again every few seconds. Whether all is
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

    public var message: String {
        switch self {
        case .store(let error): error.description
        case .session(let problem): problem.message
        case .databaseInUse(let path): "another notifier uses the database \(path)"
        case .cannotLock(let path, let error):
            "cannot open the notifier database \(path): \(error)"
        case .cannotListen(let reason): "cannot listen on \(reason)"
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
        }
    }

    public var description: String { advice.isEmpty ? message : "\(message): \(advice)" }
}

/// Follows the leader's events and publishes an annotation for each hold, exactly once.
public final class NotifierShell {
    /// The first session is there and events are being followed.
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
    private let follower: Follower<NotifierStore>
    private var retrying: UvLoop.Timer?
    private let board: BoardFollower?
    private var isReady = false

    /// How often sinks that did not take a line are tried again.
    private static let deliveryInterval = Duration.seconds(5)

    /// Opens the database and locks it.
    ///
    /// - Parameters:
    ///   - servers: `host:port` each.
    ///   - credentials: of the role `notifier`.
    ///   - databasePath: created if it is not there.
    ///   - appendPath: where lines of JSON go; nil if nowhere.
    ///   - printLine: takes a line of text for each annotation; nil if nothing is printed.
    ///   - guests: how guests are served; nil if they are not.
    public init(
        servers: [String], credentials: Credentials, databasePath: String, appendPath: String?,
        printLine: ((String) throws -> Void)?, guests: GuestService? = nil, software: String,
        loop: Loop, log: Logger
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
        follower = Follower(
            store: store,
            delivery: Delivery(
                store: store, printLine: printLine, file: appendPath.map { LineFile(path: $0) }),
            now: { Timestamp(microseconds: WallClock.nowMicroseconds) },
            tell: { log.log(level: $0.level, "\($0)") })
        if let guests {
            board = try BoardFollower(
                guests, store: store, client: client, cluster: credentials.identity.cluster,
                loop: loop, log: log)
        } else {
            board = nil
        }
    }

    /// Called with each address at which guests are served, with the port really bound.
    public var onListening: ((String) -> Void)? {
        get { board?.onListening }
        set { board?.onListening = newValue }
    }

    /// It serves the guests of one host and leaves annotations to the central ones.
    private var isForOneHost: Bool { board?.isForOneHost ?? false }

    /// Delivers what is left from before, and begins to follow.
    public func start() {
        client.onReady = { [unowned self] _ in onSession() }
        client.onMessage = { [unowned self] message, _ in
            guarded { () throws(NotifierStoreError) in
                // First the board: where following begins is what the record has, so that events
                // the board has not seen are asked for again.
                if case .eventBatch(let events, let lastSequence) = message {
                    try board?.onBatch(events, lastSequence: lastSequence)
                }
                guard !isForOneHost else { return }
                for answer in try follower.onMessage(message) { send(answer) }
            }
        }
        client.onDown = { [unowned self] down in
            // Without a next try the problem cannot be cured by waiting.
            if down.retryAfter == nil { onFatal?(.session(down.problem)) }
        }
        retrying = loop.every(Self.deliveryInterval) { [unowned self] in
            if !isForOneHost {
                guarded { () throws(NotifierStoreError) in try follower.deliver() }
            }
            if client.isReady { NotifierHealth.touch(databasePath) }
        }
        if !isForOneHost {
            guarded { () throws(NotifierStoreError) in try follower.deliver() }
        }
        board?.onFatal = { [unowned self] in onFatal?($0) }
        board?.start()
        client.start()
    }

    /// Ends the session; what is stored and not delivered is delivered by the next start.
    public func stop() {
        retrying?.cancel()
        board?.stop()
        client.stop("the notifier is shutting down")
        lock.release()
    }

    /// Uses these from the next connect on.
    public func use(_ credentials: Credentials) { client.use(credentials) }

    private func onSession() {
        guarded { () throws(NotifierStoreError) in
            var sequence = try store.cursor()
            if let board, board.isForOneHost {
                sequence = board.cursor
                send(.followEvents(afterSequence: sequence, progress: false))
            } else {
                send(try follower.onEstablished())
            }
            board?.onSession()
            NotifierHealth.touch(databasePath)
            guard !isReady else { return }
            isReady = true
            onReady?(sequence)
        }
    }

    private func send(_ message: Message) {
        let correlation =
            if case .followEvents = message { client.nextCorrelation() } else {
                UInt64(0)
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

extension FollowProblem {
    var level: Logger.Level {
        switch self {
        case .begunAnew, .gap, .conflictingID: .critical
        case .refused, .undelivered: .error
        }
    }
}
