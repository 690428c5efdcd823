// Certificate revocation lists (X.509 CRL, version 2): reading, checking and making them.

import COpenSSL

/// Why a certificate is not to be trusted any more, in the words of X.509.
public enum RevocationReason: String, Hashable, Sendable, CaseIterable {
    case unspecified
    case keyCompromise
    case affiliationChanged
    case superseded
    case cessationOfOperation
    case privilegeWithdrawn

    /// The number in the list's entry. RFC 5280, section 5.3.1: `unspecified` is not written.
    var code: Int32 {
        switch self {
        case .unspecified: -1
        case .keyCompromise: 1
        case .affiliationChanged: 3
        case .superseded: 4
        case .cessationOfOperation: 5
        case .privilegeWithdrawn: 9
        }
    }

    /// Reasons that other authorities may give count as unspecified.
    init(code: Int32) { self = Self.allCases.first { $0.code == code } ?? .unspecified }
}

/// One entry of a revocation list.
public struct RevokedCertificate: Hashable, Sendable {
    /// Lower-case hexadecimal digits, two a byte.
    public var serialHex: String
    public var revokedAtUnixSeconds: Int64
    public var reason: RevocationReason
}

/// What a revocation list says.
public struct RevocationListDescription: Hashable, Sendable {
    /// `O = CLUSTER, OU = authority, CN = ca`
    public var issuer: String
    /// Each list of an authority has a higher one than the list before it.
    public var number: UInt64
    public var madeAtUnixSeconds: Int64
    /// When the next is promised (nextUpdate). The list is used after it as well. Nil if the list
    /// does not say.
    public var notAfterUnixSeconds: Int64?
    public var entries: [RevokedCertificate]
}

final class RevocationList {
    let raw: OpaquePointer
    let description: RevocationListDescription

    /// - Returns: nil if it has no number, as all of version 2 must.
    init?(_ raw: OpaquePointer) {
        self.raw = raw
        var number: UInt64 = 0
        let hasNumber = fermata_list_number(raw, &number) == 1
        description = RevocationListDescription(
            issuer: nameText(X509_CRL_get_issuer(raw)), number: number,
            madeAtUnixSeconds: fermata_unix_seconds(X509_CRL_get0_lastUpdate(raw)),
            notAfterUnixSeconds: X509_CRL_get0_nextUpdate(raw).map(fermata_unix_seconds),
            entries: Self.entries(raw))
        guard hasNumber else { return nil }
    }

    deinit { X509_CRL_free(raw) }

    private static func entries(_ raw: OpaquePointer) -> [RevokedCertificate] {
        (0..<max(0, fermata_list_count(raw))).map { index in
            var seconds: Int64 = 0
            var reason: Int32 = 0
            let serial = fermata_list_entry(raw, index, &seconds, &reason)
            return RevokedCertificate(
                serialHex: hexOfSerial(serial), revokedAtUnixSeconds: seconds,
                reason: RevocationReason(code: reason))
        }
    }

    /// Every list in a file.
    ///
    /// - Throws: ``TLSError/fileInvalid(path:reason:)`` if there is none, or one without a number.
    static func readAll(_ path: String) throws(TLSError) -> [RevocationList] {
        var found: [RevocationList] = []
        var hasNumbers = true
        withMemoryBIO(try readPEM(path)) { bio in
            while let raw = fermata_read_list(bio) {
                if let list = RevocationList(raw) { found.append(list) } else { hasNumbers = false }
            }
        }
        guard hasNumbers else {
            throw .fileInvalid(
                path: path, reason: "a list in it has no number: make it as version 2")
        }
        guard !found.isEmpty else {
            throw .fileInvalid(
                path: path, reason: "no PEM revocation list in it: copy the authority's crl.pem")
        }
        return found
    }

    func isSigned(by authority: Certificate) -> Bool {
        X509_NAME_cmp(X509_CRL_get_issuer(raw), X509_get_subject_name(authority.raw)) == 0
            && X509_CRL_verify(raw, X509_get0_pubkey(authority.raw)) == 1
    }

    /// A signed list as PEM. Its end is the authority's, unless a test wants another, so that one
    /// which nobody renews is never out of date while there is something to check.
    static func make(
        _ entries: [RevokedCertificate], number: UInt64, authority: Certificate, key: PrivateKey,
        now: Int64, notAfter: Int64? = nil
    ) throws(TLSError) -> [UInt8] {
        ERR_clear_error()
        let failure = { TLSError.failed(operation: "make crl.pem", reason: opensslReason()) }
        guard
            let raw = fermata_list_new(
                authority.raw, now - CertificateAuthority.clockToleranceSeconds,
                notAfter ?? authority.notAfter, number)
        else { throw failure() }
        defer { X509_CRL_free(raw) }
        for entry in entries {
            guard let serial = bytes(ofHex: entry.serialHex),
                fermata_list_add(
                    raw, serial, Int32(serial.count), entry.revokedAtUnixSeconds,
                    entry.reason.code) == 1
            else { throw failure() }
        }
        guard fermata_list_sign(raw, authority.raw, key.raw) == 1 else { throw failure() }
        return withMemoryBIO { bio in
            PEM_write_bio_X509_CRL(bio, raw)
            return drain(bio)
        }
    }
}

/// - Returns: nil unless `text` is hexadecimal digits, two a byte, one byte at least.
func bytes(ofHex text: String) -> [UInt8]? {
    let digits = Array(text.utf8)
    guard !digits.isEmpty, digits.count % 2 == 0 else { return nil }
    var result: [UInt8] = []
    for index in stride(from: 0, to: digits.count, by: 2) {
        let pair = String(decoding: digits[index...index + 1], as: UTF8.self)
        guard pair.utf8.first != UInt8(ascii: "+"), let byte = UInt8(pair, radix: 16) else {
            return nil
        }
        result.append(byte)
    }
    return result
}
