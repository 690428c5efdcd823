// A notifier: the production `Follower` and `Delivery`, over a record and a file that keep what was synced and
// may lose the process at every write.

import Edges
import Fleet
import Notices
import Presentation
import SessionCore
import Wire

/// What a notifier has on its disk.
final class NotifierDisk {
    struct Row {
        var sink: SinkID
        var item: OutboxItem
    }
    var position = FollowPosition()
    var annotations: [String: Annotation] = [:]
    /// In the order in which they were recorded.
    var order: [String] = []
    /// Of the present history, and of those before.
    var bulletins: [(history: Int64, bulletin: Bulletin)] = []
    var ids: Set<String> = []
    var pending: [Row] = []
    var lastNumber: Int64 = 0
    var file: [UInt8] = []
    /// Bulletins that the remote sink has had, however often.
    var posted: Set<String> = []

    var lines: [String] {
        file.split(separator: UInt8(ascii: "\n")).map { String(decoding: $0, as: UTF8.self) }
    }
}

struct NotifierDied: Error {}

/// One process's way to the disk: a change is there whole or not at all.
final class SimulatedRecord: NoticeRecord {
    typealias Failure = NotifierDied

    private let disk: NotifierDisk
    private let process: SimulatedProcess

    init(_ disk: NotifierDisk, _ process: SimulatedProcess) {
        self.disk = disk
        self.process = process
    }

    final class Transaction: NoticeTransaction {
        fileprivate var changes: [(NotifierDisk) -> Void] = []
        private var new: [String: Timestamp] = [:]
        private var newIDs: Set<String> = []
        private var newBulletins: [(history: Int64, bulletin: Bulletin)] = []
        private let disk: NotifierDisk
        fileprivate init(_ disk: NotifierDisk) { self.disk = disk }

        func position() -> FollowPosition { disk.position }
        func save(_ position: FollowPosition) { changes.append { $0.position = position } }
        func save(_ gap: EventGap, history: Int64, noticedAt: Timestamp) {}
        func heldAt(_ annotationID: String) -> Timestamp? {
            new[annotationID] ?? disk.annotations[annotationID]?.record.heldAt
        }

        func hasBulletin(_ id: String) -> Bool { newIDs.contains(id) || disk.ids.contains(id) }
        func bulletins(of step: StepID, history: Int64) -> [Bulletin] {
            (disk.bulletins + newBulletins).filter {
                $0.history == history && $0.bulletin.step == step
            }.map(\.bulletin)
        }

        func unfinished(of rollout: RolloutID, history: Int64) -> [Bulletin] {
            let told = (disk.bulletins + newBulletins).filter {
                $0.history == history && $0.bulletin.step.rollout == rollout
            }
            return Bulletin.newest(told.map(\.bulletin)).filter(\.isUnfinished)
        }

        func insert(
            _ bulletin: Bulletin, history: Int64, recordedAt: Timestamp, sinks: [SinkID]
        ) {
            if let annotation = bulletin.annotation {
                new[annotation.annotationID] = annotation.record.heldAt
            }
            newIDs.insert(bulletin.id)
            newBulletins.append((history, bulletin))
            changes.append { disk in
                if let annotation = bulletin.annotation {
                    disk.annotations[annotation.annotationID] = annotation
                    disk.order.append(annotation.annotationID)
                }
                disk.ids.insert(bulletin.id)
                disk.bulletins.append((history, bulletin))
                for sink in sinks {
                    disk.lastNumber += 1
                    let item = OutboxItem(number: disk.lastNumber, bulletin: bulletin)
                    disk.pending.append(NotifierDisk.Row(sink: sink, item: item))
                }
            }
        }
    }

    func cursor() -> UInt64 { UInt64(clamping: disk.position.sequence) }

    func change<Value>(_ body: (Transaction) throws -> Value) throws(NotifierDied) -> Value {
        let transaction = Transaction(disk)
        guard let value = try? body(transaction), process.edge("commit") else {
            throw NotifierDied()
        }
        for change in transaction.changes { change(disk) }
        guard process.edge("committed") else { throw NotifierDied() }
        return value
    }

    func pending(_ sink: SinkID, after number: Int64, limit: Int) -> [OutboxItem] {
        let rows = disk.pending.lazy.filter { $0.sink == sink && $0.item.number > number }
        return rows.prefix(limit).map(\.item)
    }

    func mark(_ marks: [OutboxMark], at: Timestamp) throws(NotifierDied) {
        guard process.edge("mark") else { throw NotifierDied() }
        for mark in marks {
            guard let index = disk.pending.firstIndex(where: { $0.item.number == mark.number })
            else { continue }
            switch mark.change {
            case .delivered, .dead: disk.pending.remove(at: index)
            case .failed(let attempts, let refusals, let next, _):
                disk.pending[index].item.attempts = attempts
                disk.pending[index].item.refusals = refusals
                disk.pending[index].item.nextAttemptAt = next
            }
        }
        guard process.edge("marked") else { throw NotifierDied() }
    }

    func settledUpTo(_ sink: SinkID) -> UInt64 {
        let first = disk.pending.first { $0.sink == sink }
        return first.map { $0.item.bulletin.sequence - 1 } ?? cursor()
    }

    func markDelivered(_ sink: SinkID, upTo sequence: UInt64, at: Timestamp) {
        disk.pending.removeAll { $0.sink == sink && $0.item.bulletin.sequence <= sequence }
    }
}

/// A file that may be torn at any byte.
final class SimulatedLineFile: LineAppender {
    private let disk: NotifierDisk
    private let process: SimulatedProcess
    private var chance: Chance

    init(_ disk: NotifierDisk, _ process: SimulatedProcess, _ chance: Chance) {
        self.disk = disk
        self.process = process
        self.chance = chance
    }

    private func recover(_ due: [String]) -> Set<String> {
        let count = FileEnd.byteCount(for: due, fileByteCount: UInt64(disk.file.count))
        let end = FileEnd(tail: Array(disk.file.suffix(Int(count))), due: due)
        switch end.mending {
        case .none: break
        case .cut(let byteCount): disk.file.removeLast(byteCount)
        case .endLine: disk.file.append(UInt8(ascii: "\n"))
        }
        return end.present
    }

    func append(_ lines: [String], isRecovery: Bool, completion: @escaping (String?) -> Void) {
        guard process.isAlive else { return }
        let present = isRecovery ? recover(lines) : []
        let due = lines.filter { !present.contains($0) }
        let bytes = Array(due.map { $0 + "\n" }.joined().utf8)
        guard process.edge("append") else {
            disk.file += bytes.prefix(chance.below(bytes.count + 1))
            return
        }
        disk.file += bytes
        guard process.edge("appended") else { return }
        completion(nil)
    }
}

/// A receiver elsewhere: it answers late, is away now and then, and may have taken what it says it has not.
final class SimulatedReceiver: Receiver {
    private let disk: NotifierDisk
    private let process: SimulatedProcess
    private let loop: SimulatedLoop
    private var chance: Chance

    init(
        _ disk: NotifierDisk, _ process: SimulatedProcess, _ loop: SimulatedLoop, _ chance: Chance
    ) {
        self.disk = disk
        self.process = process
        self.loop = loop
        self.chance = chance
    }

    func take(_ items: [OutboxItem], completion: @escaping (DeliveryOutcome) -> Void) {
        guard process.edge("post") else { return }
        let comes = chance.below(8) > 0
        let answers = comes && chance.below(8) > 0
        loop.after(.milliseconds(chance.within(1...200))) { [self] in
            if comes { for item in items { disk.posted.insert(item.bulletin.id) } }
            guard process.edge("posted") else { return }
            completion(answers ? .taken : .later(reason: "no answer", afterMilliseconds: nil))
        }
    }
}

/// A computer with a notifier on it.
final class NotifierSeat {
    let place: Place
    private unowned let world: World
    private var chance: Chance
    private var process: SimulatedProcess?
    private var client: SessionClient?
    private var delivery: Delivery<SimulatedRecord, SimulatedLoop>?
    private var follower: Follower<SimulatedRecord, SimulatedLoop>?
    private let disk = NotifierDisk()
    private static let renderer = BulletinRenderer(cluster: World.cluster)
    private static let remote = SinkID(checked: "remote")
    /// While it is ours.
    private var lease: DeliveryLease?

    init(at place: Place, _ world: World, _ chance: Chance) {
        self.place = place
        self.world = world
        self.chance = chance
    }

    var annotations: [TrueAnnotation] {
        disk.order.compactMap { disk.annotations[$0] }.map {
            TrueAnnotation(
                guest: $0.record.guest, step: $0.step, heldAt: $0.record.heldAt,
                holdMicroseconds: $0.record.holdMicroseconds)
        }
    }

    /// Recorded, and handed to the sinks.
    func hasAll(upTo sequence: UInt64) -> Bool {
        disk.position.sequence >= Int64(sequence) && disk.pending.isEmpty
    }

    /// Bulletins that one of the sinks never got, of those that fit it.
    var undelivered: [String] {
        let lines = Set(disk.lines)
        return disk.bulletins.map(\.bulletin).filter { bulletin in
            !disk.posted.contains(bulletin.id)
                || bulletin.annotation != nil
                    && !lines.contains(Self.renderer.line(bulletin, .json) ?? "")
        }.map(\.id)
    }

    /// Of what has died nothing may be held any more.
    func letGo(now: Bool = false) {
        process?.kill()
        guard let client else { return }
        self.client = nil
        follower = nil
        delivery = nil
        if now { client.stop() } else { world.timeline.after(0) { client.stop() } }
    }

    func startIfDead() { if process?.isAlive != true { start() } }

    func kill(restartAfter delay: Int64) {
        guard let process, process.isAlive else { return }
        letGo()
        world.timeline.after(delay) { [unowned self] in startIfDead() }
    }

    func start() {
        let process = SimulatedProcess("n1", at: place)
        self.process = process
        world.faults.watch(process, .notifier)
        let loop = SimulatedLoop(process, chance.fork())
        let record = SimulatedRecord(disk, process)
        let file = LineReceiver(
            SimulatedLineFile(disk, process, chance.fork()), Self.renderer, format: .json)
        let delivery = Delivery(
            store: record, loop: loop,
            ways: [
                (Sink(id: .file, batchCountMax: LineReceiver.batchCountMax), file),
                (
                    Sink(id: Self.remote, filter: BulletinFilter(), inFlightMax: 4),
                    SimulatedReceiver(disk, process, loop, chance.fork())
                ),
            ],
            tell: { [unowned self] in world.trace("n1", "\($0)") })
        self.delivery = delivery
        let follower = Follower(
            store: record, delivery: delivery,
            now: { Timestamp(microseconds: loop.wallMicroseconds) },
            tell: { [unowned self] in world.trace("n1", "\($0)") })
        self.follower = follower
        let client = SessionClient(
            on: loop, servers: world.serverAddresses,
            dialer: SimulatedDialer(
                PeerIdentity(cluster: World.cluster, role: .notifier, name: "n1")!, process, world),
            software: "0", logger: world.logger("n1"))
        self.client = client
        // What an earlier process had not delivered, first.
        delivery.wake()
        client.onReady = { [unowned client] _ in
            guard let message = try? follower.onEstablished() else { return }
            client.send(message, correlation: client.nextCorrelation())
            client.send(.claimDeliveries, correlation: client.nextCorrelation())
        }
        client.onMessage = { [unowned self, unowned client] message, _ in
            if case .eventBatch(let events, _) = message, let last = events.last {
                world.truth.notifierGets(upTo: last.sequence)
            }
            if case .deliveryLease(let lease) = message { self.lease = lease.isYours ? lease : nil }
            if case .eventBatch(let events, _) = message { answer(events, client, process) }
            for answer in (try? follower.onMessage(message)) ?? [] {
                client.send(answer, correlation: client.nextCorrelation())
            }
        }
        client.start()
    }

    /// Guests that are told acknowledge, some of them and some time later; and what is delivered is told.
    private func answer(
        _ events: [FleetEvent], _ client: SessionClient, _ process: SimulatedProcess
    ) {
        for event in events {
            guard case .stepNoticed(let notice) = event.body else { continue }
            for guest in notice.guests where chance.below(4) > 0 {
                process.run(after: chance.within(0...6_000_000)) { [unowned client] in
                    client.request(
                        .command(
                            .acknowledgeNotice(
                                notice.step, guest: guest, noticedAt: notice.noticedAt)),
                        timeout: .seconds(20)
                    ) { _ in }
                }
            }
        }
        if let lease, let last = events.last {
            client.send(
                .reportDelivered(number: lease.number, sink: "file", sequence: last.sequence),
                correlation: client.nextCorrelation())
        }
    }
}
