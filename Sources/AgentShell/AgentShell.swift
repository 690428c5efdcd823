// The agent: owns what happens to the guests of one host.
//
// Happy path: directories and locks; what was kept of steps; wait for a guard that is still at work;
// find the guests' processes; finish a step that an earlier agent began; start the guests that do
// not run; then the session with the leader, directives, reports.
// What is done when is decided by AgentCore/AgentMachine.swift.
// Failure modes: what hinders the start is an AgentError and nothing has been started, and so is what
// hinders the search for the guests' processes (no descriptors), since a guest that is not found would be
// started a second time, or given up as lost; afterwards nothing ends the agent. Losing the leader changes nothing; losing the agent is what the guard and
// the next agent are for. Guests never end with the agent.

internal import AgentCore
public import Fleet
internal import Glibc
public import HostConfiguration
public import Logging
internal import QMP
public import UvLoop

/// The agent of one host. Belongs to the loop's thread; lives as long as its process.
public final class AgentShell {
    let host: HostFile
    let paths: HostPaths
    let loop: Loop
    let logger: Logger
    let link: any LeaderLink
    let store: StepStore
    let software: SoftwareRecords
    /// What it says, kept at hand: a report must not read the disk during a hold.
    var installed: [InstalledSoftware] = []
    let partsRecord: PartsRecord
    /// What holds have needed on this host.
    var parts = MeasuredParts()
    let launcher: Launcher
    let guardProgram: GuardProgram
    let pause: TestPause
    private let softwareVersion: String
    private(set) var keepers: [GuestKeeper] = []
    private(set) var preflight: PreflightWatch?
    private var control: ControlSocket?
    private var locks: [FileLock] = []

    var machine: AgentMachine
    private var events: [AgentMachine.Event] = []
    private var isDraining = false
    var runner: HoldRunner?
    /// The guests of a step that was taken up, until what to do with them is known.
    var recovering: [StepGuest] = []
    /// Directives without an answer, and who waits for it.
    var asked: [(TokenGate.Grant, (DirectiveAnswer) -> Void)] = []
    /// Called at the first session.
    var whenFirstReady: (() -> Void)?
    /// Called when it cannot go on, and has done nothing yet that is not found again: whoever supervises
    /// the agent starts the next one.
    public var onFailure: ((AgentError) -> Void)?
    private var whenReady: (() -> Void)?
    /// Guests, and one more while they are counted, that are not found, started or given up yet.
    private var unsettled = 0
    private var lastReport: HostReport?

    /// - Parameters:
    ///   - configuration: checked, also by ``HostChecks``.
    ///   - link: not started.
    ///   - guardProgram: how to start a guard, such as this very program with `guard`.
    ///   - softwareVersion: for people.
    public init(
        configuration: HostFile, link: any LeaderLink, loop: Loop, guardProgram: GuardProgram,
        softwareVersion: String, log: Logger
    ) {
        host = configuration
        paths = HostPaths(
            run: configuration.runDirectory, state: configuration.stateDirectory,
            memory: configuration.memoryDirectory)
        self.link = link
        self.loop = loop
        self.guardProgram = guardProgram
        self.softwareVersion = softwareVersion
        logger = log
        machine = AgentMachine(host: configuration.host, bootID: HostFacts.bootID)
        store = StepStore(paths: paths)
        software = SoftwareRecords(paths: paths)
        partsRecord = PartsRecord(path: paths.parts)
        launcher = Launcher(host: configuration, paths: paths, loop: loop)
        pause = TestPause(getenv("FERMATA_TEST_PAUSE_AT").map { String(cString: $0) })
    }

    /// Finds or starts the guests, finishes what an earlier agent began, then connects.
    ///
    /// - Parameter ready: called once, later, when every guest is found, started or given up.
    /// - Throws: ``AgentError``; nothing has been started then.
    public func start(ready: @escaping () -> Void) throws(AgentError) {
        try makeDirectories()
        machine = AgentMachine(
            host: host.host, bootID: HostFacts.bootID, records: try store.load())
        whenReady = ready
        installed = software.read()
        parts = partsRecord.read()
        // Of commands that had left something running, or whose agent died.
        ControlGroup.removeEmpty(namePrefix: CommandRun.groupNamePrefix(host.host))
        keepers = host.guests.map { GuestKeeper($0, launcher: launcher, logger: logger) }
        for keeper in keepers {
            keeper.onChange = { [unowned self] in
                feed(.hostChanged)
                if machine.isReady { preflight?.changed(keeper) }
            }
        }
        preflight = PreflightWatch(keepers, on: loop) { [unowned self] in runner != nil }
        connectLink()
        afterGuard { [self] in feed(.start(guests: keepers.map(\.id))) }
    }

    /// Closes the session. Guests and guard are left as they are.
    public func stop() {
        control?.close()
        link.stop()
    }

    /// What the agent says of its host now.
    public var report: HostReport {
        HostReport(
            host: host.host, agentVersion: softwareVersion, bootID: machine.bootID,
            acceptedToken: machine.gate.acceptedToken, sets: host.sets.sorted { $0.id < $1.id },
            guests: keepers.map(\.report).sorted { $0.id < $1.id },
            abilities: AgentAbility.allCases, software: installed)
    }

    // MARK: Start

    private func makeDirectories() throws(AgentError) {
        for path in [
            paths.run, paths.guests, paths.state, paths.reports, paths.hypervisors, paths.memory,
            paths.software, paths.outputs,
        ] {
            do {
                try Files.makeDirectory(path: path, mode: 0o755, parents: true)
            } catch { throw .directory(path: path, error) }
            guard Files.isWritableDirectory(path: path) else {
                let error = UvError(code: -13, operation: "write to", subject: path)
                throw .directory(path: path, error)
            }
        }
        for path in [paths.agentLock, paths.stateLock] {
            do {
                locks.append(try Files.lock(path: path))
            } catch {
                if error.name == "EAGAIN" { throw .inUse(path: path) }
                throw .directory(path: path, error)
            }
        }
    }

    /// A guard that is still at work goes first: it may be continuing guests at this moment.
    private func afterGuard(_ body: @escaping () -> Void) {
        do {
            try Files.lock(path: paths.guardLock).release()
            loop.soon(body)
        } catch {
            logger.notice("waiting for the guard of an earlier agent")
            let since = HoldClock.nowMicroseconds
            loop.after(.milliseconds(20)) { [self] in afterGuard(since, body) }
        }
    }

    private func afterGuard(_ since: Int64, _ body: @escaping () -> Void) {
        if let lock = try? Files.lock(path: paths.guardLock) {
            lock.release()
            return body()
        }
        let waited = HoldClock.nowMicroseconds - since
        if let pid = StuckGuard.end(lock: paths.guardLock, waitedMicroseconds: waited) {
            logger.warning("killed a guard that hangs", metadata: ["pid": "\(pid)"])
        }
        loop.after(.milliseconds(20)) { [self] in afterGuard(since, body) }
    }

    /// Every process that is one of the host's guests'.
    ///
    /// - Throws: ``AgentError`` if one could have been overlooked.
    func findProcesses() throws(AgentError) -> [(label: ProcessLabel, process: ProcessReference)] {
        do {
            var found = try ProcessLabel.processes(of: paths)
            for guest in host.guests {
                guard let monitor = guest.adopt else { continue }
                let foreign = try ForeignProcess.find(
                    guest: guest.id, monitor: monitor, run: paths.run)
                if case .success(let foreign) = foreign { found.insert(foreign, at: 0) }
            }
            return found
        } catch { throw .system(error) }
    }

    func fail(_ error: AgentError) {
        logger.critical("the guests' processes cannot be found: \(error)")
        onFailure?(error)
    }

    private func settled() {
        unsettled -= 1
        if unsettled == 0 { feed(.guestsSettled) }
    }

    func takeUp(_ guests: [GuestID]) {
        var chosen: [GuestID: Generation] = [:]
        do {
            let found = try findProcesses()
            for id in guests { chosen[id] = try choose(found.filter { $0.label.guest == id }) }
        } catch { return fail(error) }
        unsettled += 1
        var toStart: [GuestKeeper] = []
        for keeper in keepers where guests.contains(keeper.id) {
            unsettled += 1
            if let generation = chosen[keeper.id] {
                keeper.adopt(generation, settled: settled)
            } else {
                toStart.append(keeper)
            }
        }
        startNext(toStart[...], atOnce: max(2, HostFacts.cpuCount))
        settled()
    }

    func startAfresh(_ guests: [GuestID]) {
        let keepers = keepers.filter { guests.contains($0.id) }
        unsettled += keepers.count
        for keeper in keepers { keeper.start(settled: settled) }
    }

    /// Without a step in flight a guest has one process. Should there be more, the others are what
    /// a step left behind: they never executed.
    private func choose(
        _ found: [(label: ProcessLabel, process: ProcessReference)]
    ) throws(AgentError) -> Generation? {
        guard let keep = found.last(where: { isGuests($0.label) }) ?? found.last else { return nil }
        for other in found where other.process.pid != keep.process.pid {
            // Not ours to kill, and it may be what somebody means to run now.
            guard other.label.generation != ProcessLabel.foreignGeneration else { continue }
            logger.warning("killing a left-over QEMU", metadata: ["pid": "\(other.process.pid)"])
            try? other.process.send(signal: 9)
        }
        return try makeGeneration(keep)
    }

    /// Whether it is the generation that the guest was last left with.
    private func isGuests(_ label: ProcessLabel) -> Bool {
        let marker = paths.current(label.guest)
        guard let bytes = try? Files.read(path: marker, byteCountMax: 64) else { return false }
        return String(decoding: bytes, as: UTF8.self) == "\(label.generation)"
    }

    func makeGeneration(
        _ found: (label: ProcessLabel, process: ProcessReference)
    ) throws(AgentError) -> Generation {
        // An agent that died in a hold may have left it preferred.
        Scheduling.treatAsOthers(found.process.pid)
        let guest = host.guests.first { $0.id == found.label.guest }
        return try launcher.generation(found, monitor: guest?.adopt)
    }

    private func startNext(_ keepers: ArraySlice<GuestKeeper>, atOnce: Int) {
        var waiting = keepers
        func next() {
            guard let keeper = waiting.popFirst() else { return }
            keeper.start { [self] in
                settled()
                next()
            }
        }
        for _ in 0..<atOnce { next() }
    }

    func becomeReady() {
        preflight?.start()
        control = ControlSocket.open(for: self)
        let body = whenReady
        whenReady = nil
        body?()
        link.start()
    }

    // MARK: Events

    /// Gives the machine an event and carries out what it says, before this returns. An event that
    /// comes of that, such as the outcome of a write, is handled after the effects before it.
    func feed(_ event: AgentMachine.Event) {
        events.append(event)
        guard !isDraining else { return }
        isDraining = true
        while !events.isEmpty {
            for effect in machine.handle(events.removeFirst()) { carryOut(effect) }
        }
        isDraining = false
    }

    // MARK: Leader

    private func connectLink() {
        link.isUrgent = { [unowned self] in
            runner != nil || !machine.reports.isEmpty || keepers.contains { $0.state == .held }
        }
        link.onReady = { [unowned self] in
            let body = whenFirstReady
            whenFirstReady = nil
            body?()
            feed(.sessionReady)
        }
        link.onDirective = { [unowned self] in take($0, answer: $1) }
        link.onReportCommitted = { [unowned self] in feed(.reportCommitted($0, $1)) }
    }

    func sendHostReport(always: Bool) {
        let report = report
        guard always || report != lastReport else { return }
        lastReport = report
        link.send(report)
    }
}
