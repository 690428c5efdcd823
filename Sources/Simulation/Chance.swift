/// Numbers by chance, from a seed: the same row on every computer.
///
/// SplitMix64 (Steele, Lea, Flood 2014): tiny, fast, and good enough to choose faults with.
public struct Chance: Sendable {
    private var state: UInt64

    public init(seed: UInt64) { state = seed }

    public mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }

    /// 0 ..< `count`; `count` is at least 1.
    public mutating func below(_ count: Int) -> Int {
        Int(truncatingIfNeeded: next().multipliedFullWidth(by: UInt64(count)).high)
    }

    public mutating func within(_ range: ClosedRange<Int64>) -> Int64 {
        let span = UInt64(bitPattern: range.upperBound &- range.lowerBound)
        guard span < .max else { return Int64(bitPattern: next()) }
        return range.lowerBound
            &+ Int64(bitPattern: next().multipliedFullWidth(by: span + 1).high)
    }

    /// True once in `count` on average; never for 0.
    public mutating func oneIn(_ count: Int) -> Bool { count > 0 && below(count) == 0 }

    /// - Precondition: there is something to pick from.
    public mutating func pick<Element>(_ elements: [Element]) -> Element {
        elements[below(elements.count)]
    }

    /// A row of its own, so that what one part draws does not change what another gets.
    public mutating func fork() -> Chance { Chance(seed: next()) }

    /// Mostly short, now and then long: each of `steps` doublings of `shortest` has half the
    /// likelihood of the one before it.
    public mutating func longTailed(_ shortest: Int64, doublings: Int) -> Int64 {
        var longest = shortest
        var left = doublings
        while left > 0, oneIn(2) {
            longest *= 2
            left -= 1
        }
        return within(shortest...max(shortest, longest))
    }
}
