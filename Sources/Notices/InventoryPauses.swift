public import Fleet

/// How often the leader may be asked for its whole inventory because somebody is not in it.
///
/// The first time that an address or a guest is found unknown the leader is asked at once, since it may
/// be new; then ever more seldom for as long as the inventory stays as it is: a stranger that polls each
/// second must not make every notifier fetch all guests of the fleet every few seconds.
public struct InventoryPauses: Sendable {
    private struct Unknown {
        var askCount: Int
        var nextAt: Int64
    }
    private var unknown: [String: Unknown] = [:]
    /// For somebody unknown, since the inventory was another.
    private var askCount = 0
    private var askedAt: Int64?

    public static let shortestMilliseconds: Int64 = 2_000
    public static let longestMilliseconds: Int64 = 60_000
    /// Between any two, once so many have been in vain: who has many addresses has many first times.
    public static let crowdedMilliseconds: Int64 = 30_000
    public static let vainCountMax = 32
    /// Of those that are remembered; then all are forgotten.
    public static let unknownMax = 4_096

    public init() {}

    /// Finds out whether to ask, and counts it if so.
    ///
    /// - Parameter names: of those who are unknown; none if nothing is known yet, so that asking costs
    ///   little.
    public mutating func mayAsk(for names: [String], nowMilliseconds now: Int64) -> Bool {
        let pause =
            askCount < Self.vainCountMax ? Self.shortestMilliseconds : Self.crowdedMilliseconds
        if let askedAt, now - askedAt < pause { return false }
        let due = names.filter { unknown[$0].map { $0.nextAt <= now } ?? true }
        guard !due.isEmpty || names.isEmpty else { return false }
        if unknown.count + due.count > Self.unknownMax { unknown = [:] }
        for name in due {
            let count = (unknown[name]?.askCount ?? 0) + 1
            let wait = Self.shortestMilliseconds << min(Int64(count) - 1, 16)
            unknown[name] = Unknown(
                askCount: count, nextAt: now + min(wait, Self.longestMilliseconds))
        }
        if !names.isEmpty { askCount += 1 }
        askedAt = now
        return true
    }

    /// The leader was asked for another reason.
    public mutating func onAsked(nowMilliseconds now: Int64) { askedAt = now }

    /// Who was unknown may be known now.
    public mutating func onChange() {
        unknown = [:]
        askCount = 0
    }
}

extension NoticeBoard {
    /// Those that are in a notice and not among the guests, in ascending order.
    public var unknownGuests: [GuestID] {
        Set(notices.values.flatMap(\.guests)).filter { guests[$0] == nil }.sorted()
    }
}
