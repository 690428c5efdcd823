import SessionCore
import UvLoop

extension SessionProblem {
    /// - Parameter server: the address as it was given.
    static func handshake(_ error: TLSError, server: String) -> SessionProblem {
        let message = "no secure connection to the server at \(server): \(error)"
        switch error {
        case .timedOut:
            return SessionProblem(
                .timedOut, message, advice: "check that a fermata server listens there")
        case .refusedByPeer(let reason):
            return refused(reason, server: server)
        case .ended:
            return SessionProblem(
                .unreachable, message,
                advice: "check that a fermata server listens there, and read its log")
        case .plaintextPeer, .tlsVersion, .wrongProtocol, .sendsTooMuch:
            return SessionProblem(.protocolViolated, message, advice: "")
        case .revoked:
            return SessionProblem(
                .certificateRefused, message,
                advice: "do not trust what answers there; if it is your server, it needs a new "
                    + "certificate")
        case .expired, .notYetValid, .wrongAuthority, .authorityAsLeaf, .uriNames, .wrongUsage,
            .noPeerCertificate:
            return SessionProblem(
                .certificateRefused, message,
                advice: "use credentials of this server's cluster; `fermata pki show FILE` tells "
                    + "whose a certificate is")
        case .fileUnreadable, .fileInvalid, .keyReadableByOthers, .keyDoesNotMatch,
            .notAnAuthority, .failed, .alreadyExists, .invalidName, .wrongCluster,
            .fileUnwritable, .directoryBusy, .neverIssued, .revokedKey:
            return SessionProblem(
                .protocolViolated, message, advice: "read the server's log for its side")
        }
    }
}
