import Fleet
import Glibc
import NIOCore
import Notices

/// What all connections share: the board, the bytes made of it, and who may ask how much. Belongs to
/// the server's thread.
final class Desk {
    let loop: any EventLoop
    let cluster: String
    let proxies: TrustedProxies
    let post: @Sendable (ServerRequest) -> Void
    private(set) var board = NoticeBoard()
    /// Rises with every board, so that what was looked up in an older one is known to be old.
    private(set) var boardNumber = 0
    private(set) var isStopping = false
    /// `Date: …` and the empty line that ends a header; new each second.
    private(set) var headEnd = ByteBuffer()
    private(set) var nowMilliseconds: Int64 = 0

    private var connections: [ObjectIdentifier: Connection] = [:]
    /// One for all guests of an audience, but for those whose number is their own.
    private var cached: [Audience: CachedDocument] = [:]
    private var cachedApart: [GuestID: CachedDocument] = [:]
    private var clients: [String: Client] = [:]
    /// Connections of those whom the board does not know.
    private var strangerCount = 0
    private var ticking: RepeatedTask?
    private var tickCount = 0

    /// All that strangers may have open at once: they get one answer, which says why.
    private static let strangersMax = 256

    init(
        loop: any EventLoop, cluster: String, proxies: TrustedProxies,
        post: @escaping @Sendable (ServerRequest) -> Void
    ) {
        self.loop = loop
        self.cluster = cluster
        self.proxies = proxies
        self.post = post
    }

    func start() {
        tick()
        let desk = NIOLoopBound(self, eventLoop: loop)
        ticking = loop.scheduleRepeatedTask(initialDelay: .seconds(1), delay: .seconds(1)) { _ in
            desk.value.tick()
        }
    }

    func stop() {
        isStopping = true
        ticking?.cancel()
        for connection in Array(connections.values) { connection.end() }
    }

    func publish(_ board: NoticeBoard) {
        self.board = board
        boardNumber += 1
        for connection in Array(connections.values) where connection.isWaiting {
            connection.onBoard()
        }
    }

    private func tick() {
        nowMilliseconds = Desk.clock(CLOCK_MONOTONIC) / 1_000
        let date = Timestamp(microseconds: Desk.clock(CLOCK_REALTIME)).rfc1123
        headEnd = ByteBuffer(string: "Date: \(date)\r\n\r\n")
        for connection in Array(connections.values) { connection.onTick() }
        tickCount += 1
        if tickCount % 60 == 0 { forget() }
    }

    private func forget() {
        // A client that has gone and has its whole burst again is one we have never seen.
        let gone = clients.filter {
            $0.value.connectionCount == 0 && $0.value.bucket.isFull(atMilliseconds: nowMilliseconds)
        }
        for name in gone.keys { clients[name] = nil }
        // What is asked for again is made again.
        cached = [:]
        cachedApart = [:]
    }

    /// In microseconds.
    private static func clock(_ id: clockid_t) -> Int64 {
        var time = timespec()
        clock_gettime(id, &time)
        return Int64(time.tv_sec) * 1_000_000 + Int64(time.tv_nsec) / 1_000
    }

    // MARK: Who asks

    /// - Returns: nil if this address, or all strangers together, have too many connections.
    func admit(_ channel: any Channel) -> Connection? {
        guard !isStopping, let ip = channel.remoteAddress?.ipAddress else { return nil }
        let address = IPAddress(ip)
        let client = client(ip)
        let isProxy = proxies.contains(address)
        let isStranger =
            board.isReady && !isProxy && address.flatMap { board.guest(at: $0) } == nil
        guard isProxy || client.connectionCount < HTTPLimits.connectionsPerAddressMax,
            !isStranger || strangerCount < Self.strangersMax
        else { return nil }
        client.connectionCount += 1
        if isStranger { strangerCount += 1 }
        let connection = Connection(
            desk: self, channel: channel, client: client, ip: ip, address: address)
        connection.countsAsStranger = isStranger
        connections[ObjectIdentifier(connection)] = connection
        return connection
    }

    /// - Parameter ip: of one that is connected, or that a proxy asks for.
    func client(_ ip: String) -> Client {
        if let known = clients[ip] { return known }
        let client = Client(bucket: TokenBucket(atMilliseconds: nowMilliseconds))
        clients[ip] = client
        return client
    }

    func leave(_ connection: Connection) {
        guard connections.removeValue(forKey: ObjectIdentifier(connection)) != nil else { return }
        connection.client.connectionCount -= 1
        if connection.countsAsStranger { strangerCount -= 1 }
    }

    /// - Returns: nil if the request may be answered, else after how many seconds one will be.
    func takeToken(of client: Client) -> Int64? {
        client.bucket.take(atMilliseconds: Self.clock(CLOCK_MONOTONIC) / 1_000)
    }

    // MARK: Documents

    /// The bytes of a guest's document, as far as they have been asked for since it changed.
    func cache(for guest: BoardGuest) -> CachedDocument {
        let incarnation = board.incarnation(for: guest)
        // One that came from another set has a number of its own until the next change.
        let isApart = incarnation != board.incarnation(of: guest.audience)
        let known = isApart ? cachedApart[guest.id] : cached[guest.audience]
        if let known, known.incarnation == incarnation { return known }
        let fresh = CachedDocument(incarnation: incarnation)
        if isApart { cachedApart[guest.id] = fresh } else { cached[guest.audience] = fresh }
        return fresh
    }
}

/// One address, over all its connections.
final class Client {
    var connectionCount = 0
    var bucket: TokenBucket

    init(bucket: TokenBucket) { self.bucket = bucket }
}

/// The bytes of a document, each made when it is asked for first.
final class CachedDocument {
    let incarnation: UInt64
    let tag: String
    private var whole = [CachedAnswer?](
        repeating: nil, count: EventsVersion.Layout.allCases.count)
    private lazy var unchanged = CachedAnswer(.notModified(tag: tag))

    init(incarnation: UInt64) {
        self.incarnation = incarnation
        tag = EventDocument(incarnation: incarnation, events: []).tag
    }

    /// The whole answer, from status line to body.
    func bytes(
        _ layout: EventsVersion.Layout, headEnd: ByteBuffer, document: () -> EventDocument
    ) -> ByteBuffer {
        if let known = whole[layout.rawValue] { return known.bytes(headEnd: headEnd) }
        let answer = CachedAnswer(
            .json(document().json(layout), fields: [HTTPField("ETag", tag)]))
        whole[layout.rawValue] = answer
        return answer.bytes(headEnd: headEnd)
    }

    func notModified(headEnd: ByteBuffer) -> ByteBuffer { unchanged.bytes(headEnd: headEnd) }
}

/// An answer as bytes, but for the date.
private struct CachedAnswer {
    let head: ByteBuffer
    let body: ByteBuffer

    init(_ answer: GuestAnswer) {
        head = ByteBuffer(string: answer.head(closes: false))
        body = ByteBuffer(bytes: answer.body)
    }

    func bytes(headEnd: ByteBuffer) -> ByteBuffer {
        var bytes = ByteBuffer()
        bytes.reserveCapacity(
            head.readableBytes + headEnd.readableBytes + body.readableBytes)
        bytes.writeImmutableBuffer(head)
        bytes.writeImmutableBuffer(headEnd)
        bytes.writeImmutableBuffer(body)
        return bytes
    }
}
