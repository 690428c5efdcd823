import Glibc
import Testing
import UvLoop

@Suite("Files") struct FileTests {
    @Test("a file is written whole, with its mode, and read back")
    func writeAndRead() throws {
        try withDirectory { directory in
            let path = "\(directory)/file"
            try Files.writeAtomically(path: path, bytes: [1, 2, 3], durable: true, mode: 0o600)
            try Files.writeAtomically(path: path, bytes: [4, 5], durable: false, mode: 0o640)
            #expect(try Files.read(path: path, byteCountMax: 2) == [4, 5])
            #expect(try Files.mode(path: path) == 0o640)
            #expect(try Files.size(path: path) == 2)
            #expect(try Files.list(path: directory) == ["file"])
            try Files.append(path: path, bytes: [6], durable: true)
            #expect(try Files.read(path: path, byteCountMax: 99) == [4, 5, 6])
            let tooBig = #expect(throws: UvError.self) {
                try Files.read(path: path, byteCountMax: 2)
            }
            #expect(tooBig?.name == "EFBIG")
            let exists = #expect(throws: UvError.self) {
                try Files.create(path: path, bytes: [], durable: false)
            }
            #expect(exists?.name == "EEXIST")
        }
    }

    @Test("what is added to a file that another one has replaced does not come into that one")
    func appendFile() throws {
        try withDirectory { directory in
            let path = "\(directory)/file"
            let missing = #expect(throws: UvError.self) { try AppendFile(path: path) }
            #expect(missing?.name == "ENOENT")
            try Files.create(path: path, bytes: [1], durable: false)
            let file = try AppendFile(path: path)
            try file.append([2, 3])
            try file.append([4])
            #expect(try Files.read(path: path, byteCountMax: 99) == [1, 2, 3, 4])
            try Files.writeAtomically(path: path, bytes: [5], durable: false)
            try file.append([6])
            #expect(try Files.read(path: path, byteCountMax: 99) == [5])
        }
    }

    @Test("the loop goes on while something is added to a file; a failure is told, once")
    func appendBeside() throws {
        try withDirectory { directory in
            let loop = try Loop()
            let path = "\(directory)/file"
            var problems: [UvError?] = []
            Files.append(path: path, bytes: [1, 2], on: loop) { problem in
                problems.append(problem)
                Files.append(path: path, bytes: [3], on: loop) { problems.append($0) }
            }
            #expect(problems.isEmpty, "a completion came before append() had returned")
            run(loop) { problems.count == 2 }
            #expect(problems.allSatisfy { $0 == nil })
            #expect(try Files.read(path: path, byteCountMax: 99) == [1, 2, 3])
            Files.append(path: "\(directory)/none/file", bytes: [1], on: loop) {
                problems.append($0)
            }
            run(loop) { problems.count == 3 }
            #expect(problems.last??.name == "ENOENT")
        }
    }

    @Test("directories are made with parents, listed and removed as trees")
    func directories() throws {
        try withDirectory { directory in
            try Files.makeDirectory(path: "\(directory)/a/b/c", mode: 0o700, parents: true)
            try Files.makeDirectory(path: "\(directory)/a/b/c", mode: 0o700, parents: true)
            #expect(throws: UvError.self) {
                try Files.makeDirectory(path: "\(directory)/a", parents: false)
            }
            #expect(throws: UvError.self) {
                try Files.makeDirectory(path: "\(directory)/x/y", parents: false)
            }
            #expect(symlink("/etc", "\(directory)/a/link") == 0)
            #expect(try Files.link(pathOfSymlink: "\(directory)/a/link") == "/etc")
            #expect(try Files.list(path: "\(directory)/a") == ["b", "link"])
            try Files.removeTree(path: "\(directory)/a")
            try Files.removeTree(path: "\(directory)/a")
            #expect(!Files.exists(path: "\(directory)/a"))
            #expect(Files.exists(path: "/etc/passwd"), "a symlink was followed")
        }
    }

    @Test("kinds and rights are told apart")
    func kinds() throws {
        #expect(Files.kind(path: "/") == .directory)
        #expect(Files.kind(path: "/etc/passwd") == .regular)
        #expect(Files.kind(path: "/dev/null") == .characterDevice)
        #expect(Files.kind(path: "/no/such") == nil)
        #expect(Files.isExecutable(path: "/bin/sh"))
        #expect(!Files.isExecutable(path: "/etc/passwd"))
        #expect(!Files.isExecutable(path: "/etc"))
        #expect(Files.isWritableDirectory(path: "/tmp"))
        #expect(!Files.isWritableDirectory(path: "/etc/passwd"))
        #expect(try Files.freeBytes(path: "/tmp") > 0)
        #expect(try Files.read(path: "/proc/self/environ", byteCountMax: 1 << 20).isEmpty == false)
        let missing = #expect(throws: UvError.self) { try Files.size(path: "/no/such") }
        #expect(missing?.name == "ENOENT")
        let directory = #expect(throws: UvError.self) {
            try Files.read(path: "/etc", byteCountMax: 10)
        }
        #expect(directory?.name == "EISDIR")
    }

    @Test("who holds a lock can be told, by its process")
    func lockHolder() throws {
        try withDirectory { directory in
            let path = "\(directory)/lock"
            #expect(Files.lockHolder(path: path) == nil)
            let lock = try Files.lock(path: path)
            let holder = try #require(Files.lockHolder(path: path))
            #expect(holder.pid == HostFacts.processID)
            #expect(["R", "S"].contains(holder.state))
            lock.release()
            #expect(Files.lockHolder(path: path) == nil)
        }
    }

    @Test("a lock excludes others until it is released")
    func locking() throws {
        try withDirectory { directory in
            let path = "\(directory)/lock"
            let lock = try Files.lock(path: path)
            let taken = #expect(throws: UvError.self) { try Files.lock(path: path) }
            #expect(taken?.name == "EAGAIN")
            lock.release()
            lock.release()
            let again = try Files.lock(path: path)
            again.release()
        }
    }

    @Test("SHA-256 of a file is that of its bytes and of the standard's example")
    func digest() throws {
        try withDirectory { directory in
            let hex = { (bytes: [UInt8]) in
                bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
            }
            #expect(
                hex(SHA256Digest.of(Array("abc".utf8)))
                    == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
            #expect(
                hex(SHA256Digest.of([]))
                    == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
            let bytes = randomBytes(700_001)
            try Files.create(path: "\(directory)/f", bytes: bytes, durable: false)
            #expect(try SHA256Digest.ofFile("\(directory)/f") == SHA256Digest.of(bytes))
            #expect(throws: UvError.self) { try SHA256Digest.ofFile("\(directory)/none") }
        }
    }

    @Test("a tap has several queues, each of which can be detached and attached")
    func tap() throws {
        try #require(
            geteuid() == 0 && Files.exists(path: "/dev/net/tun"),
            "this test needs root (CAP_NET_ADMIN) and /dev/net/tun (`modprobe tun`): run it with sudo"
        )
        // It has no address and carries no traffic, and it vanishes with its last queue.
        let name = "fmt" + randomBytes(5).map { String($0, radix: 16) }.joined()
        let first = try Tap.openQueue(name: name)
        let second = try Tap.openQueue(name: name)
        #expect(Files.exists(path: "/sys/class/net/\(name)"))
        try Tap.setAttached(second, false)
        #expect(throws: UvError.self) { try Tap.setAttached(second, false) }
        try Tap.setAttached(second, true)
        #expect(fcntl(first, F_GETFD) & FD_CLOEXEC != 0)
        Descriptors.close(first)
        #expect(Files.exists(path: "/sys/class/net/\(name)"))
        Descriptors.close(second)
        // A child that another test has just forked holds it until it runs its program.
        for _ in 0..<500 where Files.exists(path: "/sys/class/net/\(name)") { usleep(10_000) }
        #expect(!Files.exists(path: "/sys/class/net/\(name)"))
        let long = #expect(throws: UvError.self) { try Tap.openQueue(name: "sixteen-bytes-xx") }
        #expect(long?.name == "ENAMETOOLONG")
    }
}
