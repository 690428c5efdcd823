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
              fermata notifier dead-letters drop --sink old --pending
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
        commandName: "drop", abstract: "Lets go what sinks have not taken; the record stays.",
        discussion: """
            With --pending also what still waits, as it does for a sink that is configured no more. One \
            that is configured never gets it then.
            """)
    @OptionGroup var which: DeadLetterOptions
    @Flag(
        name: .customLong("pending"), help: "Also what still waits for the sink; needs --sink.")
    var includesPending = false

    func validate() throws {
        guard !includesPending || which.sink != nil else {
            throw ValidationError("--pending needs --sink NAME: nobody gets what it lets go.")
        }
    }

    func run() throws {
        var filter = which.filter
        filter.includesPending = includesPending
        let count = try which.withStore(mayChange: true) { store throws(NotifierStoreError) in
            try store.drop(filter)
        }
        StandardOutput.write("\(count) dropped\n")
    }
}

struct ReplayAnnotationsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "replay", abstract: "Has annotations sent again, to one sink.",
        discussion: """
            Those that still wait there are not sent twice. The notifier that runs notices within a \
            second; receivers know them by their id. A sink that nothing was ever due to is taken for \
            a slip of the pen, unless --new says that it is one. Records older than the notifier's --keep \
            are sent, too: what was told of them is made anew of the record.

              fermata annotations replay --to ops --since 2026-04-11T22:00:00Z
            """)
    @OptionGroup var database: DatabaseOption
    @OptionGroup var which: AnnotationFilterOptions
    @Option(help: "The sink.", transform: parseName)
    var to: SinkID
    @Flag(name: .customLong("new"), help: "Also if nothing was ever due to that sink.")
    var isNew = false

    func run() throws {
        let path = try database.path
        do {
            let store = try NotifierStore(existing: path, mayChange: true)
            // What waits for a sink that is none would wait for ever.
            guard try isNew || store.isKnown(to) else {
                throw CommandFailure(
                    .badInput, "nothing was ever due to a sink \(to) of \(path)",
                    advice: "Correct the name, or add --new if the notifier has just been given it."
                )
            }
            let count = try store.replay(which.filter, to: to, now: .now)
            StandardOutput.write("\(count) will be sent again\n")
        } catch let error as NotifierStoreError {
            throw CommandFailure(error)
        }
    }
}
