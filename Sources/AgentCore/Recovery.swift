// What a restarted agent does with a guest that a step was working on, decided from the processes
// themselves. "Kill" always comes before "continue".
//
//  old \ new     absent        inmigrate           paused              running        other       unreachable
//  absent        lost          wait; lost, kill    continue new        keep new       keep new    wait
//                              new, when it is late                                  as it is
//  running       keep old      keep old, kill new  keep old, kill new  keep old,      keep old,   keep old,
//                                                                      kill new       kill new    kill new
//  paused        continue old  continue old        continue old        keep new,      continue    continue old
//                              (kill new)          (kill new)          kill old       old         (kill new)
//  inmigrate     lost: a process that never received its guest cannot be the old one
//  other         keep old as it is (kill new): shut down, crashed inside or stopped by an I/O error
//  unreachable   wait          wait                wait                keep new,      wait        wait
//                                                                      kill old
//
// `paused` stands for every runstate of a guest that was stopped and can be continued: `paused`,
// `postmigrate`, `finish-migrate` and others. `other` is what a guest that has run can come into by itself; a new
// process in `prelaunch` never had one, and is as good as absent. A new process that is `running` was
// continued after the old one had been killed, so an old one still to be seen is on its way out.
//
// A new process that is `paused` while the old one is gone is continued only if the old one was about to
// be killed for it (HoldNote.committing): one that ended by itself may have gone on with its guest before.
//
// A new process in `inmigrate` whose old one has ended may still be reading what that had sent: it is late
// when it has had the step's deadline for that.
//
// Silence is never a reason to kill: a QEMU that waits for a disk answers in the end, and may be all that
// is left of its guest. Nor is it a measure of time, since it may be this agent that stood still. Who is
// certain that such a process is of no use ends it by hand.
//
// Each guest is decided by itself: one that has to wait keeps no other guest waiting.

import Fleet

/// What one QEMU process does, as seen from outside.
public enum ProcessState: Hashable, Sendable {
    case absent
    /// It waits for a guest, or has a part of one.
    case inmigrate
    /// Stopped; can be continued.
    case paused
    case running
    /// Any other runstate, by its QMP name: `shutdown`, `internal-error`, `io-error`, …
    case other(String)
    /// It lives, but its monitor does not answer.
    case unreachable

    /// - Parameter runstate: as `query-status` tells it.
    public init(runstate: String) {
        switch runstate {
        case "running": self = .running
        case "inmigrate": self = .inmigrate
        case "paused", "postmigrate", "finish-migrate", "suspended", "save-vm", "restore-vm":
            self = .paused
        default: self = .other(runstate)
        }
    }
}

public enum RecoveryAction: Hashable, Sendable {
    /// It is in order on that side; the other one is killed if it lives.
    case keep(Side)
    /// Kill the other one, then continue this one.
    case continueGuest(Side)
    /// Nothing is known of its processes, nor done to them: the host's file does not name it any more.
    case unnamed
    case lost(reason: String)
    /// Look again a little later.
    case wait
}

public enum Recovery {
    /// - Parameters:
    ///   - old: the process that the guest ran on before the step.
    ///   - new: the process that the step started.
    ///   - isLate: whatever the old one had sent should have been read long ago.
    /// - Returns: the cell of the table at the top of this file.
    public static func decide(
        old: ProcessState, new: ProcessState, isLate: Bool = false
    ) -> RecoveryAction {
        switch (old, new) {
        case (.paused, _) where mutated(.recoveryLeavesPaused): .keep(.old)
        case (.absent, .paused) where mutated(.recoveryLosesNew): .lost(reason: "the old has ended")
        case (.unreachable, _) where mutated(.recoveryTakesHungForDead):
            decide(old: .absent, new: new, isLate: isLate)
        case (.running, _), (.other, _): .keep(.old)
        case (_, .running): .keep(.new)
        case (.paused, _): .continueGuest(.old)
        case (.absent, .paused): .continueGuest(.new)
        case (.absent, .unreachable): .wait
        case (.absent, .absent): .lost(reason: "both QEMU processes have ended")
        case (.absent, .inmigrate) where !isLate: .wait
        case (.absent, .inmigrate):
            .lost(reason: "the old QEMU ended before its state had arrived in the new one")
        case (.absent, .other("prelaunch")):
            .lost(reason: "the old QEMU has ended and the new one never had the guest")
        case (.absent, .other): .keep(.new)
        case (.inmigrate, _):
            .lost(reason: "the QEMU it ran on waits for a guest and does not have one")
        case (.unreachable, _): .wait
        }
    }
}
