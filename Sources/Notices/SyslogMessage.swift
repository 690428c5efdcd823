import Fleet
import Presentation

/// A message as RFC 5424 has it, with what the bulletin says as structured data.
public enum SyslogMessage {
    /// `<30>1 2026-04-11T22:27:46.123456Z host fermata - ID [fermata@0 guest="db-0" …] TEXT`
    ///
    /// - Parameter hostname: of this machine, printable and without spaces.
    public static func bytes(
        _ bulletin: Bulletin, text: String, facility: Int, hostname: String
    ) -> [UInt8] {
        let priority = facility * 8 + severity(bulletin)
        let data = fields(bulletin).map { " \($0.0)=\"\(quoted($0.1))\"" }.joined()
        let name = hostname.isEmpty ? "-" : hostname
        // Its text is UTF-8, which the mark in front of it says.
        return Array(
            "<\(priority)>1 \(bulletin.at.rfc3339) \(name) fermata - \(bulletin.state.rawValue) "
                .utf8)
            + Array("[fermata@32473\(data)] ".utf8) + [0xEF, 0xBB, 0xBF]
            + Array(printable(text).utf8)
    }

    /// In a stream: its length, a space, the message (RFC 6587, octet counting).
    public static func framed(_ message: [UInt8]) -> [UInt8] {
        Array("\(message.count) ".utf8) + message
    }

    /// 3 error, 4 warning, 5 notice, 6 information.
    static func severity(_ bulletin: Bulletin) -> Int {
        switch bulletin.state {
        case .noticed, .started: return 6
        case .succeeded: return 5
        case .cancelled: return 5
        case .failed: return bulletin.annotation?.record.outcome == .lost ? 3 : 4
        }
    }

    static func fields(_ bulletin: Bulletin) -> [(String, String)] {
        var fields = [
            ("id", bulletin.id), ("state", bulletin.state.rawValue),
            ("guest", bulletin.guest.rawValue), ("host", bulletin.host.rawValue),
            ("step", bulletin.step.description), ("release", bulletin.release.rawValue),
            ("component", bulletin.component.description), ("version", bulletin.version),
        ]
        if let pair = bulletin.pair {
            fields.append(("set", pair.set.rawValue))
            fields.append(("updateDomain", "\(pair.updateDomain.number)"))
        }
        if let length = bulletin.annotation?.record.holdMicroseconds {
            fields.append(("holdMicroseconds", "\(length)"))
        }
        return fields
    }

    private static func quoted(_ value: String) -> String {
        printable(value).reduce(into: "") { text, character in
            if character == "\"" || character == "\\" || character == "]" { text.append("\\") }
            text.append(character)
        }
    }
}
