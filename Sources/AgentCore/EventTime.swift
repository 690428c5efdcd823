public import Fleet

/// When QEMU did something, on both clocks.
///
/// QEMU stamps its events by the wall clock, which may be set meanwhile. The stamp is therefore only
/// used as a distance from now, and held between the time the command was sent and now, both read
/// on the hold clock: the error is never more than what passed between the two.
public struct EventTime: Hashable, Sendable {
    public var hold: Int64
    public var wall: Timestamp

    /// All in microseconds.
    ///
    /// - Parameters:
    ///   - stamp: QEMU's; nil if it gave none.
    ///   - sentAt: when the command that caused it was sent, on the hold clock.
    ///   - hold: the hold clock now.
    ///   - wall: the wall clock now.
    public init(stamp: Int64?, notBefore sentAt: Int64, hold: Int64, wall: Int64) {
        var ago: Int64 = 0
        if let stamp {
            let (difference, overflow) = wall.subtractingReportingOverflow(stamp)
            if !overflow { ago = max(0, min(difference, hold - sentAt)) }
        }
        self.hold = hold - ago
        self.wall = Timestamp(microseconds: wall - ago)
    }
}
