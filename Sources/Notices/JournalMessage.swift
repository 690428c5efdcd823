import Fleet

/// One entry in the journal's native protocol: a datagram of fields.
///
/// - Source: systemd's JOURNAL_NATIVE_PROTOCOL.
public enum JournalMessage {
    public static let socketDefault = "/run/systemd/journal/socket"

    public static func bytes(_ bulletin: Bulletin, text: String) -> [UInt8] {
        var fields = [
            ("MESSAGE", text), ("PRIORITY", "\(SyslogMessage.severity(bulletin))"),
            ("SYSLOG_IDENTIFIER", "fermata"),
        ]
        for (name, value) in SyslogMessage.fields(bulletin) {
            fields.append(("FERMATA_\(upper(name))", value))
        }
        return fields.flatMap { field($0.0, $0.1) }
    }

    /// `holdMicroseconds` becomes `HOLD_MICROSECONDS`.
    private static func upper(_ name: String) -> String {
        name.reduce(into: "") { text, character in
            if character.isUppercase { text.append("_") }
            text += character.uppercased()
        }
    }

    private static func field(_ name: String, _ value: String) -> [UInt8] {
        let bytes = Array(value.utf8)
        guard bytes.contains(UInt8(ascii: "\n")) else {
            return Array("\(name)=".utf8) + bytes + [UInt8(ascii: "\n")]
        }
        let length = (0..<8).map { UInt8(truncatingIfNeeded: bytes.count >> ($0 * 8)) }
        return Array("\(name)\n".utf8) + length + bytes + [UInt8(ascii: "\n")]
    }
}
