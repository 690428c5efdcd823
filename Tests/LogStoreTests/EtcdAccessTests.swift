import Foundation
import LogCore
import Testing
import UvLoop

@testable import EtcdLog
@testable import LogStore

/// Who is let in, and what is said when etcd does not want.
@Suite("etcd log store, access", .serialized)
final class EtcdAccessTests {
    let bench: Bench

    init() throws { bench = try Bench() }

    private func failure(_ body: () throws -> some Any) -> LogStoreError? {
        do {
            _ = try body()
            return nil
        } catch { return error as? LogStoreError }
    }

    @Test(
        "with user and password, through tokens that end; wrong ones and missing rights are named")
    func users() throws {
        let cluster = try EtcdCluster(flags: ["--auth-token-ttl=1", "--bcrypt-cost=4"])
        let ends = cluster.endpoints
        func store(_ user: String?, _ password: String?) -> EtcdLogStore {
            bench.store(ends, user: user, password: password)
        }
        // Somebody who names a user before users are asked for is let in.
        try bench.lead(store("fermata", "secret"))
        try cluster.control("user", "add", "root:root")
        try cluster.control("user", "grant-role", "root", "root")
        try cluster.control("role", "add", "fermata")
        try cluster.control(
            "role", "grant-permission", "fermata", "readwrite", "--prefix=true", bench.prefix)
        for user in ["fermata:secret", "guest:guest"] {
            try cluster.control("user", "add", user)
        }
        try cluster.control("user", "grant-role", "fermata", "fermata")
        try cluster.control("auth", "enable")

        let writer = store("fermata", "secret")
        let follower = Followed(store("fermata", "secret"))
        try bench.lead(writer)
        for index in UInt64(1)...3 {
            try bench.append(writer, ["r\(index)"], at: index)
            if index < 3 { bench.pass(.milliseconds(2_300)) }
        }
        try bench.save(writer, [[1]], index: 2)
        bench.until { follower.index == 3 }
        // All tokens are forgotten.
        cluster.end(0)
        try cluster.start(0)
        try bench.append(writer, ["r4"], at: 4)
        bench.until { follower.index == 4 }
        #expect(follower.loadCount == 1)

        for (user, password) in [
            ("fermata", "wrong"), ("nobody", "secret"), ("guest", "guest"), (nil, nil),
        ] {
            let error = failure { try bench.lead(store(user, password)) }
            guard case .notPermitted(_, let reason) = error, !reason.isEmpty else {
                Issue.record("\(user ?? "nobody"): \(String(describing: error))")
                continue
            }
        }
    }

    @Test("over https with certificates both ways; who has none, or a foreign one, is told so")
    func certificates() throws {
        let directory = NSTemporaryDirectory() + "fermata-etcd-tls-\(UUID().uuidString)"
        try FileManager.default.createDirectory(
            atPath: directory, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let script = """
            set -e; cd \(directory)
            curve="-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
            for ca in ours others; do
                openssl req -x509 $curve -days 2 -subj /CN=$ca -keyout $ca.key -out $ca.pem
            done
            issue() {
                echo "subjectAltName=$3" > $1.ext
                openssl req $curve -subj /O=$1 -keyout $1.key -out $1.csr
                openssl x509 -req -in $1.csr -CA $2.pem -CAkey $2.key -CAcreateserial -days 2 \
                    -extfile $1.ext -out $1.pem
            }
            issue server ours IP:127.0.0.1
            issue client ours DNS:client
            issue stranger others DNS:client
            """
        let shell = Foundation.Process()
        shell.executableURL = URL(fileURLWithPath: "/bin/sh")
        shell.arguments = ["-c", script]
        shell.standardError = FileHandle.nullDevice
        try shell.run()
        shell.waitUntilExit()
        try #require(shell.terminationStatus == 0, "openssl: apt-get install openssl")
        func files(_ name: String) -> EtcdCluster.TLS {
            EtcdCluster.TLS(
                authority: "\(directory)/ours.pem", certificate: "\(directory)/\(name).pem",
                key: "\(directory)/\(name).key")
        }
        let cluster = try EtcdCluster(server: files("server"), client: files("client"))
        func store(_ name: String?, authority: String = "ours") -> EtcdLogStore {
            let tls = HTTPRequest.TLS(
                authorityFile: "\(directory)/\(authority).pem",
                certificateFile: name.map { "\(directory)/\($0).pem" },
                keyFile: name.map { "\(directory)/\($0).key" })
            return bench.store(cluster.endpoints, tls: tls)
        }
        let writer = store("client")
        let follower = Followed(store("client"))
        try bench.lead(writer)
        try bench.append(writer, ["a"], at: 1)
        bench.until { follower.index == 1 }
        for (name, authority) in [(nil, "ours"), ("stranger", "ours"), ("client", "others")] {
            let error = failure { try bench.lead(store(name, authority: authority)) }
            guard case .notPermitted(_, let reason) = error, !reason.isEmpty else {
                Issue.record("\(name ?? "none"), \(authority): \(String(describing: error))")
                continue
            }
        }
        let plain = cluster.endpoints[0].replacingOccurrences(of: "https", with: "http")
        guard
            case .unavailable = failure({ try bench.lead(bench.store([plain], limit: .seconds(1))) }
            )
        else {
            Issue.record("http where https is spoken")
            return
        }
    }

    @Test("a full etcd is named, loses nothing, and is seen by those that only look")
    func full() throws {
        let cluster = try EtcdCluster(flags: ["--quota-backend-bytes=16777216"])
        let store = bench.store(cluster.endpoints)
        try bench.lead(store)
        var count: UInt64 = 0
        var error: LogStoreError?
        let large = String(repeating: "x", count: 900_000)
        while error == nil, count < 60 {
            error = failure { try bench.append(store, [large], at: count + 1) }
            if error == nil { count += 1 }
        }
        guard case .full(_, let reason) = error else {
            Issue.record("\(String(describing: error))")
            return
        }
        #expect(reason.contains("space exceeded"))
        #expect(try bench.texts(cluster.endpoints).count == Int(count))
        guard case .full = failure({ try bench.lead(store) }) else {
            Issue.record("who leads writes")
            return
        }
        let other = bench.store(cluster.endpoints)
        bench.until { !other.warnings.isEmpty }
        #expect(other.warnings.first?.contains("NOSPACE") == true)
        // How large it is, and may be, is told as well.
        #expect(other.warnings.last?.contains("its quota of 16 MiB") == true)
    }

    @Test(
        "etcd's quota is read from its metrics",
        arguments: [
            ("# HELP x\netcd_server_quota_backend_bytes 2.147483648e+09\nother 1\n", 2 << 30),
            ("etcd_server_quota_backend_bytes 16777216\n", 16 << 20),
            ("etcd_server_quota_backend_bytes 0\n", nil), ("etcd_server_quota 5\n", nil),
            ("etcd_server_quota_backend_bytes NaN\n", nil), ("", nil),
        ] as [(String, Int64?)])
    func quota(text: String, quota: Int64?) {
        #expect(quotaOfMetrics(Array(text.utf8)) == quota)
    }
}

/// Answers each request the same way, as an etcd of another version or in trouble would.
private final class Canned {
    private(set) var count = 0
    private var listener: Listener?

    init(_ status: String, _ body: String, on loop: Loop) throws {
        let address = try #require(SocketAddress(ip: "127.0.0.1", port: 0))
        listener = try Listener.tcp(address, on: loop) { [weak self] stream in
            stream.onEnd = { _ in }
            stream.onBytes = { bytes in
                guard String(decoding: bytes, as: UTF8.self).hasPrefix("POST ") else { return }
                self?.count += 1
                let head = "HTTP/1.1 \(status)\r\nContent-Length: \(body.utf8.count)\r\n\r\n"
                stream.write(Array((head + body).utf8))
            }
        }
    }

    deinit { listener?.close() }
    var endpoint: String { "http://\(listener?.address?.description ?? "")" }
}

@Suite("etcd gateway's answers")
final class EtcdAnswerTests {
    let bench: Bench
    init() throws { bench = try Bench() }

    private func ask(_ canned: [Canned], user: String? = nil) throws -> Result<Int, EtcdFailure> {
        let options = EtcdOptions(
            endpoints: canned.map(\.endpoint), user: user, password: user, prefix: "/x/")
        let gateway = EtcdGateway(options, on: bench.loop)
        var result: Result<EtcdRange, EtcdFailure>?
        gateway.range(.get(key: "k")) { result = $0 }
        bench.until { result != nil }
        return try #require(result).map(\.values.count)
    }

    private static let good = #"{"header":{"revision":"3"},"kvs":[{"key":"aw==","value":"dg=="}]}"#

    @Test(
        "what another member may know better is asked there",
        arguments: [
            #"503 Unavailable|{"error":"etcdserver: no leader","code":14,"message":"etcdserver: no leader"}"#,
            #"503 Unavailable|{"code":14,"message":"etcdserver: request timed out","details":[]}"#,
            #"504 Timeout|{"code":4,"message":"context deadline exceeded"}"#,
            #"500 Error|{"code":2,"message":"etcdserver: unknown"}"#,
            #"429 Many|{"code":8,"message":"etcdserver: too many requests"}"#,
            #"400 Bad|{"code":11,"message":"etcdserver: mvcc: required revision is a future revision"}"#,
            "502 Bad Gateway|<html>",
        ])
    func another(answer: String) throws {
        let parts = answer.split(separator: "|").map(String.init)
        let bad = try Canned(parts[0], parts[1], on: bench.loop)
        let good = try Canned("200 OK", Self.good, on: bench.loop)
        #expect(try ask([bad, good]) == .success(1))
        #expect(bad.count == 1)
    }

    @Test("what would be the same everywhere comes at once, by name")
    func atOnce() throws {
        func one(_ status: String, _ body: String, user: String? = nil) throws -> EtcdFailure? {
            let canned = try Canned(status, body, on: bench.loop)
            guard case .failure(let failure) = try ask([canned, canned], user: user) else {
                return nil
            }
            #expect(canned.count == 1)
            return failure
        }
        func kind(_ failure: EtcdFailure?) -> String {
            failure.map { String("\($0)".prefix { $0 != "(" }) } ?? "none"
        }
        let cases: [(String, String, String)] = [
            (
                "full", "429 Many",
                #"{"code":8,"message":"etcdserver: mvcc: database space exceeded"}"#
            ),
            (
                "compacted", "400 Bad",
                #"{"code":11,"error":"etcdserver: mvcc: required revision has been compacted"}"#
            ),
            ("notPermitted", "403 No", #"{"code":7,"message":"etcdserver: permission denied"}"#),
            ("notPermitted", "401 No", #"{"code":16,"message":"etcdserver: invalid auth token"}"#),
            ("notPermitted", "400 Bad", #"{"code":3,"message":"etcdserver: user name is empty"}"#),
            ("notPermitted", "400 Bad", "CommonName of client sending a request against gateway"),
            ("damaged", "500 Bad", #"{"code":15,"message":"etcdserver: corrupt cluster"}"#),
            ("unavailable", "400 Bad", #"{"code":3,"message":"etcdserver: request is too large"}"#),
            ("unavailable", "404 Not Found", "404 page not found"),
            ("unavailable", "200 OK", "<html>welcome</html>"),
        ]
        for (expected, status, body) in cases {
            #expect(kind(try one(status, body)) == expected, "\(body)")
        }
        let wrong =
            #"{"code":3,"message":"etcdserver: authentication failed, invalid user ID or password"}"#
        #expect(kind(try one("400 Bad", wrong, user: "me")) == "notPermitted")
    }

    @Test("a watch that ends tells why, in the words of any version")
    func watchEnds() throws {
        for body in [
            #"{"error":{"grpc_code":14,"http_code":503,"message":"no leader","http_status":"x"}}"#,
            #"{"error":{"code":14,"message":"no leader","details":[]}}"#,
        ] {
            let canned = try Canned("200 OK", body + "\n", on: bench.loop)
            let gateway = bench.gateway([canned.endpoint])
            var ends: [EtcdFailure] = []
            _ = gateway.watch(
                from: "a", to: "b", revision: 1, onLine: { _ in Issue.record("no line") },
                onEnd: { ends.append($0) })
            bench.until { !ends.isEmpty }
            bench.pass(.milliseconds(20))
            #expect(ends == [.unavailable("\(canned.endpoint): the watch ended: no leader")])
        }
    }

    @Test("lines are cut at their ends, however they come")
    func lines() {
        let text = Array("one\n\ntwo\nthree\nrest".utf8)
        for size in 1...text.count {
            var splitter = LineSplitter()
            var lines: [String] = []
            for start in stride(from: 0, to: text.count, by: size) {
                let piece = Array(text[start..<min(start + size, text.count)])
                lines += splitter.add(piece).map { String(decoding: $0, as: UTF8.self) }
            }
            #expect(lines == ["one", "two", "three"])
            #expect(splitter.rest == Array("rest".utf8))
        }
    }
}
