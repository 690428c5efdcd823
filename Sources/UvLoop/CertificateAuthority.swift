/// What was written for one process.
public struct IssuedCertificate: Hashable, Sendable {
    public var certificatePath: String
    public var keyPath: String
    public var uri: String
    public var notAfterUnixSeconds: Int64
    /// Lower-case hexadecimal digits, two a byte.
    public var serialHex: String
}

/// What a file of PEM holds.
public enum PEMDescription: Hashable, Sendable {
    /// In the order of the file: of several authorities, or of a process with what it sends along.
    case certificates([CertificateDescription])
    /// One list of each authority.
    case lists([RevocationListDescription])
}

/// What a certificate file says.
public struct CertificateDescription: Hashable, Sendable {
    /// `O = CLUSTER, OU = ROLE, CN = NAME`
    public var subject: String
    /// The first URI name, if there is one.
    public var uri: String?
    public var notBeforeUnixSeconds: Int64
    public var notAfterUnixSeconds: Int64
    /// Lower-case hexadecimal digits, two a byte.
    public var serialHex: String
    public var issuer: String
    public var isCA: Bool
}

/// A certificate authority in a directory, for `fermata pki`.
///
/// `ca.pem` and `ca.key`, `crl.pem` (what is revoked), `index.txt` (what was issued), and the
/// certificates and keys that were not moved elsewhere. Renewing is in CertificateRenewal.swift,
/// revoking in CertificateRevocation.swift; how a crash leaves all or nothing of a change, in
/// AuthorityDirectory.swift.
public enum CertificateAuthority {
    static let daysMax = 36_500
    /// Hosts whose clocks are a little behind must be able to use a certificate at once.
    static let clockToleranceSeconds: Int64 = 300
    /// As Fleet's names: fit a path, a URI and the 64 characters X.509 gives a name's part.
    static let nameByteCountMax = 63

    /// Writes `ca.pem` and `ca.key` (mode 0600), an empty `crl.pem` and an empty index. The
    /// authority's URI is `fermata://CLUSTER/authority/ca`.
    ///
    /// - Parameters:
    ///   - directory: made, with mode 0700, if missing.
    ///   - days: how long it is valid, 1 to 36,500.
    /// - Throws: ``TLSError/alreadyExists(path:)`` rather than overwrite.
    public static func create(cluster: String, directory: String, days: Int) throws(TLSError) {
        try checkName(cluster, "cluster")
        let seconds = try validity(days: days)
        do {
            try Files.makeDirectory(path: directory, mode: 0o700, parents: true)
        } catch {
            throw .fileUnwritable(error)
        }
        let held = try AuthorityDirectory(directory)
        defer { held.close() }
        for name in ["ca.pem", "ca.key"] where Files.exists(path: held.full(name)) {
            throw .alreadyExists(path: held.full(name))
        }
        let now = WallClock.nowMicroseconds / 1_000_000
        let (certificate, key) = try make(
            Request(
                cluster: cluster, role: "authority", name: "ca",
                uris: ["fermata://\(cluster)/authority/ca"],
                notBefore: now - clockToleranceSeconds, notAfter: now + seconds,
                isAuthority: true),
            issuer: nil)
        var index = IssuedIndex()
        index.listNumber = 1
        let list = try RevocationList.make(
            [], number: index.listNumber, authority: certificate, key: key, now: now)
        // ca.pem comes last: whoever sees it sees all.
        try held.commit([
            keyChange(key, "ca.key"), .init(path: "crl.pem", mode: 0o644, bytes: list),
            index.change, certificateChange(certificate, "ca.pem"),
        ])
    }

    /// Writes `ROLE-NAME.pem` and `ROLE-NAME.key` (mode 0600) for both sides of connections; its
    /// URI is `fermata://CLUSTER/ROLE/NAME`.
    ///
    /// - Parameters:
    ///   - directory: that of ``create(cluster:directory:days:)``.
    ///   - days: how long it is valid; cut to what is left of the authority's time.
    ///   - addresses: IP addresses and DNS names, for programs other than Fermata's.
    /// - Throws: ``TLSError/alreadyExists(path:)`` rather than overwrite;
    ///   ``TLSError/wrongCluster(path:expected:found:)``; what is wrong with the authority's files.
    public static func issue(
        role: String, name: String, cluster: String, directory: String, days: Int,
        addresses: [String] = []
    ) throws(TLSError) -> IssuedCertificate {
        let now = WallClock.nowMicroseconds / 1_000_000
        let request = Request(
            cluster: cluster, role: role, name: name,
            uris: ["fermata://\(cluster)/\(role)/\(name)"], addresses: addresses,
            notBefore: now - clockToleranceSeconds, notAfter: now + (try validity(days: days)))
        return try issue(request, directory: directory)
    }

    /// What one certificate is to say.
    struct Request {
        var cluster: String
        var role: String
        var name: String
        var uris: [String]
        var addresses: [String] = []
        var notBefore: Int64
        var notAfter: Int64
        var isAuthority = false
        /// For tests: in place of what a certificate of this kind has, but for the names.
        var oddExtensions: [(Int32, String)]?
    }

    static func issue(
        _ request: Request, directory: String
    ) throws(TLSError) -> IssuedCertificate {
        var request = request
        try checkName(request.role, "role")
        try checkName(request.name, "name")
        try checkName(request.cluster, "cluster")
        for address in request.addresses { try checkAddress(address) }
        let held = try AuthorityDirectory(directory)
        defer { held.close() }
        let authority = try Authority.read(directory)
        guard authority.cluster == request.cluster else {
            throw .wrongCluster(
                path: "\(directory)/ca.pem", expected: request.cluster,
                found: authority.cluster ?? "?")
        }
        request.notAfter = min(request.notAfter, authority.certificate.notAfter)
        let name = "\(request.role)-\(request.name)"
        for path in ["\(name).pem", "\(name).key"] where Files.exists(path: held.full(path)) {
            throw .alreadyExists(path: held.full(path))
        }
        var index = try IssuedIndex.read(directory: directory)
        let (certificate, key) = try make(request, issuer: authority)
        index.entries.append(IssuedEntry(certificate))
        try held.commit([
            keyChange(key, "\(name).key"), certificateChange(certificate, "\(name).pem"),
            index.change,
        ])
        return IssuedCertificate(
            certificatePath: "\(directory)/\(name).pem", keyPath: "\(directory)/\(name).key",
            uri: request.uris.first ?? "", notAfterUnixSeconds: request.notAfter,
            serialHex: certificate.serialHex)
    }

    /// Puts in place what a killed command has left. Every call that changes something does so too.
    public static func finish(directory: String) throws(TLSError) {
        // Who may only read can, unless there is something to be finished.
        if AuthorityDirectory.isUnfinished(directory) { try AuthorityDirectory(directory).close() }
    }

    /// Everything that the authority has issued, in the order of issue.
    ///
    /// - Throws: what is wrong with the directory; see ``AuthorityDirectory``.
    public static func list(directory: String) throws(TLSError) -> [IssuedEntry] {
        try finish(directory: directory)
        _ = try Certificate.read("\(directory)/ca.pem")
        return try IssuedIndex.read(directory: directory).entries
    }

    /// What a file of PEM says.
    ///
    /// - Throws: ``TLSError`` if the file cannot be read, or is a key.
    public static func describe(path: String) throws(TLSError) -> PEMDescription {
        let text = String(decoding: try readPEM(path), as: UTF8.self)
        if text.contains("-----BEGIN X509 CRL-----") {
            return .lists(try RevocationList.readAll(path).map(\.description))
        }
        if text.contains("PRIVATE KEY-----"), !text.contains("-----BEGIN CERTIFICATE-----") {
            throw .fileInvalid(
                path: path,
                reason: "it is a private key, which is not shown: give the .pem beside it")
        }
        return .certificates(try Certificate.readAll(path).map(describe))
    }

    /// - Throws: ``TLSError`` if the file cannot be read or holds no PEM certificate.
    public static func describe(
        certificatePath: String
    ) throws(TLSError) -> CertificateDescription {
        describe(try Certificate.read(certificatePath))
    }

    private static func describe(_ certificate: Certificate) -> CertificateDescription {
        let names = certificate.uriNames
        return CertificateDescription(
            subject: certificate.subject, uri: names.count > 0 ? names.first : nil,
            notBeforeUnixSeconds: certificate.notBefore,
            notAfterUnixSeconds: certificate.notAfter, serialHex: certificate.serialHex,
            issuer: certificate.issuer, isCA: certificate.isAuthority)
    }

    // MARK: Checks

    static func checkName(_ name: String, _ what: String) throws(TLSError) {
        let isFit = name.utf8.allSatisfy { isAlphanumeric($0) || "-_.".utf8.contains($0) }
        guard isFit, let first = name.utf8.first, isAlphanumeric(first),
            name.utf8.count <= nameByteCountMax
        else {
            throw .invalidName(
                name,
                reason:
                    "is no \(what): give 1 to \(nameByteCountMax) characters of A-Z a-z 0-9 . _ -, "
                    + "the first a letter or a digit")
        }
    }

    /// Also keeps commas and the like out of OpenSSL's configuration words.
    static func checkAddress(_ address: String) throws(TLSError) {
        let isFit = address.utf8.allSatisfy { isAlphanumeric($0) || "-.:".utf8.contains($0) }
        guard isFit, !address.isEmpty, !address.contains(":") || isIP(address) else {
            throw .invalidName(address, reason: "is no IP address or DNS name")
        }
    }

    static func isIP(_ text: String) -> Bool { SocketAddress(ip: text, port: 0) != nil }

    static func isAlphanumeric(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "a")...UInt8(ascii: "z"),
            UInt8(ascii: "A")...UInt8(ascii: "Z"):
            true
        default: false
        }
    }

    static func validity(days: Int) throws(TLSError) -> Int64 {
        guard 1...daysMax ~= days else {
            throw .invalidName("\(days)", reason: "is no number of days from 1 to \(daysMax)")
        }
        return Int64(days) * 86_400
    }
}
