/// A table for a terminal: a heading, columns as wide as their longest cell and two spaces
/// between them, nothing wrapped, no spaces at the ends of lines.
public struct TextTable: Sendable {
    public enum Alignment: Sendable { case left, right }
    private let headings: [String]
    private let alignments: [Alignment]
    private var rows: [[String]] = []

    /// - Parameter columns: heading and alignment of each; numbers read best to the right.
    public init(_ columns: [(heading: String, alignment: Alignment)]) {
        headings = columns.map(\.heading)
        alignments = columns.map(\.alignment)
    }

    /// - Parameter row: as many cells as columns; an empty one is shown as `-`.
    public mutating func add(_ row: [String]) {
        precondition(row.count == headings.count, "\(row.count) cells, \(headings.count) columns")
        rows.append(row.map { $0.isEmpty ? "-" : printable($0) })
    }

    public var isEmpty: Bool { rows.isEmpty }

    /// Every line ends in a line feed.
    public var text: String {
        let all = [headings] + rows
        let widths = headings.indices.map { column in
            all.map { $0[column].count }.max() ?? 0
        }
        var output = ""
        for row in all {
            var line = ""
            for (column, cell) in row.enumerated() {
                if column > 0 { line += "  " }
                let space = String(repeating: " ", count: widths[column] - cell.count)
                line += alignments[column] == .left ? cell + space : space + cell
            }
            while line.last == " " { line.removeLast() }
            output += line + "\n"
        }
        return output
    }
}

/// Whether it is of ASCII's visible characters and spaces alone.
package func isPlain(_ text: String) -> Bool {
    text.utf8.allSatisfy { (0x20...0x7E).contains($0) }
}

/// `text` on one line and without control characters, so that what a peer or a program said can
/// neither break a table nor steer a terminal.
public func printable(_ text: String) -> String {
    // Nearly all texts are plain, and properties of characters are looked up in large tables.
    if isPlain(text) { return text }
    var output = String.UnicodeScalarView()
    for scalar in text.unicodeScalars {
        switch scalar.properties.generalCategory {
        case .control, .lineSeparator, .paragraphSeparator:
            if output.last != " " { output.append(" ") }
        // Marks that turn the direction of writing could make one name look like another.
        case .format: continue
        default: output.append(scalar)
        }
    }
    return String(output)
}

/// Items as people write them: `a`, `a and b`, `a, b and c`.
func listed(_ items: [String]) -> String {
    guard items.count > 1, let last = items.last else { return items.first ?? "" }
    return items.dropLast().joined(separator: ", ") + " and " + last
}

/// `1 guest`, `2 guests`.
func counted(_ count: some BinaryInteger, _ noun: String) -> String {
    "\(count) \(noun)\(count == 1 ? "" : "s")"
}

/// `text` with a full stop, unless it ends in a sign of its own.
package func sentence(_ text: String) -> String {
    let trimmed = printable(text)
    guard let last = trimmed.last else { return "" }
    return ".!?".contains(last) ? trimmed : trimmed + "."
}
