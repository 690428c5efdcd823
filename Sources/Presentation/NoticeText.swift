public import Fleet

// Notices as text for a terminal and as JSON.

extension Notice {
    /// `noticed`, `acknowledged` by all its guests, or `started`.
    private var stateText: String {
        if isStarted { return "started" }
        return acknowledgedBy.count == guests.count ? "acknowledged" : "noticed"
    }

    public var json: JSON {
        [
            "step": .string(step.description), "host": .string(host.rawValue),
            "guests": JSON(guests), "pairs": JSON(pairs), "release": .string(release.rawValue),
            "component": .string(component.description), "version": .string(version),
            "noticedAt": JSON(noticedAt), "notBefore": JSON(notBefore),
            "deadlineMilliseconds": JSON(deadlineMilliseconds), "isStarted": .bool(isStarted),
            "acknowledgedBy": JSON(acknowledgedBy),
        ]
    }

    fileprivate var cells: [String] {
        [
            step.description, host.rawValue, guests.map(\.rawValue).joined(separator: " "),
            pairs.map(\.description).joined(separator: " "),
            "\(component) \(version)",
            "\(notBefore.dateText) \(notBefore.timeText(fractionDigits: 0))", stateText,
            "\(acknowledgedBy.count)/\(guests.count)",
        ]
    }
}

/// - Parameter notices: in ascending order of step.
public func text(of notices: [Notice]) -> String {
    guard !notices.isEmpty else { return "no guest is told of anything: no step is due\n" }
    var table = TextTable([
        ("STEP", .left), ("HOST", .left), ("GUESTS", .left), ("SETS", .left), ("WHAT", .left),
        ("NOT BEFORE (UTC)", .left), ("STATE", .left), ("ACKNOWLEDGED", .right),
    ])
    for notice in notices { table.add(notice.cells) }
    return table.text
}
