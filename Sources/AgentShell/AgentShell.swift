// The agent: owns what happens to the guests of one host.
//
// Happy path: directories and locks; what was kept of steps; wait for a guard that is still at work;
// find the guests' processes; finish a step that an earlier agent began; start the guests that do
// not run; then the session with the leader, directives, reports.
// Failure modes: what hinders the start is an AgentError and nothing has been started; afterwards
// nothing ends the agent. Losing the leader changes nothing; losing the agent is what the guard and
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

    var gate = TokenGate(acceptedToken: Token(0))
    var runner: HoldRunner?
    /// Reports that the leader has not committed, in the order in which the steps ended.
    var reports: [StepReport] = []
    /// Called at the first session.
    var whenFirstReady: (() -> Void)?
    private var isReady = false
    private var reportIsDue = false
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
        let contents = try store.load()
        gate = TokenGate(
            acceptedToken: contents.acceptedToken,
            inFlight: contents.inFlight.map {
                TokenGate.Grant(step: $0.directive.step, token: $0.directive.token)
            },
            reported: contents.reports.map { TokenGate.Grant(step: $0.step, token: $0.token) })
        reports = contents.reports
        installed = software.read()
        parts = partsRecord.read()
        // Of commands that had left something running, or whose agent died.
        ControlGroup.removeEmpty(namePrefix: CommandRun.groupNamePrefix(host.host))
        keepers = host.guests.map { GuestKeeper($0, launcher: launcher, logger: logger) }
        for keeper in keepers {
            keeper.onChange = { [unowned self] in
                scheduleHostReport()
                if isReady { preflight?.changed(keeper) }
            }
        }
        preflight = PreflightWatch(keepers, on: loop) { [unowned self] in runner != nil }
        connectLink()
        afterGuard { [self] in takeUp(contents.inFlight, ready: ready) }
    }

    /// Closes the session. Guests and guard are left as they are.
    public func stop() {
        control?.close()
        link.stop()
    }

    /// What the agent says of its host now.
    public var report: HostReport {
        HostReport(
            host: host.host, agentVersion: softwareVersion, bootID: HostFacts.bootID,
            acceptedToken: gate.acceptedToken, sets: host.sets.sorted { $0.id < $1.id },
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

    private func takeUp(_ record: StepRecord?, ready: @escaping () -> Void) {
        var found = ProcessLabel.processes(of: paths.run)
        for guest in host.guests {
            guard let monitor = guest.adopt else { continue }
            let foreign = ForeignProcess.find(guest: guest.id, monitor: monitor, run: paths.run)
            if case .success(let foreign) = foreign { found.insert(foreign, at: 0) }
        }
        let stepGuests = record?.guests.map(\.plan.id) ?? []
        var pending = 1
        let settled = { [self] in
            pending -= 1
            if pending == 0 { becomeReady(ready) }
        }
        if let record, case .agent = record.directive.release.work {
            recoverUpgrade(record)
        } else if let record {
            pending += 1
            let mine = found.filter { stepGuests.contains($0.label.guest) }
            found.removeAll { stepGuests.contains($0.label.guest) }
            recover(record, mine, settled: settled)
        }
        var toStart: [GuestKeeper] = []
        for keeper in keepers where !stepGuests.contains(keeper.id) {
            let mine = found.filter { $0.label.guest == keeper.id }
            pending += 1
            if let generation = choose(mine) {
                keeper.adopt(generation, settled: settled)
            } else {
                toStart.append(keeper)
            }
        }
        startNext(toStart[...], atOnce: max(2, HostFacts.cpuCount), settled: settled)
        settled()
    }

    /// Without a step in flight a guest has one process. Should there be more, the others are what
    /// a step left behind: they never executed.
    private func choose(
        _ found: [(label: ProcessLabel, process: ProcessReference)]
    ) -> Generation? {
        guard let keep = found.last(where: { isGuests($0.label) }) ?? found.last else { return nil }
        for other in found where other.process.pid != keep.process.pid {
            // Not ours to kill, and it may be what somebody means to run now.
            guard other.label.generation != ProcessLabel.foreignGeneration else { continue }
            logger.warning("killing a left-over QEMU", metadata: ["pid": "\(other.process.pid)"])
            try? other.process.send(signal: 9)
        }
        return makeGeneration(keep)
    }

    /// Whether it is the generation that the guest was last left with.
    private func isGuests(_ label: ProcessLabel) -> Bool {
        let marker = paths.current(label.guest)
        guard let bytes = try? Files.read(path: marker, byteCountMax: 64) else { return false }
        return String(decoding: bytes, as: UTF8.self) == "\(label.generation)"
    }

    func makeGeneration(
        _ found: (label: ProcessLabel, process: ProcessReference)
    ) -> Generation? {
        // An agent that died in a hold may have left it preferred.
        Scheduling.treatAsOthers(found.process.pid)
        let guest = host.guests.first { $0.id == found.label.guest }
        return launcher.generation(found, monitor: guest?.adopt)
    }

    private func startNext(
        _ keepers: ArraySlice<GuestKeeper>, atOnce: Int, settled: @escaping () -> Void
    ) {
        var waiting = keepers
        func next() {
            guard let keeper = waiting.popFirst() else { return }
            keeper.start {
                settled()
                next()
            }
        }
        for _ in 0..<atOnce { next() }
    }

    private func becomeReady(_ ready: () -> Void) {
        isReady = true
        preflight?.start()
        control = ControlSocket.open(for: self)
        ready()
        link.start()
        loop.every(.seconds(5)) { [self] in for report in reports { link.send(report) } }
    }

    // MARK: Leader

    private func connectLink() {
        link.isUrgent = { [unowned self] in
            runner != nil || !reports.isEmpty || keepers.contains { $0.state == .held }
        }
        link.onReady = { [unowned self] in
            lastReport = nil
            let body = whenFirstReady
            whenFirstReady = nil
            body?()
            sendHostReport()
            for report in reports { link.send(report) }
        }
        link.onDirective = { [unowned self] directive, answer in
            answer(take(directive))
        }
        link.onReportCommitted = { [unowned self] step, token in
            reports.removeAll { $0.step == step && $0.token == token }
            gate.forget(step: step, token: token)
            store.forget(step: step, token: token)
        }
    }

    func scheduleHostReport() {
        guard isReady, !reportIsDue else { return }
        reportIsDue = true
        loop.after(.milliseconds(20)) { [self] in
            reportIsDue = false
            sendHostReport()
        }
    }

    private func sendHostReport() {
        let report = report
        guard report != lastReport else { return }
        lastReport = report
        link.send(report)
    }
}
