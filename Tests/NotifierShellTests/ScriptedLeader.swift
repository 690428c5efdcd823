// A leader in memory, for a session client on a real loop: it answers as the test says.

import Edges
import Fleet
import Logging
import SessionCore
import UvLoop
import Wire

/// One end of a connection in memory.
private final class MemoryStream: ByteStream {
    var onBytes: ((UnsafeRawBufferPointer) -> Void)? { didSet { loop.soon { self.deliver() } } }
    var onEnd: ((StreamEnd) -> Void)?
    private let loop: Loop
    private weak var peer: MemoryStream?
    private var unread: [UInt8] = []
    private var isOver = false
    let queuedByteCount = 0

    private init(_ loop: Loop) { self.loop = loop }

    static func pair(on loop: Loop) -> (MemoryStream, MemoryStream) {
        let ends = (MemoryStream(loop), MemoryStream(loop))
        ends.0.peer = ends.1
        ends.1.peer = ends.0
        return ends
    }

    func write(_ bytes: [UInt8]) {
        guard !isOver else { return }
        loop.soon { [peer] in
            peer?.unread += bytes
            peer?.deliver()
        }
    }

    func write(_ bytes: [UInt8], completion: @escaping (UvError?) -> Void) {
        write(bytes)
        loop.soon { completion(nil) }
    }

    func close() {
        loop.soon { [peer] in
            peer?.finish(.endOfFile)
            self.finish(.closedHere)
        }
    }

    func closeAfterWriting() { close() }

    private func deliver() {
        guard !isOver, !unread.isEmpty, let onBytes else { return }
        let bytes = unread
        unread = []
        bytes.withUnsafeBytes { onBytes($0) }
    }

    private func finish(_ end: StreamEnd) {
        guard !isOver else { return }
        isOver = true
        onBytes = nil
        onEnd?(end)
    }
}

private final class NoDial: SessionDial { func cancel() {} }

final class ScriptedLeader: SessionDialer {
    let identity: PeerIdentity
    /// Called with all that the notifier sends; the answer goes back with its correlation.
    var answer: (Message) -> Message? = { _ in nil }
    private(set) var received: [Message] = []
    private let loop: Loop
    private let table: SessionTable

    init(on loop: Loop) throws {
        self.loop = loop
        guard let notifier = PeerIdentity(cluster: "demo", role: .notifier, name: "n"),
            let server = PeerIdentity(cluster: "demo", role: .server, name: "s")
        else { preconditionFailure("names that are none") }
        identity = notifier
        table = SessionTable(on: loop, identity: server, logger: Self.log)
        table.onHello = { _, _ in
            .accept(
                HelloAccepted(
                    version: 0, server: "s", isLeader: true, term: 3, servers: ["s:1"],
                    software: "test"))
        }
        table.onMessage = { [unowned self] session, message, correlation in
            received.append(message)
            if let answer = answer(message) { session.send(answer, correlation: correlation) }
        }
    }

    static var log: Logger { Logger(label: "test") { _ in SwiftLogNoOpLogHandler() } }

    func client() -> SessionClient {
        SessionClient(
            on: loop, servers: ["s:1"], dialer: self, software: "test", logger: Self.log)
    }

    /// Whether this was asked.
    func has(_ query: OperatorQuery) -> Bool {
        received.contains { if case .query(query, _) = $0 { true } else { false } }
    }

    func send(_ message: Message) { for session in table.sessions { session.send(message) } }

    /// The client comes back by itself.
    func endSessions() { table.closeSessions(.shuttingDown, reason: "a test") }

    func close() { table.close(.shuttingDown, reason: "the test is over") }

    func dial(
        _ server: String, isUrgent: Bool,
        completion: @escaping (Result<AuthenticatedStream, SessionProblem>) -> Void
    ) -> any SessionDial {
        loop.soon { [self] in
            let (near, far) = MemoryStream.pair(on: loop)
            func end(_ stream: MemoryStream, of uri: String) -> AuthenticatedStream {
                AuthenticatedStream(
                    stream,
                    certificate: CertificateIdentity(
                        uri: uri, notAfterUnixSeconds: 1 << 40, serialHex: "01"))
            }
            table.add(
                end(far, of: identity.uri), number: table.nextNumber(), peer: "memory",
                connectedAt: loop.nowMilliseconds)
            completion(.success(end(near, of: "fermata://demo/server/s")))
        }
        return NoDial()
    }
}
