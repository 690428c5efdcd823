import Foundation
import Testing

/// A real etcd cluster on ports of its own, its data in memory. A supervisor in Python starts it, and
/// ends it by pid when this process ends, however that happens.
final class EtcdCluster: @unchecked Sendable {
    private(set) var endpoints: [String] = []
    private(set) var pids: [Int32] = []
    private let input = Pipe()
    private let output = Pipe()
    private let supervisor = Foundation.Process()
    private var unread = Data()

    /// Three members, for all tests that do not change it, or mend what they break.
    static let shared = Result { try EtcdCluster(memberCount: 3) }

    struct TLS {
        var authority: String
        var certificate: String
        var key: String
    }

    /// - Parameters:
    ///   - flags: for each member.
    ///   - client: the supervisor's own, to see whether the members answer.
    init(memberCount: Int = 1, flags: [String] = [], server: TLS? = nil, client: TLS? = nil) throws
    {
        for program in ["etcd", "etcdctl"] where !Self.isInstalled(program) {
            throw Missing(program: program)
        }
        var arguments: [String: Any] = ["members": memberCount, "flags": flags]
        for (name, tls) in [("server", server), ("client", client)] {
            if let tls { arguments[name] = [tls.authority, tls.certificate, tls.key] }
        }
        let json = try JSONSerialization.data(withJSONObject: arguments)
        supervisor.executableURL = URL(fileURLWithPath: "/usr/bin/python3")
        supervisor.arguments = ["-c", Self.program, String(decoding: json, as: UTF8.self)]
        supervisor.standardInput = input
        supervisor.standardOutput = output
        // What else is started must not hold its standard input open.
        for handle in [input.fileHandleForWriting, output.fileHandleForReading] {
            _ = fcntl(handle.fileDescriptor, F_SETFD, FD_CLOEXEC)
        }
        try supervisor.run()
        try? input.fileHandleForReading.close()
        try? output.fileHandleForWriting.close()
        let said = try answer()
        endpoints = said["endpoints"] as? [String] ?? []
        pids = (said["pids"] as? [Int] ?? []).map(Int32.init)
        try #require(endpoints.count == memberCount, "etcd does not start: \(said)")
    }

    deinit { try? input.fileHandleForWriting.close() }

    struct Missing: Error, CustomStringConvertible {
        var program: String
        var description: String {
            "these tests need a real etcd, and there is no \(program): "
                + "apt-get install etcd-server etcd-client"
        }
    }

    private static func isInstalled(_ program: String) -> Bool {
        (ProcessInfo.processInfo.environment["PATH"] ?? "/usr/bin").split(separator: ":").contains {
            FileManager.default.isExecutableFile(atPath: "\($0)/\(program)")
        }
    }

    private func answer() throws -> [String: Any] {
        while true {
            if let end = unread.firstIndex(of: UInt8(ascii: "\n")) {
                let line = unread[..<end]
                unread = Data(unread[(end + 1)...])
                return try JSONSerialization.jsonObject(with: line) as? [String: Any] ?? [:]
            }
            let more = output.fileHandleForReading.availableData
            if more.isEmpty { throw Missing(program: "etcd that starts") }
            unread += more
        }
    }

    /// Returns when all its threads have stopped.
    func pause(_ member: Int) {
        kill(pids[member], SIGSTOP)
        let directory = "/proc/\(pids[member])/task"
        while let threads = try? FileManager.default.contentsOfDirectory(atPath: directory),
            threads.contains(where: { thread in
                let text = try? String(
                    contentsOfFile: "\(directory)/\(thread)/stat", encoding: .utf8)
                return text.map { !$0.contains(") T ") } ?? false
            })
        {
            usleep(1_000)
        }
    }
    func resume(_ member: Int) { kill(pids[member], SIGCONT) }
    func end(_ member: Int) { kill(pids[member], SIGKILL) }

    /// Starts a member that was ended, on its old data, and waits until it answers.
    func start(_ member: Int) throws {
        input.fileHandleForWriting.write(Data("\(member)\n".utf8))
        pids = (try answer()["pids"] as? [Int] ?? []).map(Int32.init)
    }

    /// Runs etcdctl against the first member.
    @discardableResult
    func control(_ arguments: String...) throws -> String {
        let process = Foundation.Process()
        let said = Pipe()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = ["etcdctl", "--endpoints", endpoints[0]] + arguments
        process.environment = ["ETCDCTL_API": "3", "PATH": "/usr/bin:/usr/local/bin:/bin"]
        process.standardOutput = said
        process.standardError = said
        try process.run()
        let text = String(decoding: said.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        try #require(process.terminationStatus == 0, "etcdctl \(arguments): \(text)")
        return text
    }

    private static let program = #"""
        import ctypes, json, os, shutil, signal, socket, ssl, subprocess, sys, tempfile, time, urllib.request

        # Foundation waits for the end of whom it has started, and blocks if that only looked so; it has
        # its end now. And the pipes of other tests, which it may have handed down, are not kept open.
        if os.fork():
            os._exit(0)
        os.closerange(3, 1 << 16)

        asked = json.loads(sys.argv[1])
        count = asked["members"]
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        directory = tempfile.mkdtemp(prefix="fermata-etcd-", dir=memory)
        scheme = "https" if "server" in asked else "http"
        context = None
        if "client" in asked:
            authority, certificate, key = asked["client"]
            context = ssl.create_default_context(cafile=authority)
            context.load_cert_chain(certificate, key)

        def free_ports(count):
            sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
            ports = [one.getsockname()[1] for one in sockets]
            for one in sockets:
                one.close()
            return ports

        ports = free_ports(2 * count)
        clients = ["%s://127.0.0.1:%d" % (scheme, port) for port in ports[:count]]
        peers = ["http://127.0.0.1:%d" % port for port in ports[count:]]
        cluster = ",".join("m%d=%s" % pair for pair in enumerate(peers))
        members = [None] * count

        # Also if this supervisor is killed: its children go with it.
        libc = ctypes.CDLL(None)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))

        def start(number):
            arguments = [
                "etcd", "--name", "m%d" % number, "--data-dir", "%s/m%d" % (directory, number),
                "--listen-client-urls", clients[number], "--advertise-client-urls", clients[number],
                "--listen-peer-urls", peers[number], "--initial-advertise-peer-urls", peers[number],
                "--initial-cluster", cluster, "--initial-cluster-token", directory,
                "--logger", "zap", "--log-outputs", "%s/m%d.log" % (directory, number),
                "--enable-v2=false",
            ] + asked["flags"]
            if "server" in asked:
                authority, certificate, key = asked["server"]
                arguments += ["--trusted-ca-file", authority, "--cert-file", certificate,
                              "--key-file", key, "--client-cert-auth"]
            members[number] = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, preexec_fn=lambda: libc.prctl(1, signal.SIGKILL))

        def wait_for(number):
            limit = time.time() + 60
            while time.time() < limit:
                if members[number].poll() is not None:
                    raise SystemExit(open("%s/m%d.log" % (directory, number)).read()[-3000:])
                try:
                    with urllib.request.urlopen(
                        clients[number] + "/health", timeout=1, context=context) as answer:
                        if b"true" in answer.read():
                            return
                except OSError:
                    pass
                time.sleep(0.03)

        def tell():
            print(json.dumps({"endpoints": clients, "pids": [one.pid for one in members]}),
                  flush=True)

        try:
            for number in range(count):
                start(number)
            for number in range(count):
                wait_for(number)
            tell()
            for line in iter(sys.stdin.readline, ""):
                number = int(line)
                members[number].wait()
                start(number)
                wait_for(number)
                tell()
        finally:
            for one in members:
                if one:
                    one.kill()
                    one.wait()
            shutil.rmtree(directory, ignore_errors=True)
        """#
}
