public import Edges

extension Timer: LoopTimer {}
extension TestPause: PausePoint {}

extension Loop: EventLoop {
    private static let origin = SuspendingClock.now

    public var nowMilliseconds: Int64 {
        let (seconds, attoseconds) = (SuspendingClock.now - Self.origin).components
        return seconds * 1_000 + attoseconds / 1_000_000_000_000_000
    }

    public var wallMicroseconds: Int64 { WallClock.nowMicroseconds }
    public func random(in range: ClosedRange<Int64>) -> Int64 { .random(in: range) }
    public func randomBytes(_ count: Int) -> [UInt8] { UvLoop.randomBytes(count) }
}
