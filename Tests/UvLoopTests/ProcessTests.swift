import Edges
import Glibc
import Testing
import UvLoop

@Suite("Processes") struct ProcessTests {
    @Test("a child gets arguments, environment, directory and files, and its exit code comes back")
    func child() throws {
        try withDirectory { directory in
            let loop = try Loop()
            var status: UvLoop.ExitStatus?
            let script = "echo $1 $WORD; pwd; echo problem >&2; exit 7"
            let child = try ChildProcess.spawn(
                executable: "/bin/sh", arguments: ["-c", script, "sh", "argument"],
                environment: ["WORD": "word"], workingDirectory: directory,
                descriptors: [
                    .ignore, .file(path: "\(directory)/out", append: false),
                    .file(path: "\(directory)/err", append: true),
                ], on: loop
            ) { status = $0 }
            #expect(child.pid > 0)
            run(loop) { status != nil }
            #expect(status == UvLoop.ExitStatus(code: 7, signal: 0))
            let out = text(try Files.read(path: "\(directory)/out", byteCountMax: 1_000))
            #expect(out == "argument word\n\(directory)\n")
            #expect(
                text(try Files.read(path: "\(directory)/err", byteCountMax: 1_000)) == "problem\n")
            loop.closeAll()
        }
    }

    @Test("a program that is missing or not executable is an error at once")
    func missingProgram() throws {
        let loop = try Loop()
        for (path, name) in [("/no/such/program", "ENOENT"), ("/etc/passwd", "EACCES")] {
            let error = #expect(throws: UvError.self) {
                try ChildProcess.spawn(executable: path, arguments: [], on: loop) { _ in
                    Issue.record("there was no process to exit")
                }
            }
            #expect(error?.name == name)
        }
        loop.run()
    }

    @Test("a child inherits the descriptors named and no others, even those without close-on-exec")
    func descriptors() throws {
        try withDirectory { directory in
            let loop = try Loop()
            let stray = open("/dev/null", O_RDONLY)  // not close-on-exec, as if inherited
            let (ours, theirs) = try Descriptors.socketPair()
            let stream = try SocketStream.adopt(descriptor: ours, on: loop)
            let received = Received()
            received.follow(stream)
            var status: UvLoop.ExitStatus?
            let script = "echo hello >&4; cd /proc/self/fd; echo * >&4"
            _ = try ChildProcess.spawn(
                executable: "/bin/sh", arguments: ["-c", script],
                descriptors: [.ignore, .ignore, .ignore, .ignore, .inherit(theirs)], on: loop
            ) { status = $0 }
            Descriptors.close(theirs)
            run(loop) { status != nil && !received.ends.isEmpty }
            Descriptors.close(stray)
            let lines = received.text.split(separator: "\n")
            #expect(lines.first == "hello")
            // The shell itself opens the directory while it lists it.
            let numbers = lines.last?.split(separator: " ").compactMap { Int($0) } ?? []
            #expect(numbers.filter { $0 <= 4 }.contains(4))
            #expect(numbers.count <= 5 && !numbers.contains(Int(stray)), "\(numbers)")
            loop.closeAll()
        }
    }

    @Test("what a preferred process starts is not preferred, and the preference can be taken back")
    func scheduling() throws {
        Scheduling.prefer(0)
        defer { Scheduling.treatAsOthers(0) }
        // Without the right to it nothing changes, and there is nothing to see.
        guard sched_getscheduler(0) != SCHED_OTHER else { return }
        let loop = try Loop()
        let child = try ChildProcess.spawn(
            executable: "/bin/sleep", arguments: ["60"], on: loop
        ) { _ in }
        #expect(sched_getscheduler(child.pid) == SCHED_OTHER)
        kill(child.pid, SIGKILL)
        loop.run()
        Scheduling.treatAsOthers(0)
        #expect(sched_getscheduler(0) == SCHED_OTHER)
    }

    @Test("a detached child is its own session, does not hold the loop, and outlives it")
    func detached() throws {
        var pid: Int32 = 0
        do {
            let loop = try Loop()
            let child = try ChildProcess.spawn(
                executable: "/bin/sleep", arguments: ["60"], detached: true, on: loop
            ) { _ in Issue.record("it was not to exit") }
            pid = child.pid
            loop.run()  // returns although the child lives
            loop.closeAll()
        }
        let reference = try ProcessReference(pid: pid)
        #expect(getsid(pid) == pid)
        #expect(getpgid(pid) == pid && getpgid(0) != pid)
        #expect(!reference.hasExited)
        try reference.send(signal: SIGKILL)
        waitpid(pid, nil, 0)
    }

    @Test("a pidfd kills its process, sees the end of it, and then refuses")
    func pidfd() throws {
        let loop = try Loop()
        var status: UvLoop.ExitStatus?
        let child = try ChildProcess.spawn(
            executable: "/bin/sleep", arguments: ["60"], on: loop
        ) { status = $0 }
        let reference = try ProcessReference(pid: child.pid)
        #expect(!reference.hasExited)
        var ends = 0
        try reference.onExit(on: loop) { ends += 1 }
        try reference.onExit(on: loop) { ends += 1 }
        try reference.send(signal: SIGKILL)
        run(loop) { status != nil && ends == 2 }
        #expect(status == UvLoop.ExitStatus(code: 0, signal: SIGKILL))
        #expect(reference.hasExited)
        let gone = #expect(throws: UvError.self) { try reference.send(signal: SIGKILL) }
        #expect(gone?.name == "ESRCH")
        #expect(throws: UvError.self) { try ProcessReference(pid: child.pid) }
        loop.run()
    }

    @Test("the end of a process that is not our child is seen too")
    func grandchild() throws {
        let loop = try Loop()
        let (ours, theirs) = try Descriptors.socketPair()
        let received = Received()
        received.follow(try SocketStream.adopt(descriptor: ours, on: loop))
        // The shell exits at once; its sleep is adopted by another process.
        _ = try ChildProcess.spawn(
            executable: "/bin/sh", arguments: ["-c", "sleep 60 & echo $!"],
            descriptors: [.ignore, .inherit(theirs)], on: loop
        ) { _ in }
        Descriptors.close(theirs)
        run(loop) { received.text.hasSuffix("\n") }
        let pid = try #require(Int32(received.text.dropLast()))
        let reference = try ProcessReference(pid: pid)
        var ended = false
        try reference.onExit(on: loop) { ended = true }
        try reference.send(signal: SIGKILL)
        run(loop) { ended }
        #expect(reference.hasExited)
        loop.closeAll()
    }

    @Test("a descriptor is copied out of another process")
    func duplicateDescriptor() throws {
        try withDirectory { directory in
            let loop = try Loop()
            let child = try ChildProcess.spawn(
                executable: "/bin/sleep", arguments: ["60"],
                descriptors: [.ignore, .file(path: "\(directory)/out", append: false)], on: loop
            ) { _ in }
            let reference = try ProcessReference(pid: child.pid)
            let copy = try reference.duplicateDescriptor(1)
            Glibc.write(copy, "ours", 4)
            #expect(fcntl(copy, F_GETFD) & FD_CLOEXEC != 0)
            Descriptors.close(copy)
            #expect(text(try Files.read(path: "\(directory)/out", byteCountMax: 99)) == "ours")
            let missing = #expect(throws: UvError.self) { try reference.duplicateDescriptor(77) }
            #expect(missing?.name == "EBADF")
            try reference.send(signal: SIGKILL)
            loop.run()
        }
    }

    @Test("a write to a peer that is gone is an error and does not kill us")
    func brokenPipe() throws {
        let loop = try Loop()
        let (ours, theirs) = try Descriptors.socketPair()
        let stream = try SocketStream.adopt(descriptor: ours, on: loop)
        Descriptors.close(theirs)
        var end: StreamEnd?
        stream.onEnd = { end = $0 }
        stream.write([1])
        run(loop) { end != nil }
        guard case .failed(let error) = end else { return #expect(Bool(false), "\(end as Any)") }
        #expect(error.name == "EPIPE")
        loop.closeAll()
    }
}

@Suite("Scheduling")
struct SchedulingTests {
    private func policy(of pid: Int32) -> Int32 { sched_getscheduler(pid) }

    @Test("a process is preferred and treated as others again; this needs root")
    func preferAndBack() throws {
        let loop = try Loop()
        defer { loop.closeAll() }
        let child = try ChildProcess.spawn(executable: "sleep", arguments: ["60"], on: loop) { _ in
        }
        let process = try ProcessReference(pid: child.pid)
        defer { try? process.send(signal: 9) }
        #expect(policy(of: child.pid) == SCHED_OTHER)
        Scheduling.prefer(child.pid)
        #expect(policy(of: child.pid) == SCHED_RR)
        Scheduling.treatAsOthers(child.pid)
        #expect(policy(of: child.pid) == SCHED_OTHER)
        Scheduling.treatAsOthers(2_000_000_000)
    }
}
