/// A name that people give or read: of a host, a guest, an availability set, a release.
///
/// One to 63 characters of `[A-Za-z0-9._-]`, the first a letter or a digit, so that a name can
/// stand in a path, a certificate's URI and a command line without quoting.
public struct Identifier<Kind>: Hashable, Comparable, Sendable, CustomStringConvertible {
    public let rawValue: String

    /// - Returns: nil if `text` is not a valid name.
    public init?(_ text: String) {
        guard Self.isValid(text) else { return nil }
        rawValue = text
    }

    /// For names that have been checked already, such as those built from checked parts.
    public init(checked text: String) {
        precondition(Self.isValid(text), "invalid name: \(text)")
        rawValue = text
    }

    public static func isValid(_ text: String) -> Bool {
        let bytes = text.utf8
        guard let first = bytes.first, bytes.count <= Limits.nameByteCountMax else { return false }
        return isAlphanumeric(first)
            && bytes.allSatisfy {
                isAlphanumeric($0) || $0 == UInt8(ascii: "-") || $0 == UInt8(ascii: "_")
                    || $0 == UInt8(ascii: ".")
            }
    }

    public static func < (left: Self, right: Self) -> Bool { left.rawValue < right.rawValue }

    public var description: String { rawValue }
}

private func isAlphanumeric(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "a")...UInt8(ascii: "z"),
        UInt8(ascii: "A")...UInt8(ascii: "Z"):
        true
    default: false
    }
}

public enum HostKind: Sendable {}
public enum GuestKind: Sendable {}
public enum SetKind: Sendable {}
public enum ReleaseKind: Sendable {}
public enum NotifierKind: Sendable {}

public typealias HostID = Identifier<HostKind>
public typealias GuestID = Identifier<GuestKind>
/// The name of an availability set.
public typealias SetID = Identifier<SetKind>
public typealias ReleaseID = Identifier<ReleaseKind>
/// As its certificate names it.
public typealias NotifierID = Identifier<NotifierKind>

/// A rollout's number, from 1, given out by the leader. Written `rollout-7`.
public struct RolloutID: Hashable, Comparable, Sendable, CustomStringConvertible {
    public let number: UInt64
    public init(_ number: UInt64) { self.number = number }
    /// Reads `7` or `rollout-7`.
    public init?(parsing text: String) {
        let digits = text.hasPrefix("rollout-") ? text.dropFirst("rollout-".count) : text[...]
        guard let number = UInt64(digits), number > 0 else { return nil }
        self.number = number
    }
    public static func < (left: Self, right: Self) -> Bool { left.number < right.number }
    public var description: String { "rollout-\(number)" }
}

/// One step of a rollout: its rollout and its number there, from 1. Written `rollout-7.3`.
public struct StepID: Hashable, Comparable, Sendable, CustomStringConvertible {
    public let rollout: RolloutID
    public let number: UInt32
    public init(rollout: RolloutID, number: UInt32) {
        self.rollout = rollout
        self.number = number
    }
    /// Reads `7.3` or `rollout-7.3`.
    public init?(parsing text: String) {
        guard let dot = text.lastIndex(of: "."),
            let rollout = RolloutID(parsing: String(text[..<dot])),
            let number = UInt32(text[text.index(after: dot)...]), number > 0
        else { return nil }
        self.init(rollout: rollout, number: number)
    }
    public static func < (left: Self, right: Self) -> Bool {
        (left.rollout, left.number) < (right.rollout, right.number)
    }
    public var description: String { "\(rollout).\(number)" }
}

/// The number that fences a lock's holder. A later grant always has a higher one.
public struct Token: Hashable, Comparable, Sendable, CustomStringConvertible {
    public let number: UInt64
    public init(_ number: UInt64) { self.number = number }
    public static func < (left: Self, right: Self) -> Bool { left.number < right.number }
    public var description: String { "\(number)" }
}

/// One share of an availability set, numbered from 0.
public struct UpdateDomain: Hashable, Comparable, Sendable, CustomStringConvertible {
    public let number: Int
    /// - Returns: nil if `number` is not in 0 ..< ``Limits/updateDomainsMax``.
    public init?(_ number: Int) {
        guard number >= 0, number < Limits.updateDomainsMax else { return nil }
        self.number = number
    }
    public static func < (left: Self, right: Self) -> Bool { left.number < right.number }
    public var description: String { "UD\(number)" }
}

/// A moment on the wall clock of whoever wrote it, in microseconds since 1970 (UTC).
///
/// For people and records only: no decision compares two of them from different hosts.
public struct Timestamp: Hashable, Comparable, Sendable {
    public let microseconds: Int64
    public init(microseconds: Int64) { self.microseconds = microseconds }
    public static func < (left: Self, right: Self) -> Bool {
        left.microseconds < right.microseconds
    }
}
