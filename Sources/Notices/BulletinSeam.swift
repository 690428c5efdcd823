// Stands in for the renderings of part E until they are merged.
import Presentation

public enum BulletinFormat: String, Hashable, Sendable, CaseIterable {
    case json
    case text
}

public struct Rendered: Hashable, Sendable {
    public var contentType: String
    public var headers: [(String)] = []
    public var body: [UInt8]
}

extension Bulletin {
    var seamText: String {
        annotation?.text
            ?? "Guest \(guest) on host \(host): \(state.rawValue) (\(component) \(version)). \(reason)"
    }
    var seamJSON: JSON {
        annotation?.json ?? [
            "id": .string(id), "state": .string(state.rawValue),
            "guest": .string(guest.rawValue), "host": .string(host.rawValue),
            "at": .string(at.rfc3339), "step": .string(step.description),
            "reason": .string(reason),
        ]
    }
}

extension BulletinFormat {
    public func render(_ bulletin: Bulletin) -> Rendered {
        switch self {
        case .json:
            Rendered(
                contentType: "application/json", body: Array(bulletin.seamJSON.compact.utf8))
        case .text:
            Rendered(
                contentType: "text/plain; charset=utf-8", body: Array(bulletin.seamText.utf8))
        }
    }
}

extension Rendered {
    /// `Name: value`, each.
    package var headerLines: [String] { headers }
}

extension Bulletin {
    package func mail(_ settings: MailSettings) -> [UInt8] {
        MailMessage.bytes(
            self, subject: "\(guest): \(state.rawValue)", plain: seamText,
            html: "<p>\(seamText)</p>", settings: settings)
    }
}
