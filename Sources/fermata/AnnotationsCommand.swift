import ArgumentParser
import Fleet
import Foundation
import Notices
import NotifierShell
import Presentation

struct AnnotationsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "annotations",
        abstract:
            "Shows the records of finished holds that a notifier has kept, and sends them again.",
        subcommands: [
            ListAnnotationsCommand.self, ShowAnnotationCommand.self, ReplayAnnotationsCommand.self,
            TemplatesCommand.self,
        ],
        defaultSubcommand: ListAnnotationsCommand.self)
}

/// The notifier's file, for commands that work beside it.
struct DatabaseOption: ParsableArguments {
    @Option(
        name: .customLong("database"),
        help: ArgumentHelp(
            "The notifier's file. Default: FERMATA_NOTIFIER_DATABASE.", valueName: "file"))
    var databaseOption: String?

    var path: String {
        get throws(CommandFailure) {
            let path =
                databaseOption ?? ProcessInfo.processInfo.environment["FERMATA_NOTIFIER_DATABASE"]
            guard let path, !path.isEmpty else {
                throw CommandFailure(
                    .usage, "no notifier database is named",
                    advice: "Give --database FILE or set FERMATA_NOTIFIER_DATABASE.")
            }
            return path
        }
    }
}

/// Which annotations.
struct AnnotationFilterOptions: ParsableArguments {
    @Option(help: "Only of this guest.", transform: parseName)
    var guest: GuestID?
    @Option(help: "Only of this availability set.", transform: parseName)
    var set: SetID?
    @Option(help: "Only of this host.", transform: parseName)
    var host: HostID?
    @Option(help: "Only of this rollout.", transform: parseRollout)
    var rollout: RolloutID?
    @Option(
        help: ArgumentHelp("Only of holds that began then or later.", valueName: "time"),
        transform: parseTime)
    var since: Timestamp?
    @Option(
        help: ArgumentHelp("Only of holds that began before.", valueName: "time"),
        transform: parseTime)
    var until: Timestamp?

    var filter: AnnotationFilter {
        AnnotationFilter(
            guest: guest, set: set, host: host, rollout: rollout, since: since, until: until)
    }
}

/// A moment as an option gives it: `2026-04-11T22:00:00Z`, or how long ago, such as `2h` or `30d`.
func parseTime(_ text: String) throws -> Timestamp {
    if let time = Timestamp(rfc3339: text) { return time }
    guard let ago = parseLongMilliseconds(text) ?? daysInMilliseconds(text) else {
        throw ValidationError(
            "'\(printable(text))' is not a time. Write 2026-04-11T22:00:00Z, or how long ago: 2h, "
                + "30d.")
    }
    let (microseconds, isTooLong) = ago.multipliedReportingOverflow(by: 1000)
    guard !isTooLong, microseconds <= Limits.timeMicroseconds.upperBound else {
        throw ValidationError("'\(printable(text))' is longer ago than there are times.")
    }
    return Timestamp(microseconds: Timestamp.now.microseconds - microseconds)
}

private func daysInMilliseconds(_ text: String) -> Int64? {
    guard text.hasSuffix("d"), let days = UInt16(text.dropLast()) else { return nil }
    return Int64(days) * 86_400_000
}

extension Timestamp {
    /// The wall clock, for what a person asks.
    static var now: Timestamp {
        Timestamp(microseconds: Int64(Date().timeIntervalSince1970 * 1_000_000))
    }
}

struct ListAnnotationsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list",
        abstract: "Shows the records of finished holds that a notifier has kept.",
        discussion: """
            Reads the notifier's SQLite file, also while the notifier runs; no server is asked. \
            The newest come last. --text shows each in plain words instead of a table.

              fermata annotations --database notifier.db
              fermata annotations --guest db-0 --text
              fermata annotations --rollout rollout-1 --output json
              fermata annotations --host a --since 2h --until 2026-04-11T23:00:00Z
            """)

    @OptionGroup var database: DatabaseOption
    @OptionGroup var which: AnnotationFilterOptions
    @Option(help: "At most this many, the newest.")
    var limit: Int = 100
    @Flag(name: .customLong("text"), help: "Write each as a line of plain words.")
    var inWords = false
    @Option(
        help: ArgumentHelp("Make the words with templates of your own.", valueName: "directory"))
    var templates: String?
    @OptionGroup var output: OutputOptions

    func validate() throws {
        guard limit >= 1 else { throw ValidationError("--limit must be at least 1.") }
    }

    func run() throws {
        let path = try database.path
        let templates = try templates.map { try readTemplates($0) } ?? .builtIn
        let (holds, cluster) = try read(path)
        let renderer = BulletinRenderer(cluster: cluster, templates: templates)
        output.show(
            text: inWords
                ? holds.map { renderer.text($0) + "\n" }.joined()
                : text(of: holds.compactMap(\.annotation)),
            json: .array(holds.map { renderer.json(annotation: $0) }))
    }

    private func read(
        _ path: String
    ) throws(CommandFailure) -> (holds: [Bulletin], cluster: String) {
        do {
            let store = try NotifierStore(readingFrom: path)
            let holds = try store.bulletins(ofAnnotations: which.filter, limit: limit)
            return (holds, try store.cluster())
        } catch {
            throw CommandFailure(error)
        }
    }
}

extension CommandFailure {
    init(_ error: NotifierStoreError) {
        let exit: Exit =
            switch error {
            case .missing, .damaged, .foreign, .newer, .older: .badInput
            case .otherCluster: .notPermitted
            case .failed: .cannotCreate
            }
        self.init(exit, error.description, advice: error.advice)
    }
}
