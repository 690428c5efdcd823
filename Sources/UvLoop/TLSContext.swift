import COpenSSL

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

/// Our side of every handshake: TLS 1.3 only, both sides with certificates, ALPN `fermata/1`,
/// no session tickets.
public final class TLSContext {
    public enum Role: Hashable, Sendable { case client, server }

    public let role: Role
    /// Of our own certificate.
    public let identity: CertificateIdentity
    let raw: OpaquePointer

    /// Reads and checks the files, so that what a peer would refuse is found before it is tried.
    ///
    /// - Parameters:
    ///   - certificatePath: PEM, our leaf first.
    ///   - keyPath: PEM, unencrypted; nobody but its owner may read it.
    ///   - authorityPath: PEM, the cluster's authority, which both sides' chains must end in.
    /// - Throws: ``TLSError`` with the path that is wrong and what to do.
    public convenience init(
        role: Role, certificatePath: String, keyPath: String, authorityPath: String
    ) throws(TLSError) {
        try self.init(
            role: role, certificatePath: certificatePath, keyPath: keyPath,
            authorityPath: authorityPath, checksOwn: true)
    }

    /// - Parameter checksOwn: false lets a test offer a certificate that a peer must refuse.
    init(
        role: Role, certificatePath: String, keyPath: String, authorityPath: String,
        checksOwn: Bool
    ) throws(TLSError) {
        let certificate = try Certificate.read(certificatePath)
        let key = try PrivateKey.read(keyPath)
        let authority = try Certificate.read(authorityPath)
        guard X509_check_private_key(certificate.raw, key.raw) == 1 else {
            throw .keyDoesNotMatch(certificatePath: certificatePath, keyPath: keyPath)
        }
        guard authority.isAuthority else {
            throw .unfitCertificate(of: authorityPath, reason: "it is not an authority's")
        }
        ERR_clear_error()
        guard let raw = fermata_context_new(role == .server ? 1 : 0) else {
            throw .failed(operation: "create a TLS context", reason: opensslReason())
        }
        self.role = role
        self.raw = raw
        // From here on deinit frees `raw` also when this throws, once every property is set.
        identity =
            checksOwn
            ? try Self.orFree(raw) { () throws(TLSError) in
                try certificate.identity(of: certificatePath)
            }
            : CertificateIdentity(
                uri: certificate.uriNames.first, notAfterUnixSeconds: certificate.notAfter,
                serialHex: certificate.serialHex)
        guard SSL_CTX_use_certificate_chain_file(raw, certificatePath) == 1 else {
            throw .fileInvalid(path: certificatePath, reason: opensslReason())
        }
        guard SSL_CTX_use_PrivateKey(raw, key.raw) == 1 else {
            throw .fileInvalid(path: keyPath, reason: opensslReason())
        }
        guard SSL_CTX_load_verify_file(raw, authorityPath) == 1 else {
            throw .fileInvalid(path: authorityPath, reason: opensslReason())
        }
        if checksOwn {
            try verify(certificate, certificatePath, authority, authorityPath)
        }
    }

    deinit { SSL_CTX_free(raw) }

    private static func orFree<Result>(
        _ raw: OpaquePointer, _ body: () throws(TLSError) -> Result
    ) throws(TLSError) -> Result {
        do {
            return try body()
        } catch {
            SSL_CTX_free(raw)
            throw error
        }
    }

    private func verify(
        _ certificate: Certificate, _ path: String, _ authority: Certificate,
        _ authorityPath: String
    ) throws(TLSError) {
        let context = X509_STORE_CTX_new()
        defer { X509_STORE_CTX_free(context) }
        X509_STORE_CTX_init(context, SSL_CTX_get_cert_store(raw), certificate.raw, nil)
        X509_STORE_CTX_set_default(context, role == .server ? "ssl_server" : "ssl_client")
        guard X509_verify_cert(context) != 1 else { return }
        let isLeaf = X509_STORE_CTX_get_error_depth(context) == 0
        throw Certificate.verifyError(
            Int(X509_STORE_CTX_get_error(context)), of: isLeaf ? path : authorityPath,
            isLeaf ? certificate : authority)
    }
}
