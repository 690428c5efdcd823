// The question that `fermata preflight` asks, and its answer: one line of JSON each.
//
//   {"preflight":{"guests":["db-0"],"release":{"path":…,"moduleDirectory":…,"dataDirectories":[…]}}}
//   {"host":"a","guests":[{"id":"db-0","findings":[{"check":…,"severity":…,"problem":…,"advice":…}]}]}
//   {"error":"…","advice":"…"}

public import AgentCore
public import Fleet
internal import QMP

public struct PreflightRequest: Hashable, Sendable {
    /// Empty for every guest of the host.
    public var guests: [GuestID]
    /// The QEMU to change to; nil to look at the running ones only.
    public var release: Hypervisor?

    public init(guests: [GuestID], release: Hypervisor?) {
        self.guests = guests
        self.release = release
    }

    /// No request that makes sense is longer.
    static let byteCountMax = 65_536

    var line: [UInt8] {
        var members = [JSON.Member("guests", .array(guests.map { .string($0.rawValue) }))]
        if let release {
            var inner = [
                JSON.Member("path", .string(release.path)),
                JSON.Member("dataDirectories", .array(release.dataDirectories.map { .string($0) })),
            ]
            if let directory = release.moduleDirectory {
                inner.append(JSON.Member("moduleDirectory", .string(directory)))
            }
            members.append(JSON.Member("release", .object(inner)))
        }
        return JSON.object([JSON.Member("preflight", .object(members))]).bytes
            + [UInt8(ascii: "\n")]
    }

    /// - Returns: nil if it is no request that this agent understands.
    init?(line: [UInt8]) {
        guard let value = try? JSON.parse(line, byteCountMax: Self.byteCountMax),
            let body = value["preflight"], let names = body["guests"]?.array
        else { return nil }
        guests = names.compactMap { $0.string.flatMap { GuestID($0) } }
        guard guests.count == names.count else { return nil }
        if let inner = body["release"] {
            guard let path = inner["path"]?.string, path.hasPrefix("/") else { return nil }
            release = Hypervisor(
                version: "", path: path, moduleDirectory: inner["moduleDirectory"]?.string,
                dataDirectories: (inner["dataDirectories"]?.array ?? []).compactMap(\.string))
        }
    }
}

/// What was found of the guests that were asked for.
public struct PreflightReport: Hashable, Sendable {
    public struct Guest: Hashable, Sendable {
        public var id: GuestID
        public var findings: [PreflightFinding]
    }

    public var host: HostID
    public var guests: [Guest]

    public var blocks: Bool {
        guests.contains { $0.findings.contains { $0.severity == .blocks } }
    }
}

/// Why there is no report.
public struct PreflightRefusal: Error, Hashable, Sendable {
    public enum Kind: Hashable, Sendable {
        case noSuchGuest
        /// Nobody answers, or a step is at work.
        case unavailable
    }
    public var kind: Kind
    public var message: String
    public var advice: String

    static func noSuchGuest(_ id: GuestID, _ host: HostID) -> PreflightRefusal {
        PreflightRefusal(
            kind: .noSuchGuest, message: "host \(host) has no guest \(id)",
            advice: "`fermata preflight` without --guest shows them all.")
    }
}

/// What goes back over the control socket.
typealias PreflightAnswer = Result<PreflightReport, PreflightRefusal>

enum PreflightAnswerLine {
    /// More than any host's findings.
    static let byteCountMax = 4 << 20

    static func bytes(_ answer: PreflightAnswer) -> [UInt8] {
        let value: JSON
        switch answer {
        case .failure(let refusal):
            value = [
                "error": .string(refusal.message), "advice": .string(refusal.advice),
                "noSuchGuest": .bool(refusal.kind == .noSuchGuest),
            ]
        case .success(let report):
            value = [
                "host": .string(report.host.rawValue),
                "guests": .array(
                    report.guests.map { guest in
                        [
                            "id": .string(guest.id.rawValue),
                            "findings": .array(guest.findings.map(json)),
                        ]
                    }),
            ]
        }
        return value.bytes + [UInt8(ascii: "\n")]
    }

    private static func json(_ finding: PreflightFinding) -> JSON {
        [
            "check": .string(finding.check.rawValue),
            "severity": .string(finding.severity.rawValue),
            "problem": .string(finding.problem), "advice": .string(finding.advice),
        ]
    }

    /// - Returns: nil if it is no answer.
    static func answer(_ line: [UInt8]) -> PreflightAnswer? {
        guard let value = try? JSON.parse(line, byteCountMax: byteCountMax) else { return nil }
        if let message = value["error"]?.string {
            return .failure(
                PreflightRefusal(
                    kind: value["noSuchGuest"]?.bool == true ? .noSuchGuest : .unavailable,
                    message: message, advice: value["advice"]?.string ?? ""))
        }
        guard let host = value["host"]?.string.flatMap({ HostID($0) }),
            let entries = value["guests"]?.array
        else { return nil }
        var guests: [PreflightReport.Guest] = []
        for entry in entries {
            guard let id = entry["id"]?.string.flatMap({ GuestID($0) }) else { return nil }
            let findings = (entry["findings"]?.array ?? []).compactMap(finding)
            guests.append(PreflightReport.Guest(id: id, findings: findings))
        }
        return .success(PreflightReport(host: host, guests: guests))
    }

    private static func finding(_ value: JSON) -> PreflightFinding? {
        guard let check = value["check"]?.string.flatMap({ PreflightCheck(rawValue: $0) }),
            let severity = value["severity"]?.string.flatMap({ PreflightSeverity(rawValue: $0) }),
            let problem = value["problem"]?.string, let advice = value["advice"]?.string
        else { return nil }
        return PreflightFinding(check, severity, problem: problem, advice: advice)
    }
}
