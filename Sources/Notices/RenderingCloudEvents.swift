// CloudEvents 1.0: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md, its JSON
// format and its HTTP binding.
//
// `type` is `fermata.hold.STATE`. The specification recommends a reverse domain name in front of it
// so that nobody else defines the same word; this project has no domain, and one that is not ours would
// say something untrue, so the product's name stands there. `source` is the cluster's URI, as in the
// certificates; `source` and `id` together name an event for ever.

import Fleet
import Presentation

/// The attributes of a bulletin's event.
struct CloudEvent {
    static let contentType = "application/cloudevents+json; charset=utf-8"

    /// In the order in which they are written; all are strings.
    var attributes: [(name: String, value: String)]

    init(_ bulletin: Bulletin, cluster: String) {
        attributes = [
            ("specversion", "1.0"),
            ("id", bulletin.id),
            ("source", "fermata://\(cluster)"),
            ("type", "fermata.hold.\(bulletin.state.rawValue)"),
            ("subject", bulletin.guest.rawValue),
            ("time", bulletin.at.rfc3339),
            // The extension `sequence`: compared as text, so all are as long.
            ("sequence", paddedSequence(bulletin.sequence)),
        ]
    }

    func structured(data: JSON) -> JSON {
        .object(
            attributes.map { JSON.Member($0.name, .string($0.value)) } + [
                JSON.Member("datacontenttype", "application/json"), JSON.Member("data", data),
            ])
    }

    var headers: [RenderedBulletin.Header] {
        attributes.map {
            RenderedBulletin.Header(name: "ce-\($0.name)", value: percentEncoded($0.value))
        }
    }
}

/// Twenty digits: as many as the largest sequence has.
private func paddedSequence(_ sequence: UInt64) -> String {
    let digits = "\(sequence)"
    return String(repeating: "0", count: 20 - digits.utf8.count) + digits
}

/// An attribute's value as a header's: space, `"`, `%` and what is not visible ASCII is
/// percent-encoded, byte by byte.
///
/// - Source: CloudEvents HTTP Protocol Binding 1.0.2, section 3.1.3.2.
func percentEncoded(_ text: String) -> String {
    var output = ""
    for byte in text.utf8 {
        let isPlain =
            (0x21...0x7E).contains(byte) && byte != UInt8(ascii: "\"") && byte != UInt8(ascii: "%")
        if isPlain {
            output.unicodeScalars.append(Unicode.Scalar(byte))
        } else {
            output += "%" + hexText([byte]).uppercased()
        }
    }
    return output
}
