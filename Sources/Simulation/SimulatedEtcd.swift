// An etcd cluster in memory, and the ways to it that lose and delay what goes over them.
//
//   EtcdLogStore ─▶ SimulatedEtcdAccess ─EtcdMembers─▶ a try ──fate: there──▶ EtcdTable
//                     (a server's)           ▲                                   │
//                                            └─── the limit, or the answer ◀─back┘
//
// The cluster itself is always right and of one mind, as etcd is: its members are only different ways
// to it. What a try becomes on its way is asked of `fate`, so that a seed can decide it. What is on its
// way to etcd arrives although its sender has died meanwhile, as it waits on etcd's loop; answers and
// watches come on the server's loop and end with it.

public import Edges
public import EtcdLog

public final class SimulatedEtcd {
    /// What is asked of a member.
    public enum Request: Hashable, Sendable {
        case transaction(EtcdTransaction)
        case range(EtcdOperation, revision: Int64)
        case compact(Int64)
        case health
        case watch(from: String, to: String, revision: Int64)
    }

    /// One try of one server at one member.
    public struct Attempt: Hashable, Sendable {
        public var server: String
        /// From 0 on.
        public var member: Int
        public var request: Request
    }

    /// What becomes of a try. One that is not answered within its limit is over for its sender,
    /// whatever comes of it later: then the next member is asked.
    public enum Fate: Hashable, Sendable {
        /// It is carried out, and the answer comes. Also for what arrives after its sender gave up.
        case passes(there: Duration, back: Duration)
        /// It is carried out, and nobody hears of it. As if it were ``lost`` for a watch.
        case answerLost(there: Duration)
        /// It never arrives. A watch is silent from the start.
        case lost
        /// It never arrives, and its sender is told: nobody listens there.
        case refused(after: Duration)
        /// It is carried out, and once more `again` after that; the answer is the first one's. A
        /// connection that was kept may do that.
        case twice(there: Duration, again: Duration, back: Duration)
    }

    /// What becomes of a line of a watch on its way to the server. Lines never overtake each other.
    public enum LineFate: Hashable, Sendable {
        case passes(after: Duration)
        /// Neither it nor any later line of this watch comes; only a cut ends it.
        case silent
        /// The connection is closed instead.
        case ends(after: Duration)
    }

    /// Asked once for each try, in the turn in which it is sent.
    public var fate: (Attempt) -> Fate = { _ in .passes(there: .zero, back: .zero) }
    /// Asked for each line of each watch, in the order in which etcd writes them.
    public var lineFate: (_ server: String, _ member: Int) -> LineFate = { _, _ in
        .passes(after: .zero)
    }
    /// The alarm NOSPACE: whatever could put anything is refused as ``EtcdFailure/full(_:)``.
    public var isFull: Bool {
        get { table.isFull }
        set { table.isFull = newValue }
    }

    /// Called in the turn in which anything was written, before anybody hears of it.
    public var onChange: () -> Void = {}

    let memberCount: Int
    private let loop: any EventLoop
    private var table = EtcdTable()
    private var cluster: String
    /// In the order in which they were asked for.
    private var watches: [SimulatedWatch] = []

    /// - Parameters:
    ///   - memberCount: at least 1.
    ///   - cluster: its identity.
    ///   - loop: of etcd, which outlives every server.
    public init(memberCount: Int = 3, cluster: String = "1", on loop: any EventLoop) {
        self.memberCount = memberCount
        self.cluster = cluster
        self.loop = loop
    }

    /// A server's way to it.
    ///
    /// - Parameters:
    ///   - loop: of this server; what is to come is forgotten with it.
    ///   - limit: how long etcd is asked before it is said to be unavailable.
    public func access(
        of server: String, on loop: any EventLoop, limit: Duration = EtcdMembers.limitDefault
    ) -> SimulatedEtcdAccess {
        SimulatedEtcdAccess(self, server, loop, limit)
    }

    /// Forgets the watches of a server that has died.
    public func forget(_ server: String) {
        for watch in watches where watch.server == server { watch.cancel() }
    }

    /// Closes the connections of a server's watches; it is told.
    public func cutWatches(of server: String, reason: String = "connection reset") {
        for watch in watches where watch.server == server { watch.cut(reason, after: .zero) }
    }

    // MARK: Content

    /// What it holds at a moment.
    public struct Copy {
        fileprivate var table: EtcdTable
    }

    public var copy: Copy { Copy(table: table) }

    /// As when all members are set up anew from a back-up.
    ///
    /// - Parameter cluster: the new identity.
    public func restore(_ copy: Copy, cluster: String) {
        table = copy.table
        self.cluster = cluster
        for watch in watches { watch.cut("connection reset", after: .zero) }
    }

    public var revision: Int64 { table.revision }

    /// All keys from `from` on and below `to` as of now, ascending; for those who check.
    public func values(from: String, to: String) -> [EtcdKeyValue] {
        let all = EtcdOperation.range(from: from, to: to, limit: 0)
        guard case .answer(let range) = table.range(all, revision: 0) else { return [] }
        return range.values
    }

    // MARK: Requests that have arrived

    func transaction(_ transaction: EtcdTransaction) -> EtcdVerdict<EtcdTransactionAnswer> {
        let before = table.revision
        let verdict = table.transaction(transaction, cluster: cluster)
        if table.revision > before {
            onChange()
            tellWatches(since: before + 1)
        }
        return verdict
    }

    func range(_ operation: EtcdOperation, _ revision: Int64) -> EtcdVerdict<EtcdRange> {
        table.range(operation, revision: revision)
    }

    func compact(_ revision: Int64) -> EtcdVerdict<Void> { table.compact(revision) }

    func health() -> EtcdVerdict<EtcdHealth> {
        .answer(
            EtcdHealth(
                databaseByteCount: Int64(table.byteCount), alarms: isFull ? ["NOSPACE"] : []))
    }

    func add(_ watch: SimulatedWatch) { watches.append(watch) }

    func begin(_ watch: SimulatedWatch) {
        guard !watch.isOver else { return }
        guard let lines = table.puts(from: watch.from, to: watch.to, since: watch.revision) else {
            let reason = "etcdserver: mvcc: required revision has been compacted"
            return watch.send(.cancelled(isCompacted: true, reason: reason))
        }
        watch.hasBegun = true
        watch.send(.puts([]))
        for line in lines { watch.send(.puts(line)) }
    }

    func remove(_ watch: SimulatedWatch) { watches.removeAll { $0 === watch } }

    private func tellWatches(since revision: Int64) {
        for watch in watches where watch.hasBegun {
            let lines =
                table.puts(
                    from: watch.from, to: watch.to, since: max(revision, watch.revision)) ?? []
            for line in lines { watch.send(.puts(line)) }
        }
    }

    /// Has a try arrive after a while, whoever lives then.
    func arrives(after delay: Duration, _ body: @escaping () -> Void) {
        loop.after(delay, body)
    }
}
