/// A duration for people, in the largest units that still tell enough: `12.4 ms`, `1.25 s`,
/// `3 min 20 s`, `2 h 5 min`, `3 d 4 h`.
///
/// - Parameter microseconds: may be negative; the sign stands in front.
public func spanText(microseconds: Int64) -> String {
    let sign = microseconds < 0 ? "-" : ""
    let value = microseconds.magnitude
    let milliseconds = rounded(value, to: 100)
    if milliseconds < 1_000_000 {
        let text = "\(milliseconds / 1000).\(milliseconds / 100 % 10) ms"
        return milliseconds == 0 ? text : sign + text
    }
    let hundredths = rounded(value, to: 10_000)
    if hundredths < 60_000_000 {
        return "\(sign)\(hundredths / 1_000_000).\(padded(hundredths / 10_000 % 100, width: 2)) s"
    }
    let seconds = rounded(value, to: 1_000_000) / 1_000_000
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400)
    if hours == 0 { return "\(sign)\(minutes) min \(seconds % 60) s" }
    if days == 0 { return "\(sign)\(hours) h \(minutes % 60) min" }
    return "\(sign)\(days) d \(hours % 24) h"
}

/// Rounds half up to a multiple of `unit`.
private func rounded(_ value: UInt64, to unit: UInt64) -> UInt64 {
    let (sum, overflow) = value.addingReportingOverflow(unit / 2)
    return (overflow ? value : sum) / unit * unit
}

/// How far a clock is off, for people: `14.0 ms behind`, `0.4 ms ahead`, `exact`.
///
/// - Parameter microseconds: guest clock minus host clock.
public func clockErrorText(microseconds: Int64) -> String {
    guard microseconds != 0 else { return "exact" }
    let magnitude = Int64(clamping: microseconds.magnitude)
    return "\(spanText(microseconds: magnitude)) \(microseconds < 0 ? "behind" : "ahead")"
}

/// Reads a duration as an option gives it: `30s`, `500ms`, `2min`, `1h`, `1.5s`.
///
/// - Returns: whole milliseconds, or nil if `text` has no unit, is negative, is finer than a
///   millisecond or does not fit.
public func parseMilliseconds(_ text: String) -> UInt32? {
    parseLongMilliseconds(text).flatMap { UInt32(exactly: $0) }
}

/// The same, for times that may be years ago.
public func parseLongMilliseconds(_ text: String) -> Int64? {
    let units: [(suffix: String, milliseconds: UInt64)] = [
        ("ms", 1), ("min", 60_000), ("s", 1000), ("m", 60_000), ("h", 3_600_000),
    ]
    guard let unit = units.first(where: { text.hasSuffix($0.suffix) }) else { return nil }
    let parts = text.dropLast(unit.suffix.count)
        .split(separator: ".", maxSplits: 1, omittingEmptySubsequences: false)
    let isDigits = { (part: Substring) in
        !part.isEmpty && part.utf8.count <= 12
            && part.utf8.allSatisfy { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }
    }
    guard parts.allSatisfy(isDigits), let whole = parts.first.flatMap({ UInt64($0) }) else {
        return nil
    }
    var milliseconds = whole.multipliedReportingOverflow(by: unit.milliseconds)
    guard !milliseconds.overflow else { return nil }
    if parts.count == 2 {
        guard let fraction = UInt64(parts[1]) else { return nil }
        let scale = parts[1].utf8.reduce(UInt64(1)) { product, _ in product * 10 }
        let scaled = fraction.multipliedReportingOverflow(by: unit.milliseconds)
        guard !scaled.overflow, scaled.partialValue % scale == 0 else { return nil }
        milliseconds = milliseconds.partialValue.addingReportingOverflow(
            scaled.partialValue / scale)
        guard !milliseconds.overflow else { return nil }
    }
    return Int64(exactly: milliseconds.partialValue)
}

/// Bytes for people: `256 MiB`, `1.5 GiB`, `512 B`.
public func byteText(_ count: UInt64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"]
    guard count >= 1024 else { return "\(count) B" }
    var tenths = count / 1024 * 10 + count % 1024 * 10 / 1024
    var index = 0
    while tenths >= 10_240, index + 1 < units.count {
        tenths /= 1024
        index += 1
    }
    return tenths % 10 == 0
        ? "\(tenths / 10) \(units[index])" : "\(tenths / 10).\(tenths % 10) \(units[index])"
}

/// Lower-case hexadecimal digits, two a byte.
public func hexText(_ bytes: some Sequence<UInt8>) -> String {
    let digits = Array("0123456789abcdef".utf8)
    var text: [UInt8] = []
    for byte in bytes {
        text.append(digits[Int(byte >> 4)])
        text.append(digits[Int(byte & 15)])
    }
    return String(decoding: text, as: UTF8.self)
}

/// Reads hexadecimal digits of either case.
///
/// - Returns: nil if `text` has an odd number of digits or another character.
public func parseHex(_ text: String) -> [UInt8]? {
    let digits = Array(text.utf8)
    guard digits.count.isMultiple(of: 2) else { return nil }
    var bytes: [UInt8] = []
    for index in stride(from: 0, to: digits.count, by: 2) {
        guard let high = hexDigit(digits[index]), let low = hexDigit(digits[index + 1]) else {
            return nil
        }
        bytes.append(high << 4 | low)
    }
    return bytes
}

private func hexDigit(_ byte: UInt8) -> UInt8? {
    switch byte {
    case UInt8(ascii: "0")...UInt8(ascii: "9"): byte - UInt8(ascii: "0")
    case UInt8(ascii: "a")...UInt8(ascii: "f"): byte - UInt8(ascii: "a") + 10
    case UInt8(ascii: "A")...UInt8(ascii: "F"): byte - UInt8(ascii: "A") + 10
    default: nil
    }
}
