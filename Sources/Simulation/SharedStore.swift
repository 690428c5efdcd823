// The log's store of a run: an etcd cluster for several servers, or a disk with an embedded log for one.

import Edges
import EtcdLog
import Fleet
import LogCore

final class SharedStore {
    enum Trouble: Equatable {
        case none, noQuorum, full, slow, losesAnswers
    }

    private unowned let world: World
    private var chance: Chance
    private let etcd: SimulatedEtcd?
    private let disk: EmbeddedDisk?
    var trouble = Trouble.none {
        didSet {
            etcd?.isFull = trouble == .full
            disk?.isFull = trouble == .full
        }
    }

    init(_ world: World, isEtcd: Bool, _ chance: Chance) {
        self.world = world
        var chance = chance
        if isEtcd {
            let process = SimulatedProcess("etcd", at: world.etcdPlace)
            let etcd = SimulatedEtcd(on: SimulatedLoop(process, chance.fork()))
            self.etcd = etcd
            disk = nil
        } else {
            etcd = nil
            disk = EmbeddedDisk()
        }
        self.chance = chance
        etcd?.fate = { [unowned self] in fate($0) }
        etcd?.lineFate = { [unowned self] server, _ in lineFate(server) }
        etcd?.onChange = { [unowned self] in readLog() }
    }

    /// What a server gets at its start.
    func store(
        for seat: ServerSeat, _ process: SimulatedProcess, _ loop: SimulatedLoop
    ) -> any LogStore {
        if let etcd {
            etcd.forget(seat.name)
            return EtcdLogStore(
                etcd.access(of: seat.name, on: loop), name: "etcd:simulated", prefix: Self.prefix,
                on: loop, historyInterval: Self.historyInterval)
        }
        return EmbeddedStore(disk!, world, process)
    }

    private static let prefix = "/f/"
    /// Short, so that a run's etcd forgets history while followers read it.
    private static let historyInterval = Duration.seconds(20)
    private static let layout = EtcdLayout(prefix: prefix)
    /// Index of the newest record that was seen in the log.
    private var seen: UInt64 = 0

    /// What is in etcd is durable, whoever knows it.
    private func readLog() {
        guard let etcd else { return }
        for value in etcd.values(from: Self.layout.log(seen + 1), to: Self.layout.endOfLog) {
            guard let last = Self.layout.lastIndex(value.key), last > seen else { continue }
            guard let records = records(value.value, last) else {
                world.truth.violate("nothing lost", "batch \(last) cannot be read")
                continue
            }
            seen = last
            world.truth.committed(records, firstIndex: last + 1 - UInt64(records.count))
        }
    }

    private func records(_ bytes: [UInt8], _ last: UInt64) -> [[UInt8]]? {
        switch EtcdBatch(bytes) {
        case nil: return nil
        case .records(let records): return records
        case .parts(let epoch, _):
            let from = Self.layout.parts(last, epoch)
            let parts = etcd?.values(from: from, to: String(from.dropLast()) + "0") ?? []
            guard case .records(let records) = EtcdBatch(parts.flatMap(\.value)) else { return nil }
            return records
        }
    }

    // MARK: What becomes of a request

    private func fate(_ attempt: SimulatedEtcd.Attempt) -> SimulatedEtcd.Fate {
        let seat = world.servers.first { $0.name == attempt.server }
        // Of a server that has died in this very turn nothing leaves any more.
        guard seat?.process?.edge("ask the log") == true else { return .lost }
        let there = chance.longTailed(300, doublings: 4)
        let back = chance.longTailed(300, doublings: 4)
        if let place = seat?.place {
            let isCutThere = world.network.isCut(place, world.etcdPlace)
            let isCutBack = world.network.isCut(world.etcdPlace, place)
            if isCutThere { return .lost }
            if isCutBack { return .answerLost(there: .microseconds(there)) }
        }
        switch trouble {
        case .noQuorum: return .lost
        case .losesAnswers where chance.oneIn(2):
            return .answerLost(there: .microseconds(there))
        case .slow:
            let long = chance.longTailed(20_000, doublings: 11)
            return .passes(there: .microseconds(long), back: .microseconds(back))
        default: break
        }
        guard !world.faults.isOver, world.profile.faultMilliseconds > 0 else {
            return .passes(there: .microseconds(there), back: .microseconds(back))
        }
        let usual = SimulatedEtcd.Fate.passes(
            there: .microseconds(there), back: .microseconds(back))
        let fate: SimulatedEtcd.Fate
        switch chance.below(400) {
        case 0: fate = .lost
        case 1, 2: fate = .answerLost(there: .microseconds(there))
        // Its sender has given up long before.
        case 3: fate = .passes(there: .seconds(30), back: .microseconds(back))
        case 4:
            fate = .twice(
                there: .microseconds(there), again: .seconds(Int64(chance.below(20))),
                back: .microseconds(back))
        default: return usual
        }
        return world.faults.happens("a request to the log's store: \(fate)") ? fate : usual
    }

    private func lineFate(_ server: String) -> SimulatedEtcd.LineFate {
        let seat = world.servers.first { $0.name == server }
        if let place = seat?.place, world.network.isCut(world.etcdPlace, place) { return .silent }
        if !world.faults.isOver, world.profile.faultMilliseconds > 0, chance.oneIn(2_000),
            world.faults.happens("a watch of \(server) ends")
        {
            return .ends(after: .microseconds(500))
        }
        let delay = chance.longTailed(300, doublings: 4)
        // By then it has taken the line, unless its process stands still.
        world.timeline.after(delay + 100) { seat?.compareIfStandby() }
        return .passes(after: .microseconds(delay))
    }
}

/// What an embedded log has made durable.
final class EmbeddedDisk {
    var epoch: UInt64 = 0
    var snapshot: LogSnapshot?
    /// After the snapshot.
    var records: [[UInt8]] = []
    var isFull = false
}

/// One process's way to an embedded log: what was synced stays, what was not is gone with a crash.
final class EmbeddedStore: LogStore {
    let name = "embedded:simulated"
    let warnings: [String] = []
    private let disk: EmbeddedDisk
    private unowned let world: World
    private let process: SimulatedProcess
    private var epoch: UInt64 = 0

    init(_ disk: EmbeddedDisk, _ world: World, _ process: SimulatedProcess) {
        self.disk = disk
        self.world = world
        self.process = process
    }

    private var duration: Int64 { world.faults.takes(800, doublings: 8) }

    func lead(
        as writer: LogWriter, after index: UInt64,
        completion: @escaping (Result<OpenedLog, LogStoreError>) -> Void
    ) {
        process.run(after: duration) { [self] in
            disk.epoch += 1
            epoch = disk.epoch
            completion(
                .success(
                    OpenedLog(epoch: epoch, snapshot: disk.snapshot, records: disk.records)))
        }
    }

    func append(
        _ records: [[UInt8]], firstIndex: UInt64,
        completion: @escaping (Result<Void, LogStoreError>) -> Void
    ) {
        process.run(after: duration) { [self] in
            guard epoch == disk.epoch else {
                return completion(.failure(.fenced(byEpoch: disk.epoch)))
            }
            guard !disk.isFull, !world.faults.happens(oneIn: 2_000) else {
                return completion(.failure(.writeFailed(path: name, reason: "no space left")))
            }
            // All or nothing: a torn batch is rolled back by the next who opens the log.
            guard process.edge("append") else { return }
            disk.records += records
            world.truth.committed(records, firstIndex: firstIndex)
            guard process.edge("appended") else { return }
            process.run { completion(.success(())) }
        }
    }

    func confirm(completion: @escaping (Result<Void, LogStoreError>) -> Void) {
        process.run { [self] in
            completion(
                epoch == disk.epoch
                    ? .success(()) : .failure(.fenced(byEpoch: disk.epoch)))
        }
    }

    func save(
        index: UInt64, next: @escaping () -> [UInt8]?,
        completion: @escaping (Result<Void, LogStoreError>) -> Void
    ) { take(index, [], next, completion) }

    private func take(
        _ index: UInt64, _ chunks: [[UInt8]], _ next: @escaping () -> [UInt8]?,
        _ completion: @escaping (Result<Void, LogStoreError>) -> Void
    ) {
        process.run(after: duration) { [self] in
            if let chunk = next() { return take(index, chunks + [chunk], next, completion) }
            guard !disk.isFull, process.edge("snapshot") else {
                return completion(.failure(.writeFailed(path: name, reason: "no space left")))
            }
            let covered = Int(index - (disk.snapshot?.index ?? 0))
            disk.records.removeFirst(covered)
            disk.snapshot = LogSnapshot(index: index, chunks: chunks)
            completion(.success(()))
        }
    }

    func close() { epoch = 0 }
}
