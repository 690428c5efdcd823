// What an authority has issued: `index.txt` beside ca.key, one line for each certificate.
//
//   fermata-index 1 LISTNUMBER
//   SERIAL URI FROM UNTIL REVOKED REASON
//
// Times are as 2026-11-23T23:05:55Z; REVOKED and REASON are `-` while the certificate is good.
// LISTNUMBER is that of the newest crl.pem, so that a lost list is made anew with a higher one.

import Glibc

/// One certificate of an authority's index.
public struct IssuedEntry: Hashable, Sendable {
    /// Lower-case hexadecimal digits, two a byte.
    public var serialHex: String
    /// `fermata://CLUSTER/ROLE/NAME`
    public var uri: String
    public var notBeforeUnixSeconds: Int64
    public var notAfterUnixSeconds: Int64
    public var revocation: Revocation?

    public struct Revocation: Hashable, Sendable {
        public var atUnixSeconds: Int64
        public var reason: RevocationReason
    }
}

struct IssuedIndex: Hashable {
    static let name = "index.txt"
    private static let format = "fermata-index 1"

    var listNumber: UInt64 = 0
    /// In the order of issue.
    var entries: [IssuedEntry] = []

    var text: String {
        var text = "\(Self.format) \(listNumber)\n"
        for entry in entries {
            let revoked =
                entry.revocation.map { "\(formatUTC($0.atUnixSeconds)) \($0.reason.rawValue)" }
                ?? "- -"
            text += "\(entry.serialHex) \(entry.uri) \(formatUTC(entry.notBeforeUnixSeconds)) "
            text += "\(formatUTC(entry.notAfterUnixSeconds)) \(revoked)\n"
        }
        return text
    }

    /// - Throws: the number of the line that is wrong, from 1.
    init(_ text: String) throws(Malformed) {
        var lines = text.split(separator: "\n", omittingEmptySubsequences: false)[...]
        let first = lines.popFirst() ?? ""
        guard first.hasPrefix(Self.format + " "), lines.last == "",
            let number = UInt64(first.dropFirst(Self.format.count + 1))
        else { throw Malformed(line: 1) }
        listNumber = number
        for (offset, line) in lines.dropLast().enumerated() {
            guard let entry = IssuedEntry(line: line) else { throw Malformed(line: offset + 2) }
            entries.append(entry)
        }
    }

    init() {}

    struct Malformed: Error, Hashable { var line: Int }

    /// The index of an authority; empty if there is none yet, as of one that an older Fermata made.
    static func read(directory: String) throws(TLSError) -> IssuedIndex {
        let path = "\(directory)/\(name)"
        let bytes: [UInt8]
        do {
            bytes = try Files.read(
                path: path, byteCountMax: AuthorityDirectory.fileByteCountMax)
        } catch {
            if error.code == -ENOENT { return IssuedIndex() }
            throw .fileUnreadable(error)
        }
        do {
            return try IssuedIndex(String(decoding: bytes, as: UTF8.self))
        } catch {
            throw .fileInvalid(
                path: path, reason: "line \(error.line) is not one of an index: put back a copy")
        }
    }

    var change: AuthorityDirectory.Change {
        AuthorityDirectory.Change(path: Self.name, mode: 0o644, bytes: Array(text.utf8))
    }
}

extension IssuedEntry {
    init(_ certificate: Certificate) {
        // What others have issued may have any name; a line has words of plain letters.
        let uri = certificate.uriNames.first.unicodeScalars.map {
            (0x21...0x7E).contains($0.value) ? String($0) : "?"
        }.joined()
        self.init(
            serialHex: certificate.serialHex, uri: uri.isEmpty ? "-" : uri,
            notBeforeUnixSeconds: certificate.notBefore, notAfterUnixSeconds: certificate.notAfter)
    }

    fileprivate init?(line: Substring) {
        let words = line.split(separator: " ", omittingEmptySubsequences: false)
        guard words.count == 6, bytes(ofHex: String(words[0])) != nil, !words[1].isEmpty,
            let from = parseUTC(words[2]), let until = parseUTC(words[3])
        else { return nil }
        self.init(
            serialHex: String(words[0]), uri: String(words[1]), notBeforeUnixSeconds: from,
            notAfterUnixSeconds: until)
        guard words[4] != "-" || words[5] != "-" else { return }
        guard let at = parseUTC(words[4]), let reason = RevocationReason(rawValue: String(words[5]))
        else { return nil }
        revocation = Revocation(atUnixSeconds: at, reason: reason)
    }
}

/// `2026-11-23T23:05:55Z`
public func formatUTC(_ unixSeconds: Int64) -> String {
    var seconds = time_t(unixSeconds)
    var parts = tm()
    gmtime_r(&seconds, &parts)
    var text = [CChar](repeating: 0, count: 32)
    strftime(&text, text.count, "%Y-%m-%dT%H:%M:%SZ", &parts)
    return String(decoding: text.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
}

/// The reverse of ``formatUTC(_:)``; nil for anything else.
func parseUTC(_ text: some StringProtocol) -> Int64? {
    let numbers = text.split { "-T:Z".contains($0) }.compactMap { Int32($0) }
    guard numbers.count == 6 else { return nil }
    var parts = tm()
    parts.tm_year = numbers[0] - 1_900
    parts.tm_mon = numbers[1] - 1
    parts.tm_mday = numbers[2]
    parts.tm_hour = numbers[3]
    parts.tm_min = numbers[4]
    parts.tm_sec = numbers[5]
    let seconds = Int64(timegm(&parts))
    return formatUTC(seconds) == String(text) ? seconds : nil
}
