// A clock, a network and chance for the tests of this target: all in memory, the same for the same seed.

import Edges
import Fleet
import Logging
import SessionCore
import Wire

final class VirtualTimer: LoopTimer {
    fileprivate var isCancelled = false
    func cancel() { isCancelled = true }
}

/// Runs what is due, in the order of time, and of what is due together in the order of asking.
final class VirtualLoop: EventLoop {
    private struct Entry {
        let at: Int64
        let number: UInt64
        let timer: VirtualTimer
        let body: () -> Void
    }
    private var entries: [Entry] = []
    private var lastNumber: UInt64 = 0
    private var chance: UInt64
    private(set) var nowMilliseconds: Int64 = 0
    var wallMicroseconds: Int64 { nowMilliseconds * 1_000 }

    init(seed: UInt64 = 1) { chance = seed }

    @discardableResult
    func after(_ delay: Duration, _ body: @escaping () -> Void) -> VirtualTimer {
        let timer = VirtualTimer()
        add(delay, timer, body)
        return timer
    }

    @discardableResult
    func every(_ interval: Duration, _ body: @escaping () -> Void) -> VirtualTimer {
        let timer = VirtualTimer()
        func again() {
            add(interval, timer) {
                body()
                again()
            }
        }
        again()
        return timer
    }

    func soon(_ body: @escaping () -> Void) { after(.zero, body) }

    private func add(_ delay: Duration, _ timer: VirtualTimer, _ body: @escaping () -> Void) {
        let (seconds, attoseconds) = delay.components
        lastNumber += 1
        entries.append(
            Entry(
                at: nowMilliseconds + seconds * 1_000 + attoseconds / 1_000_000_000_000_000,
                number: lastNumber, timer: timer, body: body))
    }

    /// Lets so much time go by.
    func run(milliseconds: Int64) {
        let end = nowMilliseconds + milliseconds
        while true {
            entries.removeAll { $0.timer.isCancelled }
            guard
                let index = entries.indices.min(by: {
                    (entries[$0].at, entries[$0].number) < (entries[$1].at, entries[$1].number)
                }), entries[index].at <= end
            else { break }
            let entry = entries.remove(at: index)
            nowMilliseconds = entry.at
            entry.body()
        }
        nowMilliseconds = end
    }

    func random(in range: ClosedRange<Int64>) -> Int64 {
        chance = chance &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return range.lowerBound + Int64((chance >> 33) % UInt64(range.count))
    }

    func randomBytes(_ count: Int) -> [UInt8] {
        (0..<count).map { _ in UInt8(random(in: 0...255)) }
    }
}

/// One end of a connection in memory. What one end says is with the other a millisecond later.
final class MemoryStream: ByteStream {
    var onBytes: ((UnsafeRawBufferPointer) -> Void)? { didSet { deliverSoon() } }
    var onEnd: ((StreamEnd) -> Void)?
    private let loop: VirtualLoop
    private(set) weak var peer: MemoryStream?
    private var unread: [UInt8] = []
    /// Comes once everything has been read.
    private var end: StreamEnd?
    private var isOver = false
    private var isSilent = false
    private(set) var queuedByteCount = 0
    private var isStuck = false

    private init(_ loop: VirtualLoop) { self.loop = loop }

    static func pair(on loop: VirtualLoop) -> (MemoryStream, MemoryStream) {
        let ends = (MemoryStream(loop), MemoryStream(loop))
        ends.0.peer = ends.1
        ends.1.peer = ends.0
        return ends
    }

    func write(_ bytes: [UInt8]) {
        guard !isOver, !isSilent else { return }
        guard !isStuck else { return queuedByteCount += bytes.count }
        loop.after(.milliseconds(1)) { [peer] in
            peer?.unread += bytes
            peer?.deliver()
        }
    }

    func write(_ bytes: [UInt8], completion: @escaping (UvError?) -> Void) {
        write(bytes)
        loop.soon { completion(nil) }
    }

    func close() {
        guard !isOver else { return }
        if !isSilent {
            loop.after(.milliseconds(1)) { [peer] in
                peer?.end = .endOfFile
                peer?.deliver()
            }
        }
        loop.soon { self.finish(.closedHere) }
    }

    func closeAfterWriting() { close() }

    /// From now on the network takes what either end says and brings it nowhere.
    func silence() {
        isSilent = true
        peer?.isSilent = true
    }

    /// From now on the other end's system takes nothing more, and so many bytes wait here already.
    func stick(queuedByteCount: Int) {
        isStuck = true
        self.queuedByteCount = queuedByteCount
    }

    /// The connection breaks, for both ends.
    func cut() {
        let error = UvError(
            code: -104, name: "ECONNRESET", meaning: "connection reset by peer",
            operation: "read", subject: "memory")
        for one in [self, peer] { one?.finish(.failed(error)) }
    }

    private func deliverSoon() {
        if onBytes != nil { loop.soon { self.deliver() } }
    }

    private func deliver() {
        guard !isOver, let onBytes else { return }
        if !unread.isEmpty {
            let bytes = unread
            unread = []
            bytes.withUnsafeBytes { onBytes($0) }
        }
        if unread.isEmpty, let end { finish(end) }
    }

    private func finish(_ end: StreamEnd) {
        guard !isOver else { return }
        isOver = true
        let onEnd = onEnd
        self.onEnd = nil
        onBytes = nil
        onEnd?(end)
    }
}

/// Servers by address, and what is open between them and their clients.
final class MemoryNetwork {
    let loop: VirtualLoop
    let logger = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
    private var tables: [String: SessionTable] = [:]
    /// The clients' ends, in the order in which they were made.
    private(set) var streams: [MemoryStream] = []

    init(seed: UInt64 = 1) { loop = VirtualLoop(seed: seed) }

    func identity(_ role: Role, _ name: String) -> PeerIdentity {
        guard let identity = PeerIdentity(cluster: "demo", role: role, name: name) else {
            preconditionFailure("\(name) is no name")
        }
        return identity
    }

    /// A server at the address `NAME:1`.
    func serve(
        _ name: String, isLeader: Bool = true, servers: [String] = []
    ) -> SessionTable {
        let table = SessionTable(on: loop, identity: identity(.server, name), logger: logger)
        table.onHello = { _, _ in
            .accept(
                HelloAccepted(
                    version: 0, server: name, isLeader: isLeader, term: 3, servers: servers,
                    software: "test"))
        }
        tables["\(name):1"] = table
        return table
    }

    func remove(_ name: String) { tables["\(name):1"] = nil }

    func client(
        _ servers: [String], as name: String = "a", role: Role = .agent
    ) -> SessionClient {
        SessionClient(
            on: loop, servers: servers,
            dialer: MemoryDialer(self, identity(role, name)), software: "test", logger: logger)
    }

    fileprivate func connect(
        _ server: String, from identity: PeerIdentity
    ) -> Result<AuthenticatedStream, SessionProblem> {
        guard let table = tables[server], let name = server.split(separator: ":").first else {
            let error = UvError(
                code: -111, name: "ECONNREFUSED", meaning: "connection refused",
                operation: "connect to", subject: server)
            return .failure(.connect(error, server: server))
        }
        func certificate(_ uri: String) -> CertificateIdentity {
            CertificateIdentity(uri: uri, notAfterUnixSeconds: 1 << 40, serialHex: "01")
        }
        let (near, far) = MemoryStream.pair(on: loop)
        streams.append(near)
        table.add(
            AuthenticatedStream(far, certificate: certificate(identity.uri)),
            number: table.nextNumber(), peer: "memory", connectedAt: loop.nowMilliseconds)
        return .success(
            AuthenticatedStream(near, certificate: certificate("fermata://demo/server/\(name)")))
    }
}

private final class MemoryDialer: SessionDialer {
    let identity: PeerIdentity
    private let network: MemoryNetwork

    init(_ network: MemoryNetwork, _ identity: PeerIdentity) {
        self.network = network
        self.identity = identity
    }

    func dial(
        _ server: String, isUrgent: Bool,
        completion: @escaping (Result<AuthenticatedStream, SessionProblem>) -> Void
    ) -> any SessionDial {
        let dial = MemoryDial()
        network.loop.after(.milliseconds(1)) { [network, identity] in
            guard !dial.isCancelled else { return }
            completion(network.connect(server, from: identity))
        }
        return dial
    }
}

private final class MemoryDial: SessionDial {
    var isCancelled = false
    func cancel() { isCancelled = true }
}
