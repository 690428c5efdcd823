/// An IPv4 or IPv6 address as bits, so that one address has one value however it is written. An IPv4
/// address in IPv6's clothes (`::ffff:10.0.0.1`) is the IPv4 address.
public struct NetworkAddress: Hashable, Sendable {
    /// The first and the last eight bytes, in network order.
    let high: UInt64
    let low: UInt64

    /// - Parameter text: numeric; a zone (`fe80::1%eth0`) is left out of account.
    /// - Returns: nil unless `text` is an address.
    public init?(_ text: some StringProtocol) {
        let address = text.split(separator: "%", maxSplits: 1, omittingEmptySubsequences: false)[0]
        if !address.contains(":") {
            guard let v4 = Self.parseV4(address) else { return nil }
            self.init(v4: v4)
            return
        }
        guard let groups = Self.parseV6(address) else { return nil }
        func join(_ range: Range<Int>) -> UInt64 {
            groups[range].reduce(0) { $0 << 16 | UInt64($1) }
        }
        self.init(high: join(0..<4), low: join(4..<8))
    }

    private init(high: UInt64, low: UInt64) {
        self.high = high
        self.low = low
    }

    private init(v4: UInt32) { self.init(high: 0, low: 0xffff_0000_0000 | UInt64(v4)) }

    /// Four decimal numbers, none with a leading zero: `010` is 8 to some and 10 to others.
    private static func parseV4(_ text: some StringProtocol) -> UInt32? {
        let parts = text.split(separator: ".", omittingEmptySubsequences: false)
        guard parts.count == 4 else { return nil }
        var value: UInt32 = 0
        for part in parts {
            guard (1...3).contains(part.utf8.count),
                part.utf8.allSatisfy({ $0 >= UInt8(ascii: "0") && $0 <= UInt8(ascii: "9") }),
                part == "0" || !part.hasPrefix("0"), let byte = UInt8(part)
            else { return nil }
            value = value << 8 | UInt32(byte)
        }
        return value
    }

    private static func parseV6(_ text: some StringProtocol) -> [UInt16]? {
        guard let gap = firstDoubleColon(text) else {
            let groups = parseGroups(text[...])
            return groups?.count == 8 ? groups : nil
        }
        let after = text.index(gap, offsetBy: 2)
        guard let head = parseGroups(text[..<gap]), let tail = parseGroups(text[after...]),
            head.count + tail.count <= 7
        else { return nil }
        return head + [UInt16](repeating: 0, count: 8 - head.count - tail.count) + tail
    }

    private static func firstDoubleColon<Text: StringProtocol>(_ text: Text) -> Text.Index? {
        var previous: Text.Index?
        for index in text.indices {
            if text[index] == ":", let previous, text[previous] == ":" { return previous }
            previous = index
        }
        return nil
    }

    /// Groups between colons, the last of which may be an IPv4 address; none for an empty text.
    private static func parseGroups(_ text: some StringProtocol) -> [UInt16]? {
        guard !text.isEmpty else { return [] }
        var groups: [UInt16] = []
        let parts = text.split(separator: ":", omittingEmptySubsequences: false)
        for (index, part) in parts.enumerated() {
            if index == parts.count - 1, part.contains(".") {
                guard let v4 = parseV4(part) else { return nil }
                groups += [UInt16(v4 >> 16), UInt16(v4 & 0xffff)]
                continue
            }
            guard (1...4).contains(part.utf8.count), part.utf8.first != UInt8(ascii: "+"),
                let group = UInt16(part, radix: 16)
            else { return nil }
            groups.append(group)
        }
        return groups.count <= 8 ? groups : nil
    }
}
