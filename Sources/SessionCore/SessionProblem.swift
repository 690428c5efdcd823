public import Edges
import Wire

/// Why there is no session, in words and with what a process should do about it.
public struct SessionProblem: Error, Hashable, Sendable, CustomStringConvertible {
    public enum Kind: String, Hashable, Sendable, CaseIterable {
        /// Nobody answers there.
        case unreachable
        /// Nobody listens there: the system answers, no server does.
        case refused
        /// Connected, but no answer in time.
        case timedOut
        /// There was a session; the connection broke.
        case lost
        /// One side does not trust the other's certificate.
        case certificateRefused
        case wrongCluster
        case wrongIdentity
        case notPermitted
        case versionMismatch
        /// Somebody answers who does not keep to the protocol.
        case protocolViolated
        /// A standby, or a leader that has been deposed.
        case notLeader
        /// Another process has connected with our certificate.
        case replaced
        case shuttingDown
        case tooSlow
        case serverFailed
    }
    public var kind: Kind
    /// What happened, to what.
    public var message: String
    /// What to do next, in the imperative.
    public var advice: String

    public init(_ kind: Kind, _ message: String, advice: String) {
        self.kind = kind
        self.message = message
        self.advice = advice
    }

    /// Whether trying again with the same certificate and software must end the same way.
    /// ``SessionClient`` then stops.
    public var isFatal: Bool {
        switch kind {
        case .certificateRefused, .wrongCluster, .wrongIdentity, .notPermitted, .versionMismatch,
            .replaced:
            true
        case .unreachable, .refused, .timedOut, .lost, .protocolViolated, .notLeader, .shuttingDown,
            .tooSlow, .serverFailed:
            false
        }
    }

    /// What a process that gives up exits with.
    public var exitCode: Int32 {
        switch kind {
        case .unreachable, .refused, .timedOut, .lost, .notLeader, .shuttingDown, .tooSlow: 69
        case .serverFailed: 70
        case .versionMismatch, .protocolViolated: 76
        case .certificateRefused, .wrongCluster, .wrongIdentity, .notPermitted, .replaced: 77
        }
    }

    public var description: String { advice.isEmpty ? message : "\(message): \(advice)" }
}

// MARK: - From what the lower layers say. `server` is the address as it was given.

extension SessionProblem {
    /// Nobody could be connected to there.
    public static func connect(_ error: UvError, server: String) -> SessionProblem {
        SessionProblem(
            error.name == "ETIMEDOUT"
                ? .timedOut : error.name == "ECONNREFUSED" ? .refused : .unreachable,
            "cannot reach the server at \(server): \(error)",
            advice: "check the address (--server or FERMATA_SERVER) and that `fermata server` runs "
                + "there")
    }

    /// The server has ended the handshake with an alert.
    ///
    /// - Parameter reason: that of a ``Edges/StreamEnd/refused(reason:)``.
    public static func refused(_ reason: String, server: String) -> SessionProblem {
        let alert = TLSAlert(ofReason: reason)
        guard alert?.isAboutCertificate != false else {
            return SessionProblem(
                .protocolViolated, "the server at \(server) ended the TLS handshake: \(reason)",
                advice: "read the server's log for its side")
        }
        return SessionProblem(
            .certificateRefused,
            "the server at \(server) does not accept our certificate: \(reason)",
            advice: advice(alert))
    }

    private static func advice(_ alert: TLSAlert?) -> String {
        switch alert {
        case .certificateRevoked:
            "if this process is still to be trusted, whoever keeps the authority makes it a new "
                + "key and certificate with `fermata pki renew … --new-key`"
        case .certificateExpired:
            "make a new certificate with `fermata pki renew`, put it in the old one's place and "
                + "send this process SIGHUP; `fermata pki show FILE` tells when one ends"
        default:
            "use credentials issued by the server's own authority (`fermata pki show FILE` "
                + "tells whose a certificate is and for how long), and check both hosts' clocks"
        }
    }

    /// The stream of a session ended without a word.
    static func stream(_ end: StreamEnd, server: String, wasReady: Bool) -> SessionProblem {
        switch end {
        // With TLS 1.3 a client has finished before the server has looked at its certificate: the
        // refusal comes as the first thing it reads. Other failures of TLS are those of a
        // connection that was cut, and may be cured by trying again.
        case .refused(let reason) where !wasReady: return refused(reason, server: server)
        case .refused, .tls, .endOfFile, .failed, .closedHere:
            return SessionProblem(
                wasReady ? .lost : .unreachable,
                wasReady
                    ? "the connection to the server at \(server) broke: \(end)"
                    : "the server at \(server) ended the connection before the session was open: "
                        + "\(end)",
                advice: "check that `fermata server` runs there, and read its log")
        }
    }

    static func session(_ end: SessionEnd, server: String) -> SessionProblem {
        let who =
            switch end {
            case .closedByUs: "closed the session with the server at \(server)"
            case .closedByPeer: "the server at \(server) closed the session"
            }
        let message = "\(who): \(plain(end.reason)) (\(end.code.name))"
        return SessionProblem(Kind(end.code), message, advice: advice(end.code))
    }

    private static func advice(_ code: CloseCode) -> String {
        switch code {
        case .versionMismatch: "install the same release of fermata on both sides"
        case .wrongCluster: "use credentials of the server's cluster, or another --server"
        case .wrongIdentity: "issue this process its own certificate with `fermata pki issue`"
        case .notPermitted:
            "use credentials of a role that may do this; new ones, if these have been revoked"
        case .replaced:
            "stop the other process that uses the same credentials, or give it its own"
        case .notLeader: "ask the leader"
        case .tooSlow: "check this process's load and the network"
        case .badFrame, .unknownKind, .wrongState:
            "install the same release of fermata on both sides, and report this"
        case .timeout: "check the network and the load of both hosts"
        case .normal, .shuttingDown: "try again when the server runs"
        case .internal: "read the server's log"
        }
    }
}

/// A peer's text, without what could drive a terminal.
private func plain(_ text: String) -> String {
    var result = String.UnicodeScalarView()
    for scalar in text.unicodeScalars {
        let isControl = scalar.value < 0x20 || (0x7F...0x9F).contains(scalar.value)
        result.append(isControl ? " " : scalar)
    }
    return String(result)
}

extension SessionProblem.Kind {
    init(_ code: CloseCode) {
        switch code {
        case .versionMismatch: self = .versionMismatch
        case .wrongCluster: self = .wrongCluster
        case .wrongIdentity: self = .wrongIdentity
        case .notPermitted: self = .notPermitted
        case .badFrame, .unknownKind, .wrongState: self = .protocolViolated
        case .tooSlow: self = .tooSlow
        case .replaced: self = .replaced
        case .notLeader: self = .notLeader
        case .normal, .shuttingDown: self = .shuttingDown
        case .timeout: self = .timedOut
        case .internal: self = .serverFailed
        }
    }
}
