// Silences for guests that are about to be held.
//
//   started                         ask for the silences of this hold: none → make one
//   succeeded, failed, cancelled    ask for the silences of this hold: end each
//
// A silence's id is the receiver's, so ours stands in its comment: what was made before a crash is found
// again, by whichever notifier comes next.

public import Fleet
public import Presentation

public enum SilenceMessage {
    public static let path = "/api/v2/silences"
    /// The one silence with this id is ended with DELETE.
    public static func path(of id: String) -> String { "/api/v2/silence/\(id)" }

    /// What a silence's comment begins with: a hold's own, also where several clusters, which count their
    /// rollouts alike, have one receiver.
    public static func mark(_ bulletin: Bulletin, cluster: String) -> String {
        "[fermata \(printable(cluster)) \(bulletin.step) \(bulletin.guest)]"
    }

    public static func matchers(_ bulletin: Bulletin, _ settings: SilenceSettings) -> [JSON] {
        settings.matchers.map { matcher in
            [
                "name": .string(matcher.name),
                "value": .string(
                    Placeholders.fill(matcher.value, bulletin, isRegex: matcher.isRegex)),
                "isRegex": .bool(matcher.isRegex),
                "isEqual": .bool(true),
            ]
        }
    }

    /// The body of `POST /api/v2/silences`.
    ///
    /// - Returns: nil if the silence would be over already.
    public static func body(
        _ bulletin: Bulletin, cluster: String, text: String, _ settings: SilenceSettings,
        now: Timestamp
    ) -> JSON? {
        let length = settings.durationMilliseconds * 1_000
        let end = Timestamp(microseconds: bulletin.at.microseconds + length)
        guard end > now else { return nil }
        return [
            "matchers": .array(matchers(bulletin, settings)),
            "startsAt": .string(bulletin.at.rfc3339),
            "endsAt": .string(end.rfc3339),
            "createdBy": "fermata",
            "comment": .string("\(mark(bulletin, cluster: cluster)) \(text)"),
        ]
    }
}
