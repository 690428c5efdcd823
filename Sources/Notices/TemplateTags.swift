/// A tag of a Mustache template, as far as names are checked.
struct TemplateTag: Hashable {
    enum Kind: Hashable {
        /// A variable or a section: a field, or a transform of one.
        case field
        case partial
        /// `{{=` or `{{<` or `{{%`: what we do not offer, since it cannot be checked.
        case other
    }

    var kind: Kind
    /// Without sigil and transforms; empty for transforms of where in a list we are.
    var name: String
    /// From 1.
    var line: Int

    /// The tags of a template, in order. Comments and the ends of sections are left out.
    static func all(in text: String) -> [TemplateTag] {
        var tags: [TemplateTag] = []
        var line = 1
        var rest = text.utf8[...]
        let (open, close) = (UInt8(ascii: "{"), UInt8(ascii: "}"))
        while let first = rest.first {
            if first == UInt8(ascii: "\n") { line += 1 }
            guard first == open, rest.dropFirst().first == open else {
                rest.removeFirst()
                continue
            }
            let body = rest.dropFirst(2)
            var end = body.startIndex
            while end < body.endIndex, body[end] != close { end = body.index(after: end) }
            let content = String(decoding: body[..<end], as: UTF8.self)
            if let tag = TemplateTag(content: content, line: line) { tags.append(tag) }
            line += content.utf8.count { $0 == UInt8(ascii: "\n") }
            rest = body[end...]
        }
        return tags
    }

    private init?(content: String, line: Int) {
        self.line = line
        let sigils: [(sigil: Character, kind: Kind?)] = [
            ("!", nil), ("/", nil), ("#", .field), ("^", .field), ("&", .field), ("{", .field),
            (">", .partial), ("=", .other), ("<", .other), ("%", .other), ("$", .other),
        ]
        let sigil = sigils.first { content.first == $0.sigil }
        if let sigil {
            guard let kind = sigil.kind else { return nil }
            self.kind = kind
        } else {
            kind = .field
        }
        let trimmed = String(content.dropFirst(sigil == nil ? 0 : 1))
            .split(whereSeparator: \.isWhitespace).joined(separator: " ")
        // `{{upper(first(name))}}`: the name is the innermost.
        let inner = trimmed.split(separator: "(", omittingEmptySubsequences: false).last ?? ""
        name = String(inner.prefix { $0 != ")" })
    }
}
