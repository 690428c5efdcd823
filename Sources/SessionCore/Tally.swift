public import Fleet
public import Logging

/// Counts by name and reason, for status and metrics. Belongs to the loop's thread.
public final class Tally {
    private var counts: [String: [String: UInt64]] = [:]

    public init() {}

    /// - Parameters:
    ///   - name: in snake case, such as `sessions_closed`.
    ///   - reason: one word; empty if the name says it all. Never a peer's text: each is kept for ever.
    public func count(_ name: String, _ reason: String = "") {
        counts[name, default: [:]][reason, default: 0] += 1
    }

    public func value(_ name: String, _ reason: String = "") -> UInt64 {
        counts[name]?[reason] ?? 0
    }

    /// Of all reasons together.
    public func total(_ name: String) -> UInt64 { counts[name]?.values.reduce(0, +) ?? 0 }

    /// All of them, ascending by name and reason.
    public var counters: [Counter] {
        counts.sorted { $0.key < $1.key }.flatMap { name, reasons in
            reasons.sorted { $0.key < $1.key }.map { reason, count in
                Counter(name: name, reason: reason, count: count)
            }
        }
    }
}

/// Logs refusals one by one as long as there are few, and their number when there are many: a flood
/// must not fill the disk, and none goes unmentioned.
public final class RefusalLog {
    private struct Second {
        var number: Int64 = 0
        var lineCount = 0
        var suppressedCount = 0
    }
    private var seconds: [String: Second] = [:]
    private let logger: Logger
    private let what: String
    private let now: () -> Int64

    /// - Parameters:
    ///   - what: is refused, in one word: `connection`.
    ///   - now: milliseconds on a clock that only goes forward.
    public init(_ logger: Logger, of what: String, now: @escaping () -> Int64) {
        self.logger = logger
        self.what = what
        self.now = now
    }

    /// - Parameter reason: one word, by which lines are counted.
    /// - Returns: whether it is logged; else ``flush()`` will tell.
    @discardableResult
    public func refused(_ peer: String, reason: String, _ words: String) -> Bool {
        let number = now() / 1_000
        var second = seconds[reason] ?? Second(number: number)
        if second.number != number {
            report(reason, second)
            second = Second(number: number)
        }
        let isLogged = second.lineCount < Limits.refusalLogLinesPerSecond
        if isLogged {
            second.lineCount += 1
            logger.warning(
                "refused a \(what)",
                metadata: ["peer": "\(peer)", "reason": "\(reason)", "detail": "\(words)"])
        } else {
            second.suppressedCount += 1
        }
        seconds[reason] = second
        return isLogged
    }

    /// Tells of what was not logged in seconds that are over. Call it now and then.
    public func flush() {
        let number = now() / 1_000
        for (reason, second) in seconds.sorted(by: { $0.key < $1.key })
        where second.number != number {
            report(reason, second)
            seconds[reason] = nil
        }
    }

    private func report(_ reason: String, _ second: Second) {
        guard second.suppressedCount > 0 else { return }
        logger.warning(
            "refused more \(what)s",
            metadata: ["reason": "\(reason)", "count": "\(second.suppressedCount)"])
    }
}
