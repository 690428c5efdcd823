import ArgumentParser
import Fleet
import Foundation
import Presentation

// Options and arguments that several commands share, and how their texts are read.

private let nameRule =
    "Names have 1 to \(Limits.nameByteCountMax) letters, digits, '.', '_' or '-', and begin with "
    + "a letter or a digit."

/// Reads a name of any kind.
func parseName<Kind>(_ text: String) throws -> Identifier<Kind> {
    guard let name = Identifier<Kind>(text) else {
        throw ValidationError("'\(printable(text))' is not a name. \(nameRule)")
    }
    return name
}

func parseRollout(_ text: String) throws -> RolloutID {
    guard let rollout = RolloutID(parsing: text) else {
        throw ValidationError(
            "'\(printable(text))' is not a rollout. Write rollout-7 or 7; "
                + "`fermata rollout list` shows them.")
    }
    return rollout
}

/// Reads a list of names separated by commas.
func parseHosts(_ text: String) throws -> [HostID] {
    try text.split(separator: ",", omittingEmptySubsequences: false).map {
        try parseName(String($0))
    }
}

/// Reads a time limit: seconds, or a duration with a unit.
func parseTimeout(_ text: String) throws -> Duration {
    let milliseconds = parseMilliseconds(text) ?? parseMilliseconds(text + "s")
    guard let milliseconds, milliseconds > 0 else {
        throw ValidationError(
            "'\(printable(text))' is not a time limit. Write seconds, such as 10, or 500ms.")
    }
    return .milliseconds(Int64(milliseconds))
}

/// - Parameter examples: what to write instead of something that is no duration.
/// - Returns: milliseconds.
private func parseDuration(_ text: String, such examples: String) throws -> UInt32 {
    guard let milliseconds = parseMilliseconds(text) else {
        throw ValidationError(
            "'\(printable(text))' is not a duration. Write a number with a unit: \(examples).")
    }
    return milliseconds
}

func parseDeadline(_ text: String) throws -> UInt32 {
    let range = Limits.deadlineMillisecondsMin...Limits.deadlineMillisecondsMax
    let milliseconds = try parseDuration(text, such: "30s or 500ms")
    guard range.contains(milliseconds) else {
        throw ValidationError(
            "A deadline of \(text) is out of bounds: 500ms to 30s. Below there is no room to undo "
                + "and resume; above, guests would be held longer than Fermata promises.")
    }
    return milliseconds
}

func parseNotice(_ text: String) throws -> UInt32 {
    let range = Limits.noticeMillisecondsMin...Limits.noticeMillisecondsMax
    let days = text.hasSuffix("d") ? UInt32(text.dropLast()) : nil
    let milliseconds =
        if let days, days <= 7 { days * 86_400_000 } else {
            try parseDuration(text, such: "15m, 90s or 7d")
        }
    guard milliseconds == 0 || range.contains(milliseconds) else {
        throw ValidationError(
            "A notice of \(text) is out of bounds: 1s to 168h, or 0s for none. Guests look once a "
                + "second, and a fix must not wait longer than a week.")
    }
    return milliseconds
}

func parseAcknowledgement(_ text: String) throws -> Acknowledgement {
    guard let acknowledgement = Acknowledgement(rawValue: text) else {
        throw ValidationError(
            "'\(printable(text))' is not 'shortens' or 'ignored': whether a step may start as soon as "
                + "all its guests have acknowledged.")
    }
    return acknowledgement
}

func parseStep(_ text: String) throws -> StepID {
    guard let step = StepID(parsing: text) else {
        throw ValidationError(
            "'\(printable(text))' is not a step. Write rollout-7.3; `fermata notices` shows them.")
    }
    return step
}

func parseReason(_ text: String) throws -> String {
    let reason = text.trimmingCharacters(in: .whitespacesAndNewlines)
    guard !reason.isEmpty else {
        throw ValidationError("A reason is needed: it is kept with the change.")
    }
    guard reason.utf8.count <= Limits.reasonByteCountMax else {
        throw ValidationError("The reason is longer than \(Limits.reasonByteCountMax) bytes.")
    }
    return reason
}

/// `--release`, `--host`, `--parallelism`, `--deadline`, `--failures-max`: what a plan and a
/// rollout are made of.
struct RolloutOptions: ParsableArguments {
    @Option(
        help: "The release to install; `fermata release list` shows them.", transform: parseName)
    var release: ReleaseID

    @Option(
        name: .customLong("host"),
        help: ArgumentHelp(
            "Only this host; repeat it or separate several with commas.", valueName: "host"),
        transform: parseHosts)
    var hosts: [[HostID]] = []

    @Option(help: "Steps in flight at once over all hosts.")
    var parallelism: UInt32 = Limits.parallelismDefault

    @Option(
        help: "The longest a guest may be held: 500ms to 30s. (default: 30s)",
        transform: parseDeadline)
    var deadline: UInt32 = Limits.deadlineMillisecondsMax

    @Option(help: "Failed steps after which no further one starts.")
    var failuresMax: UInt32 = 1

    @Option(
        help: ArgumentHelp(
            "How long before a step its guests are told: 1s to 168h. (default: not at all)",
            valueName: "duration"), transform: parseNotice)
    var notice: UInt32 = 0

    @Option(
        help: ArgumentHelp(
            "Whether a step may start before its notice is over, when all its guests have "
                + "acknowledged: 'shortens' or 'ignored'. (default: shortens)",
            valueName: "shortens|ignored"), transform: parseAcknowledgement)
    var acknowledgement: Acknowledgement = .shortens

    func validate() throws {
        guard (1...Limits.parallelismMax).contains(parallelism) else {
            throw ValidationError(
                "--parallelism \(parallelism) is out of bounds: 1 to \(Limits.parallelismMax).")
        }
        guard failuresMax >= 1 else {
            throw ValidationError("--failures-max must be at least 1: stop on the first failure.")
        }
    }

    var selection: Selection {
        let names = Set(hosts.joined())
        return names.isEmpty ? .allHosts : .hosts(names.sorted())
    }

    var policy: Policy {
        Policy(
            parallelism: parallelism, deadlineMilliseconds: deadline, failuresMax: failuresMax,
            noticeMilliseconds: notice, acknowledgement: acknowledgement)
    }
}

/// How to reach a server and who we are; for every command that asks one.
struct ClientOptions: ParsableArguments {
    @Option(
        name: .customLong("server"),
        help: ArgumentHelp(
            "Server to ask; repeat it or separate several with commas. Default: FERMATA_SERVER, "
                + "else 127.0.0.1:7450.", valueName: "host:port"))
    var serverOptions: [String] = []

    @Option(
        name: .customLong("credentials"),
        help: ArgumentHelp(
            "Certificate and key, without .pem and .key, with ca.pem beside them. Default: "
                + "FERMATA_CREDENTIALS.", valueName: "prefix"))
    var credentialsOption: String?

    @Option(
        help: ArgumentHelp("Seconds to wait for a server. (default: 10)", valueName: "seconds"),
        transform: parseTimeout)
    var timeout: Duration = .seconds(10)

    @OptionGroup var output: OutputOptions

    var servers: [String] {
        get throws(CommandFailure) {
            try serverList(serverOptions, environment: "FERMATA_SERVER", fallback: "127.0.0.1:7450")
        }
    }

    var credentials: String {
        get throws(CommandFailure) {
            try credentialsPrefix(credentialsOption)
        }
    }
}

/// For commands that only look.
struct StaleOption: ParsableArguments {
    @Flag(
        name: .customLong("stale"),
        help: "Let any server answer with what it knows, also one that does not lead, or no leader."
    )
    var isGiven = false
}

/// Servers from options, else from the environment, else the fallback.
func serverList(
    _ options: [String], environment name: String? = nil, fallback: String? = nil
) throws(CommandFailure) -> [String] {
    var sources = options
    if sources.isEmpty {
        let set = name.flatMap { ProcessInfo.processInfo.environment[$0] }
        sources = [set ?? fallback ?? ""]
    }
    let servers = sources.flatMap { $0.split(separator: ",") }
        .map { $0.trimmingCharacters(in: .whitespaces) }.filter { !$0.isEmpty }
    guard !servers.isEmpty else {
        throw CommandFailure(
            .usage, "no server is named",
            advice: "Give HOST:PORT\(name.map { " or set \($0)" } ?? "").")
    }
    for server in servers {
        guard let colon = server.lastIndex(of: ":"), colon != server.startIndex,
            let port = UInt16(server[server.index(after: colon)...]), port > 0
        else {
            throw CommandFailure(
                .usage, "'\(server)' is not the address of a server",
                advice: "Write host:port, such as 127.0.0.1:7450 or [::1]:7450.")
        }
    }
    return servers
}

func credentialsPrefix(_ option: String?) throws(CommandFailure) -> String {
    let prefix = option ?? ProcessInfo.processInfo.environment["FERMATA_CREDENTIALS"]
    guard let prefix, !prefix.isEmpty else {
        throw CommandFailure(
            .usage, "no credentials are named",
            advice: "Give --credentials PREFIX or set FERMATA_CREDENTIALS, for example to "
                + "pki/operator-alice; `fermata pki issue operator alice --directory pki` makes "
                + "them.")
    }
    // People complete file names with the tab key.
    for suffix in [".pem", ".key"] where prefix.hasSuffix(suffix) {
        return String(prefix.dropLast(suffix.count))
    }
    return prefix
}
