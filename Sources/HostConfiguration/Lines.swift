/// A file's text, checked for what has no place in it before the YAML library sees it.
struct Lines {
    /// Without carriage returns and byte order mark.
    private let scalars: [Unicode.Scalar]
    /// Index of each line's first scalar in `scalars`, and one past the end.
    private let starts: [Int]

    /// - Parameter kind: of the file, for people.
    init(_ text: String, kind: String) throws(DocumentProblem) {
        var scalars: [Unicode.Scalar] = []
        scalars.reserveCapacity(text.utf8.count)
        var starts = [0]
        var previous: Unicode.Scalar?
        for scalar in text.unicodeScalars {
            defer { previous = scalar }
            // A byte order mark, which editors of another system write.
            if previous == nil, scalar == "\u{FEFF}" { continue }
            if scalar == "\n", previous == "\r" { continue }
            let scalar = scalar == "\r" ? "\n" : scalar
            guard Self.isAllowed(scalar) else {
                let number = String(scalar.value, radix: 16, uppercase: true)
                let padding = String(repeating: "0", count: max(0, 4 - number.utf8.count))
                throw DocumentProblem(
                    position: Position(
                        line: starts.count, column: scalars.count - (starts.last ?? 0) + 1),
                    message: "the character U+\(padding)\(number) has no place in a \(kind)",
                    advice: "remove it")
            }
            scalars.append(scalar)
            if scalar == "\n" { starts.append(scalars.count) }
        }
        starts.append(scalars.count)
        self.scalars = scalars
        self.starts = starts
    }

    /// What YAML allows, but neither the line breaks that editors do not count nor private use.
    private static func isAllowed(_ scalar: Unicode.Scalar) -> Bool {
        switch scalar.value {
        case 0x09, 0x0A, 0x20...0x7E: true
        case 0x2028, 0x2029, 0xFEFF, 0xE000...0xF8FF: false
        case 0xA0...0xD7FF, 0xF900...0xFFFD, 0x10000...0xEFFFF: true
        default: false
        }
    }

    private func line(_ number: Int) -> ArraySlice<Unicode.Scalar> {
        guard number >= 1, number < starts.count else { return [] }
        return scalars[starts[number - 1]..<starts[number]]
    }

    func scalar(at position: Position) -> Unicode.Scalar? {
        let line = line(position.line)
        guard position.column >= 1, position.column <= line.count else { return nil }
        return line[line.startIndex + position.column - 1]
    }

    func hasTabInIndentation(_ number: Int) -> Bool {
        line(number).prefix { $0 == " " || $0 == "\t" }.contains("\t")
    }

    /// The text for the YAML library.
    func text(with marks: KeyMarks) -> String {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(scalars.count)
        if marks.count == 0 {
            for scalar in scalars { bytes.append(contentsOf: scalar.utf8) }
        } else {
            for number in 1..<starts.count {
                for scalar in marks.apply(to: line(number), number: number) {
                    bytes.append(contentsOf: scalar.utf8)
                }
            }
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    /// Refuses a key that is a list, a map or an alias in a file that has anchors.
    ///
    /// The YAML library shares what aliases repeat, so that a few lines may stand for billions of
    /// values at no cost. But it hashes each key whole, and such a key would take for ever. Seen
    /// from the text alone, so a value with the same characters in a file with anchors is refused
    /// too; no host file needs either.
    func refuseAnchorsWithComplexKeys() throws(DocumentProblem) {
        var hasAnchor = false
        var complexKey: Int?
        // The last scalar that is no space, and whether it is of a word that begins as an alias.
        var last: Unicode.Scalar = "\n"
        var isAlias = false
        var isBehindSpace = true
        for index in scalars.indices {
            let scalar = scalars[index]
            switch scalar {
            case " ", "\t":
                isBehindSpace = true
                continue
            case "&":
                if beginsToken(index), index + 1 < scalars.count, !isSpace(scalars[index + 1]) {
                    hasAnchor = true
                }
            case "?":
                if beginsToken(index), index + 1 == scalars.count || isSpace(scalars[index + 1]) {
                    complexKey = complexKey ?? index
                }
            case ":":
                // One that begins its line belongs to something that ended before it.
                if isAlias || last == "]" || last == "}" || last == "\n" {
                    complexKey = complexKey ?? index
                }
            default: break
            }
            if scalar == "*", beginsToken(index) {
                isAlias = true
            } else if isBehindSpace || scalar == "," || scalar == "\n" {
                isAlias = false
            }
            last = scalar
            isBehindSpace = scalar == "\n"
        }
        guard hasAnchor, let complexKey else { return }
        throw DocumentProblem(
            position: position(of: complexKey),
            message: "a key that is no plain word is in a file with anchors",
            advice: "write the key as a word, or the anchors' values out")
    }

    private func isSpace(_ scalar: Unicode.Scalar) -> Bool {
        scalar == " " || scalar == "\t" || scalar == "\n"
    }

    private func beginsToken(_ index: Int) -> Bool {
        guard index > 0 else { return true }
        let before = scalars[index - 1]
        return isSpace(before) || "[]{},:-?!\"'".unicodeScalars.contains(before)
    }

    private func position(of index: Int) -> Position {
        // The last line that begins at or before the scalar.
        var low = 0
        var high = starts.count - 1
        while high - low > 1 {
            let middle = (low + high) / 2
            if starts[middle] <= index { low = middle } else { high = middle }
        }
        return Position(line: low + 1, column: index - starts[low] + 1)
    }
}
