// A server: listens, lets peers in, and carries out what the coordinator decides.
//
// Happy path: open the log → start a term → listen → for each session by role: agents report and get
// directives, operators command and ask, notifiers follow events.
//
// Failure modes: the log cannot be opened or written → `onFatal`, the process ends, and the next start
// goes on from the log; the port is taken → `start` fails; a peer misbehaves → its session is closed
// with a code and counted. Holds never depend on this process.

import Coordination
public import Fleet
public import LogStore
public import Logging
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

public final class LeaderShell {
    private(set) var credentials: Credentials
    private let listenAddress: SocketAddress
    private let softwareVersion: String
    private let loop: Loop
    private let log: Logger
    private let committer: Committer
    private let agents: AgentPeers
    private let followers = Followers()
    private let bounds: ConnectionGate.Bounds
    let tally = Tally()
    private let audit: AuditLog
    private(set) var listener: SessionListener?

    /// The log cannot be written any more: the process must end, and may start again.
    public var onFatal: (LeaderError) -> Void = { _ in }

    /// - Parameters:
    ///   - bounds: how many connections are let in.
    ///   - auditPath: file that gets a line for each command of an operator; nil for none.
    public init(
        credentials: Credentials, listen: SocketAddress, store: any LogStore,
        softwareVersion: String, loop: Loop, log: Logger,
        snapshotFactsInterval: UInt64 = Limits.snapshotFactsInterval,
        bounds: ConnectionGate.Bounds = ConnectionGate.Bounds(), auditPath: String? = nil
    ) {
        self.credentials = credentials
        listenAddress = listen
        self.softwareVersion = softwareVersion
        self.loop = loop
        self.log = log
        self.bounds = bounds
        audit = AuditLog(path: auditPath, loop: loop, log: log, tally: tally)
        committer = Committer(
            store: store, snapshotFactsInterval: snapshotFactsInterval, loop: loop, log: log)
        agents = AgentPeers(committer: committer, loop: loop, log: log)
        committer.connectedHosts = { [agents] in agents.connectedHosts }
        committer.onCommitted = { [self] in
            followers.sendNew(committer.coordinator.state)
            agents.sendDirectives()
        }
        committer.onFatal = { [self] error in onFatal(.log(error)) }
        agents.onProgress = { [followers] in followers.sendProgress($0) }
    }

    /// Loads the log, starts a term and listens.
    ///
    /// - Parameter completion: the address listened on and the term.
    public func start(
        completion: @escaping (Result<(address: SocketAddress, term: UInt64), LeaderError>) -> Void
    ) {
        committer.start(server: credentials.identity.name) { [self] result in
            switch result {
            case .failure(let error):
                completion(.failure(.log(error)))
            case .success(let term):
                do throws(UvError) {
                    let address = try listen()
                    log.info("listening", metadata: ["address": "\(address)", "term": "\(term)"])
                    completion(.success((address, term)))
                } catch {
                    committer.close()
                    completion(
                        .failure(.cannotListen(address: "\(listenAddress)", error)))
                }
            }
        }
    }

    /// Uses these from now on; sessions of those whose certificate they revoke are closed.
    public func use(_ credentials: Credentials) {
        self.credentials = credentials
        listener?.use(credentials)
    }

    private func listen() throws(UvError) -> SocketAddress {
        let listener = try SessionListener(
            on: loop, address: listenAddress, credentials: credentials, logger: log,
            bounds: bounds, tally: tally)
        self.listener = listener
        listener.onHello = { [unowned self] _, _ in
            .accept(
                HelloAccepted(
                    version: ProtocolVersion.max, server: credentials.identity.name,
                    isLeader: true, term: committer.coordinator.state.term, servers: [],
                    software: "fermata \(softwareVersion)"))
        }
        listener.onReady = { [unowned self] session in
            if session.identity.role == .agent { agents.add(session) }
        }
        listener.onMessage = { [unowned self] session, message, correlation in
            if session.identity.role == .agent {
                agents.onMessage(message, correlation: correlation, of: session)
            } else {
                onClientMessage(message, correlation, session)
            }
        }
        listener.onDown = { [unowned self] session, end in
            if case .session(.closedByUs(.notPermitted, let reason)) = end {
                audit.record(
                    AuditLog.Asker(session), ["command": "session"],
                    .refused(code: CloseCode.notPermitted.counterName, reason: reason))
            }
            if session.identity.role == .agent { agents.remove(session) }
            followers.remove(session)
        }
        return listener.address
    }

    /// Stops listening and ends every session; what is committed is safe.
    public func stop() {
        listener?.close(.shuttingDown, reason: "the server is shutting down")
        committer.close()
    }

    private func onClientMessage(
        _ message: Message, _ correlation: UInt64, _ session: ServerSession
    ) {
        switch message {
        case .command(let command):
            onCommand(command, correlation, session)
        case .query(let query):
            committer.read { [self] in
                switch answer(query) {
                case .success(let result):
                    session.send(.queryResult(result), correlation: correlation)
                case .failure(let refusal):
                    session.send(.refused(refusal), correlation: correlation)
                }
            }
        case .followEvents(let sequence, let progress):
            committer.read { [self] in
                guard session.isReady else { return }
                followers.add(
                    session, correlation: correlation, after: sequence, progress: progress,
                    state: committer.coordinator.state)
            }
        case .acknowledgeEvents(let sequence):
            let name = session.identity.name
            committer.submit(.acknowledgeEvents(notifier: name, sequence: sequence)) {
                [log] result in
                if case .failure(let refusal) = result {
                    log.error(
                        "acknowledgement refused", metadata: ["reason": "\(refusal.message)"])
                    session.send(.refused(refusal), correlation: correlation)
                }
            }
        default:
            session.close(.wrongState, reason: "\(message.kind) is not expected here")
        }
    }

    // MARK: Operators

    private func onCommand(
        _ command: OperatorCommand, _ correlation: UInt64, _ session: ServerSession
    ) {
        let by = session.identity.name
        if let refusal = refusalWhileAtWork(command) {
            refuse(refusal, command, correlation, session)
            return
        }
        committer.submit(self.command(command, by: by)) { [self] result in
            switch result {
            case .success(let committed):
                log.notice(
                    "command accepted", metadata: ["by": "\(by)", "command": "\(command)"])
                let started = committed.facts.compactMap { fact in
                    if case .rolloutStarted(let started) = fact.body { started.id } else { nil }
                }
                tally.count("commands_accepted")
                audit.record(
                    AuditLog.Asker(session), command.auditJSON,
                    .accepted(index: committed.index, rollout: started.first)
                ) {
                    session.send(
                        .commandAccepted(index: committed.index, rollout: started.first),
                        correlation: correlation)
                }
            case .failure(let refusal): refuse(refusal, command, correlation, session)
            }
        }
    }

    private func refuse(
        _ refusal: Refusal, _ command: OperatorCommand, _ correlation: UInt64,
        _ session: ServerSession
    ) {
        tally.count("commands_refused", refusal.code.rawValue)
        log.notice(
            "command refused",
            metadata: [
                "by": "\(session.identity.name)", "code": "\(refusal.code.rawValue)",
                "reason": "\(refusal.message)", "command": "\(command)",
            ])
        audit.record(
            AuditLog.Asker(session), command.auditJSON,
            .refused(code: refusal.code.rawValue, reason: refusal.message)
        ) { session.send(.refused(refusal), correlation: correlation) }
    }

    /// A set whose step is still being worked on by a connected agent opens by itself: opening it by
    /// hand would put two update domains out at once.
    private func refusalWhileAtWork(_ command: OperatorCommand) -> Refusal? {
        guard case .releaseLock(let set, _) = command else { return nil }
        let connected = agents.connectedHosts
        let busy = committer.coordinator.lockViews().first {
            $0.set == set && !$0.stuck && connected.contains($0.host)
        }
        return busy.map {
            Refusal(
                .conflict,
                "availability set \(set) is locked by \($0.step) on host \($0.host), which is at work",
                advice: "Wait for it: a hold ends by itself within its deadline.")
        }
    }

    private func command(_ command: OperatorCommand, by: String) -> Command {
        switch command {
        case .addRelease(let release): .addRelease(release, by: by)
        case .startRollout(let release, let selection, let policy):
            .startRollout(release: release, selection: selection, policy: policy, by: by)
        case .abortRollout(let id, let reason): .abortRollout(id, reason: reason, by: by)
        case .releaseLock(let set, let reason): .releaseLock(set, reason: reason, by: by)
        }
    }

    private func answer(_ query: OperatorQuery) -> Result<OperatorQueryResult, Refusal> {
        let coordinator = committer.coordinator
        let connected = agents.connectedHosts
        switch query {
        case .status:
            var view = coordinator.statusView(
                cluster: credentials.identity.cluster, server: credentials.identity.name,
                softwareVersion: softwareVersion, connected: connected)
            view.traffic = traffic
            view.warnings += certificateWarnings
            return .success(.status(view))
        case .hosts: return .success(.hosts(coordinator.hostViews(connected: connected)))
        case .guests: return .success(.guests(coordinator.guestViews(connected: connected)))
        case .sets: return .success(.sets(coordinator.setViews()))
        case .locks: return .success(.locks(coordinator.lockViews()))
        case .releases: return .success(.releases(coordinator.releaseViews()))
        case .rollouts: return .success(.rollouts(coordinator.rolloutViews()))
        case .rollout(let id):
            guard let view = coordinator.rolloutView(id, connected: connected) else {
                return .failure(
                    Refusal(
                        .notFound, "there is no \(id)", advice: "See `fermata rollout list`."))
            }
            return .success(.rollout(view))
        case .plan(let release, let selection, let policy):
            return coordinator.planView(release, selection, policy, connected: connected)
                .map { .plan($0) }
        }
    }
}
