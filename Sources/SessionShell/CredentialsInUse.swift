// Replacing credentials in use, and closing what the new ones do not trust any more.

import UvLoop
public import Wire

/// What is said to a peer whose certificate has been revoked while it was connected. Short enough
/// for a line of the log, which has the identity beside it.
private func revokedReason(_ certificate: CertificateIdentity) -> String {
    "certificate \(certificate.serialHex) has been revoked"
}

extension SessionListener {
    /// Uses these for handshakes from now on. Open sessions go on, but those whose certificate
    /// is on the new revocation list are closed.
    ///
    /// - Returns: the identities whose sessions were closed.
    /// - Precondition: they are of the same identity; ``Credentials/loadAgain()`` sees to it.
    @discardableResult
    public func use(_ new: Credentials) -> [PeerIdentity] {
        precondition(new.identity == credentials.identity, "a listener's identity never changes")
        credentials = new
        let revoked = all.values.filter { new.context.isRevoked($0.certificate) }
            .sorted { $0.number < $1.number }
        for session in revoked {
            session.close(.notPermitted, reason: revokedReason(session.certificate))
        }
        return revoked.map(\.identity)
    }
}

extension SessionClient {
    /// Uses these from the next connect on. An open session goes on, unless the server's
    /// certificate is on the new revocation list: then it is closed, as by a problem that trying
    /// again cannot cure.
    ///
    /// - Precondition: they are of the same identity; ``Credentials/loadAgain()`` sees to it.
    public func use(_ new: Credentials) {
        precondition(new.identity == credentials.identity, "a client's identity never changes")
        credentials = new
        guard let attempt, let certificate = attempt.certificate,
            new.context.isRevoked(certificate)
        else { return }
        attempt.close(.notPermitted, revokedReason(certificate))
    }
}
