// Renewing: the same names, a later end, and by default the same key.
//
// The old certificate stays valid until its own end, so that a fleet changes over one process at a
// time. A certificate that has expired may be renewed; one that was revoked may be, for a new key.

import COpenSSL
import CUv
import Glibc

/// Which certificate a command is about.
public enum CertificateReference: Hashable, Sendable {
    case identity(role: String, name: String)
    /// Its file, which may lie anywhere.
    case file(String)
    /// Hexadecimal digits, with or without colons.
    case serial(String)
}

extension CertificateAuthority {
    /// Replaces a certificate by one that says the same and ends later.
    ///
    /// - Parameters:
    ///   - what: an identity, whose files are in `directory`, or a file.
    ///   - days: how long it is valid; cut to what is left of the authority's time.
    ///   - newKey: also make a new key; the two files change together, whatever happens.
    /// - Throws: ``TLSError/revokedKey(of:)`` if it was revoked and `newKey` is false;
    ///   ``TLSError/wrongAuthority(of:reason:)`` if this authority has not issued it.
    public static func renew(
        _ what: CertificateReference, directory: String, days: Int, newKey: Bool
    ) throws(TLSError) -> IssuedCertificate {
        let now = WallClock.nowMicroseconds / 1_000_000
        let wanted = now + (try validity(days: days))
        let held = try AuthorityDirectory(directory)
        defer { held.close() }
        let authority = try Authority.read(directory)
        let path: String
        switch what {
        case .identity(let role, let name): path = "\(directory)/\(role)-\(name).pem"
        case .file(let file): path = file
        case .serial(let serial): throw .neverIssued(serial, directory: directory)
        }
        let old = try Certificate.read(path)
        let uri = try old.identity(of: path).uri
        guard old.isSigned(by: authority.certificate) else {
            throw .wrongAuthority(of: path, reason: "\(directory)/ca.pem has not signed it")
        }
        var index = try IssuedIndex.read(directory: directory)
        let listed = try ownList(directory, authority)?.description.entries ?? []
        let isRevoked =
            listed.contains { $0.serialHex == old.serialHex }
            || index.entries.contains { $0.serialHex == old.serialHex && $0.revocation != nil }
        guard newKey || !isRevoked else { throw .revokedKey(of: path) }
        let real = try realPath(path)
        guard !newKey || real.hasSuffix(".pem") else {
            throw .invalidName(path, reason: "does not end in .pem, so its key has no name")
        }
        let keyPath = real.hasSuffix(".pem") ? "\(real.dropLast(4)).key" : real
        let key = newKey ? PrivateKey(fermata_key_new()) : nil
        let notAfter = min(wanted, authority.certificate.notAfter)
        let certificate = try makeAgain(
            old, key: key, notAfter: notAfter, issuer: authority, now: now)
        index.entries.append(IssuedEntry(certificate))
        var changes = [certificateChange(certificate, real), index.change]
        if let key { changes.insert(keyChange(key, keyPath), at: 0) }
        try held.commit(changes)
        return IssuedCertificate(
            certificatePath: path, keyPath: keyPath, uri: uri, notAfterUnixSeconds: notAfter,
            serialHex: certificate.serialHex)
    }

    /// Where a file really is, so that a symlink to it stays one, and a killed command can be
    /// finished from another working directory.
    private static func realPath(_ path: String) throws(TLSError) -> String {
        guard let real = realpath(path, nil) else {
            throw .fileUnreadable(UvError(code: -errno, operation: "open", subject: path))
        }
        defer { free(real) }
        return String(cString: real)
    }
}
