import Fleet
import Testing

@testable import AgentCore

/// A release whose commands are allowed 5 s, 2 s and 3 s.
private func hostDirective(
    _ guests: [GuestID] = [guestA, guestB], prepare: Bool = false, check: Bool = true,
    undo: Bool = true, deadlineMilliseconds: UInt32 = 20_000
) -> Directive {
    func command(_ milliseconds: UInt32) -> HostCommand {
        HostCommand(
            path: "/c", arguments: [], sha256: [UInt8](repeating: 1, count: 32),
            limitMilliseconds: milliseconds)
    }
    let work = HostWork(
        version: "2", holdsGuests: !guests.isEmpty, prepare: prepare ? command(60_000) : nil,
        apply: command(5_000), check: check ? command(2_000) : nil,
        undo: undo ? command(3_000) : nil)
    return Directive(
        step: StepID(rollout: RolloutID(1), number: 1), token: Token(1), host: HostID(checked: "h"),
        release: Release(id: ReleaseID(checked: "r"), component: .network, work: .host(work)),
        guests: guests, deadlineMilliseconds: deadlineMilliseconds)
}

private func hostMachine(_ directive: Directive = hostDirective()) -> HoldMachine {
    HoldMachine(
        directive: directive,
        plans: directive.guests.map { GuestPlan(id: $0, hypervisorBefore: "q") },
        acceptedAt: epoch)
}

private func stopped(_ id: GuestID) -> HoldEvent { .guest(id, .stopped(at: 100, wall: epoch)) }
private func continued(_ id: GuestID) -> HoldEvent { .guest(id, .continued(.old, at: 900)) }
private func healthy(_ id: GuestID) -> HoldEvent {
    .guest(id, .confirmed(Confirmation(isHealthy: true)))
}
private func failed(_ kind: CommandKind) -> HoldEvent {
    .commandEnded(kind, problem: "exit code 1")
}
private func ended(_ kind: CommandKind) -> HoldEvent { .commandEnded(kind, problem: nil) }

private let held: [HoldEvent] = [.begin, .artifactVerified, .guardArmed]
private let applying = held + [stopped(guestA), stopped(guestB)]
private let resumed: [HoldEvent] = [
    continued(guestA), continued(guestB), healthy(guestA), healthy(guestB),
]

private func brief(host effect: HoldEffect) -> String? {
    switch effect {
    case .run(let kind): "run:\(kind)"
    case .killCommand: "killCommand"
    case .pause(let id): "pause:\(id)"
    case .continueGuest(let id, .old): "cont:\(id)"
    case .armGuard: "arm"
    case .tellGuard(.holding(let id, _)): "guard:holding:\(id)"
    case .finish(let report): "finish:\(report.outcome)"
    case .kill, .discard, .switchQueues, .adoptNew, .stopAndMove, .prepare: "WRONG:\(effect)"
    default: nil
    }
}

/// What the whole story makes the shell do, and its report.
private func play(
    _ events: [HoldEvent], on start: HoldMachine = hostMachine()
) -> (told: [String], report: StepReport?) {
    var hold = start
    var told: [String] = []
    var report: StepReport?
    for (index, event) in events.enumerated() {
        let effects = hold.handle(event, at: Int64(1_000 * index), wall: epoch)
        told += effects.compactMap(brief(host:))
        report = report ?? finalReport(in: effects)
    }
    return (told, report)
}

@Suite("A hold of the whole host")
struct HostHoldTests {
    @Test("all guests are paused, the commands run, all go on")
    func succeeds() throws {
        let (told, report) = play(applying + [ended(.apply), ended(.check)] + resumed)
        #expect(
            told == [
                "arm", "guard:holding:a", "guard:holding:b", "pause:a", "pause:b", "run:apply",
                "run:check", "cont:a", "cont:b", "finish:succeeded",
            ])
        let found = try #require(report)
        #expect(found.reason == "")
        #expect(
            found.phases.map(\.phase)
                == [.accepted, .preparing, .held, .patched, .resumed, .confirmed])
        #expect(found.holds.map(\.guest) == [guestA, guestB])
        #expect(found.holds[0].holdMicroseconds == 800)
        #expect(found.holds[0].hypervisorAfter == "q")
    }

    @Test("apply waits for the last guest")
    func waitsForAll() {
        #expect(!play(held + [stopped(guestA)]).told.contains("run:apply"))
    }

    @Test("what fails is undone, and the guests go on on the old software")
    func undone() throws {
        for story in [[failed(.apply)], [ended(.apply), failed(.check)]] {
            let (told, report) = play(applying + story + [ended(.undo)] + resumed)
            #expect(told.suffix(4) == ["run:undo", "cont:a", "cont:b", "finish:failed"])
            let found = try #require(report)
            #expect(found.reason.contains("exit code 1"))
            #expect(found.holds.allSatisfy { $0.outcome == .failed && !$0.reason.isEmpty })
        }
    }

    @Test("what cannot be undone is unhealthy, and the guests go on all the same")
    func unsafe() {
        let undoFailed = play(applying + [failed(.apply), failed(.undo)] + resumed)
        #expect(undoFailed.told.suffix(3) == ["cont:a", "cont:b", "finish:unhealthy"])
        #expect(undoFailed.report?.reason.contains("then undo: exit code 1") == true)
        let noUndo = play(
            applying + [failed(.apply)] + resumed, on: hostMachine(hostDirective(undo: false)))
        #expect(noUndo.told.suffix(3) == ["cont:a", "cont:b", "finish:unhealthy"])
    }

    @Test("the patch timer kills and undoes; the resume timer waits for nothing")
    func timers() {
        let cut = play(applying + [.timerFired(.patch), failed(.apply), ended(.undo)] + resumed)
        #expect(
            cut.told.suffix(5) == ["killCommand", "run:undo", "cont:a", "cont:b", "finish:failed"])
        let late = play(
            applying + [.timerFired(.patch), failed(.apply), .timerFired(.resume)] + resumed)
        #expect(late.told.suffix(4) == ["killCommand", "cont:a", "cont:b", "finish:unhealthy"])
        // An apply that ends well although it was told to die is not kept.
        let race = play(applying + [.timerFired(.patch), ended(.apply), ended(.undo)] + resumed)
        #expect(race.told.contains("run:undo"))
    }

    @Test("a guest that cannot be paused ends the hold before anything is applied")
    func cannotPause() {
        let story = held + [stopped(guestA), .guest(guestB, .stopFailed(reason: "no"))] + resumed
        let (told, report) = play(story)
        #expect(!told.contains("run:apply"))
        #expect(told.suffix(3) == ["cont:a", "cont:b", "finish:failed"])
        #expect(report?.reason.contains("b could not be paused") == true)
    }

    @Test("a guest that is lost under apply has it undone for the others")
    func lostUnderApply() {
        let (told, report) = play(
            applying + [.guest(guestA, .exited(.old)), failed(.apply), ended(.undo)]
                + [continued(guestB), healthy(guestB)])
        #expect(told.contains("killCommand"))
        #expect(told.contains("run:undo"))
        #expect(report?.outcome == .lost)
        #expect(report?.holds.first { $0.guest == guestB }?.outcome == .failed)
    }

    @Test("without its guard the hold is cut short")
    func guardGone() {
        let (told, _) = play(
            applying + [.guardFailed(reason: "gone"), failed(.apply), ended(.undo)] + resumed)
        #expect(told.suffix(5) == ["killCommand", "run:undo", "cont:a", "cont:b", "finish:failed"])
    }

    @Test("prepare runs before the hold, and if it fails nothing is held")
    func prepare() {
        let start = hostMachine(hostDirective(prepare: true))
        let good = play([.begin, .artifactVerified, ended(.prepare)], on: start)
        #expect(good.told == ["run:prepare", "arm"])
        let bad = play([.begin, .artifactVerified, failed(.prepare)], on: start)
        #expect(bad.told.last == "finish:failed")
        #expect(bad.report?.holds.isEmpty == true)
        #expect(bad.report?.reason.contains("prepare: exit code 1") == true)
    }

    @Test("what must not be held on is said before the guard is armed")
    func refused() {
        let arming: [HoldEvent] = [.begin, .artifactVerified]
        let ill = play(arming + [.holdRefused(reason: "b is ill")])
        #expect(ill.told == ["arm", "finish:failed"])
        #expect(ill.report?.holds.isEmpty == true)
        #expect(ill.report?.reason.contains("nothing was held: b is ill") == true)
        // Once guests are held it is too late for that.
        let late = play(applying + [.holdRefused(reason: "b is ill")])
        #expect(!late.told.contains("killCommand"))
        #expect(late.report == nil)
    }

    @Test("a release that holds nobody runs its commands with no guard")
    func noGuests() {
        let start = hostMachine(hostDirective([]))
        let good = play([.begin, .artifactVerified, ended(.apply), ended(.check)], on: start)
        #expect(good.told == ["run:apply", "run:check", "finish:succeeded"])
        let bad = play([.begin, .artifactVerified, failed(.apply), ended(.undo)], on: start)
        #expect(bad.told == ["run:apply", "run:undo", "finish:failed"])
    }

    @Test("a guest that is unhealthy afterwards is left alone and said")
    func sick() {
        let (told, report) = play(
            applying + [ended(.apply), ended(.check), continued(guestA), continued(guestB)]
                + [
                    healthy(guestA),
                    .guest(guestB, .confirmed(Confirmation(isHealthy: false, reason: "ill"))),
                ])
        #expect(!told.contains("run:undo"))
        #expect(report?.outcome == .unhealthy)
        #expect(report?.reason == "b: ill")
    }

    // MARK: After a restart

    private func recovered(
        _ notes: [HoldNote], _ action: RecoveryAction, _ more: [HoldEvent]
    ) -> (told: [String], report: StepReport?) {
        let directive = hostDirective([guestA])
        let history: [HoldNote] =
            [.holding(guestA, at: 1, wall: epoch), .stopped(guestA, at: 2, wall: epoch)] + notes
        let machine = HoldMachine(
            recovering: directive,
            guests: [
                RecoveredGuest(
                    plan: GuestPlan(id: guestA, hypervisorBefore: "q"), action: action,
                    history: HoldHistory(history, of: guestA))
            ], phases: [PhaseTime(phase: .accepted, at: epoch)], commands: CommandHistory(history))
        return play([.begin] + more, on: machine)
    }

    @Test("a restarted agent continues the guests first, then undoes what was half applied")
    func recoversHalfApplied() {
        let (told, report) = recovered(
            [.commandBegan(.apply)], .continueGuest(.old),
            [continued(guestA), healthy(guestA), ended(.undo)])
        #expect(told == ["killCommand", "cont:a", "run:undo", "finish:failed"])
        #expect(report?.holds.first?.resumedBy == .restartedAgent)
    }

    @Test(
        "a guest that cannot be reached is continued once it is found, and does not stop the undo")
    func recoversUnreachable() {
        let (told, report) = recovered(
            [.commandBegan(.apply)], .wait,
            [
                ended(.undo), .guest(guestA, .found(.continueGuest(.old))), continued(guestA),
                healthy(guestA),
            ])
        #expect(told == ["killCommand", "run:undo", "cont:a", "finish:failed"])
        #expect(report?.holds.count == 1)
    }

    @Test("a guest that is named no more keeps neither the others nor the undo from their end")
    func recoversUnnamed() {
        let history: [HoldNote] =
            [guestA, guestB].flatMap { guest -> [HoldNote] in
                [.holding(guest, at: 1, wall: epoch), .stopped(guest, at: 2, wall: epoch)]
            } + [.commandBegan(.apply)]
        let machine = HoldMachine(
            recovering: hostDirective(),
            guests: zip([guestA, guestB], [RecoveryAction.unnamed, .continueGuest(.old)]).map {
                RecoveredGuest(
                    plan: GuestPlan(id: $0, hypervisorBefore: "q"), action: $1,
                    history: HoldHistory(history, of: $0))
            }, phases: [PhaseTime(phase: .accepted, at: epoch)], commands: CommandHistory(history))
        let (told, report) = play(
            [.begin, continued(guestB), healthy(guestB), ended(.undo)], on: machine)
        #expect(told == ["killCommand", "cont:b", "run:undo", "finish:lost"])
        #expect(report?.holds.map(\.guest) == [guestA, guestB])
    }

    @Test("what had been applied and checked stays")
    func recoversApplied() {
        let (told, report) = recovered(
            [
                .commandBegan(.apply), .commandEnded(.apply, problem: nil), .commandBegan(.check),
                .commandEnded(.check, problem: nil),
            ], .continueGuest(.old), [continued(guestA), healthy(guestA)])
        #expect(told == ["cont:a", "finish:succeeded"])
        #expect(report?.outcome == .succeeded)
    }

    @Test("what had not begun needs no undo; what had been undone is not undone twice")
    func recoversUntouched() {
        let untouched = recovered([], .keep(.old), [healthy(guestA)])
        #expect(untouched.told == ["finish:failed"])
        let undone = recovered(
            [
                .commandBegan(.apply), .commandEnded(.apply, problem: "exit code 1"),
                .commandBegan(.undo), .commandEnded(.undo, problem: nil),
            ], .keep(.old), [healthy(guestA)])
        #expect(undone.told == ["finish:failed"])
        #expect(undone.report?.reason.contains("apply: exit code 1") == true)
    }

    // MARK: Budget

    @Test("what cannot fit into the deadline is refused with the numbers")
    func budget() {
        let unmeasured = MeasuredParts()
        #expect(HoldBudget.problem(hostDirective(), unmeasured) == nil)
        // 1 s to pause, 5 + 2 + 3 s of commands, 1 s of the guard's and 1 s to resume.
        let tight = hostDirective(deadlineMilliseconds: 13_000)
        #expect(HoldBudget.problem(tight, unmeasured) == nil)
        let short = hostDirective(deadlineMilliseconds: 12_900)
        #expect(HoldBudget.problem(short, unmeasured)?.contains("= 13.0 s") == true)
        var slow = MeasuredParts()
        slow.noteResume(4_000_000)
        #expect(HoldBudget.problem(tight, slow)?.contains("to resume 13.0 s") == true)
        var quick = MeasuredParts()
        quick.notePause(1_000)
        quick.noteResume(1_000)
        #expect(HoldBudget.problem(short, quick) == nil)
    }

    @Test("only the newest measurements count")
    func measurements() {
        var parts = MeasuredParts()
        parts.noteResume(9_000_000)
        for _ in 0..<MeasuredParts.countMax { parts.noteResume(100_000) }
        #expect(parts.resumeReserve == 300_000)
    }

    @Test("a hand-over that never fitted is not begun")
    func handOverBudget() {
        var parts = MeasuredParts()
        parts.noteHandOver(8_000_000)
        #expect(HoldBudget.problem(directive(), parts)?.contains("8.0 s") == true)
        #expect(HoldBudget.problem(directive(), MeasuredParts()) == nil)
    }

    // MARK: Guard

    @Test("the guard kills the command and continues every held guest")
    func guardActs() {
        var watch = GuardMachine(
            guests: [guestA, guestB], budget: HoldBudget(deadlineMilliseconds: 10_000),
            isOfWholeHost: true)
        for message: GuardMessage in [
            .holding(guestA, since: 0), .holding(guestB, since: 0), .running(.apply),
            .ended(.apply), .running(.check),
        ] { _ = watch.handle(.message(message), at: 0) }
        let effects = watch.handle(.channelClosed, at: 5)
        #expect(effects.first == .killCommand(.check))
        #expect(effects.contains(.continueGuest(guestA, .old)))
        #expect(effects.contains(.continueGuest(guestB, .old)))
        #expect(
            !effects.contains {
                if case .kill = $0 { true } else { false }
            })
        _ = watch.handle(.continued(guestA, .old, at: 6, wasHeld: true), at: 6)
        let last = watch.handle(.continued(guestB, .old, at: 6, wasHeld: true), at: 6)
        #expect(last.last == .finish)
    }

    @Test("a command that has ended is none of the guard's business: it may have started a daemon")
    func guardLeavesDaemons() {
        var watch = GuardMachine(
            guests: [guestA], budget: HoldBudget(deadlineMilliseconds: 10_000), isOfWholeHost: true)
        for message: GuardMessage in [
            .holding(guestA, since: 0), .running(.apply), .ended(.apply),
        ] { _ = watch.handle(.message(message), at: 0) }
        let effects = watch.handle(.channelClosed, at: 5)
        #expect(!effects.contains(.killCommand(.apply)))
    }

    @Test("every note can be read back")
    func notes() {
        for note: HoldNote in [
            .commandBegan(.apply), .commandEnded(.undo, problem: nil),
            .commandEnded(.check, problem: "exit\tcode 1"),
        ] {
            #expect(HoldNote(line: note.line)?.line == note.line)
        }
    }
}
