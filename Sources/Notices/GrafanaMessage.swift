public import Presentation

/// The body of `POST /api/annotations`.
///
/// - Source: Grafana's HTTP API, "Annotations".
public enum GrafanaMessage {
    public static let path = "/api/annotations"

    public static func body(_ bulletin: Bulletin, text: String, _ settings: GrafanaSettings) -> JSON
    {
        // A hold is a region; anything else is a moment.
        let start = bulletin.annotation?.record.heldAt ?? bulletin.at
        var members = [
            JSON.Member("time", .integer(start.microseconds / 1_000)),
            JSON.Member("text", .string(text)),
            JSON.Member("tags", .array(tags(bulletin, settings).map { .string($0) })),
        ]
        if let length = bulletin.annotation?.record.holdMicroseconds {
            // Rounded up: a region without a length is not drawn as one.
            let (sum, overflow) = start.microseconds.addingReportingOverflow(length)
            let end = overflow ? Int64.max / 1_000 : sum / 1_000 + (sum % 1_000 > 0 ? 1 : 0)
            members.append(JSON.Member("timeEnd", .integer(end)))
        }
        if let dashboard = settings.dashboard {
            members.append(JSON.Member("dashboardUID", .string(dashboard)))
        }
        return .object(members)
    }

    private static func tags(_ bulletin: Bulletin, _ settings: GrafanaSettings) -> [String] {
        var tags = [
            "fermata", bulletin.state.rawValue, "guest:\(bulletin.guest)", "host:\(bulletin.host)",
            "component:\(bulletin.component)", "release:\(bulletin.release)",
        ]
        if let pair = bulletin.pair {
            tags += ["set:\(pair.set)", "updateDomain:\(pair.updateDomain.number)"]
        }
        return tags + settings.tags
    }
}
