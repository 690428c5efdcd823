// What an HTTP answer says about a delivery.
//
//   2xx                               taken
//   408 425 429 500 and above         later; Retry-After is honoured
//   any other                         refused

extension DeliveryOutcome {
    /// - Parameters:
    ///   - retryAfter: the header's value: seconds, or a date as HTTP writes it; nil without one.
    ///   - nowSeconds: since 1970, for a date.
    ///   - words: the beginning of the body, for people.
    public init(
        httpStatus status: Int, retryAfter: String?, nowSeconds: Int64, words: String
    ) {
        let said = words.isEmpty ? "" : ": \(words)"
        let reason = "it answered \(status)\(said)"
        switch status {
        case 200...299: self = .taken
        case 408, 425, 429, 500...:
            let wait = retryAfter.flatMap { retrySeconds($0, nowSeconds: nowSeconds) }
            self = .later(reason: reason, afterMilliseconds: wait.map { $0 * 1_000 })
        default: self = .refused(reason: reason)
        }
    }
}

/// - Returns: seconds to wait, never negative, an hour at most; nil for what is neither form.
func retrySeconds(_ header: String, nowSeconds: Int64) -> Int64? {
    let most = RetryPolicy.askedMillisecondsMax / 1_000
    let text = String(header.drop { $0 == " " }.prefix { $0 != "\r" })
    if let seconds = UInt64(text) { return Int64(min(seconds, UInt64(most))) }
    guard let at = httpDateSeconds(text) else { return nil }
    return min(max(at - nowSeconds, 0), most)
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`, in seconds since 1970.
private func httpDateSeconds(_ text: String) -> Int64? {
    let words = text.split(separator: " ")
    let months = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ]
    guard words.count == 6, words[5] == "GMT", let day = Int64(words[1]), (1...31).contains(day),
        let month = months.firstIndex(of: String(words[2])), let year = Int64(words[3]),
        (1970...9999).contains(year)
    else { return nil }
    let clock = words[4].split(separator: ":").compactMap { Int64($0) }
    guard clock.count == 3, (0...23).contains(clock[0]), (0...59).contains(clock[1]),
        (0...60).contains(clock[2])
    else { return nil }
    // Days since 1970 of a date, by the count of days in eras of 400 years that begin in March.
    let shifted = month < 2 ? year - 1 : year
    let yearOfEra = shifted % 400
    let dayOfYear = (153 * Int64((month + 10) % 12) + 2) / 5 + day - 1
    let days =
        (shifted / 400) * 146_097 + yearOfEra * 365 + yearOfEra / 4 - yearOfEra / 100 + dayOfYear
        - 719_468
    return days * 86_400 + clock[0] * 3_600 + clock[1] * 60 + clock[2]
}
