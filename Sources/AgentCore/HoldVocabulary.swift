public import Fleet

/// Which of a guest's two QEMU processes: the one it ran on before the step, or the one it is
/// handed over to.
public enum Side: String, Hashable, Sendable, CaseIterable {
    case old
    case new

    public var other: Side { self == .old ? .new : .old }
}

/// One guest of a pause group, as far as the hold needs to know it.
public struct GuestPlan: Hashable, Sendable {
    public var id: GuestID
    /// Version label of the QEMU that runs it before the step.
    public var hypervisorBefore: String

    public init(id: GuestID, hypervisorBefore: String) {
        self.id = id
        self.hypervisorBefore = hypervisorBefore
    }
}

/// How a deadline is divided, in microseconds of the hold clock.
///
/// ```
/// stop                                 abort            guard                 deadline
///  ├── the move may take this long ──────┼── undo ─────────┼── the guard's undo ──┤
/// ```
public struct HoldBudget: Hashable, Sendable {
    public var deadlineMicroseconds: Int64
    /// Left at the abort timer: enough to kill the new QEMU and continue the old one.
    public var undoReserveMicroseconds: Int64
    /// Left when the guard takes over from a hung agent; less than the agent's own reserve.
    public var guardReserveMicroseconds: Int64
    /// How long starting and arming may take; guests run meanwhile.
    /// Four deadlines, 10 s to 120 s.
    public var prepareMicroseconds: Int64
    /// How long setting the clock and the health checks may take; guests run meanwhile.
    public var confirmMicroseconds: Int64 = 90_000_000
    /// Pause before a refused `cont` is sent again: the disk lock of a killed process goes with it.
    public var retryMicroseconds: Int64 = 5_000
    /// How long a killed process is awaited before the other one is continued all the same: 250 ms, or
    /// a quarter of the guard's reserve, which it shares with the wait for the agent's end.
    public var exitMicroseconds: Int64 { guardReserveMicroseconds / 4 }
    /// How long the guard awaits the end of an agent that it has killed: 300 ms at most.
    public var agentExitMicroseconds: Int64 { guardReserveMicroseconds * 3 / 10 }
    /// How long it then still reads what that agent had written: 100 ms at most.
    public var lastLinesMicroseconds: Int64 { guardReserveMicroseconds / 10 }
    /// Refusals of `cont` this long after the deadline mean that the guest cannot be continued.
    public var giveUpMicroseconds: Int64 = 30_000_000
    /// How long one sleep of a timer may be: a host that was suspended is late by no more.
    public static let lookMicroseconds: Int64 = 100_000

    /// - Parameter deadlineMilliseconds: as in the directive; the reserves are 3 s and 1 s, or 40 %
    ///   and 20 % of a deadline too short for them.
    public init(deadlineMilliseconds: UInt32) {
        deadlineMicroseconds = Int64(deadlineMilliseconds) * 1_000
        undoReserveMicroseconds = min(3_000_000, deadlineMicroseconds * 2 / 5)
        guardReserveMicroseconds = min(1_000_000, deadlineMicroseconds / 5)
        prepareMicroseconds = min(120_000_000, max(10_000_000, deadlineMicroseconds * 4))
    }

    /// A monitor that does not answer for so long is connected to anew: a twentieth of the deadline,
    /// so that several tries fit into each reserve.
    public var replyLimit: Duration {
        .microseconds(max(100_000, min(1_000_000, deadlineMicroseconds / 20)))
    }

    /// Of a step whose guests are only paused: what continuing all of them needs.
    public var resumeReserveMicroseconds: Int64 = 0
    /// Of such a step: what its `undo` may take.
    public var undoLimitMicroseconds: Int64 = 0

    public var abortMicroseconds: Int64 { deadlineMicroseconds - undoReserveMicroseconds }
    /// From here on only undo and resume are begun.
    public var patchMicroseconds: Int64 { resumeMicroseconds - undoLimitMicroseconds }
    /// From here on guests are continued, whatever their host is like.
    public var resumeMicroseconds: Int64 { guardMicroseconds - resumeReserveMicroseconds }
    public var guardMicroseconds: Int64 { deadlineMicroseconds - guardReserveMicroseconds }
}

/// What was found out about a guest after it was continued.
public struct Confirmation: Hashable, Sendable {
    public var isHealthy: Bool
    /// Why it is not, in words; empty if it is.
    public var reason: String
    public var clockErrorBeforeMicroseconds: Int64?
    public var clockErrorAfterMicroseconds: Int64?
    public var clockNote: String

    public init(
        isHealthy: Bool, reason: String = "", clockErrorBeforeMicroseconds: Int64? = nil,
        clockErrorAfterMicroseconds: Int64? = nil, clockNote: String = ""
    ) {
        self.isHealthy = isHealthy
        self.reason = reason
        self.clockErrorBeforeMicroseconds = clockErrorBeforeMicroseconds
        self.clockErrorAfterMicroseconds = clockErrorAfterMicroseconds
        self.clockNote = clockNote
    }
}

/// Which of a release's commands.
public enum CommandKind: String, Hashable, Sendable, CaseIterable {
    case prepare
    case apply
    case check
    case undo
}

/// What the agent tells its guard, in this order for each guest.
public enum GuardMessage: Hashable, Sendable {
    /// From here on the guest is not left to itself. `since` is on the hold clock.
    case holding(GuestID, since: Int64)
    /// The old QEMU is killed next: the way back is closed.
    case committing(GuestID)
    /// The commit did not happen: the way back is open again.
    case undoing(GuestID)
    /// The guest executes again, or nobody can make it execute: leave it alone.
    case released(GuestID)
    /// A command of the release is about to be started: it goes with the agent.
    case running(CommandKind)
    /// It has ended.
    case ended(CommandKind)
    /// Nothing is left to watch.
    case disarm
}

/// Something that happened to a step; the first four and the timers concern all its guests.
public enum HoldEvent: Hashable, Sendable {
    case begin
    case artifactVerified
    case artifactRefused(reason: String)
    case guardArmed
    /// It could not be armed, or it ended.
    case guardFailed(reason: String)
    /// Something was found while all is prepared that must not be held on, such as an ill guest.
    case holdRefused(reason: String)
    case timerFired(HoldTimer)
    /// A command and everything that it had started are gone; nil if it ended with 0.
    case commandEnded(CommandKind, problem: String?)
    case guest(GuestID, GuestEvent)
}

/// Something that happened to one guest. Times are on the hold clock.
public enum GuestEvent: Hashable, Sendable {
    /// The new QEMU waits for the guest.
    case prepared
    case prepareFailed(reason: String)
    case queuesSwitched
    case queuesFailed(reason: String)
    /// The old QEMU stopped the guest, at the time given.
    case stopped(at: Int64, wall: Timestamp)
    /// A guest that was only to be paused is not.
    case stopFailed(reason: String)
    /// The new QEMU has all of the state and is paused.
    case moved
    case moveFailed(reason: String)
    /// SIGKILL was delivered, or the process had ended before.
    case killed(Side)
    case killFailed(Side, reason: String)
    /// The guest executes on that side since the time given.
    case continued(Side, at: Int64)
    case continueFailed(Side, reason: String)
    case exited(Side)
    /// After a restart: what has become of a guest that could not be reached at first.
    case found(RecoveryAction)
    case confirmed(Confirmation)
}

public enum HoldTimer: Hashable, Sendable {
    case prepare
    /// The move has used up its part of the deadline.
    case abort(GuestID)
    case retry(GuestID)
    case confirm(GuestID)
    /// Apply and check have used up their part of the deadline.
    case patch
    /// So has undo.
    case resume
}

/// What the shell has to do, in the order given. Each may be carried out twice without harm.
public enum HoldEffect: Hashable, Sendable {
    /// Check path, mode and digest of the release's artifact.
    case verifyArtifact
    /// Start the guest's new QEMU and make it wait for the state.
    case prepare(GuestID)
    /// Start the guard and give it both processes of every guest.
    case armGuard
    case tellGuard(GuardMessage)
    case setTimer(HoldTimer, at: Int64)
    case cancelTimer(HoldTimer)
    /// Attach that side's tap queues and detach the other's.
    case switchQueues(GuestID, to: Side)
    /// Make the old QEMU stop the guest and send its state.
    case stopAndMove(GuestID)
    /// Stop the guest where it is.
    case pause(GuestID)
    /// Start one of the release's commands; it answers with `commandEnded`, also at its own limit.
    case run(CommandKind)
    /// Kill the command that runs, with everything that it has started.
    case killCommand
    /// SIGKILL through the pidfd.
    case kill(GuestID, Side)
    case continueGuest(GuestID, Side)
    /// From now on the new QEMU is the guest's, also after a restart of guest or host.
    case adoptNew(GuestID)
    /// Kill that side if it lives, and remove what belongs to it once it has ended.
    case discard(GuestID, Side)
    /// Set and measure the clock, check health, answer `confirmed`.
    case confirm(GuestID, Side)
    /// A line for a restarted agent; a plain write, never synchronised.
    case note(HoldNote)
    case progress(StepPhase)
    case finish(StepReport)
}
