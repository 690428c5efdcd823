import Fleet
import SwiftProtobuf

/// A peer's message has a value that the vocabulary does not allow.
///
/// The peer's fault: whoever receives it closes the session with ``CloseCode/badFrame``.
public struct ConversionError: Error, Hashable, Sendable, CustomStringConvertible {
    public enum Problem: Hashable, Sendable {
        /// The field is needed and absent, or a oneof has no case that is known here.
        case missing
        /// Not a name as ``Fleet/Identifier`` has it.
        case invalidName(String)
        /// An enum's number that version 1 does not know, or the unspecified 0.
        case unknownValue(Int)
        case outOfRange(Int64, min: Int64, max: Int64)
        case wrongByteCount(Int, expected: Int)
        case tooLong(byteCount: Int, max: Int)
        case tooMany(count: Int, max: Int)
        /// Not ascending, or something twice, where both are forbidden.
        case notAscending(String)
        /// The field contradicts another one.
        case contradiction(String)
        /// The bytes are not a Protocol Buffers message of the frame's kind.
        case unreadable
    }
    /// Where in the message, as in the schema: `holds[2].guest`.
    public var field: String
    public var problem: Problem

    public init(_ problem: Problem, field: String) {
        self.problem = problem
        self.field = field
    }

    public var description: String {
        switch problem {
        case .missing: "\(field) is missing"
        case .invalidName(let text): "\(field) is not a valid name: \"\(excerpt(text))\""
        case .unknownValue(let number): "\(field) has the unknown value \(number)"
        case .outOfRange(let value, let min, let max):
            "\(field) is \(value), not within \(min) ... \(max)"
        case .wrongByteCount(let count, let expected):
            "\(field) has \(count) bytes instead of \(expected)"
        case .tooLong(let count, let max): "\(field) has \(count) bytes, more than \(max)"
        case .tooMany(let count, let max): "\(field) has \(count) elements, more than \(max)"
        case .notAscending(let text):
            "\(field) is not in ascending order without repetition at \"\(excerpt(text))\""
        case .contradiction(let text): "\(field): \(text)"
        case .unreadable: "\(field) cannot be read as Protocol Buffers"
        }
    }

    func within(_ outer: String) -> ConversionError {
        ConversionError(problem, field: field.isEmpty ? outer : "\(outer).\(field)")
    }
}

/// A peer's text, short and without control characters, fit for a log line.
func excerpt(_ text: String) -> String {
    var short = String.UnicodeScalarView()
    for scalar in text.unicodeScalars.prefix(80) {
        short.append(scalar.value < 0x20 || scalar.value == 0x7F ? "?" : scalar)
    }
    return String(short)
}

// MARK: - Checks of one field each. `field` is the name in the schema.

func checkedName<Kind>(
    _ text: String, _ field: StaticString
) throws(ConversionError) -> Identifier<Kind> {
    guard let name = Identifier<Kind>(text) else {
        throw ConversionError(.invalidName(text), field: "\(field)")
    }
    return name
}

func checkedNames<Kind>(
    _ texts: [String], _ field: StaticString
) throws(ConversionError) -> [Identifier<Kind>] {
    var names: [Identifier<Kind>] = []
    names.reserveCapacity(texts.count)
    for (index, text) in texts.enumerated() {
        guard let name = Identifier<Kind>(text) else {
            throw ConversionError(.invalidName(text), field: "\(field)[\(index)]")
        }
        names.append(name)
    }
    return names
}

/// As the vocabulary wants it where it says "in ascending order": repetition is refused as well.
func checkAscending<Element, Key: Comparable & CustomStringConvertible>(
    _ elements: [Element], _ field: StaticString, by key: (Element) -> Key
) throws(ConversionError) {
    for index in elements.indices.dropFirst()
    where key(elements[index - 1]) >= key(elements[index]) {
        throw ConversionError(
            .notAscending(key(elements[index]).description), field: "\(field)[\(index)]")
    }
}

func checkCount(_ count: Int, max: Int, _ field: StaticString) throws(ConversionError) {
    guard count <= max else {
        throw ConversionError(.tooMany(count: count, max: max), field: "\(field)")
    }
}

func checkedToken(_ number: UInt64, _ field: StaticString) throws(ConversionError) -> Token {
    guard number > 0 else { throw outOfRange(0, 1, Int64.max, field) }
    return try checkedAcceptedToken(number, field)
}

/// The highest token that somebody has accepted: 0 if none.
func checkedAcceptedToken(
    _ number: UInt64, _ field: StaticString
) throws(ConversionError) -> Token {
    guard number <= Limits.tokenMax else {
        throw ConversionError(
            .contradiction("\(number), and no token is so high"), field: "\(field)")
    }
    return Token(number)
}

/// Of a clock, which may be set wrong, but not beyond what can be written down.
func checkedTime(
    _ microseconds: Int64, _ field: StaticString
) throws(ConversionError) -> Timestamp {
    try checkRange(microseconds, Limits.timeMicroseconds, field)
    return Timestamp(microseconds: microseconds)
}

func checkRange(
    _ value: Int64, _ range: ClosedRange<Int64>, _ field: StaticString
) throws(ConversionError) {
    guard range.contains(value) else {
        throw outOfRange(value, range.lowerBound, range.upperBound, field)
    }
}

func checkedRollout(
    _ number: UInt64, _ field: StaticString
) throws(ConversionError) -> RolloutID {
    guard number > 0 else { throw outOfRange(0, 1, Int64.max, field) }
    return RolloutID(number)
}

func checkedUpdateDomain(
    _ number: UInt32, _ field: StaticString
) throws(ConversionError) -> UpdateDomain {
    guard let updateDomain = UpdateDomain(Int(number)) else {
        throw outOfRange(Int64(number), 0, Int64(Limits.updateDomainsMax - 1), field)
    }
    return updateDomain
}

func checkedUpdateDomainCount(
    _ number: UInt32, _ field: StaticString
) throws(ConversionError) -> Int {
    guard (1...Limits.updateDomainsMax).contains(Int(number)) else {
        throw outOfRange(Int64(number), 1, Int64(Limits.updateDomainsMax), field)
    }
    return Int(number)
}

func outOfRange(
    _ value: Int64, _ min: Int64, _ max: Int64, _ field: StaticString
) -> ConversionError {
    ConversionError(.outOfRange(value, min: min, max: max), field: "\(field)")
}

/// A text that decides something or is a path: a longer one is refused, because a cut one lies.
func checkedText(_ text: String, _ field: StaticString) throws(ConversionError) -> String {
    let byteCount = text.utf8.count
    guard byteCount <= Limits.reasonByteCountMax else {
        throw ConversionError(
            .tooLong(byteCount: byteCount, max: Limits.reasonByteCountMax), field: "\(field)")
    }
    return text
}

/// A text for people: a longer one is cut, because losing the message for it would be worse.
func cutText(_ text: String) -> String {
    guard text.utf8.count > Limits.reasonByteCountMax else { return text }
    var end = text.utf8.index(text.utf8.startIndex, offsetBy: Limits.reasonByteCountMax)
    end = text.unicodeScalars.index(before: text.unicodeScalars.index(after: end))
    return String(text[..<end])
}

/// A submessage that must be there.
func required<Wire, Value>(
    _ isPresent: Bool, _ message: Wire, _ field: StaticString,
    _ convert: (Wire) throws(ConversionError) -> Value
) throws(ConversionError) -> Value {
    guard isPresent else { throw ConversionError(.missing, field: "\(field)") }
    do { return try convert(message) } catch { throw error.within("\(field)") }
}

/// A submessage or scalar that may be absent.
func optional<Wire, Value>(
    _ isPresent: Bool, _ message: Wire, _ field: StaticString,
    _ convert: (Wire) throws(ConversionError) -> Value
) throws(ConversionError) -> Value? {
    guard isPresent else { return nil }
    do { return try convert(message) } catch { throw error.within("\(field)") }
}

func list<Wire, Value>(
    _ messages: [Wire], _ field: StaticString,
    _ convert: (Wire) throws(ConversionError) -> Value
) throws(ConversionError) -> [Value] {
    var values: [Value] = []
    values.reserveCapacity(messages.count)
    for (index, message) in messages.enumerated() {
        do { values.append(try convert(message)) } catch {
            throw error.within("\(field)[\(index)]")
        }
    }
    return values
}

/// An enum of the vocabulary that has a counterpart in the schema.
protocol WireEnum: CaseIterable {
    associatedtype Wire: SwiftProtobuf.Enum where Wire.RawValue == Int
    var wire: Wire { get }
}

extension WireEnum {
    /// - Throws: for 0 (unspecified) and for numbers of a later version.
    static func checked(_ wire: Wire, _ field: StaticString) throws(ConversionError) -> Self {
        for value in allCases where value.wire == wire { return value }
        throw ConversionError(.unknownValue(wire.rawValue), field: "\(field)")
    }
}
