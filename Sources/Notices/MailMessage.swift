import Fleet
import Presentation

/// A mail with a plain and an HTML part (RFC 5322, RFC 2046).
public enum MailMessage {
    /// Lines end in CR LF. Its Message-ID is the bulletin's own, so that a mail that comes twice can be
    /// known by it.
    public static func bytes(
        _ bulletin: Bulletin, subject: String, plain: String, html: String, settings: MailSettings
    ) -> [UInt8] {
        let domain = settings.from.split(separator: "@").last.map { String($0) } ?? "fermata"
        // Base64 has no such word in it.
        let boundary = "=_fermata"
        var lines = [
            "From: Fermata <\(settings.from)>",
            "To: \(settings.to.joined(separator: ", "))",
            "Subject: \(header(subject))",
            "Date: \(date(bulletin.at))",
            "Message-ID: <\(bulletin.id)@\(domain)>",
            "Auto-Submitted: auto-generated",
            "MIME-Version: 1.0",
            "Content-Type: multipart/alternative; boundary=\"\(boundary)\"",
            "",
        ]
        for (type, body) in [("plain", plain), ("html", html)] {
            lines += [
                "--\(boundary)", "Content-Type: text/\(type); charset=utf-8",
                "Content-Transfer-Encoding: base64", "",
            ]
            lines += base64Lines(Array(body.utf8))
            lines.append("")
        }
        lines += ["--\(boundary)--", ""]
        return Array(lines.joined(separator: "\r\n").utf8)
    }

    /// As it is if it is plain ASCII, else as an encoded word for each 30 bytes or so.
    static func header(_ text: String) -> String {
        let text = printable(text)
        if isPlain(text) { return text }
        var words: [String] = []
        var part = ""
        func end() {
            words.append("=?utf-8?B?\(base64Lines(Array(part.utf8)).joined())?=")
            part = ""
        }
        for character in text {
            if part.utf8.count + character.utf8.count > 40 { end() }
            part.append(character)
        }
        if !part.isEmpty { end() }
        return words.joined(separator: "\r\n ")
    }

    /// `Sat, 11 Apr 2026 22:27:46 +0000`.
    static func date(_ time: Timestamp) -> String {
        let text = time.rfc3339
        let parts = text.prefix(10).split(separator: "-").map { String($0) }
        let months = [
            "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
        ]
        let days = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"]
        let second = time.microseconds / 1_000_000 - (time.microseconds < 0 ? 1 : 0)
        let day = ((second / 86_400) % 7 + 7) % 7
        guard parts.count == 3, let month = Int(parts[1]), (1...12).contains(month) else {
            return ""
        }
        let clock = text.dropFirst(11).prefix(8)
        return "\(days[Int(day)]), \(parts[2]) \(months[month - 1]) \(parts[0]) \(clock) +0000"
    }
}

/// In lines of 76 characters.
func base64Lines(_ bytes: [UInt8]) -> [String] {
    let digits = Array(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)
    var output: [UInt8] = []
    var index = 0
    while index < bytes.count {
        let part = bytes[index..<min(index + 3, bytes.count)]
        var bits: UInt32 = 0
        for offset in 0..<3 {
            let at = index + offset
            bits = bits << 8 | (at < bytes.count ? UInt32(bytes[at]) : 0)
        }
        for place in 0..<4 {
            let digit = digits[Int(bits >> (18 - 6 * UInt32(place)) & 63)]
            output.append(place <= part.count ? digit : UInt8(ascii: "="))
        }
        index += 3
    }
    return stride(from: 0, to: output.count, by: 76).map {
        String(decoding: output[$0..<min($0 + 76, output.count)], as: UTF8.self)
    }
}
