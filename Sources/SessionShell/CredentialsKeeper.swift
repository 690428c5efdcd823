// Keeps a long-running process's credentials fresh.
//
// Happy path: at the start, and then once a day, warn of what ends soon. When asked (SIGHUP): read the
// files again, hand the new credentials to whoever uses them, and warn again.
// Failure modes: the files cannot be used, or are another's, or the list is older than the one in
// use: an error in the log, and the old credentials stay.

import Fleet
public import Logging
public import UvLoop

/// Belongs to the loop's thread.
public final class CredentialsKeeper {
    /// Those in use.
    public private(set) var credentials: Credentials
    /// Gets the new ones; whoever has them must use them from then on.
    public var onReload: ((Credentials) -> Void)?

    private let log: Logger
    private var timer: UvLoop.Timer?

    private static let warningInterval = Duration.seconds(86_400)

    public init(_ credentials: Credentials, on loop: Loop, log: Logger) {
        self.credentials = credentials
        self.log = log
        timer = loop.every(Self.warningInterval) { [weak self] in self?.warn() }
    }

    public func stop() { timer?.cancel() }

    /// Logs what ends soon; call it once at the start.
    public func warn() {
        for text in credentials.warnings(atMicroseconds: WallClock.nowMicroseconds) {
            log.warning("\(text)")
        }
    }

    /// Reads the files again.
    ///
    /// - Returns: whether the new ones are in use.
    @discardableResult
    public func reload() -> Bool {
        do {
            credentials = try credentials.loadAgain()
        } catch {
            log.error(
                "credentials not reloaded, the old ones stay in use",
                metadata: ["reason": "\(error.message)", "advice": "\(error.advice)"])
            return false
        }
        log.notice("credentials reloaded", metadata: credentials.metadata)
        warn()
        onReload?(credentials)
        return true
    }
}

extension Credentials {
    /// For a line in the log.
    public var metadata: Logger.Metadata {
        [
            "identity": "\(identity)", "serial": "\(certificate.serialHex)",
            "until": "\(formatUTC(certificate.notAfterUnixSeconds))",
            "revocationList": "\(revocationListNumber.map { "\($0)" } ?? "none")",
            "revoked": "\(revokedCount)",
        ]
    }

    /// A sentence for whatever of ours ends within ``Fleet/Limits/certificateWarningMicroseconds``,
    /// with what to do.
    public func warnings(atMicroseconds now: Int64) -> [String] {
        let limit = now + Limits.certificateWarningMicroseconds
        func ending(_ what: String, _ seconds: Int64, _ advice: String) -> String? {
            guard seconds * 1_000_000 <= limit else { return nil }
            let has = seconds * 1_000_000 <= now
            return "\(what) \(has ? "has ended" : "ends soon"), at \(formatUTC(seconds)): \(advice)"
        }
        let list = revocationListNotAfterUnixSeconds.flatMap {
            ending(
                "revocation list \(revocationListPath)", $0,
                "it is used all the same; copy the authority's newest crl.pem and send SIGHUP")
        }
        return [
            ending(
                "certificate \(prefix).pem", certificate.notAfterUnixSeconds,
                "run `fermata pki renew \(identity.role.rawValue) \(identity.name)`, put the new one "
                    + "in its place and send this process SIGHUP"),
            ending(
                "authority \(authorityPath)", authorityNotAfterUnixSeconds,
                "every certificate ends with it; make a new authority and put both in ca.pem while "
                    + "the fleet changes over"),
            list,
        ].compactMap { $0 }
    }
}
