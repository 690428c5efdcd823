public import Fleet
import GRDB

/// What to look for among the annotations; nil means any.
public struct AnnotationFilter: Hashable, Sendable {
    public var guest: GuestID?
    public var set: SetID?
    public var host: HostID?
    public var rollout: RolloutID?
    /// Of a hold that began then or later.
    public var since: Timestamp?
    /// Of a hold that began before.
    public var until: Timestamp?

    public init(
        guest: GuestID? = nil, set: SetID? = nil, host: HostID? = nil, rollout: RolloutID? = nil,
        since: Timestamp? = nil, until: Timestamp? = nil
    ) {
        self.guest = guest
        self.set = set
        self.host = host
        self.rollout = rollout
        self.since = since
        self.until = until
    }

    /// `WHERE …` on the table `annotation`, or nothing, with the values in it.
    var condition: (sql: String, values: StatementArguments) {
        var conditions: [String] = []
        var values = StatementArguments()
        func require(_ condition: String, _ value: (any DatabaseValueConvertible)?) {
            guard let value else { return }
            conditions.append("annotation.\(condition) ?")
            values += [value]
        }
        require("guest =", guest?.rawValue)
        require("availabilitySet =", set?.rawValue)
        require("host =", host?.rawValue)
        require("rollout =", rollout.map { Int64(bitPattern: $0.number) })
        require("heldAtMicroseconds >=", since?.microseconds)
        require("heldAtMicroseconds <", until?.microseconds)
        return (conditions.isEmpty ? "" : "WHERE \(conditions.joined(separator: " AND "))", values)
    }
}
