// Gathers what is known of one guest, for Preflight to judge.
//
// Happy path: /proc and /sys at once; two rounds of questions over the monitor connection that is
// there already (a QEMU socket has one client at a time); the guest agent, if it is asked for.
// Failure modes: what cannot be had stays unknown; a monitor that does not answer within its limit
// is a fact itself. Ends always, within 5 s, with the guest agent 8 s.

internal import AgentCore
internal import Fleet
internal import HostConfiguration
internal import QMP
internal import UvLoop

/// Whose facts are wanted.
struct PreflightSubject {
    var configuration: GuestConfiguration
    /// Nil if the guest has no process.
    var generation: Generation?
    /// What it is to change to; its current one if nothing else is known.
    var hypervisor: Hypervisor
    /// A step works on it: guard and confirmer use their sockets rightfully.
    var isInStep = false
    /// Whether our own limits are those of the agent.
    var isAgent = true
    var asksGuestAgent = false
}

final class PreflightInspection {
    typealias Completion = (PreflightFacts) -> Void

    private let subject: PreflightSubject
    private let generation: Generation
    private let loop: Loop
    private var completion: Completion?
    private var facts = PreflightFacts()
    private var timer: Timer?

    private static let limit = Duration.seconds(5)
    private static let guestAgentLimit = Duration.seconds(3)

    /// - Parameter completion: called once, later.
    static func run(
        _ subject: PreflightSubject, on loop: Loop, completion: @escaping Completion
    ) {
        guard let generation = subject.generation, !generation.hasExited else {
            var facts = PreflightFacts()
            facts.isRunning = false
            return loop.soon { completion(facts) }
        }
        PreflightInspection(subject, generation, loop, completion).begin()
    }

    private init(
        _ subject: PreflightSubject, _ generation: Generation, _ loop: Loop,
        _ completion: @escaping Completion
    ) {
        self.subject = subject
        self.generation = generation
        self.loop = loop
        self.completion = completion
    }

    private var commandLineProblems: [String] {
        guard let origin = generation.origin else {
            return AdoptedCommandLine.problems(ofOwn: subject.configuration.arguments)
        }
        let next = generation.number + 1
        return QEMUOrigin.placeProblems(generation)
            + origin.commandLine(generation: next, machineType: nil).problems
    }

    private func begin() {
        // An adopted guest's next QEMU is given the name of the machine that runs.
        facts.machineWord = generation.origin == nil ? subject.configuration.machine : ""
        facts.commandLineProblems = commandLineProblems
        facts.hasOwnFirmware = subject.configuration.firmware != nil
        facts.program = HypervisorFiles.look(subject.hypervisor)
        lookAtProcess()
        timer = loop.after(Self.limit) { [self] in
            facts.monitorProblem = "its monitor does not answer within 5 s"
            finish()
        }
        guard generation.isConnected else {
            facts.monitorProblem = "its monitor is taken or does not answer"
            return finish()
        }
        ask(
            [
                .queryStatus, .queryMigrate, .queryMemdev, .queryNamedBlockNodes, .queryChardev,
                .queryCPUsFast, .qomGet("/machine", "type"), .qomList("/machine/peripheral"),
                .qomList("/machine/peripheral-anon"), .qomList("/objects"),
            ], take
        ) { [self] in awaitGuard() }
    }

    /// The guard of a step that has just ended needs a moment to let go.
    private func awaitGuard() {
        guard guardIsConnected else { return askAgain() }
        guard guardTriesLeft > 0 else {
            facts.monitorProblem =
                "another program is connected to \(generation.paths.guardMonitor), the guard's "
                + "monitor"
            return askAgain()
        }
        guardTriesLeft -= 1
        loop.after(.milliseconds(100)) { [self] in
            ask([.queryChardev], take) { [self] in awaitGuard() }
        }
    }

    /// Asks everything in one write; what QEMU refuses stays unknown.
    private func ask(
        _ commands: [Command], _ take: @escaping (Command, JSON) -> Void,
        then: @escaping () -> Void
    ) {
        guard !commands.isEmpty else { return then() }
        var left = commands.count
        // After our own limit, which says why, the connection is ended, and made anew.
        generation.send(commands, limit: Self.limit + .milliseconds(500)) { [self] index, result in
            guard completion != nil else { return }
            switch result {
            case .success(let value): take(commands[index], value)
            case .failure(.refused): break
            case .failure(.ended(let reason)):
                facts.monitorProblem = "its monitor connection ended: \(reason)"
            }
            left -= 1
            if left == 0 { then() }
        }
    }

    private func take(_ command: Command, _ value: JSON) {
        switch command {
        case .queryStatus:
            if let status = StatusReply(value) {
                facts.isRunning = status.running || subject.isInStep
            }
        case .queryMigrate:
            facts.blockers = (value["blocked-reasons"]?.array ?? []).compactMap(\.string)
        case .queryMemdev:
            facts.backends = (value.array ?? []).compactMap { backend in
                guard let share = backend["share"]?.bool else { return nil }
                return PreflightFacts.Backend(
                    id: backend["id"]?.string ?? "without id", isShared: share,
                    byteCount: UInt64(max(0, backend["size"]?.integer ?? 0)))
            }
        case .queryNamedBlockNodes: takeBlockNodes(value.array ?? [])
        case .queryChardev: takeChardevs(value.array ?? [])
        case .queryCPUsFast: processorPath = value.array?.first?["qom-path"]?.string
        case .qomGet("/machine", "type"): facts.machineType = value.string.map(machineName)
        case .qomList("/objects"): objectTypes = childTypes(value)
        default: facts.deviceTypes += childTypes(value).values.sorted()
        }
    }

    private var guardIsConnected = false
    private var guardTriesLeft = 15
    private var processorPath: String?
    private var objectTypes: [String: String] = [:]

    /// What can only be asked when the names are known.
    private func askAgain() {
        var commands: [Command] = []
        if let processorPath { commands.append(.qomGet(processorPath, "feature-words")) }
        for index in facts.backends.indices {
            let id = facts.backends[index].id
            facts.backends[index].type = objectTypes[id]
            if objectTypes[id] == "memory-backend-file" {
                commands.append(.qomGet("/objects/\(id)", "mem-path"))
            }
        }
        ask(commands) { [self] command, value in
            if let path = value.string {
                takeMemoryPath(command, path)
            } else {
                facts.featureWords = featureWords(value)
            }
        } then: { [self] in
            askGuestAgent()
        }
    }

    private func takeMemoryPath(_ command: Command, _ path: String) {
        let open = OpenFiles(pid: generation.process.pid)
        for index in facts.backends.indices
        where command == .qomGet("/objects/\(facts.backends[index].id)", "mem-path") {
            facts.backends[index].path = path
            // A directory means that QEMU made a file of its own in it, which it has unlinked.
            facts.ramFiles[facts.backends[index].id] =
                Files.kind(path: path) == .directory
                ? .missing : open.state(of: path, isReadOnly: false)
        }
    }

    private func takeBlockNodes(_ nodes: [JSON]) {
        let backing = Set(nodes.compactMap { $0["image"]?["full-backing-filename"]?.string })
        let pid = generation.process.pid
        let open = OpenFiles(pid: pid)
        let locks = Proc.lines("/proc/locks").compactMap { ImageLock(line: $0) }
        var seen: Set<String> = []
        for node in nodes {
            guard let driver = node["drv"]?.string else { continue }
            guard ["file", "host_device"].contains(driver) else {
                facts.imageFormats.append(driver)
                continue
            }
            guard let path = node["image"]?["filename"]?.string ?? node["file"]?.string,
                path.hasPrefix("/"), seen.insert(path).inserted
            else { continue }
            facts.images.append(
                PreflightFacts.Image(
                    path: path, isBacking: backing.contains(path),
                    state: open.state(of: path, isReadOnly: node["ro"]?.bool ?? false),
                    foreignLocks: Proc.foreignHolders(open.locks(on: path), in: locks, qemu: pid)))
        }
    }

    /// Somebody else on the sockets that a step will need.
    private func takeChardevs(_ chardevs: [JSON]) {
        guard !subject.isInStep, !generation.isForeign else { return }
        guardIsConnected = chardevs.contains {
            // The second is what agents before adoption called it.
            [GuestCommandLine.guardMonitor, "monitor1"].contains($0["label"]?.string)
                && $0["filename"]?.string?.hasPrefix("disconnected:") == false
        }
    }

    private func lookAtProcess() {
        let pid = generation.process.pid
        let status = "/proc/\(pid)/status"
        facts.privateBytes = Proc.kibibytes("RssAnon", in: status).map { $0 << 10 }
        facts.availableBytes = Proc.kibibytes("MemAvailable", in: "/proc/meminfo").map { $0 << 10 }
        facts.threadCount = (try? Files.list(path: "/proc/\(pid)/task"))?.count
        facts.taps = Proc.taps(pid: pid, generation.tapNumbers)
        guard subject.isAgent else { return }
        facts.threadRoom = Proc.threadRoom()
        facts.descriptorCount = (try? Files.list(path: "/proc/\(pid)/fd"))?.count
        facts.descriptorRoom = Proc.descriptorRoom(needed: facts.descriptorCount ?? 0)
    }

    private func askGuestAgent() {
        guard subject.asksGuestAgent else { return finish() }
        guard subject.configuration.guestAgent, !generation.paths.guestAgent.isEmpty else {
            facts.guestAgent = .absent
            return finish()
        }
        guard facts.isRunning, !subject.isInStep else { return finish() }
        // It has a limit of its own.
        timer?.cancel()
        let channel = GuestAgentChannel(path: generation.paths.guestAgent, on: loop)
        channel.open(limit: Self.guestAgentLimit) { [self] failure in
            channel.close()
            facts.guestAgent = failure.map { .silent(reason: $0.reason) } ?? .answers
            finish()
        }
    }

    private func finish() {
        timer?.cancel()
        let body = completion
        completion = nil
        let facts = facts
        loop.soon { body?(facts) }
    }
}

/// Asks the new QEMU, which waits for its guest, what it has made of the same arguments.
enum PreflightOfNew {
    /// - Parameters:
    ///   - facts: of the running one.
    ///   - completion: called with the facts of both, at once if there is nothing to ask. Not called
    ///     if the connection hangs: the time limit of preparing ends that.
    static func run(
        _ new: Generation, _ facts: PreflightFacts, completion: @escaping (PreflightFacts) -> Void
    ) {
        var facts = facts
        var processor: String?
        var devices: [String]? = []
        let commands: [Command] = [
            .queryMachines, .qomGet("/machine", "type"), .qomList("/machine/peripheral"),
            .qomList("/machine/peripheral-anon"), .queryCPUsFast,
        ]
        new.send(commands) { index, result in
            let value = try? result.get()
            switch index {
            case 0: facts.newMachineTypes = value.map(machineTypes) ?? []
            case 1: facts.newMachineType = value?.string.map(machineName)
            case 2, 3:
                // What one list does not tell, nobody knows.
                devices = value.flatMap { list in devices.map { $0 + childTypes(list).values } }
            default:
                facts.newDeviceTypes = devices
                processor = value?.array?.first?["qom-path"]?.string
                guard let processor, !facts.featureWords.isEmpty else { return completion(facts) }
                new.send([.qomGet(processor, "feature-words")]) { _, result in
                    facts.newFeatureWords = (try? result.get()).map(featureWords) ?? []
                    completion(facts)
                }
            }
        }
    }
}

/// What is there of a QEMU installation.
enum HypervisorFiles {
    static func look(_ hypervisor: Hypervisor) -> PreflightFacts.Program {
        let directories = hypervisor.dataDirectories
        return PreflightFacts.Program(
            path: hypervisor.path, exists: Files.isExecutable(path: hypervisor.path),
            moduleDirectory: hypervisor.moduleDirectory,
            modules: hypervisor.moduleDirectory.flatMap { try? Files.list(path: $0) },
            missingDataDirectories: directories.filter { Files.kind(path: $0) != .directory },
            hasFirmware: directories.isEmpty
                ? nil : directories.contains { Files.exists(path: "\($0)/bios-256k.bin") })
    }
}

// MARK: Reading replies

/// QEMU's type of a machine is its name and a suffix.
func machineName(_ type: String) -> String {
    type.hasSuffix("-machine") ? String(type.dropLast("-machine".count)) : type
}

func machineTypes(_ value: JSON) -> [PreflightFacts.MachineType] {
    (value.array ?? []).compactMap { machine in
        machine["name"]?.string.map {
            PreflightFacts.MachineType(name: $0, alias: machine["alias"]?.string)
        }
    }
}

func featureWords(_ value: JSON) -> [PreflightFacts.FeatureWord] {
    (value.array ?? []).compactMap { word in
        guard let leaf = word["cpuid-input-eax"]?.integer,
            let register = word["cpuid-register"]?.string,
            let bits = word["features"]?.integer.flatMap({ UInt32(exactly: $0) })
        else { return nil }
        let index = word["cpuid-input-ecx"]?.integer.map { ".\($0)" } ?? ""
        return PreflightFacts.FeatureWord(
            name: "CPUID \(String(leaf, radix: 16))\(index) \(register)", bits: bits)
    }
}

/// The children in an answer to `qom-list`, with their types.
private func childTypes(_ value: JSON) -> [String: String] {
    var types: [String: String] = [:]
    for entry in value.array ?? [] {
        guard let name = entry["name"]?.string, let type = entry["type"]?.string,
            type.hasPrefix("child<"), type.hasSuffix(">")
        else { continue }
        types[name] = String(type.dropFirst("child<".count).dropLast())
    }
    return types
}
