import Fleet

@testable import Wire

/// A value of everything that goes over the wire, with every optional field once there and once
/// not. The vectors in proto-spec/vectors/ are made from these: adding is welcome, changing an
/// existing one changes the vectors.
enum Samples {
    static let step = StepID(rollout: RolloutID(7), number: 3)
    static let release = Release(
        id: ReleaseID(checked: "qemu-7.2.22"), component: .hypervisor,
        hypervisor: Hypervisor(
            version: "7.2.22", path: "/opt/qemu-b/bin/qemu-system-x86_64",
            moduleDirectory: "/opt/qemu-b/lib/qemu",
            dataDirectories: ["/usr/share/seabios", "/usr/share/qemu"]),
        sha256: (0..<32).map { UInt8($0) })
    static let bareRelease = Release(
        id: ReleaseID(checked: "ovs"), component: .other("ovs"),
        hypervisor: Hypervisor(version: "3.1", path: "/opt/ovs"),
        sha256: [UInt8](repeating: 0xFF, count: 32))
    static let hostRelease = Release(
        id: ReleaseID(checked: "ovs-3.2"), component: .network, work: .host(hostWork))
    static let hostWork = HostWork(
        version: "3.2", holdsGuests: true,
        prepare: command("/opt/ovs/prepare", [], 600_000),
        apply: command("/opt/ovs/apply", ["--quiet", ""], 8_000),
        check: command("/opt/ovs/check", [], 5_000),
        undo: command("/opt/ovs/undo", ["all"], 10_000),
        environment: [
            EnvironmentVariable(name: "LANG", value: "C.UTF-8"),
            EnvironmentVariable(name: "OVS_RUNDIR", value: ""),
        ], user: "ovs", workingDirectory: "/var/lib/ovs",
        artifact: ReleaseFile(path: "/opt/ovs/ovs.deb", sha256: [UInt8](repeating: 3, count: 32)))
    static let bareHostRelease = Release(
        id: ReleaseID(checked: "chrony-4"), component: .other("chrony"),
        work: .host(
            HostWork(
                version: "4", holdsGuests: false, apply: command("/opt/chrony/apply", [], 1))))
    static let agentRelease = Release(
        id: ReleaseID(checked: "fermata-2"), component: .agent,
        work: .agent(
            version: "2.0",
            program: ReleaseFile(
                path: "/opt/fermata-2/fermata", sha256: [UInt8](repeating: 9, count: 32))))
    static func command(_ path: String, _ arguments: [String], _ limit: UInt32) -> HostCommand {
        HostCommand(
            path: path, arguments: arguments, sha256: (1...32).map { UInt8($0) },
            limitMilliseconds: limit)
    }
    static let policy = Policy(parallelism: 4, deadlineMilliseconds: 20_000, failuresMax: 2)
    static let guest = GuestReport(
        id: GuestID(checked: "db-0"), set: SetID(checked: "db"), updateDomain: UpdateDomain(2),
        memoryBytes: 268_435_456, vcpuCount: 2, state: .running, hypervisorVersion: "7.2.18",
        hasGuestAgent: true, handOverProblem: "")
    static let bareGuest = GuestReport(
        id: GuestID(checked: "web-1"), set: nil, updateDomain: nil, memoryBytes: 0,
        vcpuCount: 0, state: .unknown, hypervisorVersion: "", hasGuestAgent: false,
        handOverProblem: "its RAM is not shared")
    static let hostReport = HostReport(
        host: HostID(checked: "a"), agentVersion: "fermata 0.1.0",
        bootID: "0b5d1c1e-8f7a-4b56-9d57-0d5a1a3c2b11", acceptedToken: Token(41),
        sets: [SetDefinition(id: SetID(checked: "db"), updateDomainCount: 3)],
        guests: [guest, bareGuest])
    static let ableHostReport = HostReport(
        host: HostID(checked: "b"), agentVersion: "fermata 0.2.0", bootID: "",
        acceptedToken: Token(0),
        sets: [], guests: [], abilities: [.hostCommands, .agentUpgrade], software: installed)
    static let installed = [
        InstalledSoftware(component: .agent, version: "2.0"),
        InstalledSoftware(component: .other("ovs"), version: ""),
    ]
    static let hold = HoldRecord(
        guest: GuestID(checked: "db-0"), outcome: .succeeded, reason: "",
        heldAt: Timestamp(microseconds: 1_795_000_000_123_456), holdMicroseconds: 18_250,
        resumedBy: .agent, clockErrorBeforeMicroseconds: -18_400,
        clockErrorAfterMicroseconds: 620, clockNote: "", hypervisorBefore: "7.2.18",
        hypervisorAfter: "7.2.22")
    static let lostHold = HoldRecord(
        guest: GuestID(checked: "db-1"), outcome: .lost, reason: "its QEMU died: out of memory",
        heldAt: Timestamp(microseconds: -1), holdMicroseconds: nil, resumedBy: .guard,
        clockErrorBeforeMicroseconds: nil, clockErrorAfterMicroseconds: nil,
        clockNote: "the guest does not run", hypervisorBefore: "7.2.18", hypervisorAfter: "")
    static let phases = [
        PhaseTime(phase: .accepted, at: Timestamp(microseconds: 1_795_000_000_000_000)),
        PhaseTime(phase: .held, at: Timestamp(microseconds: 1_795_000_000_123_456)),
    ]
    static let directive = Directive(
        step: step, token: Token(42), host: HostID(checked: "a"), release: release,
        guests: [GuestID(checked: "db-0"), GuestID(checked: "db-1")],
        deadlineMilliseconds: 30_000)
    static let hostDirective = Directive(
        step: step, token: Token(43), host: HostID(checked: "a"), release: hostRelease,
        guests: [GuestID(checked: "db-0")], deadlineMilliseconds: 30_000)
    static let emptyDirective = Directive(
        step: step, token: Token(44), host: HostID(checked: "a"), release: agentRelease,
        guests: [], deadlineMilliseconds: 30_000)
    static let stepReport = StepReport(
        step: step, token: Token(42), outcome: .lost, reason: "db-1 is lost", phases: phases,
        holds: [hold, lostHold])
    static let pair = SetPair(set: SetID(checked: "db"), updateDomain: ud(2))
    static let finishedHold = FinishedHold(
        record: hold, host: HostID(checked: "a"), pair: pair, step: step, token: Token(42),
        release: ReleaseID(checked: "qemu-7.2.22"), component: .hypervisor, version: "7.2.22")
    static let finishedHoldWithoutSet = FinishedHold(
        record: lostHold, host: HostID(checked: "a"), pair: nil, step: step, token: Token(42),
        release: ReleaseID(checked: "ovs"), component: .network, version: "3.1")
    static let skipped = PlanView.Skipped(
        guest: GuestID(checked: "web-1"), host: HostID(checked: "a"), reason: "RAM not shared")
    static let skippedHost = PlanView.Skipped(
        guest: nil, host: HostID(checked: "b"), reason: "has network 3.2 already")
    static let at = Timestamp(microseconds: 1_795_000_000_000_000)
    static let instance = (0..<16).map { UInt8(0xA0 + $0) }

    static func ud(_ number: Int) -> UpdateDomain {
        guard let updateDomain = UpdateDomain(number) else { preconditionFailure("UD \(number)") }
        return updateDomain
    }
    static func identity(_ uri: String) -> PeerIdentity {
        guard let identity = PeerIdentity(uri: uri) else { preconditionFailure(uri) }
        return identity
    }

    static let agent = identity("fermata://demo/agent/a")
    static let operatorAlice = identity("fermata://demo/operator/alice")
    static let notifier = identity("fermata://demo/notifier/n1")
    static let server = identity("fermata://demo/server/s1")

    static func hello(
        _ identity: PeerIdentity = agent, versions: ClosedRange<UInt32> = 1...1
    ) -> Hello {
        Hello(
            versionMin: versions.lowerBound, versionMax: versions.upperBound, identity: identity,
            instance: instance, software: "fermata 0.1.0")
    }
    static let accepted = HelloAccepted(
        version: 1, server: "s1", isLeader: true, term: 3, servers: ["10.0.0.1:7450"],
        software: "fermata 0.1.0")

    static let stepView = StepView(
        id: step, host: HostID(checked: "a"), guests: [GuestID(checked: "db-0")], pairs: [pair],
        phase: .finished, token: Token(42), outcome: .succeeded, reason: "",
        grantedAt: at, finishedAt: Timestamp(microseconds: at.microseconds + 5), phases: phases,
        holds: [hold])
    static let waitingStepView = StepView(
        id: StepID(rollout: RolloutID(7), number: 4), host: HostID(checked: "b"), guests: [],
        pairs: [], phase: .waiting, token: nil, outcome: nil, reason: "db is locked",
        grantedAt: nil, finishedAt: nil, phases: [], holds: [])
    static let rolloutView = RolloutView(
        id: RolloutID(7), release: ReleaseID(checked: "qemu-7.2.22"), component: .hypervisor,
        version: "7.2.22", selection: .hosts([HostID(checked: "a"), HostID(checked: "b")]),
        policy: policy, state: .stopping, reason: "one step failed", startedAt: at,
        startedBy: "alice", finishedAt: nil, steps: [stepView, waitingStepView],
        skipped: [skipped])
    static let pausedView = {
        var view = rolloutView
        view.state = .paused
        view.reason = "paused by alice"
        view.steps = []
        return view
    }()
    static let planView = PlanView(
        release: ReleaseID(checked: "qemu-7.2.22"), policy: policy,
        steps: [
            PlanView.Step(
                host: HostID(checked: "a"), guests: [GuestID(checked: "db-0")], pairs: [pair],
                wave: 2)
        ], waveCount: 3, skipped: [skipped], problems: ["host b has never reported"])
    static let statusView = StatusView(
        cluster: "demo", server: "s1", term: 3, index: 99, softwareVersion: "0.1.0", hostCount: 1,
        connectedHostCount: 2, guestCount: 3, runningGuestCount: 4, setCount: 5,
        lockedSetCount: 6, stuckSetCount: 7, activeRollouts: [RolloutID(7)],
        notifiers: [
            NotifierView(name: "n1", acknowledgedSequence: 8, lastSequence: 9),
            NotifierView(name: "n2", acknowledgedSequence: 7, lastSequence: 9, connected: false),
        ],
        warnings: ["no notifier is known"],
        traffic: ServerTraffic(
            sessionCount: 10, halfOpenCount: 11,
            counters: [
                Counter(name: "connections_refused", reason: "expired", count: 12),
                Counter(name: "sessions_opened", reason: "", count: 13),
            ],
            certificates: [
                CertificateView(
                    identity: "fermata://demo/server/s1", serial: "4a0b", expiresAt: at)
            ]), store: "sqlite:/var/lib/fermata", isStandby: true, leader: "s2",
        keptEventCount: 14)

    static let notice = Notice(
        step: step, host: HostID(checked: "a"),
        guests: [GuestID(checked: "db-0"), GuestID(checked: "db-1")], pairs: [pair],
        release: ReleaseID(checked: "qemu-7.2.22"), component: .hypervisor, version: "7.2.22",
        noticedAt: at, notBefore: Timestamp(microseconds: at.microseconds + 900_000_000),
        deadlineMilliseconds: 5_000, isStarted: false, acknowledgedBy: [GuestID(checked: "db-1")])

    static let events: [FleetEvent] = [
        .rolloutStarted(
            rollout: RolloutID(7), release: ReleaseID(checked: "qemu-7.2.22"), stepCount: 6),
        .rolloutChanged(rollout: RolloutID(7), state: .failed, reason: "step 3 failed"),
        .rolloutChanged(rollout: RolloutID(7), state: .paused, reason: "paused by alice"),
        .stepGranted(
            step: step, host: HostID(checked: "a"), guests: [GuestID(checked: "db-0")],
            pairs: [pair], release: ReleaseID(checked: "qemu-7.2.22"), component: .hypervisor,
            version: "7.2.22"),
        .stepNoticed(notice), .noticeAcknowledged(step: step, guest: GuestID(checked: "db-0")),
        .noticeWithdrawn(step: step, reason: "the rollout was aborted"),
        .stepEnded(step: step, host: HostID(checked: "a"), outcome: .succeeded, reason: ""),
        .stepEnded(step: step, host: HostID(checked: "a"), outcome: nil, reason: "cancelled"),
        .stepEndedWithoutHold(
            step: step, host: HostID(checked: "a"), reason: "digest differs"),
        .holdFinished(finishedHold),
        .holdFinished(finishedHoldWithoutSet),
        .lockReleased(set: SetID(checked: "db"), by: "alice", reason: "host a is scrapped"),
    ].enumerated().map {
        FleetEvent(sequence: UInt64($0.offset + 1), at: at, body: $0.element)
    }

    static let queryResults: [(String, OperatorQueryResult)] = [
        ("status", .status(statusView)), ("notices", .notices([notice], lastSequence: 7)),
        (
            "hosts",
            .hosts([
                HostView(
                    id: HostID(checked: "a"), connected: true, agentVersion: "0.1.0",
                    acceptedToken: Token(0), guestCount: 2, runningGuestCount: 1,
                    lastReportAt: at, step: step, warnings: ["its clock is off"]),
                HostView(
                    id: HostID(checked: "b"), connected: false, agentVersion: "",
                    acceptedToken: Token(9), guestCount: 0, runningGuestCount: 0,
                    lastReportAt: Timestamp(microseconds: 0), step: nil, warnings: []),
            ])
        ),
        (
            "guests",
            .guests([
                GuestView(
                    report: guest, host: HostID(checked: "a"), updateDomain: ud(2),
                    placedByLeader: true, hostConnected: true),
                GuestView(
                    report: bareGuest, host: HostID(checked: "a"), updateDomain: nil,
                    placedByLeader: false, hostConnected: false),
            ])
        ),
        (
            "sets",
            .sets([
                SetView(
                    id: SetID(checked: "db"), updateDomainCount: 3,
                    domains: [
                        SetView.Domain(updateDomain: ud(0), guests: [GuestID(checked: "db-0")])
                    ], lockedUpdateDomain: ud(0), warnings: ["stuck"]),
                SetView(
                    id: SetID(checked: "web"), updateDomainCount: 20, domains: [],
                    lockedUpdateDomain: nil, warnings: []),
            ])
        ),
        (
            "locks",
            .locks([
                LockView(
                    set: SetID(checked: "db"), updateDomain: ud(19), step: step, token: Token(42),
                    host: HostID(checked: "a"), guests: [GuestID(checked: "db-0")],
                    grantedAt: at, stuck: true, reason: "db-0 is lost")
            ])
        ),
        (
            "releases",
            .releases([
                ReleaseView(release: release, addedAt: at, addedBy: "alice"),
                ReleaseView(release: bareRelease, addedAt: at, addedBy: "bob"),
            ])
        ),
        (
            "hosts with software",
            .hosts([
                HostView(
                    id: HostID(checked: "b"), connected: true, agentVersion: "0.2.0",
                    acceptedToken: Token(9), guestCount: 0, runningGuestCount: 0,
                    lastReportAt: at, step: nil, warnings: [], software: installed)
            ])
        ),
        (
            "hosts with a cordon",
            .hosts([
                HostView(
                    id: HostID(checked: "c"), connected: true, agentVersion: "0.2.0",
                    acceptedToken: Token(9), guestCount: 0, runningGuestCount: 0,
                    lastReportAt: at, step: nil, warnings: [],
                    cordon: Cordon(reason: "its disks", by: "alice", since: at))
            ])
        ),
        ("rollouts that are paused", .rollouts([pausedView])),
        (
            "releases of other software",
            .releases([
                ReleaseView(release: hostRelease, addedAt: at, addedBy: "alice"),
                ReleaseView(release: bareHostRelease, addedAt: at, addedBy: "alice"),
                ReleaseView(release: agentRelease, addedAt: at, addedBy: "alice"),
            ])
        ),
        (
            "plan of other software",
            .plan(
                PlanView(
                    release: hostRelease.id, policy: policy,
                    steps: [
                        PlanView.Step(
                            host: HostID(checked: "a"), guests: [], pairs: [], wave: 1)
                    ], waveCount: 1, skipped: [skippedHost, skipped], problems: []))
        ),
        ("rollouts", .rollouts([rolloutView])),
        ("rollout", .rollout(rolloutView)),
        ("plan", .plan(planView)),
    ]

    /// Named messages; every kind, every case of every oneof.
    static let messages: [(name: String, message: Message)] =
        sessionMessages + agentMessages + operatorMessages + eventMessages

    private static let sessionMessages: [(name: String, message: Message)] = [
        ("hello of an agent", .hello(hello())),
        ("hello of an operator", .hello(hello(operatorAlice))),
        ("hello accepted", .helloAccepted(accepted)),
        ("close", .close(.wrongCluster, reason: "this is cluster demo")),
        ("ping", .ping(nonce: 0x0102_0304_0506_0708)),
        ("pong", .pong(nonce: 0x0102_0304_0506_0708)),
    ]
    private static let agentMessages: [(name: String, message: Message)] = [
        ("host report", .hostReport(hostReport)),
        ("host report with abilities and software", .hostReport(ableHostReport)),
        ("host report committed", .hostReportCommitted(index: 300)),
        ("directive", .directive(directive)),
        ("directive with commands", .directive(hostDirective)),
        ("directive without guests", .directive(emptyDirective)),
        (
            "directive accepted",
            .directiveAnswer(step: step, token: Token(42), answer: .accepted)
        ),
        (
            "directive stale",
            .directiveAnswer(
                step: step, token: Token(42), answer: .staleToken(acceptedToken: Token(43)))
        ),
        (
            "directive busy",
            .directiveAnswer(
                step: step, token: Token(42),
                answer: .busy(with: StepID(rollout: RolloutID(6), number: 1)))
        ),
        (
            "directive refused",
            .directiveAnswer(
                step: step, token: Token(42), answer: .refused(reason: "no such guest"))
        ),
        (
            "step progress",
            .stepProgress(
                StepProgress(step: step, token: Token(42), phase: .patched, at: at))
        ),
        ("step report", .stepReport(stepReport)),
        ("step report committed", .stepReportCommitted(step: step, token: Token(42))),
    ]
    private static let operatorMessages: [(name: String, message: Message)] =
        [
            ("command add release", .command(.addRelease(release))),
            ("command add bare release", .command(.addRelease(bareRelease))),
            ("command add commands", .command(.addRelease(hostRelease))),
            ("command add one command", .command(.addRelease(bareHostRelease))),
            ("command add agent program", .command(.addRelease(agentRelease))),
            (
                "command start rollout",
                .command(
                    .startRollout(
                        release: ReleaseID(checked: "qemu-7.2.22"), selection: .allHosts,
                        policy: policy))
            ),
            (
                "command abort rollout",
                .command(.abortRollout(RolloutID(7), reason: "guests complain"))
            ),
            (
                "command release lock",
                .command(.releaseLock(SetID(checked: "db"), reason: "host a is scrapped"))
            ),
            ("command step down", .command(.stepDown)),
            (
                "command acknowledge notice",
                .command(
                    .acknowledgeNotice(step, guest: GuestID(checked: "db-0"), noticedAt: nil))
            ),
            (
                "command acknowledge notice of a time",
                .command(
                    .acknowledgeNotice(
                        step, guest: GuestID(checked: "db-0"),
                        noticedAt: Timestamp(microseconds: 1_775_945_518_000_000)))
            ),
            (
                "command pause rollout",
                .command(.pauseRollout(RolloutID(7), reason: "guests complain"))
            ),
            ("command resume rollout", .command(.resumeRollout(RolloutID(7), reason: ""))),
            (
                "command cordon host",
                .command(.cordonHost(HostID(checked: "a"), reason: "its disks"))
            ),
            (
                "command uncordon host",
                .command(.uncordonHost(HostID(checked: "a"), reason: "they are there"))
            ),
            (
                "command forget notifier",
                .command(.forgetNotifier(NotifierID(checked: "n1"), reason: "n2 replaces it"))
            ),
            ("command accepted", .commandAccepted(index: 12, rollout: nil)),
            ("command accepted with rollout", .commandAccepted(index: 13, rollout: RolloutID(7))),
            (
                "refused",
                .refused(Refusal(.conflict, "set db is locked", advice: "wait for rollout-6"))
            ),
            ("query status", .query(.status)), ("query hosts", .query(.hosts)),
            ("query status of a standby", .query(.status, stale: true)),
            ("query guests", .query(.guests)), ("query sets", .query(.sets)),
            ("query locks", .query(.locks)), ("query releases", .query(.releases)),
            ("query rollouts", .query(.rollouts)), ("query notices", .query(.notices)),
            ("query rollout", .query(.rollout(RolloutID(7)))),
            (
                "query plan",
                .query(
                    .plan(
                        release: ReleaseID(checked: "qemu-7.2.22"),
                        selection: .hosts([HostID(checked: "a")]), policy: policy))
            ),
        ] + queryResults.map { ("query result \($0.0)", .queryResult($0.1)) }
    private static let eventMessages: [(name: String, message: Message)] = [
        ("follow events", .followEvents(afterSequence: 0, progress: true)),
        ("event batch", .eventBatch(events, lastSequence: 20)),
        ("empty event batch", .eventBatch([], lastSequence: 0)),
        ("acknowledge events", .acknowledgeEvents(sequence: 7)),
        ("claim deliveries", .claimDeliveries), ("give up deliveries", .giveUpDeliveries),
        (
            "delivery lease",
            .deliveryLease(
                DeliveryLease(
                    holder: "n1", number: 3, isYours: true,
                    delivered: [
                        DeliveredSequence(sink: "grafana", sequence: 12),
                        DeliveredSequence(sink: "mail", sequence: 0),
                    ]))
        ),
        (
            "delivery lease of nobody",
            .deliveryLease(DeliveryLease(holder: "", number: 0, isYours: false, delivered: []))
        ),
        ("report delivered", .reportDelivered(number: 3, sink: "grafana", sequence: 12)),
    ]
}
