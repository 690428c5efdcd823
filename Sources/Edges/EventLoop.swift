// What logic that waits gets from its surroundings: turns, timers, clocks and chance. In a process that is
// `UvLoop.Loop`; in the simulator a virtual clock. Whoever takes an `EventLoop` instead of a `Loop` can
// be run by both, and reads no clock and draws no number in any other way.

/// A timer of an ``EventLoop``, which keeps it alive until it has fired for the last time.
public protocol LoopTimer: AnyObject {
    /// Harmless when it is over already.
    func cancel()
}

/// One thread of control, on which callbacks come one after the other.
public protocol EventLoop: AnyObject {
    associatedtype TimerHandle: LoopTimer

    /// Calls `body` once after `delay`, rounded up to whole milliseconds, and never inside this call.
    @discardableResult
    func after(_ delay: Duration, _ body: @escaping () -> Void) -> TimerHandle

    /// Calls `body` every `interval` (at least 1 ms), first after one interval.
    @discardableResult
    func every(_ interval: Duration, _ body: @escaping () -> Void) -> TimerHandle

    /// Calls `body` after the current callbacks, before anything is waited for again.
    func soon(_ body: @escaping () -> Void)

    /// Milliseconds on a clock that only goes forward and stands still in a suspend.
    var nowMilliseconds: Int64 { get }

    /// The wall clock, which anybody may set: microseconds since 1970, UTC.
    var wallMicroseconds: Int64 { get }

    /// A number by chance, each equally likely.
    func random(in range: ClosedRange<Int64>) -> Int64

    /// Bytes by chance, fit for names that nobody else will choose.
    func randomBytes(_ count: Int) -> [UInt8]
}

/// Where a test makes a process die or stand still; does nothing otherwise.
public protocol PausePoint {
    func reached(_ point: String)
}

extension PausePoint {
    /// A point that many come to: any of them is meant by `POINT`, only this one by `POINT-NAME`.
    public func reached(_ point: String, of name: some CustomStringConvertible) {
        reached(point)
        reached("\(point)-\(name)")
    }
}
