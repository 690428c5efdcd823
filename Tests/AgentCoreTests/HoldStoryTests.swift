import AgentCore
import Fleet
import Testing

@Suite struct HoldStoryTests {
    @Test("a hold without trouble succeeds, and its record has the true start and length")
    func succeeds() throws {
        var hold = machine()
        let events: [(HoldEvent, Int64)] = [
            (.begin, 0), (.artifactVerified, 10), (.guest(guestA, .prepared), 20),
            (.guardArmed, 30), (.guest(guestA, .queuesSwitched), 31),
            (.guest(guestA, .stopped(at: 1_000, wall: epoch)), 1_200),
            (.guest(guestA, .moved), 9_000), (.guest(guestA, .killed(.old)), 9_001),
            (.guest(guestA, .continued(.new, at: 11_000)), 11_500),
        ]
        for (event, at) in events {
            #expect(finalReport(in: hold.handle(event, at: at, wall: epoch)) == nil)
        }
        let confirmation = Confirmation(
            isHealthy: true, clockErrorBeforeMicroseconds: -9_000, clockErrorAfterMicroseconds: 80)
        let last = hold.handle(.guest(guestA, .confirmed(confirmation)), at: 20_000, wall: epoch)
        let report = try #require(finalReport(in: last))
        #expect(report.outcome == .succeeded)
        #expect(report.reason == "")
        #expect(
            report.phases.map(\.phase)
                == [.accepted, .preparing, .held, .patched, .resumed, .confirmed])
        let record = try #require(report.holds.first)
        #expect(record.heldAt == epoch)
        #expect(record.holdMicroseconds == 10_000)
        #expect(record.hypervisorBefore == "old")
        #expect(record.hypervisorAfter == "new")
        #expect(record.clockErrorBeforeMicroseconds == -9_000)
        #expect(record.resumedBy == .agent)
    }

    @Test("a release that is refused holds nothing and has no record")
    func refused() throws {
        var hold = machine([guestA, guestB])
        _ = hold.handle(.begin, at: 0, wall: epoch)
        let effects = hold.handle(.artifactRefused(reason: "wrong digest"), at: 1, wall: epoch)
        let report = try #require(finalReport(in: effects))
        #expect(report.outcome == .failed)
        #expect(report.reason == "nothing was held: wrong digest")
        #expect(report.holds.isEmpty)
    }

    @Test("the failed hold of one guest stops the next, and the outcome is the worst of them")
    func oneFailureStopsTheNext() throws {
        var hold = machine([guestA, guestB], concurrency: 1)
        var last: [HoldEffect] = []
        let events: [HoldEvent] = [
            .begin, .artifactVerified, .guest(guestA, .prepared), .guest(guestB, .prepared),
            .guardArmed, .guest(guestA, .queuesSwitched),
            .guest(guestA, .stopped(at: 5, wall: epoch)),
            .guest(guestA, .moveFailed(reason: "device state refused")),
            .guest(guestA, .killed(.new)), .guest(guestA, .exited(.new)),
            .guest(guestA, .continued(.old, at: 9)),
            .guest(guestA, .confirmed(Confirmation(isHealthy: true))),
        ]
        for event in events {
            last = hold.handle(event, at: 6, wall: epoch)
            #expect(!last.contains(.switchQueues(guestB, to: .new)))
        }
        let report = try #require(finalReport(in: last))
        #expect(report.outcome == .failed)
        #expect(report.holds.map(\.guest) == [guestA])
        #expect(report.holds[0].reason == "device state refused")
        #expect(report.holds[0].hypervisorAfter == "old")
        #expect(report.reason.contains("b: not held: a: device state refused"))
    }

    @Test("of 32 guests one is bad: with its hold failed no further one is held, and all run")
    func oneBadOfMany() throws {
        let guests = (0..<32).map { GuestID(checked: "g\($0)") }
        let bad = guests[5]
        var hold = machine(guests, concurrency: 1)
        var pending: [HoldEvent] = [.begin, .artifactVerified]
        pending += guests.map { .guest($0, .prepared) } + [.guardArmed]
        var runsOn: [GuestID: Side] = [:]
        var discardedNew: Set<GuestID> = []
        var report: StepReport?
        while !pending.isEmpty {
            for effect in hold.handle(pending.removeFirst(), at: 6, wall: epoch) {
                switch effect {
                case .switchQueues(let id, to: .new): pending.append(.guest(id, .queuesSwitched))
                case .stopAndMove(let id):
                    pending.append(.guest(id, .stopped(at: 5, wall: epoch)))
                    pending.append(
                        .guest(id, id == bad ? .moveFailed(reason: "state refused") : .moved))
                case .kill(let id, let side):
                    pending += [.guest(id, .killed(side)), .guest(id, .exited(side))]
                case .continueGuest(let id, let side):
                    runsOn[id] = side
                    pending.append(.guest(id, .continued(side, at: 9)))
                case .confirm(let id, _):
                    pending.append(.guest(id, .confirmed(Confirmation(isHealthy: true))))
                case .discard(let id, .new): discardedNew.insert(id)
                case .finish(let last): report = last
                default: break
                }
            }
        }
        let found = try #require(report)
        #expect(found.outcome == .failed)
        #expect(found.holds.map(\.guest) == Array(guests[...5]))
        #expect(
            runsOn
                == Dictionary(
                    uniqueKeysWithValues: guests[...5].map { ($0, $0 == bad ? Side.old : .new) }))
        // Nobody's second process is left behind.
        #expect(discardedNew == Set(guests[5...]))
    }

    @Test("guests are held a few at a time")
    func concurrency() {
        var hold = machine([guestA, guestB], concurrency: 1)
        for event in [
            HoldEvent.begin, .artifactVerified, .guest(guestA, .prepared),
            .guest(guestB, .prepared), .guardArmed,
        ] { _ = hold.handle(event, at: 0, wall: epoch) }
        #expect(hold.heldGuests == [guestA])
    }

    @Test("the abort timer leaves the reserve for the way back")
    func abortTimer() {
        var hold = machine()
        var timers: [Int64] = []
        for event in [
            HoldEvent.begin, .artifactVerified, .guest(guestA, .prepared), .guardArmed,
        ] {
            for case .setTimer(.abort, let at) in hold.handle(event, at: 50, wall: epoch) {
                timers.append(at)
            }
        }
        #expect(timers == [50 + 10_000_000 - 3_000_000])
        let short = HoldBudget(deadlineMilliseconds: 500)
        #expect(short.abortMicroseconds == 300_000)
        #expect(short.guardMicroseconds == 400_000)
    }

    @Test("a QEMU that refuses to continue long after the deadline makes the guest lost")
    func givesUp() throws {
        var hold = machine()
        let path: [HoldEvent] = [
            .begin, .artifactVerified, .guest(guestA, .prepared), .guardArmed,
            .guest(guestA, .queuesSwitched), .guest(guestA, .moved), .guest(guestA, .killed(.old)),
        ]
        for event in path { _ = hold.handle(event, at: 0, wall: epoch) }
        let refused = HoldEvent.guest(guestA, .continueFailed(.new, reason: "no"))
        #expect(finalReport(in: hold.handle(refused, at: 40_000_000, wall: epoch)) == nil)
        let effects = hold.handle(refused, at: 40_000_001, wall: epoch)
        #expect(try #require(finalReport(in: effects)).holds[0].holdMicroseconds == nil)
        #expect(!effects.contains(.discard(guestA, .new)))
    }
}

@Suite struct HoldRecoveryTests {
    private func recover(_ action: RecoveryAction, _ notes: [HoldNote]) -> (
        HoldMachine, [HoldEffect]
    ) {
        let guest = RecoveredGuest(
            plan: GuestPlan(id: guestA, hypervisorBefore: "old"), action: action,
            history: HoldHistory(notes, of: guestA))
        var hold = HoldMachine(
            recovering: directive(), guests: [guest],
            phases: [PhaseTime(phase: .accepted, at: epoch)])
        let effects = hold.handle(.begin, at: 900_000, wall: epoch)
        return (hold, effects)
    }
    private let holding = HoldNote.holding(guestA, at: 1_000, wall: epoch)
    private let stopped = HoldNote.stopped(guestA, at: 2_000, wall: epoch)

    @Test("before the hold: the guest runs on, nothing is recorded")
    func beforeTheHold() throws {
        let (_, effects) = recover(.keep(.old), [])
        let report = try #require(finalReport(in: effects))
        #expect(report.outcome == .failed)
        #expect(report.holds.isEmpty)
        #expect(effects.contains(.discard(guestA, .new)))
    }

    @Test("found stopped: killed, continued and measured from the true start")
    func foundStopped() throws {
        var (hold, effects) = recover(.continueGuest(.old), [holding, stopped])
        #expect(effects.contains(.kill(guestA, .new)))
        #expect(!effects.contains(.continueGuest(guestA, .old)))
        _ = hold.handle(.guest(guestA, .killed(.new)), at: 900_001, wall: epoch)
        effects = hold.handle(.guest(guestA, .exited(.new)), at: 900_002, wall: epoch)
        #expect(effects.contains(.continueGuest(guestA, .old)))
        _ = hold.handle(.guest(guestA, .continued(.old, at: 902_000)), at: 902_000, wall: epoch)
        effects = hold.handle(
            .guest(guestA, .confirmed(Confirmation(isHealthy: true))), at: 903_000, wall: epoch)
        let record = try #require(finalReport(in: effects)?.holds.first)
        #expect(record.holdMicroseconds == 900_000)
        #expect(record.resumedBy == .restartedAgent)
        #expect(record.outcome == .failed)
    }

    @Test("one that cannot be reached keeps no other waiting, and is taken up when it is found")
    func oneIsUnreachable() throws {
        let notes = [
            holding, stopped, .holding(guestB, at: 1_500, wall: epoch),
            .stopped(guestB, at: 2_500, wall: epoch), .committing(guestB),
        ]
        func guest(_ id: GuestID, _ action: RecoveryAction) -> RecoveredGuest {
            RecoveredGuest(
                plan: GuestPlan(id: id, hypervisorBefore: "old"), action: action,
                history: HoldHistory(notes, of: id))
        }
        var hold = HoldMachine(
            recovering: directive([guestA, guestB]),
            guests: [guest(guestA, .wait), guest(guestB, .continueGuest(.new))],
            phases: [PhaseTime(phase: .accepted, at: epoch)])
        var told: [HoldEffect] = []
        func feed(_ id: GuestID, _ event: GuestEvent, at now: Int64) {
            told += hold.handle(.guest(id, event), at: now, wall: epoch)
        }
        told += hold.handle(.begin, at: 900_000, wall: epoch)
        feed(guestB, .killed(.old), at: 900_001)
        #expect(told.contains(.continueGuest(guestB, .new)))
        feed(guestB, .continued(.new, at: 902_500), at: 902_500)
        feed(guestB, .confirmed(Confirmation(isHealthy: true)), at: 903_000)
        #expect(!told.contains { $0 == .kill(guestA, .new) || $0 == .kill(guestA, .old) })
        #expect(finalReport(in: told) == nil)
        feed(guestA, .exited(.new), at: 903_001)
        feed(guestA, .found(.wait), at: 904_000)
        #expect(finalReport(in: told) == nil)
        feed(guestA, .found(.continueGuest(.old)), at: 1_000_000)
        feed(guestA, .found(.continueGuest(.new)), at: 1_000_001)
        #expect(!told.contains(.kill(guestA, .old)))
        feed(guestA, .killed(.new), at: 1_000_002)
        feed(guestA, .exited(.new), at: 1_000_003)
        #expect(told.contains(.continueGuest(guestA, .old)))
        feed(guestA, .continued(.old, at: 1_002_000), at: 1_002_000)
        feed(guestA, .confirmed(Confirmation(isHealthy: true)), at: 1_003_000)
        let report = try #require(finalReport(in: told))
        #expect(report.holds.map(\.holdMicroseconds) == [1_000_000, 900_000])
        #expect(report.holds.map(\.outcome) == [.failed, .succeeded])
    }

    @Test("the guard continued it: its record says so")
    func guardContinued() throws {
        let notes = [
            holding, stopped,
            .resumed(guestA, .new, at: 52_000, by: .guard, wasHeld: true),
        ]
        var (hold, effects) = recover(.keep(.new), notes)
        #expect(effects.contains(.adoptNew(guestA)))
        effects = hold.handle(
            .guest(guestA, .confirmed(Confirmation(isHealthy: true))), at: 903_000, wall: epoch)
        let record = try #require(finalReport(in: effects)?.holds.first)
        #expect(record.holdMicroseconds == 50_000)
        #expect(record.resumedBy == .guard)
        #expect(record.outcome == .succeeded)
    }

    @Test("the agent continued it and died before it could note that")
    func diedAfterContinue() throws {
        let notes = [
            holding, stopped, .continuing(guestA, .new, at: 12_000, by: .agent),
            .continuing(guestA, .new, at: 60_000, by: .guard),
            .resumed(guestA, .new, at: 61_000, by: .guard, wasHeld: false),
        ]
        var (hold, effects) = recover(.keep(.new), notes)
        effects = hold.handle(
            .guest(guestA, .confirmed(Confirmation(isHealthy: true))), at: 903_000, wall: epoch)
        let record = try #require(finalReport(in: effects)?.holds.first)
        #expect(record.holdMicroseconds == 10_000)
        #expect(record.resumedBy == .agent)
    }

    @Test("the agent died between its note and the stop: no hold, no record")
    func neverStopped() throws {
        let notes = [holding, .resumed(guestA, .old, at: 3_000, by: .guard, wasHeld: false)]
        let (_, effects) = recover(.keep(.old), notes)
        #expect(try #require(finalReport(in: effects)).holds.isEmpty)
    }

    @Test("found stopped and continued by an agent that dies then: the next one knows of the hold")
    func diesAfterContinuingAgain() throws {
        var notes: [HoldNote] = [holding]
        var (hold, effects) = recover(.continueGuest(.old), notes)
        effects += hold.handle(.guest(guestA, .killed(.new)), at: 5_000, wall: epoch)
        effects += hold.handle(.guest(guestA, .exited(.new)), at: 6_000, wall: epoch)
        for case .note(let note) in effects { notes.append(note) }
        (hold, effects) = recover(.keep(.old), notes)
        effects += hold.handle(
            .guest(guestA, .confirmed(Confirmation(isHealthy: true))), at: 903_000, wall: epoch)
        let record = try #require(finalReport(in: effects)?.holds.first)
        #expect(record.resumedBy == .restartedAgent && record.holdMicroseconds != nil)
    }

    @Test("found stopped by a command that came behind the guard's cont: held since that")
    func stoppedLate() throws {
        let notes = [holding, .resumed(guestA, .old, at: 3_000, by: .guard, wasHeld: false)]
        var (hold, effects) = recover(.continueGuest(.old), notes)
        for event: GuestEvent in [
            .killed(.new), .exited(.new), .continued(.old, at: 903_000),
            .confirmed(Confirmation(isHealthy: true)),
        ] { effects = hold.handle(.guest(guestA, event), at: 903_000, wall: epoch) }
        let record = try #require(finalReport(in: effects)?.holds.first)
        #expect(record.holdMicroseconds == 900_000)
        #expect(record.heldAt == Timestamp(microseconds: epoch.microseconds + 2_000))
    }

    @Test("the new one is continued only if the old one was killed for it, or about to be")
    func committed() throws {
        let committed = recover(.continueGuest(.new), [holding, stopped, .committing(guestA)])
        #expect(committed.1.contains(.kill(guestA, .old)))
        let givenUp = [
            holding, stopped, .committing(guestA), .undoing(guestA, reason: "not killed"),
        ]
        for notes in [[holding, stopped], givenUp] {
            let (_, effects) = recover(.continueGuest(.new), notes)
            let report = try #require(finalReport(in: effects))
            #expect(report.outcome == .lost)
            #expect(report.holds.map(\.holdMicroseconds) == [nil])
            #expect(effects.contains(.discard(guestA, .new)))
        }
    }

    @Test("a new QEMU that never had a guest is nothing to keep")
    func prelaunch() {
        guard case .lost = Recovery.decide(old: .absent, new: .other("prelaunch")) else {
            Issue.record("kept")
            return
        }
    }

    @Test("handed over, and stopped since by a full disk: kept as it is, and unhealthy")
    func stoppedByItsDisk() throws {
        let action = Recovery.decide(old: .absent, new: .other("io-error"))
        var (hold, effects) = recover(
            action, [holding, stopped, .continuing(guestA, .new, at: 12_000, by: .agent)])
        #expect(!effects.contains(.discard(guestA, .new)))
        effects = hold.handle(
            .guest(
                guestA, .confirmed(Confirmation(isHealthy: false, reason: "it is in io-error"))),
            at: 903_000, wall: epoch)
        let report = try #require(finalReport(in: effects))
        #expect(report.outcome == .unhealthy && report.holds[0].holdMicroseconds == 10_000)
        #expect(!effects.contains(.discard(guestA, .new)))
    }

    @Test("a guest that is named no more is recorded from the notes, and not touched")
    func unnamed() throws {
        let (_, untouched) = recover(.unnamed, [])
        let (_, resumed) = recover(
            .unnamed,
            [holding, stopped, .resumed(guestA, .old, at: 52_000, by: .guard, wasHeld: true)])
        let (_, held) = recover(.unnamed, [holding, stopped])
        for (effects, outcome, lengths): ([HoldEffect], StepOutcome, [Int64?]) in [
            (untouched, .failed, []), (resumed, .failed, [50_000]), (held, .lost, [nil]),
        ] {
            let report = try #require(finalReport(in: effects))
            #expect(report.outcome == outcome)
            #expect(report.holds.map(\.holdMicroseconds) == lengths)
            #expect(report.holds.allSatisfy { $0.reason.contains("does not name it") })
            for effect in effects {
                switch effect {
                case .kill, .discard, .continueGuest, .switchQueues, .adoptNew, .confirm:
                    Issue.record("\(effect)")
                default: break
                }
            }
        }
    }

    @Test("lost: recorded without a length")
    func lost() throws {
        let (_, effects) = recover(.lost(reason: "both ended"), [holding, stopped])
        let report = try #require(finalReport(in: effects))
        #expect(report.outcome == .lost)
        #expect(report.holds[0].holdMicroseconds == nil)
    }

    @Test("lost after its hold: recorded with the hold's length")
    func lostAfterItsHold() throws {
        let resumed = HoldNote.resumed(guestA, .new, at: 52_000, by: .agent, wasHeld: true)
        let (_, effects) = recover(.lost(reason: "both ended"), [holding, stopped, resumed])
        let record = try #require(finalReport(in: effects)?.holds.first)
        #expect(record.outcome == .lost)
        #expect(record.holdMicroseconds == 50_000)
        // One that was about to be continued may never have gone on.
        let continuing = HoldNote.continuing(guestA, .new, at: 51_000, by: .agent)
        let (_, others) = recover(.lost(reason: "both ended"), [holding, stopped, continuing])
        #expect(try #require(finalReport(in: others)).holds[0].holdMicroseconds == nil)
    }

    @Test("a restarted agent that was about to continue it had found it standing still")
    func diedWhileItFinished() throws {
        let notes = [
            holding, .continuing(guestA, .old, at: 3_000, by: .agent),
            .continuing(guestA, .old, at: 60_000, by: .restartedAgent),
        ]
        var (hold, effects) = recover(.keep(.old), notes)
        effects = hold.handle(
            .guest(guestA, .confirmed(Confirmation(isHealthy: true))), at: 903_000, wall: epoch)
        #expect(try #require(finalReport(in: effects)).holds.count == 1)
        // Of the one that began the step nobody knows whether its stop has come.
        let (_, others) = recover(.keep(.old), Array(notes.prefix(2)))
        #expect(try #require(finalReport(in: others)).holds.isEmpty)
    }

    @Test("notes survive being written and read, and lines that are not whole are refused")
    func noteLines() {
        let notes: [HoldNote] = [
            .phase(.held, at: epoch), holding, stopped,
            .continuing(guestA, .old, at: 7, by: .agent),
            .resumed(guestA, .new, at: 8, by: .guard, wasHeld: true),
            .committing(guestA), .undoing(guestA, reason: "tab\there"),
            .lost(guestA, reason: "why"),
            .processes(guestA, old: 17, new: 4711),
        ]
        for note in notes {
            let line = note.line
            #expect(HoldNote(line: line)?.line == line)
            #expect(HoldNote(line: "x" + line) == nil)
        }
        for line in [
            "", "holding", "holding\ta", "resumed\ta\tnew\t5\tnobody\t1", "stopped\t/\t1\t2",
        ] {
            #expect(HoldNote(line: line) == nil)
        }
    }

    @Test("each pair of process states has the action of the table")
    func table() {
        let states: [ProcessState] = [
            .absent, .inmigrate, .paused, .running, .other("io-error"), .unreachable,
        ]
        // Rows: the old one; columns: the new one; k keep, c continue, x lost, w wait.
        let expected: [String] = [
            "x w cn kn kn w", "x x x kn x x", "co co co kn co co", "ko ko ko ko ko ko",
            "ko ko ko ko ko ko", "w w w kn w w",
        ]
        for (old, row) in zip(states, expected) {
            for (new, cell) in zip(states, row.split(separator: " ")) {
                let short: String
                switch Recovery.decide(old: old, new: new) {
                case .keep(let side): short = side == .old ? "ko" : "kn"
                case .continueGuest(let side): short = side == .old ? "co" : "cn"
                case .lost: short = "x"
                case .wait: short = "w"
                case .unnamed: short = "?"
                }
                #expect(short == String(cell), "old \(old), new \(new)")
                let late = Recovery.decide(old: old, new: new, isLate: true)
                guard old == .absent, new == .inmigrate else {
                    #expect(late == Recovery.decide(old: old, new: new))
                    continue
                }
                if case .lost = late {} else { Issue.record("late: \(late)") }
            }
        }
    }
}

@Suite struct TokenGateTests {
    @Test("directives are taken, repeated, refused as stale or told to wait, as the table says")
    func table() {
        var gate = TokenGate(acceptedToken: Token(5))
        #expect(gate.judge(directive(token: 4)) == .staleToken(acceptedToken: Token(5)))
        #expect(gate.judge(directive(token: 5)) == .staleToken(acceptedToken: Token(5)))
        let first = directive(token: 6, step: 1)
        #expect(gate.judge(first) == .fresh)
        gate.accept(first)
        #expect(gate.judge(first) == .repeatedInFlight)
        #expect(gate.judge(directive(token: 7, step: 2)) == .busy(with: first.step))
        #expect(
            gate.judge(directive(token: 6, step: 2)) == .staleToken(acceptedToken: Token(6)))
        gate.finish()
        #expect(gate.judge(first) == .repeatedFinished)
        #expect(gate.judge(directive(token: 7, step: 2)) == .fresh)
        gate.forget(step: first.step, token: first.token)
        #expect(gate.judge(first) == .staleToken(acceptedToken: Token(6)))
    }
}
