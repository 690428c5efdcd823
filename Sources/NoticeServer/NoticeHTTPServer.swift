// The notifier's web server: what guests ask before and after a hold.
//
//   loop thread (libuv)                              this server's thread (NIO)
//   NoticeBoard ──publish(copy)────────────────────▶ Desk: renders once, answers from cached bytes
//   store, session ◀──post(ServerRequest)─────────── … and asks for what it does not have
//         └──────────reply(GuestAnswer)─────────────▶
//
// Happy path: Hummingbird accepts → NIO decodes HTTP/1 → Connection → Notices decides → bytes.
// All connections are on one thread, so nothing here is locked; an answer that has not changed
// costs neither a turn of the loop nor an allocation beyond its buffer.
//
// Failure modes: an address cannot be bound → `.failed`, the notifier ends; accept fails for want of
// descriptors → not reached, connections are limited below; the listener breaks → made anew after a
// second; a client that is slow, large or wrong → its own connection ends, with a status where one
// can still be said.
public import Fleet
import Glibc
import HummingbirdCore
public import Logging
import NIOCore
import NIOHTTP1
import NIOPosix
public import Notices

/// What the server asks of the loop's thread, or tells it.
public enum ServerRequest: Sendable {
    /// - Parameter mustBeSeen: 404 if the guest sees none of these events; else that is no error.
    case acknowledge(guest: GuestID, eventIDs: [String], mustBeSeen: Bool, reply: Reply)
    case annotations(guest: GuestID, limit: Int, reply: Reply)
    /// Somebody whom no guest's address fits has asked: the inventory may have changed.
    case unknownAddress(String)
    /// `ip:port`, with the port really bound.
    case listening(String)
    /// It cannot listen there.
    case failed(String)

    /// Takes the answer, once, from any thread.
    public typealias Reply = @Sendable (GuestAnswer) -> Void
}

/// Where to listen.
public struct ListenAddress: Hashable, Sendable, CustomStringConvertible {
    public var ip: String
    public var port: UInt16
    public init(ip: String, port: UInt16) {
        self.ip = ip
        self.port = port
    }
    public var description: String { ip.contains(":") ? "[\(ip)]:\(port)" : "\(ip):\(port)" }
}

public final class NoticeHTTPServer: Sendable {
    private let listen: [ListenAddress]
    private let connectionsMax: Int
    private let post: @Sendable (ServerRequest) -> Void
    private let log: Logger
    private let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    private let loop: any EventLoop
    private let desk: NIOLoopBoundBox<Desk?>
    private let listeners: NIOLoopBoundBox<[Task<Void, Never>]?>

    /// - Parameters:
    ///   - cluster: its name, for the instance document.
    ///   - proxies: those that are believed when they say for whom they ask.
    ///   - connectionsMax: of all together; more wait in the kernel.
    ///   - post: takes requests; called on the server's thread.
    public init(
        listen: [ListenAddress], cluster: String, proxies: TrustedProxies = TrustedProxies(),
        connectionsMax: Int, log: Logger,
        post: @escaping @Sendable (ServerRequest) -> Void
    ) {
        self.listen = listen
        self.connectionsMax = connectionsMax
        self.post = post
        self.log = log
        loop = group.next()
        desk = .makeEmptyBox(valueType: Desk.self, eventLoop: loop)
        listeners = .makeEmptyBox(valueType: [Task<Void, Never>].self, eventLoop: loop)
        loop.execute { [desk, loop] in
            desk.value = Desk(loop: loop, cluster: cluster, proxies: proxies, post: post)
        }
    }

    /// Begins to listen. What comes of it is posted.
    public func start() {
        loop.execute { [self] in
            desk.value?.start()
            listeners.value = listen.map { address in Task { await self.listen(on: address) } }
        }
    }

    /// Gives out documents of this board from now on; streams and polls that wait for it get them.
    public func publish(_ board: NoticeBoard) {
        loop.execute { [desk] in desk.value?.publish(board) }
    }

    /// Ends streams and polls in order, and everything else.
    public func stop() {
        loop.execute { [self] in
            for listener in listeners.value ?? [] { listener.cancel() }
            desk.value?.stop()
        }
    }

    private func listen(on address: ListenAddress) async {
        var isFirst = true
        while !Task.isCancelled {
            let announces = isFirst
            let server = Server(
                childChannelSetup: NoticeChannel(desk: desk),
                configuration: ServerConfiguration(
                    address: .hostname(address.ip, port: Int(address.port)), backlog: 1_024,
                    availableConnectionsDelegate: MaximumAvailableConnections(
                        max(1, connectionsMax / listen.count), logger: quiet)),
                onServerRunning: { [post, log] channel in
                    guard let port = channel.localAddress?.port, announces else { return }
                    let bound = ListenAddress(ip: address.ip, port: UInt16(clamping: port))
                    log.info("serving guests", metadata: ["address": "\(bound)"])
                    post(.listening("\(bound)"))
                }, eventLoopGroup: group, logger: quiet)
            do {
                try await withTaskCancellationHandler {
                    try await server.run()
                } onCancel: {
                    Task { try? await server.shutdownGracefully() }
                }
            } catch {
                let words = Self.words(error)
                if isFirst { return post(.failed("\(address): \(words)")) }
                log.error("cannot listen", metadata: ["error": "\(words)"])
            }
            isFirst = false
            try? await Task.sleep(for: .seconds(1))
        }
    }

    /// Hummingbird's own lines are for those who debug it; at each orderly end it tells of an error.
    private var quiet: Logger {
        var quiet = log
        quiet.logLevel = .critical
        return quiet
    }

    /// The system's, and not NIO's with the name of its own function.
    private static func words(_ error: any Error) -> String {
        guard let error = error as? IOError, let words = strerror(error.errnoCode) else {
            return "\(error)"
        }
        return String(cString: words)
    }
}

/// Sets a connection up. It lives in NIO's pipeline alone: no task waits for it.
struct NoticeChannel: ServerChildChannel {
    struct Value: ServerChildChannelValue {
        let channel: any Channel
    }

    let desk: NIOLoopBoundBox<Desk?>

    func setup(channel: any Channel, logger: Logger) -> EventLoopFuture<Value> {
        channel.eventLoop.makeCompletedFuture {
            guard let desk = desk.value, let connection = desk.admit(channel) else {
                // Not yet registered: it can be closed when it is.
                channel.eventLoop.execute { channel.close(promise: nil) }
                return Value(channel: channel)
            }
            // A request comes whole in one read; a second one would only say that there is no more.
            try channel.syncOptions?.setOption(.maxMessagesPerRead, value: 1)
            let pipeline = channel.pipeline.syncOperations
            try pipeline.addHandler(ByteWatch(connection))
            try pipeline.addHandler(
                ByteToMessageHandler(
                    HTTPRequestDecoder(
                        leftOverBytesStrategy: .dropBytes,
                        limitConfiguration: Self.decoderLimits)))
            try pipeline.addHandler(connection)
            return Value(channel: channel)
        }
    }

    func handle(value: Value, logger: Logger) async {}

    private static var decoderLimits: NIOHTTPDecoderLimitConfiguration {
        var limits = NIOHTTPDecoderLimitConfiguration()
        limits.maxHeaderFieldSize = HTTPLimits.headByteCountMax
        limits.maxHeaderListSize = HTTPLimits.headByteCountMax
        limits.maxHeaderFieldCount = HTTPLimits.headerFieldCountMax
        return limits
    }
}

/// Tells a connection of bytes before they make a request.
final class ByteWatch: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    private let connection: Connection

    init(_ connection: Connection) { self.connection = connection }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        connection.onBytes()
        context.fireChannelRead(data)
    }
}
