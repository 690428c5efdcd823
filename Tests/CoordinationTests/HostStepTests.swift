import Coordination
import Fleet
import Testing

/// The fine points of steps that are of a host; their course is in Scenarios/.
@Suite("Coordinator: whole hosts")
struct HostStepTests {
    static let connected: Set<HostID> = [HostID(checked: "a")]

    private func fleet(_ guests: [String], _ release: Release) -> Fixture {
        var fleet = Fixture()
        fleet.host("a", guests)
        fleet.run(.addRelease(release, by: "al"))
        return fleet
    }

    private func plan(_ fleet: Fixture, _ release: String = "n2") throws -> PlanView {
        try fleet.coordinator.planView(
            ReleaseID(checked: release), .allHosts, Policy(), connected: Self.connected
        ).get()
    }

    @Test("which component goes with which work")
    func agreement() {
        func code(_ component: Component, _ work: Work) -> Refusal.Code? {
            Fixture().refusal(
                .addRelease(
                    Release(id: ReleaseID(checked: "r"), component: component, work: work),
                    by: "al"))?.code
        }
        let commands = Fixture.hostRelease().work
        let agent = Fixture.agentRelease().work
        let hypervisor = Work.hypervisor(
            Hypervisor(version: "2", path: "/q"), sha256: Array(repeating: 7, count: 32))
        #expect(code(.hypervisor, hypervisor) == nil)
        #expect(code(.hypervisor, commands) == .invalid)
        #expect(code(.hypervisor, agent) == .invalid)
        #expect(code(.agent, agent) == nil)
        #expect(code(.agent, commands) == nil)
        #expect(code(.agent, hypervisor) == .invalid)
        for component in [Component.network, .other("chrony")] {
            #expect(code(component, commands) == nil)
            #expect(code(component, agent) == .invalid)
            #expect(code(component, hypervisor) == .invalid)
        }
        for work in [commands, agent, hypervisor] {
            #expect(code(.kernel, work) == .notSupported)
        }
    }

    /// Each breaks one thing of a good release.
    static let breaks: [(String, @Sendable (inout HostWork) -> Void)] = [
        ("no version", { $0.version = "" }),
        ("is not absolute", { $0.apply.path = "apply" }),
        ("bytes, not 32", { $0.undo?.sha256.removeLast() }),
        ("0 ms", { $0.apply.limitMilliseconds = 0 }),
        ("3600001 ms", { $0.apply.limitMilliseconds = 3_600_001 }),
        ("65 arguments", { $0.apply.arguments = Array(repeating: "", count: 65) }),
        ("path tmp is not absolute", { $0.workingDirectory = "tmp" }),
        ("FERMATA_X", { $0.environment = [EnvironmentVariable(name: "FERMATA_X", value: "")] }),
        (
            "not in order at B",
            {
                $0.environment = ["B", "B"].map { EnvironmentVariable(name: $0, value: "") }
            }
        ),
        ("path deb is not absolute", { $0.artifact = ReleaseFile(path: "deb", sha256: []) }),
    ]

    @Test("what is wrong with a release is said", arguments: breaks.indices)
    func invalid(index: Int) throws {
        var release = Fixture.hostRelease()
        guard case .host(var work) = release.work else { return }
        Self.breaks[index].1(&work)
        release.work = .host(work)
        let refusal = try #require(Fixture().refusal(.addRelease(release, by: "al")))
        #expect(refusal.code == .invalid)
        #expect(refusal.message.contains(Self.breaks[index].0), "\(refusal.message)")
    }

    @Test("the limits of a hold and its reserve fit into 30 s, at the edge")
    func limits() {
        #expect(
            Fixture().refusal(.addRelease(Fixture.hostRelease(limits: 14_000), by: "al")) == nil)
        let refusal = Fixture().refusal(
            .addRelease(Fixture.hostRelease(limits: 14_001), by: "al"))
        #expect(refusal?.code == .invalid)
        #expect(refusal?.message.contains("30002 ms") == true)
        #expect(refusal?.message.contains("apply 14001 ms, undo 14001 ms") == true)
        let free = Fixture.hostRelease(holdsGuests: false, limits: 3_600_000)
        #expect(Fixture().refusal(.addRelease(free, by: "al")) == nil)
    }

    @Test("they fit into the policy's deadline too, at the edge")
    func deadline() {
        var fleet = fleet(["db/0"], Fixture.hostRelease())
        let short = fleet.start(Policy(deadlineMilliseconds: 11_999), id: "n2")
        #expect(short.refusalCode == .invalid)
        #expect(
            fleet.coordinator.planView(
                ReleaseID(checked: "n2"), .allHosts, Policy(deadlineMilliseconds: 11_999),
                connected: []
            ).refusalCode == .invalid)
        #expect(
            fleet.start(Policy(deadlineMilliseconds: 12_000), id: "n2").refusalCode == nil)
    }

    @Test("64 guests can be held together, 65 not")
    func guestCount() throws {
        let full = fleet(Array(repeating: "-", count: 64), Fixture.hostRelease())
        #expect(try plan(full).steps.first?.guests.count == 64)
        let over = fleet(Array(repeating: "-", count: 65), Fixture.hostRelease())
        #expect(try plan(over).steps == [])
        #expect(try plan(over).skipped.first?.reason.contains("65 guests run on it") == true)
    }

    @Test(
        "a guest that is neither running nor at rest keeps its host out",
        arguments: GuestState.allCases)
    func states(state: GuestState) throws {
        var fleet = fleet(["-", "-"], Fixture.hostRelease())
        fleet.change("a") { $0.guests[0].state = state }
        let plan = try plan(fleet)
        switch state {
        case .running: #expect(plan.steps.first?.guests.count == 2)
        case .paused, .stopped: #expect(plan.steps.first?.guests.count == 1)
        case .starting, .held, .lost, .unknown:
            #expect(plan.steps == [])
            #expect(plan.skipped.first?.guest == nil)
            #expect(plan.skipped.first?.reason.contains(state.rawValue) == true)
        }
    }

    @Test("a guest that began to run since keeps the step from holding only the others")
    func newcomer() {
        var fleet = fleet(["-", "-"], Fixture.hostRelease())
        fleet.change("a") { $0.guests[1].state = .stopped }
        fleet.start(id: "n2")
        fleet.change("a") { $0.guests[1].state = .starting }
        #expect(fleet.schedule("a") == [])
        #expect(fleet.rolloutState == .running)
        fleet.change("a") { $0.guests[1].state = .running }
        #expect(fleet.schedule("a") == [])
        let step = fleet.coordinator.state.rollouts[RolloutID(1)]!.steps[0]
        #expect(step.status == .cancelled)
        #expect(step.reason.contains("a1 is running since"))
    }

    @Test("a guest that two hosts report keeps the second one out")
    func foreign() throws {
        var fleet = fleet(["-"], Fixture.hostRelease())
        var other = fleet.report("b", ["-"])
        other.guests[0].id = GuestID(checked: "a0")
        fleet.run(.reportHost(other))
        let plan = try plan(fleet)
        #expect(plan.steps.map(\.host.rawValue) == ["a"])
        #expect(plan.skipped.first?.reason.contains("reported by host a too") == true)
    }

    @Test("the directive has all guests; the success of a step without any says what was done")
    func directives() {
        var fleet = fleet(["web/1", "db/0", "-"], Fixture.hostRelease())
        fleet.start(id: "n2")
        #expect(fleet.schedule("a") == ["a0+a1+a2"])
        let directive = fleet.coordinator.outstandingDirectives()[0]
        #expect(directive.guests.count == 3)
        #expect(
            Array(fleet.coordinator.state.locks.keys) == [
                SetID(checked: "db"), SetID(checked: "web"),
            ])
        fleet.finish(host: "a")
        #expect(fleet.coordinator.state.locks.isEmpty)
        #expect(fleet.finishedHolds.count == 3)
        #expect(fleet.rolloutState == .succeeded)

        fleet.run(.addRelease(Fixture.agentRelease(), by: "al"))
        fleet.start(id: "f2")
        fleet.schedule("a")
        #expect(fleet.coordinator.outstandingDirectives()[0].guests == [])
        fleet.finish(host: "a")
        let reasons: [String] = fleet.coordinator.state.events.compactMap {
            if case .stepEndedWithoutHold(_, _, let reason) = $0.body { reason } else { nil }
        }
        #expect(reasons == ["agent 2 is installed; no guest had to be held"])
        #expect(fleet.rolloutState == .succeeded)
        #expect(fleet.broken == [])
    }

    @Test("what hosts have is shown")
    func software() {
        var fleet = fleet(["-"], Fixture.hostRelease())
        let installed = [InstalledSoftware(component: .network, version: "2")]
        fleet.change("a") { $0.software = installed }
        #expect(fleet.coordinator.hostViews(connected: [])[0].software == installed)
        #expect(fleet.start(id: "n2").refusalCode == .nothingToDo)
    }
}
