import Fleet
import Testing
import Wire

@testable import SessionCore
@testable import SessionShell
@testable import UvLoop

@Suite("Sessions that cannot be")
struct RefusalTests {
    @Test("nobody there: unreachable, exit 69, says what to check")
    func unreachable() throws {
        try withStage { stage in
            let listener = try stage.listener()
            let address = "\(listener.address)"
            listener.close(.normal, reason: "")
            let client = try stage.client([address])
            let down = try stage.firstDown(client)
            #expect(down.problem.kind == .refused && down.isRoundOver)
            #expect(down.problem.exitCode == 69 && !down.problem.isFatal)
            #expect(down.problem.message.contains(address))
            #expect(down.problem.advice.contains("--server"))
            client.stop()
        }
    }

    @Test("an address that is none is reported like a server that is not there")
    func badAddress() throws {
        try withStage { stage in
            let down = try stage.firstDown(try stage.client(["nonsense"]))
            #expect(down.problem.kind == .unreachable && down.problem.exitCode == 69)
        }
    }

    @Test("the next address is tried without a pause")
    func nextAddress() throws {
        try withStage { stage in
            let gone = try stage.listener()
            gone.close(.normal, reason: "")
            let listener = try stage.listener()
            let client = try stage.client(["\(gone.address)", "\(listener.address)"])
            var downs: [SessionDown] = []
            client.onDown = { downs.append($0) }
            client.start()
            stage.run(until: { client.isReady })
            #expect(downs.count == 1 && downs.first?.retryAfter == .zero)
            #expect(downs.first?.isRoundOver == false)
        }
    }

    @Test("another cluster's authority: both sides' certificates are refused, exit 77, no retry")
    func otherAuthority() throws {
        try withStage { stage in
            let other = try Stage(cluster: "other")
            defer { other.close() }
            let listener = try stage.listener()
            let credentials = try other.credentials("agent-a", roles: [.agent])
            let client = SessionClient(
                on: stage.loop, servers: ["\(listener.address)"], credentials: credentials,
                software: "", logger: stage.logger)
            let down = try stage.firstDown(client)
            #expect(down.problem.kind == .certificateRefused)
            #expect(down.problem.isFatal && down.problem.exitCode == 77 && down.retryAfter == nil)
            stage.run(until: { listener.refusedCount > 0 })
            #expect(listener.sessions.isEmpty)
        }
    }

    /// A client whose authority is the server's, but whose own certificate is from elsewhere: it
    /// trusts the server, and learns only on its first read that it is not trusted itself.
    @Test("a client whose certificate alone is refused hears of it, exit 77, no retry")
    func clientRefused() throws {
        try withStage { stage in
            let other = try Stage(cluster: "demo")
            defer { other.close() }
            // The stranger's directory gets the server's authority as its ca.pem.
            let authority = try Files.read(
                path: "\(stage.directory)/ca.pem", byteCountMax: 100_000)
            try Files.writeAtomically(
                path: "\(other.directory)/ca.pem", bytes: authority, durable: false, mode: 0o644)
            // Loading credentials checks them against the authority; this client does not.
            let context = try TLSContext(
                role: .client, certificatePath: "\(other.directory)/agent-a.pem",
                keyPath: "\(other.directory)/agent-a.key",
                authorityPath: "\(other.directory)/ca.pem", checksOwn: false)
            let listener = try stage.listener()
            let identity = try #require(PeerIdentity(uri: "fermata://demo/agent/a"))
            let client = SessionClient(
                on: stage.loop, servers: ["\(listener.address)"],
                credentials: Credentials(
                    prefix: "stranger", identity: identity, context: context,
                    connectingContext: context),
                software: "", logger: stage.logger)
            let down = try stage.firstDown(client)
            #expect(down.problem.kind == .certificateRefused && down.problem.isFatal)
            #expect(down.problem.exitCode == 77)
            #expect(down.problem.message.contains("does not accept our certificate"))
        }
    }

    @Test("another version: says both ranges, exit 76")
    func version() throws {
        try withStage { stage in
            let listener = try stage.listener()
            let credentials = try stage.credentials("agent-a", roles: [.agent])
            let attempt = SessionAttempt(
                on: stage.loop, server: "\(listener.address)",
                dialer: TLSDialer(on: stage.loop, credentials: credentials),
                hello: Hello(
                    versionMin: 2, versionMax: 4, identity: credentials.identity,
                    instance: randomBytes(16), software: "later"))
            var problem: SessionProblem?
            attempt.onEnd = { problem = $0 }
            attempt.start()
            stage.run(until: { problem != nil })
            #expect(problem?.kind == .versionMismatch && problem?.exitCode == 76)
            #expect(problem?.message.contains("2 to 4") == true)
            #expect(problem?.isFatal == true)
        }
    }

    @Test("a hello that claims another name than the certificate's is refused")
    func claimsOther() throws {
        try withStage { stage in
            let listener = try stage.listener()
            let credentials = try stage.credentials("agent-a", roles: [.agent])
            let other = try #require(PeerIdentity(uri: "fermata://demo/agent/b"))
            let attempt = SessionAttempt(
                on: stage.loop, server: "\(listener.address)",
                dialer: TLSDialer(on: stage.loop, credentials: credentials),
                hello: Hello(identity: other, instance: randomBytes(16), software: ""))
            var problem: SessionProblem?
            attempt.onEnd = { problem = $0 }
            attempt.start()
            stage.run(until: { problem != nil })
            #expect(problem?.kind == .wrongIdentity && problem?.exitCode == 77)
        }
    }

    @Test("the owner's refusal reaches the client with its reason")
    func refusedByOwner() throws {
        try withStage { stage in
            let listener = try stage.listener()
            listener.onHello = { session, hello in
                #expect(hello.software == "test" && !session.isReady)
                return .refuse(.notPermitted, reason: "host a is not in the inventory")
            }
            listener.onDown = { _, _ in Issue.record("never was ready") }
            let down = try stage.firstDown(try stage.client(["\(listener.address)"]))
            #expect(down.problem.kind == .notPermitted && down.problem.isFatal)
            #expect(down.problem.message.contains("host a is not in the inventory"))
        }
    }

    @Test("strangers that speak no TLS, or hang up, are counted and harm nobody")
    func strangers() throws {
        try withStage { stage in
            let listener = try stage.listener()
            for text in ["GET / HTTP/1.1\r\n\r\n", ""] {
                SocketStream.connectTCP(listener.address, on: stage.loop, timeout: .seconds(5)) {
                    guard case .success(let stream) = $0 else { return }
                    stream.onBytes = { _ in }
                    stream.write(Array(text.utf8))
                    stream.closeAfterWriting()
                }
            }
            stage.run(until: { listener.refusedCount == 2 })
            let client = try stage.client(["\(listener.address)"])
            client.start()
            stage.run(until: { client.isReady })
        }
    }

    @Test("a server that is none of ours is reported with what to check")
    func notAFermataServer() throws {
        try withStage { stage in
            var streams: [SocketStream] = []
            let address = try #require(SocketAddress(ip: "127.0.0.1", port: 0))
            let listener = try Listener.tcp(address, on: stage.loop) { stream in
                streams.append(stream)
                stream.onBytes = { _ in }
                stream.write(Array("220 mail.example ESMTP\r\n".utf8))
            }
            let server = try #require(listener.address)
            let down = try stage.firstDown(try stage.client(["\(server)"]))
            #expect(down.problem.kind == .protocolViolated && down.problem.exitCode == 76)
            #expect(down.problem.description.contains("check the address"))
        }
    }

    @Test("a stopped client says nothing more")
    func stopped() throws {
        try withStage { stage in
            let listener = try stage.listener()
            let client = try stage.client(["\(listener.address)"])
            client.onDown = { _ in Issue.record("stop is no failure") }
            var isOver = false
            listener.onDown = { _, _ in isOver = true }
            client.onReady = { _ in client.stop() }
            client.start()
            stage.run(until: { isOver })
            #expect(!client.isReady && listener.sessions.isEmpty)
        }
    }

    @Test("credentials that do not fit are refused before anything is connected")
    func credentials() throws {
        try withStage { stage in
            let wrong = #expect(throws: CredentialsError.self) {
                try stage.credentials("agent-a", roles: [.operator])
            }
            #expect(wrong?.description.contains("role agent, not for operator") == true)
            #expect(wrong?.advice.contains("fermata pki issue operator") == true)
            let missing = #expect(throws: CredentialsError.self) {
                try stage.credentials("agent-zz", roles: [.agent])
            }
            #expect(missing?.description.contains("agent-zz") == true)
            #expect(throws: CredentialsError.self) {
                try stage.credentials("ca", roles: [.agent])
            }
            #expect(
                throws: CredentialsError.self,
                performing: {
                    try Credentials.load(
                        prefix: "\(stage.directory)/agent-a.pem", roles: [.agent])
                })
        }
    }

    @Test("every close code has words, and the fatal ones are those that trying cannot cure")
    func everyCode() {
        for code in CloseCode.allCases {
            let problem = SessionProblem.session(
                .closedByPeer(code, reason: "x\u{1B}[2Jy"), server: "h:1")
            #expect(problem.isFatal == code.isFinal)
            #expect(!problem.advice.isEmpty)
            #expect([69, 70, 76, 77].contains(problem.exitCode))
            #expect(!problem.message.unicodeScalars.contains("\u{1B}"))
        }
    }
}
