import Fleet
package import Presentation

/// The forms in which a bulletin can be told.
public enum BulletinFormat: String, Hashable, Sendable, CaseIterable {
    /// Our own JSON; the default.
    case json
    /// CloudEvents 1.0, structured: one JSON document around our own JSON.
    case cloudEvent
    /// CloudEvents 1.0, binary: attributes in `ce-` headers, our own JSON as the body.
    case cloudEventBinary
    /// A CloudEvent in the field layout of the largest cloud's resource health annotations.
    case resourceHealth
    /// A CloudEvent in the layout of that cloud's availability-status changes.
    case availabilityStatus
    case text
    case markdown
    case html

    /// What a sink in this form is told of unless its filter says otherwise. The two of the cloud tell of
    /// changes: one that is not told of the beginning never hears that a guest is unavailable.
    public var usualStates: [Bulletin.State] {
        switch self {
        case .resourceHealth, .availabilityStatus: [.started, .succeeded, .failed, .cancelled]
        default: [.succeeded, .failed]
        }
    }

    /// Whether there is anything to say of a bulletin in this form: the two of the cloud have names
    /// for some of our states only.
    public func tells(of bulletin: Bulletin) -> Bool {
        switch self {
        case .resourceHealth: ResourceHealth(bulletin) != nil
        case .availabilityStatus: AvailabilityChange(bulletin) != nil
        default: true
        }
    }
}

/// A bulletin as bytes, ready for a sink.
public struct RenderedBulletin: Hashable, Sendable {
    /// Of the body, with its charset.
    public var contentType: String
    /// What a request carries besides `Content-Type`; for other sinks without meaning.
    public var headers: [Header]
    public var body: [UInt8]

    public struct Header: Hashable, Sendable {
        public var name: String
        /// Visible ASCII only.
        public var value: String
        public init(name: String, value: String) {
            self.name = name
            self.value = value
        }
    }

    public init(contentType: String, headers: [Header] = [], body: String) {
        self.contentType = contentType
        self.headers = headers
        self.body = Array(body.utf8)
    }
}

/// Turns bulletins into what sinks send. The same bulletin always becomes the same bytes.
public struct BulletinRenderer: Sendable {
    public var cluster: String
    private let templates: BulletinTemplates

    /// - Parameter cluster: names the source of what is told.
    public init(cluster: String, templates: BulletinTemplates = .builtIn) {
        self.cluster = cluster
        self.templates = templates
    }

    /// - Returns: nil if the format does not tell of such a bulletin:
    ///   ``BulletinFormat/tells(of:)``.
    public func render(_ bulletin: Bulletin, as format: BulletinFormat) -> RenderedBulletin? {
        let words = BulletinWords(bulletin)
        func fields(_ escaping: ValueEscaping) -> TemplateFields {
            TemplateFields(bulletin, words: words, cluster: cluster, escaping: escaping)
        }
        func rendered(
            _ contentType: String, _ body: String, headers: [RenderedBulletin.Header] = []
        ) -> RenderedBulletin {
            RenderedBulletin(contentType: contentType, headers: headers, body: body)
        }
        func text() -> String { oneLine(templates.render(.text, fields(.none))) }
        func data() -> JSON { bulletin.json(text: text()) }
        switch format {
        case .json: return rendered(jsonType, data().compact)
        case .cloudEvent:
            let event = CloudEvent(bulletin, cluster: cluster)
            return rendered(CloudEvent.contentType, event.structured(data: data()).compact)
        case .cloudEventBinary:
            let event = CloudEvent(bulletin, cluster: cluster)
            return rendered(jsonType, data().compact, headers: event.headers)
        case .resourceHealth:
            guard let health = ResourceHealth(bulletin) else { return nil }
            let json = health.json(bulletin, cluster: cluster, summary: text())
            return rendered(CloudEvent.contentType, json.compact)
        case .availabilityStatus:
            guard let change = AvailabilityChange(bulletin) else { return nil }
            let json = change.json(bulletin, cluster: cluster)
            return rendered(CloudEvent.contentType, json.compact)
        case .text:
            return rendered("text/plain; charset=utf-8", templates.render(.text, fields(.none)))
        case .markdown:
            return rendered(
                "text/markdown; charset=utf-8", templates.render(.markdown, fields(.markdown)))
        case .html:
            return rendered("text/html; charset=utf-8", templates.render(.html, fields(.html)))
        }
    }

    /// The record of a finished hold, as it is listed.
    ///
    /// - Precondition: `bulletin` is of one.
    package func json(annotation bulletin: Bulletin) -> JSON {
        guard let annotation = bulletin.annotation else {
            preconditionFailure("\(bulletin.id) is no annotation")
        }
        return annotation.json(text: oneLine(text(bulletin)))
    }

    /// One line, for an e-mail or a title. UTF-8, not encoded for a mail header.
    public func subject(_ bulletin: Bulletin) -> String {
        let fields = TemplateFields(
            bulletin, words: BulletinWords(bulletin), cluster: cluster, escaping: .none)
        // A template may have broken the line; a header must not.
        return oneLine(templates.render(.subject, fields))
    }

    private var jsonType: String { "application/json; charset=utf-8" }
}

/// Every run of white space becomes one space, and what steers a terminal goes.
private func oneLine(_ text: String) -> String {
    // Plain ASCII, as nearly always, without a look at properties of characters.
    var bytes: [UInt8] = []
    bytes.reserveCapacity(text.utf8.count)
    let isPlain = text.utf8.allSatisfy { byte in
        switch byte {
        case 0x21...0x7E: bytes.append(byte)
        case 0x20, 0x09...0x0D: if let last = bytes.last, last != 0x20 { bytes.append(0x20) }
        default: return false
        }
        return true
    }
    if isPlain {
        if bytes.last == 0x20 { bytes.removeLast() }
        return String(decoding: bytes, as: UTF8.self)
    }
    return printable(text.split(whereSeparator: \.isWhitespace).joined(separator: " "))
}
