import COpenSSL
public import Edges

/// Our side of every handshake: TLS 1.3 only, both sides with certificates, ALPN `fermata/1`,
/// no session tickets.
public final class TLSContext {
    public enum Role: Hashable, Sendable { case client, server }

    public let role: Role
    /// Of our own certificate.
    public let identity: CertificateIdentity
    /// When the authority ends, and every certificate with it; of several, the first to end.
    public let authorityNotAfterUnixSeconds: Int64
    /// What is revoked; one for each authority. Empty if no list was given: then nothing is checked.
    public let revocationLists: [RevocationListDescription]
    /// The number of each list by its authority's key; nil for an authority without one.
    let listNumbers: [[UInt8]: UInt64?]
    let raw: OpaquePointer
    private let revokedSerials: Set<String>

    /// Reads and checks the files, so that what a peer would refuse is found before it is tried.
    ///
    /// - Parameters:
    ///   - certificatePath: PEM, our leaf first.
    ///   - keyPath: PEM, unencrypted; nobody but its owner may read it.
    ///   - authorityPath: PEM, the cluster's authority, which has signed both sides' certificates
    ///     itself; several while a fleet changes from one to another.
    ///   - listPath: PEM, a revocation list of each authority; nil to check nothing.
    /// - Throws: ``TLSError`` with the path that is wrong and what to do;
    ///   ``TLSError/revoked(of:)`` if our own certificate is on the list.
    public convenience init(
        role: Role, certificatePath: String, keyPath: String, authorityPath: String,
        listPath: String? = nil
    ) throws(TLSError) {
        try self.init(
            role: role, certificatePath: certificatePath, keyPath: keyPath,
            authorityPath: authorityPath, listPath: listPath, checksOwn: true)
    }

    /// - Parameter checksOwn: false lets a test offer a certificate that a peer must refuse.
    init(
        role: Role, certificatePath: String, keyPath: String, authorityPath: String,
        listPath: String? = nil, checksOwn: Bool
    ) throws(TLSError) {
        let certificate = try Certificate.read(certificatePath)
        let key = try PrivateKey.read(keyPath)
        let trust = try Trust.read(authorityPath: authorityPath, listPath: listPath)
        guard X509_check_private_key(certificate.raw, key.raw) == 1 else {
            throw .keyDoesNotMatch(certificatePath: certificatePath, keyPath: keyPath)
        }
        let identity =
            checksOwn
            ? try certificate.identity(of: certificatePath)
            : CertificateIdentity(
                uri: certificate.uriNames.first, notAfterUnixSeconds: certificate.notAfter,
                serialHex: certificate.serialHex)
        ERR_clear_error()
        guard
            let raw = fermata_context_new(
                role == .server ? 1 : 0, HandshakeLimit.byteCountMax)
        else {
            throw .failed(operation: "create a TLS context", reason: opensslReason())
        }
        // From here on deinit frees `raw`, also when this throws.
        self.role = role
        self.raw = raw
        self.identity = identity
        authorityNotAfterUnixSeconds = trust.authorities.map(\.notAfter).min() ?? 0
        revocationLists = trust.lists.map(\.description)
        revokedSerials = Set(trust.lists.flatMap { $0.description.entries.map(\.serialHex) })
        let numbers = trust.lists.map { Optional($0.description.number) }
        listNumbers = Dictionary(
            zip(
                trust.authorities.map(\.keyDigest),
                numbers.isEmpty ? trust.authorities.map { _ in nil } : numbers),
            uniquingKeysWith: { first, _ in first })
        guard SSL_CTX_use_certificate_chain_file(raw, certificatePath) == 1 else {
            throw .fileInvalid(path: certificatePath, reason: opensslReason())
        }
        guard SSL_CTX_use_PrivateKey(raw, key.raw) == 1 else {
            throw .fileInvalid(path: keyPath, reason: opensslReason())
        }
        guard trust.install(in: raw) else {
            throw .fileInvalid(path: authorityPath, reason: opensslReason())
        }
        if checksOwn { try verify(certificate, certificatePath, trust, authorityPath) }
    }

    deinit { SSL_CTX_free(raw) }

    /// Whether a certificate that was fine at its handshake is on a list of these credentials.
    public func isRevoked(_ certificate: CertificateIdentity) -> Bool {
        revokedSerials.contains(certificate.serialHex)
    }

    /// What a revocation list must not do when it is read again.
    public enum Setback: Hashable, Sendable {
        case gone
        case older(number: UInt64, loaded: UInt64)
    }

    /// Whether `new` knows less of what is revoked, for an authority that both trust.
    public func setback(to new: TLSContext) -> Setback? {
        for (authority, number) in listNumbers {
            guard let loaded = number, let found = new.listNumbers[authority] else { continue }
            guard let found else { return .gone }
            if found < loaded { return .older(number: found, loaded: loaded) }
        }
        return nil
    }

    private func verify(
        _ certificate: Certificate, _ path: String, _ trust: Trust, _ authorityPath: String
    ) throws(TLSError) {
        var depth: Int32 = 0
        let code = fermata_verify_own(raw, certificate.raw, role == .server ? 1 : 0, &depth)
        guard code != X509_V_OK else { return }
        if depth == 0 { throw Certificate.verifyError(code, of: path, certificate) }
        let authority = trust.authorities.first { certificate.isSigned(by: $0) }
        throw Certificate.verifyError(code, of: authorityPath, authority)
    }
}
