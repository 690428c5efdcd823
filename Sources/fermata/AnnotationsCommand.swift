import ArgumentParser
import Fleet
import Foundation
import NotifierShell
import Presentation

struct AnnotationsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "annotations",
        abstract: "Shows the records of finished holds that a notifier has kept.",
        discussion: """
            Reads the notifier's SQLite file, also while the notifier runs; no server is asked. \
            The newest come last. --text shows each in plain words instead of a table.

              fermata annotations --database notifier.db
              fermata annotations --guest db-0 --text
              fermata annotations --rollout rollout-1 --output json
            """)

    @Option(
        name: .customLong("database"),
        help: ArgumentHelp(
            "The notifier's file. Default: FERMATA_NOTIFIER_DATABASE.", valueName: "file"))
    var databaseOption: String?
    @Option(help: "Only of this guest.", transform: parseName)
    var guest: GuestID?
    @Option(help: "Only of this availability set.", transform: parseName)
    var set: SetID?
    @Option(help: "Only of this host.", transform: parseName)
    var host: HostID?
    @Option(help: "Only of this rollout.", transform: parseRollout)
    var rollout: RolloutID?
    @Option(help: "At most this many, the newest.")
    var limit: Int = 100
    @Flag(name: .customLong("text"), help: "Write each as a line of plain words.")
    var inWords = false
    @OptionGroup var output: OutputOptions

    func validate() throws {
        guard limit >= 1 else { throw ValidationError("--limit must be at least 1.") }
    }

    func run() throws {
        let path =
            databaseOption ?? ProcessInfo.processInfo.environment["FERMATA_NOTIFIER_DATABASE"]
        guard let path, !path.isEmpty else {
            throw CommandFailure(
                .usage, "no notifier database is named",
                advice: "Give --database FILE or set FERMATA_NOTIFIER_DATABASE.")
        }
        let annotations = try read(path)
        output.show(
            text: inWords
                ? annotations.map { $0.text + "\n" }.joined() : text(of: annotations),
            json: .array(annotations.map(\.json)))
    }

    private func read(_ path: String) throws(CommandFailure) -> [Annotation] {
        let filter = AnnotationFilter(guest: guest, set: set, host: host, rollout: rollout)
        do {
            let store = try NotifierStore(readingFrom: path)
            return try store.annotations(filter, limit: limit)
        } catch {
            throw CommandFailure(error)
        }
    }
}

extension CommandFailure {
    init(_ error: NotifierStoreError) {
        let exit: Exit =
            switch error {
            case .missing, .damaged, .foreign, .newer: .badInput
            case .otherCluster: .notPermitted
            case .failed: .cannotCreate
            }
        self.init(exit, error.description, advice: error.advice)
    }
}
