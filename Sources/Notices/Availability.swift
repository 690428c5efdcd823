// Availability by calendar month (UTC), from what the record of holds knows.
//
// A guest is unavailable
// - during its holds;
// - from a hold that it did not come out of (`lost`, or without a length), until something shows it
//   running: a later hold of it, or an operator who says so. That end is the latest possible, and how
//   much of the time rests on it is said.
// What no hold tells of, such as a crash at another time, is not known here and not counted. A guest that
// came out of a hold `unhealthy` runs, and nobody knows what still works in it: only its hold is counted as
// unavailable, and it is shown among the failures.
//
// A set is unavailable while all guests of it that are there at that moment are. It has as many guests as was
// known when one of them was held last: those that no hold tells of were up.

public import Fleet
public import Presentation

/// A hold, as far as availability needs it.
public struct AvailabilityRecord: Hashable, Sendable {
    public var guest: GuestID
    public var set: SetID?
    public var heldAt: Timestamp
    /// nil if the guest never went on.
    public var holdMicroseconds: Int64?
    public var outcome: StepOutcome
    /// Guests of its set at that time; nil if that is not known.
    public var setGuestCount: Int?

    public init(
        guest: GuestID, set: SetID?, heldAt: Timestamp, holdMicroseconds: Int64?,
        outcome: StepOutcome, setGuestCount: Int? = nil
    ) {
        self.guest = guest
        self.set = set
        self.heldAt = heldAt
        self.holdMicroseconds = holdMicroseconds
        self.outcome = outcome
        self.setGuestCount = setGuestCount
    }

    public init(_ annotation: Annotation) {
        self.init(
            guest: annotation.record.guest, set: annotation.pair?.set,
            heldAt: annotation.record.heldAt,
            holdMicroseconds: annotation.record.holdMicroseconds,
            outcome: annotation.record.outcome)
    }

    /// Whether the guest did not come out of it.
    var isFailure: Bool { outcome == .lost || holdMicroseconds == nil }
}

/// That a guest was there, or ran, at a time; for what the holds do not show.
public struct GuestSighting: Hashable, Sendable {
    public var guest: GuestID
    public var at: Timestamp
    public init(guest: GuestID, at: Timestamp) {
        self.guest = guest
        self.at = at
    }
}

/// How available a guest or a set was in a month.
public struct MonthlyAvailability: Hashable, Sendable {
    public enum Subject: Hashable, Sendable {
        case guest(GuestID)
        /// - Parameters:
        ///   - guestCount: those with a record, or as many as it was known to have last.
        ///   - withoutRecord: of those, how many were never held.
        case set(SetID, guestCount: Int, withoutRecord: Int)
    }

    public var subject: Subject
    public var month: CalendarMonth
    /// Whether the month is over; else it counts up to now.
    public var isOver: Bool
    /// How long it was there in the month.
    public var presentMicroseconds: Int64
    public var unavailableMicroseconds: Int64
    /// Part of it whose end is not known and was taken as late as possible.
    public var assumedMicroseconds: Int64
    /// Of the guest, or of the set's guests, that began in the month.
    public var holdCount: Int
    /// The longest time without a break that it was unavailable, within the month.
    public var longestMicroseconds: Int64
    /// Holds, begun in the month, that a guest did not come out of, or not well.
    public var failureCount: Int

    /// In thousandths of a percent, rounded down, so that it never looks better than it was.
    public var thousandthsOfPercent: Int64 {
        guard presentMicroseconds > 0 else { return 100_000 }
        let up = presentMicroseconds - unavailableMicroseconds
        return presentMicroseconds.dividingFullWidth(up.multipliedFullWidth(by: 100_000)).quotient
    }

    /// Exact, unlike a comparison of what is shown.
    ///
    /// - Parameter target: in thousandths of a percent.
    public func isMet(target: Int64) -> Bool {
        // down / present <= (100000 - target) / 100000, without a division.
        let down = unavailableMicroseconds.multipliedFullWidth(by: 100_000)
        let allowed = presentMicroseconds.multipliedFullWidth(by: 100_000 - target)
        return (down.high, down.low) <= (allowed.high, allowed.low)
    }
}

/// What a record says of the availability of its guests and sets.
public struct AvailabilityAccount: Sendable {
    private struct Guest {
        var set: SetID?
        /// From when on it counts.
        var since: Int64
        var records: [AvailabilityRecord] = []
        var down = TimeSpans()
        var assumed = TimeSpans()
    }

    /// Ascending by guest.
    private var guests: [(id: GuestID, guest: Guest)]
    private let now: Int64

    /// - Parameters:
    ///   - records: in any order.
    ///   - present: since when guests are there; one that is not named counts from the beginning of
    ///     the month of its first hold.
    ///   - running: when guests were seen running.
    ///   - now: what is later does not count.
    public init(
        _ records: [AvailabilityRecord], present: [GuestSighting] = [],
        running: [GuestSighting] = [], now: Timestamp
    ) {
        self.now = now.microseconds
        let sorted = records.filter { $0.heldAt < now }.sorted {
            ($0.guest, $0.heldAt) < ($1.guest, $1.heldAt)
        }
        var guests: [(id: GuestID, guest: Guest)] = []
        for record in sorted {
            if guests.last?.id != record.guest {
                let month = CalendarMonth(record.heldAt).start
                let since = present.filter { $0.guest == record.guest }.map(\.at).min()
                guests.append(
                    (record.guest, Guest(since: min(since ?? month, record.heldAt).microseconds)))
            }
            // The last hold says where it belongs now.
            guests[guests.count - 1].guest.set = record.set
            guests[guests.count - 1].guest.records.append(record)
        }
        for index in guests.indices {
            let id = guests[index].id
            let seen = running.filter { $0.guest == id }.map(\.at.microseconds).sorted()
            Self.account(&guests[index].guest, seen: seen, now: self.now)
        }
        self.guests = guests
    }

    private static func account(_ guest: inout Guest, seen: [Int64], now: Int64) {
        var down: [Range<Int64>] = []
        var assumed: [Range<Int64>] = []
        for (index, record) in guest.records.enumerated() {
            let start = record.heldAt.microseconds
            let length = max(0, record.holdMicroseconds ?? 0)
            let (sum, overflow) = start.addingReportingOverflow(length)
            let resumed = min(overflow ? .max : sum, now)
            down.append(start..<max(start, resumed))
            guard record.isFailure else { continue }
            // A hold begins with a running guest.
            let next = guest.records[(index + 1)...].lazy.map(\.heldAt.microseconds)
                .first { $0 > start }
            let sighting = seen.first { $0 > start }
            let end = min(next ?? now, sighting ?? now, now)
            down.append(start..<max(start, end))
            assumed.append(start..<max(start, end))
        }
        guest.down = TimeSpans(down)
        guest.assumed = TimeSpans(assumed)
    }

    /// By guest and month, ascending; from the first month that it was there to now.
    public func guestMonths(of only: GuestID? = nil) -> [MonthlyAvailability] {
        guests.filter { only == nil || $0.id == only }.flatMap { id, guest in
            months(
                .guest(id), present: TimeSpans(present(guest)), down: guest.down,
                assumed: guest.assumed, records: guest.records)
        }
    }

    /// By set and month, ascending.
    public func setMonths(of only: SetID? = nil) -> [MonthlyAvailability] {
        let ids = Set(guests.compactMap(\.guest.set)).filter { only == nil || $0 == only }.sorted()
        return ids.flatMap { id in
            let members = guests.map(\.guest).filter { $0.set == id }
            let present = TimeSpans(members.map { self.present($0) })
            // A guest that is not there yet keeps nobody company.
            let sizes = sizes(of: id, members)
            let withoutRecord = max(0, (sizes.last?.count ?? 0) - members.count)
            let allDown = members.reduce(present) { common, guest in
                let away = TimeSpans(self.present(guest)).complement(in: Int64.min..<now)
                return common.intersection(guest.down.union(away))
            }
            let down = allDown.intersection(whereAllAreKnown(members, sizes))
            let assumed = members.reduce(TimeSpans()) { $0.union($1.assumed) }
            return months(
                .set(
                    id, guestCount: members.count + withoutRecord, withoutRecord: withoutRecord),
                present: present, down: down,
                assumed: assumed.intersection(down), records: members.flatMap(\.records))
        }
    }

    /// How many guests the set was known to have, and from when on; ascending, from the beginning of time.
    private func sizes(of set: SetID, _ members: [Guest]) -> [(since: Int64, count: Int)] {
        let known = members.flatMap(\.records).filter { $0.set == set && $0.setGuestCount != nil }
            .sorted { $0.heldAt < $1.heldAt }
        return known.enumerated().map { index, record in
            (index == 0 ? .min : record.heldAt.microseconds, record.setGuestCount ?? 0)
        }
    }

    /// When as many guests were there as the set had: at other times one is up that no hold tells of.
    private func whereAllAreKnown(
        _ members: [Guest], _ sizes: [(since: Int64, count: Int)]
    ) -> TimeSpans {
        guard !sizes.isEmpty else { return TimeSpans([.min..<now]) }
        let arrivals = members.map(\.since).sorted()
        var spans: [Range<Int64>] = []
        for (index, size) in sizes.enumerated() where size.count <= arrivals.count {
            let end = index + 1 < sizes.count ? sizes[index + 1].since : now
            let start = size.count == 0 ? size.since : max(size.since, arrivals[size.count - 1])
            if start < end { spans.append(start..<end) }
        }
        return TimeSpans(spans)
    }

    private func present(_ guest: Guest) -> Range<Int64> { min(guest.since, now)..<now }

    private func months(
        _ subject: MonthlyAvailability.Subject, present: TimeSpans, down: TimeSpans,
        assumed: TimeSpans, records: [AvailabilityRecord]
    ) -> [MonthlyAvailability] {
        guard let first = present.spans.first else { return [] }
        var rows: [MonthlyAvailability] = []
        var month = CalendarMonth(Timestamp(microseconds: first.lowerBound))
        while month.start.microseconds < now {
            let whole = month.start.microseconds..<month.end.microseconds
            let unavailable = down.intersection(whole)
            let begun = records.filter { whole.contains($0.heldAt.microseconds) }
            rows.append(
                MonthlyAvailability(
                    subject: subject, month: month, isOver: whole.upperBound <= now,
                    presentMicroseconds: present.intersection(whole).microseconds,
                    unavailableMicroseconds: unavailable.microseconds,
                    assumedMicroseconds: assumed.intersection(whole).microseconds,
                    holdCount: begun.count, longestMicroseconds: unavailable.longestMicroseconds,
                    failureCount: begun.count { $0.isFailure || $0.outcome == .unhealthy }))
            month = month.next
        }
        return rows
    }
}
