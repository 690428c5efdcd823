import Coordination
import Edges
import Fleet
import Logging
import Wire

/// The agents that are connected, one session for each host, and what each was told in it.
///
/// A host counts as connected once its report of this session is committed: only then are its
/// guests and its accepted token known to be what they are now.
final class AgentPeers {
    private final class Peer {
        let session: any PeerSession
        var isReady = false
        /// Directives sent in this session, by step; sent again only if the agent was busy.
        var sent: [StepID: Token] = [:]
        /// Of these the ones whose answer is in the server's log: each answer once, whatever is repeated.
        var logged: [StepID: Token] = [:]
        init(session: any PeerSession) { self.session = session }
    }

    private var peers: [HostID: Peer] = [:]
    private let committer: Committer
    private let refusals: Refusals
    private let loop: any EventLoop
    private let log: Logger
    private let pause: (any PausePoint)?

    /// An agent has said where a step is.
    var onProgress: (StepProgress) -> Void = { _ in }

    private var state: FleetState { committer.coordinator.state }

    init(
        committer: Committer, refusals: Refusals, loop: any EventLoop, log: Logger,
        pause: (any PausePoint)?
    ) {
        self.pause = pause
        self.refusals = refusals
        self.committer = committer
        self.loop = loop
        self.log = log
    }

    /// When the last session of a host that has none now ended, in milliseconds of the loop's clock.
    private var endedAt: [HostID: Int64] = [:]
    /// Those whose peer is ready.
    private(set) var connectedHosts: Set<HostID> = []

    /// Takes a new session; the newer one of a host wins, since the older may be a dead connection.
    func add(_ session: any PeerSession) {
        let host = HostID(checked: session.identity.name)
        // The listener has closed the older session of this host, if there was one.
        log.info("agent connected", metadata: ["host": "\(host)"])
        peers[host] = Peer(session: session)
        connectedHosts.remove(host)
    }

    /// Since when nothing was heard of a host, in milliseconds of the loop's clock.
    ///
    /// - Parameter start: of this term: before, another server may have heard of it.
    /// - Returns: nil while there is a session.
    func silentSince(_ host: HostID, start: Int64) -> Int64? {
        peers[host] == nil ? max(start, endedAt[host] ?? start) : nil
    }

    func remove(_ session: any PeerSession) {
        let host = HostID(checked: session.identity.name)
        guard peers[host]?.session === session else { return }
        peers.removeValue(forKey: host)
        endedAt[host] = loop.nowMilliseconds
        connectedHosts.remove(host)
        log.notice("agent disconnected", metadata: ["host": "\(host)"])
    }

    func onMessage(_ message: Message, correlation: UInt64, of session: any PeerSession) {
        let host = HostID(checked: session.identity.name)
        guard let peer = peers[host], peer.session === session else { return }
        if let (step, token) = message.grant, let owner = state.step(step)?.plan.host, owner != host
        {
            if committer.coordinator.isForOther(step, token, holds: message.holds, host) {
                log.error(
                    "an agent spoke for another host",
                    metadata: ["host": "\(host)", "step": "\(step)", "of": "\(owner)"])
                return session.close(
                    .notPermitted,
                    reason: "\(step) is on host \(owner); the certificate is for host \(host)")
            }
            // An old back-up was restored, and the step has a name that was given again since. What was
            // held is recorded; what goes on there ends by itself.
            guard case .stepReport = message else { return }
        }
        switch message {
        case .hostReport(let report): onReport(report, correlation, peer, host)
        case .directiveAnswer(let step, let token, let answer):
            onAnswer(step, token, answer, peer, host)
        case .stepProgress(let progress):
            // What followers are told must be about a step as they know it.
            guard committer.coordinator.state.step(progress.step)?.token == progress.token
            else { return }
            onProgress(progress)
        case .stepReport(let report): onStepReport(report, correlation, peer, host)
        default:
            session.close(.wrongState, reason: "an agent does not send \(message.kind)")
        }
    }

    private func onReport(_ report: HostReport, _ correlation: UInt64, _ peer: Peer, _ host: HostID)
    {
        guard report.host == host else {
            log.error(
                "an agent spoke for another host",
                metadata: ["host": "\(host)", "claimed": "\(report.host)"])
            peer.session.close(
                .notPermitted, reason: "the certificate is for host \(host), not \(report.host)")
            return
        }
        committer.submit(.reportHost(report)) { [self] result in
            switch result {
            case .success(let committed):
                peer.session.send(
                    .hostReportCommitted(index: committed.index), correlation: correlation)
                if !peer.isReady {
                    peer.isReady = true
                    if peers[host] === peer { connectedHosts.insert(host) }
                    if mutated(.directiveNotRepeated), let id = state.active[host] {
                        peer.sent[id] = state.step(id)?.token
                    }
                    if !mutated(.connectedNotScheduled) { committer.schedule() }
                    sendDirectives()
                }
            case .failure(let refusal):
                refusals.answer(
                    refusal, to: .hostReport, of: peer.session, correlation: correlation)
            }
        }
    }

    private func onAnswer(
        _ step: StepID, _ token: Token, _ answer: DirectiveAnswer, _ peer: Peer, _ host: HostID
    ) {
        let isNews =
            peer.sent[step] == token && peer.logged.updateValue(token, forKey: step) != token
        if isNews { logAnswer(step, token, answer, host) }
        switch answer {
        case .accepted:
            if mutated(.lockFreedOnAccept) {
                submitAnswer(
                    step, token, peer, host, .refused(reason: "the lock goes too early"))
            }
        case .busy:
            // Ask again a little later: what it is busy with ends within its deadline.
            peer.session.workBegan()
            _ = loop.after(.seconds(1)) { [self] in
                peer.sent.removeValue(forKey: step)
                peer.logged.removeValue(forKey: step)
                committer.read { [self] in
                    sendDirectives()
                    peer.session.workEnded()
                }
            }
        case .staleToken, .refused: submitAnswer(step, token, peer, host, answer)
        }
    }

    private func logAnswer(
        _ step: StepID, _ token: Token, _ answer: DirectiveAnswer, _ host: HostID
    ) {
        switch answer {
        case .accepted:
            log.info("directive accepted", metadata: ["step": "\(step)", "host": "\(host)"])
        case .busy(let other):
            log.notice(
                "agent is busy",
                metadata: ["step": "\(step)", "host": "\(host)", "with": "\(other)"])
        case .staleToken(let accepted):
            log.error(
                "directive refused: stale token",
                metadata: [
                    "step": "\(step)", "host": "\(host)", "token": "\(token)",
                    "accepted": "\(accepted)",
                ])
        case .refused(let reason):
            log.notice(
                "directive refused",
                metadata: ["step": "\(step)", "host": "\(host)", "reason": "\(reason)"])
        }
    }

    private func submitAnswer(
        _ step: StepID, _ token: Token, _ peer: Peer, _ host: HostID, _ answer: DirectiveAnswer
    ) {
        committer.submit(
            .answerDirective(step: step, token: token, host: host, answer: answer),
            for: peer.session
        ) { _ in }
    }

    private func onStepReport(
        _ report: StepReport, _ correlation: UInt64, _ peer: Peer, _ host: HostID
    ) {
        pause?.reached("reported", of: host)
        if mutated(.reportAnsweredEarly) {
            peer.session.send(
                .stepReportCommitted(step: report.step, token: report.token),
                correlation: correlation)
        }
        committer.submit(.reportStep(report, host: host)) { [self] result in
            switch result {
            case .success:
                pause?.reached("recorded", of: host)
                log.info(
                    "step finished",
                    metadata: [
                        "step": "\(report.step)", "host": "\(host)",
                        "outcome": "\(report.outcome.rawValue)", "reason": "\(report.reason)",
                    ])
                peer.session.send(
                    .stepReportCommitted(step: report.step, token: report.token),
                    correlation: correlation)
            case .failure(let refusal):
                refusals.answer(
                    refusal, to: .stepReport, of: peer.session, correlation: correlation)
            }
        }
    }

    /// Tells every connected agent what it should be doing and was not told yet. Only called when
    /// the state is durable.
    func sendDirectives() {
        for directive in committer.coordinator.outstandingDirectives() {
            guard let peer = peers[directive.host], peer.isReady,
                peer.sent[directive.step] != directive.token
            else { continue }
            peer.sent[directive.step] = directive.token
            log.info(
                "directive sent",
                metadata: [
                    "step": "\(directive.step)", "host": "\(directive.host)",
                    "token": "\(directive.token)",
                ])
            peer.session.send(.directive(directive), correlation: directive.token.number)
            pause?.reached("directed", of: directive.host)
        }
    }
}

extension Message {
    /// The step that an agent's message is about, and by which token.
    fileprivate var grant: (StepID, Token)? {
        switch self {
        case .directiveAnswer(let step, let token, _): (step, token)
        case .stepProgress(let progress): (progress.step, progress.token)
        case .stepReport(let report): (report.step, report.token)
        default: nil
        }
    }

    fileprivate var holds: [HoldRecord] {
        if case .stepReport(let report) = self { report.holds } else { [] }
    }
}
