import Yams

/// A place in the file, as an editor counts it.
struct Position: Hashable, Comparable {
    /// From 1.
    var line: Int
    /// From 1, in Unicode scalars.
    var column: Int
    static let start = Position(line: 1, column: 1)
    static func < (left: Self, right: Self) -> Bool {
        (left.line, left.column) < (right.line, right.column)
    }
}

/// What keeps the document from being read at all.
struct DocumentProblem: Error {
    var position: Position
    var message: String
    var advice: String
    /// Found before it, in no order.
    var others: [DocumentProblem] = []
}

extension DocumentProblem {
    /// - Parameter position: of the first of them.
    init(repeatedKey name: String, at position: Position) {
        self.init(
            position: position, message: "key \(quoted(name)) is repeated further down",
            advice: "remove all but one, and check the file again")
    }
}

/// A file's YAML as a tree, in which repeated keys are still to be seen.
///
/// The YAML library throws at the first map that repeats a key, naming one of them. As all problems
/// are to be shown at once, the key it names gets a mark of its own and the text is read again,
/// until nothing is repeated; ``name(ofKey:)`` takes the mark off.
struct Document {
    /// Nil for a file without a document.
    let root: Node?
    private let marks: KeyMarks

    /// Larger than any real file by far; keeps a wrong file name from filling the memory.
    static let byteCountMax = 4 * 1024 * 1024
    /// Each repeated key costs one more reading, so there is an end: after so many keys, or bytes.
    static let repeatedKeysMax = 64
    static let rereadByteCountMax = 16 * 1024 * 1024

    /// What the YAML library calls a key that is a list or a map.
    private static let nameOfComplexKey = "<uncovertable>"

    /// - Parameter kind: of the file, for people.
    init(_ text: String, kind: String) throws(DocumentProblem) {
        guard text.utf8.count <= Self.byteCountMax else {
            throw DocumentProblem(
                position: .start,
                message:
                    "the file has \(text.utf8.count) bytes, and \(Self.byteCountMax) is the most",
                advice: "check that this is the \(kind)")
        }
        let lines = try Lines(text, kind: kind)
        try lines.refuseAnchorsWithComplexKeys()
        var marks = KeyMarks()
        while true {
            do {
                let parser = try Parser(
                    yaml: lines.text(with: marks), resolver: .basic, encoding: .utf8)
                root = try parser.singleRoot()
                self.marks = marks
                return
            } catch YamlError.duplicatedKeysInMapping(let names, let context) {
                // The library does not order such keys: it would point at one today and at another
                // tomorrow.
                guard !names.contains(Self.nameOfComplexKey) else {
                    throw marks.problem(
                        DocumentProblem(
                            position: .start,
                            message: "a key that is a list or a map is repeated",
                            advice: "write each key as a word"))
                }
                // Neither does it order keys of one text that differ by their tags.
                guard names.count < 2 || names[0] != names[1] else {
                    throw marks.problem(
                        DocumentProblem(
                            position: .start,
                            message: "key \(quoted(Self.withoutMark(names[0]))) is repeated "
                                + "under tags",
                            advice: "write each key once, without a tag"))
                }
                let position = marks.original(context.mark)
                let name = names.first.map { Self.withoutMark($0) } ?? ""
                guard marks.count < Self.repeatedKeysMax,
                    marks.count * text.utf8.count < Self.rereadByteCountMax,
                    marks.add(at: position, in: lines, name: name)
                else {
                    throw marks.problem(DocumentProblem(repeatedKey: name, at: position))
                }
            } catch let error as YamlError {
                throw marks.problem(Self.problem(error, lines, marks, kind))
            } catch {
                throw DocumentProblem(
                    position: .start, message: "the file cannot be read as YAML: \(error)",
                    advice: "correct the syntax")
            }
        }
    }

    /// Where `node` begins.
    func position(_ node: Node) -> Position { node.mark.map { marks.original($0) } ?? .start }

    /// The text of a key; nil for one that is a list or a map.
    func name(ofKey key: Node) -> String? {
        guard case .scalar(let scalar) = key else { return nil }
        return Self.withoutMark(scalar.string)
    }

    private static func withoutMark(_ name: String) -> String {
        let scalars = name.unicodeScalars
        guard scalars.first == KeyMarks.delimiter,
            let end = scalars.dropFirst().firstIndex(of: KeyMarks.delimiter)
        else { return name }
        return String(scalars[scalars.index(after: end)...])
    }

    private static func problem(
        _ error: YamlError, _ lines: Lines, _ marks: KeyMarks, _ kind: String
    ) -> DocumentProblem {
        switch error {
        case .scanner(_, let text, let mark, _), .parser(_, let text, let mark, _):
            let position = marks.original(mark)
            if text.hasPrefix("Maximum nesting") {
                return DocumentProblem(
                    position: position, message: "the file is nested too deeply",
                    advice: "check that this is the \(kind)")
            }
            if lines.hasTabInIndentation(position.line) {
                return DocumentProblem(
                    position: position, message: "a tab is in the line's indentation",
                    advice: "indent with spaces")
            }
            return DocumentProblem(
                position: position, message: "this is not YAML: \(text)",
                advice: "correct the syntax here or in the lines before")
        case .composer(_, let text, let mark, _):
            if text.contains("another document") {
                return DocumentProblem(
                    position: marks.original(mark), message: "a second document begins here",
                    advice: "keep one document in the file, without a further `---`")
            }
            return DocumentProblem(
                position: marks.original(mark), message: "this is not YAML: \(text)",
                advice: "define the anchor before it is used, or write the value out")
        default:
            return DocumentProblem(
                position: .start, message: "the file cannot be read as YAML: \(error)",
                advice: "correct the syntax")
        }
    }
}

/// Keys that were made unique, in the coordinates of the file as it is.
struct KeyMarks {
    /// Of the private use area, so that no host file has reason to contain it.
    static let delimiter: Unicode.Scalar = "\u{E000}"

    private struct Insertion {
        var column: Int
        var text: [Unicode.Scalar]
    }
    /// By line, in ascending order of column.
    private var insertions: [Int: [Insertion]] = [:]
    private var marked: [(position: Position, name: String)] = []
    var count: Int { marked.count }

    /// Marks the key that begins at `position`.
    ///
    /// - Returns: false if it is marked already, so that nothing would be gained.
    mutating func add(at position: Position, in lines: Lines, name: String) -> Bool {
        guard let first = lines.scalar(at: position) else { return false }
        // A quoted key gets the mark behind its quote.
        let column = first == "\"" || first == "'" ? position.column + 1 : position.column
        var line = insertions[position.line, default: []]
        guard !line.contains(where: { $0.column == column }) else { return false }
        marked.append((position, name))
        let text = [Self.delimiter] + Array("\(count)".unicodeScalars) + [Self.delimiter]
        line.append(Insertion(column: column, text: text))
        line.sort { $0.column < $1.column }
        insertions[position.line] = line
        return true
    }

    /// Where in the file the YAML library's `mark` is.
    func original(_ mark: Mark) -> Position {
        var column = mark.column
        for insertion in insertions[mark.line] ?? [] {
            guard column > insertion.column else { break }
            column = max(insertion.column, column - insertion.text.count)
        }
        return Position(line: mark.line, column: column)
    }

    /// `last`, which ended the reading, with the repeated keys that were found before it.
    func problem(_ last: DocumentProblem) -> DocumentProblem {
        var last = last
        last.others = marked.map { DocumentProblem(repeatedKey: $0.name, at: $0.position) }
        return last
    }

    func apply(to line: ArraySlice<Unicode.Scalar>, number: Int) -> [Unicode.Scalar] {
        var line = Array(line)
        for insertion in (insertions[number] ?? []).reversed() {
            line.insert(contentsOf: insertion.text, at: min(insertion.column - 1, line.count))
        }
        return line
    }
}
