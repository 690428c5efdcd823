import Fleet
import Logging
import NIOCore
import NIOEmbedded
import Notices
import Synchronization
import Testing

@testable import NoticeServer

/// A desk with db-0 at 10.0.0.1 and web-0 at 10.0.0.3, and one connection to it at a time.
private final class Bench {
    let loop = EmbeddedEventLoop()
    let desk: Desk
    private let posted = Posted()
    private var channel: EmbeddedChannel

    /// What the loop's thread was asked.
    private final class Posted: Sendable {
        let requests = Mutex<[ServerRequest]>([])
    }

    init() throws {
        desk = Desk(loop: loop, cluster: "test", proxies: TrustedProxies()) { [posted] request in
            posted.requests.withLock { $0.append(request) }
        }
        channel = EmbeddedChannel(loop: loop)
        publish(["db-0": "10.0.0.1", "web-0": "10.0.0.3"])
        try connect()
    }

    func publish(_ guests: [String: String]) {
        var board = NoticeBoard()
        board.take(
            guests.map { name, address in
                BoardGuest(
                    id: GuestID(checked: name), host: HostID(checked: "a"), set: nil,
                    updateDomain: nil, addresses: [IPAddress(address)].compactMap(\.self))
            })
        board.load([], sequence: 4)
        desk.publish(board)
        loop.run()
    }

    func connect(from address: String = "10.0.0.1") throws {
        channel = EmbeddedChannel(loop: loop)
        try channel.connect(to: SocketAddress(ipAddress: address, port: 4_711)).wait()
        let box = NIOLoopBoundBox<Desk?>(desk, eventLoop: loop)
        _ = try NoticeChannel(desk: box).setup(channel: channel, logger: Logger(label: "test"))
            .wait()
    }

    func send(_ text: String) throws {
        try channel.writeInbound(ByteBuffer(string: text))
        loop.run()
    }

    /// All that was sent since it was asked last.
    func received() throws -> String {
        var text = ""
        while let bytes = try channel.readOutbound(as: ByteBuffer.self) {
            text += String(buffer: bytes)
        }
        return text
    }

    func statuses() throws -> [Substring] {
        try received().split(separator: "HTTP/1.1 ").map { $0.prefix(3) }
    }

    var isOpen: Bool { channel.isActive }

    /// Answers the oldest acknowledgement.
    func answer() {
        let reply = posted.requests.withLock { requests -> ServerRequest.Reply? in
            while !requests.isEmpty {
                if case .acknowledge(_, _, _, let reply) = requests.removeFirst() { return reply }
            }
            return nil
        }
        reply?(GuestAnswer(status: 200))
        loop.run()
    }
}

@Suite struct ConnectionTests {
    private let bench: Bench
    private let acknowledgement = Self.request("POST", "/v1/events/x/acknowledgement")

    init() throws { bench = try Bench() }

    private static func request(
        _ method: String, _ target: String, _ fields: String..., body: String = ""
    ) -> String {
        var lines = ["\(method) \(target) HTTP/1.1", "Host: m", "Metadata: true"] + fields
        if method == "POST" { lines.append("Content-Length: \(body.utf8.count)") }
        return lines.joined(separator: "\r\n") + "\r\n\r\n" + body
    }

    @Test("what is sent ahead is answered in its order, also if the last one ends the connection")
    func pipeline() throws {
        try bench.send(
            acknowledgement + Self.request("GET", "/healthz")
                + Self.request("GET", "/nothing", "Connection: close"))
        #expect(try bench.received().isEmpty && bench.isOpen)
        bench.answer()
        let received = try bench.received()
        let parts = received.split(separator: "HTTP/1.1 ")
        #expect(parts.map { $0.prefix(3) } == ["200", "200", "404"])
        #expect(parts.map { $0.contains("Connection: close") } == [false, false, true])
        #expect(!bench.isOpen)
    }

    @Test("a client cannot make us keep more than so much that it sends ahead")
    func bounded() throws {
        let large = Self.request(
            "POST", "/v1/events/x/acknowledgement",
            body: String(
                repeating: " ", count: 60_000))
        try bench.send(acknowledgement + large)
        #expect(bench.isOpen)
        try bench.send(large)
        #expect(!bench.isOpen)
        // The same for one that never becomes whole.
        try bench.connect()
        try bench.send(acknowledgement + large + large.dropLast(20_000))
        #expect(!bench.isOpen)
        try bench.connect()
        for _ in 0...HTTPLimits.pipelinedRequestsMax {
            #expect(bench.isOpen)
            try bench.send(acknowledgement)
        }
        try bench.send(acknowledgement)
        #expect(!bench.isOpen)
    }

    @Test("whoever sends something behind a stream ends it; nothing is kept, nothing said into it")
    func behindStream() throws {
        let stream = Self.request("GET", "/v1/events", "Accept: text/event-stream")
        let large = Self.request(
            "POST", "/v1/events/x/acknowledgement", "Expect: 100-continue",
            body: String(repeating: " ", count: 60_000))
        try bench.send(stream)
        #expect(try bench.received().contains("event: events") && bench.isOpen)
        try bench.send(String(large.prefix(1_000)))
        let received = try bench.received()
        #expect(received == "0\r\n\r\n" && !bench.isOpen)
        // The same if it comes before the stream begins.
        try bench.connect()
        try bench.send(acknowledgement + stream + Self.request("GET", "/healthz"))
        bench.answer()
        #expect(try bench.statuses() == ["200", "200"] && !bench.isOpen)
    }

    @Test("who asks before it sends is told to go on when its turn has come")
    func continues() throws {
        let asking = Self.request(
            "POST", "/v1/events/y/acknowledgement", "Expect: 100-continue", body: "body")
        try bench.send(acknowledgement + asking.dropLast(4))
        #expect(try bench.received().isEmpty)
        bench.answer()
        #expect(try bench.statuses() == ["200", "100"])
        try bench.send("body")
        bench.answer()
        #expect(try bench.statuses() == ["200"] && bench.isOpen)
    }

    @Test("what is malformed is said so after the answer before it, and nothing behind it is read")
    func malformed() throws {
        try bench.send(
            acknowledgement + "NONSENSE\r\n\r\n" + Self.request("GET", "/healthz"))
        #expect(try bench.received().isEmpty)
        bench.answer()
        #expect(try bench.statuses() == ["200", "400"] && !bench.isOpen)
    }

    @Test("a stream or a poll of a guest that has gone, or lost its address, ends")
    func guestGone() throws {
        let stream = Self.request("GET", "/v1/events", "Accept: text/event-stream")
        try bench.send(stream)
        #expect(try bench.received().contains("event: events"))
        bench.publish(["db-0": "10.0.0.1"])
        #expect(bench.isOpen)
        _ = try bench.received()
        bench.publish(["web-0": "10.0.0.3"])
        #expect(try bench.received() == "0\r\n\r\n" && !bench.isOpen)
        try bench.connect(from: "10.0.0.3")
        try bench.send(Self.request("GET", "/v1/events?after=5&wait=30s"))
        #expect(try bench.received().isEmpty && bench.isOpen)
        // Its address is another guest's now.
        bench.publish(["web-0": "10.0.0.4", "web-1": "10.0.0.3"])
        #expect(try bench.statuses() == ["403"] && !bench.isOpen)
    }
}
