public import Fleet
import Presentation
public import Wire

/// What a person, or another peer, asked for, and what came of it.
public struct AuditEntry: Hashable, Sendable {
    /// Who asked, as his certificate and connection say.
    public struct Asker: Hashable, Sendable {
        public var identity: PeerIdentity
        /// Of the certificate, in hexadecimal.
        public var serial: String
        /// Address.
        public var peer: String

        init(_ session: any PeerSession) {
            identity = session.identity
            serial = session.serial
            peer = session.peer
        }
    }

    public enum Subject: Hashable, Sendable {
        case command(OperatorCommand)
        /// To have a session at all.
        case session
    }

    public enum Outcome: Hashable, Sendable {
        case accepted(index: UInt64, rollout: RolloutID?)
        case refused(code: String, reason: String)
    }

    public var asker: Asker
    public var subject: Subject
    public var outcome: Outcome

    init(_ session: any PeerSession, _ subject: Subject, _ outcome: Outcome) {
        asker = Asker(session)
        self.subject = subject
        self.outcome = outcome
    }

    /// One object of JSON, without a line feed.
    ///
    /// - Parameter wallMicroseconds: when, since 1970, UTC.
    public func line(atMicroseconds wallMicroseconds: Int64) -> String {
        let line: JSON = [
            "at": .string(Timestamp(microseconds: wallMicroseconds).rfc3339),
            "identity": .string(asker.identity.uri), "serial": .string(asker.serial),
            "peer": .string(asker.peer), "command": subject.json, "result": outcome.json,
        ]
        return line.compact
    }
}

extension AuditEntry.Outcome {
    fileprivate var json: JSON {
        switch self {
        case .accepted(let index, let rollout):
            [
                "outcome": "accepted", "index": .unsigned(index),
                "rollout": rollout.map { .string($0.description) } ?? .null,
            ]
        case .refused(let code, let reason):
            ["outcome": "refused", "code": .string(code), "reason": .string(reason)]
        }
    }
}

extension AuditEntry.Subject {
    /// For a line of the log: its name, what it is about, and why. No bytes of digests.
    var words: String {
        guard case .object(let members) = json else { return "" }
        var words: [String] = []
        var reason = ""
        for member in members {
            guard case .string(let text) = member.value else { continue }
            if member.key == "reason" {
                reason = ": \(printable(text))"
            } else if words.count < 2 {
                words.append(text)
            }
        }
        return words.joined(separator: " ") + reason
    }

    /// Its first member is its name.
    fileprivate var json: JSON {
        switch self {
        case .session: ["command": "session"]
        case .command(.addRelease(let release)):
            .object(
                [
                    JSON.Member("command", "addRelease"),
                    JSON.Member("release", .string(release.id.rawValue)),
                    JSON.Member("component", .string(release.component.description)),
                    JSON.Member("version", .string(release.version)),
                ] + release.workJSON)
        case .command(.startRollout(let release, let selection, let policy)):
            [
                "command": "startRollout", "release": .string(release.rawValue),
                "hosts": Self.json(selection),
                "parallelism": .unsigned(UInt64(policy.parallelism)),
                "deadlineMilliseconds": .unsigned(UInt64(policy.deadlineMilliseconds)),
                "noticeMilliseconds": .unsigned(UInt64(policy.noticeMilliseconds)),
                "acknowledgement": .string(policy.acknowledgement.rawValue),
            ]
        case .command(.abortRollout(let rollout, let reason)):
            [
                "command": "abortRollout", "rollout": .string(rollout.description),
                "reason": .string(reason),
            ]
        case .command(.pauseRollout(let rollout, let reason)):
            [
                "command": "pauseRollout", "rollout": .string(rollout.description),
                "reason": .string(reason),
            ]
        case .command(.resumeRollout(let rollout, let reason)):
            [
                "command": "resumeRollout", "rollout": .string(rollout.description),
                "reason": .string(reason),
            ]
        case .command(.cordonHost(let host, let reason)):
            [
                "command": "cordonHost", "host": .string(host.rawValue), "reason": .string(reason),
            ]
        case .command(.uncordonHost(let host, let reason)):
            [
                "command": "uncordonHost", "host": .string(host.rawValue),
                "reason": .string(reason),
            ]
        case .command(.forgetNotifier(let notifier, let reason)):
            [
                "command": "forgetNotifier", "notifier": .string(notifier.rawValue),
                "reason": .string(reason),
            ]
        case .command(.stepDown): ["command": "stepDown"]
        case .command(.acknowledgeNotice(let step, let guest, _)):
            [
                "command": "acknowledgeNotice", "step": .string(step.description),
                "guest": .string(guest.rawValue),
            ]
        case .command(.releaseLock(let set, let reason)):
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
