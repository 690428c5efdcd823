/// An IPv4 or IPv6 address, by which a notifier knows which guest asks.
public struct IPAddress: Hashable, Comparable, Sendable, CustomStringConvertible {
    /// 4 or 16, the most significant first. An IPv4 address within IPv6 (`::ffff:…`) is 4.
    public let bytes: [UInt8]

    /// - Parameter bytes: 4 or 16.
    public init?(bytes: [UInt8]) {
        switch bytes.count {
        case 4: self.bytes = bytes
        case 16:
            let isMapped =
                bytes[..<10].allSatisfy { $0 == 0 } && bytes[10] == 255 && bytes[11] == 255
            self.bytes = isMapped ? Array(bytes[12...]) : bytes
        default: return nil
        }
    }

    /// Reads `10.0.0.5` or `fd00::5`, in either case, without a zone or a length.
    public init?(_ text: String) {
        guard let bytes = text.utf8.contains(UInt8(ascii: ":")) ? Self.v6(text) : Self.v4(text[...])
        else { return nil }
        self.init(bytes: bytes)
    }

    /// As RFC 5952 has it: `fd00::5`.
    public var description: String {
        if bytes.count == 4 { return bytes.map { "\($0)" }.joined(separator: ".") }
        let groups = (0..<8).map { Int(bytes[2 * $0]) << 8 | Int(bytes[2 * $0 + 1]) }
        var longest = 0..<0
        var start = 0
        while start < 8 {
            var end = start
            while end < 8, groups[end] == 0 { end += 1 }
            if end - start > max(1, longest.count) { longest = start..<end }
            start = max(end, start + 1)
        }
        let words = groups.map { String($0, radix: 16) }
        if longest.isEmpty { return words.joined(separator: ":") }
        return words[..<longest.lowerBound].joined(separator: ":") + "::"
            + words[longest.upperBound...].joined(separator: ":")
    }

    public static func < (left: Self, right: Self) -> Bool {
        (left.bytes.count, left.number.0, left.number.1)
            < (right.bytes.count, right.number.0, right.number.1)
    }

    private var number: (UInt64, UInt64) {
        let (high, low) = bytes.count == 4 ? (bytes[..<0], bytes[...]) : (bytes[..<8], bytes[8...])
        let value = { (bytes: ArraySlice<UInt8>) in bytes.reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        }
        return (value(high), value(low))
    }

    private static func v4(_ text: Substring) -> [UInt8]? {
        let parts = text.utf8.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false)
        guard parts.count == 4 else { return nil }
        var bytes: [UInt8] = []
        for part in parts {
            // A leading zero would be octal to some.
            guard (1...3).contains(part.count), part.allSatisfy({ (0x30...0x39).contains($0) }),
                part.count == 1 || part.first != 0x30, let byte = UInt8(String(Substring(part)))
            else { return nil }
            bytes.append(byte)
        }
        return bytes
    }

    private static func v6(_ text: String) -> [UInt8]? {
        let colon = UInt8(ascii: ":")
        let utf8 = Array(text.utf8)
        guard utf8.count <= 45 else { return nil }
        var gap: Int?
        for index in utf8.indices.dropLast() where utf8[index] == colon && utf8[index + 1] == colon
        {
            // A second one, or three colons.
            guard gap == nil else { return nil }
            gap = index
        }
        guard let gap else {
            guard let bytes = groups(utf8[...]), bytes.count == 16 else { return nil }
            return bytes
        }
        // An IPv4 address can only be at the end.
        guard !utf8[..<gap].contains(UInt8(ascii: ".")), let head = groups(utf8[..<gap]),
            let tail = groups(utf8[(gap + 2)...]),
            head.count + tail.count <= 14
        else { return nil }
        return head + [UInt8](repeating: 0, count: 16 - head.count - tail.count) + tail
    }

    /// What stands on one side of `::`; the last may be an IPv4 address.
    private static func groups(_ utf8: ArraySlice<UInt8>) -> [UInt8]? {
        guard !utf8.isEmpty else { return [] }
        let parts = utf8.split(separator: UInt8(ascii: ":"), omittingEmptySubsequences: false)
        var bytes: [UInt8] = []
        for (index, part) in parts.enumerated() {
            let text = String(decoding: part, as: UTF8.self)
            if part.contains(UInt8(ascii: ".")) {
                guard index == parts.count - 1, let four = v4(text[...]) else { return nil }
                bytes += four
                continue
            }
            guard (1...4).contains(part.count), text.allSatisfy({ $0.isASCII && $0.isHexDigit }),
                let number = UInt16(text, radix: 16)
            else { return nil }
            bytes += [UInt8(number >> 8), UInt8(truncatingIfNeeded: number)]
        }
        return bytes
    }
}
