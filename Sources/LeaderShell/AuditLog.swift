// What operators asked for, and what came of it: one line of JSON each, added to a file.
//
// Happy path: the lines of one turn of the loop are added in one write and synced, on another thread;
// then whoever waits for one of them goes on, so that nobody is answered before his request is on
// record. Lines that come meanwhile are written next.
// Failure modes: the file cannot be written → logged and counted (`audit_failed`), and the answer goes
// out all the same: what was accepted is in the log already. The file was moved away by log
// rotation → the next line makes a new one.
import Fleet
import Logging
import Presentation
import SessionShell
import UvLoop
import Wire

final class AuditLog {
    /// Who asked, as his certificate and connection say.
    struct Asker {
        var identity: PeerIdentity
        var serial: String
        var peer: String

        init(_ session: ServerSession) {
            identity = session.identity
            serial = session.certificate.serialHex
            peer = session.peer
        }
    }

    enum Outcome {
        case accepted(index: UInt64, rollout: RolloutID?)
        case refused(code: String, reason: String)
    }

    private let path: String?
    private let loop: Loop
    private let log: Logger
    private let tally: Tally
    private var lines: [UInt8] = []
    private var waiting: [() -> Void] = []
    private var isWriting = false

    /// - Parameter path: nil keeps no record.
    init(path: String?, loop: Loop, log: Logger, tally: Tally) {
        self.path = path
        self.loop = loop
        self.log = log
        self.tally = tally
    }

    /// - Parameters:
    ///   - command: what was asked for; its first member is its name.
    ///   - then: called when the line is on the disk, or cannot be.
    func record(
        _ asker: Asker, _ command: JSON, _ outcome: Outcome, then: @escaping () -> Void = {}
    ) {
        guard path != nil else { return then() }
        let result: JSON =
            switch outcome {
            case .accepted(let index, let rollout):
                [
                    "outcome": "accepted", "index": .unsigned(index),
                    "rollout": rollout.map { .string($0.description) } ?? .null,
                ]
            case .refused(let code, let reason):
                ["outcome": "refused", "code": .string(code), "reason": .string(reason)]
            }
        let line: JSON = [
            "at": .string(Timestamp(microseconds: WallClock.nowMicroseconds).rfc3339),
            "identity": .string(asker.identity.uri), "serial": .string(asker.serial),
            "peer": .string(asker.peer), "command": command, "result": result,
        ]
        if lines.isEmpty { loop.soon { [self] in flush() } }
        lines += Array((line.compact + "\n").utf8)
        waiting.append(then)
    }

    private func flush() {
        guard let path, !isWriting, !lines.isEmpty else { return }
        isWriting = true
        let waiting = waiting
        self.waiting = []
        Files.append(path: path, bytes: lines, on: loop) { [self] problem in
            isWriting = false
            if let problem {
                tally.count("audit_failed")
                log.error(
                    "the audit record cannot be written: free some space or mend the disk",
                    metadata: ["path": "\(path)", "problem": "\(problem)"])
            }
            for then in waiting { then() }
            flush()
        }
        lines = []
    }
}

extension OperatorCommand {
    /// For the audit record.
    var auditJSON: JSON {
        switch self {
        case .addRelease(let release):
            .object(
                [
                    JSON.Member("command", "addRelease"),
                    JSON.Member("release", .string(release.id.rawValue)),
                    JSON.Member("component", .string(release.component.description)),
                    JSON.Member("version", .string(release.version)),
                ] + release.workJSON)
        case .startRollout(let release, let selection, let policy):
            [
                "command": "startRollout", "release": .string(release.rawValue),
                "hosts": Self.json(selection),
                "parallelism": .unsigned(UInt64(policy.parallelism)),
                "deadlineMilliseconds": .unsigned(UInt64(policy.deadlineMilliseconds)),
            ]
        case .abortRollout(let rollout, let reason):
            [
                "command": "abortRollout", "rollout": .string(rollout.description),
                "reason": .string(reason),
            ]
        case .stepDown: ["command": "stepDown"]
        case .releaseLock(let set, let reason):
            [
                "command": "releaseLock", "set": .string(set.rawValue), "reason": .string(reason),
            ]
        }
    }

    private static func json(_ selection: Selection) -> JSON {
        switch selection {
        case .allHosts: "all"
        case .hosts(let hosts): .array(hosts.map { .string($0.rawValue) })
        }
    }
}
