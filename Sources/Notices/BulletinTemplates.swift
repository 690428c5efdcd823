import Mustache

/// The Mustache templates of texts: ours, or an operator's.
///
/// An operator's directory has four files, `subject.mustache`, `text.mustache`, `markdown.mustache` and
/// `html.mustache`, and may have more, which those include by `{{>name}}`. Everything that can be wrong
/// with them is found when they are read, not when a guest has been paused: what cannot be parsed, a
/// field that does not exist, an include of a file that is not there, a file that nothing includes.
public struct BulletinTemplates: Sendable {
    public enum Name: String, Hashable, Sendable, CaseIterable {
        case subject
        case text
        case markdown
        case html

        public var fileName: String { rawValue + BulletinTemplates.fileSuffix }
    }

    /// A template's text, and where it came from.
    public struct Source: Hashable, Sendable {
        /// As a person finds it; for messages.
        public var path: String
        /// Without ``BulletinTemplates/fileSuffix``.
        public var name: String
        public var text: String

        public init(path: String, name: String, text: String) {
            self.path = path
            self.name = name
            self.text = text
        }
    }

    public static let fileSuffix = ".mustache"

    private let library: MustacheLibrary

    /// - Parameters:
    ///   - sources: every template of the directory; one for each ``Name`` must be there.
    ///   - directory: for messages.
    /// - Throws: the first thing that is wrong.
    public init(_ sources: [Source], directory: String) throws(TemplateError) {
        for name in Name.allCases where !sources.contains(where: { $0.name == name.rawValue }) {
            throw TemplateError(
                path: "\(directory)/\(name.fileName)", line: nil, problem: .missing)
        }
        var templates: [String: MustacheTemplate] = [:]
        var included = Set(Name.allCases.map(\.rawValue))
        for source in sources {
            templates[source.name] = try Self.parse(source)
            let tags = TemplateTag.all(in: source.text)
            try Self.check(tags, of: source, among: sources)
            included.formUnion(tags.filter { $0.kind == .partial }.map(\.name))
        }
        for source in sources where !included.contains(source.name) {
            throw TemplateError(path: source.path, line: nil, problem: .unused)
        }
        try Self.checkIncludesEnd(sources)
        library = MustacheLibrary(templates: templates)
    }

    func render(_ name: Name, _ fields: TemplateFields) -> String {
        guard let text = library.render(fields, withTemplate: name.rawValue) else {
            preconditionFailure("no template \(name) although it was checked")
        }
        return text
    }

    private static func parse(_ source: Source) throws(TemplateError) -> MustacheTemplate {
        // Values are escaped already, and what is included would be escaped as HTML if it did not
        // say this itself. On a line of its own it leaves the first line what it is.
        let pragma = "{{%CONTENT_TYPE:TEXT}}\n"
        do {
            return try MustacheTemplate(string: pragma + source.text)
        } catch let error as MustacheTemplate.ParserError {
            throw TemplateError(
                path: source.path, line: max(1, error.context.lineNumber - 1),
                problem: .syntax(explanation(error.error)))
        } catch {
            throw TemplateError(path: source.path, line: nil, problem: .syntax("\(error)"))
        }
    }

    private static func explanation(_ error: any Error) -> String {
        guard let error = error as? MustacheTemplate.Error else {
            return "a tag has no end"
        }
        return switch error {
        case .sectionCloseNameIncorrect: "this ends another section than the one that is open"
        case .unfinishedName: "a tag has no end, or a character that no name has"
        case .expectedSectionEnd: "a section has no end"
        default: "\(error)"
        }
    }

    private static func check(
        _ tags: [TemplateTag], of source: Source, among sources: [Source]
    ) throws(TemplateError) {
        for tag in tags {
            let problem: TemplateError.Problem
            switch tag.kind {
            case .field:
                if tag.name.isEmpty || tag.name == "." { continue }
                if templateFieldNames.contains(where: { $0.name == tag.name }) { continue }
                problem = .unknownField(tag.name)
            case .partial:
                if sources.contains(where: { $0.name == tag.name }) { continue }
                problem = .unknownInclude(tag.name)
            case .other: problem = .notOffered
            }
            throw TemplateError(path: source.path, line: tag.line, problem: problem)
        }
    }

    /// A template that includes itself would never be done.
    private static func checkIncludesEnd(_ sources: [Source]) throws(TemplateError) {
        func visit(_ source: Source, path: [String]) throws(TemplateError) {
            for tag in TemplateTag.all(in: source.text) where tag.kind == .partial {
                if path.contains(tag.name) {
                    throw TemplateError(
                        path: source.path, line: tag.line, problem: .endless(tag.name))
                }
                if let next = sources.first(where: { $0.name == tag.name }) {
                    try visit(next, path: path + [tag.name])
                }
            }
        }
        for source in sources { try visit(source, path: [source.name]) }
    }
}

/// What is wrong with a template, where.
public struct TemplateError: Error, Hashable, CustomStringConvertible {
    public enum Problem: Hashable, Sendable {
        case missing
        case unused
        case syntax(String)
        case unknownField(String)
        case unknownInclude(String)
        case endless(String)
        case notOffered
        case unreadable(String)
    }

    public var path: String
    /// From 1; nil if it is the whole file.
    public var line: Int?
    public var problem: Problem

    public init(path: String, line: Int?, problem: Problem) {
        self.path = path
        self.line = line
        self.problem = problem
    }

    public var description: String {
        let place = line.map { "\(path):\($0)" } ?? path
        let what =
            switch problem {
            case .missing: "this template is not there"
            case .unused: "no template includes this one"
            case .syntax(let text): text
            case .unknownField(let name): "there is no field \"\(name)\""
            case .unknownInclude(let name):
                "there is no template \"\(name)\(BulletinTemplates.fileSuffix)\" beside it"
            case .endless(let name): "including \"\(name)\" never ends"
            case .notOffered:
                "only variables, sections, comments and {{>includes}} can be used here"
            case .unreadable(let reason): "cannot be read: \(reason)"
            }
        return "\(place): \(what)"
    }

    public var advice: String {
        switch problem {
        case .missing, .unused:
            "A directory of templates has "
                + BulletinTemplates.Name.allCases.map(\.fileName).joined(separator: ", ")
                + ", and what they include. `fermata annotations templates DIRECTORY` writes the "
                + "built-in ones."
        case .unknownField: "`fermata annotations templates --fields` lists all fields."
        default: ""
        }
    }
}
