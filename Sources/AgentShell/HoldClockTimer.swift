internal import AgentCore
internal import UvLoop

/// Calls back once at a time of the hold clock.
///
/// Sleeps in short pieces, since the loop's clock stands still while the host is suspended and the
/// hold clock does not.
final class HoldClockTimer {
    let at: Int64
    private let loop: Loop
    private let body: () -> Void
    private var piece: Timer?

    /// - Parameters:
    ///   - at: in microseconds of the hold clock; a time that has passed means at once.
    ///   - body: never called before this returns.
    init(at: Int64, on loop: Loop, _ body: @escaping () -> Void) {
        self.at = at
        self.loop = loop
        self.body = body
        sleep()
    }

    func cancel() { piece?.cancel() }

    private func sleep() {
        let left = max(0, at - HoldClock.nowMicroseconds)
        let isLast = left <= HoldBudget.lookMicroseconds
        piece = loop.after(.microseconds(min(left, HoldBudget.lookMicroseconds))) { [self] in
            if isLast { body() } else { sleep() }
        }
    }
}
