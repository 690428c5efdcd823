import Glibc
import Testing

@testable import UvLoop

private let agentA = CertificateReference.identity(role: "agent", name: "a")

@Suite("Revoking and renewing") struct RevocationTests {
    private func list(_ pki: Cluster) throws -> RevocationListDescription {
        try #require(try RevocationList.readAll("\(pki.directory)/crl.pem").first).description
    }

    @Test("a new authority has an empty list that ends with it, and an empty index")
    func begin() throws {
        try withDirectory { directory in
            let pki = try Cluster(directory)
            let list = try list(pki)
            #expect(list.number == 1 && list.entries.isEmpty)
            #expect(list.issuer == "O = demo, OU = authority, CN = ca")
            let authority = try Certificate.read("\(directory)/ca.pem")
            #expect(list.notAfterUnixSeconds == authority.notAfter)
            #expect(list.madeAtUnixSeconds < pki.now)
            #expect(try CertificateAuthority.list(directory: directory).isEmpty)
        }
    }

    @Test("what is issued is in the index, in order, as the certificates say it")
    func index() throws {
        try withDirectory { directory in
            let pki = try Cluster(directory)
            for name in ["a", "b"] { try pki.issue("agent", name) }
            let entries = try CertificateAuthority.list(directory: directory)
            #expect(entries.map(\.uri) == ["fermata://demo/agent/a", "fermata://demo/agent/b"])
            for (entry, name) in zip(entries, ["a", "b"]) {
                let certificate = try CertificateAuthority.describe(
                    certificatePath: "\(directory)/agent-\(name).pem")
                #expect(entry.serialHex == certificate.serialHex)
                #expect(entry.notBeforeUnixSeconds == certificate.notBeforeUnixSeconds)
                #expect(entry.notAfterUnixSeconds == certificate.notAfterUnixSeconds)
                #expect(entry.revocation == nil)
            }
        }
    }

    @Test("revoking a name revokes all its valid certificates, once; openssl agrees")
    func revokeName() throws {
        try withDirectory { directory in
            let pki = try Cluster(directory)
            try pki.issue("agent", "a")
            try pki.issue("agent", "b")
            _ = try CertificateAuthority.renew(
                agentA, directory: directory, days: 3, newKey: false)
            // Its name is a's; it has expired, so that it need not be on the list.
            try pki.issueOdd("old", from: -100, to: -10, uris: ["fermata://demo/agent/a"])
            let first = try CertificateAuthority.revoke(
                agentA, directory: directory, reason: .keyCompromise)
            #expect(first.revoked.count == 2 && first.before.isEmpty && first.expired.count == 1)
            #expect(first.listNumber == 2)
            let entries = try list(pki).entries
            #expect(Set(entries.map(\.serialHex)) == Set(first.revoked.map(\.serialHex)))
            #expect(entries.allSatisfy { $0.reason == .keyCompromise })
            let before = try pki.read("crl.pem")
            let again = try CertificateAuthority.revoke(
                agentA, directory: directory, reason: .superseded)
            #expect(again.revoked.isEmpty && again.before.count == 2 && again.listNumber == 2)
            #expect(again.before.allSatisfy { $0.revocation?.reason == .keyCompromise })
            #expect(try pki.read("crl.pem") == before)

            let loop = try Loop()
            func judge(_ name: String) throws -> Int32 {
                try openssl(
                    [
                        "verify", "-x509_strict", "-crl_check", "-CRLfile",
                        "\(directory)/crl.pem", "-CAfile", "\(directory)/ca.pem",
                        "\(directory)/\(name).pem",
                    ], on: loop)
            }
            #expect(try judge("agent-a") != 0)
            #expect(try judge("agent-b") == 0)
        }
    }

    @Test(
        "every reason is written, read back and kept beside the others",
        arguments: RevocationReason.allCases)
    func reasons(_ reason: RevocationReason) throws {
        try withDirectory { directory in
            let pki = try Cluster(directory)
            try pki.issue("agent", "a")
            try pki.issue("agent", "b")
            _ = try CertificateAuthority.revoke(
                .file("\(directory)/agent-b.pem"), directory: directory, reason: .superseded)
            let serial = try #require(try CertificateAuthority.list(directory: directory).first)
                .serialHex
            let colons = stride(from: 0, to: serial.count, by: 2).map {
                serial.dropFirst($0).prefix(2).uppercased()
            }.joined(separator: ":")
            _ = try CertificateAuthority.revoke(
                .serial(colons), directory: directory, reason: reason)
            let list = try list(pki)
            #expect(list.number == 3 && list.entries.count == 2)
            #expect(list.entries.first { $0.serialHex == serial }?.reason == reason)
        }
    }

    @Test("what this authority has not issued cannot be revoked or renewed here")
    func notOurs() throws {
        try withDirectory { directory in
            let pki = try Cluster(directory)
            let other = try Cluster("\(directory)/other")
            try other.issue("agent", "a")
            let file = "\(other.directory)/agent-a.pem"
            for body in [
                {
                    try CertificateAuthority.revoke(
                        agentA, directory: directory, reason: .superseded)
                },
                {
                    try CertificateAuthority.revoke(
                        .serial("0a"), directory: directory, reason: .superseded)
                },
            ] {
                guard
                    case .neverIssued = #expect(
                        throws: TLSError.self, performing: { _ = try body() })
                else { return #expect(Bool(false)) }
            }
            let reference = CertificateReference.file(file)
            let revoked = #expect(throws: TLSError.self) {
                try CertificateAuthority.revoke(
                    reference, directory: directory, reason: .superseded)
            }
            let renewed = #expect(throws: TLSError.self) {
                try CertificateAuthority.renew(
                    reference, directory: directory, days: 1, newKey: false)
            }
            #expect(revoked?.name == "wrongAuthority" && renewed?.name == "wrongAuthority")
            #expect(throws: TLSError.authorityAsLeaf(of: "\(directory)/ca.pem")) {
                try CertificateAuthority.renew(
                    .file("\(directory)/ca.pem"), directory: directory, days: 1, newKey: false)
            }
            #expect(try list(pki).number == 1)
        }
    }

    @Test("a lost list is made anew from the index, with a higher number")
    func lostList() throws {
        try withDirectory { directory in
            let pki = try Cluster(directory)
            try pki.issue("agent", "a")
            let old = try pki.read("crl.pem")
            _ = try CertificateAuthority.revoke(agentA, directory: directory, reason: .superseded)
            try Files.remove(path: "\(directory)/crl.pem")
            _ = try CertificateAuthority.revoke(agentA, directory: directory, reason: .superseded)
            #expect(try list(pki).number == 3)
            #expect(try list(pki).entries.count == 1)
            try pki.write("crl.pem", old)
            _ = try CertificateAuthority.revoke(agentA, directory: directory, reason: .superseded)
            #expect(try list(pki).number == 4)
            #expect(try list(pki).entries.count == 1)
        }
    }

    @Test("a lost list is made anew also when there is nothing to put on it")
    func lostEmptyList() throws {
        try withDirectory { directory in
            let pki = try Cluster(directory)
            try pki.issueOdd("a", from: -100, to: -10, uris: ["fermata://demo/agent/a"])
            try Files.remove(path: "\(directory)/crl.pem")
            let outcome = try CertificateAuthority.revoke(
                agentA, directory: directory, reason: .superseded)
            #expect(outcome.revoked.isEmpty && outcome.expired.count == 1)
            #expect(try list(pki).number == 2)
        }
    }

    @Test("a renewed certificate has the same names and key, a new serial number and a later end")
    func renew() throws {
        try withDirectory { directory in
            let pki = try Cluster(directory)
            _ = try CertificateAuthority.issue(
                role: "server", name: "s", cluster: "demo", directory: directory, days: 1,
                addresses: ["10.0.0.1", "s.example"])
            let path = "\(directory)/server-s.pem"
            let (old, key) = (try Certificate.read(path), try pki.read("server-s.key"))
            let made = try CertificateAuthority.renew(
                .file(path), directory: directory, days: 20, newKey: false)
            let new = try Certificate.read(path)
            #expect(new.keyDigest == old.keyDigest)
            #expect(try pki.read("server-s.key") == key)
            #expect(new.serialHex != old.serialHex && new.serialHex == made.serialHex)
            #expect(new.notAfter == made.notAfterUnixSeconds && new.notAfter > old.notAfter)
            #expect(new.subject == old.subject && new.uriNames.first == old.uriNames.first)
            #expect(try pki.context(.server, "server-s").identity.serialHex == made.serialHex)
            let loop = try Loop()
            for host in ["-verify_ip 10.0.0.1", "-verify_hostname s.example"] {
                let words = host.split(separator: " ").map(String.init)
                let code = try openssl(
                    ["verify", "-x509_strict", "-purpose", "sslserver"] + words
                        + ["-CAfile", "\(directory)/ca.pem", path], on: loop)
                #expect(code == 0, "\(host)")
            }
            let far = try CertificateAuthority.renew(
                .file(path), directory: directory, days: 9_000, newKey: true)
            let authority = try Certificate.read("\(directory)/ca.pem")
            #expect(far.notAfterUnixSeconds == authority.notAfter, "it outlives its authority")
            #expect(try Certificate.read(path).keyDigest != old.keyDigest)
            #expect(try Files.mode(path: "\(directory)/server-s.key") == 0o600)
            _ = try pki.context(.server, "server-s")
        }
    }

    @Test("an expired certificate can be renewed, a revoked one only with a new key")
    func renewUnfit() throws {
        try withDirectory { directory in
            let pki = try Cluster(directory)
            try pki.issueOdd("a", from: -100, to: -10, uris: ["fermata://demo/agent/a"])
            _ = try CertificateAuthority.renew(agentA, directory: directory, days: 1, newKey: false)
            _ = try CertificateAuthority.revoke(
                agentA, directory: directory, reason: .keyCompromise)
            #expect(throws: TLSError.revoked(of: "\(directory)/agent-a.pem")) {
                try pki.context(.client, "agent-a")
            }
            #expect(throws: TLSError.revokedKey(of: "\(directory)/agent-a.pem")) {
                try CertificateAuthority.renew(agentA, directory: directory, days: 1, newKey: false)
            }
            // Also if the index is gone: the list knows as well.
            try Files.remove(path: "\(directory)/index.txt")
            #expect(throws: TLSError.revokedKey(of: "\(directory)/agent-a.pem")) {
                try CertificateAuthority.renew(agentA, directory: directory, days: 1, newKey: false)
            }
            _ = try CertificateAuthority.renew(agentA, directory: directory, days: 1, newKey: true)
            _ = try pki.context(.client, "agent-a")
        }
    }

    @Test("a symlink to a certificate stays one, and what it points to is renewed")
    func symlink() throws {
        try withDirectory { directory in
            let pki = try Cluster("\(directory)/pki")
            try pki.issue("agent", "a")
            Glibc.symlink("\(pki.directory)/agent-a.pem", "\(directory)/here.pem")
            let before = try pki.read("agent-a.pem")
            _ = try CertificateAuthority.renew(
                .file("\(directory)/here.pem"), directory: pki.directory, days: 1, newKey: true)
            #expect(try pki.read("agent-a.pem") != before)
            _ = try pki.context(.client, "agent-a")
            #expect(try Files.link(pathOfSymlink: "\(directory)/here.pem").hasSuffix("agent-a.pem"))
        }
    }
}

@Suite("Revocation lists beside ca.pem") struct TrustTests {
    @Test(
        "a list of another authority, of none, or without our authority's is refused, and says so")
    func wrongLists() throws {
        try withDirectory { directory in
            let pki = try Cluster(directory)
            try pki.issue("agent", "a")
            let other = try Cluster("\(directory)/other")
            let own = try pki.read("crl.pem")
            func complaint() -> String {
                do throws(TLSError) {
                    _ = try pki.context(.client, "agent-a")
                    return ""
                } catch { return error.description }
            }
            #expect(complaint().isEmpty)
            try pki.write("crl.pem", try other.read("crl.pem"))
            #expect(complaint().contains("no list signed by"))
            try pki.write("crl.pem", own + (try other.read("crl.pem")))
            #expect(complaint().contains("is not signed by an authority"))
            try pki.write("crl.pem", own + own)
            #expect(complaint().contains("2 lists"))
            try pki.write("crl.pem", Array("nothing".utf8))
            #expect(complaint().contains("no PEM revocation list"))
            var damaged = own
            damaged[damaged.count / 2] ^= 1
            try pki.write("crl.pem", damaged)
            #expect(!complaint().isEmpty)
            try Files.remove(path: "\(directory)/crl.pem")
            #expect(complaint().contains("ENOENT"))
            try pki.write("ca.pem", try pki.read("agent-a.pem"))
            #expect(complaint().contains("not an authority's certificate"))
        }
    }

    @Test("two authorities are both trusted while a fleet changes over, each with its list")
    func twoAuthorities() throws {
        try withDirectory { directory in
            // The new one has the name of the old, as a new authority of the same cluster has.
            let (old, new) = (try Cluster("\(directory)/old"), try Cluster("\(directory)/new"))
            try old.issue("server", "s")
            try new.issue("agent", "a")
            let before = try old.context(.server, "server-s")
            for pki in [old, new] {
                _ = try pki.issue("agent", "gone")
                _ = try CertificateAuthority.revoke(
                    .identity(role: "agent", name: "gone"), directory: pki.directory,
                    reason: .superseded)
            }
            let authorities = try new.read("ca.pem") + (try old.read("ca.pem"))
            let lists = try old.read("crl.pem") + (try new.read("crl.pem"))
            for pki in [old, new] {
                try pki.write("ca.pem", authorities)
                try pki.write("crl.pem", lists)
            }
            let server = try old.context(.server, "server-s")
            #expect(server.revocationLists.map(\.number) == [2, 2])
            #expect(before.setback(to: server) == nil)
            #expect(server.setback(to: before) == .older(number: 1, loaded: 2))
            let unchecked = try old.context(.server, "server-s", checksList: false)
            #expect(server.setback(to: unchecked) == .gone)
            #expect(unchecked.setback(to: server) == nil)
            let loop = try Loop()
            let sides = try connect(
                on: loop, client: try new.context(.client, "agent-a"), server: server)
            run(loop) { sides.server.stream != nil && sides.client.stream != nil }
            for pki in [old, new] {
                let gone = try pki.context(.client, "agent-gone", checksOwn: false)
                let refused = try connect(on: loop, client: gone, server: server)
                run(loop) { refused.server.error != nil }
                #expect(refused.server.error?.name == "revoked")
            }
            loop.closeAll()
        }
    }
}
