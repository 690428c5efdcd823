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
        uris: [String] = ["fermata://demo/agent/odd"], isAuthority: Bool = false
    ) throws {
        var request = CertificateAuthority.Request(
            cluster: "demo", role: "agent", name: name, uris: uris, notBefore: now + from,
            notAfter: now + to)
        request.isAuthority = isAuthority
        _ = try CertificateAuthority.issue(request, directory: directory)
    }

    func context(
        _ role: TLSContext.Role, _ prefix: String, authority: String? = nil, checksOwn: Bool = true
    ) throws(TLSError) -> TLSContext {
        try TLSContext(
            role: role, certificatePath: "\(directory)/\(prefix).pem",
            keyPath: "\(directory)/\(prefix).key",
            authorityPath: "\(authority ?? directory)/ca.pem", checksOwn: checksOwn)
    }
}
