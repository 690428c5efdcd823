// One QEMU process of a guest, with the agent's monitor connection to it.
//
// A process is known by its environment, which it keeps for as long as it lives:
//   FERMATA_RUN, FERMATA_GUEST, FERMATA_GENERATION, FERMATA_HYPERVISOR_VERSION, FERMATA_TAPS,
//   and after an adoption FERMATA_ORIGIN, FERMATA_COPIES
// so a restarted agent finds its guests in /proc, never in a journal. The pidfd is opened before the
// environment is read, so a pid that changed hands in between does not match. One that somebody else
// has started has no such environment and is generation 0; see ForeignProcess.
//
// Failure modes: the monitor connection ends while the process lives: connected again every 20 ms,
// for ever; the process ends: told once.

internal import AgentCore
internal import Fleet
internal import QMP
internal import UvLoop

final class Generation {
    enum Notice {
        case connected
        case disconnected
        /// Anything QEMU tells of itself.
        case event(Event)
        case exited
    }

    let guest: GuestID
    let number: Int
    private(set) var hypervisorVersion: String
    let paths: GenerationPaths
    let process: ProcessReference
    /// The numbers of its tap queues among its descriptors, in the order of its tap NICs.
    let tapNumbers: [Int32]
    /// How the first of an adopted guest's processes was started; nil for our own guests.
    let origin: QEMUOrigin?
    /// The numbers of its inherited sockets, in the order of the command line.
    let copyNumbers: [Int32]
    /// For the guest's keeper, and for the step that works on it.
    var onNotice: ((Notice) -> Void)?
    var onStepNotice: ((Notice) -> Void)?
    private(set) var hasExited = false
    private(set) var monitor: Monitor?

    private let loop: Loop
    private var isConnecting = false
    private var isClosed = false

    init(
        _ label: ProcessLabel, paths: GenerationPaths, process: ProcessReference, on loop: Loop
    ) throws(AgentError) {
        guest = label.guest
        number = label.generation
        hypervisorVersion = label.hypervisorVersion
        tapNumbers = label.tapNumbers
        origin = label.origin
        copyNumbers = label.copyNumbers
        self.paths = paths
        self.process = process
        self.loop = loop
        do {
            try process.onExit(on: loop) { [self] in didExit() }
        } catch { throw .system(error) }
    }

    var isConnected: Bool { monitor != nil }
    /// Somebody else has started it, and it has one monitor.
    var isForeign: Bool { number == ProcessLabel.foreignGeneration }

    /// What an adopted QEMU has told of itself.
    func describe(version: String) { if isForeign { hypervisorVersion = version } }

    /// Lets go of the monitor and comes back. A foreign QEMU then takes the connections that guards
    /// have made and ended meanwhile, of which it has room for two.
    func reconnect() {
        monitor?.onEnd = nil
        monitor?.close()
        monitor = nil
        connect()
    }

    /// Connects the monitor, and keeps it connected while the process lives.
    func connect() {
        guard monitor == nil, !isConnecting, !hasExited, !isClosed else { return }
        isConnecting = true
        Monitor.connect(path: paths.monitor, on: loop, timeout: .seconds(2)) { [self] result in
            isConnecting = false
            guard !isClosed, !hasExited, case .success(let monitor) = result else {
                if case .success(let monitor) = result { monitor.close() }
                // The socket appears some milliseconds after the process.
                loop.after(.milliseconds(20)) { [self] in connect() }
                return
            }
            self.monitor = monitor
            monitor.onEvent = { [unowned self] in tell(.event($0)) }
            monitor.onEnd = { [self] _ in
                self.monitor = nil
                tell(.disconnected)
                loop.after(.milliseconds(20)) { [self] in connect() }
            }
            tell(.connected)
        }
    }

    /// - Parameter limit: see ``Monitor/send(_:limit:_:)``.
    func send(
        _ commands: [Command], limit: Duration? = nil,
        _ reply: @escaping (Int, Result<JSON, MonitorFailure>) -> Void
    ) {
        guard let monitor else {
            for index in commands.indices { reply(index, .failure(.ended("not connected"))) }
            return
        }
        monitor.send(commands, limit: limit, reply)
    }

    /// - Parameters:
    ///   - incoming: where the other process waits.
    ///   - reply: called once.
    func send(
        _ request: MonitorRequest, incoming: String, limit: Duration?,
        _ reply: @escaping (MonitorReply) -> Void
    ) {
        guard let monitor else {
            return reply(.ended("\(MonitorFailure.ended("not connected"))"))
        }
        monitor.send(request, incoming: incoming, limit: limit, reply)
    }

    /// Tells the guest's network where its NICs are, for when the host's side of it has changed
    /// under a guest that was not handed over: a hand-over does it by itself.
    ///
    /// - Parameter completion: called once: nil when QEMU has begun (the rounds go on by
    ///   themselves), or why it has not.
    func announce(
        _ pattern: AnnouncePattern = .afterMigration, _ completion: @escaping (String?) -> Void
    ) {
        send([.announceSelf(pattern)]) { _, result in
            if case .failure(let failure) = result {
                completion("announce-self: \(failure)")
            } else {
                completion(nil)
            }
        }
    }

    /// SIGKILL; a process that has ended already is as good.
    func kill() throws(UvError) {
        do {
            try process.send(signal: 9)
        } catch  where error.name == "ESRCH" { return }
    }

    /// Whether it has ended or is just ending. The pidfd tells the end only when the last thread of
    /// the process is gone; its first one is a zombie some time earlier.
    var isEnding: Bool {
        if process.hasExited { return true }
        let state = process.state
        return state == "Z" || state == "X"
    }

    /// Lets go of the connection; the process is left alone.
    func close() {
        guard !isClosed else { return }
        isClosed = true
        onNotice = nil
        onStepNotice = nil
        monitor?.close()
        monitor = nil
    }

    private func didExit() {
        guard !hasExited else { return }
        hasExited = true
        monitor?.close()
        monitor = nil
        tell(.exited)
    }

    private func tell(_ notice: Notice) {
        onStepNotice?(notice)
        onNotice?(notice)
    }
}
