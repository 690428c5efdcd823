// What the agent knows of one guest outside of a step: its current QEMU process, and its state.
//
//   stopped ─start─► starting ─monitor, runstate─► running ◄─► paused
//      ▲                  │                           │
//      └── process ended ─┴───────────────────────────┘      in a step: held, lost (the step says)
//
// A process that was found and does not answer is `unknown`, and is asked until it does or ends.
//
// A guest whose QEMU ended by itself is not started again within the same boot of the host: it may
// have been shut down on purpose, and a guest must never be rebooted by Fermata. The file `started`
// in its run directory holds the host's boot id; who wants it started removes the file.
// One whose QEMU somebody else starts (`adopt`) is waited for instead, before and after.

internal import AgentCore
internal import Fleet
internal import HostConfiguration
internal import Logging
internal import QMP
internal import UvLoop

final class GuestKeeper {
    /// Of an adopted guest, with what its QEMU has told.
    private(set) var configuration: GuestConfiguration
    private(set) var state = GuestState.stopped
    private(set) var current: Generation?
    /// What the next start uses.
    private(set) var hypervisor: Hypervisor
    /// The step that works on it, if one does; the keeper then only watches.
    var step: StepID?
    /// Something that a host report tells has changed.
    var onChange: (() -> Void)?

    private let launcher: Launcher
    private let logger: Logger
    private var whenSettled: (() -> Void)?
    private var problem = ""
    /// What the preflight says of its current QEMU; empty if it can be handed over.
    private var preflightProblem = ""
    /// Who is being asked for the guest's state, and whether that has to be done once more.
    private var asked: Generation?
    private var asksAgain = false

    /// The agent does not wait longer for one guest before it is there for the others.
    private static let foundLimit = Duration.seconds(5)
    private static let startLimit = Duration.seconds(30)

    var id: GuestID { configuration.id }

    init(_ configuration: GuestConfiguration, launcher: Launcher, logger: Logger) {
        self.configuration = configuration
        self.launcher = launcher
        var logger = logger
        logger[metadataKey: "guest"] = "\(configuration.id)"
        self.logger = logger
        hypervisor = launcher.host.hypervisor
        if let record = HypervisorRecord.read(launcher.paths.hypervisor(id)) { hypervisor = record }
    }

    /// Takes over a process that was found.
    func adopt(_ generation: Generation, settled: @escaping () -> Void) {
        logger.info("found", metadata: ["pid": "\(generation.process.pid)"])
        whenSettled = settled
        noAnswerYet()
        use(generation)
        settle(within: Self.foundLimit)
    }

    /// Its process was found, and what it does is not known.
    func noAnswerYet() { change(.unknown) }

    /// Starts the guest, unless it has run since the host booted.
    func start(settled: @escaping () -> Void) {
        guard configuration.adopt == nil else {
            awaitForeign()
            return settled()
        }
        let marker = launcher.paths.started(id)
        if let bytes = try? Files.read(path: marker, byteCountMax: 4_096),
            String(decoding: bytes, as: UTF8.self) == HostFacts.bootID
        {
            problem = "it ended by itself; remove \(marker) to have it started again"
            logger.warning("not started: \(problem)")
            return settled()
        }
        whenSettled = settled
        do {
            let generation = try launcher.start(
                configuration, generation: 1, hypervisor: hypervisor, isWaiting: false)
            change(.starting)
            use(generation)
            settle(within: Self.startLimit)
            launcher.connectTaps(configuration) { [self] problem in
                if let problem { logger.error("network: \(problem)") }
            }
        } catch {
            problem = error.description
            logger.error("not started: \(error)")
            settle()
        }
    }

    private static let foreignPeriod = Duration.seconds(1)

    /// Takes the QEMU of somebody else over as soon as there is one.
    private func awaitForeign() {
        guard let monitor = configuration.adopt, current == nil, step == nil else { return }
        do {
            let found = try ForeignProcess.find(
                guest: id, monitor: monitor, run: launcher.paths.run
            ).get()
            let generation = try launcher.generation(found, monitor: monitor)
            logger.info("found", metadata: ["pid": "\(found.process.pid)"])
            return use(generation)
        } catch {
            if problem != "\(error)" {
                problem = "\(error)"
                logger.warning("\(problem)")
                onChange?()
            }
        }
        launcher.loop.after(Self.foreignPeriod) { [self] in awaitForeign() }
    }

    /// From now on this process is the guest's.
    func use(_ generation: Generation) {
        if let current, current !== generation { current.onNotice = nil }
        current = generation
        try? Files.writeAtomically(
            path: launcher.paths.current(id), bytes: Array("\(generation.number)".utf8),
            durable: false)
        generation.onNotice = { [self] in onNotice($0) }
        if generation.isConnected { didConnect() } else { generation.connect() }
    }

    private func didConnect() {
        guard let generation = current, generation.origin != nil else { return queryState() }
        AdoptedFacts.ask(generation) { [self] facts in
            guard generation === current else { return }
            if let facts {
                configuration.memoryBytes = facts.memoryBytes
                configuration.vcpuCount = facts.vcpuCount
                configuration.disks = facts.disks
                generation.describe(version: facts.version)
                if generation.isForeign { hypervisor = facts.hypervisor(of: generation) }
                onChange?()
            }
            queryState()
        }
    }

    /// A QEMU that somebody else has started has room for few connections of guards.
    func drainMonitor() { if current?.isForeign == true { current?.reconnect() } }

    /// The guest now runs on `generation`, and so it does after a restart of host or agent.
    func adoptNew(_ generation: Generation, on hypervisor: Hypervisor) {
        self.hypervisor = hypervisor
        use(generation)
    }

    /// Writes ``hypervisor`` where it survives a reboot. Not during a hold.
    func keepHypervisor() {
        do {
            try HypervisorRecord.write(hypervisor, launcher.paths.hypervisor(id))
        } catch { logger.error("its QEMU could not be recorded: \(error)") }
    }

    /// A step is over: what it left is the truth.
    func stepEnded(lost: Bool) {
        step = nil
        if let current, !current.hasExited {
            if lost { change(.lost) } else { queryState() }
        } else {
            current = nil
            problem = "its QEMU ended during a step"
            change(lost ? .lost : .stopped)
            awaitForeign()
        }
    }

    var report: GuestReport {
        GuestReport(
            id: id, set: configuration.set, updateDomain: configuration.updateDomain,
            memoryBytes: configuration.memoryBytes, vcpuCount: configuration.vcpuCount,
            state: state, hypervisorVersion: current?.hypervisorVersion ?? "",
            hasGuestAgent: configuration.guestAgent, handOverProblem: handOverProblem,
            addresses: configuration.addresses)
    }

    private var handOverProblem: String {
        switch state {
        case .running, .held: preflightProblem
        case .stopped where !problem.isEmpty: problem
        case .unknown: "its QEMU does not answer"
        default: "it is \(state.rawValue)"
        }
    }

    /// Takes in what a preflight found.
    func found(_ problem: String) {
        guard preflightProblem != problem else { return }
        preflightProblem = problem
        if problem.isEmpty {
            logger.info("it can be handed over now")
        } else {
            logger.warning("it cannot be handed over", metadata: ["problem": "\(problem)"])
        }
        onChange?()
    }

    private func onNotice(_ notice: Generation.Notice) {
        switch notice {
        case .connected: didConnect()
        case .disconnected: if step == nil { change(.unknown) }
        case .event(let event): onEvent(event)
        case .exited:
            guard step == nil else { break }
            problem = "its QEMU ended: \(current?.paths.lastLogLine() ?? "")"
            if state != .starting {
                logger.warning("\(problem)")
            } else {
                logger.error("\(problem)")
            }
            current?.close()
            current = nil
            change(.stopped)
            settle()
            awaitForeign()
        }
    }

    private func onEvent(_ event: Event) {
        switch event.kind {
        case .stop: change(step == nil ? .paused : .held)
        case .resume: change(.running)
        case .shutdown, .guestPanicked, .suspend, .wakeup, .blockIOError: queryState()
        default: break
        }
    }

    private func queryState() {
        guard let generation = current else { return }
        // A flood of events makes one question more, not one for each.
        guard asked !== generation else { return asksAgain = true }
        asked = generation
        generation.send([.queryStatus]) { [self] _, result in
            if asked === generation { asked = nil }
            if asksAgain {
                asksAgain = false
                queryState()
            }
            guard generation === current, case .success(let value) = result,
                let status = StatusReply(value)
            else { return }
            if status.running {
                markStarted()
                change(.running)
            } else if step == nil {
                change(.paused)
            }
            settle()
        }
    }

    private func markStarted() {
        try? Files.writeAtomically(
            path: launcher.paths.started(id), bytes: Array(HostFacts.bootID.utf8), durable: false)
    }

    private func settle(within limit: Duration) {
        launcher.loop.after(limit) { [self] in
            guard whenSettled != nil else { return }
            logger.error("its QEMU does not answer; it is asked again and again")
            settle()
        }
    }

    private func settle() {
        let body = whenSettled
        whenSettled = nil
        body?()
    }

    private func change(_ next: GuestState) {
        guard state != next else { return }
        state = next
        onChange?()
    }
}

/// The small file that says which QEMU a guest runs on.
enum HypervisorRecord {
    static func read(_ path: String) -> Hypervisor? {
        guard let bytes = try? Files.read(path: path, byteCountMax: 65_536),
            let value = try? JSON.parse(bytes, byteCountMax: 65_536),
            let version = value["version"]?.string, let binary = value["path"]?.string
        else { return nil }
        return Hypervisor(
            version: version, path: binary, moduleDirectory: value["moduleDirectory"]?.string,
            dataDirectories: (value["dataDirectories"]?.array ?? []).compactMap(\.string))
    }

    static func write(_ hypervisor: Hypervisor, _ path: String) throws(UvError) {
        var members = [
            JSON.Member("version", .string(hypervisor.version)),
            JSON.Member("path", .string(hypervisor.path)),
            JSON.Member("dataDirectories", .array(hypervisor.dataDirectories.map { .string($0) })),
        ]
        if let directory = hypervisor.moduleDirectory {
            members.append(JSON.Member("moduleDirectory", .string(directory)))
        }
        try Files.writeAtomically(path: path, bytes: JSON.object(members).bytes, durable: true)
    }
}
