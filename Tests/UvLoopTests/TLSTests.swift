import Edges
import Glibc
import Testing

@testable import UvLoop

/// One side's fate.
final class Side {
    var result: Result<TLSStream, TLSError>?
    let received = Received()
    var stream: TLSStream? { try? result?.get() }

    var error: TLSError? {
        if case .failure(let error) = result { return error }
        return nil
    }

    func start(_ context: TLSContext, over transport: SocketStream, on loop: Loop) {
        TLSStream.start(context, over: transport, on: loop, timeout: .seconds(10)) { [self] in
            #expect(result == nil, "the completion was called twice")
            result = $0
            if let stream { received.follow(stream) }
        }
    }

    /// What this side has to say against the other: at the handshake or right after it.
    var complaint: String? {
        if let error { return error.description }
        switch received.ends.first {
        case .tls(let reason), .refused(let reason): return reason
        default: return nil
        }
    }
}

func connect(
    on loop: Loop, client: TLSContext, server: TLSContext
) throws -> (client: Side, server: Side) {
    let (first, second) = try streamPair(on: loop)
    let sides = (client: Side(), server: Side())
    sides.client.start(client, over: first, on: loop)
    sides.server.start(server, over: second, on: loop)
    return sides
}

func withCluster(_ body: (Cluster, Loop) throws -> Void) throws {
    try withDirectory { directory in
        let cluster = try Cluster("\(directory)/pki")
        try cluster.issue("server", "s1")
        try cluster.issue("agent", "a")
        let loop = try Loop()
        try body(cluster, loop)
        loop.closeAll()
    }
}

@Suite("TLS") struct TLSTests {
    @Test("both sides learn who the other is, and bytes go both ways")
    func handshake() throws {
        try withCluster { cluster, loop in
            let client = try cluster.context(.client, "agent-a")
            #expect(client.identity.uri == "fermata://demo/agent/a")
            let sides = try connect(
                on: loop, client: client, server: try cluster.context(.server, "server-s1"))
            #expect(sides.client.result == nil && sides.server.result == nil)
            run(loop) { sides.client.result != nil && sides.server.result != nil }
            let clientStream = try #require(sides.client.result).get()
            let serverStream = try #require(sides.server.result).get()
            #expect(clientStream.peerIdentity.uri == "fermata://demo/server/s1")
            #expect(serverStream.peerIdentity == client.identity)
            var completions = 0
            clientStream.write(Array("ping".utf8)) { error in
                #expect(error == nil)
                completions += 1
            }
            serverStream.write(Array("pong".utf8))
            run(loop) {
                sides.client.received.text == "pong" && sides.server.received.text == "ping"
                    && completions == 1
            }
            clientStream.closeAfterWriting()
            run(loop) {
                !sides.client.received.ends.isEmpty && !sides.server.received.ends.isEmpty
            }
            #expect(sides.client.received.ends == [.closedHere])
            #expect(sides.server.received.ends == [.endOfFile])
            clientStream.write([1]) { error in
                #expect(error?.name == "ECANCELED")
                completions += 1
            }
            run(loop) { completions == 2 }
        }
    }

    @Test("megabytes go through in order, wait while nobody reads, and are flushed before a close")
    func bulk() throws {
        try withCluster { cluster, loop in
            let sides = try connect(
                on: loop, client: try cluster.context(.client, "agent-a"),
                server: try cluster.context(.server, "server-s1"))
            run(loop) { sides.client.stream != nil && sides.server.stream != nil }
            let client = try #require(sides.client.stream)
            let server = try #require(sides.server.stream)
            let onBytes = server.onBytes
            server.onBytes = nil
            let bytes = randomBytes(5_000_000)
            client.write(bytes)
            client.closeAfterWriting()
            loop.after(.milliseconds(50)) { loop.stop() }
            loop.run()
            #expect(sides.server.received.bytes.isEmpty)
            #expect(client.queuedByteCount > 3_000_000)
            server.onBytes = onBytes
            run(loop) { !sides.server.received.ends.isEmpty }
            #expect(sides.server.received.bytes == bytes)
            #expect(sides.server.received.ends == [.endOfFile])
        }
    }

    @Test("a connection cut without close_notify is told from an orderly end")
    func truncation() throws {
        try withCluster { cluster, loop in
            let (first, second) = try streamPair(on: loop)
            let client = Side()
            let server = Side()
            client.start(try cluster.context(.client, "agent-a"), over: first, on: loop)
            server.start(try cluster.context(.server, "server-s1"), over: second, on: loop)
            run(loop) { client.stream != nil && server.stream != nil }
            second.close()
            run(loop) { !client.received.ends.isEmpty && !server.received.ends.isEmpty }
            #expect(client.complaint?.contains("close_notify") == true)
            #expect(server.received.ends == [.closedHere])
        }
    }

    @Test("bytes changed on the way end the connection")
    func corruption() throws {
        try withCluster { cluster, loop in
            let (first, second) = try streamPair(on: loop)
            let client = Side()
            let server = Side()
            client.start(try cluster.context(.client, "agent-a"), over: first, on: loop)
            server.start(try cluster.context(.server, "server-s1"), over: second, on: loop)
            run(loop) { client.stream != nil && server.stream != nil }
            first.write([23, 3, 3, 0, 32] + [UInt8](repeating: 9, count: 32))
            run(loop) { !client.received.ends.isEmpty && !server.received.ends.isEmpty }
            #expect(server.complaint != nil)
            #expect(server.received.bytes.isEmpty)
        }
    }

    @Test("a stream closed inside its own callback gets no more bytes")
    func closeInsideCallback() throws {
        try withCluster { cluster, loop in
            let sides = try connect(
                on: loop, client: try cluster.context(.client, "agent-a"),
                server: try cluster.context(.server, "server-s1"))
            run(loop) { sides.client.stream != nil && sides.server.stream != nil }
            let server = try #require(sides.server.stream)
            var calls = 0
            server.onBytes = { [unowned server] _ in
                calls += 1
                server.close()
            }
            sides.client.stream?.write([UInt8](repeating: 1, count: 500_000))
            run(loop) {
                !sides.server.received.ends.isEmpty && !sides.client.received.ends.isEmpty
            }
            #expect(calls == 1)
            #expect(sides.server.received.ends == [.closedHere])
        }
    }
}

@Suite("TLS refusals") struct TLSRefusalTests {
    @Test("our own bad files are found before anything is tried, with what to do")
    func ownFiles() throws {
        try withCluster { cluster, _ in
            func complaint(_ prefix: String, authority: String? = nil) -> TLSError? {
                do throws(TLSError) {
                    _ = try cluster.context(.client, prefix, authority: authority)
                    return nil
                } catch {
                    return error
                }
            }
            let pki = cluster.directory
            guard case .fileUnreadable(let missing) = complaint("agent-none") else {
                return #expect(Bool(false), "a missing file was not noticed")
            }
            #expect(missing.name == "ENOENT" && missing.subject == "\(pki)/agent-none.pem")

            try cluster.issue("agent", "open")
            chmod("\(pki)/agent-open.key", 0o640)
            #expect(
                complaint("agent-open")
                    == .keyReadableByOthers(path: "\(pki)/agent-open.key", mode: 0o640))

            try cluster.issue("agent", "swapped")
            try Files.remove(path: "\(pki)/agent-swapped.key")
            let other = try Files.read(path: "\(pki)/agent-a.key", byteCountMax: 9_999)
            try Files.create(
                path: "\(pki)/agent-swapped.key", bytes: other, durable: false, mode: 0o600)
            #expect(
                complaint("agent-swapped")
                    == .keyDoesNotMatch(
                        certificatePath: "\(pki)/agent-swapped.pem",
                        keyPath: "\(pki)/agent-swapped.key"))

            try cluster.issueOdd("expired", from: -100, to: -10)
            #expect(
                complaint("agent-expired")
                    == .expired(
                        of: "\(pki)/agent-expired.pem", notAfterUnixSeconds: cluster.now - 10))

            try cluster.issueOdd("early", from: 600)
            #expect(
                complaint("agent-early")
                    == .notYetValid(
                        of: "\(pki)/agent-early.pem", notBeforeUnixSeconds: cluster.now + 600))

            let foreign = try Cluster("\(pki)/foreign")
            guard case .wrongAuthority = complaint("agent-a", authority: foreign.directory) else {
                return #expect(Bool(false), "a foreign authority was not noticed")
            }

            try cluster.issueOdd("two", uris: ["fermata://demo/agent/x", "fermata://demo/agent/y"])
            try cluster.issueOdd("no-name", uris: [])
            try cluster.issueOdd("authority", isAuthority: true)
            #expect(complaint("agent-two") == .uriNames(of: "\(pki)/agent-two.pem", count: 2))
            #expect(
                complaint("agent-no-name") == .uriNames(of: "\(pki)/agent-no-name.pem", count: 0))
            #expect(
                complaint("agent-authority") == .authorityAsLeaf(of: "\(pki)/agent-authority.pem"))

            try Files.create(
                path: "\(pki)/agent-text.pem", bytes: Array("text".utf8), durable: false)
            guard case .fileInvalid = complaint("agent-text") else {
                return #expect(Bool(false), "text was taken for a certificate")
            }
        }
    }

    @Test(
        "a client's unfit certificate is refused by the server, and the client hears of it",
        arguments: [
            ("expired", "expired"), ("early", "not valid"), ("two", "URI names"),
            ("no-name", "URI names"), ("authority", "authority"), ("foreign", "our authority"),
        ])
    func clientRefused(_ name: String, _ words: String) throws {
        try withCluster { cluster, loop in
            let sides = try connect(
                on: loop, client: try oddContext(cluster, .client, name),
                server: try cluster.context(.server, "server-s1"))
            run(loop) {
                sides.server.error != nil
                    && (sides.client.error != nil || !sides.client.received.ends.isEmpty)
            }
            let complaint = sides.server.error?.description ?? ""
            #expect(complaint.contains(words), "\(complaint)")
            #expect(sides.client.complaint != nil)
            #expect(sides.client.received.ends.count <= 1)
        }
    }

    @Test(
        "a server's unfit certificate is refused by the client, and the server hears of it",
        arguments: [
            ("expired", "expired"), ("early", "not valid"), ("two", "URI names"),
            ("no-name", "URI names"), ("authority", "authority"), ("foreign", "our authority"),
        ])
    func serverRefused(_ name: String, _ words: String) throws {
        try withCluster { cluster, loop in
            let sides = try connect(
                on: loop, client: try cluster.context(.client, "agent-a"),
                server: try oddContext(cluster, .server, name))
            run(loop) {
                sides.client.error != nil
                    && (sides.server.error != nil || !sides.server.received.ends.isEmpty)
            }
            let complaint = sides.client.error?.description ?? ""
            #expect(complaint.contains(words), "\(complaint)")
            #expect(sides.server.complaint != nil)
        }
    }

    private func oddContext(
        _ cluster: Cluster, _ role: TLSContext.Role, _ name: String
    ) throws -> TLSContext {
        let demo = ["fermata://demo/agent/x", "fermata://demo/agent/y"]
        switch name {
        case "expired": try cluster.issueOdd(name, from: -100, to: -10)
        case "early": try cluster.issueOdd(name, from: 600)
        case "two": try cluster.issueOdd(name, uris: demo)
        case "no-name": try cluster.issueOdd(name, uris: [])
        case "authority": try cluster.issueOdd(name, isAuthority: true)
        default:
            // Its authority has the same name as ours, and another key.
            let foreign = try Cluster("\(cluster.directory)/foreign")
            try foreign.issue("agent", "foreign")
            return try foreign.context(
                role, "agent-foreign", authority: cluster.directory, checksOwn: false)
        }
        return try cluster.context(role, "agent-\(name)", checksOwn: false)
    }

    @Test("a client without a certificate is refused, and so is one without our protocol")
    func noCertificateAndNoProtocol() throws {
        try withDirectory { directory in
            let pki = try Cluster("\(directory)/pki")
            try pki.issue("server", "s1")
            try pki.issue("agent", "a")
            let loop = try Loop()
            let server = try pki.context(.server, "server-s1")
            let sides = [Side(), Side()]
            var accepted = 0
            let listener = try Listener.tcp(loopback, on: loop) { stream in
                sides[accepted].start(server, over: stream, on: loop)
                accepted += 1
            }
            let address = try #require(listener.address)
            // The real openssl command, an independent client.
            try #require(
                Files.isExecutable(path: "/usr/bin/openssl"),
                "this test needs the openssl command: apt-get install openssl")
            func client(_ arguments: [String]) throws {
                var status: UvLoop.ExitStatus?
                _ = try ChildProcess.spawn(
                    executable: "/usr/bin/openssl",
                    arguments: ["s_client", "-connect", address.description] + arguments,
                    on: loop
                ) { status = $0 }
                run(loop) { status != nil && sides[accepted - 1].error != nil }
            }
            try client(["-alpn", "fermata/1"])
            #expect(sides[0].error == .noPeerCertificate)
            let prefix = "\(pki.directory)/agent-a"
            try client(["-cert", "\(prefix).pem", "-key", "\(prefix).key"])
            #expect(sides[1].error == .wrongProtocol)
            loop.closeAll()
        }
    }

    @Test("a peer that speaks no TLS, says nothing, or goes away is told apart")
    func notTLS() throws {
        try withCluster { cluster, loop in
            for role: TLSContext.Role in [.client, .server] {
                let context = try cluster.context(role, "agent-a")
                let side = Side()
                let (first, second) = try streamPair(on: loop)
                side.start(context, over: first, on: loop)
                second.write(Array("GET / HTTP/1.1\r\n\r\n".utf8))
                run(loop) { side.result != nil }
                #expect(side.error == .plaintextPeer)

                let gone = Side()
                let (third, fourth) = try streamPair(on: loop)
                gone.start(context, over: third, on: loop)
                fourth.close()
                run(loop) { gone.result != nil }
                guard case .ended = gone.error else {
                    return #expect(Bool(false), "\(gone.error as Any)")
                }

                let (fifth, _) = try streamPair(on: loop)
                var error: TLSError?
                TLSStream.start(context, over: fifth, on: loop, timeout: .milliseconds(30)) {
                    if case .failure(let found) = $0 { error = found }
                }
                run(loop) { error != nil }
                #expect(error == .timedOut)
            }
        }
    }
}
