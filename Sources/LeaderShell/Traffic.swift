import Edges
import Fleet
import Presentation
import SessionShell
import UvLoop
import Wire

// What a server tells of its sessions and of certificates that will end.

extension LeaderShell {
    var traffic: ServerTraffic {
        ServerTraffic(
            sessionCount: UInt32(clamping: listener?.sessionCount ?? 0),
            halfOpenCount: UInt32(clamping: listener?.halfOpenCount ?? 0),
            counters: tally.counters, certificates: ownCertificates + endingCertificates)
    }

    /// What this server's credentials consist of: authority, revocation list, certificate.
    private var ownCertificates: [CertificateView] {
        let cluster = credentials.identity.cluster
        func view(_ name: String, _ serial: String, _ unixSeconds: Int64) -> CertificateView {
            CertificateView(
                identity: "fermata://\(cluster)/authority/\(name)", serial: serial,
                expiresAt: Timestamp(microseconds: unixSeconds * 1_000_000))
        }
        var views = [view("ca", "", credentials.authorityNotAfterUnixSeconds)]
        if let end = credentials.revocationListNotAfterUnixSeconds {
            let number = credentials.revocationListNumber.map { "\($0)" } ?? ""
            views.append(view("revocation-list", number, end))
        }
        return views + [CertificateView(credentials.certificate)]
    }

    /// Those of open sessions that end soon, the first to end first.
    private var endingCertificates: [CertificateView] {
        let limit = Timestamp(
            microseconds: WallClock.nowMicroseconds + Limits.certificateWarningMicroseconds)
        let views = Set((listener?.sessions ?? []).map { CertificateView($0.certificate) })
            .filter { $0.expiresAt < limit }
            .sorted {
                ($0.expiresAt, $0.identity, $0.serial) < ($1.expiresAt, $1.identity, $1.serial)
            }
        return Array(views.prefix(Limits.certificateViewsMax))
    }

    /// A sentence for whatever ends soon.
    var certificateWarnings: [String] {
        let now = WallClock.nowMicroseconds
        let ofPeers = endingCertificates.map { certificate in
            let left = certificate.expiresAt.microseconds - now
            let time = left <= 0 ? "has ended" : "ends in \(spanText(microseconds: left))"
            let parts = certificate.identity.split(separator: "/").suffix(2).joined(separator: " ")
            // A person's certificate is read anew by each command.
            let last = parts.hasPrefix(Role.operator.rawValue) ? "" : " and send its process SIGHUP"
            return "certificate \(certificate.identity) \(time) "
                + "(\(certificate.expiresAt.dateText)): run `fermata pki renew \(parts)`, put the new "
                + "one in its place\(last)"
        }
        return credentials.warnings(atMicroseconds: now) + ofPeers
    }
}

extension CertificateView {
    init(_ certificate: CertificateIdentity) {
        self.init(
            identity: certificate.uri, serial: certificate.serialHex,
            expiresAt: Timestamp(microseconds: certificate.notAfterUnixSeconds * 1_000_000))
    }
}
