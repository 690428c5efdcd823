import AgentCore
import AgentShell
import Fleet
import Glibc
import HostConfiguration
import QMP
import Testing
import UvLoop
import Wire

/// One host with an agent in a process of its own, on real QEMU guests that idle in their firmware.
final class ProbeHost {
    static let qemu = "/usr/bin/qemu-system-x86_64"
    let directory: String
    let memory: String
    private let loop: Loop
    private(set) var agent: ChildProcess?
    private(set) var agentExit: UvLoop.ExitStatus?
    private var control: String { "\(directory)/c" }

    init(
        _ name: String, guests: [String] = ["g0"], arguments: String = "",
        hypervisor: String = ProbeHost.qemu
    ) throws {
        loop = try Loop()
        let unique = randomBytes(4).map { String($0, radix: 16) }.joined()
        directory = "/tmp/fa-\(name)-\(unique)"
        memory = "/dev/shm/fa-\(name)-\(unique)"
        try Files.makeDirectory(path: "\(directory)/c", parents: true)
        var text = """
            host: a
            runDirectory: \(directory)/run
            stateDirectory: \(directory)/state
            memoryDirectory: \(memory)
            accelerator: tcg
            hypervisor: {path: \(hypervisor), version: "old"}
            guests:

            """
        for guest in guests {
            text += "  - {id: \(guest), memory: 32MiB, guestAgent: false\(arguments)}\n"
        }
        try Files.writeAtomically(
            path: "\(directory)/host.yaml", bytes: Array(text.utf8), durable: false)
    }

    /// Where the agent, the guard and the tests find the probe: beside the test bundle.
    static var executable: String {
        let own = (try? Files.link(pathOfSymlink: "/proc/self/exe")) ?? ""
        let arguments = CommandLine.arguments
        for place in [own, arguments.first ?? ""] + arguments {
            guard let slash = place.lastIndex(of: "/") else { continue }
            var folder = String(place[..<slash])
            if let bundle = folder.range(of: ".xctest") {
                folder = String(folder[..<bundle.lowerBound])
                folder = String(folder[..<(folder.lastIndex(of: "/") ?? folder.startIndex)])
            }
            let path = "\(folder)/AgentProbe"
            if Files.isExecutable(path: path) { return path }
        }
        return "AgentProbe"
    }

    /// - Parameter pause: see `FERMATA_TEST_PAUSE_AT`.
    func startAgent(pause: String? = nil, seconds: Int64 = 30) throws {
        try? Files.remove(path: "\(control)/ready")
        var environment = ["PATH": "/usr/sbin:/usr/bin:/sbin:/bin"]
        if let pause { environment["FERMATA_TEST_PAUSE_AT"] = pause }
        agentExit = nil
        agent = try ChildProcess.spawn(
            executable: Self.executable, arguments: ["agent", "\(directory)/host.yaml", control],
            environment: environment,
            descriptors: [
                .ignore, .file(path: "\(directory)/log", append: true),
                .file(path: "\(directory)/log", append: true),
            ], on: loop
        ) { [self] in agentExit = $0 }
        try wait("the agent to be ready", seconds: seconds) { [control] in
            Files.exists(path: "\(control)/ready")
        }
    }

    struct Timeout: Error, CustomStringConvertible {
        var description: String
    }

    /// Runs the loop until `condition` holds.
    func wait(_ what: String, seconds: Int64 = 30, _ condition: @escaping () -> Bool) throws {
        let limit = HoldClock.nowMicroseconds + seconds * 1_000_000
        var isMet = false
        let timer = loop.every(.milliseconds(5)) { [self] in
            isMet = condition()
            if isMet || HoldClock.nowMicroseconds > limit { loop.stop() }
        }
        loop.run()
        timer.cancel()
        let log = (try? Files.read(path: "\(directory)/log", byteCountMax: 1 << 20)) ?? []
        guard isMet else {
            throw Timeout(
                description: "waited in vain for \(what)\n\(String(decoding: log, as: UTF8.self))")
        }
    }

    func waitForAgentsEnd() throws { try wait("the agent's end") { self.agentExit != nil } }

    func give(_ directive: Directive) throws {
        try Files.writeAtomically(
            path: "\(control)/directive", bytes: Message.directive(directive).encodedBody(),
            durable: false)
        try wait("the directive to be taken") { [control] in
            !Files.exists(path: "\(control)/directive")
        }
    }

    func directive(
        step: UInt32 = 1, token: UInt64 = 1, guests: [String] = ["g0"], path: String? = nil,
        sha256: [UInt8]? = nil, deadlineMilliseconds: UInt32 = 10_000
    ) throws -> Directive {
        let path = path ?? Self.qemu
        return Directive(
            step: StepID(rollout: RolloutID(1), number: step), token: Token(token),
            host: HostID(checked: "a"),
            release: Release(
                id: ReleaseID(checked: "r"), component: .hypervisor,
                hypervisor: Hypervisor(version: "new", path: path),
                sha256: try sha256 ?? SHA256Digest.ofFile(path)),
            guests: guests.map { GuestID(checked: $0) },
            deadlineMilliseconds: deadlineMilliseconds)
    }

    var answers: [String] {
        let bytes = (try? Files.read(path: "\(control)/answers", byteCountMax: 1 << 20)) ?? []
        return String(decoding: bytes, as: UTF8.self).split(separator: "\n").map(String.init)
    }

    var reports: [StepReport] {
        let names = ((try? Files.list(path: "\(control)/reports")) ?? []).compactMap { Int($0) }
        return names.sorted().compactMap { name in
            let path = "\(control)/reports/\(name)"
            guard let bytes = try? Files.read(path: path, byteCountMax: 1 << 20),
                case .stepReport(let report)? = try? Message(kind: .stepReport, body: bytes)
            else { return nil }
            return report
        }
    }

    /// What the agent last said of its host.
    var hostReport: HostReport? {
        guard let bytes = try? Files.read(path: "\(control)/host", byteCountMax: 1 << 20),
            case .hostReport(let report)? = try? Message(kind: .hostReport, body: bytes)
        else { return nil }
        return report
    }

    func waitForReport(step: UInt32 = 1, seconds: Int64 = 30) throws -> StepReport {
        var found: StepReport?
        try wait("the report of step \(step)", seconds: seconds) { [self] in
            found = reports.first { $0.step.number == step }
            return found != nil
        }
        return try #require(found)
    }

    /// The live QEMUs of this host: guest, generation, pid.
    var processes: [(guest: String, generation: Int, pid: Int32)] {
        ((try? Files.list(path: "/proc")) ?? []).compactMap { Int32($0) }.compactMap { pid in
            guard
                let bytes = try? Files.read(
                    path: "/proc/\(pid)/environ", byteCountMax: 1 << 20)
            else { return nil }
            let values = bytes.split(separator: 0).map { String(decoding: $0, as: UTF8.self) }
            func value(_ name: String) -> String? {
                values.first { $0.hasPrefix("\(name)=") }.map {
                    String($0.dropFirst(name.count + 1))
                }
            }
            guard value("FERMATA_RUN") == "\(directory)/run", let guest = value("FERMATA_GUEST"),
                let generation = value("FERMATA_GENERATION").flatMap({ Int($0) })
            else { return nil }
            return (guest, generation, pid)
        }
    }

    func killAgent() {
        guard let agent, agentExit == nil else { return }
        try? ProcessReference(pid: agent.pid).send(signal: 9)
        try? waitForAgentsEnd()
    }

    func write(_ name: String, _ text: String, mode: UInt32 = 0o755) throws -> String {
        let path = "\(directory)/\(name)"
        try Files.writeAtomically(path: path, bytes: Array(text.utf8), durable: false, mode: mode)
        return path
    }

    /// Ends everything this host has started, and removes its files.
    func end() {
        killAgent()
        try? wait("the guard's end", seconds: 5) { [directory] in
            guard let lock = try? Files.lock(path: "\(directory)/run/guard.lock") else {
                return !Files.exists(path: "\(directory)/run")
            }
            lock.release()
            return true
        }
        for process in processes { try? ProcessReference(pid: process.pid).send(signal: 9) }
        loop.closeAll()
        try? Files.removeTree(path: directory)
        try? Files.removeTree(path: memory)
    }
}
