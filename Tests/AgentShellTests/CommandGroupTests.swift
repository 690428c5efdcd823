import Fleet
import Glibc
import Testing
import UvLoop

@testable import AgentCore
@testable import AgentShell

/// What a restarted agent kills of a command, and what it must leave alone.
@Suite struct CommandGroupTests {
    private let directive: Directive
    init() {
        let apply = HostCommand(
            path: "/bin/true", arguments: [], sha256: [], limitMilliseconds: 1_000)
        directive = Directive(
            step: StepID(rollout: RolloutID(1), number: 2), token: Token(3),
            host: HostID(checked: "h"),
            release: Release(
                id: ReleaseID(checked: "r"), component: .network,
                work: .host(HostWork(version: "1", holdsGuests: true, apply: apply))),
            guests: [], deadlineMilliseconds: 10_000)
    }

    @Test(
        "a session is killed only if boot, step, token, command and its first process are the same")
    func session() throws {
        let loop = try Loop()
        let child = try ChildProcess.spawn(
            executable: "/bin/sleep", arguments: ["1000"], detached: true, on: loop
        ) { _ in }
        defer { kill(child.pid, SIGKILL) }
        let group = ProcessGroup.session(pid: child.pid)
        let record = CommandGroupRecord(group, .apply, of: directive)
        func found(_ text: String) -> ProcessGroup? {
            CommandGroupRecord.group(in: text, of: .apply, of: directive)
        }
        #expect(found(record.text) == group)
        #expect(found("\(child.pid)") == nil)
        #expect(found("") == nil)
        var others = [record, record, record, record, record]
        others[0].bootID = "another"
        others[1].token = Token(4)
        others[2].step = StepID(rollout: RolloutID(1), number: 3)
        others[3].kind = .undo
        others[4].startTime += "1"
        for (index, other) in others.enumerated() { #expect(found(other.text) == nil, "\(index)") }
        // A pid that nobody has, as after a reboot.
        var gone = record
        gone.group = .session(pid: .max)
        gone.startTime = ""
        #expect(found(gone.text) == nil)
    }

    @Test("a control group is killed only if it is that command's")
    func control() {
        let group = ProcessGroup.control(ControlGroup(path: "/sys/fs/cgroup/fermata-h-1.2-apply"))
        let record = CommandGroupRecord(group, .apply, of: directive)
        #expect(CommandGroupRecord.group(in: record.text, of: .apply, of: directive) == group)
        #expect(CommandGroupRecord.group(in: record.text, of: .undo, of: directive) == nil)
    }

    @Test("an agent goes back only to another program than the one that runs")
    func upgradeGoesBack() throws {
        let own = "/tmp/fa-back-\(getpid())-\(UInt64.random(in: 0 ... .max))"
        let previous = AgentUpgrade.previous(own)
        defer { for path in [own, previous] { unlink(path) } }
        func put(_ path: String, _ text: String) throws {
            try Files.writeAtomically(path: path, bytes: Array(text.utf8), durable: false)
        }
        try put(own, "new")
        let digest = try SHA256Digest.ofFile(own)
        #expect(!AgentUpgrade.canGoBack(own, from: digest))
        try put(previous, "new")
        #expect(!AgentUpgrade.canGoBack(own, from: digest))
        try put(previous, "old")
        #expect(AgentUpgrade.canGoBack(own, from: digest))
        // The watcher was quicker.
        try Files.rename(from: previous, to: own)
        #expect(AgentUpgrade.canGoBack(own, from: digest))
    }
}
