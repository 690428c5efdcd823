import Edges
import Fleet
import Glibc
import Logging
import Synchronization
import Testing
import Wire

@testable import SessionCore
@testable import SessionShell
@testable import UvLoop

/// Keeps what is logged.
private final class LogBook: Sendable {
    let lines = Mutex<[String]>([])
    var text: String { lines.withLock { $0.joined(separator: "\n") } }

    struct Handler: LogHandler {
        let book: LogBook
        var metadata: Logger.Metadata = [:]
        var logLevel = Logger.Level.trace
        subscript(metadataKey key: String) -> Logger.Metadata.Value? {
            get { metadata[key] }
            set { metadata[key] = newValue }
        }
        func log(event: LogEvent) {
            let values = (event.metadata ?? [:]).map { "\($0.key)=\($0.value)" }.sorted()
            book.lines.withLock {
                $0.append("\(event.level): \(event.message) \(values.joined(separator: " "))")
            }
        }
    }
    var logger: Logger { Logger(label: "test") { _ in Handler(book: self) } }
}

extension Stage {
    func revoke(_ role: String, _ name: String) throws {
        _ = try CertificateAuthority.revoke(
            .identity(role: role, name: name), directory: directory, reason: .keyCompromise)
    }

    func renew(_ role: String, _ name: String, newKey: Bool = false) throws {
        _ = try CertificateAuthority.renew(
            .identity(role: role, name: name), directory: directory, days: 2, newKey: newKey)
    }

    func link(_ target: String, _ name: String) throws {
        try #require(symlink(target, "\(directory)/\(name)") == 0)
    }

    func move(_ from: String, to: String) throws {
        let bytes = try Files.read(path: "\(directory)/\(from)", byteCountMax: 1 << 20)
        try Files.writeAtomically(
            path: "\(directory)/\(to)", bytes: bytes, durable: false, mode: 0o600)
    }
}

@Suite("Credentials that are replaced while in use")
struct CredentialsTests {
    @Test("a renewed certificate is used for new sessions, and open ones go on")
    func renewed() throws {
        try withStage { stage in
            let listener = try stage.listener()
            listener.replacesOlder = { _ in false }
            let client = try stage.client(["\(listener.address)"])
            client.start()
            stage.run(until: { listener.sessions.count == 1 })
            let before = client.credentials.certificate
            try stage.renew("agent", "a", newKey: true)
            try stage.renew("server", "s1")
            listener.use(try listener.credentials.loadAgain())
            client.use(try client.credentials.loadAgain())
            #expect(client.isReady && listener.sessions.count == 1)
            #expect(client.credentials.certificate.serialHex != before.serialHex)
            let second = try stage.client(["\(listener.address)"])
            second.start()
            stage.run(until: { listener.sessions.count == 2 })
            #expect(
                listener.sessions.map(\.certificate) == [before, client.credentials.certificate])
            client.stop()
            stage.run(until: { listener.sessions.count == 1 })
            client.start()
            stage.run(until: { listener.sessions.count == 2 })
            #expect(listener.sessions.last?.certificate == client.credentials.certificate)
        }
    }

    @Test("a peer that is revoked loses its open session, gets no new one, and others stay")
    func revoked() throws {
        try withStage { stage in
            let listener = try stage.listener()
            let address = "\(listener.address)"
            let agent = try stage.client([address])
            let alice = try stage.client([address], as: "operator-alice", role: .operator)
            var down: SessionDown?
            agent.onDown = { down = $0 }
            var ends: [ServerSessionEnd] = []
            listener.onDown = { ends.append($1) }
            agent.start()
            alice.start()
            stage.run(until: { listener.sessions.count == 2 })
            let serial = agent.credentials.certificate.serialHex
            try stage.revoke("agent", "a")
            let identities = listener.use(try listener.credentials.loadAgain())
            #expect(identities.map(\.uri) == ["fermata://demo/agent/a"])
            #expect(
                ends == [
                    .session(
                        .closedByUs(
                            .notPermitted, reason: "certificate \(serial) has been revoked"))
                ])
            stage.run(until: { down != nil })
            #expect(down?.problem.kind == .notPermitted && down?.problem.exitCode == 77)
            #expect(down?.problem.message.contains("has been revoked") == true)
            #expect(alice.isReady && listener.sessions.count == 1)

            down = nil
            agent.start()
            stage.run(until: { down != nil })
            #expect(down?.problem.kind == .certificateRefused)
            #expect(down?.problem.message.contains("certificate_revoked: ") == true)
            #expect(down?.problem.advice.contains("--new-key") == true)

            // With a new key it is welcome again.
            try stage.renew("agent", "a", newKey: true)
            agent.use(try agent.credentials.loadAgain())
            agent.start()
            stage.run(until: { agent.isReady })
        }
    }

    @Test("a session whose hello has not come is closed as well when it is revoked")
    func beforeHello() throws {
        try withStage { stage in
            let listener = try stage.listener()
            let context = try stage.credentials("agent-a", roles: [.agent]).context
            var closed = false
            var kept: TLSStream?
            let address = try #require(SocketAddress(parsing: "\(listener.address)"))
            _ = SocketStream.connectTCP(address, on: stage.loop, timeout: .seconds(5)) { result in
                guard case .success(let stream) = result else { return }
                TLSStream.start(context, over: stream, on: stage.loop, timeout: .seconds(5)) {
                    guard case .success(let secure) = $0 else { return }
                    kept = secure
                    secure.onEnd = { _ in closed = true }
                    secure.onBytes = { _ in }
                }
            }
            stage.run(until: { listener.table.all.count == 1 })
            try stage.revoke("agent", "a")
            #expect(listener.use(try listener.credentials.loadAgain()).count == 1)
            stage.run(until: { closed && kept != nil })
            #expect(listener.table.all.isEmpty)
        }
    }

    @Test("a handshake that began before the list came is judged by the new list")
    func duringHandshake() throws {
        try withStage { stage in
            let listener = try stage.listener()
            let context = try stage.credentials("agent-a", roles: [.agent]).context
            let address = try #require(SocketAddress(parsing: "\(listener.address)"))
            var transport: SocketStream?
            _ = SocketStream.connectTCP(address, on: stage.loop, timeout: .seconds(5)) {
                transport = try? $0.get()
            }
            stage.run(until: { transport != nil && listener.halfOpenCount == 1 })
            try stage.revoke("agent", "a")
            #expect(listener.use(try listener.credentials.loadAgain()).isEmpty)
            var end: StreamEnd?
            var secure: TLSStream?
            TLSStream.start(
                context, over: try #require(transport), on: stage.loop, timeout: .seconds(5)
            ) {
                guard case .success(let stream) = $0 else { return }
                secure = stream
                stream.onEnd = { end = $0 }
                stream.onBytes = { _ in }
            }
            stage.run(until: { secure != nil && end != nil })
            #expect(listener.refusedCount == 1 && listener.sessions.isEmpty)
            #expect(listener.tally.counters.contains { $0.reason == "revoked" && $0.count == 1 })
        }
    }

    @Test("a client leaves a server that is revoked, and does not come back to it")
    func revokedServer() throws {
        try withStage { stage in
            let listener = try stage.listener()
            let client = try stage.client(["\(listener.address)"])
            var problems: [SessionProblem] = []
            client.onDown = { problems.append($0.problem) }
            client.start()
            stage.run(until: { client.isReady })
            try stage.revoke("server", "s2")
            client.use(try client.credentials.loadAgain())
            #expect(client.isReady, "another server's certificate is none of its business")
            try stage.revoke("server", "s1")
            client.use(try client.credentials.loadAgain())
            stage.run(until: { problems.count == 1 })
            #expect(problems[0].message.contains("has been revoked"))
            client.start()
            stage.run(until: { problems.count == 2 })
            #expect(problems[1].kind == .certificateRefused)
            #expect(problems[1].message.contains("has been revoked"))
        }
    }

    @Test("what cannot be used is refused when it is read again, and the old stay in use")
    func brokenReload() throws {
        try withStage { stage in
            let book = LogBook()
            try stage.revoke("server", "s2")
            let keeper = CredentialsKeeper(
                try stage.credentials("server-s1", roles: [.server]), on: stage.loop,
                log: book.logger)
            var reloads = 0
            keeper.onReload = { _ in reloads += 1 }
            let before = keeper.credentials.certificate
            func refuses(_ words: String) {
                #expect(!keeper.reload())
                #expect(book.text.contains("error: credentials not reloaded"), "\(book.text)")
                #expect(book.text.contains(words), "\(book.text)")
                #expect(keeper.credentials.certificate == before && reloads == 0)
                book.lines.withLock { $0 = [] }
            }
            for name in ["server-s1.pem", "server-s1.key", "crl.pem"] {
                try stage.move(name, to: "kept")
                try Files.writeAtomically(
                    path: "\(stage.directory)/\(name)", bytes: Array("broken".utf8),
                    durable: false, mode: 0o600)
                refuses("is not usable")
                try stage.move("kept", to: name)
            }
            try stage.move("server-s1.key", to: "kept")
            try stage.move("agent-a.key", to: "server-s1.key")
            refuses("does not belong to certificate")
            try stage.move("kept", to: "server-s1.key")

            try stage.move("crl.pem", to: "kept.crl")
            try stage.revoke("agent", "a")
            #expect(keeper.reload() && reloads == 1)
            #expect(keeper.credentials.revocationListNumber == 3)
            #expect(keeper.credentials.revokedCount == 2)
            reloads = 0
            try stage.move("kept.crl", to: "crl.pem")
            refuses("older revocation list (number 2) than the one in use (number 3)")
            try Files.remove(path: "\(stage.directory)/crl.pem")
            refuses("there is no")
            try stage.move("kept.crl", to: "crl.pem")

            try stage.move("server-s2.pem", to: "server-s1.pem")
            try stage.move("server-s2.key", to: "server-s1.key")
            refuses("server-s1.pem has been revoked")
            try stage.renew("server", "s2", newKey: true)
            try stage.move("server-s2.pem", to: "server-s1.pem")
            try stage.move("server-s2.key", to: "server-s1.key")
            refuses("is now a certificate for fermata://demo/server/s2")
            keeper.stop()
        }
    }

    @Test("what ends within 30 days is warned of, with what to do")
    func warnings() throws {
        try withStage { stage in
            let credentials = try stage.credentials("agent-a", roles: [.agent])
            let end = credentials.certificate.notAfterUnixSeconds
            #expect(credentials.hasRevocationList && credentials.revocationListNumber == 1)
            #expect(
                credentials.revocationListNotAfterUnixSeconds
                    == credentials.authorityNotAfterUnixSeconds)
            let last = credentials.authorityNotAfterUnixSeconds
            #expect(last > end)
            #expect(!credentials.isRevocationListOutdated(atUnixSeconds: last - 1))
            #expect(credentials.isRevocationListOutdated(atUnixSeconds: last))
            let month = Limits.certificateWarningMicroseconds
            func texts(_ microseconds: Int64) -> [String] {
                credentials.warnings(atMicroseconds: microseconds)
            }
            #expect(texts(end * 1_000_000 - month - 1).isEmpty)
            let one = texts(end * 1_000_000 - month)
            #expect(one.count == 1)
            #expect(one.first?.contains("ends soon") == true)
            #expect(one.first?.contains("`fermata pki renew agent a`") == true)
            let all = texts(last * 1_000_000)
            #expect(all.count == 3 && all.allSatisfy { $0.contains("has ended") })

            let book = LogBook()
            let keeper = CredentialsKeeper(credentials, on: stage.loop, log: book.logger)
            keeper.warn()
            #expect(
                book.text.contains("warning: certificate \(stage.directory)/agent-a.pem ends soon"))
            keeper.stop()

            try Files.remove(path: "\(stage.directory)/crl.pem")
            let unchecked = try stage.credentials("agent-a", roles: [.agent])
            #expect(!unchecked.hasRevocationList && unchecked.revocationListNumber == nil)
            #expect(unchecked.warnings(atMicroseconds: last * 1_000_000).count == 2)
            // A list that cannot be read is not the same as none.
            try stage.link("nowhere", "crl.pem")
            #expect(throws: CredentialsError.self) {
                try stage.credentials("agent-a", roles: [.agent])
            }
        }
    }

    @Test("a process whose own certificate is revoked does not begin")
    func ownRevoked() throws {
        try withStage { stage in
            try stage.revoke("agent", "a")
            #expect(
                throws: CredentialsError.tls(.revoked(of: "\(stage.directory)/agent-a.pem"))
            ) { try stage.credentials("agent-a", roles: [.agent]) }
        }
    }
}
