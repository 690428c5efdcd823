/// A JSON document to be written: keys keep the order in which they were given, so that the same
/// value always becomes the same bytes.
public enum JSON: Hashable, Sendable {
    case null
    case bool(Bool)
    case integer(Int64)
    case unsigned(UInt64)
    /// A number given in thousandths, written exactly: 12400 becomes `12.4`.
    case thousandths(Int64)
    case string(String)
    case array([JSON])
    case object([Member])

    public struct Member: Hashable, Sendable {
        public var key: String
        public var value: JSON
        public init(_ key: String, _ value: JSON) {
            self.key = key
            self.value = value
        }
    }

    /// On one line, without spaces; for files of JSON lines.
    public var compact: String {
        var output = ""
        write(to: &output)
        return output
    }

    /// On several lines, indented by two spaces; for people and documents.
    public var pretty: String {
        var output = ""
        writeIndented(to: &output, depth: 0)
        return output
    }

    private func write(to output: inout String) {
        switch self {
        case .array(let elements):
            output += "["
            for (index, element) in elements.enumerated() {
                if index > 0 { output += "," }
                element.write(to: &output)
            }
            output += "]"
        case .object(let members):
            output += "{"
            for (index, member) in members.enumerated() {
                if index > 0 { output += "," }
                writeJSONString(member.key, to: &output)
                output += ":"
                member.value.write(to: &output)
            }
            output += "}"
        default: writeScalar(to: &output)
        }
    }

    private func writeIndented(to output: inout String, depth: Int) {
        let inner = String(repeating: "  ", count: depth + 1)
        let outer = String(repeating: "  ", count: depth)
        switch self {
        case .array(let elements) where !elements.isEmpty:
            // Short lists of plain values read better on one line.
            if elements.allSatisfy(\.isScalar) {
                output += "["
                for (index, element) in elements.enumerated() {
                    if index > 0 { output += ", " }
                    element.writeScalar(to: &output)
                }
                output += "]"
                return
            }
            output += "[\n"
            for (index, element) in elements.enumerated() {
                if index > 0 { output += ",\n" }
                output += inner
                element.writeIndented(to: &output, depth: depth + 1)
            }
            output += "\n\(outer)]"
        case .object(let members) where !members.isEmpty:
            output += "{\n"
            for (index, member) in members.enumerated() {
                if index > 0 { output += ",\n" }
                output += inner
                writeJSONString(member.key, to: &output)
                output += ": "
                member.value.writeIndented(to: &output, depth: depth + 1)
            }
            output += "\n\(outer)}"
        default: write(to: &output)
        }
    }

    private var isScalar: Bool {
        switch self {
        case .array, .object: false
        default: true
        }
    }

    private func writeScalar(to output: inout String) {
        switch self {
        case .null: output += "null"
        case .bool(let value): output += value ? "true" : "false"
        case .integer(let value): output += "\(value)"
        case .unsigned(let value): output += "\(value)"
        case .thousandths(let value): output += decimalText(thousandths: value)
        case .string(let value): writeJSONString(value, to: &output)
        case .array, .object: preconditionFailure("not a scalar: \(self)")
        }
    }
}

extension JSON: ExpressibleByStringLiteral, ExpressibleByArrayLiteral,
    ExpressibleByDictionaryLiteral
{
    public init(stringLiteral value: String) { self = .string(value) }
    public init(arrayLiteral elements: JSON...) { self = .array(elements) }
    public init(dictionaryLiteral elements: (String, JSON)...) {
        self = .object(elements.map { Member($0.0, $0.1) })
    }
}

/// - Returns: `value` / 1000, exact, without trailing zeros: `-0.4`, `12`, `13.25`.
func decimalText(thousandths value: Int64) -> String {
    let magnitude = value.magnitude
    let sign = value < 0 ? "-" : ""
    let whole = "\(sign)\(magnitude / 1000)"
    let fraction = magnitude % 1000
    guard fraction != 0 else { return whole }
    var digits = padded(fraction, width: 3)
    while digits.hasSuffix("0") { digits.removeLast() }
    return "\(whole).\(digits)"
}

/// - Returns: `value` in decimal with zeros in front up to `width` digits.
func padded(_ value: some BinaryInteger, width: Int) -> String {
    let digits = "\(value)"
    return String(repeating: "0", count: max(0, width - digits.utf8.count)) + digits
}

/// Quotes and escapes `text` as RFC 8259 asks, and also DEL, U+2028 and U+2029, which some
/// readers of JSON lines take for control characters or line ends.
private func writeJSONString(_ text: String, to output: inout String) {
    output += "\""
    let isPlain = text.utf8.allSatisfy {
        (0x20...0x7E).contains($0) && $0 != UInt8(ascii: "\"") && $0 != UInt8(ascii: "\\")
    }
    if isPlain {
        output += text
        output += "\""
        return
    }
    for scalar in text.unicodeScalars {
        switch scalar {
        case "\"": output += "\\\""
        case "\\": output += "\\\\"
        case "\n": output += "\\n"
        case "\r": output += "\\r"
        case "\t": output += "\\t"
        case "\u{0}"..."\u{1F}", "\u{7F}", "\u{2028}", "\u{2029}":
            let digits = String(scalar.value, radix: 16)
            output += "\\u" + String(repeating: "0", count: 4 - digits.utf8.count) + digits
        default: output.unicodeScalars.append(scalar)
        }
    }
    output += "\""
}
