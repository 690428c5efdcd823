import ArgumentParser
import Fleet
import LeaderShell
import LogStore
import SessionShell
import UvLoop
import Wire

struct ServerCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "server",
        abstract: "Coordinates the fleet: locks, rollouts, and who knows what.",
        discussion: """
            Keeps everything it has accepted in --data, and goes on from there after any crash. \
            Holds never depend on it: an agent finishes what it has begun. Prints one line on \
            stdout when it is ready; the log goes to stderr. SIGHUP makes it read certificate, key, \
            ca.pem and crl.pem again, without ending a session.

              fermata server --credentials pki/server-one --data /var/lib/fermata/server
            """)
    @OptionGroup var daemon: DaemonOptions
    @Option(help: ArgumentHelp("Where to keep the log; made if missing.", valueName: "directory"))
    var data: String
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
        let shell = LeaderShell(
            credentials: credentials, listen: address,
            store: SQLiteLogStore(directory: data, loop: process.loop),
            softwareVersion: Version.text, loop: process.loop, log: log,
            bounds: ConnectionGate.Bounds(
                halfOpenPerAddressMax: halfOpenPerAddress,
                sessionsPerAddressMax: sessionsPerAddress),
            auditPath: audit ?? "\(data)/audit.jsonl")
        let descriptorMax = Descriptors.raiseLimit()
        if descriptorMax < Self.descriptorsWanted {
            log.warning(
                "this process may have few descriptors open, one for each session: raise its limit",
                metadata: ["limit": "\(descriptorMax)"])
        }
        shell.onFatal = { error in process.stop(with: CommandFailure(error)) }
        process.onStop = { shell.stop() }
        process.keep(credentials, log: log) { shell.use($0) }
        shell.start { result in
            switch result {
            case .success((let address, let term)):
                StandardOutput.announce(
                    "fermata server ready on \(address) "
                        + "(cluster \(credentials.identity.cluster), term \(term))")
            case .failure(let error):
                process.onStop = nil
                process.stop(with: CommandFailure(error))
            }
        }
        try process.run()
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
