/// Milliseconds on a clock that only goes forward, for those who have no loop at hand. It has another
/// origin than the loop's: moments of the two cannot be compared.
public struct SessionClock {
    private static let origin = SuspendingClock.now
    public static var nowMilliseconds: Int64 {
        let (seconds, attoseconds) = (SuspendingClock.now - origin).components
        return seconds * 1_000 + attoseconds / 1_000_000_000_000_000
    }
}
