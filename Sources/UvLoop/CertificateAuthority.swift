import Glibc

/// What was written for one process.
public struct IssuedCertificate: Hashable, Sendable {
    public var certificatePath: String
    public var keyPath: String
    public var uri: String
    public var notAfterUnixSeconds: Int64
}

/// What a certificate file says.
public struct CertificateDescription: Hashable, Sendable {
    /// `O = CLUSTER, OU = ROLE, CN = NAME`
    public var subject: String
    /// The first URI name, if there is one.
    public var uri: String?
    public var notBeforeUnixSeconds: Int64
    public var notAfterUnixSeconds: Int64
    public var serialHex: String
    public var issuer: String
    public var isCA: Bool
}

/// A throw-away certificate authority in a directory, for `fermata pki`.
public enum CertificateAuthority {
    /// Writes `ca.pem` and `ca.key`.
    public static func create(cluster: String, directory: String, days: Int) throws(TLSError) {
        fatalError("not written yet")
    }

    /// Writes `ROLE-NAME.pem` and `ROLE-NAME.key`.
    public static func issue(
        role: String, name: String, cluster: String, directory: String, days: Int,
        addresses: [String]
    ) throws(TLSError) -> IssuedCertificate {
        fatalError("not written yet")
    }

    public static func describe(
        certificatePath: String
    ) throws(TLSError) -> CertificateDescription {
        fatalError("not written yet")
    }
}

func formatUTC(_ unixSeconds: Int64) -> String {
    var seconds = time_t(unixSeconds)
    var parts = tm()
    gmtime_r(&seconds, &parts)
    var text = [CChar](repeating: 0, count: 32)
    strftime(&text, text.count, "%Y-%m-%dT%H:%M:%SZ", &parts)
    return String(decoding: text.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
}
