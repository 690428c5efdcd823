/// What a receiver made of what it was handed.
public enum DeliveryOutcome: Hashable, Sendable {
    /// It has it.
    case taken
    /// Not now: it could not be reached, or is not well. May be it has it all the same.
    ///
    /// - Parameter after: how long it asked us to wait, in milliseconds; nil if it did not say.
    case later(reason: String, afterMilliseconds: Int64?)
    /// It will not take this one, whoever asks again.
    case refused(reason: String)
}

/// When what was not taken is tried again, and when it is given up.
///
/// Waits double from `first` to `longest`, each shortened by chance by up to half, so that those who were
/// turned away together do not come back together.
public struct RetryPolicy: Hashable, Sendable {
    public var firstMilliseconds: Int64
    public var longestMilliseconds: Int64
    /// Attempts until it is a dead letter. While a receiver is away, only one bulletin at a time is
    /// tried, so that this is the time that it may be away, and not that divided by what is due.
    public var attemptsMax: Int
    /// Refusals until it is a dead letter: more than one, for a receiver that is being set up.
    public var refusalsMax: Int

    /// The longest wait that a receiver may ask for.
    public static let askedMillisecondsMax: Int64 = 3_600_000

    /// - Parameter attemptsMax: by default about a week.
    public init(
        firstMilliseconds: Int64 = 1_000, longestMilliseconds: Int64 = 60_000,
        attemptsMax: Int = 10_000, refusalsMax: Int = 3
    ) {
        self.firstMilliseconds = firstMilliseconds
        self.longestMilliseconds = longestMilliseconds
        self.attemptsMax = attemptsMax
        self.refusalsMax = refusalsMax
    }

    /// - Parameters:
    ///   - attempts: that have failed, at least 1.
    ///   - askedMilliseconds: by the receiver; never tried before that.
    ///   - chance: 0 to 1,000.
    public func waitMilliseconds(
        attempts: Int, askedMilliseconds: Int64?, chance: Int64
    ) -> Int64 {
        var wait = firstMilliseconds
        for _ in 1..<min(max(attempts, 1), 40) {
            wait = min(wait * 2, longestMilliseconds)
        }
        wait = min(wait, longestMilliseconds)
        wait -= wait * chance / 2_000
        let asked = min(max(askedMilliseconds ?? 0, 0), Self.askedMillisecondsMax)
        return max(wait, asked)
    }

    /// Whether it is a dead letter now.
    ///
    /// - Parameters:
    ///   - attempts: that have failed, with this one.
    ///   - refusals: as many of these were refused. A receiver that was away long has refused nothing yet.
    public func givesUp(attempts: Int, refusals: Int) -> Bool {
        attempts >= attemptsMax || refusals >= refusalsMax
    }
}
