// A server: listens, lets peers in, and either leads or follows.
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
// Failure modes: the embedded log cannot be opened or written → `onFatal`, the process ends, and the
// next start goes on from the log; the etcd log is lost, or another server leads → every session is
// closed with NOT_LEADER and this server follows; the port is taken → `start` fails; a peer misbehaves
// → its session is closed with a code and counted. Holds never depend on this process.

import Coordination
public import Fleet
public import LogCore
public import LogStore
public import Logging
import SessionCore
public import SessionShell
public import UvLoop
public import Wire

public enum LeaderError: Error, Hashable, Sendable, CustomStringConvertible {
    case log(LogStoreError)
    case cannotListen(address: String, UvError)

    public var description: String {
        switch self {
        case .log(let error): "\(error)"
        case .cannotListen(let address, let error):
            error.name == "EADDRINUSE"
                ? "port in use: another process listens on \(address); stop it or give --listen"
                : "cannot listen on \(address): \(error)"
        }
    }
}

/// Where several servers find each other.
public struct ServerGroup: Hashable, Sendable {
    /// `host:port` where agents, people and other servers reach this one.
    public var advertise: String
    /// The same of the others.
    public var peers: [String]
    public init(advertise: String, peers: [String]) {
        self.advertise = advertise
        self.peers = peers
    }
    /// One that is alone.
    public static let alone = ServerGroup(advertise: "", peers: [])

    /// The leader first, if it is known.
    func list(leader: String?) -> [String] {
        var result: [String] = []
        for server in [leader ?? ""] + [advertise] + peers
        where !server.isEmpty && !result.contains(server) {
            result.append(server)
        }
        return result
    }
}

public final class LeaderShell {
    public enum ServerRole: Hashable, Sendable {
        case leader(term: UInt64)
        case standby
    }

    private(set) var credentials: Credentials
    let softwareVersion: String
    let loop: Loop
    let log: Logger
    let group: ServerGroup
    let store: any LogStore
    let snapshotFactsInterval: UInt64
    let tally = Tally()
    let audit: AuditLog
    let pause: TestPause
    private let listenAddress: SocketAddress
    private let bounds: ConnectionGate.Bounds
    private(set) var listener: SessionListener?
    private var leadership: Leadership?
    /// Not yet: its term is not durable.
    private var candidate: Leadership?
    private var standby: Standby?
    private var isStopped = false

    /// The embedded log cannot be written any more: the process must end, and may start again.
    public var onFatal: (LeaderError) -> Void = { _ in }
    /// This server leads from now on, or follows. Not called for what ``start(completion:)`` says.
    public var onRole: (ServerRole) -> Void = { _ in }

    /// - Parameters:
    ///   - bounds: how many connections are let in.
    ///   - auditPath: file that gets a line for each command of an operator; nil for none.
    ///   - group: the other servers; only of use with a log that several can read.
    ///   - pauseAt: see ``UvLoop/TestPause``.
    public init(
        credentials: Credentials, listen: SocketAddress, store: any LogStore,
        softwareVersion: String, loop: Loop, log: Logger,
        snapshotFactsInterval: UInt64 = Limits.snapshotFactsInterval,
        bounds: ConnectionGate.Bounds = ConnectionGate.Bounds(), auditPath: String? = nil,
        group: ServerGroup = .alone, pauseAt: String? = nil
    ) {
        self.credentials = credentials
        listenAddress = listen
        self.softwareVersion = softwareVersion
        self.loop = loop
        self.log = log
        self.bounds = bounds
        self.store = store
        self.snapshotFactsInterval = snapshotFactsInterval
        self.group = group
        pause = TestPause(pauseAt)
        audit = AuditLog(path: auditPath, loop: loop, log: log, tally: tally)
    }

    /// Listens, and leads: at once with an embedded log, else when there is no other leader.
    ///
    /// - Parameter completion: the address listened on, and the term if this server leads already.
    public func start(
        completion: @escaping (Result<(address: SocketAddress, term: UInt64?), LeaderError>) -> Void
    ) {
        guard store is any FollowableLogStore else {
            return lead(from: nil) { [self] result in
                switch result {
                case .failure(let error): completion(.failure(.log(error)))
                case .success(let term): listenFirst(term, completion)
                }
            }
        }
        loop.soon { [self] in
            listenFirst(nil) { [self] result in
                if case .success = result { follow() }
                completion(result)
            }
        }
    }

    private func listenFirst(
        _ term: UInt64?,
        _ completion: (Result<(address: SocketAddress, term: UInt64?), LeaderError>) -> Void
    ) {
        do throws(UvError) {
            let address = try listen()
            log.info(
                "listening",
                metadata: ["address": "\(address)", "term": "\(term.map { "\($0)" } ?? "none")"])
            completion(.success((address, term)))
        } catch {
            leadership?.close()
            store.close()
            completion(.failure(.cannotListen(address: "\(listenAddress)", error)))
        }
    }

    /// Uses these from now on; sessions of those whose certificate they revoke are closed.
    public func use(_ credentials: Credentials) {
        self.credentials = credentials
        listener?.use(credentials)
        standby?.use(credentials)
    }

    /// Stops listening and ends every session; what is committed is safe. The other servers take over
    /// at once.
    public func stop() {
        isStopped = true
        listener?.close(.shuttingDown, reason: "the server is shutting down")
        leadership?.close()
        candidate?.close()
        candidate = nil
        standby?.close()
        store.close()
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
                    listener?.closeSessions(.notLeader, reason: "this server leads now")
                    log.notice("leading", metadata: ["term": "\(term)"])
                    onRole(.leader(term: term))
                case .failure(let error):
                    log.notice("not leading", metadata: ["problem": "\(error)"])
                    if error.isFinal { return onFatal(.log(error)) }
                    standby.couldNotTakeOver()
                }
            }
        }
        standby.onCorrupt = { [self] error in onFatal(.log(error)) }
    }

    private func lost(_ error: LogStoreError) {
        guard store is any FollowableLogStore, !error.isFinal else {
            return onFatal(.log(error))
        }
        stepDown(because: "\(error)")
    }

    /// Follows from now on; another server leads, if there is one.
    func stepDown(because reason: String) {
        guard let leadership, !isStopped else { return }
        log.notice("leading no more", metadata: ["because": "\(reason)"])
        self.leadership = nil
        leadership.close()
        listener?.closeSessions(.notLeader, reason: reason)
        follow()
        standby?.stepBack()
        onRole(.standby)
    }

    // MARK: Sessions

    /// What a peer that says hello is told.
    private var accepted: HelloAccepted {
        let leader = leadership == nil ? standby?.writer?.address : group.advertise
        return HelloAccepted(
            version: ProtocolVersion.max, server: credentials.identity.name,
            isLeader: leadership != nil,
            term: leadership?.coordinator.state.term ?? standby?.coordinator.state.term ?? 0,
            servers: group.advertise.isEmpty ? [] : group.list(leader: leader),
            software: "fermata \(softwareVersion)")
    }

    private func listen() throws(UvError) -> SocketAddress {
        let listener = try SessionListener(
            on: loop, address: listenAddress, credentials: credentials, logger: log,
            bounds: bounds, tally: tally)
        self.listener = listener
        listener.onHello = { [unowned self] _, _ in .accept(accepted) }
        listener.onReady = { [unowned self] session in leadership?.onReady(session) }
        listener.onMessage = { [unowned self] session, message, correlation in
            if let leadership {
                leadership.onMessage(message, correlation, session)
            } else {
                onMessageToStandby(message, correlation, session)
            }
        }
        listener.onDown = { [unowned self] session, end in
            if case .session(.closedByUs(.notPermitted, let reason)) = end {
                audit.record(
                    AuditLog.Asker(session), ["command": "session"],
                    .refused(code: CloseCode.notPermitted.counterName, reason: reason))
            }
            leadership?.onDown(session)
        }
        return listener.address
    }

    private func onMessageToStandby(
        _ message: Message, _ correlation: UInt64, _ session: ServerSession
    ) {
        guard case .query(let query, stale: true) = message, let standby else {
            let leader = standby?.writer.map { "\($0.name) at \($0.address)" } ?? "nobody"
            return session.close(.notLeader, reason: "this server does not lead; \(leader) does")
        }
        switch standby.answer(query) {
        case .success(let result): session.send(.queryResult(result), correlation: correlation)
        case .failure(let refusal): session.send(.refused(refusal), correlation: correlation)
        }
    }
}
