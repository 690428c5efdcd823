internal import Fleet
internal import UvLoop

/// Where everything of one host's agent is kept.
struct HostPaths: Hashable {
    /// Sockets, logs and notes; need not survive a reboot.
    let run: String
    /// The accepted token, the step in flight, unsent reports, each guest's hypervisor.
    let state: String
    /// The guests' RAM.
    let memory: String

    var guests: String { "\(run)/g" }
    func guest(_ id: GuestID) -> String { "\(guests)/\(id)" }
    /// - Parameters:
    ///   - origin: of a QEMU that somebody else has started, or of one that has followed it.
    ///   - monitor: the socket of the first of these, which has no other.
    func generation(
        _ id: GuestID, _ number: Int, _ origin: QEMUOrigin? = nil, monitor: String? = nil
    ) -> GenerationPaths {
        GenerationPaths(
            directory: "\(guest(id))/\(number)", onlyMonitor: monitor,
            adoptedGuestAgent: origin.map {
                $0.commandLine(generation: 0, machineType: nil).guestAgentPath ?? ""
            })
    }
    /// Holds the boot id of the host for as long as the guest is not to be started again.
    func started(_ id: GuestID) -> String { "\(guest(id))/started" }
    /// The number of the generation that is the guest's.
    func current(_ id: GuestID) -> String { "\(guest(id))/current" }
    func ram(_ id: GuestID) -> String { "\(memory)/\(id).ram" }

    /// Held by a guard for as long as it lives.
    var guardLock: String { "\(run)/guard.lock" }
    var agentLock: String { "\(run)/agent.lock" }
    var stateLock: String { "\(state)/agent.lock" }
    /// Where `fermata preflight` asks the agent.
    var control: String { "\(run)/control" }
    /// The sockets and the log of a QEMU that is only asked what it knows.
    func probe(_ name: String) -> String { "\(run)/probe-\(name)" }
    var notes: String { "\(run)/step.notes" }
    var guardNotes: String { "\(run)/guard.notes" }
    var guardLog: String { "\(run)/guard.log" }

    /// What is to be killed if a command was left running.
    var commandGroup: String { "\(run)/command.group" }

    /// What the commands of steps have said, a directory for each step.
    var outputs: String { "\(state)/output" }
    func output(_ step: StepID, _ token: Token) -> String { "\(outputs)/\(step)-t\(token)" }
    var software: String { "\(state)/software" }
    var parts: String { "\(state)/parts" }
    var accepted: String { "\(state)/accepted" }
    /// Of which step the agent's program has been replaced, while that is not settled.
    var upgrade: String { "\(state)/upgrade" }
    var reports: String { "\(state)/reports" }
    func hypervisor(_ id: GuestID) -> String { "\(state)/hypervisors/\(id)" }
    var hypervisors: String { "\(state)/hypervisors" }
}

/// Where one QEMU process of one guest has its sockets.
struct GenerationPaths: Hashable {
    let directory: String
    /// Of a QEMU that somebody else has started: its one monitor, for agent and guard in turn.
    var onlyMonitor: String?
    /// As it was before the agent came; empty if there is none.
    var adoptedGuestAgent: String?
    /// The agent's monitor.
    var monitor: String { onlyMonitor ?? "\(directory)/qmp" }
    /// The guard's monitor.
    var guardMonitor: String { onlyMonitor ?? "\(directory)/guard" }
    var guestAgent: String { adoptedGuestAgent ?? "\(directory)/ga" }
    /// Where the state arrives.
    var incoming: String { "\(directory)/in" }
    var log: String { "\(directory)/log" }

    /// What QEMU said last, for a reason; empty if nothing.
    func lastLogLine() -> String {
        guard let bytes = try? Files.read(path: log, byteCountMax: 1 << 20) else { return "" }
        let lines = String(decoding: bytes, as: UTF8.self).split(separator: "\n")
        let useful = lines.filter { !$0.contains("terminating on signal") }
        // QEMU names the cause first and then says that something failed.
        return String(useful.suffix(3).joined(separator: "; ").prefix(500))
    }
}
