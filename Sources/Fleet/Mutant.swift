// Deliberate bugs, each behind a switch that only test builds have: the mutation check of the simulator. See
// Sources/Simulation/README.md, "Mutants", and scripts/check-mutants.py.

/// A deliberate bug in production code. The simulator has to find every one of them.
@usableFromInline
package enum Mutant: String, CaseIterable, Sendable {
    // MARK: The log in etcd
    /// Whoever was deposed may still write: the epoch is not compared.
    case appendWithoutEpoch
    /// An append that comes late or twice overwrites what came after it: the next index is not compared.
    case appendWithoutNext
    /// An append that failed, or that nobody has answered, is taken for done.
    case failedAppendCounts
    /// An append whose first try has come through, unanswered, is taken for somebody else's.
    case earlierTryForgotten
    /// A snapshot deletes the records after it, too.
    case snapshotDeletesAll

    // MARK: The leader
    /// A new leader goes on from what it has heard, and does not read what else is in the log.
    case leaderLoadsNothing
    /// Commands are answered before their facts are durable.
    case answerBeforeDurable
    /// Directives and events are sent before their facts are durable.
    case directiveBeforeDurable
    /// Reads are answered without asking whether another server leads by now.
    case readUnconfirmed
    /// A follower that comes gets events that are not durable yet.
    case eventBeforeCommit
    /// A follower's cursor is off by one.
    case eventSkipped
    /// Directives of before a session are taken for sent.
    case directiveNotRepeated
    /// Whoever waits for a host that has just connected goes on waiting until something else happens.
    case connectedNotScheduled
    /// The step is over for the leader as soon as the agent has accepted it.
    case lockFreedOnAccept
    /// A report is acknowledged before it is durable.
    case reportAnsweredEarly
    /// A standby applies the records of a batch out of order.
    case standbyAppliesBackwards
    /// Nobody follows a leader that has died.
    case nobodyTakesOver
    /// A snapshot forgets the locks.
    case snapshotWithoutLocks
    /// A snapshot forgets which tokens are used up.
    case snapshotWithoutToken
    /// A snapshot forgets the events that a notifier still needs.
    case snapshotWithoutEvents

    // MARK: The coordinator
    /// A set that is locked for an update domain is granted to another one.
    case grantIgnoresLocks
    /// A set of which a guest of another update domain is not well is granted.
    case grantIgnoresUnwell
    /// A guest that has not run since a step in which its host lost power counts as shut down.
    case missingIsWell
    /// Steps of a paused rollout are granted.
    case pauseIgnored
    /// Steps on a cordoned host are granted.
    case cordonIgnored
    /// Whoever comes later may pass a step that has waited too long already.
    case doorStaysOpen
    /// A grant does not use its token up.
    case tokenReused
    /// A step with a guest that is not well, or lost, lets its locks go.
    case unhealthyUnlocks
    /// A rollout goes on after as many failures as it may have.
    case failuresIgnored
    /// Steps of an aborted rollout go on waiting.
    case abortLeavesSteps
    /// Events go as soon as they are there, whether or not a notifier has them.
    case eventTrimmedEarly

    // MARK: The agent
    /// A directive that comes again for the step at work is begun again.
    case repeatedBeginsAgain
    /// The step begins before its token is durable.
    case beginBeforeKept
    /// The step begins although its token could not be written.
    case keepFailureIgnored
    /// The step's record goes, and its report is never written.
    case stepEndsUnreported
    /// A report is forgotten when it is sent, not when it is committed.
    case reportForgottenWhenSent
    /// A report is sent once.
    case reportNotRepeated

    // MARK: A restarted agent's hold
    /// A guest that is found stopped is left so.
    case recoveryLeavesPaused
    /// A guest that stands complete in the new process is given up.
    case recoveryLosesNew
    /// A process that does not answer counts as dead.
    case recoveryTakesHungForDead
    /// The note that a guest was about to be held is not read.
    case noteOfHoldIgnored
    /// What an agent that was restarted before was about to continue counts as never held.
    case finishedHoldForgotten

    // MARK: The hold
    /// A host is changed as soon as the first of its guests stands still.
    case applyBeforePaused
    /// The new process goes on before the old one is dead.
    case continueBeforeKill
    /// The word of one of the two processes is enough for a commit.
    case movedOnOneWord
    /// The old process is continued whatever state its migration is in.
    case continueUnready
    /// The guard is not told of the commit.
    case commitUntold
    /// The guard is told that a guest goes on before it does.
    case releasedTooEarly
    /// A guest whose `cont` failed once is given up.
    case continueGivenUp
    /// A guest that does not answer after its hold counts as well.
    case alwaysHealthy
    /// A step's outcome is that of its best guest.
    case bestOutcomeTold
    /// The length of a hold is measured from the command that ends in it, not from the guest's stop.
    case lengthFromCommand

    // MARK: Notices
    /// A step is granted without its guests being told.
    case noticeSkipped
    /// Guests of two update domains of a set are told to make room at once.
    case noticeIgnoresOtherDomain
    /// A step starts as soon as one of its guests has acknowledged.
    case acknowledgementOfOneCountsForAll
    /// A snapshot has no notices.
    case snapshotWithoutNotices

    // MARK: The guard
    /// Guests are held without a guard.
    case guardDropped
    /// The guard lets a hung agent have the whole deadline and more.
    case guardTooLate
    /// The guard acts beside a hung agent, which may wake.
    case guardSparesAgent
    /// The guard continues one process without killing the other.
    case guardSparesLoser
    /// The guard takes a guest whose old process is being killed for one that can go back.
    case guardForgetsCommit
    /// The guard takes a guest that can only go back for a committed one.
    case guardTakesHeldForCommitted
    /// The guard takes a guest that goes on already for a held one.
    case guardForgetsRelease
    /// The guard does not repeat a `cont` that was refused.
    case guardTriesOnce
    /// The guard continues the old process whatever state its migration is in.
    case guardContinuesUnready

    // MARK: The notifier
    /// A bulletin is marked as delivered before it is sent.
    case markedBeforeSent
}

#if MUTANTS
    extension Mutant {
        /// The one that is switched on; set once, before anything runs.
        nonisolated(unsafe) package static var active: Mutant?
    }

    /// Whether this bug is switched on.
    package func mutated(_ mutant: Mutant) -> Bool { Mutant.active == mutant }
#else
    /// Whether this bug is switched on: never in this build, which has none of them.
    @inlinable @inline(__always)
    package func mutated(_ mutant: Mutant) -> Bool { false }
#endif
