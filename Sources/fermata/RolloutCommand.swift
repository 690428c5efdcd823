import ArgumentParser
import Fleet
import Presentation
import Wire

struct RolloutCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "rollout", abstract: "Starts, watches, shows, pauses and aborts rollouts.",
        discussion: """
            A rollout installs one release on a selection of hosts: one step for each guest, each \
            as soon as its locks are free, and no further one after the first failure.
            """,
        subcommands: [
            RolloutStart.self, RolloutWatchCommand.self, RolloutShow.self, RolloutList.self,
            RolloutPause.self, RolloutResume.self, RolloutAbort.self,
        ])
}

struct RolloutStart: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "start", abstract: "Starts a rollout and prints its id.",
        discussion: """
            Returns as soon as the server has accepted it for good; the server and the agents do \
            the rest. With --watch it stays and shows what happens, and exits with 1 unless the \
            rollout succeeds. `fermata plan` with the same options shows what would be done.

              fermata rollout start --release qemu-7.2.22
              fermata rollout start --release qemu-7.2.22 --host a --deadline 5s --watch
            """)
    @OptionGroup var client: ClientOptions
    @OptionGroup var rollout: RolloutOptions
    @Flag(help: "Stay and show what happens until the rollout is over.")
    var watch = false

    func run() throws {
        let connection = try ClientConnection.open(client)
        let accepted = try connection.command(
            .startRollout(
                release: rollout.release, selection: rollout.selection, policy: rollout.policy))
        guard let id = accepted.rollout else {
            throw CommandFailure(
                .internalError, "the server accepted the rollout but did not say its id",
                advice: "`fermata rollout list` shows it. Please report this.")
        }
        let json: JSON = ["rollout": .string(id.description)]
        switch client.output.output {
        case .text: StandardOutput.write("\(id)\n")
        case .json: StandardOutput.write((watch ? json.compact : json.pretty) + "\n")
        }
        if watch {
            try RolloutWatcher(id, connection: connection, output: client.output.output).run()
        } else {
            connection.close()
        }
    }
}

struct RolloutWatchCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "watch", abstract: "Shows a rollout live until it is over.",
        discussion: """
            One line for each thing that happens, from the start of the rollout on; times are UTC. \
            Exits with 0 if the rollout succeeds and with 1 otherwise. Control-C ends the watching, \
            not the rollout. With --output json every line is an object, and the last holds the \
            whole rollout.

              fermata rollout watch rollout-1
            """)
    @OptionGroup var client: ClientOptions
    @Argument(help: "The rollout, such as rollout-1.", transform: parseRollout)
    var id: RolloutID

    func run() throws {
        let connection = try ClientConnection.open(client)
        // Says at once if there is no such rollout.
        _ = try connection.query(.rollout(id))
        try RolloutWatcher(id, connection: connection, output: client.output.output).run()
    }
}

struct RolloutShow: StaleQueryCommand {
    static let configuration = CommandConfiguration(
        commandName: "show", abstract: "Shows a rollout with each of its steps.",
        discussion: "  fermata rollout show rollout-1")
    @OptionGroup var client: ClientOptions
    @OptionGroup var staleOption: StaleOption
    @Argument(help: "The rollout, such as rollout-1.", transform: parseRollout)
    var id: RolloutID
    var query: OperatorQuery { .rollout(id) }

    func show(_ result: OperatorQueryResult) throws(CommandFailure) {
        guard case .rollout(let view) = result else { throw mismatch() }
        client.output.show(text: view.text, json: view.json)
    }
}

struct RolloutList: StaleQueryCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "Lists the rollouts.",
        discussion: "  fermata rollout list")
    @OptionGroup var client: ClientOptions
    @OptionGroup var staleOption: StaleOption
    var query: OperatorQuery { .rollouts }

    func show(_ result: OperatorQueryResult) throws(CommandFailure) {
        guard case .rollouts(let rollouts) = result else { throw mismatch() }
        client.output.show(text: text(of: rollouts), json: .array(rollouts.map(\.summaryJSON)))
    }
}

struct RolloutAbort: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "abort", abstract: "Lets no further step of a rollout start.",
        discussion: """
            Steps in flight run to their end, so that no guest is left between two versions. \
            Guests that have been updated stay as they are.

              fermata rollout abort rollout-1 --reason "wrong build"
            """)
    @OptionGroup var client: ClientOptions
    @Argument(help: "The rollout, such as rollout-1.", transform: parseRollout)
    var id: RolloutID
    @Option(help: "Why; kept with the rollout.", transform: parseReason)
    var reason: String

    func run() throws {
        let connection = try ClientConnection.open(client)
        let accepted = try connection.command(.abortRollout(id, reason: reason))
        connection.close()
        client.output.show(
            text: "\(id) is being aborted: no further step starts; steps in flight run to their "
                + "end\n",
            json: accepted.json)
    }
}
