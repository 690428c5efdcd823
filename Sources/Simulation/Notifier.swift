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
    var position = FollowPosition()
    var annotations: [String: Annotation] = [:]
    /// In the order in which they were recorded.
    var order: [String] = []
    var pending: [PendingLine] = []
    var lastLine: Int64 = 0
    var file: [UInt8] = []

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
        private let disk: NotifierDisk
        fileprivate init(_ disk: NotifierDisk) { self.disk = disk }

        func position() -> FollowPosition { disk.position }
        func save(_ position: FollowPosition) { changes.append { $0.position = position } }
        func save(_ gap: EventGap, history: Int64, noticedAt: Timestamp) {}
        func heldAt(_ annotationID: String) -> Timestamp? {
            new[annotationID] ?? disk.annotations[annotationID]?.record.heldAt
        }

        func insert(_ annotation: Annotation, sequence: Int64, lines: [SinkLine]) {
            new[annotation.annotationID] = annotation.record.heldAt
            changes.append { disk in
                disk.annotations[annotation.annotationID] = annotation
                disk.order.append(annotation.annotationID)
                for line in lines {
                    disk.lastLine += 1
                    disk.pending.append(
                        PendingLine(
                            number: disk.lastLine, annotationID: annotation.annotationID,
                            line: line.line))
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

    func pending(_ sink: Sink, limit: Int) -> [PendingLine] { Array(disk.pending.prefix(limit)) }

    func markDelivered(_ lines: [PendingLine], at: Timestamp) throws(NotifierDied) {
        guard process.edge("mark") else { throw NotifierDied() }
        let last = lines.last?.number ?? 0
        disk.pending.removeAll { $0.number <= last }
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

    func recover(_ due: [String]) -> Set<String> {
        let count = FileEnd.byteCount(for: due, fileByteCount: UInt64(disk.file.count))
        let end = FileEnd(tail: Array(disk.file.suffix(Int(count))), due: due)
        switch end.mending {
        case .none: break
        case .cut(let byteCount): disk.file.removeLast(byteCount)
        case .endLine: disk.file.append(UInt8(ascii: "\n"))
        }
        return end.present
    }

    func append(_ lines: [String]) throws {
        let bytes = Array(lines.map { $0 + "\n" }.joined().utf8)
        guard process.edge("append") else {
            disk.file += bytes.prefix(chance.below(bytes.count + 1))
            throw NotifierDied()
        }
        disk.file += bytes
        guard process.edge("appended") else { throw NotifierDied() }
    }
}

/// A computer with a notifier on it.
final class NotifierSeat {
    let place: Place
    private unowned let world: World
    private var chance: Chance
    private var process: SimulatedProcess?
    private var client: SessionClient?
    private var follower: Follower<SimulatedRecord>?
    private let disk = NotifierDisk()
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

    /// Recorded, and handed to the sink.
    func hasAll(upTo sequence: UInt64) -> Bool {
        disk.position.sequence >= Int64(sequence) && disk.pending.isEmpty
    }

    /// Annotations that the sink never got.
    var undelivered: [String] {
        let lines = Set(disk.lines)
        return disk.order.filter { id in
            disk.annotations[id].map { !lines.contains($0.line(for: .file)) } ?? true
        }
    }

    /// Of what has died nothing may be held any more.
    func letGo(now: Bool = false) {
        process?.kill()
        guard let client else { return }
        self.client = nil
        follower = nil
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
        let delivery = Delivery(
            store: record, printLine: nil,
            file: SimulatedLineFile(disk, process, chance.fork()))
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
        try? follower.deliver()
        loop.every(.seconds(5)) { try? follower.deliver() }
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
                        .command(.acknowledgeNotice(notice.step, guest: guest)),
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
