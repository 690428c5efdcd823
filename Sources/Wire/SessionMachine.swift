// A session, seen from either side, after TLS has been established. Only computes: bytes and
// moments go in, actions come out.
//
//   connecting side                              server
//   ---------------                              ------
//   start                                        start
//     | sends Hello                                |
//     v                                            v
//   opening --HelloAccepted--> ready             opening --Hello--> deciding --accept--> ready
//     |                          |                 |                   |                   |
//     +---- Close, rule broken, silence, close() --+-------------------+-------------------+
//     v                                            v
//   closed                                       closed
//
//   state     event                          next      what happens
//   --------  -----------------------------  --------  ---------------------------------------
//   opening   Hello (server side)            deciding  checked, then .hello: the shell decides
//   opening   Hello that does not fit        closed    Close VERSION_MISMATCH, WRONG_CLUSTER,
//                                                      WRONG_IDENTITY or NOT_PERMITTED
//   opening   HelloAccepted (client side)    ready     .ready
//   opening   nothing for 5 s                closed    Close TIMEOUT
//   opening   anything else                  closed    Close WRONG_STATE
//   deciding  accept()                       ready     HelloAccepted is sent
//   deciding  bytes                          deciding  left unread until the decision
//   ready     Hello, HelloAccepted           closed    Close WRONG_STATE
//   ready     Ping                           ready     Pong with the same nonce
//   ready     Pong                           ready     nothing (every byte counts as life)
//   ready     a kind the peer's role may send ready    .deliver
//   ready     a kind it may not send         closed    Close NOT_PERMITTED
//   ready     the 64th unanswered request    ready     nothing more is read until one is answered
//   ready     the 64th message that is not  ready     the same
//             acted on yet (workBegan)
//   ready     a request whose correlation is closed    Close BAD_FRAME
//             0 or waits for its answer
//   ready     unknown kind                   ready     ignored; if MANDATORY: Close UNKNOWN_KIND
//   ready     silence of keepalive           ready     Ping, and again each keepalive
//   ready     silence of the limit           closed    Close TIMEOUT
//   any       Close                          closed    .ended(.closedByPeer)
//   any       bad frame or body              closed    Close BAD_FRAME
//   any       close()                        closed    Close with the given code
//   closed    anything                       closed    nothing
import Fleet

/// Why and by whom a session was ended.
public enum SessionEnd: Hashable, Sendable, CustomStringConvertible {
    /// We closed, and have told the peer so.
    case closedByUs(CloseCode, reason: String)
    case closedByPeer(CloseCode, reason: String)

    public var code: CloseCode {
        switch self {
        case .closedByUs(let code, _), .closedByPeer(let code, _): code
        }
    }
    public var reason: String {
        switch self {
        case .closedByUs(_, let reason), .closedByPeer(_, let reason): reason
        }
    }
    public var description: String {
        switch self {
        case .closedByUs(let code, let reason): "closed with \(code.name): \(excerpt(reason))"
        case .closedByPeer(let code, let reason):
            "closed by the peer with \(code.name): \(excerpt(reason))"
        }
    }
}

/// One session's rules. See the table at the top of this file.
///
/// Moments are milliseconds on any clock that only goes forward. Use: feed it with
/// ``receive(_:at:)`` and ``tick(at:)``, and after each call do what ``next()`` says until nil. Read
/// from the peer only while ``wantsBytes`` says so.
public struct SessionMachine: Sendable {
    public enum State: Hashable, Sendable, CaseIterable {
        case opening
        case deciding
        case ready
        case closed
    }

    public enum Action: Hashable, Sendable {
        /// Bytes for the peer, in order.
        case send([UInt8])
        /// Server side: the hello fits the certificate. Call ``accept(_:at:)`` or close.
        case hello(Hello)
        /// Client side: the session is open.
        case ready(HelloAccepted)
        /// A message that the peer's role may send.
        case deliver(Message, correlation: UInt64)
        /// The last action: close the stream once everything has been written.
        case ended(SessionEnd)
    }

    public private(set) var state = State.opening
    /// Who we are, and who the peer's certificate says it is.
    public let own: PeerIdentity
    public let peer: PeerIdentity
    private let versions: ClosedRange<UInt32>
    private let opening: Hello?
    private var decoder = FrameDecoder(limit: Limits.frameByteCountBeforeHelloMax)
    private var assembler = ChunkAssembler()
    private var actions: [Action] = []
    private var actionIndex = 0
    /// Correlations of the peer's requests that have no answer yet.
    private var unanswered: [UInt64] = []
    /// Messages that ask for something without being requests, and are not acted on yet.
    private var workCount = 0

    private var startedAt: Int64 = 0
    private var heardAt: Int64 = 0
    private var pingedAt: Int64 = 0
    private var tickedAt: Int64 = 0
    private var keepaliveMilliseconds = Int64(Limits.keepaliveMilliseconds)
    private var silenceMilliseconds = Int64(Limits.peerSilenceMillisecondsMax)
    private var nonce: UInt64 = 0

    /// The connecting side. `hello` must carry our own identity.
    public init(client hello: Hello, peer: PeerIdentity) {
        own = hello.identity
        self.peer = peer
        versions = hello.versionMin...hello.versionMax
        opening = hello
    }

    /// The server's side.
    public init(
        server own: PeerIdentity, peer: PeerIdentity,
        versions: ClosedRange<UInt32> = ProtocolVersion.min...ProtocolVersion.max
    ) {
        self.own = own
        self.peer = peer
        self.versions = versions
        opening = nil
    }

    private var isClient: Bool { opening != nil }

    /// Whether more may be read from the peer now. False while a hello is being decided on and while
    /// too many requests wait for their answers, or other messages to be acted on, so that a peer cannot
    /// fill our memory with any.
    public var wantsBytes: Bool {
        switch state {
        case .opening: true
        case .deciding, .closed: false
        case .ready:
            unanswered.count < Limits.unansweredRequestsMax && workCount < Limits.unfinishedWorkMax
        }
    }

    /// Why we closed, in one word for counting: a ``CloseCode``'s name, or the rule of frames that
    /// was broken, or `badMessage`. Empty unless we closed.
    public private(set) var fault = ""

    // MARK: - Events

    /// TLS is established.
    ///
    /// - Parameter connectedAt: when the connection was; the hello's time limit counts from there.
    public mutating func start(at now: Int64, connectedAt: Int64? = nil) {
        startedAt = connectedAt ?? now
        heardAt = now
        tickedAt = now
        guard let opening else { return }
        guard peer.role == .server else {
            return close(
                .wrongIdentity, "\(peer.uri) is not a server: connect to the address of one")
        }
        guard peer.cluster == own.cluster else {
            return close(
                .wrongCluster,
                "the server is of cluster \(peer.cluster), this certificate of \(own.cluster)")
        }
        push(.hello(opening), correlation: 0)
    }

    /// The peer has sent something.
    public mutating func receive(_ bytes: UnsafeRawBufferPointer, at now: Int64) {
        guard state != .closed else { return }
        heardAt = max(heardAt, now)
        decoder.append(bytes)
    }

    public mutating func receive(_ bytes: [UInt8], at now: Int64) {
        bytes.withUnsafeBytes { receive($0, at: now) }
    }

    /// Time has passed. Call it a few times each keepalive interval.
    public mutating func tick(at now: Int64) {
        // If we ourselves did not run for a while, the peer's bytes may still wait unread: that
        // time is no silence of the peer's.
        let stall = now - tickedAt - keepaliveMilliseconds
        tickedAt = now
        if stall > 0 {
            // Bytes that were read between the stall and this tick came after it.
            heardAt = min(heardAt + stall, now)
            startedAt += stall
        }
        switch state {
        case .closed: return
        case .opening, .deciding:
            if now - startedAt >= Int64(Limits.handshakeMillisecondsMax) {
                close(.timeout, "no hello within \(Limits.handshakeMillisecondsMax) ms")
            }
        case .ready:
            // What we do not read is no silence of the peer's. It must still hear us.
            if !wantsBytes {
                heardAt = now
                ping(at: now)
                return
            }
            let silence = now - heardAt
            if silence >= silenceMilliseconds {
                close(.timeout, "nothing heard for \(silence) ms")
            } else if silence >= keepaliveMilliseconds {
                ping(at: now)
            }
        }
    }

    private mutating func ping(at now: Int64) {
        guard now - pingedAt >= keepaliveMilliseconds else { return }
        pingedAt = now
        nonce &+= 1
        push(.ping(nonce: nonce), correlation: 0)
    }

    /// Server side: lets the peer in.
    ///
    /// - Precondition: the state is `deciding`. `accepted.version` is filled in here.
    public mutating func accept(_ accepted: HelloAccepted, at now: Int64) {
        precondition(state == .deciding, "accept in state \(state)")
        var accepted = accepted
        accepted.version = version
        keepaliveMilliseconds = Int64(accepted.keepaliveMilliseconds)
        silenceMilliseconds = Int64(accepted.silenceMilliseconds)
        heardAt = max(heardAt, now)
        becomeReady()
        push(.helloAccepted(accepted), correlation: 0)
    }

    /// Queues a message for the peer.
    ///
    /// - Returns: false, with nothing queued, unless the state is `ready` and the message fits.
    /// - Precondition: our role may send this kind to the peer's.
    public mutating func send(_ message: Message, correlation: UInt64) -> Bool {
        guard state == .ready else { return false }
        precondition(
            message.kind.isPermitted(from: own.role, to: peer.role),
            "\(own.role) may not send \(message.kind) to \(peer.role)")
        guard push(message, correlation: correlation) else { return false }
        if message.kind.isAnswer, let index = unanswered.firstIndex(of: correlation) {
            unanswered.remove(at: index)
        }
        return true
    }

    /// What the message that was delivered asks for is not done yet. Not for requests.
    public mutating func workBegan() { workCount += 1 }

    /// Once for each ``workBegan()``.
    public mutating func workEnded() {
        precondition(workCount > 0, "work has ended that did not begin")
        workCount -= 1
    }

    /// Tells the peer why, and ends.
    public mutating func close(_ code: CloseCode, _ reason: String) {
        close(code, reason, fault: code.counterName)
    }

    private mutating func close(_ code: CloseCode, _ reason: String, fault: String) {
        guard state != .closed else { return }
        self.fault = fault
        var reason = reason
        while reason.utf8.count > Self.closeReasonByteCountMax { reason.removeLast() }
        push(.close(code, reason: reason), correlation: 0)
        end(.closedByUs(code, reason: reason))
    }

    /// A close must fit a frame before the hello.
    private static let closeReasonByteCountMax = 1_024

    // MARK: - What to do

    /// What the shell is to do next; nil when there is nothing more until the next event.
    public mutating func next() -> Action? {
        while true {
            if actionIndex < actions.count {
                actionIndex += 1
                return actions[actionIndex - 1]
            }
            if actionIndex > 0 {
                actions.removeAll(keepingCapacity: true)
                actionIndex = 0
            }
            guard wantsBytes else { return nil }
            do {
                guard let frame = try decoder.next() else { return nil }
                try on(frame)
            } catch let error as FrameError {
                close(.badFrame, error.description, fault: error.name)
            } catch let error as ConversionError {
                close(.badFrame, error.description, fault: "badMessage")
            } catch {
                preconditionFailure("unexpected error \(error)")
            }
        }
    }

    /// The agreed version; meaningful from `deciding` on.
    public private(set) var version: UInt32 = 0

    // MARK: - Frames

    private mutating func on(_ frame: Frame) throws {
        guard let kind = MessageKind(rawValue: frame.kind) else {
            if state == .opening {
                close(.wrongState, "kind \(frame.kind) before the hello")
            } else if frame.flags.contains(.mandatory) {
                close(.unknownKind, "kind \(frame.kind) is not known to version \(version)")
            }
            return
        }
        if state == .opening {
            try onOpening(kind, frame)
            return
        }
        guard kind != .hello, kind != .helloAccepted else {
            return close(.wrongState, "\(kind) in a session that is open already")
        }
        // Before anything is put together, so that nobody fills memory with what is not his.
        guard kind.isPermitted(from: peer.role, to: own.role) else {
            return close(.notPermitted, "\(peer.role) may not send \(kind) to \(own.role)")
        }
        guard let whole = try assembler.add(frame) else { return }
        switch try Message(kind: kind, body: whole.body) {
        case .ping(let nonce): push(.pong(nonce: nonce), correlation: whole.correlation)
        case .pong: break
        case .close(let code, let reason): end(.closedByPeer(code, reason: reason))
        case let message:
            guard accepts(kind, whole.correlation) else { return }
            actions.append(.deliver(message, correlation: whole.correlation))
        }
    }

    /// Counts a request until it is answered. Closes, and says false, if nobody could tell which
    /// answer would be meant.
    private mutating func accepts(_ kind: MessageKind, _ correlation: UInt64) -> Bool {
        if correlation == 0, kind.needsCorrelation {
            close(.badFrame, "\(kind) with correlation 0", fault: "badCorrelation")
            return false
        }
        guard kind.isRequest else { return true }
        if correlation != 0, unanswered.contains(correlation) {
            close(
                .badFrame, "\(kind) with correlation \(correlation), which waits for its answer",
                fault: "badCorrelation")
            return false
        }
        unanswered.append(correlation)
        return true
    }

    private mutating func onOpening(_ kind: MessageKind, _ frame: Frame) throws {
        guard !frame.flags.contains(.more) else {
            return close(
                .badFrame, "\(kind) in chunks before the session is open",
                fault: "chunkBeforeHello")
        }
        switch kind {
        case .close:
            guard case .close(let code, let reason) = try Message(kind: kind, body: frame.body)
            else { return }
            end(.closedByPeer(code, reason: reason))
        case .hello where !isClient: try onHello(frame.body)
        case .helloAccepted where isClient: try onHelloAccepted(frame.body)
        default: close(.wrongState, "\(kind) before the session is open")
        }
    }

    private mutating func onHello(_ body: [UInt8]) throws {
        // Versions first: of a later hello nothing else can be relied on.
        let spoken = try Hello.versions(in: body)
        let low = max(spoken.lowerBound, versions.lowerBound)
        let high = min(spoken.upperBound, versions.upperBound)
        guard low <= high else {
            return close(
                .versionMismatch,
                "server \(own.name) speaks protocol versions \(text(versions)), "
                    + "the peer \(text(spoken)): install matching releases of fermata")
        }
        guard case .hello(let hello) = try Message(kind: .hello, body: body) else { return }
        let claimed = hello.identity
        guard claimed.cluster == own.cluster, peer.cluster == own.cluster else {
            return close(
                .wrongCluster,
                "this is cluster \(own.cluster), the peer's certificate is of \(peer.cluster) "
                    + "and its hello says \(claimed.cluster): use credentials of \(own.cluster)")
        }
        guard claimed == peer else {
            return close(
                .wrongIdentity,
                "the hello says \(claimed.uri), the certificate \(peer.uri)")
        }
        version = high
        state = .deciding
        actions.append(.hello(hello))
    }

    private mutating func onHelloAccepted(_ body: [UInt8]) throws {
        guard
            case .helloAccepted(let accepted) = try Message(kind: .helloAccepted, body: body)
        else { return }
        guard versions.contains(accepted.version) else {
            return close(
                .versionMismatch,
                "the server chose protocol version \(accepted.version), "
                    + "we speak \(text(versions)): install matching releases of fermata")
        }
        guard accepted.server == peer.name else {
            return close(
                .wrongIdentity,
                "the server says it is \(accepted.server), its certificate \(peer.name)")
        }
        version = accepted.version
        keepaliveMilliseconds = Int64(accepted.keepaliveMilliseconds)
        silenceMilliseconds = Int64(accepted.silenceMilliseconds)
        becomeReady()
        actions.append(.ready(accepted))
    }

    private mutating func becomeReady() {
        state = .ready
        decoder.limit = Limits.frameByteCountMax
    }

    @discardableResult
    private mutating func push(_ message: Message, correlation: UInt64) -> Bool {
        var bytes: [UInt8] = []
        guard encodeMessage(message, correlation: correlation, into: &bytes) else { return false }
        actions.append(.send(bytes))
        return true
    }

    private mutating func end(_ end: SessionEnd) {
        state = .closed
        actions.append(.ended(end))
    }

    private func text(_ versions: ClosedRange<UInt32>) -> String {
        versions.lowerBound == versions.upperBound
            ? "\(versions.lowerBound)" : "\(versions.lowerBound) to \(versions.upperBound)"
    }
}
