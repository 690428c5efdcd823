import Testing

@testable import UvLoop

/// A directory with an authority, and certificates from it, good and odd.
final class Cluster {
    let directory: String
    let now = WallClock.nowMicroseconds / 1_000_000

    init(_ directory: String, cluster: String = "demo") throws {
        self.directory = directory
        try CertificateAuthority.create(cluster: cluster, directory: directory, days: 30)
    }

    @discardableResult
    func issue(_ role: String, _ name: String, cluster: String = "demo") throws
        -> IssuedCertificate
    {
        try CertificateAuthority.issue(
            role: role, name: name, cluster: cluster, directory: directory, days: 30)
    }

    /// A certificate that `fermata pki` would never make.
    func issueOdd(
        _ name: String, from: Int64 = -60, to: Int64 = 3_600,
        uris: [String] = ["fermata://demo/agent/odd"], isAuthority: Bool = false,
        extensions: [(Int32, String)]? = nil
    ) throws {
        var request = CertificateAuthority.Request(
            cluster: "demo", role: "agent", name: name, uris: uris, notBefore: now + from,
            notAfter: now + to)
        request.isAuthority = isAuthority
        request.oddExtensions = extensions
        _ = try CertificateAuthority.issue(request, directory: directory)
    }

    func context(
        _ role: TLSContext.Role, _ prefix: String, authority: String? = nil, checksOwn: Bool = true,
        checksList: Bool = true
    ) throws(TLSError) -> TLSContext {
        try TLSContext(
            role: role, certificatePath: "\(directory)/\(prefix).pem",
            keyPath: "\(directory)/\(prefix).key",
            authorityPath: "\(authority ?? directory)/ca.pem",
            listPath: checksList ? "\(authority ?? directory)/crl.pem" : nil, checksOwn: checksOwn)
    }

    /// Files as they are, by name.
    func read(_ name: String) throws -> [UInt8] {
        try Files.read(path: "\(directory)/\(name)", byteCountMax: 1 << 20)
    }

    func write(_ name: String, _ bytes: [UInt8], mode: UInt32 = 0o644) throws {
        try Files.writeAtomically(
            path: "\(directory)/\(name)", bytes: bytes, durable: false, mode: mode)
    }
}

extension Cluster {
    /// The list as it is, but the next one was promised ten seconds ago.
    func makeListOverdue() throws {
        let authority = try Authority.read(directory)
        let list = try #require(try RevocationList.readAll("\(directory)/crl.pem").first)
        try write(
            "crl.pem",
            try RevocationList.make(
                list.description.entries, number: list.description.number,
                authority: authority.certificate, key: authority.key, now: now - 1_000,
                notAfter: now - 10))
    }
}
