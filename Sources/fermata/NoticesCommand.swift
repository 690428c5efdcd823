import ArgumentParser
import Fleet
import Presentation
import Wire

struct NoticesCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "notices",
        abstract: "Lists what guests are told of coming holds, or acknowledges for one.",
        discussion: """
            Of a rollout with --notice, guests are told some time before they are held, and a step \
            begins at once when all its guests have said that they are ready.

              fermata notices
              fermata notices acknowledge rollout-7.3 db-0
            """,
        subcommands: [List.self, Acknowledge.self], defaultSubcommand: List.self)

    struct List: StaleQueryCommand {
        static let configuration = CommandConfiguration(
            commandName: "list",
            abstract: "Lists what guests are told of coming holds (the default).",
            discussion: """
                One line for each step that its guests are told of, until it is over. Its state is \
                'noticed' until all its guests have acknowledged, and 'started' once its locks are \
                held and the hold may come at any moment.

                  fermata notices
                """)
        @OptionGroup var client: ClientOptions
        @OptionGroup var staleOption: StaleOption
        var query: OperatorQuery { .notices }

        func show(_ result: OperatorQueryResult) throws(CommandFailure) {
            guard case .notices(let notices, let lastSequence) = result else { throw mismatch() }
            client.output.show(
                text: text(of: notices),
                json: [
                    "notices": .array(notices.map(\.json)),
                    "lastSequence": .unsigned(lastSequence),
                ])
        }
    }

    struct Acknowledge: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "acknowledge", abstract: "Says for a guest that it is ready for a step.",
            discussion: """
                When all guests of a step are ready it starts before its time, unless its rollout \
                was started with --acknowledgement ignored. Saying it again, or when the step has \
                started, does no harm.

                  fermata notices acknowledge rollout-7.3 db-0
                """)
        @OptionGroup var client: ClientOptions
        @Argument(help: "The step, such as rollout-7.3.", transform: parseStep)
        var step: StepID
        @Argument(help: "The guest.", transform: parseName)
        var guest: GuestID

        func run() throws {
            let connection = try ClientConnection.open(client)
            let accepted = try connection.command(
                .acknowledgeNotice(step, guest: guest, noticedAt: nil))
            connection.close()
            client.output.show(
                text: "guest \(guest) is ready for \(step)\n", json: accepted.json)
        }
    }
}
