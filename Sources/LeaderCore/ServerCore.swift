// A server, but for what carries its sessions: it either leads or follows.
//
//                    ┌──────────────── leadership lost: the state is loaded anew ───────────────┐
//                    ▼                                                                          │
//   start ──▶ standby: follows the log, ──take-over──▶ Leadership.start ──term durable──▶ leading
//                 watches the leader                        │ somebody was faster, no etcd
//                    ▲                                      ▼
//                    └──────────────────────────────────────┘
// With a log that only one process can open (SQLite) there is no standby: it leads from the start.
//
// Happy path of a leader: for each session by role: agents report and get directives, operators command
// and ask, notifiers follow events. A standby tells everybody who leads.
// Failure modes: a log that only one can open is lost → `onFatal`: the process ends, and the next start
// goes on from the log; the etcd log is lost, or another server leads → every session is closed with
// NOT_LEADER and this server follows. Holds never depend on this process.

public import Coordination
public import Edges
public import Fleet
public import LogCore
public import Logging
public import Wire

/// What a server is once it has started.
public enum ServerRole: Hashable, Sendable {
    case leader(term: UInt64)
    case standby
}

public final class ServerCore {
    let identity: PeerIdentity
    let softwareVersion: String
    let loop: any EventLoop
    let log: Logger
    let group: ServerGroup
    let store: any LogStore
    let snapshotFactsInterval: UInt64
    let pause: (any PausePoint)?
    unowned let edges: any ServerEdges
    let refusals: Refusals
    private var leadership: Leadership?
    /// Not yet: its term is not durable.
    private var candidate: Leadership?
    private var standby: Standby?
    private var isStopped = false

    /// The log cannot be written or read any more: the process must end, and may start again.
    public var onFatal: (LogStoreError) -> Void = { _ in }
    /// This server leads from now on, or follows. Not called for what ``start(completion:)`` says.
    public var onRole: (ServerRole) -> Void = { _ in }
    /// After each commit of this server as a leader or candidate, before anybody is told of it: the
    /// facts, the index of the first of them, and the state, which has just these and those before.
    /// Not called for what it appended without ever learning that it is in the log.
    public var onCommitted: ([Fact], _ firstIndex: UInt64, FleetState) -> Void = { _, _, _ in }

    /// - Parameters:
    ///   - identity: as the server's certificate says.
    ///   - group: the other servers; only of use with a log that several can read.
    ///   - pause: where a test may make the process end.
    public init(
        identity: PeerIdentity, group: ServerGroup, softwareVersion: String,
        store: any LogStore, loop: any EventLoop, log: Logger, edges: any ServerEdges,
        snapshotFactsInterval: UInt64 = Limits.snapshotFactsInterval,
        pause: (any PausePoint)? = nil
    ) {
        self.identity = identity
        self.group = group
        self.softwareVersion = softwareVersion
        self.store = store
        self.loop = loop
        self.log = log
        self.edges = edges
        refusals = Refusals(edges: edges, loop: loop, log: log)
        self.snapshotFactsInterval = snapshotFactsInterval
        self.pause = pause
    }

    /// Leads: at once with a log that only one process can open, else when there is no other leader.
    ///
    /// - Parameter completion: called once unless this server is stopped before, never inside the
    ///   call; the term if this server leads already. Peers may be let in from then on.
    public func start(completion: @escaping (Result<UInt64?, LogStoreError>) -> Void) {
        guard store is any FollowableLogStore else {
            return lead(from: nil) { result in completion(result.map { $0 }) }
        }
        loop.soon { [self] in
            guard !isStopped else { return }
            completion(.success(nil))
            // The caller may have found that nobody can reach him.
            if !isStopped { follow() }
        }
    }

    /// Ends all this server does; what is committed is safe. The other servers take over at once.
    /// Its sessions are for the caller to close.
    public func stop() {
        isStopped = true
        leadership?.close()
        candidate?.close()
        candidate = nil
        standby?.close()
        store.close()
        // They hold this object.
        standby?.onTakeOver = { _ in }
        standby?.onCorrupt = { _ in }
        (store as? any FollowableLogStore)?.onLost = nil
    }

    // MARK: What it is

    /// Nil before it has started.
    public var role: ServerRole? {
        if let leadership { return .leader(term: leadership.coordinator.state.term) }
        return standby == nil ? nil : .standby
    }

    /// Whether it has begun to take over and its term is not durable yet.
    public var isCandidate: Bool { candidate != nil }

    /// As far as this server knows it. Of a leader it may be ahead of the log, by what is being
    /// appended: see ``onCommitted`` for what is durable. Of a standby it may be behind.
    public var state: FleetState? {
        leadership?.coordinator.state ?? standby?.coordinator.state
    }

    // MARK: Roles

    private func lead(
        from warm: Coordinator?, completion: @escaping (Result<UInt64, LogStoreError>) -> Void
    ) {
        let leadership = Leadership(self, warm: warm)
        candidate = leadership
        leadership.start { [self] result in
            guard candidate === leadership else { return }
            candidate = nil
            switch result {
            case .success: self.leadership = leadership
            case .failure: leadership.close()
            }
            completion(result)
        }
        leadership.onLost = { [self, unowned leadership] error in
            guard !isStopped, self.leadership === leadership else { return }
            lost(error)
        }
    }

    private func follow() {
        guard let store = store as? any FollowableLogStore else {
            preconditionFailure("a log that nobody can follow")
        }
        store.onLost = { [self] error in
            if leadership != nil { return lost(error) }
            // Right between the take-over and the first append.
            candidate?.close()
            candidate = nil
            self.standby?.couldNotTakeOver()
        }
        let standby = Standby(self, store: store)
        self.standby = standby
        standby.onTakeOver = { [self, unowned standby] coordinator in
            log.notice("taking over", metadata: ["index": "\(coordinator.state.index)"])
            lead(from: coordinator) { [self] result in
                guard self.standby === standby else { return }
                switch result {
                case .success(let term):
                    standby.close()
                    self.standby = nil
                    // Whoever asked the standby for what it knew finds the leader.
                    edges.closeSessions(.notLeader, reason: "this server leads now")
                    log.notice("leading", metadata: ["term": "\(term)"])
                    onRole(.leader(term: term))
                case .failure(let error):
                    log.notice("not leading", metadata: ["problem": "\(error)"])
                    if error.isFinal { return onFatal(error) }
                    standby.couldNotTakeOver()
                }
            }
        }
        standby.onCorrupt = { [self] error in onFatal(error) }
    }

    private func lost(_ error: LogStoreError) {
        guard store is any FollowableLogStore, !error.isFinal else { return onFatal(error) }
        stepDown(because: "\(error)")
    }

    /// Follows from now on; another server leads, if there is one.
    func stepDown(because reason: String) {
        guard let leadership, !isStopped else { return }
        log.notice("leading no more", metadata: ["because": "\(reason)"])
        self.leadership = nil
        leadership.close()
        edges.closeSessions(.notLeader, reason: reason)
        follow()
        standby?.stepBack()
        onRole(.standby)
    }

    // MARK: Sessions

    /// What a peer that says hello is told; the version is filled in by the session.
    public var helloAccepted: HelloAccepted {
        let leader = leadership == nil ? standby?.writer?.address : group.advertise
        return HelloAccepted(
            version: ProtocolVersion.max, server: identity.name,
            isLeader: leadership != nil,
            term: leadership?.coordinator.state.term ?? standby?.coordinator.state.term ?? 0,
            servers: group.advertise.isEmpty ? [] : group.list(leader: leader),
            software: "fermata \(softwareVersion)")
    }

    /// A session is open. At most one of an agent or a notifier is: a newer one closes the older.
    public func onReady(_ session: any PeerSession) { leadership?.onReady(session) }

    public func onMessage(
        _ message: Message, _ correlation: UInt64, of session: any PeerSession
    ) {
        if let leadership {
            leadership.onMessage(message, correlation, session)
        } else {
            onMessageToStandby(message, correlation, session)
        }
    }

    /// A session for which ``onReady(_:)`` was called is over.
    ///
    /// - Parameter end: nil if its connection ended without a word.
    public func onDown(_ session: any PeerSession, _ end: SessionEnd?) {
        if case .closedByUs(.notPermitted, let reason) = end {
            edges.audit.record(
                AuditEntry(
                    session, .session,
                    .refused(code: CloseCode.notPermitted.counterName, reason: reason))
            ) {}
        }
        leadership?.onDown(session)
    }

    private func onMessageToStandby(
        _ message: Message, _ correlation: UInt64, _ session: any PeerSession
    ) {
        guard case .query(let query, stale: true) = message, let standby else {
            let leader = standby?.writer.map { "\($0.name) at \($0.address)" } ?? "nobody"
            return session.close(.notLeader, reason: "this server does not lead; \(leader) does")
        }
        refusals.answer(standby.answer(query), of: session, correlation: correlation)
    }

    /// Fills in what the state does not know.
    func complete(_ view: inout StatusView) {
        view.store = store.name
        edges.complete(&view)
        view.warnings += store.warnings
    }
}
