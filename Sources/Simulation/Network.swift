// The network between computers: connections with bytes in order both ways, as TCP gives them, over paths that
// can be cut in one direction or both.
//
// What is under way when a path is cut waits, as TCP sends it again, and arrives once the path is back. A
// process that dies closes its connections, and whoever is at the other end learns of it unless the path
// is cut or its computer lost power: then only silence tells.

import Edges
import Wire

final class Network {
    /// One direction between two computers.
    struct Path: Hashable {
        var from: String
        var to: String
    }

    enum ConnectFailure: Error {
        /// The computer lives, and nobody listens.
        case refused
        case timedOut
    }

    private final class Listening {
        let process: SimulatedProcess
        let onConnection: (SimulatedStream, PeerIdentity) -> Void
        init(
            _ process: SimulatedProcess,
            _ onConnection: @escaping (SimulatedStream, PeerIdentity) -> Void
        ) {
            self.process = process
            self.onConnection = onConnection
        }
    }

    let timeline: Timeline
    private var chance: Chance
    private var places: [String: Place] = [:]
    private var listening: [String: Listening] = [:]
    /// How many cuts there are; only looked up.
    private var cuts: [Path: Int] = [:]
    /// Deliveries that wait for a path to come back, in their order.
    private var waiting: [Path: [() -> Void]] = [:]
    /// Messages arrive after as much as this many doublings of a usual delay.
    var delayDoublings = 3

    init(on timeline: Timeline, _ chance: Chance) {
        self.timeline = timeline
        self.chance = chance
    }

    func clear() {
        places = [:]
        listening = [:]
        waiting = [:]
    }

    func add(_ place: Place) { places[place.name] = place }

    // MARK: Paths

    func isCut(_ from: Place, _ to: Place) -> Bool {
        cuts[Path(from: from.name, to: to.name), default: 0] > 0
    }

    func cut(_ from: Place, _ to: Place) {
        cuts[Path(from: from.name, to: to.name), default: 0] += 1
    }

    func heal(_ from: Place, _ to: Place) {
        let path = Path(from: from.name, to: to.name)
        guard let count = cuts[path], count > 0 else { return }
        cuts[path] = count > 1 ? count - 1 : nil
        guard count == 1, let bodies = waiting.removeValue(forKey: path) else { return }
        timeline.after(delay()) { for body in bodies { body() } }
    }

    private func delay() -> Int64 { chance.longTailed(150, doublings: delayDoublings) }

    /// Calls `body` when something that leaves `from` now arrives at `to`, after all that left before
    /// `notBefore`'s moment.
    ///
    /// - Returns: when it arrives, if the path is not cut.
    fileprivate func carry(
        _ from: Place, _ to: Place, notBefore: Int64, _ body: @escaping () -> Void
    ) -> Int64 {
        let at = max(notBefore, timeline.now + delay())
        timeline.after(at - timeline.now) { [self] in arrive(from, to, body) }
        return at
    }

    private func arrive(_ from: Place, _ to: Place, _ body: @escaping () -> Void) {
        let path = Path(from: from.name, to: to.name)
        // What waits goes first, whatever else comes.
        if cuts[path] != nil || waiting[path] != nil {
            waiting[path, default: []].append(body)
            if cuts[path] == nil, let bodies = waiting.removeValue(forKey: path) {
                for body in bodies { body() }
            }
            return
        }
        body()
    }

    // MARK: Connections

    func listen(
        _ address: String, _ process: SimulatedProcess,
        _ onConnection: @escaping (SimulatedStream, PeerIdentity) -> Void
    ) {
        listening[address] = Listening(process, onConnection)
    }

    /// - Parameters:
    ///   - address: `COMPUTER:PORT`.
    ///   - completion: called once in a later turn of `process`, unless that dies.
    func connect(
        _ process: SimulatedProcess, to address: String, timeout: Int64, as identity: PeerIdentity,
        _ completion: @escaping (Result<SimulatedStream, ConnectFailure>) -> Void
    ) {
        var once: ((Result<SimulatedStream, ConnectFailure>) -> Void)? = completion
        let finish = { (result: Result<SimulatedStream, ConnectFailure>) in
            let body = once
            once = nil
            body?(result)
        }
        process.run(after: timeout) { finish(.failure(.timedOut)) }
        let name = String(address.prefix { $0 != ":" })
        guard let there = places[name] else { return process.run { finish(.failure(.refused)) } }
        _ = carry(process.place, there, notBefore: 0) { [self] in
            guard there.isUp else { return }
            guard let server = listening[address], server.process.isAlive else {
                _ = carry(there, process.place, notBefore: 0) {
                    process.run { finish(.failure(.refused)) }
                }
                return
            }
            let (near, far) = SimulatedStream.pair(process, server.process, self)
            // The kernel takes it, also while the process stands still.
            server.process.run { server.onConnection(far, identity) }
            _ = carry(there, process.place, notBefore: 0) {
                process.run {
                    if once == nil { near.close() } else { finish(.success(near)) }
                }
            }
        }
    }
}

/// One end of a connection.
final class SimulatedStream: ByteStream {
    private enum Item {
        case bytes([UInt8])
        case end(StreamEnd)
    }

    private let process: SimulatedProcess
    private let network: Network
    /// Keeps the other end while this one is open.
    private var peer: SimulatedStream?
    private var lastArrival: Int64 = 0
    private var arrived: [Item] = []
    private var isDraining = false
    /// Closed here.
    private var isClosed = false
    /// An end was told, or never will be.
    private var isOver = false

    var onBytes: ((UnsafeRawBufferPointer) -> Void)? {
        didSet { if onBytes != nil, !arrived.isEmpty { drainSoon() } }
    }
    var onEnd: ((StreamEnd) -> Void)?
    var queuedByteCount: Int { 0 }

    private static let reset = UvError(
        code: -104, name: "ECONNRESET", meaning: "connection reset by peer", operation: "read",
        subject: "stream")

    private init(_ process: SimulatedProcess, _ network: Network) {
        self.process = process
        self.network = network
    }

    static func pair(
        _ near: SimulatedProcess, _ far: SimulatedProcess, _ network: Network
    ) -> (SimulatedStream, SimulatedStream) {
        let left = SimulatedStream(near, network)
        let right = SimulatedStream(far, network)
        left.peer = right
        right.peer = left
        near.whenItDies { left.die(isOrderly: $0) }
        far.whenItDies { right.die(isOrderly: $0) }
        return (left, right)
    }

    private func die(isOrderly: Bool) {
        guard !isClosed else { return }
        if isOrderly { send(.end(.failed(Self.reset))) }
        forget()
    }

    private func forget() {
        isClosed = true
        isOver = true
        peer = nil
        onBytes = nil
        onEnd = nil
        arrived = []
    }

    func write(_ bytes: [UInt8]) {
        guard !isClosed, process.edge("send") else { return }
        send(.bytes(bytes))
    }

    func write(_ bytes: [UInt8], completion: @escaping (UvError?) -> Void) {
        write(bytes)
        process.run { completion(nil) }
    }

    private func send(_ item: Item) {
        guard let peer else { return }
        lastArrival = network.carry(
            process.place, peer.process.place, notBefore: lastArrival
        ) { [weak peer] in peer?.arrive(item) }
    }

    private func arrive(_ item: Item) {
        guard !isClosed, process.isAlive else { return }
        arrived.append(item)
        drainSoon()
    }

    private func drainSoon() {
        guard !isDraining else { return }
        isDraining = true
        process.run { [self] in
            isDraining = false
            drain()
        }
    }

    private func drain() {
        // Nothing is read, nor an end noticed, while nobody wants bytes.
        while !isClosed, let onBytes, !arrived.isEmpty {
            switch arrived.removeFirst() {
            case .bytes(let bytes): bytes.withUnsafeBytes { onBytes($0) }
            case .end(let end): finish(end)
            }
        }
    }

    private func finish(_ end: StreamEnd) {
        guard !isOver else { return }
        isOver = true
        let body = onEnd
        isClosed = true
        peer = nil
        onBytes = nil
        onEnd = nil
        body?(end)
    }

    func close() {
        guard !isClosed else { return }
        if process.isAlive { send(.end(.endOfFile)) }
        isClosed = true
        peer = nil
        arrived = []
        process.run { [self] in finish(.closedHere) }
    }

    func closeAfterWriting() { close() }
}
