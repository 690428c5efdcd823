// One QEMU process as the guard continues it: between its monitor and the GuardMachine.
//
//  from                 what                    next
//  the GuardMachine     continueGuest           SIGCONT; without a connection: connect, then again
//                       … connected             old: queryReadiness; new: cont with a look behind it
//  the monitor          ready                   cont with a look behind it
//                       not ready, no answer    continueFailed: the machine has it tried again
//                       no answer to a cont in time   what hangs executes nothing: until then at least
//                                               the guest did not go on, unless it was seen to execute
//                       it executes now         continued, at the time of RESUME if there was one;
//                                               else when its monitor was last seen to hang before
//                       it does not             continueFailed
//                       STOP behind continueGuest   stopped; then as continueGuest: a command of the dead
//                                               agent was still on its way
//                       RESUME after that       continued: the guest was held after all

public import Fleet

/// What the guard knows of one QEMU; pure. Times are in microseconds of the hold clock.
public struct GuardedSide: Hashable, Sendable {
    public enum Input: Hashable, Sendable {
        case continueGuest(isConnected: Bool)
        case connectFailed
        case event(MonitorEvent, stamp: Int64?)
        case replied(MonitorRequest, MonitorReply)
    }

    public enum Output: Hashable, Sendable {
        /// SIGCONT: whoever stopped it in its hold (SIGSTOP) did not mean to strand its guest.
        case wake
        /// Answered by `continueGuest`, again with whether it is connected now (one that waits
        /// behind the agent's connection is not), or by `connectFailed`.
        case connect
        /// Answered by `replied`. A connection without an answer after `limit` counts as hung.
        case send(MonitorRequest, limit: Duration?)
        case event(GuardMachine.Event)
    }

    public let guest: GuestID
    public let side: Side
    let replyLimit: Duration
    /// The guard has sent `cont`, or was about to; since when.
    public private(set) var continuedAt: Int64?
    private var stoppedAt: Int64?
    private var resumed: EventTime?
    /// A `cont` of ours that is not answered yet; since when.
    private var contSentAt: Int64?
    /// A `cont` of ours waited in vain until then: its guest can have gone on only after that.
    private var hungAt: Int64?
    /// It was seen to execute before any `cont` of ours.
    private var wasExecuting = false
    /// Of the `stop` that came behind our `cont`, until the guest goes on.
    private var stoppedLateAt: Int64?

    public init(_ guest: GuestID, _ side: Side, budget: HoldBudget) {
        self.guest = guest
        self.side = side
        replyLimit = budget.replyLimit
    }

    /// - Parameters:
    ///   - now: the hold clock.
    ///   - wall: the wall clock.
    /// - Returns: what to do, in this order.
    public mutating func handle(_ input: Input, at now: Int64, wall: Timestamp) -> [Output] {
        switch input {
        case .continueGuest(isConnected: false): return [.wake, .connect]
        case .continueGuest(isConnected: true):
            if continuedAt == nil { continuedAt = now }
            return [.wake, ask(at: now)]
        case .connectFailed: return [.event(.continueFailed(guest, side))]
        case .event(let event, let stamp): return on(event, stamp, at: now, wall: wall)
        case .replied(let request, let reply): return onReply(request, reply, at: now)
        }
    }

    private mutating func onReply(
        _ request: MonitorRequest, _ reply: MonitorReply, at now: Int64
    ) -> [Output] {
        switch (request, reply) {
        case (.queryReadiness, .readiness(.ready(let isExecuting))):
            if isExecuting, hungAt == nil { wasExecuting = true }
            return [cont(at: now)]
        case (.contAndLook, .executing(true)):
            // Whose answer was lost with a connection that had only broken may have been at once:
            // then the note of before is nearer.
            let at = resumed?.hold ?? hungAt
            return [.event(.continued(guest, side, at: at ?? now, wasHeld: at != nil))]
        case (.contAndLook, .ended):
            if let contSentAt, !wasExecuting, .microseconds(now - contSentAt) >= replyLimit {
                hungAt = now
            }
            return [.event(.continueFailed(guest, side))]
        case (.queryReadiness, _), (.contAndLook, _): return [.event(.continueFailed(guest, side))]
        default: return []
        }
    }

    /// An old one may be in its migration's end, a new one never is.
    private mutating func ask(at now: Int64) -> Output {
        let isSure = side == .new || mutated(.guardContinuesUnready)
        return isSure ? cont(at: now) : .send(.queryReadiness, limit: replyLimit)
    }

    private mutating func cont(at now: Int64) -> Output {
        contSentAt = now
        return .send(.contAndLook, limit: replyLimit)
    }

    private mutating func on(
        _ event: MonitorEvent, _ stamp: Int64?, at now: Int64, wall: Timestamp
    ) -> [Output] {
        switch event {
        case .resume:
            // An old one whose migration failed continues by itself.
            guard let since = continuedAt ?? stoppedAt else { break }
            let time = EventTime(
                stamp: stamp, notBefore: stoppedLateAt ?? since, hold: now,
                wall: wall.microseconds)
            resumed = time
            guard stoppedLateAt != nil else { break }
            stoppedLateAt = nil
            return [.event(.continued(guest, side, at: time.hold, wasHeld: true))]
        case .stop:
            // Not before it was about to be held, as the machine knows.
            let time = EventTime(
                stamp: stamp, notBefore: 0, hold: now, wall: wall.microseconds)
            let stopped = Output.event(.stopped(guest, at: time.hold, wall: time.wall))
            guard continuedAt != nil else {
                stoppedAt = now
                resumed = nil
                return [stopped]
            }
            // Or the one that a `migrate` of the dead agent begins with: then it must not go on yet.
            stoppedLateAt = now
            return [stopped, ask(at: now)]
        case .migration: break
        }
        return []
    }
}
