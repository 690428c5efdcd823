import Fleet
import Presentation

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
    /// One line, for an e-mail or a title. UTF-8, not encoded for a mail header.
    public var subject: String

    public struct Header: Hashable, Sendable {
        public var name: String
        /// Visible ASCII only.
        public var value: String
        public init(name: String, value: String) {
            self.name = name
            self.value = value
        }
    }

    public init(contentType: String, headers: [Header] = [], body: String, subject: String) {
        self.contentType = contentType
        self.headers = headers
        self.body = Array(body.utf8)
        self.subject = subject
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
        func fields(_ escaping: ValueEscaping) -> [String: Any] {
            templateFields(of: bulletin, words: words, cluster: cluster, escaping: escaping)
        }
        let plain = fields(.none)
        // A template may have broken the line; a header must not.
        let subject = oneLine(templates.render(.subject, plain))
        func rendered(
            _ contentType: String, _ body: String, headers: [RenderedBulletin.Header] = []
        ) -> RenderedBulletin {
            RenderedBulletin(
                contentType: contentType, headers: headers, body: body, subject: subject)
        }
        func data() -> JSON { bulletin.json(text: oneLine(templates.render(.text, plain))) }
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
            let json = health.json(bulletin, cluster: cluster, summary: words.text)
            return rendered(CloudEvent.contentType, json.compact)
        case .availabilityStatus:
            guard let change = AvailabilityChange(bulletin) else { return nil }
            let json = change.json(bulletin, cluster: cluster)
            return rendered(CloudEvent.contentType, json.compact)
        case .text: return rendered("text/plain; charset=utf-8", templates.render(.text, plain))
        case .markdown:
            return rendered(
                "text/markdown; charset=utf-8", templates.render(.markdown, fields(.markdown)))
        case .html:
            return rendered("text/html; charset=utf-8", templates.render(.html, fields(.html)))
        }
    }

    private var jsonType: String { "application/json; charset=utf-8" }
}

/// Every run of white space becomes one space, and what steers a terminal goes.
private func oneLine(_ text: String) -> String {
    printable(text.split(whereSeparator: \.isWhitespace).joined(separator: " "))
}
