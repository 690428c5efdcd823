import ArgumentParser
import Fleet
import Notices
import NotifierShell
import Presentation

struct DeadLettersCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "dead-letters",
        abstract: "Shows what sinks have not taken, sends it again, or lets it go.",
        discussion: """
            Works on the notifier's SQLite file, also while the notifier runs: it notices within a \
            second.

              fermata notifier dead-letters list --database notifier.db
              fermata notifier dead-letters replay --sink ops
            """,
        subcommands: [
            ListDeadLettersCommand.self, ReplayDeadLettersCommand.self,
            DropDeadLettersCommand.self,
        ], defaultSubcommand: ListDeadLettersCommand.self)
}

struct DeadLetterOptions: ParsableArguments {
    @OptionGroup var database: DatabaseOption
    @Option(help: "Only of this sink.", transform: parseName)
    var sink: SinkID?
    @Option(name: .customLong("id"), help: "Only the one with this id.")
    var bulletinID: String?

    var filter: DeadLetterFilter { DeadLetterFilter(sink: sink, bulletinID: bulletinID) }

    func withStore<Value>(
        mayChange: Bool, _ body: (NotifierStore) throws(NotifierStoreError) -> Value
    ) throws(CommandFailure) -> Value {
        let path = try database.path
        do {
            return try body(try NotifierStore(existing: path, mayChange: mayChange))
        } catch {
            throw CommandFailure(error)
        }
    }
}

struct ListDeadLettersCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "Shows what sinks have not taken, the oldest first.")
    @OptionGroup var which: DeadLetterOptions
    @Option(help: "At most this many.")
    var limit: Int = 1_000
    @OptionGroup var output: OutputOptions

    func run() throws {
        let letters = try which.withStore(mayChange: false) {
            store throws(NotifierStoreError) in
            try store.deadLetters(which.filter, limit: limit)
        }
        output.show(
            text: letters.map {
                "\($0.deadAt.rfc3339)  \($0.sink)  \($0.bulletinID)  "
                    + "\($0.attempts) attempts: \(printable($0.reason))\n"
            }.joined(),
            json: .array(
                letters.map {
                    [
                        "sink": .string($0.sink.rawValue), "id": .string($0.bulletinID),
                        "guest": .string($0.guest.rawValue),
                        "attempts": .integer(Int64($0.attempts)),
                        "deadAt": .string($0.deadAt.rfc3339), "reason": .string($0.reason),
                    ]
                }))
    }
}

struct ReplayDeadLettersCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "replay", abstract: "Has what sinks have not taken sent again.")
    @OptionGroup var which: DeadLetterOptions

    func run() throws {
        let count = try which.withStore(mayChange: true) { store throws(NotifierStoreError) in
            try store.replay(which.filter)
        }
        StandardOutput.write("\(count) will be sent again\n")
    }
}

struct DropDeadLettersCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "drop", abstract: "Lets go what sinks have not taken; the record stays.")
    @OptionGroup var which: DeadLetterOptions

    func run() throws {
        let count = try which.withStore(mayChange: true) { store throws(NotifierStoreError) in
            try store.drop(which.filter)
        }
        StandardOutput.write("\(count) dropped\n")
    }
}

struct ReplayAnnotationsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "replay", abstract: "Has annotations sent again, to one sink.",
        discussion: """
            Those that still wait there are not sent twice. The notifier that runs notices within a \
            second; receivers know them by their id.

              fermata annotations replay --to ops --since 2026-04-11T22:00:00Z
            """)
    @OptionGroup var database: DatabaseOption
    @OptionGroup var which: AnnotationFilterOptions
    @Option(help: "The sink.", transform: parseName)
    var to: SinkID

    func run() throws {
        let path = try database.path
        do throws(NotifierStoreError) {
            let store = try NotifierStore(existing: path, mayChange: true)
            let count = try store.replay(which.filter, to: to)
            StandardOutput.write("\(count) will be sent again\n")
        } catch {
            throw CommandFailure(error)
        }
    }
}
