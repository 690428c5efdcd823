/// Who a certificate says that its holder is.
public struct CertificateIdentity: Hashable, Sendable {
    /// Its only URI name: `fermata://CLUSTER/ROLE/NAME`.
    public var uri: String
    public var notAfterUnixSeconds: Int64
    /// Lower-case hexadecimal digits, two a byte.
    public var serialHex: String

    public init(uri: String, notAfterUnixSeconds: Int64, serialHex: String) {
        self.uri = uri
        self.notAfterUnixSeconds = notAfterUnixSeconds
        self.serialHex = serialHex
    }
}

/// Our side of every handshake: TLS 1.3 only, both sides with certificates, ALPN `fermata/1`.
public final class TLSContext {
    public enum Role: Hashable, Sendable { case client, server }

    public let role: Role
    /// Of our own certificate.
    public let identity: CertificateIdentity

    public init(
        role: Role, certificatePath: String, keyPath: String, authorityPath: String
    ) throws(TLSError) {
        fatalError("not written yet")
    }
}
