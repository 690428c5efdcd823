// Replacing credentials in use, and closing what the new ones do not trust any more.

import Edges
import SessionCore
public import Wire

/// What is said to a peer whose certificate has been revoked while it was connected. Short enough
/// for a line of the log, which has the identity beside it.
func revokedReason(_ certificate: CertificateIdentity) -> String {
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
        let revoked = table.all.filter { new.context.isRevoked($0.certificate) }
        for session in revoked {
            session.close(.notPermitted, reason: revokedReason(session.certificate))
        }
        return revoked.map(\.identity)
    }
}
