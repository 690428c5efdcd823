// Readers of single words. Each returns nil for what it does not take; the advice is the caller's.

/// `text` for a message: in back quotes, on one line and not too long.
func quoted(_ text: String) -> String {
    var shown = String.UnicodeScalarView()
    var count = 0
    for scalar in text.unicodeScalars {
        guard count < 60 else {
            shown.append("…")
            break
        }
        shown.append(scalar.value < 0x20 ? " " : scalar)
        count += 1
    }
    return "`\(String(shown))`"
}

enum Words {
    /// Digits only, without a sign or a leading zero.
    static func unsigned(_ text: some StringProtocol) -> UInt64? {
        let digits = text.utf8
        guard !digits.isEmpty, digits.allSatisfy({ (0x30...0x39).contains($0) }),
            digits.count == 1 || digits.first != 0x30
        else { return nil }
        return UInt64(text)
    }

    /// As ``unsigned(_:)``, with a sign allowed.
    static func integer(_ text: String) -> Int64? {
        guard text.hasPrefix("-") else { return unsigned(text).flatMap { Int64(exactly: $0) } }
        return unsigned(text.dropFirst()).flatMap { Int64(exactly: $0) }.map { -$0 }
    }

    static let sizeUnits: [(String, UInt64)] = [
        ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40), ("", 1),
    ]

    /// Bytes, such as `268435456` or `256MiB`.
    static func size(_ text: String) -> UInt64? {
        for (unit, factor) in sizeUnits where text.hasSuffix(unit) {
            guard let number = unsigned(text.dropLast(unit.utf8.count)) else { continue }
            let (bytes, overflow) = number.multipliedReportingOverflow(by: factor)
            return overflow ? nil : bytes
        }
        return nil
    }

    /// What was probably meant by a size in another unit, such as `256M` or `256 mb`.
    static func sizeMeant(_ text: String) -> String? {
        let digits = text.prefix { $0.isASCII && $0.isNumber }
        let unit = text.dropFirst(digits.count).filter { $0 != " " }.lowercased()
        guard unsigned(digits) != nil else { return nil }
        return switch unit {
        case "k", "kb", "kib": "\(digits)KiB"
        case "m", "mb", "mib": "\(digits)MiB"
        case "g", "gb", "gib": "\(digits)GiB"
        case "t", "tb", "tib": "\(digits)TiB"
        default: nil
        }
    }

    /// `5s` or `300ms`, a day at most.
    static func duration(_ text: String) -> Duration? {
        let milliseconds: UInt64?
        if text.hasSuffix("ms") {
            milliseconds = unsigned(text.dropLast(2))
        } else if text.hasSuffix("s") {
            milliseconds = unsigned(text.dropLast()).flatMap { $0 > 86_400 ? nil : $0 * 1_000 }
        } else {
            milliseconds = nil
        }
        guard let milliseconds, milliseconds <= 86_400_000 else { return nil }
        return .milliseconds(Int64(milliseconds))
    }

    static func port(_ text: some StringProtocol) -> UInt16? {
        guard let number = unsigned(text), number > 0 else { return nil }
        return UInt16(exactly: number)
    }

    /// Four decimal numbers with dots between.
    static func isIPv4(_ text: some StringProtocol) -> Bool {
        let parts = text.split(separator: ".", omittingEmptySubsequences: false)
        return parts.count == 4 && parts.allSatisfy { unsigned($0).map { $0 <= 255 } ?? false }
    }

    /// As RFC 4291 section 2.2 writes it, without a zone.
    static func isIPv6(_ text: some StringProtocol) -> Bool {
        var groups = text.split(separator: ":", omittingEmptySubsequences: false)
        guard groups.count >= 3 else { return false }
        var count = groups.count
        // `::` shows as an empty group, or two at either end.
        if groups.first?.isEmpty == true {
            guard groups[1].isEmpty else { return false }
            groups.removeFirst()
            count -= 1
        }
        if groups.last?.isEmpty == true {
            guard groups[groups.count - 2].isEmpty else { return false }
            groups.removeLast()
            count -= 1
        }
        let gapCount = groups.filter(\.isEmpty).count
        guard gapCount <= 1 else { return false }
        if let last = groups.last, last.contains(".") {
            guard isIPv4(last) else { return false }
            groups.removeLast()
            count += 1
        }
        guard gapCount == 1 ? count - 1 <= 7 : count == 8 else { return false }
        return groups.allSatisfy { group in
            group.utf8.count <= 4 && group.allSatisfy { $0.isASCII && $0.isHexDigit }
        }
    }

    /// `1.2.3.4:99` or `[::1]:99`.
    static func isAddressAndPort(_ text: String) -> Bool {
        guard let colon = text.lastIndex(of: ":"), port(text[text.index(after: colon)...]) != nil
        else { return false }
        let address = text[..<colon]
        if address.hasPrefix("["), address.hasSuffix("]"), address.utf8.count > 2 {
            return isIPv6(address.dropFirst().dropLast())
        }
        return isIPv4(address)
    }

    /// `[HOSTADDRESS]:PORT-[GUESTADDRESS]:PORT`.
    static func portForward(_ text: String) -> PortForward? {
        let sides = text.split(separator: "-", omittingEmptySubsequences: false)
        guard sides.count == 2, let host = addressAndPort(sides[0]),
            let guest = addressAndPort(sides[1])
        else { return nil }
        return PortForward(
            hostAddress: host.address, hostPort: host.port, guestAddress: guest.address,
            guestPort: guest.port)
    }

    private static func addressAndPort(_ text: Substring) -> (address: String, port: UInt16)? {
        let parts = text.split(separator: ":", omittingEmptySubsequences: false)
        guard parts.count == 2, let port = port(parts[1]), parts[0].isEmpty || isIPv4(parts[0])
        else { return nil }
        return (String(parts[0]), port)
    }

    /// What the kernel takes as the name of a network interface, and QEMU as part of an option.
    static func isInterfaceName(_ text: String) -> Bool {
        (1...15).contains(text.utf8.count) && text != "." && text != ".."
            && text.utf8.allSatisfy { byte in
                byte > 0x20 && byte < 0x7F && byte != UInt8(ascii: "/")
                    && byte != UInt8(ascii: ":") && byte != UInt8(ascii: ",")
                    && byte != UInt8(ascii: "%")
            }
    }

    private static let synonyms = [
        "name": "id", "cpus": "vcpus", "ram": "memory", "availabilityset": "set",
        "ud": "updateDomain", "append": "commandLine", "cmdline": "commandLine",
        "bios": "firmware", "networks": "nics", "interfaces": "nics", "args": "arguments",
        "file": "path", "ro": "readOnly", "sets": "availabilitySets",
        "addr": "tcp", "address": "tcp", "qemu": "hypervisor", "accel": "accelerator",
    ]

    /// The one of `known` that was probably meant by `text`.
    static func suggestion(for text: String, among known: [String]) -> String? {
        let text = text.lowercased()
        if let synonym = synonyms[text], known.contains(synonym) { return synonym }
        guard text.utf8.count <= 40 else { return nil }
        let best = known.map { (distance(text, $0.lowercased()), $0) }.min { $0.0 < $1.0 }
        guard let best, best.0 <= max(1, best.1.utf8.count / 3) else { return nil }
        return best.1
    }

    /// Bytes to change, remove, add, or swap with their neighbour to make one text of the other.
    static func distance(_ left: String, _ right: String) -> Int {
        let left = Array(left.utf8)
        let right = Array(right.utf8)
        // Rows of the table: that of the byte before, the one before that, and the next.
        var above = Array(0...right.count)
        var twoAbove = above
        var row = above
        for i in 0..<left.count {
            row[0] = i + 1
            for j in 0..<right.count {
                var best = min(above[j] + (left[i] == right[j] ? 0 : 1), above[j + 1] + 1)
                best = min(best, row[j] + 1)
                if i > 0, j > 0, left[i] == right[j - 1], left[i - 1] == right[j] {
                    best = min(best, twoAbove[j - 1] + 1)
                }
                row[j + 1] = best
            }
            (twoAbove, above, row) = (above, row, twoAbove)
        }
        return above[right.count]
    }
}
