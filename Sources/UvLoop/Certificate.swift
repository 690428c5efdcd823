// A parsed certificate or key, and what OpenSSL says when it is not content.

import COpenSSL
import CUv
import Edges
import Glibc

/// The reason of the newest OpenSSL error of this thread.
func opensslReason() -> String {
    withUnsafeTemporaryAllocation(of: CChar.self, capacity: 256) { buffer in
        guard let base = buffer.baseAddress else { return "" }
        fermata_error_text(base, Int32(buffer.count))
        return String(cString: base)
    }
}

/// Bytes in memory that OpenSSL reads or writes.
func withMemoryBIO<Result>(
    _ bytes: [UInt8] = [], _ body: (OpaquePointer?) -> Result
) -> Result {
    let bio = fermata_bio_new()
    defer { BIO_free(bio) }
    BIO_write(bio, bytes, Int32(bytes.count))
    ERR_clear_error()
    return body(bio)
}

/// Takes everything out of a memory BIO.
func drain(_ bio: OpaquePointer?) -> [UInt8] {
    let count = BIO_ctrl_pending(bio)
    guard count > 0 else { return [] }
    return [UInt8](unsafeUninitializedCapacity: count) { buffer, filled in
        filled = Int(max(0, BIO_read(bio, buffer.baseAddress, Int32(clamping: count))))
    }
}

/// Larger files are no certificates or keys. A list has some 60 bytes for each entry.
private let pemByteCountMax = 16 << 20

func readPEM(_ path: String) throws(TLSError) -> [UInt8] {
    do {
        return try Files.read(path: path, byteCountMax: pemByteCountMax)
    } catch {
        throw .fileUnreadable(error)
    }
}

final class PrivateKey {
    let raw: OpaquePointer

    init?(_ raw: OpaquePointer?) {
        guard let raw else { return nil }
        self.raw = raw
    }

    deinit { EVP_PKEY_free(raw) }

    /// - Throws: ``TLSError/keyReadableByOthers(path:mode:)`` before it is read.
    static func read(_ path: String) throws(TLSError) -> PrivateKey {
        let mode: UInt32
        do { mode = try Files.mode(path: path) } catch { throw .fileUnreadable(error) }
        guard mode & 0o077 == 0 else { throw .keyReadableByOthers(path: path, mode: mode) }
        guard let key = PrivateKey(withMemoryBIO(try readPEM(path)) { fermata_read_key($0) })
        else {
            throw .fileInvalid(path: path, reason: "no unencrypted PEM private key in it")
        }
        return key
    }
}

final class Certificate {
    let raw: OpaquePointer

    init?(_ raw: OpaquePointer?) {
        guard let raw else { return nil }
        self.raw = raw
    }

    deinit { X509_free(raw) }

    static func read(_ path: String) throws(TLSError) -> Certificate {
        let bytes = try readPEM(path)
        guard let found = Certificate(withMemoryBIO(bytes) { fermata_read_certificate($0) }) else {
            throw .fileInvalid(path: path, reason: "no PEM certificate in it")
        }
        return found
    }

    /// Every certificate in a file.
    static func readAll(_ path: String) throws(TLSError) -> [Certificate] {
        let found = withMemoryBIO(try readPEM(path)) { bio in
            var found: [Certificate] = []
            while let next = Certificate(fermata_read_certificate(bio)) { found.append(next) }
            return found
        }
        guard !found.isEmpty else {
            throw .fileInvalid(path: path, reason: "no PEM certificate in it")
        }
        return found
    }

    /// How many URI names it has, and the first.
    var uriNames: (count: Int, first: String) {
        var buffer = [CChar](repeating: 0, count: 1_024)
        let count = fermata_uri_names(raw, &buffer, Int32(buffer.count))
        let bytes = buffer.prefix { $0 != 0 }.map(UInt8.init(bitPattern:))
        return (Int(count), String(decoding: bytes, as: UTF8.self))
    }

    var notBefore: Int64 { fermata_unix_seconds(X509_get0_notBefore(raw)) }
    var notAfter: Int64 { fermata_unix_seconds(X509_get0_notAfter(raw)) }
    var isAuthority: Bool { X509_check_ca(raw) != 0 }

    var serialHex: String { hexOfSerial(X509_get0_serialNumber(raw)) }

    /// SHA-256 of its public key: what tells two authorities of one name apart.
    var keyDigest: [UInt8] {
        var digest = [UInt8](repeating: 0, count: 32)
        fermata_key_digest(raw, &digest)
        return digest
    }

    var subject: String { nameText(X509_get_subject_name(raw)) }
    var issuer: String { nameText(X509_get_issuer_name(raw)) }

    /// Whether `authority` has signed it.
    func isSigned(by authority: Certificate) -> Bool {
        X509_check_issued(authority.raw, raw) == X509_V_OK
            && X509_verify(raw, X509_get0_pubkey(authority.raw)) == 1
    }

    /// - Throws: ``TLSError/authorityAsLeaf(of:)`` or ``TLSError/uriNames(of:count:)``.
    func identity(of subject: String) throws(TLSError) -> CertificateIdentity {
        guard !isAuthority else { throw .authorityAsLeaf(of: subject) }
        let names = uriNames
        guard names.count == 1, !names.first.isEmpty else {
            throw .uriNames(of: subject, count: names.count)
        }
        return CertificateIdentity(
            uri: names.first, notAfterUnixSeconds: notAfter, serialHex: serialHex)
    }

    /// The error for a certificate that the verification has refused.
    ///
    /// - Parameters:
    ///   - code: X509_V_ERR_…, as OpenSSL or `fermata_verify` has set it.
    ///   - certificate: the one in the chain that was refused, if it is known.
    static func verifyError(
        _ code: Int32, of subject: String, _ certificate: Certificate?
    ) -> TLSError {
        switch code {
        case X509_V_ERR_CERT_HAS_EXPIRED:
            return .expired(of: subject, notAfterUnixSeconds: certificate?.notAfter)
        case X509_V_ERR_CERT_NOT_YET_VALID:
            return .notYetValid(of: subject, notBeforeUnixSeconds: certificate?.notBefore)
        case X509_V_ERR_CERT_REVOKED: return .revoked(of: subject)
        case X509_V_ERR_INVALID_PURPOSE:
            return certificate?.isAuthority == true
                ? .authorityAsLeaf(of: subject) : .wrongUsage(of: subject)
        case X509_V_ERR_CERT_REJECTED:
            return .uriNames(of: subject, count: certificate?.uriNames.count ?? 0)
        default:
            let reason = X509_verify_cert_error_string(Int(code)).map { String(cString: $0) }
            return .wrongAuthority(of: subject, reason: reason ?? "error \(code)")
        }
    }

    /// How a peer's certificate is spoken of. What it says of itself may be a lie.
    static func peerSubject(_ certificate: Certificate?, code: Int32) -> String {
        guard let certificate else { return "the peer's certificate" }
        // An authority in the chain, unless that it is one is what is wrong.
        if certificate.isAuthority, code != X509_V_ERR_INVALID_PURPOSE {
            return "the authority of the peer's certificate"
        }
        let name = certificate.uriNames.first
        let isPlain =
            !name.isEmpty && name.utf8.count <= 200
            && name.utf8.allSatisfy { (0x21...0x7E).contains($0) }
        let serial = "serial \(certificate.serialHex)"
        return "the peer's certificate (\(isPlain ? "\(name), \(serial)" : serial))"
    }
}

/// Lower-case hexadecimal digits, two a byte; empty if it has more than 64 bytes.
func hexOfSerial(_ serial: UnsafePointer<ASN1_INTEGER>?) -> String {
    var buffer = [UInt8](repeating: 0, count: 64)
    let count = fermata_serial(serial, &buffer, Int32(buffer.count))
    return buffer[..<Int(count)].map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
}

func nameText(_ name: OpaquePointer?) -> String {
    withMemoryBIO { bio in
        fermata_print_name(bio, name)
        return String(decoding: drain(bio), as: UTF8.self)
    }
}
