// Starts QEMU processes that outlive the agent.
//
// Happy path: directory of the generation, tap queues, spawn (a session of its own, output into the
// log), pidfd. Taps are opened here and given to the child as descriptors 3, 4, …; the agent's
// own copies are closed once QEMU has them.
// Failure modes: each is an AgentError with what QEMU or the kernel said; nothing is left running.

internal import Fleet
internal import HostConfiguration
internal import UvLoop

struct Launcher {
    let host: HostFile
    let paths: HostPaths
    let loop: Loop

    /// - Parameter isWaiting: for a hand-over: it waits for a guest, its queues detached.
    func start(
        _ guest: GuestConfiguration, generation: Int, hypervisor: Hypervisor, isWaiting: Bool
    ) throws(AgentError) -> Generation {
        let place = paths.generation(guest.id, generation)
        var queues: [Int32] = []
        defer { for queue in queues { Descriptors.close(queue) } }
        do {
            if Files.exists(path: place.directory) { try Files.removeTree(path: place.directory) }
            try Files.makeDirectory(path: place.directory, mode: 0o700, parents: true)
            if !isWaiting { try freshMemory(guest.id) }
            for case .tap(let name, _, _) in guest.nics {
                let queue = try Tap.openQueue(name: name)
                queues.append(queue)
                if isWaiting { try Tap.setAttached(queue, false) }
            }
            let taps = queues.indices.map { Int32(3 + $0) }
            let label = ProcessLabel(
                run: paths.run, guest: guest.id, generation: generation,
                hypervisorVersion: hypervisor.version, tapNumbers: taps)
            let line = GuestCommandLine(
                guest: guest, accelerator: host.accelerator, hypervisor: hypervisor, paths: place,
                ramPath: paths.ram(guest.id), tapDescriptors: taps, isWaiting: isWaiting)
            let log = ChildProcess.Stdio.file(path: place.log, append: true)
            let child = try ChildProcess.spawn(
                executable: hypervisor.path, arguments: line.arguments(),
                environment: environment(label, hypervisor), workingDirectory: "/",
                descriptors: [.ignore, log, log] + queues.map { .inherit($0) }, detached: true,
                on: loop
            ) { _ in }
            return try Generation(
                label, paths: place, process: ProcessReference(pid: child.pid), on: loop)
        } catch let error as UvError {
            throw .hypervisor(reason: "\(hypervisor.path) could not be started: \(error)")
        } catch let error as AgentError {
            throw error
        } catch { throw .hypervisor(reason: "\(error)") }
    }

    /// A process that was found.
    ///
    /// - Parameter monitor: of the host file, for one that somebody else has started.
    /// - Throws: ``AgentError`` if it cannot be watched; one that has ended can be.
    func generation(
        _ found: (label: ProcessLabel, process: ProcessReference), monitor: String?
    ) throws(AgentError) -> Generation {
        let label = found.label
        let isForeign = label.generation == ProcessLabel.foreignGeneration
        return try Generation(
            label,
            paths: paths.generation(
                label.guest, label.generation, label.origin, monitor: isForeign ? monitor : nil),
            process: found.process, on: loop)
    }

    /// A guest that boots starts on empty memory, not on what the one before it left.
    private func freshMemory(_ id: GuestID) throws(UvError) {
        if Files.exists(path: paths.ram(id)) { try Files.remove(path: paths.ram(id)) }
    }

    func environment(_ label: ProcessLabel, _ hypervisor: Hypervisor) -> [String: String] {
        var values = label.environment
        values["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        if let directory = hypervisor.moduleDirectory { values["QEMU_MODULE_DIR"] = directory }
        return values
    }

    /// Brings a guest's taps up and puts them on their bridges, with the host's own `ip`.
    ///
    /// - Parameter completion: called once, with the problem if there was one.
    func connectTaps(_ guest: GuestConfiguration, _ completion: @escaping (String?) -> Void) {
        var commands: [[String]] = []
        for case .tap(let name, let bridge, _) in guest.nics {
            var command = ["link", "set", "dev", name]
            if let bridge { command += ["master", bridge] }
            commands.append(command + ["up"])
        }
        run(commands[...], completion)
    }

    private func run(_ commands: ArraySlice<[String]>, _ completion: @escaping (String?) -> Void) {
        guard let command = commands.first else { return completion(nil) }
        let shown = "ip " + command.joined(separator: " ")
        do {
            _ = try ChildProcess.spawn(
                executable: "ip", arguments: command, on: loop
            ) { status in
                guard status == ExitStatus(code: 0, signal: 0) else {
                    return completion("`\(shown)` ended with \(status)")
                }
                run(commands.dropFirst(), completion)
            }
        } catch { completion("`\(shown)`: \(error)") }
    }
}
