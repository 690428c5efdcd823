import ArgumentParser
import Fleet
import Presentation
import UvLoop
import Wire

// The commands that only look: each asks one question and renders the answer.

/// A command that asks the server one thing and shows the answer.
protocol QueryCommand: ParsableCommand {
    var client: ClientOptions { get }
    /// What a standby knows will do.
    var stale: Bool { get }
    var query: OperatorQuery { get }
    func show(_ result: OperatorQueryResult) throws(CommandFailure)
}

/// One that a standby can answer, too.
protocol StaleQueryCommand: QueryCommand {
    var staleOption: StaleOption { get }
}

extension StaleQueryCommand {
    var stale: Bool { staleOption.isGiven }
}

extension QueryCommand {
    func run() throws {
        let connection = try ClientConnection.open(client, stale: stale)
        let result = try connection.query(query, stale: stale)
        connection.close()
        try show(result)
    }

    /// The server answered another question: a bug of one of the two sides.
    func mismatch() -> CommandFailure {
        CommandFailure(
            .internalError, "the server's answer does not fit the question",
            advice: "Compare `fermata --version` here and on the server, and report this.")
    }
}

struct StatusCommand: StaleQueryCommand {
    static let configuration = CommandConfiguration(
        commandName: "status", abstract: "Shows how the fleet is, on a few lines.",
        discussion: """
            Lines that begin with 'warning:' need somebody to look.

              fermata status
              fermata status --output json
            """)
    @OptionGroup var client: ClientOptions
    @OptionGroup var staleOption: StaleOption
    var query: OperatorQuery { .status }

    func show(_ result: OperatorQueryResult) throws(CommandFailure) {
        guard case .status(let view) = result else { throw mismatch() }
        client.output.show(text: view.text, json: view.json)
    }
}

struct MetricsCommand: StaleQueryCommand {
    static let configuration = CommandConfiguration(
        commandName: "metrics", abstract: "Prints the leader's figures for Prometheus.",
        discussion: """
            The text format of Prometheus: the fleet, open sessions, what was refused and why since \
            the server started, and when certificates end. Run it from a timer and let \
            node_exporter's textfile collector read the file:

              fermata metrics > /var/lib/node_exporter/fermata.prom.new && \\
                mv /var/lib/node_exporter/fermata.prom.new /var/lib/node_exporter/fermata.prom

            --output json prints what `fermata status --output json` does.
            """)
    @OptionGroup var client: ClientOptions
    @OptionGroup var staleOption: StaleOption
    var query: OperatorQuery { .status }

    func show(_ result: OperatorQueryResult) throws(CommandFailure) {
        guard case .status(let view) = result else { throw mismatch() }
        client.output.show(text: view.metricsText, json: view.json)
    }
}

struct HostsCommand: StaleQueryCommand {
    static let configuration = CommandConfiguration(
        commandName: "hosts", abstract: "Lists the hosts and whether their agents are connected.",
        discussion: """
            TOKEN is the highest token that the host's agent has accepted; STEP is the step that \
            it works on now.

              fermata hosts
            """)
    @OptionGroup var client: ClientOptions
    @OptionGroup var staleOption: StaleOption
    var query: OperatorQuery { .hosts }

    func show(_ result: OperatorQueryResult) throws(CommandFailure) {
        guard case .hosts(let hosts) = result else { throw mismatch() }
        let now = Timestamp(microseconds: WallClock.nowMicroseconds)
        client.output.show(text: text(of: hosts, now: now), json: .array(hosts.map(\.json)))
    }
}

struct GuestsCommand: StaleQueryCommand {
    static let configuration = CommandConfiguration(
        commandName: "guests",
        abstract: "Lists the guests with their set, update domain, state and QEMU.",
        discussion: """
              fermata guests
              fermata guests --set db
              fermata guests --host a --output json
            """)
    @OptionGroup var client: ClientOptions
    @OptionGroup var staleOption: StaleOption
    @Option(help: "Only guests of this availability set.", transform: parseName)
    var set: SetID?
    @Option(help: "Only guests of this host.", transform: parseName)
    var host: HostID?
    var query: OperatorQuery { .guests }

    func show(_ result: OperatorQueryResult) throws(CommandFailure) {
        guard case .guests(let all) = result else { throw mismatch() }
        let guests = all.filter {
            (set == nil || $0.report.set == set) && (host == nil || $0.host == host)
        }
        client.output.show(text: text(of: guests), json: .array(guests.map(\.json)))
    }
}

struct SetsCommand: StaleQueryCommand {
    static let configuration = CommandConfiguration(
        commandName: "sets",
        abstract: "Lists the availability sets, their update domains and guests.",
        discussion: """
            Guests of one set back each other up: only those of one update domain are ever held \
            at the same time. UD shows the domain's number and how many the set has.

              fermata sets
            """)
    @OptionGroup var client: ClientOptions
    @OptionGroup var staleOption: StaleOption
    var query: OperatorQuery { .sets }

    func show(_ result: OperatorQueryResult) throws(CommandFailure) {
        guard case .sets(let sets) = result else { throw mismatch() }
        client.output.show(text: text(of: sets), json: .array(sets.map(\.json)))
    }
}
