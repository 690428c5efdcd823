import Edges
public import EtcdLog

/// One server's way to a ``SimulatedEtcd``: asks member after member, as the gateway of a real one is
/// asked.
public final class SimulatedEtcdAccess: EtcdAccess {
    private let etcd: SimulatedEtcd
    private let server: String
    private let loop: any EventLoop
    private let members: EtcdMembers

    init(_ etcd: SimulatedEtcd, _ server: String, _ loop: any EventLoop, _ limit: Duration) {
        self.etcd = etcd
        self.server = server
        self.loop = loop
        members = EtcdMembers(count: etcd.memberCount, limit: limit, on: loop) {
            loop.nowMilliseconds * 1_000
        }
    }

    public func transaction(
        _ transaction: EtcdTransaction,
        _ completion: @escaping (Result<EtcdTransactionAnswer, EtcdFailure>) -> Void
    ) {
        ask(.transaction(transaction), { $0.transaction(transaction) }, completion)
    }

    public func range(
        _ operation: EtcdOperation, revision: Int64,
        _ completion: @escaping (Result<EtcdRange, EtcdFailure>) -> Void
    ) {
        ask(
            .range(operation, revision: revision), { $0.range(operation, revision) }, completion)
    }

    public func compact(
        _ revision: Int64, _ completion: @escaping (Result<Void, EtcdFailure>) -> Void
    ) {
        ask(.compact(revision), { $0.compact(revision) }, completion)
    }

    public func health(_ completion: @escaping (Result<EtcdHealth, EtcdFailure>) -> Void) {
        ask(.health, { $0.health() }, completion)
    }

    public func watch(
        from: String, to: String, revision: Int64, onLine: @escaping (EtcdWatchLine) -> Void,
        onEnd: @escaping (EtcdFailure) -> Void
    ) -> any EtcdWatch {
        let member = members.current
        let watch = SimulatedWatch(
            etcd, server, loop, member: member, from: from, to: to, revision: revision,
            onLine: onLine,
            onEnd: { [members, server] reason in
                members.moveOn(from: member)
                onEnd(
                    .unavailable("member \(member) for \(server): the watch ended: \(reason)"))
            })
        etcd.add(watch)
        let request = SimulatedEtcd.Request.watch(from: from, to: to, revision: revision)
        switch etcd.fate(.init(server: server, member: member, request: request)) {
        // It has no limit: nobody tells that it never begins.
        case .lost, .answerLost: break
        case .refused(let delay): watch.cut("connection refused", after: delay)
        case .passes(let there, let back), .twice(let there, _, let back):
            watch.delayAtFirst = back
            etcd.arrives(after: there) { [etcd] in etcd.begin(watch) }
        }
        return watch
    }

    // MARK: Tries

    private func ask<Answer>(
        _ request: SimulatedEtcd.Request,
        _ carryOut: @escaping (SimulatedEtcd) -> EtcdVerdict<Answer>,
        _ completion: @escaping (Result<Answer, EtcdFailure>) -> Void
    ) {
        let question = EtcdQuestion<Answer> { [self] member, limit, completion in
            let exchange = Exchange(completion)
            exchange.timer = loop.after(limit) {
                exchange.end(.another("member \(member): no answer in \(limit)"))
            }
            let fate = etcd.fate(.init(server: server, member: member, request: request))
            send(exchange, to: member, fate, carryOut)
        }
        members.ask(question, completion)
    }

    private func send<Answer>(
        _ exchange: Exchange<Answer>, to member: Int, _ fate: SimulatedEtcd.Fate,
        _ carryOut: @escaping (SimulatedEtcd) -> EtcdVerdict<Answer>
    ) {
        let etcd = etcd
        let loop = loop
        func arrive(_ there: Duration, _ then: @escaping (EtcdVerdict<Answer>) -> Void) {
            etcd.arrives(after: there) { then(carryOut(etcd)) }
        }
        switch fate {
        case .lost: break
        case .refused(let delay):
            loop.after(delay) { exchange.end(.another("member \(member): connection refused")) }
        case .answerLost(let there): arrive(there) { _ in }
        case .passes(let there, let back):
            arrive(there) { verdict in loop.after(back) { exchange.end(verdict) } }
        case .twice(let there, let again, let back):
            arrive(there) { verdict in
                loop.after(back) { exchange.end(verdict) }
                etcd.arrives(after: again) { _ = carryOut(etcd) }
            }
        }
    }
}

/// A try under way: the first that ends it counts.
private final class Exchange<Answer> {
    var timer: (any LoopTimer)?
    private var completion: ((EtcdVerdict<Answer>) -> Void)?

    init(_ completion: @escaping (EtcdVerdict<Answer>) -> Void) { self.completion = completion }

    func end(_ verdict: EtcdVerdict<Answer>) {
        timer?.cancel()
        timer = nil
        let body = completion
        completion = nil
        body?(verdict)
    }
}

final class SimulatedWatch: EtcdWatch {
    let server: String
    let from: String
    let to: String
    /// The first that is wanted.
    let revision: Int64
    private(set) var isOver = false
    /// etcd knows of it.
    var hasBegun = false
    /// Added to its first line: its answer's way back.
    var delayAtFirst = Duration.zero

    private enum Item {
        case line(EtcdWatchLine)
        case end(String)
    }

    private weak var etcd: SimulatedEtcd?
    private let loop: any EventLoop
    private let member: Int
    private let onLine: (EtcdWatchLine) -> Void
    private let onEnd: (String) -> Void
    /// On their way, in order.
    private var underway: [Item] = []
    /// When the newest of them is due, by the loop's clock.
    private var dueMilliseconds: Int64 = 0
    /// No line is sent any more.
    private var isSilent = false
    private var isEnding = false

    init(
        _ etcd: SimulatedEtcd, _ server: String, _ loop: any EventLoop, member: Int, from: String,
        to: String, revision: Int64, onLine: @escaping (EtcdWatchLine) -> Void,
        onEnd: @escaping (String) -> Void
    ) {
        self.etcd = etcd
        self.server = server
        self.loop = loop
        self.member = member
        self.from = from
        self.to = to
        self.revision = revision
        self.onLine = onLine
        self.onEnd = onEnd
    }

    func cancel() {
        isOver = true
        underway = []
        etcd?.remove(self)
    }

    func send(_ line: EtcdWatchLine) {
        guard !isSilent, let fate = etcd?.lineFate(server, member) else { return }
        switch fate {
        case .passes(let delay): deliver(.line(line), after: delay)
        case .silent: isSilent = true
        case .ends(let delay): cut("connection reset", after: delay)
        }
    }

    func cut(_ reason: String, after delay: Duration) {
        guard !isEnding else { return }
        isEnding = true
        isSilent = true
        deliver(.end(reason), after: delay)
        etcd?.remove(self)
    }

    private func deliver(_ item: Item, after delay: Duration) {
        let now = loop.nowMilliseconds
        let whole = (delay + delayAtFirst) / .milliseconds(1)
        delayAtFirst = .zero
        dueMilliseconds = max(dueMilliseconds, now + Int64(whole.rounded(.up)))
        underway.append(item)
        loop.after(.milliseconds(dueMilliseconds - now)) { [self] in
            // The oldest, in whatever order the loop calls those that are due at once.
            guard !isOver, !underway.isEmpty else { return }
            switch underway.removeFirst() {
            case .line(let line): onLine(line)
            case .end(let reason):
                cancel()
                onEnd(reason)
            }
        }
    }
}
