import Glibc
import Testing

@testable import UvLoop

@Suite("Certificate authority") struct CertificateAuthorityTests {
    @Test("files have the right modes and say what they should; openssl agrees")
    func files() throws {
        try withDirectory { directory in
            let pki = try Cluster("\(directory)/new/pki", cluster: "c1")
            let issued = try CertificateAuthority.issue(
                role: "server", name: "s1", cluster: "c1", directory: pki.directory, days: 9_000,
                addresses: ["10.0.0.1", "::1", "s1.example"])
            #expect(issued.uri == "fermata://c1/server/s1")
            let authority = try CertificateAuthority.describe(
                certificatePath: "\(pki.directory)/ca.pem")
            let leaf = try CertificateAuthority.describe(certificatePath: issued.certificatePath)
            #expect(authority.isCA && !leaf.isCA)
            #expect(authority.uri == "fermata://c1/authority/ca")
            #expect(authority.subject == "O = c1, OU = authority, CN = ca")
            #expect(leaf.subject == "O = c1, OU = server, CN = s1")
            #expect(leaf.issuer == authority.subject)
            #expect(leaf.uri == issued.uri)
            #expect(leaf.serialHex.count == 32 && leaf.serialHex != authority.serialHex)
            #expect(leaf.notAfterUnixSeconds == authority.notAfterUnixSeconds, "it outlives its CA")
            #expect(leaf.notBeforeUnixSeconds < pki.now)
            #expect(try Files.mode(path: issued.keyPath) == 0o600)
            #expect(try Files.mode(path: "\(pki.directory)/ca.key") == 0o600)
            #expect(try Files.mode(path: pki.directory) == 0o700)
            #expect(try verifiedByOpenSSL(issued.certificatePath, "\(pki.directory)/ca.pem"))
        }
    }

    private func verifiedByOpenSSL(_ path: String, _ authority: String) throws -> Bool {
        try #require(
            Files.isExecutable(path: "/usr/bin/openssl"),
            "this test needs the openssl command: apt-get install openssl")
        let loop = try Loop()
        var status: UvLoop.ExitStatus?
        _ = try ChildProcess.spawn(
            executable: "/usr/bin/openssl",
            arguments: [
                "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", authority, path,
            ], on: loop
        ) { status = $0 }
        loop.run()
        return status == UvLoop.ExitStatus(code: 0, signal: 0)
    }

    @Test("nothing is overwritten")
    func noOverwriting() throws {
        try withDirectory { directory in
            let pki = try Cluster(directory)
            let before = try Files.read(path: "\(directory)/ca.key", byteCountMax: 9_999)
            let again = #expect(throws: TLSError.self) { try Cluster(directory) }
            #expect(again == .alreadyExists(path: "\(directory)/ca.pem"))
            #expect(try Files.read(path: "\(directory)/ca.key", byteCountMax: 9_999) == before)
            try pki.issue("agent", "a")
            let twice = #expect(throws: TLSError.self) { try pki.issue("agent", "a") }
            #expect(twice == .alreadyExists(path: "\(directory)/agent-a.pem"))
            try Files.remove(path: "\(directory)/agent-a.pem")
            #expect(throws: TLSError.alreadyExists(path: "\(directory)/agent-a.key")) {
                try pki.issue("agent", "a")
            }
            #expect(!Files.exists(path: "\(directory)/agent-a.pem"))
        }
    }

    @Test("bad names, days, clusters and places are refused")
    func badInput() throws {
        try withDirectory { directory in
            let pki = try Cluster(directory)
            let long = String(repeating: "x", count: 64)
            for name in ["", "a b", "a,URI:x", "../x", "-a", "ä", long] {
                guard
                    case .invalidName = #expect(
                        throws: TLSError.self,
                        performing: {
                            try pki.issue("agent", name)
                        })
                else { return #expect(Bool(false), "\(name) was accepted") }
            }
            for days in [0, -1, 40_000] {
                #expect(throws: TLSError.self) {
                    try CertificateAuthority.create(
                        cluster: "c", directory: "\(directory)/x", days: days)
                }
            }
            #expect(
                throws: TLSError.wrongCluster(
                    path: "\(directory)/ca.pem", expected: "other", found: "demo")
            ) { try pki.issue("agent", "a", cluster: "other") }
            #expect(throws: TLSError.self) {
                try CertificateAuthority.issue(
                    role: "agent", name: "a", cluster: "demo", directory: directory, days: 1,
                    addresses: ["a,DNS:b"])
            }
            #expect(throws: TLSError.self) {
                try CertificateAuthority.issue(
                    role: "agent", name: "a", cluster: "demo", directory: "/no/such", days: 1)
            }
            #expect(throws: TLSError.self) {
                try CertificateAuthority.create(cluster: "c", directory: "/dev/null", days: 1)
            }
        }
    }
}
