internal import AgentCore
internal import QMP
internal import UvLoop

extension EventTime {
    /// - Parameter sentAt: when the command that caused it was sent, on the hold clock.
    init(_ event: Event, notBefore sentAt: Int64) {
        self.init(
            stamp: event.timestampMicroseconds, notBefore: sentAt,
            hold: HoldClock.nowMicroseconds, wall: WallClock.nowMicroseconds)
    }
}
