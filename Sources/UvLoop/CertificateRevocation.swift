// Revoking: onto crl.pem and into the index, together.
//
// The list is what the index says and what the list said before, so neither can lose an entry that the
// other has. Entries are never taken off: a certificate stays revoked when it has expired as well.

import COpenSSL

/// What came of ``CertificateAuthority/revoke(_:directory:reason:)``.
public struct RevocationOutcome: Hashable, Sendable {
    /// Those that this call has revoked.
    public var revoked: [IssuedEntry] = []
    /// Those that were revoked before.
    public var before: [IssuedEntry] = []
    /// Those of the identity that need no revocation any more.
    public var expired: [IssuedEntry] = []
    /// Of the list as it is now.
    public var listNumber: UInt64 = 0
}

extension CertificateAuthority {
    /// Puts a certificate, or every valid one of an identity, on the revocation list.
    ///
    /// Revoking what is revoked changes nothing, and is no error.
    ///
    /// - Throws: ``TLSError/neverIssued(_:directory:)`` if there is nothing like it;
    ///   ``TLSError/wrongAuthority(of:reason:)`` for a file of another authority.
    public static func revoke(
        _ what: CertificateReference, directory: String, reason: RevocationReason
    ) throws(TLSError) -> RevocationOutcome {
        let now = WallClock.nowMicroseconds / 1_000_000
        let held = try AuthorityDirectory(directory)
        defer { held.close() }
        let authority = try Authority.read(directory)
        var index = try IssuedIndex.read(directory: directory)
        let list = try ownList(directory, authority)
        let serials = try serials(of: what, directory, authority, &index)
        var outcome = RevocationOutcome()
        for position in index.entries.indices {
            let entry = index.entries[position]
            guard serials.contains(entry.serialHex) else { continue }
            if entry.revocation != nil {
                outcome.before.append(entry)
            } else if case .identity = what, entry.notAfterUnixSeconds <= now {
                outcome.expired.append(entry)
            } else {
                index.entries[position].revocation = .init(atUnixSeconds: now, reason: reason)
                outcome.revoked.append(index.entries[position])
            }
        }
        let old = list?.description.entries ?? []
        let known = Set(old.map(\.serialHex))
        let new = index.entries.compactMap { entry in
            entry.revocation.map {
                RevokedCertificate(
                    serialHex: entry.serialHex, revokedAtUnixSeconds: $0.atUnixSeconds,
                    reason: $0.reason)
            }
        }.filter { !known.contains($0.serialHex) }
        outcome.listNumber = list?.description.number ?? 0
        // A list that was lost, or put back from an old copy, is mended as well.
        let isOutdated = outcome.listNumber < max(1, index.listNumber)
        guard !new.isEmpty || isOutdated else { return outcome }
        index.listNumber = max(index.listNumber, outcome.listNumber) + 1
        outcome.listNumber = index.listNumber
        let bytes = try RevocationList.make(
            old + new, number: index.listNumber, authority: authority.certificate,
            key: authority.key, now: now)
        try held.commit([.init(path: "crl.pem", mode: 0o644, bytes: bytes), index.change])
        return outcome
    }

    /// The authority's own `crl.pem`; nil if there is none.
    static func ownList(
        _ directory: String, _ authority: Authority
    ) throws(TLSError) -> RevocationList? {
        let path = "\(directory)/crl.pem"
        guard Files.exists(path: path) else { return nil }
        let lists = try RevocationList.readAll(path)
        guard lists.count == 1, let list = lists.first, list.isSigned(by: authority.certificate)
        else {
            throw .fileInvalid(
                path: path,
                reason: "it is not the one list of this authority: remove it, and the list is made "
                    + "anew from the index")
        }
        return list
    }

    /// The serial numbers that `what` means; a certificate that the index lacks is added to it.
    private static func serials(
        of what: CertificateReference, _ directory: String, _ authority: Authority,
        _ index: inout IssuedIndex
    ) throws(TLSError) -> Set<String> {
        switch what {
        case .serial(let text):
            var serial = String(text.lowercased().filter { $0 != ":" })
            if serial.count % 2 == 1 { serial = "0" + serial }
            guard bytes(ofHex: serial) != nil else {
                throw .invalidName(text, reason: "is no serial number: give hexadecimal digits")
            }
            guard index.entries.contains(where: { $0.serialHex == serial }) else {
                throw .neverIssued("with serial number \(serial)", directory: directory)
            }
            return [serial]
        case .file(let path):
            let certificate = try Certificate.read(path)
            guard !certificate.isAuthority else { throw .authorityAsLeaf(of: path) }
            guard certificate.isSigned(by: authority.certificate) else {
                throw .wrongAuthority(of: path, reason: "\(directory)/ca.pem has not signed it")
            }
            add(certificate, to: &index)
            return [certificate.serialHex]
        case .identity(let role, let name):
            let uri = "fermata://\(authority.cluster ?? "?")/\(role)/\(name)"
            // One that was issued before there was an index.
            let path = "\(directory)/\(role)-\(name).pem"
            if Files.exists(path: path) {
                let certificate = try Certificate.read(path)
                if certificate.isSigned(by: authority.certificate),
                    certificate.uriNames.first == uri
                {
                    add(certificate, to: &index)
                }
            }
            let own = index.entries.filter { $0.uri == uri }.map(\.serialHex)
            guard !own.isEmpty else { throw .neverIssued("for \(uri)", directory: directory) }
            return Set(own)
        }
    }

    private static func add(_ certificate: Certificate, to index: inout IssuedIndex) {
        guard !index.entries.contains(where: { $0.serialHex == certificate.serialHex }) else {
            return
        }
        index.entries.append(IssuedEntry(certificate))
    }
}
