// A server as a process: listens, lets peers in, and has `ServerCore` lead or follow.
//
// Happy path: with a log that only this process can open, it leads first and listens then; else it
// listens and follows. Sessions and their messages go to the core as they come.
// Failure modes: the embedded log cannot be opened or written → `onFatal`, the process ends, and the
// next start goes on from the log; the port is taken → `start` fails; a peer misbehaves → its session
// is closed with a code and counted. What follows from a lost etcd log is decided by the core.

public import Fleet
public import LeaderCore
public import LogCore
public import Logging
import SessionCore
public import SessionShell
public import UvLoop
public import Wire

public enum LeaderError: Error, Hashable, Sendable, CustomStringConvertible {
    case log(LogStoreError)
    case cannotListen(address: String, UvError)

    public var description: String {
        switch self {
        case .log(let error): "\(error)"
        case .cannotListen(let address, let error):
            error.name == "EADDRINUSE"
                ? "port in use: another process listens on \(address); stop it or give --listen"
                : "cannot listen on \(address): \(error)"
        }
    }
}

public final class LeaderShell {
    private(set) var credentials: Credentials
    let loop: Loop
    let log: Logger
    let tally = Tally()
    private let core: ServerCore
    private let edges: ProcessEdges
    private let listenAddress: SocketAddress
    private let bounds: ConnectionGate.Bounds
    private(set) var listener: SessionListener?

    /// The log cannot be written or read any more: the process must end, and may start again.
    public var onFatal: (LeaderError) -> Void = { _ in }
    /// This server leads from now on, or follows. Not called for what ``start(completion:)`` says.
    public var onRole: (ServerRole) -> Void {
        get { core.onRole }
        set { core.onRole = newValue }
    }

    /// - Parameters:
    ///   - bounds: how many connections are let in.
    ///   - auditPath: file that gets a line for each command of an operator; nil for none.
    ///   - group: the other servers; only of use with a log that several can read.
    ///   - pauseAt: see ``UvLoop/TestPause``.
    public init(
        credentials: Credentials, listen: SocketAddress, store: any LogStore,
        softwareVersion: String, loop: Loop, log: Logger,
        snapshotFactsInterval: UInt64 = Limits.snapshotFactsInterval,
        bounds: ConnectionGate.Bounds = ConnectionGate.Bounds(), auditPath: String? = nil,
        group: ServerGroup = .alone, pauseAt: String? = nil
    ) {
        self.credentials = credentials
        listenAddress = listen
        self.loop = loop
        self.log = log
        self.bounds = bounds
        edges = ProcessEdges(
            audit: AuditLog(path: auditPath, loop: loop, log: log, tally: tally),
            softwareVersion: softwareVersion)
        core = ServerCore(
            identity: credentials.identity, group: group, softwareVersion: softwareVersion,
            store: store, loop: loop, log: log, edges: edges,
            snapshotFactsInterval: snapshotFactsInterval, pause: pauseAt.map { TestPause($0) })
        edges.shell = self
        core.onFatal = { [unowned self] error in onFatal(.log(error)) }
    }

    /// Listens, and leads: at once with an embedded log, else when there is no other leader.
    ///
    /// - Parameter completion: the address listened on, and the term if this server leads already.
    public func start(
        completion: @escaping (Result<(address: SocketAddress, term: UInt64?), LeaderError>) -> Void
    ) {
        core.start { [self] result in
            switch result {
            case .failure(let error): completion(.failure(.log(error)))
            case .success(let term):
                do throws(UvError) {
                    let address = try listen()
                    log.info(
                        "listening",
                        metadata: [
                            "address": "\(address)", "term": "\(term.map { "\($0)" } ?? "none")",
                        ])
                    completion(.success((address, term)))
                } catch {
                    core.stop()
                    completion(.failure(.cannotListen(address: "\(listenAddress)", error)))
                }
            }
        }
    }

    /// Uses these from now on; sessions of those whose certificate they revoke are closed.
    public func use(_ credentials: Credentials) {
        self.credentials = credentials
        listener?.use(credentials)
        edges.watch?.use(credentials)
    }

    /// Stops listening and ends every session; what is committed is safe. The other servers take over
    /// at once.
    public func stop() {
        listener?.close(.shuttingDown, reason: "the server is shutting down")
        core.stop()
    }

    private func listen() throws(UvError) -> SocketAddress {
        let listener = try SessionListener(
            on: loop, address: listenAddress, credentials: credentials, logger: log,
            bounds: bounds, tally: tally)
        self.listener = listener
        listener.onHello = { [unowned self] _, _ in .accept(core.helloAccepted) }
        listener.onReady = { [unowned self] session in core.onReady(session) }
        listener.onMessage = { [unowned self] session, message, correlation in
            core.onMessage(message, correlation, of: session)
        }
        listener.onDown = { [unowned self] session, end in
            switch end {
            case .session(let end): core.onDown(session, end)
            case .stream: core.onDown(session, nil)
            }
        }
        return listener.address
    }
}
