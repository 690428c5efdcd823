import Fleet
import HostConfiguration
import Testing
import UvLoop

@testable import AgentCore
@testable import AgentShell

@Suite struct HostChecksTests {
    private func host(run: String, guests: [GuestConfiguration] = []) -> HostFile {
        HostFile(
            host: HostID(checked: "a"), runDirectory: run, stateDirectory: "/tmp/fa-checks/state",
            memoryDirectory: "/dev/shm/fa-checks", accelerator: "tcg",
            hypervisor: Hypervisor(version: "1", path: "/usr/bin/qemu-system-x86_64"), sets: [],
            guests: guests)
    }

    @Test("a host whose file names nothing that is missing has no problem, and nothing is made")
    func fine() {
        let guest = GuestConfiguration(id: GuestID(checked: "g"), memoryBytes: 1 << 20)
        #expect(
            HostChecks.problems(
                in: host(run: "/tmp/fa-checks/run", guests: [guest]), fileName: "h.yaml"
            ).isEmpty)
        #expect(!Files.exists(path: "/tmp/fa-checks"))
    }

    @Test("everything that is missing or too large is said at once, with its place")
    func problems() {
        var guest = GuestConfiguration(
            id: GuestID(checked: "g"), memoryBytes: HostFacts.memoryBytes * 2,
            kernel: "/none/vmlinuz")
        guest.disks = [Disk(path: "/none/disk", format: .raw)]
        var host = host(run: "/proc/version/run", guests: [guest])
        host.hypervisor.path = "/none/qemu"
        host.hypervisor.dataDirectories = ["/none/data"]
        let problems = HostChecks.problems(in: host, fileName: "h.yaml") { path in
            path == "guests[0].disks[0].path" ? (line: 12, column: 7) : nil
        }
        #expect(
            problems.map(\.path) == [
                "runDirectory", "hypervisor.path", "hypervisor.dataDirectories[0]",
                "guests[0].kernel", "guests[0].disks[0].path", "guests[0].memory", "guests",
            ])
        #expect(problems[4].description.hasPrefix("h.yaml:12:7: guest g: there is no disk"))
    }

    @Test("a probe's command that is not there is a problem, at its place in the file")
    func probes() throws {
        let text = """
            host: a
            runDirectory: /tmp/fa-checks/run
            stateDirectory: /tmp/fa-checks/state
            memoryDirectory: /dev/shm/fa-checks
            hypervisor: {path: /usr/bin/qemu-system-x86_64, version: "1"}
            guests:
              - {id: g, memory: 1MiB, probe: {command: /none/check}}
              - id: h
                memory: 1MiB
                probes:
                  - {command: /bin/true}
                  - {command: /etc/passwd}
            """
        let places = try #require(HostFilePlaces(text))
        let file = try HostFile.parse(text, fileName: "h").get()
        let problems = HostChecks.problems(in: file, fileName: "h") { places.place(of: $0) }
        #expect(
            problems.map(\.description) == [
                "h:7:44: guest g: there is no executable /none/check: install it, or correct the probe",
                "h:12:19: guest h: there is no executable /etc/passwd: install it, or correct the probe",
            ])
    }

    @Test("a bridge that is none is a problem before guests are started, and not when an agent is")
    func bridges() {
        var guest = GuestConfiguration(id: GuestID(checked: "g"), memoryBytes: 1 << 20)
        guest.nics = ["fm-none0", "lo", nil].enumerated().map { number, bridge in
            .tap(name: "t\(number)", bridge: bridge, mac: MACAddress("02:00:00:00:00:0\(number)")!)
        }
        let host = host(run: "/tmp/fa-checks/run", guests: [guest])
        #expect(HostChecks.problems(in: host, fileName: "h").isEmpty)
        let problems = HostChecks.problems(in: host, fileName: "h", includesBridges: true)
        #expect(problems.map(\.path) == ["guests[0].nics[0].bridge", "guests[0].nics[1].bridge"])
        #expect(
            problems.map(\.message) == [
                "guest g: there is no bridge fm-none0", "guest g: lo is no bridge",
            ])
    }

    @Test("socket paths that no Unix socket can have are a problem")
    func longPaths() {
        let run = "/tmp/" + String(repeating: "r", count: 90)
        let guest = GuestConfiguration(id: GuestID(checked: "g"), memoryBytes: 1 << 20)
        let problems = HostChecks.problems(in: host(run: run, guests: [guest]), fileName: "h.yaml")
        #expect(problems.map(\.path) == ["guests[0].id"])
    }
}

@Suite struct StepStoreTests {
    private let directory = "/tmp/fa-store-\(randomBytes(4).map { String($0, radix: 16) }.joined())"
    private var paths: HostPaths {
        HostPaths(run: directory, state: directory, memory: directory)
    }

    private func record() -> AcceptedStep {
        let guest = GuestID(checked: "g")
        let directive = Directive(
            step: StepID(rollout: RolloutID(3), number: 4), token: Token(Limits.tokenMax),
            host: HostID(checked: "a"),
            release: Release(
                id: ReleaseID(checked: "r"), component: .hypervisor,
                hypervisor: Hypervisor(version: "v", path: "/q", moduleDirectory: "/m"),
                sha256: [UInt8](repeating: 9, count: 32)),
            guests: [guest], deadlineMilliseconds: 1_000)
        return AcceptedStep(
            directive: directive, acceptedAt: Timestamp(microseconds: 5), bootID: "b",
            guests: [
                AcceptedStep.Guest(
                    plan: GuestPlan(id: guest, hypervisorBefore: "o"), oldGeneration: 7)
            ])
    }

    @Test("what is kept comes back whole, and a report outlives its step")
    func roundTrip() throws {
        try Files.makeDirectory(path: "\(directory)/reports", parents: true)
        defer { try? Files.removeTree(path: directory) }
        let store = StepStore(paths: paths)
        #expect(try store.load().acceptedToken == Token(0))
        try store.keep(acceptedToken: Token(Limits.tokenMax), inFlight: record())
        var contents = try store.load()
        #expect(contents.acceptedToken == Token(Limits.tokenMax))
        #expect(contents.inFlight == record())
        let report = StepReport(
            step: record().directive.step, token: Token(Limits.tokenMax), outcome: .lost,
            reason: "r",
            phases: [], holds: [])
        try store.keep(report)
        contents = try store.load()
        #expect(contents.inFlight == record() && contents.reports == [report])
        try store.keep(acceptedToken: Token(Limits.tokenMax), inFlight: nil)
        contents = try store.load()
        #expect(contents.inFlight == nil && contents.acceptedToken == Token(Limits.tokenMax))
        #expect(contents.reports == [report])
        store.forget(step: report.step, token: report.token)
        #expect(try store.load().reports.isEmpty)
    }

    @Test("a state file that cannot be read stops the agent instead of forgetting a token")
    func damaged() throws {
        try Files.makeDirectory(path: "\(directory)/reports", parents: true)
        defer { try? Files.removeTree(path: directory) }
        for text in ["", "{", "{}", #"{"token":"x"}"#, #"{"token":"1","directive":"zz"}"#] {
            try Files.writeAtomically(path: paths.accepted, bytes: Array(text.utf8), durable: false)
            #expect(throws: AgentError.self) { try StepStore(paths: paths).load() }
        }
    }

    @Test("notes of another step and a last line that is cut off are skipped")
    func notes() throws {
        try Files.makeDirectory(path: directory, parents: true)
        defer { try? Files.removeTree(path: directory) }
        let notes = StepNotes(path: paths.notes)
        let step = StepID(rollout: RolloutID(1), number: 1)
        notes.begin(step, Token(2))
        notes.append(.lost(GuestID(checked: "g"), reason: "why"))
        try Files.append(path: paths.notes, bytes: Array("lost\tg\tcut".utf8), durable: false)
        #expect(notes.read(step, Token(2)).count == 1)
        #expect(notes.read(step, Token(3)).isEmpty)
    }
}
