public import Fleet

// Times and durations for people and for JSON. Calendar arithmetic after Howard Hinnant's
// "chrono-compatible low-level date algorithms" (days_from_civil, civil_from_days).

/// A date of the proleptic Gregorian calendar.
struct CivilDate: Hashable {
    var year: Int64
    var month: Int64
    var day: Int64

    init(year: Int64, month: Int64, day: Int64) {
        self.year = year
        self.month = month
        self.day = day
    }

    init(daysSince1970: Int64) {
        let shifted = daysSince1970 + 719_468
        let era = (shifted >= 0 ? shifted : shifted - 146_096) / 146_097
        let dayOfEra = shifted - era * 146_097
        let yearOfEra =
            (dayOfEra - dayOfEra / 1460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
        let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let shiftedMonth = (5 * dayOfYear + 2) / 153
        day = dayOfYear - (153 * shiftedMonth + 2) / 5 + 1
        month = shiftedMonth < 10 ? shiftedMonth + 3 : shiftedMonth - 9
        year = yearOfEra + era * 400 + (month <= 2 ? 1 : 0)
    }

    var daysSince1970: Int64 {
        let shiftedYear = month <= 2 ? year - 1 : year
        let era = (shiftedYear >= 0 ? shiftedYear : shiftedYear - 399) / 400
        let yearOfEra = shiftedYear - era * 400
        let dayOfYear = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1
        let dayOfEra = yearOfEra * 365 + yearOfEra / 4 - yearOfEra / 100 + dayOfYear
        return era * 146_097 + dayOfEra - 719_468
    }
}

private let weekdays = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]
private let months = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
]

private let microsecondsPerDay: Int64 = 86_400_000_000

/// - Returns: the quotient rounded down and the remainder that goes with it, never negative.
private func floorDivide(_ value: Int64, by divisor: Int64) -> (quotient: Int64, remainder: Int64) {
    let (quotient, remainder) = value.quotientAndRemainder(dividingBy: divisor)
    return remainder < 0 ? (quotient - 1, remainder + divisor) : (quotient, remainder)
}

extension Timestamp {
    /// RFC 3339 in UTC with microseconds: `2026-04-11T22:26:58.000012Z`. A year outside of
    /// 0 to 9999, which RFC 3339 cannot write, gets a sign or more digits.
    public var rfc3339: String { "\(dateText)T\(timeText(fractionDigits: 6))Z" }

    /// `2026-04-11`, in UTC.
    public var dateText: String {
        let date = CivilDate(
            daysSince1970: floorDivide(microseconds, by: microsecondsPerDay).quotient)
        let year = date.year < 0 ? "-" + padded(-date.year, width: 4) : padded(date.year, width: 4)
        return "\(year)-\(padded(date.month, width: 2))-\(padded(date.day, width: 2))"
    }

    /// RFC 1123 as HTTP writes it: `Sat, 11 Apr 2026 22:26:58 GMT`. Fractions are cut.
    public var rfc1123: String {
        let days = floorDivide(microseconds, by: microsecondsPerDay).quotient
        let date = CivilDate(daysSince1970: days)
        // 1970-01-01 was a Thursday.
        let weekday = weekdays[Int(floorDivide(days + 3, by: 7).remainder)]
        return "\(weekday), \(padded(date.day, width: 2)) \(months[Int(date.month) - 1]) "
            + "\(padded(date.year, width: 4)) \(timeText(fractionDigits: 0)) GMT"
    }

    /// `22:26:58.123`, in UTC.
    ///
    /// - Parameter fractionDigits: 0 to 6; what does not fit is cut, not rounded, so that a time
    ///   never moves into the next second.
    public func timeText(fractionDigits: Int) -> String {
        precondition((0...6).contains(fractionDigits), "fractionDigits: \(fractionDigits)")
        let ofDay = floorDivide(microseconds, by: microsecondsPerDay).remainder
        let seconds = ofDay / 1_000_000
        let clock = [seconds / 3600, seconds / 60 % 60, seconds % 60]
            .map { padded($0, width: 2) }.joined(separator: ":")
        guard fractionDigits > 0 else { return clock }
        return "\(clock).\(padded(ofDay % 1_000_000, width: 6).prefix(fractionDigits))"
    }

    /// Reads RFC 3339, with `Z` or a numeric offset; digits after the sixth of a fraction are cut.
    ///
    /// - Returns: nil if `text` is not such a time. A leap second `:60` becomes the next second.
    public init?(rfc3339 text: String) {
        var reader = DigitReader(text)
        guard let year = reader.number(digits: 4), reader.skip("-"),
            let month = reader.number(digits: 2), (1...12).contains(month), reader.skip("-"),
            let day = reader.number(digits: 2), day >= 1,
            day <= daysInMonth(year: year, month: month),
            reader.skip("T") || reader.skip("t") || reader.skip(" "),
            let hour = reader.number(digits: 2), hour <= 23, reader.skip(":"),
            let minute = reader.number(digits: 2), minute <= 59, reader.skip(":"),
            let second = reader.number(digits: 2), second <= 60
        else { return nil }
        var fraction: Int64 = 0
        if reader.skip(".") {
            guard let value = reader.fraction(digits: 6) else { return nil }
            fraction = value
        }
        var offsetMinutes: Int64 = 0
        if !(reader.skip("Z") || reader.skip("z")) {
            let sign: Int64
            if reader.skip("+") {
                sign = 1
            } else if reader.skip("-") {
                sign = -1
            } else {
                return nil
            }
            guard let hours = reader.number(digits: 2), hours <= 23, reader.skip(":"),
                let minutes = reader.number(digits: 2), minutes <= 59
            else { return nil }
            offsetMinutes = sign * (hours * 60 + minutes)
        }
        guard reader.isAtEnd else { return nil }
        let days = CivilDate(year: year, month: month, day: day).daysSince1970
        let seconds = days * 86_400 + hour * 3600 + (minute - offsetMinutes) * 60 + second
        self.init(microseconds: seconds * 1_000_000 + fraction)
    }
}

private func daysInMonth(year: Int64, month: Int64) -> Int64 {
    switch month {
    case 2: (year % 4 == 0 && year % 100 != 0) || year % 400 == 0 ? 29 : 28
    case 4, 6, 9, 11: 30
    default: 31
    }
}

/// Takes fixed runs of ASCII digits and single characters off the front of a text.
private struct DigitReader {
    private var rest: Substring.UTF8View
    init(_ text: String) { rest = text[...].utf8 }

    var isAtEnd: Bool { rest.isEmpty }

    mutating func skip(_ character: Unicode.Scalar) -> Bool {
        guard rest.first == UInt8(ascii: character) else { return false }
        rest.removeFirst()
        return true
    }

    mutating func number(digits count: Int) -> Int64? {
        var value: Int64 = 0
        for _ in 0..<count {
            guard let digit = digit() else { return nil }
            value = value * 10 + digit
        }
        return value
    }

    /// One or more digits, of which the first `count` are kept and missing ones are zero.
    mutating func fraction(digits count: Int) -> Int64? {
        var value: Int64 = 0
        var taken = 0
        while let digit = digit() {
            if taken < count { value = value * 10 + digit }
            taken += 1
        }
        guard taken > 0 else { return nil }
        for _ in 0..<max(0, count - taken) { value *= 10 }
        return value
    }

    private mutating func digit() -> Int64? {
        guard let byte = rest.first, byte >= UInt8(ascii: "0"), byte <= UInt8(ascii: "9") else {
            return nil
        }
        rest.removeFirst()
        return Int64(byte - UInt8(ascii: "0"))
    }
}
