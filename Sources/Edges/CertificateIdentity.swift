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
