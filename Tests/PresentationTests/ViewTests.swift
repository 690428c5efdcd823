import Fleet
import Testing

@testable import Presentation

@Suite struct ViewTests {
    @Test("status is a few lines, with warnings below")
    func status() {
        let view = StatusView(
            cluster: "demo", server: "one", term: 3, index: 120, softwareVersion: "0.1.0",
            hostCount: 3, connectedHostCount: 2, guestCount: 6, runningGuestCount: 6, setCount: 2,
            lockedSetCount: 1, stuckSetCount: 1, activeRollouts: [RolloutID(1), RolloutID(2)],
            notifiers: [
                NotifierView(name: "main", acknowledgedSequence: 3, lastSequence: 5),
                NotifierView(
                    name: "other", acknowledgedSequence: 5, lastSequence: 5, connected: true),
                NotifierView(
                    name: "away", acknowledgedSequence: 4, lastSequence: 5, connected: false),
            ],
            warnings: ["Host c is not connected."], keptEventCount: 5)
        #expect(
            view.text == """
                cluster    demo, led by one (term 3, index 120, software 0.1.0)
                hosts      2 of 3 connected
                guests     6 of 6 running
                sets       2, of which 1 locked and 1 stuck
                rollouts   rollout-1 and rollout-2 active
                notifier   main 2 events behind (3 of 5)
                notifier   other up to date (5 of 5)
                notifier   away 1 event behind, not connected (4 of 5)
                events     5 kept
                warning: Host c is not connected.

                """)
        #expect(
            view.json.compact.hasPrefix(
                #"{"cluster":"demo","server":"one","leader":"","isStandby":false,"store":"","#))
        #expect(
            view.json.compact.contains(
                #"{"name":"main","acknowledgedSequence":3,"lastSequence":5,"eventsBehind":2,"#
                    + #""connected":null},{"name":"other","acknowledgedSequence":5,"lastSequence":5,"#
                    + #""eventsBehind":0,"connected":true},"#))
        #expect(view.json.compact.contains(#""keptEventCount":5,"warnings""#))
    }

    @Test("hosts say how long ago they reported")
    func hosts() {
        let host = HostView(
            id: HostID(checked: "a"), connected: false, agentVersion: "0.1.0",
            acceptedToken: Token(7), guestCount: 2, runningGuestCount: 1,
            lastReportAt: Samples.heldAt, step: Samples.step, warnings: ["two UDs of db"],
            software: [
                InstalledSoftware(component: .agent, version: "2.0"),
                InstalledSoftware(component: .network, version: "3.2"),
            ])
        let now = Timestamp(microseconds: Samples.heldAt.microseconds + 200_000_000)
        #expect(
            text(of: [host], now: now) == """
                HOST  AGENT          GUESTS  TOKEN  STEP            LAST REPORT  SOFTWARE
                a     not connected     1/2      7  rollout-1.3  3 min 20 s ago  agent 2.0, network 3.2
                warning: a: two UDs of db

                """)
        #expect(text(of: [HostView](), now: now).hasPrefix("no hosts yet"))
        #expect(host.json.compact.contains(#""lastReportAt":"2026-04-11T22:26:58.123456Z""#))
        #expect(
            host.json.compact.hasSuffix(
                #""software":[{"component":"agent","version":"2.0"},"#
                    + #"{"component":"network","version":"3.2"}],"cordon":null}"#))
        var cordoned = host
        cordoned.cordon = Cordon(reason: "disks", by: "al", since: Samples.heldAt)
        let text = text(of: [cordoned], now: now)
        #expect(text.contains("not connected, cordoned"))
        #expect(text.contains("\ncordoned: a since 2026-04-11 22:26:58 UTC by al: disks\n"))
        #expect(
            cordoned.json.compact.hasSuffix(
                #""cordon":{"reason":"disks","by":"al","since":"2026-04-11T22:26:58.123456Z"}}"#))
    }

    @Test("guests stand flat in JSON, and a state that may be old is marked")
    func guests() {
        let report = GuestReport(
            id: GuestID(checked: "db-0"), set: SetID(checked: "db"), updateDomain: nil,
            memoryBytes: 256 << 20, vcpuCount: 1, state: .running, hypervisorVersion: "7.2.18",
            hasGuestAgent: true, handOverProblem: "its disk is not there")
        let guest = GuestView(
            report: report, host: HostID(checked: "a"), updateDomain: .first, placedByLeader: true,
            hostConnected: false)
        #expect(
            text(of: [guest]) == """
                GUEST  HOST  SET  UD  STATE     QEMU     MEMORY  VCPUS  AGENT
                db-0   a     db    0  running?  7.2.18  256 MiB      1  yes
                ?: as reported last; the host's agent is not connected
                warning: db-0: cannot be handed over: its disk is not there

                """)
        #expect(
            guest.json.compact
                == #"{"id":"db-0","host":"a","set":"db","updateDomain":0,"#
                + #""declaredUpdateDomain":null,"placedByLeader":true,"hostConnected":false,"#
                + #""state":"running","hypervisorVersion":"7.2.18","memoryBytes":268435456,"#
                + #""vcpuCount":1,"hasGuestAgent":true,"handOverProblem":"its disk is not there","#
                + #""addresses":[]}"#)
    }

    @Test("sets show their update domains below each other")
    func sets() {
        let set = SetView(
            id: SetID(checked: "db"), updateDomainCount: 3,
            domains: [0, 2].compactMap { number in
                UpdateDomain(number).map {
                    SetView.Domain(updateDomain: $0, guests: [GuestID(checked: "db-\(number)")])
                }
            },
            lockedUpdateDomain: .first, warnings: [])
        #expect(
            text(of: [set]) == """
                SET   UD  LOCKED  GUESTS
                db   0/3  locked  db-0
                     2/3  -       db-2

                """)
    }

    @Test("a stuck lock's reason stands below the table")
    func locks() {
        let lock = LockView(
            set: SetID(checked: "db"), updateDomain: .first, step: Samples.step, token: Token(7),
            host: HostID(checked: "a"), guests: [GuestID(checked: "db-0")],
            grantedAt: Samples.heldAt, stuck: true, reason: "Guest db-0 is lost; start it.")
        #expect(
            text(of: [lock]) == """
                SET  UD  HOST  STEP         TOKEN  SINCE (UTC)          STATE  GUESTS
                db    0  a     rollout-1.3      7  2026-04-11 22:26:58  stuck  db-0
                db/UD0: Guest db-0 is lost; start it.

                """)
    }

    @Test("a plan shows waves, what is left alone and what stands in the way")
    func plan() {
        let plan = PlanView(
            release: ReleaseID(checked: "qemu-7.2.22"), policy: Policy(parallelism: 1),
            steps: [
                .init(
                    host: HostID(checked: "a"), guests: [GuestID(checked: "db-0")],
                    pairs: [Samples.pair], wave: 1)
            ], waveCount: 1,
            skipped: [
                .init(
                    guest: GuestID(checked: "web-1"), host: HostID(checked: "b"),
                    reason: "runs 7.2.22 already")
            ], problems: ["Host c is not connected."])
        #expect(
            plan.text == """
                release qemu-7.2.22: 1 step in 1 wave, up to 1 step at once, deadline 30 s, \
                stops after 1 failure
                WAVE  HOST  GUESTS  LOCKS
                   1  a     db-0    db/UD0
                left alone:
                  web-1 on host b: runs 7.2.22 already
                problem: Host c is not connected.

                """)
    }

    @Test("a rollout shows each step with its hold")
    func rollout() {
        let view = Samples.rollout(
            .running,
            steps: [
                Samples.stepView(1, phase: .finished, holds: [Samples.record()]),
                Samples.stepView(2, phase: .waiting),
            ])
        #expect(
            view.text == """
                rollout-1  running
                release    qemu-7.2.22 (hypervisor 7.2.22)
                on         all hosts, up to 8 steps at once, deadline 30 s, stops after 1 failure
                started    2026-04-11 22:26:58 UTC by alice
                steps      1 of 2 over

                STEP  HOST  GUEST  LOCKS   PHASE        HOLD    CLOCK  OUTCOME
                   1  a     db-0   db/UD0  finished  14.2 ms  -0.4 ms  succeeded
                   2  a     db-0   db/UD0  waiting         -        -  -
                step 2: waits for db/UD1

                """)
        #expect(view.json.compact.contains(#""selection":{"allHosts":true,"hosts":null}"#))
    }
}

@Suite struct RolloutWatchTests {
    private func event(_ sequence: UInt64, _ body: FleetEvent.Body) -> FleetEvent {
        FleetEvent(sequence: sequence, at: Samples.heldAt, body: body)
    }

    @Test("a rollout is told in lines, each once, and ends with its state")
    func story() {
        var watch = RolloutWatch(RolloutID(1))
        let granted = event(
            2,
            .stepGranted(
                step: Samples.step, host: HostID(checked: "a"), guests: [GuestID(checked: "db-0")],
                pairs: [Samples.pair], release: ReleaseID(checked: "qemu-7.2.22"),
                component: .hypervisor, version: "7.2.22"))
        let started = event(
            1,
            .rolloutStarted(
                rollout: RolloutID(1), release: ReleaseID(checked: "qemu-7.2.22"), stepCount: 6))
        #expect(
            watch.on(event: started)?.text
                == "22:26:58.123  rollout-1 started: release qemu-7.2.22, 6 steps")
        #expect(
            watch.on(event: granted)?.text
                == "22:26:58.123  step 3  granted: host a, db-0, locks db/UD0")
        #expect(watch.on(event: granted) == nil, "the same event again says nothing")
        #expect(watch.statusLine == "rollout-1: 0 of 6 steps over; step 3 granted")
        let held = StepProgress(
            step: Samples.step, token: Token(7), phase: .held, at: Samples.heldAt)
        #expect(watch.on(progress: held)?.text == "22:26:58.123  step 3  held")
        #expect(watch.on(progress: held) == nil)
        #expect(
            watch.on(event: event(3, .holdFinished(Samples.hold())))?.text
                == "22:26:58.123  step 3  db-0 on host a held 14.2 ms, clock 14.0 ms behind, now "
                + "0.4 ms behind: succeeded")
        #expect(watch.on(progress: held) == nil, "progress that comes late says nothing")
        #expect(watch.finalState == nil)
        let over = FleetEvent.Body.rolloutChanged(
            rollout: RolloutID(1), state: .succeeded, reason: "")
        #expect(watch.on(event: event(4, over))?.text == "22:26:58.123  rollout-1 succeeded")
        #expect(watch.finalState == .succeeded)
        #expect(watch.sequence == 4)
    }

    @Test("what belongs to another rollout is passed over but counted")
    func others() {
        var watch = RolloutWatch(RolloutID(2))
        #expect(watch.on(event: event(9, .holdFinished(Samples.hold()))) == nil)
        #expect(watch.sequence == 9)
        #expect(watch.finalState == nil)
    }

    @Test("a view ends the watch when the last event was missed")
    func view() {
        var watch = RolloutWatch(RolloutID(1))
        watch.on(view: Samples.rollout(.failed, steps: [Samples.stepView(1, phase: .cancelled)]))
        #expect(watch.finalState == .failed)
        #expect(watch.statusLine == "rollout-1: 1 of 1 step over")
    }
}
