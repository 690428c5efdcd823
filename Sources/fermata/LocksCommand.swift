import ArgumentParser
import Fleet
import Presentation
import Wire

struct LocksCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "locks", abstract: "Lists the locks that are held, or releases a stuck one.",
        subcommands: [List.self, Release.self], defaultSubcommand: List.self)

    struct List: StaleQueryCommand {
        static let configuration = CommandConfiguration(
            commandName: "list", abstract: "Lists the locks that are held (the default).",
            discussion: """
                A lock is the right to hold guests of one update domain of one set. It does not \
                end by time: if a guest is lost or not confirmed healthy, its lock stays, STATE \
                says 'stuck', and the reason below the table says what to do.

                  fermata locks
                """)
        @OptionGroup var client: ClientOptions
        @OptionGroup var staleOption: StaleOption
        var query: OperatorQuery { .locks }

        func show(_ result: OperatorQueryResult) throws(CommandFailure) {
            guard case .locks(let locks) = result else { throw mismatch() }
            client.output.show(text: text(of: locks), json: .array(locks.map(\.json)))
        }
    }

    struct Release: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "release",
            abstract: "Opens a set whose lock is stuck, with a reason that is kept.",
            discussion: """
                Do this when you know that the guests of the locked update domain are well, or \
                gone for good: afterwards guests of another update domain may be held.

                  fermata locks release db --reason "db-2 was rebuilt from a backup"
                """)
        @OptionGroup var client: ClientOptions
        @Argument(help: "The availability set.", transform: parseName)
        var set: SetID
        @Option(help: "Why; kept with the change.", transform: parseReason)
        var reason: String

        func run() throws {
            let connection = try ClientConnection.open(client)
            let accepted = try connection.command(.releaseLock(set, reason: reason))
            connection.close()
            client.output.show(
                text: "the lock of set \(set) is released\n", json: accepted.json)
        }
    }
}
