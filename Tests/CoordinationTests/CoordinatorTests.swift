import Fleet
import Testing

@testable import Coordination

@Suite("Coordinator: locks and order")
struct LockTests {
    @Test("only one update domain of a set is granted at a time")
    func exclusion() {
        var fleet = Fixture()
        fleet.host("a", ["db/0"])
        fleet.host("b", ["db/1"])
        fleet.host("c", ["db/0"])
        fleet.release()
        fleet.start()
        #expect(fleet.schedule("a", "b", "c") == ["a0", "c0"])
        #expect(fleet.schedule("a", "b", "c") == [])
        fleet.finish("a0")
        #expect(fleet.schedule("a", "b", "c") == [])
        fleet.finish("c0")
        #expect(fleet.schedule("a", "b", "c") == ["b0"])
        fleet.finish("b0")
        #expect(fleet.rolloutState == .succeeded)
        #expect(fleet.coordinator.state.locks.isEmpty)
        #expect(fleet.broken == [])
    }

    @Test("different sets go on side by side, one step a host, up to the parallelism limit")
    func parallelism() {
        var fleet = Fixture()
        fleet.host("a", ["db/0", "web/0"])
        fleet.host("b", ["web/1", "-"])
        fleet.host("c", ["-"])
        fleet.release()
        fleet.start(Policy(parallelism: 2))
        let first = fleet.schedule("a", "b", "c")
        #expect(first.count == 2)
        #expect(Set(first.map { $0.first! }).count == 2)
        #expect(fleet.schedule("a", "b", "c") == [])
        fleet.finish(first[0])
        #expect(fleet.schedule("a", "b", "c").count == 1)
        #expect(fleet.broken == [])
    }

    @Test("a step whose agent is not connected waits, says so, and starts when it is back")
    func notConnected() {
        var fleet = Fixture()
        fleet.host("a", ["db/0"])
        fleet.host("b", ["db/1"])
        fleet.release()
        fleet.start()
        #expect(fleet.schedule("b") == ["b0"])
        fleet.finish("b0")
        #expect(fleet.schedule("b") == [])
        let view = fleet.coordinator.rolloutView(
            RolloutID(1), connected: [HostID(checked: "b")])!
        #expect(view.state == .running)
        #expect(view.steps[0].reason.contains("agent of host a, which is not connected"))
        #expect(fleet.schedule("a", "b") == ["a0"])
    }

    @Test("a step that was passed often closes the door to new joiners")
    func noStarvation() {
        // The odd one out waits behind an endless supply of UD0 guests on other hosts.
        var fleet = Fixture()
        fleet.host("z", ["db/1"])
        let others = (0..<30).map { "h\($0)" }
        for host in others { fleet.host(host, ["db/0"]) }
        fleet.release()
        fleet.start(Policy(parallelism: 2))
        var grantedBefore = 0
        var flying = fleet.schedule("z")  // Only z is connected at first: nothing else can start.
        #expect(flying == ["z0"])
        fleet.finish("z0", .succeeded)
        // Now the same with z connected too, but after the others began.
        fleet = Fixture()
        fleet.host("z", ["db/1"])
        for host in others { fleet.host(host, ["db/0"]) }
        fleet.release()
        fleet.start(Policy(parallelism: 2))
        let all = Set((others + ["z"]).map { HostID(checked: $0) })
        flying = []
        while fleet.rolloutState == .running {
            if case .success(let facts) = fleet.run(.schedule(connected: all)) {
                for case .stepGranted(let id, _) in facts.map(\.body) {
                    let name = fleet.coordinator.state.step(id)!.plan.guests[0].rawValue
                    flying.append(name)
                    if name == "z0" { grantedBefore = 31 - flying.count } else { continue }
                }
            }
            // One at a time, so that the lock would never fall free by itself.
            fleet.finish(flying.removeFirst())
        }
        #expect(fleet.rolloutState == .succeeded)
        #expect(grantedBefore > 0, "z0 was not starved to the very end")
        #expect(fleet.step(of: "z0").bypassed <= Limits.bypassMax + 2)
        #expect(fleet.broken == [])
    }

    @Test("a guest of another update domain that is not well keeps the set closed, by name")
    func unhealthyNeighbour() {
        var fleet = Fixture()
        fleet.host("a", ["db/0"])
        fleet.release()
        fleet.run(.reportHost(fleet.report("b", ["db/1"], state: .paused)))
        fleet.start()
        #expect(fleet.schedule("a", "b") == [])
        let view = fleet.coordinator.rolloutView(
            RolloutID(1), connected: [HostID(checked: "a")])!
        #expect(view.steps[0].reason.contains("guest b0 of another update domain is paused"))
        fleet.host("b", ["db/1"])
        #expect(fleet.schedule("a", "b") == ["a0"])
    }
}

@Suite("Coordinator: outcomes")
struct OutcomeTests {
    private func twoHosts() -> Fixture {
        var fleet = Fixture()
        fleet.host("a", ["db/0"])
        fleet.host("b", ["db/1"])
        fleet.release()
        return fleet
    }

    @Test("the first failure stops the rollout, frees the lock and leaves the rest alone")
    func stopsOnFailure() {
        var fleet = twoHosts()
        fleet.start()
        fleet.schedule("a", "b")
        fleet.finish("a0", .failed, held: false)
        #expect(fleet.rolloutState == .failed)
        #expect(fleet.step(of: "b0").status == .cancelled)
        #expect(fleet.coordinator.state.locks.isEmpty)
        #expect(fleet.finishedHolds == [])
        #expect(fleet.coordinator.state.rollouts[RolloutID(1)]!.reason.contains("because"))
    }

    @Test("with failures allowed, the rollout goes on and ends as failed")
    func goesOn() {
        var fleet = twoHosts()
        fleet.start(Policy(failuresMax: 2))
        fleet.schedule("a", "b")
        fleet.finish("a0", .failed)
        #expect(fleet.schedule("a", "b") == ["b0"])
        fleet.finish("b0")
        #expect(fleet.rolloutState == .failed)
        #expect(fleet.finishedHolds.count == 2)
    }

    @Test(
        "a lost or unhealthy guest keeps its set closed until an operator opens it",
        arguments: [
            StepOutcome.lost, .unhealthy,
        ])
    func stuck(outcome: StepOutcome) {
        var fleet = twoHosts()
        fleet.start(Policy(failuresMax: 9))
        fleet.schedule("a", "b")
        #expect(
            fleet.refusal(.releaseLock(SetID(checked: "web"), reason: "x", by: "al"))?.code
                == .notFound)
        fleet.finish("a0", outcome)
        #expect(fleet.schedule("a", "b") == [])
        #expect(fleet.coordinator.lockViews().map(\.stuck) == [true])
        // The plan tells of it whom it would concern, and nobody else.
        func problems(_ host: String) -> String {
            let name = HostID(checked: host)
            let plan = fleet.coordinator.planView(
                ReleaseID(checked: "q2"), .hosts([name]), Policy(),
                connected: [HostID(checked: "a"), HostID(checked: "b"), HostID(checked: "c")])
            return (try? plan.get().problems.joined(separator: "; ")) ?? "refused"
        }
        fleet.host("c", ["web/0", "db/0"])
        #expect(problems("b").contains("set db: rollout-1.1 left a0 \(outcome)"))
        #expect(problems("c") == "rollout-1 is not over yet")
        #expect(
            problems("a").contains(
                "guest a0, which rollout-1.1 left \(outcome), would be held again"))
        #expect(!problems("a").contains("set db:"))
        #expect(
            fleet.refusal(.releaseLock(SetID(checked: "db"), reason: "", by: "al"))?.code
                == .invalid)
        fleet.run(.releaseLock(SetID(checked: "db"), reason: "restored", by: "al"))
        #expect(fleet.schedule("a", "b") == ["b0"])
        #expect(fleet.broken == [])
    }

    @Test("a step given up by an operator still records the hold its host reports later")
    func lateReport() {
        var fleet = twoHosts()
        fleet.start(Policy(failuresMax: 9))
        fleet.schedule("a", "b")
        let report = fleet.stepReport("a0", .succeeded)
        fleet.run(.releaseLock(SetID(checked: "db"), reason: "host a burnt", by: "al"))
        #expect(fleet.finishedHolds == [])
        fleet.run(.reportStep(report, host: HostID(checked: "a")))
        fleet.run(.reportStep(report, host: HostID(checked: "a")))
        #expect(fleet.finishedHolds == ["rollout-1.1-t1-a0"])
    }

    @Test("a repeated report changes nothing; one hold gives one event")
    func repeatedReport() {
        var fleet = twoHosts()
        fleet.start()
        fleet.schedule("a")
        let report = fleet.stepReport("a0", .succeeded)
        fleet.run(.reportStep(report, host: HostID(checked: "a")))
        let index = fleet.coordinator.state.index
        fleet.run(.reportStep(report, host: HostID(checked: "a")))
        #expect(fleet.coordinator.state.index == index)
        #expect(fleet.finishedHolds.count == 1)
    }

    @Test("an agent speaks for its own host only, and its report must fit the step")
    func badReports() {
        var fleet = twoHosts()
        fleet.start()
        fleet.schedule("a")
        var report = fleet.stepReport("a0", .succeeded)
        #expect(
            fleet.refusal(.reportStep(report, host: HostID(checked: "b")))?.code == .notPermitted)
        report.holds.append(report.holds[0])
        #expect(fleet.refusal(.reportStep(report, host: HostID(checked: "a")))?.code == .invalid)
        report.holds = []
        #expect(fleet.refusal(.reportStep(report, host: HostID(checked: "a")))?.code == .invalid)
    }

    @Test("a step of a lost log that has the name of another host's step is recorded all the same")
    func strayWithReusedName() {
        var fleet = twoHosts()
        fleet.start()
        fleet.schedule("a")
        var report = fleet.stepReport("a0", .succeeded)
        report.token = Token(77)
        report.holds[0].guest = GuestID(checked: "b0")
        let index = fleet.coordinator.state.index
        fleet.run(.reportStep(report, host: HostID(checked: "b")))
        #expect(fleet.coordinator.state.index == index + 1)
        #expect(fleet.finishedHolds == ["rollout-1.1-t77-b0"])
        guard case .holdFinished(let hold) = fleet.coordinator.state.events.last?.body else {
            Issue.record("no annotation")
            return
        }
        #expect(hold.release.rawValue == "unknown" && hold.host.rawValue == "b")
        // The step itself is not touched.
        #expect(fleet.step(of: "a0").status == .granted)
        #expect(fleet.broken == [])
    }

    @Test("a stale token is answered with a higher one, and never with a second runner")
    func staleToken() {
        var fleet = twoHosts()
        fleet.start()
        fleet.schedule("a")
        let step = fleet.step(of: "a0")
        fleet.run(
            .answerDirective(
                step: step.id, token: step.token!, host: HostID(checked: "a"),
                answer: .staleToken(acceptedToken: Token(40))))
        #expect(fleet.step(of: "a0").token == Token(41))
        #expect(fleet.coordinator.outstandingDirectives().map(\.token) == [Token(41)])
        #expect(fleet.coordinator.lockViews().map(\.token) == [Token(41)])
        #expect(fleet.broken == [])
    }

    @Test("tokens go on above what a host has accepted, as after an old backup")
    func tokenFromReport() {
        var fleet = twoHosts()
        fleet.run(.reportHost(fleet.report("a", ["db/0"], token: 99)))
        fleet.start()
        fleet.schedule("a")
        #expect(fleet.step(of: "a0").token == Token(100))
    }

    @Test("an abort cancels what waits and lets what runs finish")
    func abort() {
        var fleet = twoHosts()
        fleet.start()
        fleet.schedule("a", "b")
        fleet.run(.abortRollout(RolloutID(1), reason: "lunch", by: "al"))
        #expect(fleet.rolloutState == .aborting)
        #expect(fleet.coordinator.outstandingDirectives().count == 1)
        fleet.finish("a0")
        #expect(fleet.rolloutState == .aborted)
        #expect(
            fleet.refusal(.abortRollout(RolloutID(1), reason: "", by: "al"))?.code == .conflict)
    }

    @Test("directives are derived from the state, so a copy asks for exactly the same")
    func derivedDirectives() {
        var fleet = twoHosts()
        fleet.start(Policy(deadlineMilliseconds: 5_000))
        fleet.schedule("a", "b")
        let copy = Coordinator(state: fleet.coordinator.state)
        #expect(copy.outstandingDirectives() == fleet.coordinator.outstandingDirectives())
        let directive = copy.outstandingDirectives()[0]
        #expect(directive.guests == [GuestID(checked: "a0")])
        #expect(directive.deadlineMilliseconds == 5_000)
        #expect(directive.release.version == "2")
    }
}

@Suite("Coordinator: inventory and refusals")
struct InventoryTests {
    @Test("guests without an update domain are spread evenly, together on one host, and stay")
    func placement() {
        var fleet = Fixture()
        fleet.host("a", ["db", "db"], sets: [("db", 3)])
        fleet.host("b", ["db"], sets: [("db", 3)])
        fleet.host("c", ["db", "db/2"], sets: [("db", 3)])
        fleet.host("d", ["db"], sets: [("db", 3)])
        let domains = fleet.coordinator.guestViews(connected: []).map {
            "\($0.report.id) \($0.updateDomain!.number) \($0.placedByLeader)"
        }
        #expect(
            domains == [
                "a0 0 true", "a1 0 true", "b0 1 true", "c0 2 true", "c1 2 false", "d0 1 true",
            ])
        fleet.host("a", ["db", "db", "db"], sets: [("db", 3)])
        #expect(
            fleet.coordinator.state.guests[GuestID(checked: "a2")]?.pair?.updateDomain.number == 0)
        fleet.host("b", [])
        #expect(fleet.coordinator.state.guests[GuestID(checked: "b0")] == nil)
        #expect(fleet.coordinator.setViews()[0].domains.map(\.guests.count) == [3, 1, 2])
    }

    @Test("a guest id on two hosts counts on the first, and both are told")
    func duplicateGuest() {
        var fleet = Fixture()
        fleet.host("a", ["db/0"])
        var report = fleet.report("b", ["db/1"])
        report.guests[0].id = GuestID(checked: "a0")
        fleet.run(.reportHost(report))
        #expect(fleet.coordinator.guestViews(connected: []).map(\.host.rawValue) == ["a"])
        let hosts = fleet.coordinator.hostViews(connected: [])
        #expect(hosts[1].warnings.first?.contains("reported by host a too") == true)
    }

    @Test("an unchanged report gives no fact")
    func unchangedReport() {
        var fleet = Fixture()
        fleet.host("a", ["db/0", "db"])
        let index = fleet.coordinator.state.index
        fleet.host("a", ["db/0", "db"])
        #expect(fleet.coordinator.state.index == index)
    }

    @Test("what cannot be started is refused with a reason and advice")
    func refusals() {
        var fleet = Fixture()
        fleet.host("a", ["db/0"])
        #expect(fleet.start().refusalCode == .notFound)
        fleet.release()
        fleet.release("same", version: "1")
        #expect(fleet.start(id: "same").refusalCode == .nothingToDo)
        #expect(fleet.start(Policy(parallelism: 0)).refusalCode == .invalid)
        #expect(fleet.start(Policy(deadlineMilliseconds: 31_000)).refusalCode == .invalid)
        #expect(fleet.start(Policy(failuresMax: 0)).refusalCode == .invalid)
        let elsewhere = fleet.run(
            .startRollout(
                release: ReleaseID(checked: "q2"), selection: .hosts([HostID(checked: "x")]),
                policy: Policy(), by: "al"))
        #expect(elsewhere.refusalCode == .notFound)
        #expect(fleet.start().refusalCode == nil)
        #expect(fleet.start().refusalCode == .conflict)
    }

    @Test("a release never changes; the same one again is no error")
    func releases() {
        var fleet = Fixture()
        fleet.release()
        let index = fleet.coordinator.state.index
        fleet.release()
        #expect(fleet.coordinator.state.index == index)
        #expect(
            fleet.refusal(
                .addRelease(
                    Release(
                        id: ReleaseID(checked: "q2"), component: .hypervisor,
                        hypervisor: Hypervisor(version: "3", path: "/q"),
                        sha256: Array(repeating: 7, count: 32)), by: "al"))?.code
                == .alreadyExists)
    }

    @Test("the plan predicts the order with the real scheduler and changes nothing")
    func plan() throws {
        var fleet = Fixture()
        fleet.host("a", ["db/0", "web/2"])
        fleet.host("b", ["db/1", "web/0"])
        fleet.host("c", ["db/2", "web/1"])
        fleet.release()
        let before = fleet.coordinator
        let plan = try fleet.coordinator.planView(
            ReleaseID(checked: "q2"), .allHosts, Policy(), connected: []
        ).get()
        #expect(fleet.coordinator == before)
        #expect(plan.steps.count == 6)
        #expect(plan.waveCount == 3)
        #expect(plan.problems.count == 3)
    }

    @Test("events are kept until every notifier has them; the newest stay for watchers")
    func events() {
        var fleet = Fixture()
        fleet.host("a", Array(repeating: "-", count: 1_500))
        fleet.release()
        fleet.start()
        fleet.run(.abortRollout(RolloutID(1), reason: "enough", by: "al"))
        let last = fleet.coordinator.state.lastSequence
        #expect(last > 1_500)
        fleet.run(.acknowledgeEvents(notifier: "n1", sequence: 0))
        fleet.run(.acknowledgeEvents(notifier: "n2", sequence: last))
        #expect(fleet.coordinator.state.events.first?.sequence == 1)
        fleet.run(.acknowledgeEvents(notifier: "n1", sequence: 2))
        #expect(fleet.coordinator.state.events.first?.sequence == 3)
        fleet.run(.acknowledgeEvents(notifier: "n1", sequence: last))
        #expect(fleet.coordinator.state.events.count == Limits.eventsForWatchersMin)
        #expect(
            fleet.refusal(.acknowledgeEvents(notifier: "n1", sequence: last + 1))?.code
                == .invalid)
        #expect(fleet.broken == [])
    }

    /// The warnings of a status that are about notifiers.
    private func warnings(_ fleet: Fixture, connected: Set<String>?) -> [String] {
        fleet.coordinator.statusView(
            cluster: "", server: "", softwareVersion: "", connected: [], notifiers: connected
        ).warnings.filter { $0.contains("notifier") }
    }

    @Test("a notifier that is forgotten keeps no events, and counts as new when it comes back")
    func forgotten() {
        var fleet = Fixture()
        fleet.host("a", Array(repeating: "-", count: 1_500))
        fleet.release()
        fleet.start()
        fleet.run(.abortRollout(RolloutID(1), reason: "enough", by: "al"))
        let last = fleet.coordinator.state.lastSequence
        fleet.run(.acknowledgeEvents(notifier: "gone", sequence: 2))
        fleet.run(.acknowledgeEvents(notifier: "n2", sequence: last))
        #expect(fleet.coordinator.state.events.first?.sequence == 3)
        // The lease and what is delivered are no matter of this.
        fleet.run(.grantDeliveries(notifier: "gone"))
        fleet.run(.reportDelivered(notifier: "gone", number: 1, sink: "ops", sequence: 2))
        let lease = fleet.coordinator.state.deliveryLease

        let unknown = fleet.refusal(.forgetNotifier("other", reason: "", by: "al"))
        #expect(unknown?.code == .notFound && unknown?.message.contains("other") == true)
        fleet.run(.forgetNotifier("gone", reason: "replaced", by: "al"))
        #expect(Array(fleet.coordinator.state.notifiers.keys) == ["n2"])
        #expect(fleet.coordinator.state.events.count == Limits.eventsForWatchersMin)
        #expect(fleet.coordinator.state.deliveryLease == lease)
        #expect(
            fleet.refusal(.forgetNotifier("gone", reason: "", by: "al"))?.code == .notFound)

        // It reports and acknowledges on, from where it had been.
        fleet.run(.reportDelivered(notifier: "gone", number: 1, sink: "ops", sequence: 3))
        fleet.run(.acknowledgeEvents(notifier: "gone", sequence: 3))
        #expect(fleet.coordinator.state.notifiers["gone"] == 3)
        #expect(fleet.coordinator.state.events.count == Limits.eventsForWatchersMin)
        // Without any notifier the newest are kept for the first to come.
        fleet.run(.forgetNotifier("gone", reason: "", by: "al"))
        fleet.run(.forgetNotifier("n2", reason: "", by: "al"))
        #expect(fleet.coordinator.state.events.count == Limits.eventsForWatchersMin)
        #expect(
            warnings(fleet, connected: []) == [
                "no notifier is known: no annotation is published; start one"
            ])
        #expect(fleet.broken == [])
    }

    @Test("a notifier is warned of that is away while events pile up, or that is very far behind")
    func farBehind() {
        var fleet = Fixture()
        fleet.host("a", Array(repeating: "-", count: 1_500))
        fleet.release()
        fleet.run(.acknowledgeEvents(notifier: "n1", sequence: 0))
        #expect(warnings(fleet, connected: []) == [])
        fleet.start()
        fleet.run(.abortRollout(RolloutID(1), reason: "enough", by: "al"))
        let last = fleet.coordinator.state.lastSequence
        #expect(
            warnings(fleet, connected: ["n2"]) == [
                "notifier n1, which is not connected, is \(last) events behind, which are kept for it: "
                    + "start it, or, if it is gone for good, `fermata notifier forget n1 --reason …`"
            ])
        #expect(warnings(fleet, connected: ["n1"]) == [])
        #expect(warnings(fleet, connected: nil) == [])
        let far = { (behind: UInt64, connected: Bool?) in
            NotifierView(
                name: "n1", acknowledgedSequence: 5, lastSequence: 5 + behind, connected: connected
            ).warning
        }
        #expect(far(100_000, true) == nil && far(100_000, nil) == nil)
        #expect(far(100_001, true)?.hasSuffix("it does not keep up; see its log") == true)
        #expect(far(100_001, nil)?.contains("fermata notifier forget n1") == true)
        #expect(far(1_000, false) == nil && far(1_001, false) != nil)
        let view = fleet.coordinator.statusView(
            cluster: "", server: "", softwareVersion: "", connected: [], notifiers: ["n1"])
        #expect(view.keptEventCount == last && view.notifiers[0].connected == true)
        #expect(view.notifiers[0].eventsBehind == last)
    }
}

extension Result where Failure == Refusal {
    var refusalCode: Refusal.Code? {
        if case .failure(let refusal) = self { refusal.code } else { nil }
    }
}
