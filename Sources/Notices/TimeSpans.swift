/// Moments on one clock: spans in microseconds, ascending, none empty, none touching the next.
struct TimeSpans: Hashable {
    private(set) var spans: [Range<Int64>] = []

    init() {}

    init(_ span: Range<Int64>) { spans = span.isEmpty ? [] : [span] }

    /// - Parameter given: in any order, also overlapping.
    init(_ given: [Range<Int64>]) {
        for span in given.sorted(by: { $0.lowerBound < $1.lowerBound }) where !span.isEmpty {
            if let last = spans.last, span.lowerBound <= last.upperBound {
                spans[spans.count - 1] =
                    last.lowerBound..<max(last.upperBound, span.upperBound)
            } else {
                spans.append(span)
            }
        }
    }

    var isEmpty: Bool { spans.isEmpty }
    var microseconds: Int64 { spans.reduce(0) { $0 + ($1.upperBound - $1.lowerBound) } }
    var longestMicroseconds: Int64 { spans.map { $0.upperBound - $0.lowerBound }.max() ?? 0 }

    func union(_ other: TimeSpans) -> TimeSpans { TimeSpans(spans + other.spans) }

    func intersection(_ other: TimeSpans) -> TimeSpans {
        var common: [Range<Int64>] = []
        var (ours, theirs) = (spans[...], other.spans[...])
        while let our = ours.first, let their = theirs.first {
            let both = our.clamped(to: their)
            if !both.isEmpty { common.append(both) }
            if our.upperBound < their.upperBound {
                ours.removeFirst()
            } else {
                theirs.removeFirst()
            }
        }
        return TimeSpans(common)
    }

    func intersection(_ span: Range<Int64>) -> TimeSpans { intersection(TimeSpans(span)) }

    /// What of `whole` is not in it.
    func complement(in whole: Range<Int64>) -> TimeSpans {
        var rest: [Range<Int64>] = []
        var start = whole.lowerBound
        for span in intersection(whole).spans {
            rest.append(start..<span.lowerBound)
            start = span.upperBound
        }
        rest.append(start..<whole.upperBound)
        return TimeSpans(rest)
    }
}
