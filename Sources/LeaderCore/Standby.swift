// A server that does not lead: follows the log, keeps the state warm, watches the leader over the wire,
// and says when to take over. When is decided by `Succession`.
//
// Failure modes: the log cannot be read → it is tried again by the store, and no take-over until then;
// a record that cannot be read → onCorrupt: another version wrote it, or the log is damaged.

import Coordination
import Edges
import Fleet
import LogCore
import Logging
import Wire

final class Standby {
    private unowned let server: ServerCore
    private let store: any FollowableLogStore
    private(set) var coordinator = Coordinator()
    /// Who leads, as the log says.
    private(set) var writer: LogWriter?
    /// Called when this server should lead, with what it knows. Then nothing is done until
    /// ``couldNotTakeOver()`` or ``close()``.
    var onTakeOver: (Coordinator) -> Void = { _ in }
    var onCorrupt: (LogStoreError) -> Void = { _ in }

    private var succession: Succession
    private var watch: (any LeaderWatch)?
    private var timer: (any LoopTimer)?
    private var isTakingOver = false
    private var isOver = false
    private var problem: String?
    private var log: Logger { server.log }

    init(_ server: ServerCore, store: any FollowableLogStore) {
        self.server = server
        self.store = store
        succession = Succession(
            name: server.identity.name,
            rank: Self.rank(in: server.group, after: nil),
            jitterMilliseconds: server.loop.random(in: 0...50), at: server.loop.nowMilliseconds)
        follow()
    }

    /// The order of the addresses is the same on all servers; the leader's own does not count.
    private static func rank(in group: ServerGroup, after writer: LogWriter?) -> Int {
        let others = group.list(leader: nil).sorted().filter { $0 != writer?.address }
        return others.firstIndex(of: group.advertise) ?? 0
    }

    func close() {
        isOver = true
        timer?.cancel()
        watch?.stop("this server leads, or ends")
        watch = nil
    }

    func couldNotTakeOver() {
        isTakingOver = false
        succession.stepsBack(at: now)
        if !store.isFollowing { follow() }
        plan()
    }

    private func follow() { store.follow { [weak self] in self?.onUpdate($0) } }

    /// This server has just led: others go first.
    func stepBack() {
        succession.stepsBack(at: now)
        plan()
    }

    private var now: Int64 { server.loop.nowMilliseconds }

    // MARK: The log

    private func onUpdate(_ update: LogUpdate) {
        guard !isOver else { return }
        switch update {
        case .loaded(let snapshot, let records):
            read {
                coordinator = Coordinator()
                try coordinator.load(snapshot, records)
            }
            log.info("following the log", metadata: ["index": "\(coordinator.state.index)"])
            succession.sawLog(at: now)
            problem = nil
        case .appended(let records, let firstIndex):
            // While this server takes over, what is missing comes with the log itself.
            guard firstIndex == coordinator.state.index + 1 else {
                if !isTakingOver { follow() }
                return
            }
            let inOrder = mutated(.standbyAppliesBackwards) ? records.reversed() : records
            read { try coordinator.load(nil, inOrder) }
            succession.sawLog(at: now)
            problem = nil
        case .writer(let writer, let epoch):
            let isNew = writer != self.writer
            self.writer = writer
            succession.take(rank: Self.rank(in: server.group, after: writer))
            succession.sawWriter(writer.name, epoch: epoch, at: now)
            if isNew { watchLeader() }
        case .alive: succession.sawLife(at: now)
        case .interrupted(let error):
            if error.isFinal {
                close()
                return onCorrupt(error)
            }
            if problem == nil {
                log.warning("the log cannot be read", metadata: ["problem": "\(error)"])
            }
            problem = "\(error)"
            succession.lostLog()
        }
        plan()
    }

    private func read(_ body: () throws -> Void) {
        do {
            try body()
        } catch {
            close()
            onCorrupt(.corrupt(path: server.store.name, reason: "\(error)"))
        }
    }

    // MARK: The leader

    private func watchLeader() {
        watch?.stop("another server leads")
        watch = nil
        guard let writer, !writer.address.isEmpty, writer.address != server.group.advertise
        else { return }
        let watch = server.edges.watch(writer.address)
        self.watch = watch
        // Every moment without a leader is one in which nothing is granted.
        watch.isUrgent = { true }
        watch.followsHints = false
        watch.onReady = { [unowned self] accepted in
            guard accepted.server == writer.name else { return }
            succession.sessionOpened(at: now)
            plan()
        }
        watch.whenDown { [unowned self] down in
            switch (down.wasReady, down.reason) {
            case (true, .handedOver): succession.sessionEnded(.handedOver, at: now)
            case (true, _): succession.sessionEnded(.broken, at: now)
            case (false, .refused): succession.connectionRefused(at: now)
            case (false, _): break
            }
            if down.hasGivenUp { rewatch(down.problem) }
            plan()
        }
        watch.start()
    }

    /// Certificates may be mended while this server runs.
    private func rewatch(_ problem: String) {
        log.error("the leader cannot be watched", metadata: ["problem": "\(problem)"])
        _ = server.loop.after(.seconds(5)) { [weak self] in
            guard let self, !isOver else { return }
            watch?.start()
        }
    }

    // MARK: Taking over

    private func plan() {
        timer?.cancel()
        timer = nil
        guard !isTakingOver, !isOver, let at = succession.takesOverAt() else { return }
        timer = server.loop.after(.milliseconds(max(0, at - now))) { [weak self] in
            guard let self, !isOver, !isTakingOver else { return }
            timer = nil
            // A timer may be early by a millisecond; a sign may have come meanwhile.
            guard let at = succession.takesOverAt() else { return }
            guard at <= now else { return plan() }
            isTakingOver = true
            store.deposesTheLiving = succession.isVacant
            onTakeOver(coordinator)
        }
    }

    // MARK: Questions

    func answer(_ query: OperatorQuery) -> Result<OperatorQueryResult, Refusal> {
        switch query {
        case .plan:
            return .failure(
                Refusal(
                    .notSupported, "only the leader knows which hosts are connected",
                    advice: "Ask without --stale."))
        case .status:
            var view = coordinator.statusView(
                cluster: server.identity.cluster,
                server: server.identity.name,
                softwareVersion: server.softwareVersion,
                connected: Set(coordinator.state.hosts.keys), notifiers: nil)
            view.connectedHostCount = 0
            view.isStandby = true
            view.leader = writer?.name ?? ""
            if let problem { view.warnings.append("this standby is behind: \(problem)") }
            server.complete(&view)
            return .success(.status(view))
        default: return coordinator.answer(query, connected: [])
        }
    }
}
