import Fleet
import Logging
import Testing
import UvLoop
import Wire

@testable import SessionCore
@testable import SessionShell

/// An authority in a directory of its own, a loop, and what is on it; all gone with ``close()``.
final class Stage {
    let loop: Loop
    let directory: String
    let logger = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }

    init(cluster: String = "demo") throws {
        loop = try Loop()
        let name = randomBytes(8).map { String($0, radix: 16) }.joined()
        directory = "/tmp/fermata-session-\(name)"
        try CertificateAuthority.create(cluster: cluster, directory: directory, days: 2)
        for (role, name) in [
            ("server", "s1"), ("server", "s2"), ("agent", "a"), ("operator", "alice"),
        ] {
            _ = try CertificateAuthority.issue(
                role: role, name: name, cluster: cluster, directory: directory, days: 1)
        }
    }

    func close() {
        loop.closeAll()
        try? Files.removeTree(path: directory)
    }

    func credentials(_ prefix: String, roles: [Role]) throws -> Credentials {
        try Credentials.load(prefix: "\(directory)/\(prefix)", roles: roles)
    }

    func listener(
        _ name: String = "s1", port: UInt16 = 0, isLeader: Bool = true,
        servers: @escaping () -> [String] = { [] }
    ) throws -> SessionListener {
        let address = try #require(SocketAddress(ip: "127.0.0.1", port: port))
        let listener = try SessionListener(
            on: loop, address: address,
            credentials: try credentials("server-\(name)", roles: [.server]), logger: logger)
        listener.onHello = { _, _ in
            .accept(
                HelloAccepted(
                    version: 0, server: name, isLeader: isLeader, term: 3, servers: servers(),
                    software: "test"))
        }
        return listener
    }

    func client(
        _ servers: [String], as prefix: String = "agent-a", role: Role = .agent
    ) throws -> SessionClient {
        SessionClient(
            on: loop, servers: servers,
            credentials: try credentials(prefix, roles: [role]), software: "test",
            logger: logger)
    }

    /// Runs until `condition` holds; an issue is recorded if it does not within 30 s.
    func run(
        until condition: @escaping () -> Bool, sourceLocation: SourceLocation = #_sourceLocation
    ) {
        let check = loop.every(.milliseconds(1)) { [loop] in if condition() { loop.stop() } }
        let limit = loop.after(.seconds(30)) { [loop] in
            Issue.record("nothing came of it in 30 s", sourceLocation: sourceLocation)
            loop.stop()
        }
        loop.run()
        check.cancel()
        limit.cancel()
    }

    /// The first failure that `client` meets.
    func firstDown(
        _ client: SessionClient, sourceLocation: SourceLocation = #_sourceLocation
    ) throws -> SessionDown {
        var down: SessionDown?
        client.onDown = { if down == nil { down = $0 } }
        client.start()
        run(until: { down != nil }, sourceLocation: sourceLocation)
        return try #require(down)
    }
}

/// What happened, in order.
final class Diary {
    var entries: [String] = []
    func note(_ text: String) { entries.append(text) }
}

func withStage(_ body: (Stage) throws -> Void) throws {
    let stage = try Stage()
    defer { stage.close() }
    try body(stage)
}
