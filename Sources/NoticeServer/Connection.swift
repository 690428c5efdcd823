// One connection of a client, from its first byte to its end.
//
//   state        event                      becomes
//   ---------    ------------------------   ---------------------------------------------------
//   idle         first byte                 reading
//   idle         75 s                       closed, silently
//   reading      whole request              idle (answered), waiting, or closing
//   reading      10 s                       closing (408)
//   waiting      reply, new board, time     idle; a stream stays until it ends
//   waiting      whole request              waiting, and that one is next; behind a stream: closing
//   waiting      more than is kept of those closed
//   waiting      malformed bytes            waiting, and their answer is next, then closing
//   any other    malformed bytes            closing (400, 413, 431)
//   closing      peer's end, or 2 s         closed: what is sent after the answer is thrown away, so
//                                           that no reset overtakes the answer
import Fleet
import NIOCore
import NIOHTTP1
import Notices

final class Connection: ChannelInboundHandler {
    typealias InboundIn = HTTPServerRequestPart
    typealias OutboundOut = ByteBuffer

    enum State {
        case idle
        case reading
        case waiting(Waiting)
        case closing
    }

    enum Waiting {
        /// For the loop's thread.
        case reply
        case poll(guest: BoardGuest, after: UInt64, until: Int64)
        case stream(guest: BoardGuest, sent: UInt64, spokeAt: Int64)
    }

    let client: Client
    let ip: String
    let address: IPAddress?
    var countsAsStranger = false
    /// It asks for others.
    private let isProxy: Bool
    /// Who asks with the request at hand; nil if a proxy does not say for whom it asks.
    private var asker: IPAddress?
    private unowned let desk: Desk
    private let channel: any Channel
    private(set) var state = State.idle
    /// When the state began, or since when the client does not read.
    private var since: Int64
    private var unreadSince: Int64?
    /// Of the request that is arriving.
    private var arriving: (head: RequestHead, closes: Bool)?
    private var body: [UInt8] = []
    /// It asks whether to send its body and has not been told yet.
    private var asksToContinue = false
    /// Of the request at hand.
    private var closesAfter = false
    private var isHeadOnly = false
    private var isChunked = true
    /// What came while another request waits for its answer.
    private var ahead = RequestsAhead()
    /// The client sends nothing more.
    private var isInputOver = false
    private var replyNumber = 0
    /// What a client polls, it polls again: looked up once for each board.
    private var known: (boardNumber: Int, guest: BoardGuest, document: CachedDocument)?
    private var poll: PolledEvents?

    init(
        desk: Desk, channel: any Channel, client: Client, ip: String, address: IPAddress?
    ) {
        self.client = client
        self.desk = desk
        self.channel = channel
        self.ip = ip
        self.address = address
        asker = address
        isProxy = desk.proxies.contains(address)
        since = desk.nowMilliseconds
    }

    var isWaiting: Bool { if case .waiting = state { true } else { false } }
    private var isClosing: Bool { if case .closing = state { true } else { false } }

    // MARK: Events of the channel

    func onBytes() {
        if case .idle = state { enter(.reading) }
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard !isClosing else { return }
        switch unwrapInboundIn(data) {
        case .head(let head): onHead(head)
        case .body(let bytes): onBody(bytes)
        case .end: onEnd()
        }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        switch error as? HTTPParserError {
        case .headerOverflow: refuse(.error(431, "The request's header is too large."))
        case .invalidVersion: refuse(.error(400, "Only HTTP/1.0 and HTTP/1.1 are spoken here."))
        case .invalidMethod: refuse(.error(400, "The request has no method that exists."))
        case .some(let error): refuse(.error(400, "The request is malformed: \(error)."))
        case nil: close()
        }
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        guard case .inputClosed? = event as? ChannelEvent else {
            return context.fireUserInboundEventTriggered(event)
        }
        // A client that has asked and closed its side still gets what it waits for.
        guard case .waiting(.reply) = state else { return close() }
        isInputOver = true
        if ahead.isEmpty { closesAfter = true }
    }

    func channelInactive(context: ChannelHandlerContext) {
        state = .closing
        desk.leave(self)
    }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        unreadSince = context.channel.isWritable ? nil : desk.nowMilliseconds
    }

    // MARK: Reading

    private func onHead(_ head: HTTPRequestHead) {
        guard !ahead.isClosed else { return }
        if case .idle = state { enter(.reading) }
        // Behind a stream nothing is ever answered.
        if case .waiting(.stream) = state { return endStream() }
        body = []
        var fields: [HTTPField] = []
        fields.reserveCapacity(head.headers.count)
        for (name, value) in head.headers { fields.append(HTTPField(name, value)) }
        // The decoder does not go on behind an upgrade, so neither do we.
        let closes =
            !head.isKeepAlive || head.method == .CONNECT || head.headers.contains(name: "upgrade")
        arriving = (
            RequestHead(
                method: head.method.rawValue, target: head.uri, fields: fields,
                isVersion10: head.version == .http1_0), closes
        )
        let lengths = head.headers["content-length"]
        if !lengths.isEmpty, head.headers.contains(name: "transfer-encoding") {
            return refuse(.error(400, "A request has a length or chunks, not both."))
        }
        if let length = lengths.first.flatMap({ Int($0) }), length > HTTPLimits.bodyByteCountMax {
            return refuseBody()
        }
        if let expected = head.headers["expect"].first {
            guard expected.lowercased() == "100-continue" else {
                return refuse(.error(417, "Only 100-continue can be expected."))
            }
            asksToContinue = true
            // Not between another request and its answer.
            if !isWaiting { letContinue() }
        }
    }

    private func letContinue() {
        asksToContinue = false
        write(ByteBuffer(string: "HTTP/1.1 100 Continue\r\n\r\n"))
    }

    private func onBody(_ bytes: ByteBuffer) {
        guard arriving != nil, !ahead.isClosed else { return }
        asksToContinue = false
        guard body.count + bytes.readableBytes <= HTTPLimits.bodyByteCountMax else {
            return refuseBody()
        }
        if isWaiting, !ahead.hasRoom(for: body.count + bytes.readableBytes) { return close() }
        body.append(contentsOf: bytes.readableBytesView)
    }

    private func onEnd() {
        guard !ahead.isClosed else { return }
        guard let (head, closes) = arriving else { return close() }
        arriving = nil
        asksToContinue = false
        if isWaiting {
            guard ahead.add(head, body, closes: closes) else { return close() }
            body = []
            return
        }
        closesAfter = closes
        handle(head, body)
    }

    private func refuseBody() {
        refuse(.error(413, "The body is larger than \(HTTPLimits.bodyByteCountMax) bytes."))
    }

    // MARK: Answering

    private func handle(_ head: RequestHead, _ body: [UInt8]) {
        isHeadOnly = head.method == "HEAD"
        isChunked = !head.isVersion10
        let (head, client) = isProxy ? forwarded(head) : (head, client)
        if let seconds = desk.takeToken(of: client) {
            return answer(
                .error(
                    429, "Too many requests; once a second is enough.",
                    fields: [HTTPField("Retry-After", "\(seconds)")]))
        }
        do {
            if let poll, poll.isAgain(head) { return try answerEvents(poll.version, head) }
            let route = try head.route()
            if case .events(let version) = route { poll = PolledEvents(head, version) }
            try carryOut(route, head, body)
        } catch {
            answer(error)
        }
    }

    /// What a proxy passes on, as if the guest had asked, and whose share of requests it uses up.
    private func forwarded(_ head: RequestHead) -> (RequestHead, Client) {
        let asker = desk.proxies.asker(in: head)
        if asker != self.asker { known = nil }
        self.asker = asker
        return (head.withoutForwarding, asker.map { desk.client("\($0)") } ?? client)
    }

    private func answerEvents(
        _ version: EventsVersion, _ head: RequestHead
    ) throws(GuestAnswer) {
        let (guest, cache) = try document()
        let isUnchanged = head.has(cache.tag)
        if closesAfter || isHeadOnly {
            if isUnchanged { return answer(.notModified(tag: cache.tag)) }
            let json = desk.board.document(for: guest).json(version.layout)
            return answer(.json(json, fields: [HTTPField("ETag", cache.tag)]))
        }
        write(
            isUnchanged
                ? cache.notModified(headEnd: desk.headEnd)
                : cache.bytes(version.layout, headEnd: desk.headEnd) {
                    desk.board.document(for: guest)
                })
        finished()
    }

    private func document() throws(GuestAnswer) -> (BoardGuest, CachedDocument) {
        if let known, known.boardNumber == desk.boardNumber {
            return (known.guest, known.document)
        }
        let guest = try whoAsks()
        let document = desk.cache(for: guest)
        known = (desk.boardNumber, guest, document)
        return (guest, document)
    }

    private func carryOut(
        _ route: Route, _ head: RequestHead, _ body: [UInt8]
    ) throws(GuestAnswer) {
        if route == .health { return answer(health) }
        let guest = try whoAsks()
        switch route {
        case .events(let version): try answerEvents(version, head)
        case .acknowledge: acknowledge(try StartRequests.parse(body), guest, mustBeSeen: false)
        case .nativeAcknowledge(let id): acknowledge([id], guest, mustBeSeen: true)
        case .instance(let path, let asText):
            answer(
                try InstanceDocument.answer(
                    guest, cluster: desk.cluster, path: path, asText: asText))
        case .versions:
            let versions = Set(InstanceDocument.versions + EventsVersion.allCases.map(\.rawValue))
            answer(.json(["apiVersions": .array(versions.sorted().map { .string($0) })]))
        case .nativeEvents(let wait): nativeEvents(wait, guest)
        case .annotations(let limit):
            ask { .annotations(guest: guest.id, limit: limit, reply: $0) }
        case .health: break
        }
    }

    private func whoAsks() throws(GuestAnswer) -> BoardGuest {
        guard desk.board.isReady else {
            // It may be that there were no guests yet when the leader was asked.
            desk.post(.unknownAddress(ip))
            throw .error(
                503, "The notifier has not reached its server yet.",
                fields: [HTTPField("Retry-After", "1")])
        }
        guard let asker else {
            throw isProxy
                ? .error(400, "The proxy does not say for whom it asks (X-Forwarded-For).")
                : stranger(ip)
        }
        guard let guest = desk.board.guest(at: asker) else {
            throw stranger(isProxy ? "\(asker)" : ip)
        }
        return guest
    }

    private func stranger(_ name: String) -> GuestAnswer {
        desk.post(.unknownAddress(name))
        // Not a proxy's connection: others ask over it.
        closesAfter = closesAfter || !isProxy
        return .error(
            403, "\(name) is not the address of a guest here. Its host's file has to name it.")
    }

    private var health: GuestAnswer {
        .json(["ready": .bool(desk.board.isReady), "sequence": .unsigned(desk.board.cursor)])
    }

    private func acknowledge(_ ids: [String], _ guest: BoardGuest, mustBeSeen: Bool) {
        ask {
            .acknowledge(guest: guest.id, eventIDs: ids, mustBeSeen: mustBeSeen, reply: $0)
        }
    }

    /// Waits for the loop's thread.
    private func ask(_ request: (@escaping ServerRequest.Reply) -> ServerRequest) {
        enter(.waiting(.reply))
        replyNumber += 1
        let number = replyNumber
        let connection = NIOLoopBound(self, eventLoop: desk.loop)
        let loop = desk.loop
        desk.post(
            request { reply in
                loop.execute {
                    let connection = connection.value
                    guard connection.replyNumber == number,
                        case .waiting(.reply) = connection.state
                    else { return }
                    connection.answer(reply)
                }
            })
    }

    private func nativeEvents(_ wait: Route.NativeWait, _ guest: BoardGuest) {
        let document = desk.board.document(for: guest)
        switch wait {
        case .poll(let after, let seconds) where after == document.incarnation && seconds > 0:
            let until = desk.nowMilliseconds + seconds * 1_000
            enter(.waiting(.poll(guest: guest, after: after, until: until)))
        case .no, .poll: answer(native(document))
        case .stream(let after):
            var head = GuestAnswer(
                status: 200, fields: [HTTPField("Content-Type", "text/event-stream")])
            if isChunked { head.fields.append(HTTPField("Transfer-Encoding", "chunked")) }
            closesAfter = true
            write(whole(head.streamHead, []))
            guard !isHeadOnly else { return finished() }
            guard ahead.isEmpty, !isInputOver else { return endStream() }
            enter(.waiting(.stream(guest: guest, sent: after ?? 0, spokeAt: desk.nowMilliseconds)))
            if after == document.incarnation { say(":\n\n") } else { onBoard() }
        }
    }

    private func native(_ document: EventDocument) -> GuestAnswer {
        .json(document.nativeJSON, fields: [HTTPField("ETag", document.tag)])
    }

    // MARK: Waiting

    /// There is another board.
    func onBoard() {
        switch state {
        case .waiting(.poll(let old, let after, let until)):
            guard let guest = whoWaits(old) else { return turnAway(old) }
            state = .waiting(.poll(guest: guest, after: after, until: until))
            let document = desk.board.document(for: guest)
            if document.incarnation != after { answer(native(document)) }
        case .waiting(.stream(let old, let sent, let spokeAt)):
            guard let guest = whoWaits(old) else { return endStream() }
            state = .waiting(.stream(guest: guest, sent: sent, spokeAt: spokeAt))
            let document = desk.board.document(for: guest)
            guard document.incarnation != sent else { return }
            // A client that does not read gets the newest when it does, or its end.
            guard channel.isWritable else { return }
            state = .waiting(
                .stream(
                    guest: guest, sent: document.incarnation, spokeAt: desk.nowMilliseconds))
            say(
                "id: \(document.incarnation)\nevent: events\ndata: "
                    + "\(document.nativeJSON.compact)\n\n")
        default: break
        }
    }

    /// - Returns: the guest as it is now; nil if it has gone, or the address is not its own any more.
    private func whoWaits(_ guest: BoardGuest) -> BoardGuest? {
        let now = asker.flatMap { desk.board.guest(at: $0) }
        return now?.id == guest.id ? now : nil
    }

    private func turnAway(_ guest: BoardGuest) {
        closesAfter = closesAfter || !isProxy
        answer(.error(403, "This is not the address of guest \(guest.id) any more."))
    }

    /// Once a second.
    func onTick() {
        let now = desk.nowMilliseconds
        if let unreadSince, now - unreadSince > HTTPLimits.unreadSeconds * 1_000 {
            return close()
        }
        let passed = (now - since) / 1_000
        switch state {
        case .idle: if passed > HTTPLimits.idleSeconds { close() }
        case .reading:
            if passed > HTTPLimits.requestSeconds {
                refuse(.error(408, "The request took too long to arrive."))
            }
        case .closing: if passed >= 2 { close() }
        case .waiting(.reply): break
        case .waiting(.poll(let guest, _, let until)):
            if now >= until { answer(native(desk.board.document(for: guest))) }
        case .waiting(.stream):
            // It may read again, and what it has not had is sent now.
            onBoard()
            guard case .waiting(.stream(let guest, let sent, let spokeAt)) = state else { return }
            if now - spokeAt >= HTTPLimits.keepAliveSeconds * 1_000 {
                state = .waiting(.stream(guest: guest, sent: sent, spokeAt: now))
                say(":\n\n")
            }
        }
    }

    /// The server stops.
    func end() {
        switch state {
        case .waiting(.poll(let guest, _, _)):
            closesAfter = true
            answer(native(desk.board.document(for: guest)))
        case .waiting(.stream): endStream()
        case .waiting(.reply): closesAfter = true
        case .idle, .reading, .closing: close()
        }
    }

    // MARK: Writing

    private func say(_ text: String) {
        write(isChunked ? ByteBuffer(bytes: chunk(Array(text.utf8))) : ByteBuffer(string: text))
    }

    private func answer(_ answer: GuestAnswer) {
        write(whole(answer.head(closes: closesAfter), isHeadOnly ? [] : answer.body))
        finished()
    }

    private func whole(_ head: String, _ body: [UInt8]) -> ByteBuffer {
        var bytes = ByteBuffer()
        bytes.reserveCapacity(head.utf8.count + desk.headEnd.readableBytes + body.count)
        bytes.writeString(head)
        bytes.writeImmutableBuffer(desk.headEnd)
        bytes.writeBytes(body)
        return bytes
    }

    private func write(_ bytes: ByteBuffer) {
        channel.writeAndFlush(bytes, promise: nil)
    }

    private func endStream() {
        if isChunked { write(ByteBuffer(bytes: lastChunk)) }
        closeInOrder()
    }

    private func finished() {
        guard !closesAfter else { return closeInOrder() }
        switch ahead.next() {
        case .request(let head, let body, let closes):
            closesAfter = closes || (isInputOver && ahead.isEmpty)
            enter(.reading)
            handle(head, body)
        case .refusal(let refusal):
            enter(.reading)
            refuse(refusal)
        case nil:
            enter(arriving == nil ? .idle : .reading)
            if asksToContinue { letContinue() }
        }
    }

    /// Says why, and reads nothing more.
    private func refuse(_ refusal: GuestAnswer) {
        guard !isClosing else { return }
        arriving = nil
        // In the middle of a stream there is no place for a status.
        if case .waiting(.stream) = state { return endStream() }
        guard !isWaiting else { return ahead.close(with: refusal) }
        closesAfter = true
        isHeadOnly = false
        answer(refusal)
    }

    private func closeInOrder() {
        guard !isClosing else { return }
        enter(.closing)
        ahead = RequestsAhead()
        channel.close(mode: .output, promise: nil)
    }

    private func close() {
        enter(.closing)
        channel.close(mode: .all, promise: nil)
    }

    private func enter(_ state: State) {
        self.state = state
        since = desk.nowMilliseconds
    }
}
