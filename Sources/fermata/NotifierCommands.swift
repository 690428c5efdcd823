import ArgumentParser
import Fleet
import Foundation
import HostConfiguration
import Notices
import NotifierShell
import Presentation
import UvLoop

struct NotifierCommands: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "notifier",
        abstract: "Follows the fleet, keeps a record of each hold and tells of it.",
        discussion: """
            A notifier listens to what the leader says and passes it on. It has three uses, and one \
            process does all of them.

            The record: each hold becomes one annotation in its SQLite file, exactly once. `fermata \
            annotations` and `fermata availability` read that file.

            Sinks: webhooks, Grafana, Alertmanager, the journal, syslog, files, mail and commands \
            are told, each at least once. `check-sinks`, `test-sink` and `dead-letters` below are \
            about them.

            Guests: with --listen they read over HTTP what is coming and acknowledge it, as from \
            the metadata service that their agents already poll.

              fermata notifier --server 10.0.0.1:7450 --credentials pki/notifier-main \\
                  --database /var/lib/fermata/notifier.db --sinks /etc/fermata/sinks.yaml \\
                  --listen 10.0.0.9:8080

            Without a subcommand it runs: `fermata notifier run --help` has these options and the \
            others.
            """,
        subcommands: [
            NotifierCommand.self, CheckSinksCommand.self, TestSinkCommand.self,
            DeadLettersCommand.self, ForgetNotifierCommand.self,
        ], defaultSubcommand: NotifierCommand.self)
}

/// The file of sinks, and the templates that their texts are made with.
struct SinksOptions: ParsableArguments {
    @Option(
        name: .customLong("sinks"),
        help: ArgumentHelp("Deliver to the sinks of this YAML file, too.", valueName: "file"))
    var path: String?
    @Option(
        name: .customLong("templates"),
        help: ArgumentHelp(
            "Texts are made with the mustache templates here.", valueName: "directory"))
    var templateDirectory: String?

    var settings: [SinkSettings] {
        get throws(CommandFailure) {
            try path.map { p throws(CommandFailure) in try readSinks(p) } ?? []
        }
    }

    var templates: BulletinTemplates {
        get throws(CommandFailure) {
            guard let directory = templateDirectory else { return .builtIn }
            do {
                return try BulletinTemplates(directory: directory)
            } catch {
                throw CommandFailure(.badInput, error.description, advice: error.advice)
            }
        }
    }
}

func readSinks(_ path: String) throws(CommandFailure) -> [SinkSettings] {
    let bytes: [UInt8]
    do {
        bytes = try Files.read(path: path, byteCountMax: 4 << 20)
    } catch {
        throw CommandFailure(
            .badInput, "\(error)", advice: "Give the file with the notifier's sinks.")
    }
    switch SinksFile.parse(String(decoding: bytes, as: UTF8.self), fileName: path) {
    case .success(let file): return file.sinks
    case .failure(let problems):
        throw CommandFailure(.badInput, problems.description, advice: "")
    }
}

struct CheckSinksCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check-sinks",
        abstract: "Reads a file of sinks and says all that is wrong in it.",
        discussion: """
            Also whether what it names is there, as whoever runs this sees it: files of secrets and \
            authorities, programs, and the directories of files to write. Nothing is sent.

              sinks:
                - name: ops
                  webhook: {url: https://example.org/hook, secretFile: /etc/fermata/ops.key}
                  only: {states: [started, succeeded, failed], sets: [db]}
                - name: silences
                  alertmanager: {url: http://127.0.0.1:9093}
            """)
    @Argument(help: "The file.")
    var file: String
    @OptionGroup var output: OutputOptions

    func run() throws {
        let sinks = try readSinks(file)
        let problems = sinks.flatMap(\.problems)
        guard problems.isEmpty else {
            throw CommandFailure(
                .badInput, problems.map { "\(file): \($0)" }.joined(separator: "\n"),
                advice: "A notifier would not start with it.")
        }
        output.show(
            text: sinks.map { "\($0.sink.id): \($0.kind.title)\n" }.joined(),
            json: .array(
                sinks.map {
                    ["name": .string($0.sink.id.rawValue), "kind": .string($0.kind.title)]
                }))
    }
}

extension SinkSettings.Kind {
    var title: String {
        switch self {
        case .webhook(let target, _): "webhook to \(target.url)"
        case .grafana(let target, _): "annotations in Grafana at \(target.url)"
        case .alertmanager(let target, _): "silences in Alertmanager at \(target.url)"
        case .journald(let socket): "the journal at \(socket)"
        case .syslog(let settings):
            switch settings.transport {
            case .unix(let path): "syslog at \(path)"
            case .udp(let place): "syslog at \(place) by UDP"
            case .tcp(let place): "syslog at \(place) by TCP"
            }
        case .file(let settings): "the file \(settings.path)"
        case .mail(let settings): "mail to \(settings.to.joined(separator: ", "))"
        case .command(let settings): "the command \(settings.executable)"
        }
    }
}

struct TestSinkCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "test-sink", abstract: "Sends a made-up annotation to one sink, once.",
        discussion: """
            In Alertmanager it makes a silence for test-guest and ends it.

              fermata notifier test-sink ops --sinks /etc/fermata/sinks.yaml
            """)
    @Argument(help: "The sink's name.", transform: parseName)
    var name: SinkID
    @OptionGroup var sinks: SinksOptions

    func run() throws {
        guard let sink = try sinks.settings.first(where: { $0.sink.id == name }) else {
            throw CommandFailure(
                .badInput, "there is no sink \(name)",
                advice: "Give the file that has it with --sinks.")
        }
        let loop = try makeLoop()
        let trial: SinkTrial
        do {
            trial = try SinkTrial(sink, templates: try sinks.templates, on: loop)
        } catch let error as SinkProblem {
            throw CommandFailure(.badInput, error.description, advice: "Correct the file of sinks.")
        }
        var outcome: DeliveryOutcome?
        trial.run {
            outcome = $0
            loop.stop()
        }
        if outcome == nil { loop.run() }
        switch outcome {
        case .taken: StandardOutput.write("sink \(name) has taken it\n")
        case .later(let reason, _), .refused(let reason):
            throw CommandFailure(
                .unavailable, "sink \(name) has not taken it: \(reason)",
                advice: "Look at the receiver's log, and at `fermata notifier check-sinks`.")
        case nil:
            throw CommandFailure(.internalError, "sink \(name) has not answered", advice: "")
        }
    }
}
