import Fleet
import Glibc
import Testing
import UvLoop

@testable import AgentShell

@Suite struct GuardLinkTests {
    @Test("a step that is over does not leave a guard behind that has not armed yet")
    func endsBeforeArmed() throws {
        let directory = "/tmp/fa-link-\(getpid())-\(UInt64.random(in: 0 ... .max))"
        try Files.makeDirectory(path: directory, parents: false)
        defer { try? Files.removeTree(path: directory) }
        let loop = try Loop()
        let sha = [UInt8](repeating: 1, count: 32)
        // Reads nothing, and ends by itself only after all tests.
        let program = GuardProgram(
            executable: "/bin/sh",
            arguments: ["-c", "echo $$ > \(directory)/pid; exec sleep 600"])
        let link = try GuardLink(
            program,
            directive: Directive(
                step: StepID(rollout: RolloutID(1), number: 1), token: Token(1),
                host: HostID(checked: "h"),
                release: Release(
                    id: ReleaseID(checked: "r"), component: .hypervisor,
                    hypervisor: Hypervisor(version: "2", path: "/q"), sha256: sha),
                guests: [GuestID(checked: "a")], deadlineMilliseconds: 5_000),
            paths: HostPaths(run: directory, state: directory, memory: directory), watched: [],
            on: loop, onArmed: { Issue.record("armed") }, onFailure: { Issue.record("\($0)") })
        var pid: pid_t?
        let end = HoldClock.nowMicroseconds + 60_000_000
        func look() {
            let text = (try? Files.read(path: "\(directory)/pid", byteCountMax: 20)) ?? []
            if pid == nil, let found = pid_t(String(decoding: text.dropLast(), as: UTF8.self)) {
                pid = found
                link.end()
                link.end()
            }
            if let pid, kill(pid, 0) != 0 || HoldClock.nowMicroseconds > end { return loop.stop() }
            loop.after(.milliseconds(10)) { look() }
        }
        look()
        loop.run()
        let found = try #require(pid)
        #expect(kill(found, 0) != 0, "it goes on")
    }
}
