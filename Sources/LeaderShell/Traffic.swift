import Fleet
import Presentation
import SessionShell
import UvLoop

// What a server tells of its sessions and of certificates that will end.

extension LeaderShell {
    var traffic: ServerTraffic {
        ServerTraffic(
            sessionCount: UInt32(clamping: listener?.sessionCount ?? 0),
            halfOpenCount: UInt32(clamping: listener?.halfOpenCount ?? 0),
            counters: tally.counters, certificates: certificates)
    }

    /// The server's own, then those of open sessions that end soon, the first to end first.
    private var certificates: [CertificateView] {
        let limit = Timestamp(
            microseconds: WallClock.nowMicroseconds + Limits.certificateWarningMicroseconds)
        var ofPeers: [CertificateView] = []
        for session in listener?.sessions ?? [] {
            let view = CertificateView(session.certificate)
            if view.expiresAt < limit, !ofPeers.contains(view) { ofPeers.append(view) }
        }
        ofPeers.sort { ($0.expiresAt, $0.identity) < ($1.expiresAt, $1.identity) }
        return [CertificateView(credentials.context.identity)]
            + ofPeers.prefix(Limits.certificateViewsMax)
    }

    /// A sentence for each certificate that ends soon.
    func certificateWarnings(_ certificates: [CertificateView]) -> [String] {
        let now = WallClock.nowMicroseconds
        return certificates.compactMap { certificate in
            let left = certificate.expiresAt.microseconds - now
            guard left < Limits.certificateWarningMicroseconds else { return nil }
            let time = left <= 0 ? "has ended" : "ends in \(spanText(microseconds: left))"
            return "certificate \(certificate.identity) \(time) "
                + "(\(certificate.expiresAt.dateText)): run `fermata pki renew`, put the new one "
                + "in its place and send its process SIGHUP"
        }
    }
}

extension CertificateView {
    init(_ certificate: CertificateIdentity) {
        self.init(
            identity: certificate.uri, serial: certificate.serialHex,
            expiresAt: Timestamp(microseconds: certificate.notAfterUnixSeconds * 1_000_000))
    }
}
