import Fleet
import Testing

@testable import AgentCore

private let host = HostID(checked: "h")
private let running = [
    HostGuest(id: guestA, state: .running, generation: 1, hypervisorVersion: "old"),
    HostGuest(id: guestB, state: .running, generation: 1, hypervisorVersion: "old"),
]

private func asked(_ directive: Directive, guests: [HostGuest] = running) -> AgentMachine.Event {
    .directive(directive, at: epoch, guests: guests, parts: MeasuredParts())
}

private func step(token: UInt64 = 1, bootID: String = "boot") -> AcceptedStep {
    AcceptedStep(
        directive: directive(token: token), acceptedAt: epoch, bootID: bootID,
        guests: [
            AcceptedStep.Guest(
                plan: GuestPlan(id: guestA, hypervisorBefore: "old"), oldGeneration: 1)
        ])
}

private func fresh(_ records: AgentRecords = AgentRecords()) -> AgentMachine {
    AgentMachine(host: host, bootID: "boot", records: records)
}

private let report = step().report(.failed, "bad")

/// An effect in two or three words.
private func brief(_ effect: AgentMachine.Effect) -> String {
    switch effect {
    case .keep(let token, let step): "keep:\(token)\(step == nil ? "" : "+step")"
    case .keepReport(let report): "keepReport:\(report.token)"
    case .forgetReport(_, let token): "forget:\(token)"
    case .answer(let grant, .accepted): "accepted:\(grant.token)"
    case .answer(let grant, .busy): "busy:\(grant.token)"
    case .answer(let grant, .staleToken(let accepted)): "stale:\(grant.token)<\(accepted)"
    case .answer(let grant, .refused): "refused:\(grant.token)"
    case .begin: "begin"
    case .observe: "observe"
    case .resume: "resume"
    case .undoAfterReboot: "undo"
    case .recoverUpgrade: "upgrade"
    case .takeUpGuests(let guests): "takeUp:\(guests.map(\.rawValue).joined(separator: ","))"
    case .startGuests(let guests): "start:\(guests.map(\.rawValue).joined(separator: ","))"
    case .becomeReady: "ready"
    case .send(let report): "send:\(report.token)"
    case .sendHostReport(let always): always ? "host:always" : "host"
    case .removeNotes: "removeNotes"
    case .setTimer(let timer, _): "timer:\(timer)"
    }
}

private func brief(_ state: AgentMachine.State) -> String {
    switch state {
    case .idle: "idle"
    case .keeping: "keeping"
    case .working: "working"
    case .ending(_, .report): "endingReport"
    case .ending(_, .accepted): "endingAccepted"
    }
}

/// What every pair of state and event does; a pair that is not here does nothing.
private let table = """
    idle first -> keeping | keep:1+step
    idle unfit -> idle | refused:3
    idle other -> keeping | keep:2+step
    idle started -> idle | takeUp:a,b
    idle session -> idle | host:always
    idle committed -> idle | forget:1
    idle changed -> idle | timer:hostReport
    idle resend -> idle | timer:resend
    idle hostReport -> idle | host
    keeping other -> keeping | busy:2
    keeping unfit -> keeping | busy:3
    keeping started -> keeping | takeUp:a,b
    keeping kept -> working | accepted:1 begin
    keeping keepFailed -> idle | refused:1
    keeping session -> keeping | host:always
    keeping committed -> keeping | forget:1
    keeping changed -> keeping | timer:hostReport
    keeping resend -> keeping | timer:resend
    keeping hostReport -> keeping | host
    working first -> working | accepted:1
    working unfit -> working | busy:3
    working other -> working | busy:2
    working started -> working | observe takeUp:b
    working observed -> working | resume timer:recovery
    working ended -> endingReport | keepReport:1
    working session -> working | host:always
    working changed -> working | timer:hostReport
    working resend -> working | timer:resend
    working hostReport -> working | host
    endingReport first -> endingReport | accepted:1
    endingReport unfit -> endingReport | busy:3
    endingReport other -> endingReport | busy:2
    endingReport started -> endingReport | keepReport:1 takeUp:a,b
    endingReport kept -> endingAccepted | keep:1
    endingReport keepFailed -> endingReport | timer:retry
    endingReport session -> endingReport | host:always
    endingReport changed -> endingReport | timer:hostReport
    endingReport retry -> endingReport | keepReport:1
    endingReport resend -> endingReport | timer:resend
    endingReport hostReport -> endingReport | host
    endingAccepted first -> endingAccepted | accepted:1
    endingAccepted unfit -> endingAccepted | busy:3
    endingAccepted other -> endingAccepted | busy:2
    endingAccepted started -> endingAccepted | keep:1 takeUp:a,b
    endingAccepted kept -> idle | removeNotes send:1 timer:hostReport
    endingAccepted keepFailed -> endingAccepted | timer:retry
    endingAccepted session -> endingAccepted | host:always
    endingAccepted changed -> endingAccepted | timer:hostReport
    endingAccepted retry -> endingAccepted | keep:1
    endingAccepted resend -> endingAccepted | timer:resend
    endingAccepted hostReport -> endingAccepted | host
    reported first -> reported | send:1 accepted:1
    reported unfit -> reported | refused:3
    reported other -> keeping | keep:2+step
    reported started -> reported | takeUp:a,b
    reported session -> reported | host:always send:1
    reported committed -> reported | forget:1
    reported changed -> reported | timer:hostReport
    reported resend -> reported | send:1 timer:resend
    reported hostReport -> reported | host
    """

@Suite struct AgentMachineTests {
    private static let ready: [AgentMachine.Event] = [
        .start(guests: [guestA, guestB]), .guestsSettled,
    ]
    private static let paths: [(String, [AgentMachine.Event])] = {
        let keeping = ready + [asked(directive())]
        let working = keeping + [.kept]
        let ending = working + [.stepEnded(report)]
        return [
            ("idle", ready), ("keeping", keeping), ("working", working), ("endingReport", ending),
            ("endingAccepted", ending + [.kept]),
            // The host report of the end has been sent.
            ("reported", ending + [.kept, .kept, .timerFired(.hostReport)]),
        ]
    }()
    private static let events: [(String, AgentMachine.Event)] = [
        ("started", .start(guests: [guestA, guestB])),
        ("first", asked(directive())),
        ("other", asked(directive([guestB], token: 2, step: 2))),
        ("unfit", asked(directive([GuestID(checked: "c")], token: 3, step: 3))),
        ("kept", .kept), ("keepFailed", .keepFailed(reason: "full")),
        ("observed", .observed([.keep(.old)])),
        ("ended", .stepEnded(report)),
        ("endedOther", .stepEnded(step(token: 9).report(.failed, ""))),
        ("settled", .guestsSettled), ("session", .sessionReady),
        ("committed", .reportCommitted(report.step, report.token)),
        ("changed", .hostChanged),
        ("retry", .timerFired(.retry)), ("resend", .timerFired(.resend)),
        ("hostReport", .timerFired(.hostReport)), ("recovery", .timerFired(.recovery)),
    ]

    @Test("every pair of state and event does what the table says")
    func everyPair() {
        var lines: [String] = []
        for (state, path) in Self.paths {
            for (name, event) in Self.events {
                var machine = fresh()
                for event in path { _ = machine.handle(event) }
                let before = machine.state
                let effects = machine.handle(event).map(brief)
                if before == machine.state, effects.isEmpty { continue }
                let next = before == machine.state ? state : brief(machine.state)
                lines.append("\(state) \(name) -> \(next) | \(effects.joined(separator: " "))")
            }
        }
        let expected = table.split(separator: "\n").map(String.init)
        for line in lines where !expected.contains(line) {
            Issue.record("not in the table: \(line)")
        }
        for line in expected where !lines.contains(line) { Issue.record("did not happen: \(line)") }
    }

    @Test("the same directive, while it is being kept, is answered once it is")
    func askedTwice() {
        var machine = fresh()
        #expect(machine.handle(asked(directive())).map(brief) == ["keep:1+step"])
        #expect(machine.handle(asked(directive())).isEmpty)
        #expect(machine.handle(.kept).map(brief) == ["accepted:1", "begin"])
    }

    @Test("a token that could not be kept may come again")
    func againAfterFailure() {
        var machine = fresh()
        _ = machine.handle(asked(directive()))
        _ = machine.handle(.keepFailed(reason: "full"))
        #expect(machine.handle(asked(directive())).map(brief) == ["keep:1+step"])
        _ = machine.handle(.kept)
        #expect(machine.inFlight == step())
    }

    @Test(
        "after a restart, a report and its step: the report counts, and goes out once the step is gone"
    )
    func reportCounts() {
        var machine = fresh(
            AgentRecords(acceptedToken: Token(1), inFlight: step(), reports: [report]))
        #expect(machine.handle(.start(guests: [guestA])).map(brief) == ["keep:1", "takeUp:a"])
        #expect(machine.handle(.guestsSettled).map(brief) == ["ready", "timer:resend"])
        #expect(machine.handle(.sessionReady).map(brief) == ["host:always"])
        // Whoever commits it now must not take the report from a step that is still kept.
        #expect(machine.handle(.reportCommitted(report.step, report.token)).isEmpty)
        #expect(machine.handle(.kept).map(brief) == ["removeNotes", "send:1", "timer:hostReport"])
        #expect(
            machine.handle(.reportCommitted(report.step, report.token)).map(brief) == ["forget:1"])
        #expect(machine.handle(asked(directive())).map(brief) == ["stale:1<1"])
    }

    @Test(
        "after a restart in the same boot a step is observed; the leader waits for its end, or 10 s"
    )
    func recovered() {
        let records = AgentRecords(acceptedToken: Token(1), inFlight: step())
        for isPatient in [true, false] {
            var machine = fresh(records)
            #expect(
                machine.handle(.start(guests: [guestA, guestB])).map(brief)
                    == ["observe", "takeUp:b"])
            #expect(machine.handle(.guestsSettled).isEmpty)
            #expect(
                machine.handle(.observed([.keep(.old)]))
                    == [
                        .resume(step(), [.keep(.old)]),
                        .setTimer(.recovery, after: AgentMachine.recoveryPatience),
                    ])
            if isPatient {
                #expect(
                    machine.handle(.stepEnded(report)).map(brief)
                        == ["keepReport:1", "ready", "timer:resend"])
                #expect(machine.handle(.timerFired(.recovery)).isEmpty)
            } else {
                #expect(
                    machine.handle(.timerFired(.recovery)).map(brief) == ["ready", "timer:resend"])
                #expect(machine.handle(asked(directive())).map(brief) == ["accepted:1"])
                #expect(machine.handle(.stepEnded(report)).map(brief) == ["keepReport:1"])
            }
        }
    }

    @Test("after a reboot of the host a hand-over has failed, and its guests start afresh")
    func rebooted() {
        var machine = fresh(
            AgentRecords(acceptedToken: Token(1), inFlight: step(bootID: "before")))
        #expect(
            machine.handle(.start(guests: [guestA, guestB])).map(brief)
                == ["keepReport:1", "start:a", "takeUp:b"])
        #expect(machine.handle(.guestsSettled).map(brief) == ["ready", "timer:resend"])
    }

    @Test("after a reboot of the host commands are undone before any of their guests starts")
    func rebootedWithCommands() {
        let apply = HostCommand(
            path: "/c", arguments: [], sha256: [UInt8](repeating: 1, count: 32),
            limitMilliseconds: 1_000)
        var step = step(bootID: "before")
        step.directive.release = Release(
            id: ReleaseID(checked: "r"), component: .network,
            work: .host(HostWork(version: "2", holdsGuests: true, apply: apply)))
        var machine = fresh(AgentRecords(acceptedToken: Token(1), inFlight: step))
        #expect(
            machine.handle(.start(guests: [guestA, guestB])).map(brief) == ["undo", "takeUp:b"])
        #expect(machine.handle(.guestsSettled).isEmpty)
        #expect(
            machine.handle(.stepEnded(report)).map(brief) == ["keepReport:1", "start:a"])
        #expect(machine.handle(.guestsSettled).map(brief) == ["ready", "timer:resend"])
        var undoing = HoldMachine(undoingAfterReboot: step)
        #expect(undoing.directive.guests.isEmpty)
        #expect(!undoing.handle(.begin, at: 0, wall: epoch).isEmpty)
    }

    @Test("of a step's guests that the host's file does not name any more only the notes are left")
    func unnamed() {
        var alone = fresh(AgentRecords(acceptedToken: Token(1), inFlight: step()))
        #expect(alone.handle(.start(guests: [guestB])).map(brief) == ["observe", "takeUp:b"])
        #expect(alone.handle(.observed([])).first == .resume(step(), [.unnamed]))
        var both = step()
        both.directive.guests = [guestA, guestB]
        both.guests.append(
            AcceptedStep.Guest(
                plan: GuestPlan(id: guestB, hypervisorBefore: "q"), oldGeneration: 1))
        var machine = fresh(AgentRecords(acceptedToken: Token(1), inFlight: both))
        #expect(machine.handle(.start(guests: [guestB])).map(brief) == ["observe", "takeUp:"])
        #expect(
            machine.handle(.observed([.keep(.old)])).first
                == .resume(both, [.unnamed, .keep(.old)]))
    }

    @Test("a step that replaces the agent waits for a session, so nothing waits for it")
    func upgraded() {
        var step = step()
        step.directive.guests = []
        step.guests = []
        step.directive.release = Release(
            id: ReleaseID(checked: "r"), component: .agent,
            work: .agent(
                version: "2",
                program: ReleaseFile(path: "/f", sha256: [UInt8](repeating: 1, count: 32))))
        var machine = fresh(AgentRecords(acceptedToken: Token(1), inFlight: step))
        #expect(
            machine.handle(.start(guests: [guestA])).map(brief) == ["upgrade", "takeUp:a"])
        #expect(machine.handle(.guestsSettled).map(brief) == ["ready", "timer:resend"])
    }

    @Test("many changes of the host make one report, and none before there is a leader to hear it")
    func hostReports() {
        var machine = fresh()
        #expect(machine.handle(.hostChanged).isEmpty)
        for event in Self.ready { _ = machine.handle(event) }
        #expect(machine.handle(.hostChanged).map(brief) == ["timer:hostReport"])
        #expect(machine.handle(.hostChanged).isEmpty)
        #expect(machine.handle(.timerFired(.hostReport)).map(brief) == ["host"])
        #expect(machine.handle(.hostChanged).map(brief) == ["timer:hostReport"])
    }
}
