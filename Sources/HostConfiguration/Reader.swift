import Fleet
import Yams

/// One value of the document and where it stands.
struct Value {
    var node: Node
    var position: Position
    /// Such as `guests[1].memory`; empty for the document.
    var path: String

    /// What a message calls it.
    var title: String { path.isEmpty ? "the file" : path }

    /// Nothing, `~` or `null`.
    var isNull: Bool {
        guard case .scalar(let scalar) = node, scalar.style == .plain || scalar.style == .any
        else { return false }
        return ["", "~", "null", "Null", "NULL"].contains(scalar.string)
    }

    /// What a message calls the kind of value that it is.
    var kind: String {
        switch node {
        case .mapping: "a map"
        case .sequence: "a list"
        case .alias: "an alias"
        case .scalar(let scalar): isNull ? "empty" : quoted(scalar.string)
        }
    }
}

/// The entries of a map by key.
struct Fields {
    var value: Value
    var entries: [String: Value] = [:]

    subscript(name: String) -> Value? { entries[name] }
    /// As the subscript, without those that are there but have no value; for lists and maps.
    func nonEmpty(_ name: String) -> Value? { entries[name].flatMap { $0.isNull ? nil : $0 } }
}

/// Reads typed values out of a document and collects what is wrong, going on after each problem.
/// Every method that returns nil has added one at least.
final class Reader {
    let document: Document
    let fileName: String
    private var problems: [(position: Position, problem: Problem)] = []
    private var omittedCount = 0

    /// Nobody reads more, and a file with many aliases could give billions.
    static let problemsMax = 200
    /// As many entries of any list but the guests.
    static let listCountMax = 256
    /// As many of all lists together, as an alias may stand for the same list in each guest. A host
    /// with as many guests as there can be has some 24 for each.
    static let entriesMax = 100_000
    private var entryCount = 0

    init(_ document: Document, fileName: String) {
        self.document = document
        self.fileName = fileName
    }

    var hasProblems: Bool { !problems.isEmpty }

    /// In the order of lines.
    var sortedProblems: [Problem] {
        var sorted = problems.enumerated().sorted {
            ($0.element.position, $0.offset) < ($1.element.position, $1.offset)
        }.map(\.element.problem)
        if omittedCount > 0, let last = sorted.last {
            sorted.append(
                Problem(
                    file: fileName, line: last.line, column: last.column, path: "",
                    message: "\(omittedCount) further problems are not shown",
                    advice: "correct these and check the file again"))
        }
        return sorted
    }

    func add(_ position: Position, _ path: String, _ message: String, _ advice: String) {
        guard problems.count < Self.problemsMax else {
            omittedCount += 1
            return
        }
        let problem = Problem(
            file: fileName, line: position.line, column: position.column, path: path,
            message: message, advice: advice)
        problems.append((position, problem))
    }

    func add(_ value: Value, _ message: String, _ advice: String) {
        add(value.position, value.path, "\(value.title) \(message)", advice)
    }

    // MARK: Maps and lists

    /// - Parameters:
    ///   - known: the keys that may be there; nil for any.
    ///   - required: those that must.
    ///   - example: shows what is wanted, for a value of another type and for a required key.
    ///   - examples: for required keys that it does not show, in one line each.
    func fields(
        _ value: Value, known: [String]?, required: [String] = [], example: String,
        examples: [String: String] = [:]
    ) -> Fields? {
        guard case .mapping(let mapping) = value.node else {
            add(value, "is \(value.kind) where a map is wanted", "write it as `\(example)`")
            return nil
        }
        var fields = Fields(value: value)
        var positions: [String: Position] = [:]
        for (keyNode, valueNode) in mapping {
            let position = document.position(keyNode)
            guard let name = document.name(ofKey: keyNode) else {
                add(
                    position, value.path, "a key in \(value.title) is a list or a map",
                    "write the key as a word")
                continue
            }
            let path = value.path.isEmpty ? name : "\(value.path).\(name)"
            if let first = positions[name] {
                add(
                    position, path, "\(quoted(name)) is there already, in line \(first.line)",
                    "remove one of the two")
                continue
            }
            positions[name] = position
            guard known?.contains(name) ?? true else {
                addUnknown(name, position, path, value, known ?? [])
                continue
            }
            fields.entries[name] = Value(
                node: valueNode, position: document.position(valueNode), path: path)
        }
        for name in required where positions[name] == nil {
            add(
                value.position, value.path.isEmpty ? name : "\(value.path).\(name)",
                "\(value.title) has no \(quoted(name))",
                "add it, as in `\(examples[name] ?? example)`")
        }
        return fields
    }

    private func addUnknown(
        _ name: String, _ position: Position, _ path: String, _ value: Value, _ known: [String]
    ) {
        guard problems.count < Self.problemsMax else {
            omittedCount += 1
            return
        }
        let place = value.path.isEmpty ? "here" : "in \(value.path)"
        let advice: String
        if name == "<<" {
            advice = "write the keys out; an alias may stand for a whole value only"
        } else if let suggestion = Words.suggestion(for: name, among: known) {
            advice = "did you mean \(quoted(suggestion))?"
        } else {
            advice = "remove it, or use one of \(known.joined(separator: ", "))"
        }
        add(position, path, "\(quoted(name)) is not known \(place)", advice)
    }

    /// - Parameter countMax: more entries than this are refused, as an alias may repeat them.
    func list(_ value: Value, countMax: Int = listCountMax, example: String) -> [Value]? {
        guard case .sequence(let sequence) = value.node else {
            add(value, "is \(value.kind) where a list is wanted", "write it as `\(example)`")
            return nil
        }
        guard sequence.count <= countMax else {
            add(value, "has \(sequence.count) entries", "keep to \(countMax)")
            return nil
        }
        entryCount += sequence.count
        guard entryCount <= Self.entriesMax else {
            add(value, "is beyond \(Self.entriesMax) entries of all lists", "repeat less")
            return nil
        }
        return sequence.enumerated().map { index, node in
            Value(
                node: node, position: document.position(node), path: "\(value.path)[\(index)]")
        }
    }

    // MARK: Words

    /// Any scalar with a value, as it is written: `7.10` stays what it is.
    func text(_ value: Value, example: String) -> String? {
        guard case .scalar(let scalar) = value.node, !value.isNull else {
            let advice = "write it as `\(example)`"
            add(value, "is \(value.kind) where a word or text is wanted", advice)
            return nil
        }
        return scalar.string
    }

    func name<Kind>(_ value: Value, example: String) -> Identifier<Kind>? {
        guard let text = text(value, example: example) else { return nil }
        guard let name = Identifier<Kind>(text) else {
            add(value, "is \(quoted(text)), which is no valid name", Self.nameAdvice)
            return nil
        }
        return name
    }

    static let nameAdvice =
        "use 1 to \(Limits.nameByteCountMax) of A-Z a-z 0-9 . _ -, the first a letter or digit"

    /// A number without quotes, in `range`.
    func integer(_ value: Value, in range: ClosedRange<Int64>) -> Int64? {
        let advice = "write a number from \(range.lowerBound) to \(range.upperBound)"
        guard case .scalar(let scalar) = value.node, !value.isNull else {
            add(value, "is \(value.kind) where a number is wanted", advice)
            return nil
        }
        guard scalar.style == .plain else {
            add(value, "is text in quotes where a number is wanted", "remove the quotes")
            return nil
        }
        guard let number = Words.integer(scalar.string) else {
            add(value, "is \(quoted(scalar.string)), which is no whole number", advice)
            return nil
        }
        guard range.contains(number) else {
            add(value, "is \(number)", advice)
            return nil
        }
        return number
    }

    func bool(_ value: Value) -> Bool? {
        let isPlain =
            if case .scalar(let scalar) = value.node { scalar.style == .plain } else { false }
        switch value.node.scalar?.string {
        case "true" where isPlain: return true
        case "false" where isPlain: return false
        default:
            add(value, "is \(value.kind)", "write true or false, without quotes")
            return nil
        }
    }

    /// An absolute path; without what would make it two paths, or two options of QEMU's.
    ///
    /// A relative one is refused instead of being resolved: the agent, the guard and QEMU need not
    /// have the same working directory, and the file may be moved.
    func path(_ value: Value) -> String? {
        guard let text = text(value, example: "/absolute/path") else { return nil }
        guard text.hasPrefix("/") else {
            add(value, "is \(quoted(text)), which is no absolute path", "begin it with a slash")
            return nil
        }
        let parts = text.split(separator: "/")
        guard !parts.contains("..") else {
            add(value, "is \(quoted(text)), which goes upwards", "write the path without `..`")
            return nil
        }
        if let odd = text.unicodeScalars.first(where: { $0.value < 0x20 || $0 == "," }) {
            let shown = odd == "," ? "a comma" : "a control character"
            add(value, "is \(quoted(text)), with \(shown) in it", "rename the file or directory")
            return nil
        }
        guard text.utf8.count < 4_096 else {
            add(value, "is longer than a path can be", "shorten it to 4095 bytes")
            return nil
        }
        // One spelling for each path, so that the same file is seen to be the same.
        return "/" + parts.filter { $0 != "." }.joined(separator: "/")
    }

    func size(_ value: Value, in range: ClosedRange<UInt64>, multipleOf unit: UInt64) -> UInt64? {
        guard let text = text(value, example: "256MiB") else { return nil }
        guard let size = Words.size(text) else {
            let meant = Words.sizeMeant(text).map { "write `\($0)`" }
            add(
                value, "is \(quoted(text)), which is no size",
                meant ?? "write it in bytes or with KiB, MiB or GiB, such as `256MiB`")
            return nil
        }
        guard range.contains(size), size.isMultiple(of: unit) else {
            add(
                value, "is \(quoted(text))",
                "give a multiple of \(unit >> 20) MiB, from \(range.lowerBound >> 20) MiB to "
                    + "\(range.upperBound >> 40) TiB")
            return nil
        }
        return size
    }

    /// - Parameter shown: the range for people.
    func duration(
        _ value: Value, in range: ClosedRange<Duration>, shown: String
    ) -> Duration? {
        guard let text = text(value, example: "5s") else { return nil }
        guard let duration = Words.duration(text), range.contains(duration) else {
            add(
                value, "is \(quoted(text))",
                "write a time from \(shown), such as `5s` or `300ms`"
            )
            return nil
        }
        return duration
    }
}
