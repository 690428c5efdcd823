import Fleet
import Glibc
import QMP
import Testing
import UvLoop

@testable import AgentShell

/// What processes say of themselves, and which of them are believed.
@Suite final class ProcessLabelTests {
    private let loop: Loop
    private let paths: HostPaths
    private let guest: GuestID
    private var pids: [Int32] = []

    init() throws {
        loop = try Loop()
        let directory = "/tmp/fa-label-\(getpid())-\(UInt64.random(in: 0 ... .max))"
        paths = HostPaths(run: directory, state: directory, memory: directory)
        guest = try #require(GuestID("g0"))
        try Files.makeDirectory(
            path: paths.generation(guest, 1).directory, mode: 0o700, parents: true)
    }

    deinit {
        for pid in pids { kill(pid, 9) }
        try? Files.removeTree(path: paths.run)
    }

    private func start(
        generation: String = "1", origin: String? = nil, prefix: [String] = [],
        _ descriptors: [ChildProcess.Stdio] = []
    ) throws -> Int32 {
        var environment = [
            "FERMATA_RUN": paths.run, "FERMATA_GUEST": "g0", "FERMATA_GENERATION": generation,
            "PATH": "/usr/bin:/bin",
        ]
        environment["FERMATA_ORIGIN"] = origin
        let words = prefix + ["sleep", "1000"]
        let child = try ChildProcess.spawn(
            executable: words[0], arguments: Array(words.dropFirst()), environment: environment,
            descriptors: descriptors, detached: true, on: loop
        ) { _ in }
        pids.append(child.pid)
        let name = { try? Files.read(path: "/proc/\(child.pid)/comm", byteCountMax: 64) }
        for _ in 0..<500 where name() != Array("sleep\n".utf8) { usleep(10_000) }
        return child.pid
    }

    private var found: [Int32] {
        get throws { try ProcessLabel.processes(of: paths).map(\.process.pid) }
    }

    private static func origin(_ ids: String) -> String {
        #"{"arguments": ["-S"], "directory": "/", "ids": \#(ids)}"#
    }

    @Test(
        "an origin with a number that is no user is none",
        arguments: [
            "[-1, 0]", "[4294967296, 0]", "[0, 0, -1]", "[0, \"x\"]", "[0]",
        ])
    func badOrigin(_ ids: String) {
        #expect(QEMUOrigin(text: Self.origin(ids)) == nil)
        #expect(QEMUOrigin(text: Self.origin("[1, 2, 3]"))?.groups == [3])
    }

    @Test("an amount of memory that no number can hold is not believed")
    func memoryOverflows() throws {
        let text = #"{"base-memory": 9223372036854775807, "plugged-memory": 1}"#
        let value = try JSON.parse(Array(text.utf8), byteCountMax: 1_000)
        #expect(AdoptedFacts.memoryBytes(value) == 0)
        let small = try JSON.parse(
            Array(#"{"base-memory": 5, "plugged-memory": 2}"#.utf8), byteCountMax: 1_000)
        #expect(AdoptedFacts.memoryBytes(small) == 7)
    }

    @Test("a generation that no step can have come to is no label")
    func badGeneration() throws {
        for generation in ["9223372036854775807", "0", "-1", "x"] {
            _ = try start(generation: generation)
        }
        #expect(try found == [])
        let real = try start(generation: "1000000000")
        #expect(try found == [real])
    }

    @Test("a process of our user is found before it listens on anything")
    func notListeningYet() throws {
        let real = try start()
        #expect(try found == [real])
    }

    @Test("of several processes that say the same, the one that listens on the monitor is meant")
    func listens() throws {
        let path = paths.generation(guest, 1).monitor
        let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
        let isBound = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        try #require(isBound == 0 && listen(descriptor, 1) == 0)
        let real = try start(
            [.ignore, .ignore, .ignore, .inherit(descriptor)])
        Descriptors.close(descriptor)
        let other = try start()
        #expect(try found == [other, real])
    }

    @Test(
        "a process of another user is ours only if its generation's directory was given to that user",
        .enabled(if: geteuid() == 0))
    func otherUser() throws {
        let prefix = ["setpriv", "--reuid=65534", "--regid=65533", "--clear-groups", "--"]
        let pid = try start(origin: Self.origin("[0, 0, 0]"), prefix: prefix)
        #expect(try found == [])
        chown(paths.generation(guest, 1).directory, 65_534, 65_533)
        #expect(try found == [pid])
        // Its successor must not run as somebody else, whatever it says.
        let origin = try ProcessLabel.processes(of: paths).first?.label.origin
        #expect(origin?.userID == 65_534)
        #expect(origin?.groupID == 65_533)
        #expect(origin?.groups == [])
    }
}
