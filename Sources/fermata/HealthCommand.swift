import AgentShell
import ArgumentParser
import Fleet
import NotifierShell
import Presentation
import SessionShell
import UvLoop
import Wire

struct HealthCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "health",
        abstract: "Says whether one process works: for health checks and load balancers.",
        discussion: """
            Give one of --server, --host-file and --database.

            A server is healthy if it takes a session, as the leader or as a standby; the line says \
            which. Ask with the server's own credentials or an operator's: an agent and a notifier \
            have one session each, and asking would end it. An agent is asked on its own host, \
            over its control socket, and a notifier by its database's lock, as its own user.

              fermata health --server 127.0.0.1:7450 --credentials /etc/fermata/server-s1
              fermata health --host-file /etc/fermata/host.yaml
              fermata health --database /var/lib/fermata/notifier.sqlite

            Exit code: 0 if it works, 69 if it does not, 65 for a bad host file, 76 and 77 as for \
            every command.
            """)
    @Option(help: ArgumentHelp("The server to ask.", valueName: "host:port"))
    var server: String?
    @Option(
        name: .customLong("credentials"),
        help: ArgumentHelp(
            "For --server: certificate and key, without .pem and .key. Default: "
                + "FERMATA_CREDENTIALS.", valueName: "prefix"))
    var credentialsOption: String?
    @Option(help: ArgumentHelp("The host file of the agent to ask.", valueName: "file"))
    var hostFile: String?
    @Option(help: ArgumentHelp("The database of the notifier to look at.", valueName: "file"))
    var database: String?
    @Option(
        help: ArgumentHelp("Seconds to wait for an answer. (default: 5)", valueName: "seconds"),
        transform: parseTimeout)
    var timeout: Duration = .seconds(5)

    func validate() throws {
        guard [server, hostFile, database].compactMap(\.self).count == 1 else {
            throw ValidationError("Give one of --server, --host-file and --database.")
        }
    }

    func run() throws {
        if let server { try askServer(server) }
        if let hostFile { try askAgent(hostFile) }
        if let database { try lookAtNotifier(database) }
    }

    private func askServer(_ server: String) throws {
        let servers = try serverList([server])
        guard servers.count == 1, let address = servers.first else {
            throw CommandFailure(
                .usage, "--server names \(servers.count) servers", advice: "Ask one at a time.")
        }
        let credentials = try loadCredentials(
            try credentialsPrefix(credentialsOption), roles: ServerHealth.roles)
        let accepted = try wait { loop, completion in
            ServerHealth.ask(
                address, credentials: credentials, software: Version.software, timeout: timeout,
                on: loop, completion: completion)
        } failure: {
            CommandFailure([$0])
        }
        StandardOutput.write(
            "server \(accepted.server) at \(address) "
                + (accepted.isLeader ? "leads (term \(accepted.term))\n" : "is a standby\n"))
    }

    private func askAgent(_ path: String) throws {
        let host = try parseHostFile(path)
        let health = try wait { loop, completion in
            AgentHealth.ask(host, timeout: timeout, on: loop, completion: completion)
        } failure: {
            CommandFailure(.unavailable, $0.message, advice: $0.advice)
        }
        StandardOutput.write(
            "the agent of host \(health.host) works: \(health.runningGuestCount) of "
                + "\(health.guestCount) guests run\n")
    }

    private func lookAtNotifier(_ path: String) throws {
        let health: NotifierHealth
        do {
            health = try NotifierHealth.look(databasePath: path)
        } catch {
            throw CommandFailure(.unavailable, "cannot look at the notifier of \(path): \(error)")
        }
        switch health {
        case .following: StandardOutput.write("the notifier of \(path) follows the leader\n")
        case .silent(let seconds):
            throw CommandFailure(
                .unavailable, "the notifier of \(path) has had no leader for \(seconds) s",
                advice: "Look into its log: it tries again by itself.")
        case .notRunning:
            throw CommandFailure(
                .unavailable, "no notifier uses \(path)",
                advice: "Start it, and ask as its own user, in its own container.")
        }
    }

    /// Runs the loop until the answer is there.
    private func wait<Answer, Problem>(
        _ ask: (Loop, @escaping (Result<Answer, Problem>) -> Void) -> Void,
        failure: (Problem) -> CommandFailure
    ) throws(CommandFailure) -> Answer {
        let loop = try makeLoop()
        var answer: Result<Answer, Problem>?
        ask(loop) {
            answer = $0
            loop.stop()
        }
        loop.run()
        switch answer {
        case .success(let answer): return answer
        case .failure(let problem): throw failure(problem)
        case nil: throw CommandFailure(.internalError, "the question ended without a result")
        }
    }
}
