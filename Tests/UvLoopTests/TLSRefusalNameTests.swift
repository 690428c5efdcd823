import COpenSSL
import Edges
import Testing

@testable import UvLoop

/// A certificate that a peer must refuse: as which error, and with which alert.
struct Unfit: Sendable, CustomTestStringConvertible {
    var kind: String
    var name: String
    var alert: String
    var testDescription: String { kind }
    init(_ kind: String, _ name: String, _ alert: String) {
        self.kind = kind
        self.name = name
        self.alert = alert
    }

    static let all = [
        Unfit("expired", "expired", "certificate_expired"),
        Unfit("early", "notYetValid", "bad_certificate"),
        Unfit("two names", "uriNames", "bad_certificate"),
        Unfit("no name", "uriNames", "bad_certificate"),
        Unfit("authority", "authorityAsLeaf", "unsupported_certificate"),
        Unfit("authority that may sign", "authorityAsLeaf", "unsupported_certificate"),
        Unfit("the authority itself", "authorityAsLeaf", "unsupported_certificate"),
        Unfit("other usage", "wrongUsage", "unsupported_certificate"),
        Unfit("longer chain", "wrongAuthority", "unknown_ca"),
        Unfit("foreign authority", "wrongAuthority", "unknown_ca"),
        Unfit("foreign authority of our name", "wrongAuthority", "unknown_ca"),
        Unfit("revoked", "revoked", "certificate_revoked"),
        Unfit("revoked, list overdue", "revoked", "certificate_revoked"),
    ]

    /// A context that offers it, unchecked.
    func context(_ cluster: Cluster, _ role: TLSContext.Role) throws -> TLSContext {
        switch kind {
        case "expired": try cluster.issueOdd("odd", from: -100, to: -10)
        case "early": try cluster.issueOdd("odd", from: 600)
        case "two names":
            try cluster.issueOdd("odd", uris: ["fermata://demo/agent/x", "fermata://demo/agent/y"])
        case "no name": try cluster.issueOdd("odd", uris: [])
        case "authority": try cluster.issueOdd("odd", isAuthority: true)
        case "authority that may sign":
            try cluster.issueOdd(
                "odd",
                extensions: [
                    (NID_basic_constraints, "critical,CA:TRUE"),
                    (NID_key_usage, "critical,keyCertSign,digitalSignature"),
                ])
        case "the authority itself":
            return try cluster.context(role, "ca", checksOwn: false, checksList: false)
        case "other usage":
            let usage = role == .client ? "serverAuth" : "clientAuth"
            try cluster.issueOdd("odd", extensions: [(NID_ext_key_usage, usage)])
        case "longer chain": return try longerChain(cluster, role)
        case "foreign authority", "foreign authority of our name":
            let name = kind == "foreign authority" ? "other" : "demo"
            let foreign = try Cluster("\(cluster.directory)/foreign", cluster: name)
            try foreign.issue("agent", "odd", cluster: name)
            return try foreign.context(
                role, "agent-odd", authority: cluster.directory, checksOwn: false)
        default:
            try cluster.issue("agent", "odd")
            let context = try cluster.context(role, "agent-odd")
            _ = try CertificateAuthority.revoke(
                .identity(role: "agent", name: "odd"), directory: cluster.directory,
                reason: .keyCompromise)
            if kind == "revoked, list overdue" { try cluster.makeListOverdue() }
            return context
        }
        return try cluster.context(role, "agent-odd", checksOwn: false, checksList: false)
    }

    /// Signed by somebody whom our authority has made an authority.
    private func longerChain(_ cluster: Cluster, _ role: TLSContext.Role) throws -> TLSContext {
        try cluster.issueOdd(
            "middle", uris: ["fermata://demo/authority/ca"], isAuthority: true)
        let middle = try Cluster("\(cluster.directory)/middle")
        try middle.write("ca.pem", try cluster.read("agent-middle.pem"))
        try middle.write("ca.key", try cluster.read("agent-middle.key"), mode: 0o600)
        try middle.issue("agent", "odd")
        let chain = try middle.read("agent-odd.pem") + (try middle.read("ca.pem"))
        try middle.write("agent-odd.pem", chain)
        return try middle.context(
            role, "agent-odd", authority: cluster.directory, checksOwn: false, checksList: false)
    }
}

@Suite("TLS refusals by name") struct TLSRefusalNameTests {
    @Test(
        "a server refuses an unfit client by its name, and the client hears why",
        arguments: Unfit.all)
    func client(_ unfit: Unfit) throws {
        try withCluster { cluster, loop in
            let client = try unfit.context(cluster, .client)
            let sides = try connect(
                on: loop, client: client, server: try cluster.context(.server, "server-s1"))
            run(loop) {
                sides.server.error != nil
                    && (sides.client.error != nil || !sides.client.received.ends.isEmpty)
            }
            #expect(sides.server.error?.name == unfit.name, "\(sides.server.error as Any)")
            let complaint = sides.client.complaint ?? ""
            #expect(complaint.contains(unfit.alert + ": "), "\(complaint)")
        }
    }

    @Test(
        "a client refuses an unfit server by its name, and the server hears why",
        arguments: Unfit.all)
    func server(_ unfit: Unfit) throws {
        try withCluster { cluster, loop in
            let server = try unfit.context(cluster, .server)
            let sides = try connect(
                on: loop, client: try cluster.context(.client, "agent-a"), server: server)
            run(loop) { sides.client.error != nil && sides.server.error != nil }
            #expect(sides.client.error?.name == unfit.name, "\(sides.client.error as Any)")
            #expect(sides.server.error?.name == "refusedByPeer")
            let complaint = sides.server.complaint ?? ""
            #expect(complaint.contains(unfit.alert + ": "), "\(complaint)")
            guard case .refusedByPeer(let reason) = sides.server.error else { return }
            #expect(TLSAlert(ofReason: reason)?.rawValue == unfit.alert)
        }
    }

    @Test("an authority that allows others below it is trusted for what it has signed itself only")
    func depth() throws {
        try withDirectory { directory in
            let pki = try Cluster(directory)
            let request = CertificateAuthority.Request(
                cluster: "demo", role: "authority", name: "ca",
                uris: ["fermata://demo/authority/ca"], notBefore: pki.now - 60,
                notAfter: pki.now + 3_600,
                oddExtensions: [
                    (NID_basic_constraints, "critical,CA:TRUE"),
                    (NID_key_usage, "critical,keyCertSign,cRLSign"),
                    (NID_subject_key_identifier, "hash"),
                ])
            let (certificate, key) = try CertificateAuthority.make(request, issuer: nil)
            try pki.write("ca.pem", CertificateAuthority.certificateChange(certificate, "").bytes)
            try pki.write("ca.key", CertificateAuthority.keyChange(key, "").bytes, mode: 0o600)
            try Files.remove(path: "\(directory)/crl.pem")
            try pki.issue("server", "s1")
            let loop = try Loop()
            let server = try pki.context(.server, "server-s1", checksList: false)
            let client = try Unfit("longer chain", "", "").context(pki, .client)
            let sides = try connect(on: loop, client: client, server: server)
            run(loop) { sides.server.result != nil }
            #expect(sides.server.error?.name == "wrongAuthority", "\(sides.server.result as Any)")
            loop.closeAll()
        }
    }

    @Test("the refused certificate's own name and serial number are told")
    func subject() throws {
        try withCluster { cluster, loop in
            let client = try Unfit("revoked", "", "").context(cluster, .client)
            let sides = try connect(
                on: loop, client: client, server: try cluster.context(.server, "server-s1"))
            run(loop) { sides.server.error != nil }
            let serial = client.identity.serialHex
            #expect(
                sides.server.error
                    == .revoked(
                        of: "the peer's certificate (fermata://demo/agent/odd, serial \(serial))"))
        }
    }

    @Test("without a list nothing is checked, with one that is overdue good peers are let in")
    func lists() throws {
        try withCluster { cluster, loop in
            let revoked = try Unfit("revoked", "", "").context(cluster, .client)
            let unchecked = try cluster.context(.server, "server-s1", checksList: false)
            #expect(unchecked.revocationLists.isEmpty && !unchecked.isRevoked(revoked.identity))
            let first = try connect(on: loop, client: revoked, server: unchecked)
            run(loop) { first.server.stream != nil }

            try cluster.makeListOverdue()
            let server = try cluster.context(.server, "server-s1")
            #expect(server.isRevoked(revoked.identity))
            #expect(server.revocationLists.first?.notAfterUnixSeconds == cluster.now - 10)
            let second = try connect(
                on: loop, client: try cluster.context(.client, "agent-a"), server: server)
            run(loop) { second.server.stream != nil }
        }
    }

    @Test("a peer of TLS 1.2 only is told from one of no TLS, on both sides")
    func version() throws {
        try withDirectory { directory in
            let pki = try Cluster(directory)
            try pki.issue("server", "s1")
            try pki.issue("agent", "a")
            let loop = try Loop()
            let side = Side()
            let server = try pki.context(.server, "server-s1")
            let listener = try Listener.tcp(loopback, on: loop) { stream in
                side.start(server, over: stream, on: loop)
            }
            let address = try #require(listener.address)
            _ = try openssl(["s_client", "-tls1_2", "-connect", address.description], on: loop)
            run(loop) { side.error != nil }
            #expect(side.error == .tlsVersion && side.error?.name == "tlsVersion")

            // The first bytes of a server of TLS 1.2 that refuses our offer: alert 70.
            let (first, second) = try streamPair(on: loop)
            let client = Side()
            client.start(try pki.context(.client, "agent-a"), over: first, on: loop)
            second.write([21, 3, 3, 0, 2, 2, 70])
            run(loop) { client.error != nil }
            #expect(client.error == .tlsVersion)
            loop.closeAll()
        }
    }

    @Test("every error has a name, and only what is no refusal is called other")
    func names() {
        let end = StreamEnd.endOfFile
        let errors: [TLSError: String] = [
            .plaintextPeer: "plaintext", .tlsVersion: "tlsVersion",
            .noPeerCertificate: "noCertificate",
            .wrongAuthority(of: "", reason: ""): "wrongAuthority",
            .expired(of: "", notAfterUnixSeconds: nil): "expired",
            .notYetValid(of: "", notBeforeUnixSeconds: nil): "notYetValid",
            .revoked(of: ""): "revoked", .authorityAsLeaf(of: ""): "authorityAsLeaf",
            .uriNames(of: "", count: 2): "uriNames", .wrongUsage(of: ""): "wrongUsage",
            .wrongProtocol: "wrongProtocol", .refusedByPeer(reason: ""): "refusedByPeer",
            .timedOut: "timedOut", .sendsTooMuch: "sendsTooMuch", .ended(end): "ended",
            .failed(operation: "", reason: ""): "other", .notAnAuthority(path: ""): "other",
            .directoryBusy(path: ""): "other", .neverIssued("", directory: ""): "other",
            .revokedKey(of: ""): "other", .alreadyExists(path: ""): "other",
        ]
        for (error, name) in errors {
            #expect(error.name == name)
            #expect(!error.description.isEmpty)
        }
    }
}
