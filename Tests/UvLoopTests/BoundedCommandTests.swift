import Glibc
import Testing
import UvLoop

@Suite("Bounded commands") struct BoundedCommandTests {
    private func shell(
        _ script: String, limit: Duration = .seconds(15)
    ) throws -> (end: BoundedCommand.End, output: String) {
        let loop = try Loop()
        var found: (BoundedCommand.End, [UInt8])?
        try BoundedCommand(
            executable: "/bin/sh", arguments: ["-c", script], limit: limit, on: loop
        ) { found = ($0, $1) }
        run(loop) { found != nil }
        loop.closeAll()
        let (end, output) = try #require(found)
        return (end, text(output))
    }

    private func exited(_ code: Int64) -> BoundedCommand.End {
        .exited(UvLoop.ExitStatus(code: code, signal: 0))
    }

    @Test("its exit code and both of its outputs come back")
    func output() throws {
        let result = try shell("echo one; echo two >&2; exit 3")
        #expect(result.end == exited(3))
        #expect(result.output == "one\ntwo\n")
        #expect(try shell("kill -9 $$").end == .exited(UvLoop.ExitStatus(code: 0, signal: 9)))
    }

    @Test("of a long output the end is kept, and the command does not wait for us")
    func longOutput() throws {
        let result = try shell("head -c 3000000 /dev/zero; echo last")
        #expect(result.end == exited(0))
        #expect(result.output.utf8.count == BoundedCommand.outputByteCountMax)
        #expect(result.output.hasSuffix("last\n"))
    }

    @Test("at its limit it is killed with all that it has started")
    func limit() throws {
        let result = try shell(
            "sleep 600 & echo $$ $!; wait", limit: .milliseconds(300))
        #expect(result.end == .tookTooLong)
        try expectGone(result.output)
    }

    @Test("what it leaves running is killed when it ends, and not waited for")
    func leftOver() throws {
        let result = try shell("sleep 600 & echo $!; exit 0")
        #expect(result.end == exited(0))
        try expectGone(result.output)
    }

    private func expectGone(_ output: String) throws {
        let pids = output.split(whereSeparator: \.isWhitespace).compactMap { Int32($0) }
        #expect(!pids.isEmpty)
        let loop = try Loop()
        for pid in pids {
            // Whoever reaps orphans here may take a moment; a zombie runs nothing.
            run(loop) { (try? ProcessReference(pid: pid))?.hasExited ?? true }
        }
        loop.closeAll()
    }

    @Test("a program that is not there is an error at once")
    func missing() throws {
        let loop = try Loop()
        #expect(throws: UvError.self) {
            try BoundedCommand(
                executable: "/no/such/program", arguments: [], limit: .seconds(1), on: loop
            ) { _, _ in Issue.record("there was nothing to complete") }
        }
        loop.run()
        loop.closeAll()
    }
}
