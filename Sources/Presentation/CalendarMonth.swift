public import Fleet

/// A month of the calendar, in UTC. Written `2026-11`.
public struct CalendarMonth: Hashable, Comparable, Sendable, CustomStringConvertible {
    /// Since January of the year 0.
    private let number: Int64

    private init(number: Int64) { self.number = number }

    /// The month that `time` is in.
    public init(_ time: Timestamp) {
        let days = time.microseconds.quotientAndRemainder(dividingBy: 86_400_000_000)
        let date = CivilDate(daysSince1970: days.remainder < 0 ? days.quotient - 1 : days.quotient)
        number = date.year * 12 + date.month - 1
    }

    /// Reads `2026-11`.
    public init?(_ text: String) {
        guard text.utf8.count == 7, let start = Timestamp(rfc3339: "\(text)-01T00:00:00Z") else {
            return nil
        }
        self.init(start)
    }

    /// The first moment of it.
    public var start: Timestamp {
        let date = CivilDate(year: number / 12, month: number % 12 + 1, day: 1)
        return Timestamp(microseconds: date.daysSince1970 * 86_400_000_000)
    }

    public var next: CalendarMonth { CalendarMonth(number: number + 1) }

    /// The first moment after it.
    public var end: Timestamp { next.start }

    public static func < (left: Self, right: Self) -> Bool { left.number < right.number }

    public var description: String { String(start.dateText.dropLast(3)) }
}
