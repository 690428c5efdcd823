import AgentShell
import Glibc
import Testing
import UvLoop

/// The watcher of an agent's upgrade, with a program and a `….previous` that are only names.
@Suite struct UpgradeWatchTests {
    private let program = "/tmp/fa-upgrade-\(getpid())-\(UInt64.random(in: 0 ... .max))"

    /// Runs a watcher to its end.
    ///
    /// - Parameter said: what the new agent says before it ends.
    /// - Returns: the exit code, and which program has the name now.
    private func watch(
        agent: Int32, hasPrevious: Bool = true, said: String = ""
    ) throws -> (code: Int32, program: String) {
        let previous = "\(program).previous"
        try Files.writeAtomically(path: program, bytes: Array("new".utf8), durable: false)
        if hasPrevious {
            try Files.writeAtomically(path: previous, bytes: Array("old".utf8), durable: false)
        }
        defer {
            unlink(program)
            unlink(previous)
        }
        let (ours, theirs) = try Descriptors.socketPair()
        _ = write(ours, said, said.utf8.count)
        Descriptors.close(ours)
        let code = UpgradeWatch.run(
            program: program, agentProcess: agent, channelDescriptor: theirs)
        let now = try Files.read(path: program, byteCountMax: 100)
        return (code, String(decoding: now, as: UTF8.self))
    }

    @Test("the program before comes back, although the new one ended before the watcher could look")
    func endedAtOnce() throws {
        // No process has such a pid.
        #expect(try watch(agent: .max) == (0, "old"))
    }

    @Test("a new program that says it is up keeps the name")
    func isUp() throws {
        #expect(try watch(agent: .max, said: "ready\n") == (0, "new"))
    }

    @Test("it is content if the program before is back already")
    func isBack() throws {
        #expect(try watch(agent: .max, hasPrevious: false) == (0, "new"))
    }

    @Test("a process that has got the agent's pid is left alone")
    func pidOfAnother() throws {
        let loop = try Loop()
        var signal: Int64?
        let other = try ChildProcess.spawn(
            executable: "/bin/sleep", arguments: ["1000"], on: loop
        ) {
            signal = Int64($0.signal)
            loop.stop()
        }
        #expect(try watch(agent: other.pid) == (0, "old"))
        let isAlive = !(try ProcessReference(pid: other.pid).hasExited)
        #expect(isAlive)
        kill(other.pid, SIGKILL)
        loop.run()
        #expect(signal == Int64(SIGKILL))
    }
}
