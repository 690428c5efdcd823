import ArgumentParser
import Fleet
import Foundation
import Notices
import NotifierShell
import Presentation

private func parseFormat(_ text: String) throws -> BulletinFormat {
    guard let format = BulletinFormat(rawValue: text) else {
        let names = BulletinFormat.allCases.map(\.rawValue).joined(separator: ", ")
        throw ValidationError("'\(printable(text))' is not a format. Give one of: \(names).")
    }
    return format
}

struct ShowAnnotationCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "show",
        abstract: "Shows the record of one hold, in any form in which sinks can get it.",
        discussion: """
            The id stands in the table's JSON (`annotationId`) and in everything that sinks got. Of \
            a step that is not over there is no annotation yet: its own name shows what was told last \
            of each of its guests, that it is noticed, started or cancelled, say.

              fermata annotations show rollout-1.3-t7-db-0
              fermata annotations show rollout-1.3
              fermata annotations show rollout-1.3-t7-db-0 --format html --templates /etc/fermata
            """)

    @Argument(help: ArgumentHelp("The annotation, or a step.", valueName: "id"))
    var annotationID: String
    @OptionGroup var database: DatabaseOption
    @Option(
        help: ArgumentHelp(
            "json, cloudEvent, cloudEventBinary (with its headers before the body), "
                + "resourceHealth, availabilityStatus, text, markdown or html. (default: text)",
            valueName: "format"), transform: parseFormat)
    var format: BulletinFormat = .text
    @Option(help: ArgumentHelp("Templates of your own.", valueName: "directory"))
    var templates: String?

    func run() throws {
        let path = try database.path
        let templates = try templates.map { try readTemplates($0) } ?? .builtIn
        let (found, cluster) = try read(path)
        let renderer = BulletinRenderer(cluster: cluster, templates: templates)
        let texts = found.compactMap { renderer.render($0, as: format).map(text) }
        guard !texts.isEmpty else {
            throw CommandFailure(
                .badInput, "\(format.rawValue) has no form for this annotation",
                advice: "Give another --format.")
        }
        StandardOutput.write(texts.joined(separator: "\n"))
    }

    private func text(_ rendered: RenderedBulletin) -> String {
        let headers = rendered.headers.map { "\($0.name): \($0.value)\n" }.joined()
        let body = String(decoding: rendered.body, as: UTF8.self)
        return (headers.isEmpty ? "" : headers + "\n") + body + (body.hasSuffix("\n") ? "" : "\n")
    }

    /// - Returns: at least one.
    private func read(
        _ path: String
    ) throws(CommandFailure) -> (found: [Bulletin], cluster: String) {
        var newest: [Bulletin] = []
        do throws(NotifierStoreError) {
            let store = try NotifierStore(readingFrom: path)
            let cluster = try store.cluster()
            if let hold = try store.bulletin(ofAnnotation: annotationID) {
                return ([hold], cluster)
            }
            if let other = try store.bulletin(annotationID) { return ([other], cluster) }
            if let step { newest = try store.newestBulletins(of: step) }
            if StepID(parsing: annotationID) != nil, !newest.isEmpty { return (newest, cluster) }
        } catch {
            throw CommandFailure(error)
        }
        if let last = newest.first(where: { annotationID.hasSuffix("-\($0.guest)") }) {
            throw CommandFailure(
                .badInput,
                "there is no annotation \(printable(annotationID)): what was told last of guest "
                    + "\(last.guest) in \(last.step) is '\(last.state.rawValue)', at "
                    + "\(last.at.rfc3339)",
                advice: "`fermata annotations show \(last.step)` shows it.")
        }
        throw CommandFailure(
            .badInput, "there is no annotation \(printable(annotationID)) in \(path)",
            advice: "`fermata annotations --output json` has the ids.")
    }

    /// Of `rollout-1.3`, and of `rollout-1.3-t7-db-0`.
    private var step: StepID? {
        let words = annotationID.split(separator: "-", maxSplits: 2)
        guard words.count >= 2, words[0] == "rollout" else {
            return StepID(parsing: annotationID)
        }
        return StepID(parsing: "rollout-\(words[1])")
    }
}

struct TemplatesCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "templates",
        abstract: "Writes the built-in templates to a directory, to change them, or checks yours.",
        discussion: """
            Mustache: https://mustache.github.io/mustache.5.html, without changed delimiters. Values \
            are escaped for the document they go into. A file of another name is for including: \
            {{>footer}} takes footer.mustache.

              fermata annotations templates /etc/fermata/templates
              fermata annotations templates --check /etc/fermata/templates
              fermata annotations templates --fields
            """)

    @Argument(help: ArgumentHelp("Where they go; made if it is not there.", valueName: "directory"))
    var directory: String?
    @Option(help: ArgumentHelp("Check the templates there.", valueName: "directory"))
    var check: String?
    @Flag(name: .customLong("fields"), help: "List what templates can name.")
    var wantsFields = false

    func validate() throws {
        let given = [directory != nil, check != nil, wantsFields].count { $0 }
        guard given == 1 else {
            throw ValidationError("Give a directory, --check DIRECTORY or --fields.")
        }
    }

    func run() throws {
        if wantsFields {
            var table = TextTable([("FIELD", .left), ("MEANING", .left)])
            for field in templateFieldNames { table.add([field.name, field.meaning]) }
            StandardOutput.write(table.text)
        } else if let check {
            _ = try readTemplates(check)
            StandardOutput.write("all templates in \(check) are in order\n")
        } else if let directory {
            try write(to: directory)
        }
    }

    /// Replaces nothing.
    private func write(to directory: String) throws(CommandFailure) {
        let files = BulletinTemplates.builtInSources.map { source in
            (path: "\(directory)/\(source.name)\(BulletinTemplates.fileSuffix)", text: source.text)
        }
        do {
            try FileManager.default.createDirectory(
                atPath: directory, withIntermediateDirectories: true)
            for file in files {
                try Data(file.text.utf8).write(
                    to: URL(fileURLWithPath: file.path), options: .withoutOverwriting)
                StandardOutput.write("wrote \(file.path)\n")
            }
        } catch {
            throw CommandFailure(
                .cannotCreate,
                "cannot write templates to \(directory): \(error.localizedDescription)",
                advice: "Files that are there are not replaced: name a new directory.")
        }
    }
}

/// Reads and checks an operator's templates.
func readTemplates(_ directory: String) throws(CommandFailure) -> BulletinTemplates {
    do {
        return try BulletinTemplates(directory: directory)
    } catch {
        throw CommandFailure(.badInput, error.description, advice: error.advice)
    }
}
