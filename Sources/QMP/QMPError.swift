/// What can go wrong between Fermata and a monitor or a guest agent, apart from a command that was
/// refused in good form.
public enum QMPError: Error, Hashable, Sendable, CustomStringConvertible {
    /// Bytes that are no JSON; `offset` is the byte within the value, from 0.
    case json(JSONProblem, offset: Int)
    /// A line that does not end within the limit.
    case lineTooLong(byteCountMax: Int)
    /// A well-formed message that has no place here, with its beginning.
    case unexpectedMessage(during: String, message: String)
    /// A reply to a command that was never sent or has been answered.
    case unknownReply(id: CommandID)
    /// The other side could not read what we sent.
    case notUnderstood(CommandError)
    /// The monitor would not leave its negotiation mode.
    case negotiationRefused(CommandError)
    /// A guest agent that sent this much without the reply that was waited for.
    case floodedWithoutReply(byteCountMax: Int)

    public var description: String {
        switch self {
        case .json(let problem, let offset): "invalid JSON at byte \(offset): \(problem)"
        case .lineTooLong(let byteCountMax): "a line is longer than \(byteCountMax) bytes"
        case .unexpectedMessage(let state, let message):
            "unexpected message while \(state): \(message)"
        case .unknownReply(let id): "reply to command \(id), which is not outstanding"
        case .notUnderstood(let error): "a command was not understood: \(error)"
        case .negotiationRefused(let error): "qmp_capabilities was refused: \(error)"
        case .floodedWithoutReply(let byteCountMax):
            "more than \(byteCountMax) bytes without the reply that was waited for"
        }
    }
}

/// Why bytes are no JSON that we take.
public enum JSONProblem: Hashable, Sendable, CustomStringConvertible {
    case endOfInput
    case tooLong(byteCountMax: Int)
    case tooDeep(depthMax: Int)
    case unexpectedByte(UInt8)
    case trailingBytes
    case invalidUTF8
    case invalidEscape
    /// A surrogate that is not one of a pair.
    case loneSurrogate
    case invalidNumber
    /// Beyond what a `Double` holds.
    case numberTooLarge
    case repeatedKey(String)

    public var description: String {
        switch self {
        case .endOfInput: "it ends too early"
        case .tooLong(let byteCountMax): "longer than \(byteCountMax) bytes"
        case .tooDeep(let depthMax): "nested deeper than \(depthMax)"
        case .unexpectedByte(let byte): "unexpected byte 0x\(String(byte, radix: 16))"
        case .trailingBytes: "bytes after the value"
        case .invalidUTF8: "invalid UTF-8"
        case .invalidEscape: "invalid escape"
        case .loneSurrogate: "a surrogate without its partner"
        case .invalidNumber: "invalid number"
        case .numberTooLarge: "a number too large"
        case .repeatedKey(let key): "key \(key.debugDescription) is repeated"
        }
    }
}

/// A command's refusal, as QEMU or the guest agent words it.
public struct CommandError: Error, Hashable, Sendable, CustomStringConvertible {
    /// QEMU's class, such as `GenericError`, `CommandNotFound`, `DeviceNotFound`.
    public var errorClass: String
    /// QEMU's own sentence; for people only.
    public var text: String
    public init(errorClass: String, text: String) {
        self.errorClass = errorClass
        self.text = text
    }

    /// Reads the object below `error` in a reply; says so if it has not the shape QEMU documents.
    ///
    /// What a guest's agent says ends up in logs and reports: without line feeds and other control
    /// characters, and not longer than a sentence is.
    init(_ value: JSON) {
        errorClass = value["class"]?.string.map(oneLine) ?? "unknown class"
        text = value["desc"]?.string.map(oneLine) ?? "no description"
    }

    public var description: String { "\(errorClass): \(text)" }
}

/// The limits of this module, each with its reason.
public enum QMPLimits {
    /// Replies that we ask for have a few kilobytes; QEMU's largest (its schema) has 250 kB.
    public static let monitorLineByteCountMax = 1024 * 1024
    /// A guest is not trusted, and no reply that we ask for has more than a few hundred bytes.
    public static let guestAgentLineByteCountMax = 64 * 1024
    /// Old replies that are thrown away while looking for the sentinel.
    public static let guestAgentDrainByteCountMax = 1024 * 1024
    /// QEMU's own replies nest less than 10 deep; keeps recursion far from the end of a stack.
    public static let jsonDepthMax = 64
    /// Code points of an error's text that are kept: QEMU's longest sentences have some 300.
    static let errorTextCountMax = 1_000
    /// How much of a message an error shows.
    static let excerptByteCountMax = 200
}

/// Number of a command within its session, from 1.
public struct CommandID: Hashable, Comparable, Sendable, CustomStringConvertible {
    public let number: Int64
    public init(_ number: Int64) { self.number = number }
    public static func < (left: Self, right: Self) -> Bool { left.number < right.number }
    public var description: String { "\(number)" }
}

/// The beginning of a peer's text, with control characters replaced.
func oneLine(_ text: String) -> String {
    var shown = String.UnicodeScalarView()
    for scalar in text.unicodeScalars.prefix(QMPLimits.errorTextCountMax) {
        let isControl = scalar.value < 0x20 || (0x7F...0x9F).contains(scalar.value)
        shown.append(isControl || scalar.properties.isDefaultIgnorableCodePoint ? "." : scalar)
    }
    return text.unicodeScalars.count > shown.count ? String(shown) + "…" : String(shown)
}

/// The beginning of `bytes` for an error message, with anything unprintable replaced.
func excerpt(_ bytes: [UInt8]) -> String {
    let shown = bytes.prefix(QMPLimits.excerptByteCountMax).map { byte in
        byte >= 0x20 && byte < 0x7F ? byte : UInt8(ascii: ".")
    }
    let text = String(decoding: shown, as: UTF8.self)
    return bytes.count > shown.count ? text + "…" : text
}
