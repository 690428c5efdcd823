// Where a server, the notifier and the operators sit: each is started, killed and started again, and what it
// keeps on its disk stays here.

import Edges
import Fleet
import LeaderCore
import LogCore
import Logging
import SessionCore
import Wire

/// Dials over the simulated network: whoever is connected knows the other by name.
final class SimulatedDialer: SessionDialer {
    let identity: PeerIdentity
    private let process: SimulatedProcess
    private let world: World

    init(_ identity: PeerIdentity, _ process: SimulatedProcess, _ world: World) {
        self.identity = identity
        self.process = process
        self.world = world
    }

    private final class Dial: SessionDial {
        var isCancelled = false
        func cancel() { isCancelled = true }
    }

    func dial(
        _ server: String, isUrgent: Bool,
        completion: @escaping (Result<AuthenticatedStream, SessionProblem>) -> Void
    ) -> any SessionDial {
        let dial = Dial()
        let limit = Int64(Limits.handshakeMillisecondsMax) * 1_000
        world.network.connect(process, to: server, timeout: limit, as: identity) { result in
            guard !dial.isCancelled else {
                if case .success(let stream) = result { stream.close() }
                return
            }
            switch result {
            case .success(let stream):
                let name = String(server.prefix { $0 != ":" })
                let peer = PeerIdentity(cluster: World.cluster, role: .server, name: name)!
                completion(.success(AuthenticatedStream(stream, certificate: certificate(peer))))
            case .failure(.refused):
                completion(
                    .failure(SessionProblem(.refused, "\(server) refuses", advice: "")))
            case .failure(.timedOut):
                completion(
                    .failure(SessionProblem(.timedOut, "\(server) is silent", advice: "")))
            }
        }
        return dial
    }
}

func certificate(_ identity: PeerIdentity) -> CertificateIdentity {
    CertificateIdentity(uri: identity.uri, notAfterUnixSeconds: 4_000_000_000, serialHex: "01")
}

/// A computer with a server on it.
final class ServerSeat {
    let name: String
    let place: Place
    let address: String
    private let all: [String]
    private unowned let world: World
    private var chance: Chance
    private(set) var process: SimulatedProcess?
    private(set) var core: ServerCore?
    private var carrier: ServerCarrier?

    init(_ name: String, all: [String], at place: Place, _ world: World, _ chance: Chance) {
        self.name = name
        self.place = place
        self.all = all
        self.world = world
        self.chance = chance
        address = "\(name):7000"
    }

    var isLeading: Bool {
        if process?.isAlive == true, case .leader = core?.role { true } else { false }
    }

    func hasSession(of host: HostID) -> Bool { carrier?.hasSession(of: host) == true }

    /// What it has made of the log as one that follows it.
    func compareIfStandby() {
        guard process?.isAlive == true, let core, case .standby = core.role,
            let state = core.state, world.truth.comparesServers(at: state.index)
        else { return }
        world.truth.compare(state, of: name)
    }

    func startIfDead() { if process?.isAlive != true { start() } }

    func start() {
        guard process?.isAlive != true else { return }
        let process = SimulatedProcess(name, at: place)
        self.process = process
        world.faults.watch(process, .server(self))
        let loop = SimulatedLoop(process, chance.fork())
        let carrier = ServerCarrier(self, process, loop, world)
        self.carrier = carrier
        let others = all.filter { $0 != name }.map { "\($0):7000" }
        let core = ServerCore(
            identity: carrier.identity,
            group: ServerGroup(advertise: address, peers: others),
            softwareVersion: "0", store: world.store.store(for: self, process, loop), loop: loop,
            log: world.logger(name), edges: carrier, snapshotFactsInterval: 200)
        self.core = core
        carrier.core = core
        core.onFatal = { [unowned self, unowned process] error in
            world.trace(name, "ends: \(error)")
            world.truth.serverEnds(name, error)
            if process === self.process { kill(restartAfter: 1_000_000) }
        }
        core.onCommitted = { [unowned self] _, _, state in
            if world.truth.comparesServers(at: state.index) {
                world.truth.compare(state, of: name)
            }
        }
        core.start { [unowned self, unowned process] result in
            switch result {
            case .success: carrier.listen(address)
            case .failure(let error):
                world.trace(name, "cannot start: \(error)")
                world.truth.serverEnds(name, error)
                if process === self.process { kill(restartAfter: 1_000_000) }
            }
        }
    }

    /// Of what has died nothing may be held any more. It may be in the middle of a callback: that one still
    /// ends.
    func letGo(now: Bool = false) {
        process?.kill()
        guard let core, let carrier else { return }
        self.core = nil
        self.carrier = nil
        let end = {
            core.stop()
            carrier.letGo()
        }
        if now { end() } else { world.timeline.after(0, end) }
    }

    func kill(restartAfter delay: Int64) {
        guard let process, process.isAlive else { return }
        letGo()
        world.timeline.after(delay) { [unowned self] in startIfDead() }
    }
}

/// What carries a server: sessions, and a record of what operators ask for.
final class ServerCarrier: ServerEdges, AuditRecorder {
    let identity: PeerIdentity
    private let process: SimulatedProcess
    private let loop: SimulatedLoop
    private unowned let world: World
    private let table: SessionTable
    weak var core: ServerCore?

    init(
        _ seat: ServerSeat, _ process: SimulatedProcess, _ loop: SimulatedLoop, _ world: World
    ) {
        identity = PeerIdentity(cluster: World.cluster, role: .server, name: seat.name)!
        self.process = process
        self.loop = loop
        self.world = world
        table = SessionTable(on: loop, identity: identity, logger: world.logger(seat.name))
        table.onHello = { [unowned self] _, _ in
            core.map { .accept($0.helloAccepted) } ?? .refuse(.shuttingDown, reason: "it starts")
        }
        table.onReady = { [unowned self] in core?.onReady($0) }
        table.onMessage = { [unowned self] in core?.onMessage($1, $2, of: $0) }
        table.onDown = { [unowned self] session, end in
            switch end {
            case .session(let end): core?.onDown(session, end)
            case .stream: core?.onDown(session, nil)
            }
        }
    }

    func hasSession(of host: HostID) -> Bool {
        table.sessions.contains {
            $0.identity.role == .agent && $0.identity.name == host.rawValue
        }
    }

    func listen(_ address: String) {
        world.network.listen(address, process) { [self] stream, peer in
            table.add(
                AuthenticatedStream(stream, certificate: certificate(peer)),
                number: table.nextNumber(), peer: peer.name,
                connectedAt: loop.nowMilliseconds)
        }
    }

    func letGo() { table.close(.shuttingDown, reason: "it has died") }

    var audit: any AuditRecorder { self }

    func record(_ entry: AuditEntry, then: @escaping () -> Void) {
        // A line of a file, synced.
        guard process.edge("audit") else { return }
        process.run(after: world.faults.takes(500, doublings: 6), then)
    }

    func count(_ name: String, _ reason: String) { table.tally.count(name, reason) }
    func complete(_ view: inout StatusView) {}

    func closeSessions(_ code: CloseCode, reason: String) {
        table.closeSessions(code, reason: reason)
    }

    func watch(_ address: String) -> any LeaderWatch {
        SessionClient(
            on: loop, servers: [address], dialer: SimulatedDialer(identity, process, world),
            software: "0", logger: world.logger(identity.name))
    }
}
