import ArgumentParser
import Fleet
import Foundation
import Logging
import Notices
import NotifierShell
import SessionShell
import UvLoop

struct NotifierCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "run", abstract: "Follows the fleet and publishes a record of each hold.",
        discussion: """
            Keeps every annotation in its own SQLite file, exactly one for each hold, and goes on \
            where it stopped. With --listen it serves guests what is coming, as the metadata service \
            that their agents already poll; who asks is known by the address that the host's file \
            names. Each annotation is printed as a line of plain words, and appended as a line of \
            JSON to --append if that is given. --sinks names more receivers: webhooks, Grafana, Alertmanager, the journal, syslog, \
            files, mail, commands. The log goes to stderr. SIGHUP makes it read certificate, key, \
            ca.pem and crl.pem again.

            With --host it serves the guests of that host alone, records only their holds, so that \
            each guest can read its own, and tells nobody else: for sinks and for the record of all \
            a notifier without --host has to run somewhere.

            Run one all the time: the server keeps events until a notifier has stored them.

              fermata notifier --server 10.0.0.1:7450 --credentials pki/notifier-main \\
                  --database /var/lib/fermata/notifier.db --append /var/log/fermata.jsonl \\
                  --listen 10.0.0.9:8080
              fermata notifier --host host-a --listen 169.254.169.254:80 --server 10.0.0.1:7450 \\
                  --credentials pki/notifier-host-a --database /var/lib/fermata/notices.db
            """)
    @OptionGroup var daemon: DaemonOptions
    @OptionGroup var servers: ServerOptions
    @Option(help: ArgumentHelp("The SQLite file; made if it is not there.", valueName: "file"))
    var database: String
    @Option(help: ArgumentHelp("Append each annotation as JSON here.", valueName: "file"))
    var append: String?
    @Option(
        help: ArgumentHelp(
            "Serve guests here; repeat it for several. Port 0 takes a free one.",
            valueName: "address:port"))
    var listen: [String] = []
    @Option(
        help: ArgumentHelp(
            "A reverse proxy: believe it, and nobody else, when it says in X-Forwarded-For for which "
                + "guest it asks. Repeat it for several.", valueName: "address"))
    var trustForwardedFrom: [String] = []
    @Option(
        help: ArgumentHelp(
            "Serve only this host's guests, and record only their holds.", valueName: "name"))
    var host: String?
    @Flag(help: "Print no annotations.")
    var quiet = false
    @OptionGroup var sinks: SinksOptions
    @Option(help: ArgumentHelp("How long bulletins are kept.", valueName: "days"))
    var keep: Int = Retention.bulletinDaysDefault
    @Option(
        help: ArgumentHelp("How long annotations are kept. (default: for ever)", valueName: "days"))
    var keepAnnotations: Int?

    func validate() throws {
        guard host == nil || append == nil && sinks.path == nil else {
            throw ValidationError(
                "--host serves guests and delivers nothing: leave \(append == nil ? "--sinks" : "--append") "
                    + "to the notifier that keeps the record.")
        }
        let days = 1...Retention.daysMax
        guard days.contains(keep), keepAnnotations.map({ $0 >= keep && days.contains($0) }) ?? true
        else {
            throw ValidationError(
                "--keep is 1 to \(Retention.daysMax) days, and --keep-annotations at least as long as "
                    + "that and no longer than \(Retention.daysMax).")
        }
    }

    func run() throws {
        let log = daemon.logger("notifier")
        let prefix = try daemon.credentials
        let credentials = try loadCredentials(prefix, roles: [.notifier])
        let addresses = try servers.list
        let process = DaemonProcess(loop: try makeLoop())
        let shell = try open(addresses, credentials, process.loop, log)
        shell.onReady = { sequence in
            Self.announce("fermata notifier ready (following from \(sequence))")
        }
        shell.onListening = { address in
            Self.announce("fermata notifier listening on \(address)")
        }
        shell.onFatal = { error in process.stop(with: CommandFailure(error)) }
        process.onStopping = { shell.stop(completion: $0) }
        process.keep(credentials, log: log) { shell.use($0) }
        shell.start()
        try process.run()
    }

    /// Beside the loop if annotations have filled a pipe that nobody reads; else at once, so that it is said
    /// whatever comes next.
    private static func announce(_ line: String) {
        var output = pollfd(fd: STDOUT_FILENO, events: Int16(POLLOUT), revents: 0)
        let hasRoom = poll(&output, 1, 0) == 1
        guard !hasRoom else { return StandardOutput.announce(line) }
        LooseThread.start { StandardOutput.announce(line) }
    }

    private func open(
        _ addresses: [String], _ credentials: Credentials, _ loop: Loop, _ log: Logger
    ) throws(CommandFailure) -> NotifierShell {
        let guests = try guestService
        let printLine: (@Sendable (String) throws -> Void)? =
            quiet || host != nil ? nil : { @Sendable in try StandardOutput.tryWrite($0 + "\n") }
        let sinks = NotifierSinks(
            settings: try sinks.settings, templates: try sinks.templates, appendPath: append,
            printLine: printLine)
        do {
            return try NotifierShell(
                servers: addresses, credentials: credentials, databasePath: database,
                sinks: sinks,
                retention: Retention(bulletinDays: keep, annotationDays: keepAnnotations),
                guests: guests,
                software: Version.software,
                pauseAt: ProcessInfo.processInfo.environment["FERMATA_TEST_PAUSE_AT"], loop: loop,
                log: log)
        } catch {
            throw CommandFailure(error)
        }
    }

    private var guestService: GuestService? {
        get throws(CommandFailure) {
            var addresses: [SocketAddress] = []
            for text in listen {
                guard let address = SocketAddress(parsing: text) else {
                    throw CommandFailure(
                        .usage, "--listen \(text) is no IP address and port",
                        advice: "Write it as 10.0.0.9:8080 or [fd00::9]:8080.")
                }
                addresses.append(address)
            }
            let proxies = try trustedProxies
            guard trustForwardedFrom.isEmpty || !addresses.isEmpty else {
                throw CommandFailure(
                    .usage, "--trust-forwarded-from is about guests, and none are served",
                    advice: "Add --listen ADDRESS:PORT.")
            }
            guard let host else {
                return addresses.isEmpty
                    ? nil : GuestService(listen: addresses, host: nil, proxies: proxies)
            }
            guard let name = HostID(host) else {
                throw CommandFailure(.usage, "\(host) is no name of a host")
            }
            guard !addresses.isEmpty else {
                throw CommandFailure(
                    .usage, "--host serves guests, and no address to do so is given",
                    advice: "Add --listen 169.254.169.254:80.")
            }
            return GuestService(listen: addresses, host: name, proxies: proxies)
        }
    }

    private var trustedProxies: TrustedProxies {
        get throws(CommandFailure) {
            var addresses: [IPAddress] = []
            for text in trustForwardedFrom {
                guard let address = IPAddress(text) else {
                    throw CommandFailure(
                        .usage, "--trust-forwarded-from \(text) is no IP address",
                        advice: "Give the address from which the proxy connects, such as 10.0.0.8.")
                }
                addresses.append(address)
            }
            return TrustedProxies(addresses)
        }
    }
}

extension CommandFailure {
    init(_ error: NotifierError) {
        switch error {
        case .store(let error): self.init(error)
        case .session(let problem): self.init([problem])
        case .databaseInUse: self.init(.unavailable, error.message, advice: error.advice)
        case .cannotListen: self.init(.unavailable, error.message, advice: error.advice)
        case .sink: self.init(.badInput, error.message, advice: error.advice)
        case .cannotLock: self.init(.cannotCreate, error.message, advice: error.advice)
        }
    }
}
