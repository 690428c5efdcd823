import COpenSSL
import CUv
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
    /// Lower-case hexadecimal digits, two a byte.
    public var serialHex: String
    public var issuer: String
    public var isCA: Bool
}

/// A throw-away certificate authority in a directory, for `fermata pki`.
public enum CertificateAuthority {
    static let daysMax = 36_500
    /// Hosts whose clocks are a little behind must be able to use a certificate at once.
    static let clockToleranceSeconds: Int64 = 300
    /// As Fleet's names: fit a path, a URI and the 64 characters X.509 gives a name's part.
    static let nameByteCountMax = 63

    /// Writes `ca.pem` and `ca.key` (mode 0600); its URI is `fermata://CLUSTER/authority/ca`.
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
        let now = WallClock.nowMicroseconds / 1_000_000
        try write(
            Request(
                cluster: cluster, role: "authority", name: "ca",
                uris: ["fermata://\(cluster)/authority/ca"],
                notBefore: now - clockToleranceSeconds, notAfter: now + seconds,
                isAuthority: true),
            issuer: nil, to: "\(directory)/ca")
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
    }

    static func issue(
        _ request: Request, directory: String
    ) throws(TLSError) -> IssuedCertificate {
        var request = request
        try checkName(request.role, "role")
        try checkName(request.name, "name")
        try checkName(request.cluster, "cluster")
        for address in request.addresses { try checkAddress(address) }
        let path = "\(directory)/ca.pem"
        let certificate = try Certificate.read(path)
        let key = try PrivateKey.read("\(directory)/ca.key")
        guard X509_check_private_key(certificate.raw, key.raw) == 1 else {
            throw .keyDoesNotMatch(certificatePath: path, keyPath: "\(directory)/ca.key")
        }
        let found = certificate.uriNames.first
        guard found == "fermata://\(request.cluster)/authority/ca" else {
            let cluster = found.split(separator: "/").dropFirst().first.map(String.init)
            throw .wrongCluster(path: path, expected: request.cluster, found: cluster ?? "?")
        }
        guard certificate.notAfter > WallClock.nowMicroseconds / 1_000_000 else {
            throw .expired(of: path, notAfterUnixSeconds: certificate.notAfter)
        }
        request.notAfter = min(request.notAfter, certificate.notAfter)
        let prefix = "\(directory)/\(request.role)-\(request.name)"
        try write(request, issuer: (certificate, key), to: prefix)
        return IssuedCertificate(
            certificatePath: "\(prefix).pem", keyPath: "\(prefix).key",
            uri: request.uris.first ?? "", notAfterUnixSeconds: request.notAfter)
    }

    /// - Throws: ``TLSError`` if the file cannot be read or holds no PEM certificate.
    public static func describe(
        certificatePath: String
    ) throws(TLSError) -> CertificateDescription {
        let certificate = try Certificate.read(certificatePath)
        let names = certificate.uriNames
        return CertificateDescription(
            subject: certificate.subject, uri: names.count > 0 ? names.first : nil,
            notBeforeUnixSeconds: certificate.notBefore,
            notAfterUnixSeconds: certificate.notAfter, serialHex: certificate.serialHex,
            issuer: certificate.issuer, isCA: certificate.isAuthority)
    }

    // MARK: Checks

    private static func checkName(_ name: String, _ what: String) throws(TLSError) {
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
    private static func checkAddress(_ address: String) throws(TLSError) {
        let isFit = address.utf8.allSatisfy { isAlphanumeric($0) || "-.:".utf8.contains($0) }
        guard isFit, !address.isEmpty, !address.contains(":") || isIP(address) else {
            throw .invalidName(address, reason: "is no IP address or DNS name")
        }
    }

    private static func isIP(_ text: String) -> Bool { SocketAddress(ip: text, port: 0) != nil }

    private static func isAlphanumeric(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "a")...UInt8(ascii: "z"),
            UInt8(ascii: "A")...UInt8(ascii: "Z"):
            true
        default: false
        }
    }

    private static func validity(days: Int) throws(TLSError) -> Int64 {
        guard 1...daysMax ~= days else {
            throw .invalidName("\(days)", reason: "is no number of days from 1 to \(daysMax)")
        }
        return Int64(days) * 86_400
    }

    // MARK: Making and writing

    private static func write(
        _ request: Request, issuer: (Certificate, PrivateKey)?, to prefix: String
    ) throws(TLSError) {
        ERR_clear_error()
        guard let key = PrivateKey(fermata_key_new()),
            let certificate = make(request, key: key, issuer: issuer)
        else { throw .failed(operation: "make \(prefix).pem", reason: opensslReason()) }
        let keyText = withMemoryBIO { bio in
            PEM_write_bio_PrivateKey(bio, key.raw, nil, nil, 0, nil, nil)
            return drain(bio)
        }
        let certificateText = withMemoryBIO { bio in
            PEM_write_bio_X509(bio, certificate.raw)
            return drain(bio)
        }
        // Neither without the other: a key alone must not be mistaken for a whole pair.
        for path in ["\(prefix).pem", "\(prefix).key"] where Files.exists(path: path) {
            throw .alreadyExists(path: path)
        }
        try create("\(prefix).key", keyText, mode: 0o600)
        do {
            try create("\(prefix).pem", certificateText, mode: 0o644)
        } catch {
            unlink("\(prefix).key")
            throw error
        }
    }

    private static func create(
        _ path: String, _ bytes: [UInt8], mode: UInt32
    ) throws(TLSError) {
        do {
            try Files.create(path: path, bytes: bytes, durable: true, mode: mode)
        } catch {
            throw error.code == -EEXIST ? .alreadyExists(path: path) : .fileUnwritable(error)
        }
    }

    private static func make(
        _ request: Request, key: PrivateKey, issuer: (Certificate, PrivateKey)?
    ) -> Certificate? {
        guard let certificate = Certificate(X509_new()) else { return nil }
        let raw = certificate.raw
        var serial = randomBytes(16)
        serial[0] = serial[0] & 0x7F | 0x40  // positive, and always 16 bytes
        let name = X509_get_subject_name(raw)
        let parts = [("O", request.cluster), ("OU", request.role), ("CN", request.name)]
        guard X509_set_version(raw, 2) == 1,  // counted from 0: version 3
            fermata_set_serial(raw, serial, Int32(serial.count)) == 1,
            ASN1_TIME_set(X509_getm_notBefore(raw), time_t(request.notBefore)) != nil,
            ASN1_TIME_set(X509_getm_notAfter(raw), time_t(request.notAfter)) != nil,
            parts.allSatisfy({ fermata_add_name(name, $0.0, $0.1) == 1 }),
            X509_set_issuer_name(raw, issuer.map { X509_get_subject_name($0.0.raw) } ?? name) == 1,
            X509_set_pubkey(raw, key.raw) == 1,
            extensions(request).allSatisfy({
                fermata_add_extension(raw, issuer?.0.raw ?? raw, $0.0, $0.1) == 1
            }),
            X509_sign(raw, issuer?.1.raw ?? key.raw, EVP_sha256()) > 0
        else { return nil }
        return certificate
    }

    private static func extensions(_ request: Request) -> [(Int32, String)] {
        var names = request.uris.map { "URI:\($0)" }
        names += request.addresses.map { isIP($0) ? "IP:\($0)" : "DNS:\($0)" }
        let alternative =
            names.isEmpty ? [] : [(NID_subject_alt_name, names.joined(separator: ","))]
        if request.isAuthority {
            return [
                (NID_basic_constraints, "critical,CA:TRUE,pathlen:0"),
                (NID_key_usage, "critical,keyCertSign,cRLSign"),
                (NID_subject_key_identifier, "hash"),
            ] + alternative
        }
        return [
            (NID_basic_constraints, "critical,CA:FALSE"),
            (NID_key_usage, "critical,digitalSignature"),
            // Servers connect to servers too, and one certificate a process is easier to keep.
            (NID_ext_key_usage, "serverAuth,clientAuth"),
            (NID_subject_key_identifier, "hash"),
            (NID_authority_key_identifier, "keyid"),
        ] + alternative
    }
}

/// `2026-11-23T23:05:55Z`
func formatUTC(_ unixSeconds: Int64) -> String {
    var seconds = time_t(unixSeconds)
    var parts = tm()
    gmtime_r(&seconds, &parts)
    var text = [CChar](repeating: 0, count: 32)
    strftime(&text, text.count, "%Y-%m-%dT%H:%M:%SZ", &parts)
    return String(decoding: text.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
}
