import Yams

/// Where the parts of a host's file stand in it, for problems that only the host itself can tell,
/// such as a disk that is not there.
public struct HostFilePlaces {
    private let document: Document

    /// - Returns: nil if `text` is not YAML; parsing it says why.
    public init?(_ text: String) {
        guard let document = try? Document(text, kind: HostFile.kindOfFile) else { return nil }
        self.document = document
    }

    /// - Parameter path: such as `guests[1].disks[0].path`.
    /// - Returns: line and column, from 1, of the part, or of the nearest one around it that is
    ///   written in the file; nil for an empty file.
    public func place(of path: String) -> (line: Int, column: Int)? {
        guard var node = document.root else { return nil }
        var position = document.position(node)
        for step in Self.steps(path) {
            switch (step, node) {
            case (.key(let name), .mapping(let mapping)):
                guard
                    let (key, value) = mapping.first(where: { document.name(ofKey: $0.key) == name }
                    )
                else { return (position.line, position.column) }
                node = value
                // A list or a map begins on the line after its key; the key is what one looks for.
                position = document.position(value.scalar == nil ? key : value)
            case (.index(let index), .sequence(let sequence)):
                guard sequence.indices.contains(index) else {
                    return (position.line, position.column)
                }
                node = sequence[index]
                position = document.position(node)
            default: return (position.line, position.column)
            }
        }
        return (position.line, position.column)
    }

    private enum Step {
        case key(String)
        case index(Int)
    }

    private static func steps(_ path: String) -> [Step] {
        path.split(separator: ".").flatMap { part -> [Step] in
            let pieces = part.split(separator: "[")
            return pieces.compactMap { piece in
                piece.last == "]"
                    ? Int(piece.dropLast()).map { .index($0) } : .key(String(piece))
            }
        }
    }
}
