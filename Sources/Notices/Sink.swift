// Who is told what. A sink is a name, a filter and how it is served; what takes the bulletins is a
// `Receiver`, which a process makes from its settings.

public import Fleet

public enum SinkKind: Sendable {}
/// The name of a sink: what its rows of the outbox are found by, so renaming one begins anew.
public typealias SinkID = Identifier<SinkKind>

extension SinkID {
    /// One line of text for each annotation, on the notifier's standard output.
    public static let stdout = SinkID(checked: "stdout")
    /// One line of JSON for each annotation, in the file of `--append`.
    public static let file = SinkID(checked: "file")
}

/// Which bulletins a sink gets: those that fit every list that is not empty.
public struct BulletinFilter: Hashable, Sendable {
    public var states: [Bulletin.State]
    public var sets: [SetID]
    public var guests: [GuestID]
    public var hosts: [HostID]
    public var components: [Component]
    /// Of annotations; other bulletins have none, and do not fit if this is given.
    public var outcomes: [StepOutcome]

    /// The record of each hold.
    public static let annotations = BulletinFilter(states: [.succeeded, .failed])

    public init(
        states: [Bulletin.State] = [], sets: [SetID] = [], guests: [GuestID] = [],
        hosts: [HostID] = [], components: [Component] = [], outcomes: [StepOutcome] = []
    ) {
        self.states = states
        self.sets = sets
        self.guests = guests
        self.hosts = hosts
        self.components = components
        self.outcomes = outcomes
    }

    public func fits(_ bulletin: Bulletin) -> Bool {
        func has<Value: Equatable>(_ values: [Value], _ value: Value?) -> Bool {
            values.isEmpty || (value.map { values.contains($0) } ?? false)
        }
        // Better one too many of a host than none of the set that was asked for.
        let isOfSet =
            has(sets, bulletin.pair?.set)
            || (bulletin.pair == nil && bulletin.possiblePairs.contains { sets.contains($0.set) })
        return has(states, bulletin.state) && isOfSet
            && has(guests, bulletin.guest) && has(hosts, bulletin.host)
            && has(components, bulletin.component)
            && has(outcomes, bulletin.annotation?.record.outcome)
    }
}

/// Where bulletins go, and how they are handed over.
public struct Sink: Hashable, Sendable {
    public var id: SinkID
    public var filter: BulletinFilter
    /// Whether several notifiers would tell the same receiver: then only the one that has the
    /// delivery lease does.
    public var isShared: Bool
    /// Hand-overs at once; of one guest never more than one, so that its order is kept.
    public var inFlightMax: Int
    /// Bulletins in one hand-over.
    public var batchCountMax: Int
    public var retry: RetryPolicy

    public init(
        id: SinkID, filter: BulletinFilter = .annotations, isShared: Bool = false,
        inFlightMax: Int = 1, batchCountMax: Int = 1, retry: RetryPolicy = RetryPolicy()
    ) {
        precondition(inFlightMax >= 1 && batchCountMax >= 1, "sink \(id) takes nothing at all")
        self.id = id
        self.filter = filter
        self.isShared = isShared
        self.inFlightMax = inFlightMax
        self.batchCountMax = batchCountMax
        self.retry = retry
    }
}
