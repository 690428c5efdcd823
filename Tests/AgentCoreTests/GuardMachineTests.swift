import AgentCore
import Fleet
import Testing

@Suite struct GuardMachineTests {
    private let budget = HoldBudget(deadlineMilliseconds: 10_000)
    private func guarding(_ messages: GuardMessage...) -> GuardMachine {
        var watch = GuardMachine(guests: [guestA], budget: budget)
        for message in messages { _ = watch.handle(.message(message), at: 0) }
        return watch
    }
    private func brief(_ effects: [GuardMachine.Effect]) -> String {
        effects.compactMap { effect -> String? in
            switch effect {
            case .setTimer: "timer"
            case .killAgent: "killAgent"
            case .killCommand(let kind): "killCommand:\(kind)"
            case .kill(_, let side): "kill:\(side)"
            case .switchQueues(_, let side): "queues:\(side)"
            case .continueGuest(_, let side): "cont:\(side)"
            case .note: nil
            case .finish: "finish"
            }
        }.joined(separator: " ")
    }

    @Test("when the channel closes, it does what each guest's messages call for")
    func channelCloses() {
        let holding = GuardMessage.holding(guestA, since: 0)
        let cases: [(GuardMachine, String)] = [
            (guarding(), "kill:new finish"),
            (guarding(holding), "kill:new queues:old"),
            (guarding(holding, .committing(guestA)), "kill:old queues:new"),
            (guarding(holding, .committing(guestA), .undoing(guestA)), "kill:new queues:old"),
            (guarding(holding, .committing(guestA), .released(guestA)), "finish"),
            (guarding(holding, .released(guestA), .disarm), ""),
        ]
        for (index, (watch, expected)) in cases.enumerated() {
            var watch = watch
            #expect(brief(watch.handle(.channelClosed, at: 1)) == expected, "case \(index)")
        }
    }

    @Test("the loser is killed before the winner is continued, and refusals are tried again")
    func order() {
        var watch = guarding(.holding(guestA, since: 0))
        _ = watch.handle(.channelClosed, at: 1)
        #expect(brief(watch.handle(.killed(guestA, .new), at: 2)) == "timer")
        #expect(brief(watch.handle(.exited(guestA, .new), at: 3)) == "cont:old")
        #expect(brief(watch.handle(.continueFailed(guestA, .old), at: 4)) == "timer")
        #expect(brief(watch.handle(.timerFired, at: 5)) == "cont:old")
        let last = watch.handle(.continued(guestA, .old, at: 6, wasHeld: true), at: 6)
        #expect(last.contains(.note(.resumed(guestA, .old, at: 6, by: .guard, wasHeld: true))))
        #expect(brief(last) == "finish")
    }

    @Test("a loser that cannot be killed is told again, and nobody is continued before it is dead")
    func killFails() {
        let holding = GuardMessage.holding(guestA, since: 0)
        let cases: [(GuardMachine, Side)] = [
            (guarding(holding), .new), (guarding(holding, .committing(guestA)), .old),
        ]
        for (watch, loser) in cases {
            var watch = watch
            _ = watch.handle(.channelClosed, at: 1)
            #expect(
                watch.handle(.killFailed(guestA, loser), at: 2)
                    == [.setTimer(at: 2 + budget.retryMicroseconds)])
            #expect(watch.handle(.timerFired, at: 3) == [.kill(guestA, loser)])
            // It stays so after the deadline; only the pauses become longer.
            let late = budget.deadlineMicroseconds + 1
            #expect(
                watch.handle(.killFailed(guestA, loser), at: late)
                    == [.setTimer(at: late + HoldBudget.lookMicroseconds)])
            #expect(watch.handle(.timerFired, at: late) == [.kill(guestA, loser)])
            var ended = watch
            #expect(
                brief(ended.handle(.exited(guestA, loser), at: late)) == "cont:\(loser.other)")
            let expected = loser == .new ? "timer" : "cont:new"
            #expect(brief(watch.handle(.killed(guestA, loser), at: late)) == expected)
        }
    }

    @Test("what the guard waits for fits into its reserve, also before a short deadline")
    func waitsFit() {
        for milliseconds: UInt32 in [500, 1_000, 5_000, 30_000] {
            let budget = HoldBudget(deadlineMilliseconds: milliseconds)
            let waits = budget.agentExitMicroseconds + budget.exitMicroseconds
            #expect(waits <= budget.guardReserveMicroseconds * 2 / 3)
            #expect(budget.lastLinesMicroseconds < budget.agentExitMicroseconds)
        }
    }

    @Test("a guest that stopped behind our cont is noted as held, also when all is settled")
    func stoppedLate() {
        var watch = guarding(.holding(guestA, since: 0))
        _ = watch.handle(.channelClosed, at: 1)
        _ = watch.handle(.killed(guestA, .new), at: 2)
        _ = watch.handle(.exited(guestA, .new), at: 3)
        let last = watch.handle(.continued(guestA, .old, at: 4, wasHeld: false), at: 4)
        #expect(brief(last) == "finish")
        #expect(
            watch.handle(.continued(guestA, .old, at: 6, wasHeld: true), at: 6)
                == [.note(.resumed(guestA, .old, at: 6, by: .guard, wasHeld: true))])
        #expect(watch.handle(.continued(guestA, .old, at: 7, wasHeld: true), at: 7).isEmpty)
    }

    @Test("a guest that stops once more is continued again, however often that is refused")
    func stopsOnceMore() {
        var watch = guarding(.holding(guestA, since: 0))
        _ = watch.handle(.channelClosed, at: 1)
        _ = watch.handle(.killed(guestA, .new), at: 2)
        _ = watch.handle(.exited(guestA, .new), at: 3)
        _ = watch.handle(.continued(guestA, .old, at: 4, wasHeld: false), at: 4)
        #expect(watch.isFinished)
        #expect(watch.handle(.stopped(guestA, at: 5, wall: epoch), at: 6).isEmpty)
        #expect(!watch.isFinished)
        #expect(brief(watch.handle(.continueFailed(guestA, .old), at: 7)) == "timer")
        #expect(brief(watch.handle(.timerFired, at: 8)) == "cont:old")
        let last = watch.handle(.continued(guestA, .old, at: 9, wasHeld: true), at: 9)
        #expect(
            last == [
                .note(.stopped(guestA, at: 5, wall: epoch)),
                .note(.resumed(guestA, .old, at: 9, by: .guard, wasHeld: true)), .finish,
            ])
        var disarmed = guarding(.holding(guestA, since: 0), .released(guestA), .disarm)
        #expect(disarmed.handle(.stopped(guestA, at: 5, wall: epoch), at: 6).isEmpty)
        #expect(disarmed.isFinished)
    }

    @Test("after a commit the new one is continued at once")
    func commit() {
        var watch = guarding(.holding(guestA, since: 0), .committing(guestA))
        _ = watch.handle(.channelClosed, at: 1)
        #expect(brief(watch.handle(.killed(guestA, .old), at: 2)) == "cont:new")
        #expect(brief(watch.handle(.exited(guestA, .new), at: 3)) == "finish")
    }

    @Test("if the new one has ended at the commit, an old one that still lives is continued")
    func newEndedAtCommit() {
        var watch = guarding(.holding(guestA, since: 0), .committing(guestA))
        _ = watch.handle(.exited(guestA, .new), at: 1)
        #expect(brief(watch.handle(.channelClosed, at: 2)) == "kill:new queues:old")
        #expect(brief(watch.handle(.killed(guestA, .new), at: 3)) == "cont:old")
    }

    @Test("a hung agent is killed before the deadline, and only then are guests touched")
    func hungAgent() {
        var watch = guarding(.holding(guestA, since: 0))
        #expect(brief(watch.handle(.timerFired, at: budget.guardMicroseconds - 1)) == "timer")
        #expect(brief(watch.handle(.timerFired, at: budget.guardMicroseconds)) == "killAgent")
        #expect(brief(watch.handle(.message(.committing(guestA)), at: 9_100_000)) == "")
        #expect(brief(watch.handle(.agentEnded, at: 9_200_000)) == "kill:old queues:new")
    }

    @Test("nothing held: the timer does nothing")
    func nothingHeld() {
        var watch = guarding(.holding(guestA, since: 0), .released(guestA))
        #expect(brief(watch.handle(.timerFired, at: 99_000_000)) == "")
    }
}
