import Fleet
import LeaderCore
import SessionCore
import SessionShell
import Wire

/// What the core needs of a process, besides its loop.
final class ProcessEdges: ServerEdges {
    /// Set right after both are made.
    unowned var shell: LeaderShell!
    let audit: any AuditRecorder
    private let softwareVersion: String
    /// The newest one, while a standby has it.
    private(set) weak var watch: SessionClient?

    init(audit: AuditLog, softwareVersion: String) {
        self.audit = audit
        self.softwareVersion = softwareVersion
    }

    func count(_ name: String, _ reason: String) { shell.tally.count(name, reason) }

    func complete(_ view: inout StatusView) {
        view.traffic = shell.traffic
        view.warnings += shell.certificateWarnings
        let unwritten = shell.tally.total("audit_failed")
        if unwritten > 0 {
            view.warnings.append(
                "the audit record could not be written \(unwritten) time\(unwritten == 1 ? "" : "s") since "
                    + "the server was started: see its log")
        }
    }

    func closeSessions(_ code: CloseCode, reason: String) {
        shell.listener?.closeSessions(code, reason: reason)
    }

    func watch(_ address: String) -> any LeaderWatch {
        let watch = SessionClient(
            on: shell.loop, servers: [address], credentials: shell.credentials,
            software: "fermata \(softwareVersion)", logger: shell.log)
        self.watch = watch
        return watch
    }
}
