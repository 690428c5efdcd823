// What a server does while it leads: agents, operators and notifiers are served, and every command goes
// through the committer.
//
// Failure modes: the log is lost → `onLost`, once; the owner drops this object, whose state may be
// ahead of the log.

import Coordination
import Fleet
import LogCore
import Logging
import Wire

final class Leadership {
    private unowned let server: ServerCore
    private let startedAt: Int64
    private let committer: Committer
    private let agents: AgentPeers
    private let followers: Followers
    private let deliveries: DeliveryClaims
    private var log: Logger { server.log }

    /// The log cannot be written any more, at least not by this server.
    var onLost: (LogStoreError) -> Void = { _ in }
    var coordinator: Coordinator { committer.coordinator }

    /// - Parameter warm: what the server knows of the log already; nil for nothing.
    init(_ server: ServerCore, warm: Coordinator?) {
        self.server = server
        startedAt = server.loop.nowMilliseconds
        committer = Committer(
            store: server.store, snapshotFactsInterval: server.snapshotFactsInterval,
            loop: server.loop, log: server.log, warm: warm, pause: server.pause)
        agents = AgentPeers(
            committer: committer, refusals: server.refusals, loop: server.loop, log: server.log,
            pause: server.pause)
        followers = Followers(server.loop)
        deliveries = DeliveryClaims(
            committer: committer, refusals: server.refusals, loop: server.loop, log: server.log)
        committer.connectedHosts = { [agents] in agents.connectedHosts }
        committer.onDurable = { [unowned self] facts, firstIndex in
            self.server.onCommitted(facts, firstIndex, coordinator.state)
        }
        committer.onCommitted = { [unowned self] in
            followers.sendNew(committer.coordinator.state)
            agents.sendDirectives()
            deliveries.sendNew()
        }
        committer.onFatal = { [unowned self] error in onLost(error) }
        followers.onSlow = { [unowned self] in
            committer.read { [unowned self] in followers.sendNew(coordinator.state) }
        }
        agents.onProgress = { [followers] in followers.sendProgress($0) }
    }

    /// Takes the log over and starts a term.
    ///
    /// - Parameter completion: the term, once it is durable.
    func start(completion: @escaping (Result<UInt64, LogStoreError>) -> Void) {
        let writer = LogWriter(
            name: server.identity.name, address: server.group.advertise)
        committer.start(writer, completion: completion)
    }

    /// After this nothing is committed or answered.
    func close() {
        committer.close()
        followers.close()
        deliveries.close()
        // It holds the server.
        onLost = { _ in }
    }

    // MARK: Sessions

    func onReady(_ session: any PeerSession) {
        switch session.identity.role {
        case .agent: agents.add(session)
        case .notifier: deliveries.add(session)
        case .operator, .server: break
        }
    }

    func onDown(_ session: any PeerSession) {
        switch session.identity.role {
        case .agent: agents.remove(session)
        case .notifier: deliveries.remove(session)
        case .operator, .server: break
        }
        followers.remove(session)
    }

    func onMessage(_ message: Message, _ correlation: UInt64, _ session: any PeerSession) {
        if session.identity.role == .agent {
            agents.onMessage(message, correlation: correlation, of: session)
        } else {
            onClientMessage(message, correlation, session)
        }
    }

    private func onClientMessage(
        _ message: Message, _ correlation: UInt64, _ session: any PeerSession
    ) {
        switch message {
        case .command(let command):
            if session.identity.role == .notifier, !command.isForNotifiers {
                return session.close(
                    .notPermitted, reason: "a notifier may acknowledge notices only")
            }
            onCommand(command, correlation, session)
        case .query(let query, _):
            committer.read { [self] in
                server.refusals.answer(answer(query), of: session, correlation: correlation)
            }
        case .followEvents(let sequence, let progress):
            if mutated(.eventBeforeCommit) {
                return followers.add(
                    session, correlation: correlation, after: sequence, progress: progress,
                    state: committer.coordinator.state)
            }
            committer.read(for: session) { [self] in
                guard session.isReady else { return }
                followers.add(
                    session, correlation: correlation, after: sequence, progress: progress,
                    state: committer.coordinator.state)
            }
        case .acknowledgeEvents(let sequence):
            let name = session.identity.name
            committer.submit(.acknowledgeEvents(notifier: name, sequence: sequence), for: session) {
                [server] result in
                if case .failure(let refusal) = result {
                    server.refusals.answer(
                        refusal, to: .acknowledgeEvents, of: session, correlation: correlation)
                }
            }
        case .claimDeliveries: deliveries.claim(session, correlation: correlation)
        case .giveUpDeliveries: deliveries.giveUp(session)
        case .reportDelivered(let number, let sink, let sequence):
            deliveries.report(number, sink, sequence, correlation: correlation, of: session)
        default:
            session.close(.wrongState, reason: "\(message.kind) is not expected here")
        }
    }

    // MARK: Operators

    private func onCommand(
        _ command: OperatorCommand, _ correlation: UInt64, _ session: any PeerSession
    ) {
        let by = session.identity.name
        if let refusal = refusalWhileAtWork(command) ?? refusalWhileConnected(command) {
            refuse(refusal, command, correlation, session)
            return
        }
        guard let wanted = self.command(command, by: by) else {
            return onStepDown(correlation, session)
        }
        committer.submit(wanted) { [self] result in
            switch result {
            case .success(let committed):
                log.notice(
                    "command accepted",
                    metadata: [
                        "by": "\(by)", "command": "\(AuditEntry.Subject.command(command).words)",
                    ])
                let started = committed.facts.compactMap { fact in
                    if case .rolloutStarted(let started) = fact.body { started.id } else { nil }
                }
                server.edges.count("commands_accepted", "")
                server.edges.audit.record(
                    AuditEntry(
                        session, .command(command),
                        .accepted(index: committed.index, rollout: started.first))
                ) {
                    session.send(
                        .commandAccepted(index: committed.index, rollout: started.first),
                        correlation: correlation)
                }
            case .failure(let refusal): refuse(refusal, command, correlation, session)
            }
        }
    }

    /// Answers first: the session ends with the leadership.
    private func onStepDown(_ correlation: UInt64, _ session: any PeerSession) {
        guard server.store is any FollowableLogStore else {
            let refusal = Refusal(
                .notSupported, "no other server can read the log in \(server.store.name)",
                advice: "Several servers need a log in etcd: see --store.")
            return refuse(refusal, .stepDown, correlation, session)
        }
        committer.read { [self] in
            let index = coordinator.state.index
            server.edges.count("commands_accepted", "")
            server.edges.audit.record(
                AuditEntry(session, .command(.stepDown), .accepted(index: index, rollout: nil))
            ) { [server] in
                session.send(
                    .commandAccepted(index: index, rollout: nil), correlation: correlation)
                server.stepDown(because: "\(session.identity.name) wants another server to lead")
            }
        }
    }

    private func refuse(
        _ refusal: Refusal, _ command: OperatorCommand, _ correlation: UInt64,
        _ session: any PeerSession
    ) {
        server.edges.count("commands_refused", refusal.code.rawValue)
        log.notice(
            "command refused",
            metadata: [
                "by": "\(session.identity.name)", "code": "\(refusal.code.rawValue)",
                "reason": "\(refusal.message)",
                "command": "\(AuditEntry.Subject.command(command).words)",
            ])
        server.edges.audit.record(
            AuditEntry(
                session, .command(command),
                .refused(code: refusal.code.rawValue, reason: refusal.message))
        ) { session.send(.refused(refusal), correlation: correlation) }
    }

    /// A set whose step is still being worked on by a connected agent opens by itself: opening it by
    /// hand would put two update domains out at once.
    /// Nor is a set opened whose host has only just fallen silent: it may be at work, and come back.
    private func refusalWhileAtWork(_ command: OperatorCommand) -> Refusal? {
        guard case .releaseLock(let set, _) = command else { return nil }
        let now = server.loop.nowMilliseconds
        let atWork = committer.coordinator.lockViews().filter { $0.set == set && !$0.stuck }
        for lock in atWork {
            guard let since = agents.silentSince(lock.host, start: startedAt) else {
                return Refusal(
                    .conflict,
                    "availability set \(set) is locked by \(lock.step) on host \(lock.host), which is at work",
                    advice: "Wait for it: a hold ends by itself within its deadline.")
            }
            let left = Limits.lockReleaseMillisecondsMin - (now - since)
            guard left > 0 else { continue }
            return Refusal(
                .conflict,
                "availability set \(set) is locked by \(lock.step) on host \(lock.host), which may be at "
                    + "work: nothing was heard of it only since \((now - since) / 1_000) s",
                advice: "Wait for the host, or try again in \(left / 1_000 + 1) s.")
        }
        return nil
    }

    /// A notifier that lives would be back with its next acknowledgement, and by then miss what has been
    /// dropped. A new leader cannot yet know which of them live.
    private func refusalWhileConnected(_ command: OperatorCommand) -> Refusal? {
        guard case .forgetNotifier(let notifier, _) = command,
            coordinator.state.notifiers[notifier.rawValue] != nil
        else { return nil }
        guard !deliveries.connectedNotifiers.contains(notifier.rawValue) else {
            return Refusal(
                .conflict, "notifier \(notifier) is connected",
                advice: "Stop it first; it must not come back.")
        }
        let age = server.loop.nowMilliseconds - startedAt
        let left = Limits.notifierReturnMilliseconds - age
        guard left > 0 else { return nil }
        return Refusal(
            .conflict,
            "notifier \(notifier) may be about to come back: this server leads only since "
                + "\(age / 1_000) s",
            advice: "Try again in \(left / 1_000 + 1) s.")
    }

    /// - Returns: nil for what is no change of the state.
    private func command(_ command: OperatorCommand, by: String) -> Command? {
        switch command {
        case .stepDown: nil
        case .addRelease(let release): .addRelease(release, by: by)
        case .startRollout(let release, let selection, let policy):
            .startRollout(release: release, selection: selection, policy: policy, by: by)
        case .abortRollout(let id, let reason): .abortRollout(id, reason: reason, by: by)
        case .pauseRollout(let id, let reason): .pauseRollout(id, reason: reason, by: by)
        case .resumeRollout(let id, let reason): .resumeRollout(id, reason: reason, by: by)
        case .cordonHost(let host, let reason): .cordonHost(host, reason: reason, by: by)
        case .uncordonHost(let host, let reason): .uncordonHost(host, reason: reason, by: by)
        case .releaseLock(let set, let reason): .releaseLock(set, reason: reason, by: by)
        case .forgetNotifier(let notifier, let reason):
            .forgetNotifier(notifier.rawValue, reason: reason, by: by)
        case .acknowledgeNotice(let step, let guest, let noticedAt):
            .acknowledgeNotice(step, guest: guest, noticedAt: noticedAt)
        }
    }

    private func answer(_ query: OperatorQuery) -> Result<OperatorQueryResult, Refusal> {
        let connected = agents.connectedHosts
        switch query {
        case .status:
            var view = coordinator.statusView(
                cluster: server.identity.cluster,
                server: server.identity.name,
                softwareVersion: server.softwareVersion, connected: connected,
                notifiers: deliveries.connectedNotifiers)
            view.leader = view.server
            server.complete(&view)
            return .success(.status(view))
        default: return coordinator.answer(query, connected: connected)
        }
    }
}

extension OperatorCommand {
    /// Whether a notifier may ask for it, on behalf of a guest.
    fileprivate var isForNotifiers: Bool {
        if case .acknowledgeNotice = self { true } else { false }
    }
}
