import AgentShell
import ArgumentParser
import Fleet
import HostConfiguration
import Logging
import SessionCore
import SessionShell
import UvLoop

struct AgentCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "agent", abstract: "Owns what happens to the guests of one host.",
        discussion: """
            Starts the guests of the host file, or finds those that run, and carries out what the \
            server asks. The guests outlive it: stop and start it whenever you like. --check reads \
            the host file, looks for what it names, says everything that is wrong, and starts \
            nothing. Prints one line on stdout when it is ready; the log goes to stderr. SIGHUP \
            makes it read certificate, key, ca.pem and crl.pem again; nothing else notices.

              fermata agent --host-file host.yaml --check
              fermata agent --host-file host.yaml --credentials pki/agent-a \\
                  --server 10.0.0.1:7450
            """)
    @OptionGroup var daemon: DaemonOptions
    @OptionGroup var servers: ServerOptions
    @Option(help: ArgumentHelp("The host's guests and directories, YAML.", valueName: "file"))
    var hostFile: String
    /// Enough for thousands of guests; few enough for a command that closes them all in a hold.
    private static let descriptorsMax: UInt = 65_536

    @Flag(help: "Only check the host file.")
    var check = false

    func run() throws {
        let includesBridges = check && !HostChecks.isTrialOfUpgrade
        let host = try readHostFile(hostFile, includesBridges: includesBridges)
        if check {
            StandardOutput.write(
                "\(hostFile): host \(host.host) with \(host.guests.count) "
                    + "guest\(host.guests.count == 1 ? "" : "s") is fine\n")
            return
        }
        let log = daemon.logger("agent")
        let credentials = try loadCredentials(try daemon.credentials, roles: [.agent])
        guard credentials.identity.name == host.host.rawValue else {
            throw CommandFailure(
                .notPermitted,
                "the certificate is for host \(credentials.identity.name), and the host file is "
                    + "for host \(host.host)",
                advice: "Give the credentials of this host: `fermata pki issue agent \(host.host) "
                    + "--directory DIR` makes them.")
        }
        let addresses = try servers.list
        try run(host, addresses, credentials, log)
    }

    private func run(
        _ host: HostFile, _ addresses: [String], _ credentials: Credentials, _ log: Logger
    ) throws(CommandFailure) {
        let process = DaemonProcess(loop: try makeLoop())
        // Every guest needs some, and more in a step: monitors, pidfds, tap queues.
        Descriptors.raiseLimit(countMax: Self.descriptorsMax)
        let client = SessionClient(
            on: process.loop, servers: addresses, credentials: credentials,
            software: Version.software, logger: log)
        let link = SessionLeaderLink(client)
        var hasHadSession = false
        var waitsForCredentials = false
        let agent = AgentShell(
            configuration: host, link: link, loop: process.loop,
            guardProgram: GuardProgram(executable: try ownPath(), arguments: ["guard"]),
            softwareVersion: Version.text, log: log)
        link.onDown = { [loop = process.loop] down in
            hasHadSession = hasHadSession || down.wasReady
            guard down.retryAfter == nil else { return }
            // An agent that has never had a session is wired wrongly, and its start must fail. One
            // that has may be in the middle of a hold: it stays, and waits for better credentials.
            guard hasHadSession else { return process.stop(with: CommandFailure([down.problem])) }
            log.error("trying again in 30 s", metadata: ["problem": "\(down.problem)"])
            waitsForCredentials = true
            _ = loop.after(.seconds(30)) { link.start() }
        }
        link.onRefused = { refusal in
            log.error(
                "the server does not take our report",
                metadata: ["reason": "\(refusal.message)", "advice": "\(refusal.advice)"])
        }
        process.onStop = { agent.stop() }
        agent.onFailure = { process.stop(with: CommandFailure($0)) }
        process.keep(credentials, log: log) {
            client.use($0)
            // At once, if it had given up until there are better ones.
            if waitsForCredentials { link.start() }
            waitsForCredentials = false
        }
        do {
            try agent.start {
                let count = host.guests.count
                StandardOutput.announce(
                    "fermata agent ready (host \(host.host), \(count) "
                        + "guest\(count == 1 ? "" : "s"))")
            }
        } catch {
            throw CommandFailure(error)
        }
        try process.run()
    }
}

/// Our own program, to be started as a guard.
private func ownPath() throws(CommandFailure) -> String {
    do {
        return try Files.link(pathOfSymlink: "/proc/self/exe")
    } catch {
        throw CommandFailure(.internalError, "cannot find our own program: \(error)")
    }
}

/// Reads a host file and looks for what it names.
///
/// - Parameter includesBridges: also for what only a guest's start needs.
/// - Throws: every problem at once, one line each.
func readHostFile(
    _ path: String, includesBridges: Bool = false
) throws(CommandFailure) -> HostFile {
    try readHostFile(path) { host, text in
        let places = HostFilePlaces(text)
        return HostChecks.problems(
            in: host, fileName: path, includesBridges: includesBridges,
            locate: { places?.place(of: $0) })
    }
}

/// Reads a host file, whatever has become of the files that it names.
func parseHostFile(_ path: String) throws(CommandFailure) -> HostFile {
    try readHostFile(path) { _, _ in [] }
}

private func readHostFile(
    _ path: String, check: (HostFile, String) -> [Problem]
) throws(CommandFailure) -> HostFile {
    let bytes: [UInt8]
    do {
        bytes = try Files.read(path: path, byteCountMax: 4 << 20)
    } catch {
        throw CommandFailure(
            .badInput, "cannot read the host file: \(error)",
            advice: "Give the path of the host's YAML file with --host-file.")
    }
    guard let text = String(validating: bytes, as: UTF8.self) else {
        throw CommandFailure(
            .badInput, "\(path) is not text: it has bytes that are not UTF-8",
            advice: "Give the path of the host's YAML file with --host-file.")
    }
    let problems: [Problem]
    switch HostFile.parse(text, fileName: path) {
    case .failure(let error): problems = error.problems
    case .success(let host):
        problems = check(host, text)
        guard !problems.isEmpty else { return host }
    }
    let lines = problems.sorted { ($0.line, $0.column) < ($1.line, $1.column) }
        .map { "\n\($0)" }.joined()
    throw CommandFailure(
        .badInput,
        "\(problems.count) problem\(problems.count == 1 ? "" : "s") in the host file; nothing was "
            + "started\(lines)",
        advice: "Correct the file; `fermata agent --check --host-file \(path)` looks again.")
}

extension CommandFailure {
    init(_ error: AgentError) {
        let exit: Exit =
            switch error {
            case .directory: .cannotCreate
            case .inUse: .unavailable
            case .state: .badInput
            case .system, .hypervisor: .failed
            }
        // The descriptions of this error end with what to do.
        self.init(exit, "\(error)")
    }
}
