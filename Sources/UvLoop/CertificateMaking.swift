// Makes certificates: what they say, and their signatures.

import COpenSSL
import Glibc

/// An authority that can sign.
struct Authority {
    let certificate: Certificate
    let key: PrivateKey

    /// Reads `ca.pem` and `ca.key`.
    ///
    /// - Throws: what is wrong with them; ``TLSError/expired(of:notAfterUnixSeconds:)`` if what it
    ///   signs would be worth nothing.
    static func read(_ directory: String) throws(TLSError) -> Authority {
        let path = "\(directory)/ca.pem"
        let certificate = try Certificate.read(path)
        let key = try PrivateKey.read("\(directory)/ca.key")
        guard X509_check_private_key(certificate.raw, key.raw) == 1 else {
            throw .keyDoesNotMatch(certificatePath: path, keyPath: "\(directory)/ca.key")
        }
        guard certificate.notAfter > WallClock.nowMicroseconds / 1_000_000 else {
            throw .expired(of: path, notAfterUnixSeconds: certificate.notAfter)
        }
        return Authority(certificate: certificate, key: key)
    }

    /// Its URI is `fermata://CLUSTER/authority/ca`; nil if it has another.
    var cluster: String? {
        let parts = certificate.uriNames.first.split(
            separator: "/", omittingEmptySubsequences: false)
        guard parts.count == 5, parts[0] == "fermata:", parts[1].isEmpty,
            parts[3...].joined(separator: "/") == "authority/ca"
        else { return nil }
        return String(parts[2])
    }
}

extension CertificateAuthority {
    /// - Parameter issuer: nil for an authority's own.
    static func make(
        _ request: Request, issuer: Authority?
    ) throws(TLSError) -> (Certificate, PrivateKey) {
        ERR_clear_error()
        guard let key = PrivateKey(fermata_key_new()),
            let certificate = assemble(request, key: key, issuer: issuer)
        else { throw .failed(operation: "make a certificate", reason: opensslReason()) }
        return (certificate, key)
    }

    static func keyChange(_ key: PrivateKey, _ path: String) -> AuthorityDirectory.Change {
        let bytes = withMemoryBIO { bio in
            PEM_write_bio_PrivateKey(bio, key.raw, nil, nil, 0, nil, nil)
            return drain(bio)
        }
        return AuthorityDirectory.Change(path: path, mode: 0o600, bytes: bytes)
    }

    static func certificateChange(
        _ certificate: Certificate, _ path: String
    ) -> AuthorityDirectory.Change {
        let bytes = withMemoryBIO { bio in
            PEM_write_bio_X509(bio, certificate.raw)
            return drain(bio)
        }
        return AuthorityDirectory.Change(path: path, mode: 0o644, bytes: bytes)
    }

    /// A new certificate with the subject and the names of another.
    ///
    /// - Parameter key: nil to keep the other's.
    static func makeAgain(
        _ old: Certificate, key: PrivateKey?, notAfter: Int64, issuer: Authority, now: Int64
    ) throws(TLSError) -> Certificate {
        ERR_clear_error()
        let publicKey = key?.raw ?? X509_get0_pubkey(old.raw)
        let basis = Request(
            cluster: "", role: "", name: "", uris: [], notBefore: now - clockToleranceSeconds,
            notAfter: notAfter)
        guard let certificate = Certificate(X509_new()), let publicKey,
            begin(certificate.raw, basis),
            X509_set_subject_name(certificate.raw, X509_get_subject_name(old.raw)) == 1,
            X509_set_issuer_name(
                certificate.raw, X509_get_subject_name(issuer.certificate.raw)) == 1,
            X509_set_pubkey(certificate.raw, publicKey) == 1,
            extensions(basis).allSatisfy({
                fermata_add_extension(certificate.raw, issuer.certificate.raw, $0.0, $0.1) == 1
            }), fermata_copy_names(certificate.raw, old.raw) == 1,
            X509_sign(certificate.raw, issuer.key.raw, EVP_sha256()) > 0
        else { throw .failed(operation: "make a certificate", reason: opensslReason()) }
        return certificate
    }

    /// Version, serial number and time.
    private static func begin(_ raw: OpaquePointer, _ request: Request) -> Bool {
        var serial = randomBytes(16)
        serial[0] = serial[0] & 0x7F | 0x40  // positive, and always 16 bytes
        return X509_set_version(raw, 2) == 1  // counted from 0: version 3
            && fermata_set_serial(raw, serial, Int32(serial.count)) == 1
            && ASN1_TIME_set(X509_getm_notBefore(raw), time_t(request.notBefore)) != nil
            && ASN1_TIME_set(X509_getm_notAfter(raw), time_t(request.notAfter)) != nil
    }

    static func assemble(
        _ request: Request, key: PrivateKey, issuer: Authority?
    ) -> Certificate? {
        guard let certificate = Certificate(X509_new()) else { return nil }
        let raw = certificate.raw
        let signer = issuer?.certificate.raw ?? raw
        let name = X509_get_subject_name(raw)
        let parts = [("O", request.cluster), ("OU", request.role), ("CN", request.name)]
        guard begin(raw, request), parts.allSatisfy({ fermata_add_name(name, $0.0, $0.1) == 1 }),
            X509_set_issuer_name(raw, X509_get_subject_name(signer)) == 1,
            X509_set_pubkey(raw, key.raw) == 1,
            extensions(request).allSatisfy({
                fermata_add_extension(raw, signer, $0.0, $0.1) == 1
            }),
            X509_sign(raw, issuer?.key.raw ?? key.raw, EVP_sha256()) > 0
        else { return nil }
        return certificate
    }

    private static func extensions(_ request: Request) -> [(Int32, String)] {
        var names = request.uris.map { "URI:\($0)" }
        names += request.addresses.map { isIP($0) ? "IP:\($0)" : "DNS:\($0)" }
        let alternative =
            names.isEmpty ? [] : [(NID_subject_alt_name, names.joined(separator: ","))]
        if let odd = request.oddExtensions { return odd + alternative }
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
