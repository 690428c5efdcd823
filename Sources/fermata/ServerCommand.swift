import ArgumentParser
import Fleet
import Foundation
import LeaderShell
import LogStore
import SessionShell
import UvLoop
import Wire

struct ServerCommands: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "server",
        abstract: "Coordinates the fleet: locks, rollouts, and who knows what.",
        discussion: """
            Without a subcommand it runs: `fermata server run --help` has the options and what they do.

              fermata server --credentials pki/server-one --data /var/lib/fermata/server
              fermata server step-down --credentials pki/operator-alice --server one:7450
            """,
        subcommands: [ServerCommand.self, ServerStepDown.self],
        defaultSubcommand: ServerCommand.self)
}

struct ServerCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "run", abstract: "Leads the fleet, or stands by.",
        discussion: """
            Keeps everything it has accepted in --data, and goes on from there after any crash. \
            Holds never depend on it: an agent finishes what it has begun. Prints one line on \
            stdout when it is ready; the log goes to stderr. SIGHUP makes it read certificate, key, \
            ca.pem and crl.pem again, without ending a session.

              fermata server --credentials pki/server-one --data /var/lib/fermata/server

            Several servers keep their log in an etcd cluster. One leads, the others stand by with all \
            it knows and take over within a second when it is gone; `fermata server step-down` makes \
            it hand over. Agents, notifiers and people are given all of them with --server.

              fermata server --credentials pki/server-one \\
                --data /var/lib/fermata/server \\
                --store etcd:https://a:2379,https://b:2379,https://c:2379 \\
                --etcd-ca etcd-ca.pem --etcd-cert one.pem --etcd-key one.key \\
                --advertise one:7450 --peer two:7450 --peer three:7450
            """)
    @OptionGroup var daemon: DaemonOptions
    @Option(
        help: ArgumentHelp(
            "For the audit record and, unless --store says otherwise, the log; made if missing.",
            valueName: "directory"))
    var data: String
    @Option(
        help: ArgumentHelp(
            "sqlite:DIRECTORY, for one server, or etcd:URL,URL,… for several. Default: sqlite in "
                + "--data.", valueName: "store"), transform: parseStore)
    var store: StoreLocation?
    @OptionGroup var etcd: EtcdOptionGroup
    @OptionGroup var groupOptions: GroupOptions
    @Option(
        help: ArgumentHelp(
            "Where to listen; port 0 lets the system choose one.", valueName: "address:port"))
    var listen: String = "0.0.0.0:7450"
    @Option(
        help: ArgumentHelp(
            "Where each command of an operator, and what came of it, is recorded as a line of "
                + "JSON. Default: audit.jsonl in --data.", valueName: "file"))
    var audit: String?
    @Option(
        help: ArgumentHelp(
            "Sessions that one address (IPv6: one /64) may have; raise it if many hosts share one.",
            valueName: "count"))
    var sessionsPerAddress: Int = Limits.sessionsPerAddressMax
    @Option(
        help: ArgumentHelp(
            "Connections of one address that have not become sessions yet. Beyond it the one that "
                + "has been silent longest goes.", valueName: "count"))
    var halfOpenPerAddress: Int = Limits.halfOpenPerAddressMax

    /// Some thousand hosts, the half-open connections and the log's own files.
    private static let descriptorsWanted = 8_192

    func validate() throws {
        for (name, value) in [
            ("--sessions-per-address", sessionsPerAddress),
            ("--half-open-per-address", halfOpenPerAddress),
        ] where !(1...1_000_000).contains(value) {
            throw ValidationError("\(name) \(value) is out of bounds: 1 to 1000000.")
        }
    }

    func run() throws {
        guard let address = SocketAddress(parsing: listen) else {
            throw CommandFailure(
                .usage, "'\(listen)' is not an address to listen on",
                advice: "Write an IP address and a port: 0.0.0.0:7450, 127.0.0.1:7450 or "
                    + "[::]:7450.")
        }
        let log = daemon.logger("server")
        let credentials = try loadCredentials(try daemon.credentials, roles: [.server])
        let process = DaemonProcess(loop: try makeLoop())
        let cluster = credentials.identity.cluster
        let store = try etcd.openStore(
            store ?? .sqlite(directory: data), cluster: cluster, on: process.loop)
        let group = try groupOptions.group(for: store)
        // The audit record is there also if the log is somewhere else.
        do {
            try Files.makeDirectory(path: data, mode: 0o700, parents: true)
        } catch {
            throw CommandFailure(
                .cannotCreate, "cannot make \(data): \(error)", advice: "Give another --data.")
        }
        let auditPath = audit ?? "\(data)/audit.jsonl"
        do {
            try Files.append(path: auditPath, bytes: [], durable: false)
        } catch {
            throw CommandFailure(
                .cannotCreate, "cannot write the audit record: \(error)",
                advice: "Give another --audit, or make its directory.")
        }
        let shell = LeaderShell(
            credentials: credentials, listen: address,
            store: store,
            softwareVersion: Version.text, loop: process.loop, log: log,
            bounds: ConnectionGate.Bounds(
                halfOpenPerAddressMax: halfOpenPerAddress,
                sessionsPerAddressMax: sessionsPerAddress),
            auditPath: auditPath, group: group,
            pauseAt: ProcessInfo.processInfo.environment["FERMATA_TEST_PAUSE_AT"])
        let descriptorMax = Descriptors.raiseLimit()
        if descriptorMax < Self.descriptorsWanted {
            log.warning(
                "this process may have few descriptors open, one for each session: raise its limit",
                metadata: ["limit": "\(descriptorMax)"])
        }
        shell.onFatal = { error in process.stop(with: CommandFailure(error)) }
        process.onStop = { shell.stop() }
        process.keep(credentials, log: log) { shell.use($0) }
        shell.onRole = { role in
            switch role {
            case .leader(let term):
                StandardOutput.announce("fermata server leads (cluster \(cluster), term \(term))")
            case .standby: StandardOutput.announce("fermata server follows (cluster \(cluster))")
            }
        }
        shell.start { result in
            switch result {
            case .success((let address, let term)):
                StandardOutput.announce(
                    "fermata server ready on \(address) (cluster \(cluster), "
                        + (term.map { "term \($0))" } ?? "standby)"))
            case .failure(let error):
                process.onStop = nil
                process.stop(with: CommandFailure(error))
            }
        }
        try process.run()
    }
}

struct ServerStepDown: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "step-down",
        abstract: "Makes the leader hand over to another server, at once.",
        discussion: """
            For the update of the leader's own host, for example. Running holds are not touched, and \
            waiting steps go on under the new leader. Whoever leads then is shown by `fermata status`.

              fermata server step-down
            """)
    @OptionGroup var client: ClientOptions

    func run() throws {
        let connection = try ClientConnection.open(client)
        let accepted = try connection.command(.stepDown)
        connection.close()
        client.output.show(text: "the leader hands over\n", json: accepted.json)
    }
}

extension CommandFailure {
    init(_ error: LeaderError) {
        let exit: Exit =
            switch error {
            case .cannotListen(_, let error): error.name == "EACCES" ? .notPermitted : .unavailable
            case .log(.inUse): .unavailable
            case .log(.fenced): .failed
            case .log(.cannotOpen): .cannotCreate
            case .log(.corrupt), .log(.newerFormat): .badInput
            case .log(.writeFailed), .log(.full): .failed
            case .log(.unavailable): .unavailable
            case .log(.notPermitted): .notPermitted
            }
        // The descriptions of this error end with what to do.
        self.init(exit, "\(error)")
    }
}
