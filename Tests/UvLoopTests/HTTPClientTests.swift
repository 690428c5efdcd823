import Glibc
import Testing

@testable import UvLoop

@Suite("HTTP client", .serialized)
final class HTTPClientTests {
    let loop: Loop
    let peer: HTTPPeer
    private var client: HTTPClient?

    init() throws {
        loop = try Loop()
        peer = try HTTPPeer(on: loop)
        client = HTTPClient(on: loop)
    }

    private var http: HTTPClient { client.unsafelyUnwrapped }

    private func ask(_ request: HTTPRequest) -> Result<HTTPAnswer, HTTPError>? {
        var result: Result<HTTPAnswer, HTTPError>?
        http.send(request) {
            #expect(result == nil, "two completions")
            result = $0
        }
        #expect(result == nil, "a completion came inside the call")
        run(loop) { result != nil }
        return result
    }

    private func get(_ path: String) throws -> String {
        text(try #require(ask(HTTPRequest(url: peer.url(path)))).get().body)
    }

    private func failure(_ request: HTTPRequest) -> HTTPError? {
        if case .failure(let error) = ask(request) { error } else { nil }
    }

    @Test("a body goes there and comes back, whatever its size")
    func bodies() throws {
        for count in [0, 1, 70_000, 3 << 20] {
            let body = (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 7) }
            let answer = try #require(ask(HTTPRequest(url: peer.url("/echo"), body: body))).get()
            #expect(answer == HTTPAnswer(status: 200, body: body))
        }
        let request = HTTPRequest(
            url: peer.url("/kind"), headers: ["Content-Type: application/json"], body: [1])
        #expect(text(try #require(ask(request)).get().body) == "application/json")
    }

    @Test("a status that says no is an answer", arguments: [204, 404, 500])
    func statuses(status: Int) throws {
        #expect(
            try #require(ask(HTTPRequest(url: peer.url("/status?\(status)")))).get().status
                == status)
    }

    @Test("a connection is kept for the next request, and replaced when it has died")
    func connections() throws {
        let first = try get("/port")
        #expect(try get("/port") == first)
        let last = try get("/once")
        #expect(last == first)
        #expect(try get("/port") != first)
    }

    @Test("many at once have a connection each")
    func many() throws {
        var answers: [String] = []
        for _ in 0..<64 {
            http.send(HTTPRequest(url: peer.url("/slow?100"))) { result in
                answers.append((try? text(result.get().body)) ?? "none")
            }
        }
        run(loop) { answers.count == 64 }
        #expect(answers.allSatisfy { $0 == "slow" })
    }

    @Test("who answers too late, or stops in the middle, is given up")
    func limits() {
        for path in ["/slow?20000", "/stall"] {
            let start = HoldClock.nowMicroseconds
            let error = failure(HTTPRequest(url: peer.url(path), limit: .milliseconds(150)))
            #expect(error?.kind == .unknown)
            let took = HoldClock.nowMicroseconds - start
            #expect(took >= 145_000 && took < 5_000_000)
        }
    }

    @Test("what was cut off, or not answered at all, may have been carried out")
    func cut() {
        #expect(failure(HTTPRequest(url: peer.url("/cut")))?.kind == .unknown)
        #expect(failure(HTTPRequest(url: peer.url("/drop")))?.kind == .unknown)
    }

    @Test("nothing was sent to a port where nobody listens, to no name, to no URL")
    func notSent() throws {
        let listener = try Listener.tcp(loopback, on: loop) { _ in }
        let port = try #require(listener.address?.port)
        listener.close()
        for url in [
            "http://127.0.0.1:\(port)/", "http://no.such.name.invalid/", "http://",
            "file:///etc/hostname",
        ] {
            let error = failure(HTTPRequest(url: url))
            #expect(error?.kind == .notSent, "\(url): \(error?.reason ?? "")")
        }
    }

    @Test("a peer that takes no connection got nothing")
    func noHandshake() throws {
        // It accepts for the kernel, and says nothing of TLS.
        let listener = try Listener.tcp(loopback, on: loop) { _ in }
        let port = try #require(listener.address?.port)
        let error = failure(
            HTTPRequest(url: "https://127.0.0.1:\(port)/", connectLimit: .milliseconds(150)))
        #expect(error?.kind == .notSent)
        listener.close()
    }

    @Test("an answer beyond the limit is refused, one at the limit is not")
    func tooLarge() throws {
        func request(_ path: String) -> HTTPRequest {
            HTTPRequest(url: peer.url(path), answerByteCountMax: 100_000)
        }
        #expect(try #require(ask(request("/huge?100000"))).get().body.count == 100_000)
        #expect(failure(request("/huge?100001"))?.kind == .tooLarge)
        #expect(failure(request("/endless"))?.kind == .tooLarge)
    }

    @Test("pieces come as they are sent, and the answer's own body is empty then")
    func pieces() throws {
        var pieces: [String] = []
        var result: Result<HTTPAnswer, HTTPError>?
        var request = HTTPRequest(url: peer.url("/pieces"))
        request.limit = nil
        http.send(request, onPiece: { pieces.append(text($0)) }) { result = $0 }
        run(loop) { !pieces.isEmpty }
        #expect(pieces == ["first"])
        #expect(result == nil)
        _ = try get("/open")
        run(loop) { result != nil }
        #expect(pieces.joined() == "firstsecond")
        #expect(try result?.get() == HTTPAnswer(status: 200, body: []))
    }

    @Test("a stream without end is cancelled from inside its own piece")
    func cancelInPiece() {
        var count = 0
        var call: HTTPCall?
        call = http.send(
            HTTPRequest(url: peer.url("/endless")),
            onPiece: { _ in
                count += 1
                if count == 3 { call?.cancel() }
            }, completion: { _ in Issue.record("a completion after cancel()") })
        run(loop) { count >= 3 }
        var isLater = false
        loop.after(.milliseconds(100)) { isLater = true }
        run(loop) { isLater }
        #expect(count == 3)
    }

    @Test(
        "what was cancelled is not completed, before it is sent, under way, and by another's completion"
    )
    func cancel() throws {
        let wrong: (Result<HTTPAnswer, HTTPError>) -> Void = { _ in
            Issue.record("a completion after cancel()")
        }
        http.send(HTTPRequest(url: peer.url("/port")), completion: wrong).cancel()
        let stalled = http.send(HTTPRequest(url: peer.url("/stall")), completion: wrong)
        let slow = http.send(HTTPRequest(url: peer.url("/slow?20000")), completion: wrong)
        var hasEnded = false
        http.send(HTTPRequest(url: peer.url("/slow?100"))) { [self] _ in
            stalled.cancel()
            slow.cancel()
            slow.cancel()
            // From inside a completion, too.
            http.send(HTTPRequest(url: peer.url("/slow?300"))) { _ in hasEnded = true }
        }
        run(loop) { hasEnded }
        #expect(try get("/port") != "")
    }

    @Test("a client that is dropped takes its requests and connections along, also in a completion")
    func dropped() throws {
        let wrong: (Result<HTTPAnswer, HTTPError>) -> Void = { _ in
            Issue.record("a completion after the client was dropped")
        }
        _ = try get("/port")
        let call = http.send(HTTPRequest(url: peer.url("/stall")), completion: wrong)
        http.send(
            HTTPRequest(url: peer.url("/endless")), onPiece: { _ in }, completion: wrong)
        http.send(HTTPRequest(url: peer.url("/port"))) { [self] _ in client = nil }
        run(loop) { self.client == nil }
        var isLater = false
        loop.after(.milliseconds(50)) { isLater = true }
        run(loop) { isLater }
        call.cancel()
    }

    @Test("neither descriptors nor memory stay behind")
    func leaks() throws {
        func sockets() throws -> Int {
            let all = try Files.list(path: "/proc/self/fd")
            return all.filter {
                (try? Files.link(pathOfSymlink: "/proc/self/fd/\($0)"))?.hasPrefix("socket:")
                    ?? false
            }.count
        }
        func round() {
            var left = 0
            for number in 0..<60 {
                left += 1
                let path = ["/port", "/drop", "/cut", "/stall", "/huge?300000"][number % 5]
                let call = http.send(
                    HTTPRequest(url: peer.url(path), limit: .milliseconds(300))
                ) { _ in left -= 1 }
                if number % 7 == 0 {
                    call.cancel()
                    left -= 1
                }
            }
            run(loop) { left == 0 }
            client = HTTPClient(on: loop)
        }
        weak var weakCall: HTTPCall?
        var body: [UInt8]? = [1]
        var isDone = false
        autoreleased {
            weakCall = http.send(HTTPRequest(url: peer.url("/port"), body: body)) { _ in
                isDone = true
            }
        }
        body = nil
        run(loop) { isDone }
        #expect(weakCall == nil)
        let before = try sockets()
        for _ in 0..<3 { round() }
        // Other suites open and close some meanwhile.
        #expect(try sockets() < before + 30)
    }
}

private func autoreleased(_ body: () -> Void) { body() }

@Suite("HTTP client with TLS", .serialized)
struct HTTPClientTLSTests {
    private func failure(_ loop: Loop, _ request: HTTPRequest) throws -> HTTPError {
        let client = HTTPClient(on: loop)
        var result: Result<HTTPAnswer, HTTPError>?
        client.send(request) { result = $0 }
        run(loop) { result != nil }
        do {
            let answer = try #require(result).get()
            Issue.record("\(answer.status) \(text(answer.body)) where a failure was expected")
            return HTTPError(.unknown, "")
        } catch let error as HTTPError { return error }
    }

    @Test(
        "the peer's certificate is checked against our authority and its address, ours by the peer")
    func mutual() throws {
        try withDirectory { directory in
            let loop = try Loop()
            let (server, ours, other) = try Certificates.make(directory, on: loop)
            let peer = try HTTPPeer(
                on: loop, tls: [server.certificate, server.key, ours.authority])
            let client = HTTPClient(on: loop)
            let good = HTTPRequest.TLS(
                authorityFile: ours.authority, certificateFile: ours.certificate, keyFile: ours.key)
            func request(_ tls: HTTPRequest.TLS, host: String = "127.0.0.1") -> HTTPRequest {
                HTTPRequest(url: "https://\(host):\(peer.port)/port", tls: tls)
            }
            var ports: Set<String> = []
            for _ in 0..<3 {
                var result: Result<HTTPAnswer, HTTPError>?
                client.send(request(good)) { result = $0 }
                run(loop) { result != nil }
                ports.insert(text(try #require(result).get().body))
            }
            #expect(ports.count == 1)

            var odd = good
            odd.authorityFile = other.authority
            #expect(try failure(loop, request(odd)).kind == .tls)
            odd = HTTPRequest.TLS(authorityFile: ours.authority)
            let missing = try failure(loop, request(odd))
            #expect(missing.kind == .tls, "\(missing)")
            odd = HTTPRequest.TLS(
                authorityFile: ours.authority, certificateFile: other.certificate,
                keyFile: other.key)
            let foreign = try failure(loop, request(odd))
            #expect(foreign.kind == .tls, "\(foreign)")
            // Its certificate is for 127.0.0.1 alone.
            #expect(try failure(loop, request(good, host: "localhost")).kind == .tls)
            odd = good
            odd.keyFile = directory + "/nowhere.key"
            let noKey = try failure(loop, request(odd))
            #expect(noKey.kind == .tls, "\(noKey)")
            odd = good
            odd.authorityFile = directory + "/nowhere.pem"
            let noAuthority = try failure(loop, request(odd))
            #expect(noAuthority.kind == .tls, "\(noAuthority)")
        }
    }
}

/// Certificates as an operator makes them with openssl.
struct Certificates {
    var authority: String
    var certificate: String
    var key: String

    /// - Returns: a server's for 127.0.0.1, a client's of the same authority, one of another.
    static func make(
        _ directory: String, on loop: Loop
    ) throws -> (Certificates, Certificates, Certificates) {
        func run(_ arguments: String) throws {
            #expect(try openssl(arguments.split(separator: " ").map(String.init), on: loop) == 0)
        }
        func authority(_ name: String) throws {
            try run(
                "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=\(name) "
                    + "-keyout \(directory)/\(name).key -out \(directory)/\(name).pem")
        }
        func issue(_ name: String, by authority: String, _ names: String) throws -> Certificates {
            let path = "\(directory)/\(name)"
            try Files.writeAtomically(
                path: path + ".ext", bytes: Array("subjectAltName=\(names)".utf8), durable: false,
                mode: 0o644)
            try run(
                "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /O=\(name) -keyout \(path).key "
                    + "-out \(path).csr")
            try run(
                "x509 -req -in \(path).csr -CA \(directory)/\(authority).pem -CAkey \(directory)/\(authority).key "
                    + "-CAcreateserial -days 2 -extfile \(path).ext -out \(path).pem")
            return Certificates(
                authority: "\(directory)/\(authority).pem", certificate: path + ".pem",
                key: path + ".key")
        }
        try authority("ours")
        try authority("others")
        return (
            try issue("server", by: "ours", "IP:127.0.0.1"),
            try issue("client", by: "ours", "URI:fermata://demo/server/a"),
            try issue("stranger", by: "others", "URI:fermata://demo/server/a")
        )
    }
}
