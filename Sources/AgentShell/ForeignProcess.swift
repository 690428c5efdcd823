// A QEMU that somebody else has started (systemd, a script), found by its monitor's socket.
//
// Happy path: the processes whose arguments name the socket, or that have inherited it, are asked for
// in /proc; the one that listens on it is the guest's. Nothing is connected to.
// Failure modes: none listens, or several do: said in words. What keeps a second process from being
// started like the first is a problem of the origin: such a guest is only paused and continued.

internal import AgentCore
internal import Fleet
internal import Glibc
internal import QMP
internal import UvLoop

/// How a QEMU was started by somebody else. Its successors carry it in their environment.
struct QEMUOrigin: Hashable {
    /// Without the program's own name.
    var arguments: [String]
    var directory: String
    var userID: UInt32
    var groupID: UInt32
    var groups: [UInt32]

    /// - Parameter pid: of the first process.
    /// - Returns: nil if it has ended, or if we may not look into it.
    /// - Throws: ``UvError`` if that cannot be told.
    init?(pid: Int32) throws(UvError) {
        guard let words = try Self.arguments(pid), words.count > 1,
            let directory = try? Files.link(pathOfSymlink: "/proc/\(pid)/cwd"),
            let status = try Proc.read(pid, "status"),
            let user = Proc.numbers("Uid", of: status).first,
            let group = Proc.numbers("Gid", of: status).first
        else { return nil }
        arguments = Array(words.dropFirst())
        self.directory = directory
        userID = user
        groupID = group
        groups = Proc.numbers("Groups", of: status)
    }

    var text: String {
        func numbers(_ list: [UInt32]) -> JSON { .array(list.map { .integer(Int64($0)) }) }
        let value: JSON = [
            "arguments": .array(arguments.map { .string($0) }), "directory": .string(directory),
            "ids": numbers([userID, groupID] + groups),
        ]
        return String(decoding: value.bytes, as: UTF8.self)
    }

    /// Reads what ``text`` has written.
    init?(text: String) {
        let bytes = Array(text.utf8)
        guard let value = try? JSON.parse(bytes, byteCountMax: 1 << 20),
            let arguments = value["arguments"]?.array?.compactMap(\.string),
            let directory = value["directory"]?.string,
            let numbers = value["ids"]?.array, numbers.count >= 2
        else { return nil }
        let ids = numbers.compactMap { $0.integer.flatMap { UInt32(exactly: $0) } }
        guard ids.count == numbers.count else { return nil }
        self.arguments = arguments
        self.directory = directory
        userID = ids[0]
        groupID = ids[1]
        groups = Array(ids[2...])
    }

    /// Why a second process cannot be started where this one runs; empty if it can.
    static func placeProblems(_ generation: Generation) -> [String] {
        let pid = generation.process.pid
        var problems: [String] = []
        for space in ["pid", "user"] where isElsewhere(pid, space) {
            problems.append("it runs in another \(space) namespace")
        }
        if !generation.tapNumbers.isEmpty, isElsewhere(pid, "net") {
            problems.append("it has a tap in another network namespace")
        }
        if !isElsewhere(pid, "mnt"), (try? Files.link(pathOfSymlink: "/proc/\(pid)/root")) != "/" {
            problems.append("it runs in another root directory")
        }
        return problems
    }

    /// Whether a process is in another namespace than we are.
    static func isElsewhere(_ pid: Int32, _ space: String) -> Bool {
        (try? Files.link(pathOfSymlink: "/proc/\(pid)/ns/\(space)"))
            != (try? Files.link(pathOfSymlink: "/proc/self/ns/\(space)"))
    }

    func commandLine(generation: Int, machineType: String?) -> AdoptedCommandLine {
        AdoptedCommandLine(
            arguments, suffix: ".fermata-\(generation)", machineType: machineType)
    }

    /// A process's command line.
    static func arguments(_ pid: Int32) throws(UvError) -> [String]? {
        guard var bytes = try Proc.read(pid, "cmdline") else { return nil }
        if bytes.last == 0 { bytes.removeLast() }
        return bytes.split(separator: 0, omittingEmptySubsequences: false).map {
            String(decoding: $0, as: UTF8.self)
        }
    }
}

enum ForeignProcess {
    struct NotFound: Error, CustomStringConvertible {
        let description: String
    }

    /// - Parameters:
    ///   - monitor: path of the socket.
    ///   - run: of our own processes, which are not meant.
    /// - Throws: ``UvError`` if one could have been overlooked.
    static func find(
        guest: GuestID, monitor: String, run: String
    ) throws(UvError) -> Result<(label: ProcessLabel, process: ProcessReference), NotFound> {
        let pids = try Proc.pids()
        var found: [Int32] = []
        for pid in pids {
            guard let words = try QEMUOrigin.arguments(pid),
                words.contains(where: { $0.contains(monitor) }),
                try listens(pid, on: inodes(of: monitor, seenBy: pid))
            else { continue }
            found.append(pid)
        }
        if found.isEmpty {
            let inodes = try inodes(of: monitor, seenBy: HostFacts.processID)
            for pid in pids where pid > 1 && !inodes.isEmpty {
                if try listens(pid, on: inodes) { found.append(pid) }
            }
        }
        for pid in found {
            if try ProcessLabel(pid: pid, run: run) != nil { found.removeAll { $0 == pid } }
        }
        guard found.count <= 1 else {
            let list = found.sorted().map { "\($0)" }.joined(separator: ", ")
            return .failure(
                NotFound(description: "several processes listen on \(monitor): \(list)"))
        }
        guard let pid = found.first, let process = try Proc.reference(pid),
            let origin = try QEMUOrigin(pid: pid), !process.hasExited
        else { return .failure(NotFound(description: "no QEMU listens on \(monitor)")) }
        let line = origin.commandLine(generation: 0, machineType: nil)
        let taps = tapNumbers(pid)
        var rest = taps.filter { number in
            !line.inherited.contains(.tap(number: number))
        }[...]
        var mine: [Int32] = []
        var copies: [Int32] = []
        for descriptor in line.inherited {
            switch descriptor {
            case .tap(let number?): mine.append(number)
            case .tap(nil): if let number = rest.popFirst() { mine.append(number) }
            case .copy(let number): copies.append(number)
            }
        }
        let label = ProcessLabel(
            run: run, guest: guest, generation: ProcessLabel.foreignGeneration,
            hypervisorVersion: "", tapNumbers: mine, origin: origin, copyNumbers: copies)
        return .success((label, process))
    }

    /// Of the sockets of that path that somebody listens on.
    static func inodes(of path: String, seenBy pid: Int32) throws(UvError) -> Set<String> {
        // Num RefCount Protocol Flags Type St Inode Path
        var found: Set<String> = []
        let bytes = try Proc.read(pid, "net/unix", byteCountMax: 64 << 20) ?? []
        let lines = String(decoding: bytes, as: UTF8.self).split(separator: "\n")
        for line in lines where line.hasSuffix(path) {
            let fields = line.split(separator: " ", maxSplits: 7)
            // __SO_ACCEPTCON of the kernel.
            guard fields.count == 8, fields[7] == path, fields[3] == "00010000" else { continue }
            found.insert("socket:[\(fields[6])]")
        }
        return found
    }

    static func listens(_ pid: Int32, on inodes: Set<String>) throws(UvError) -> Bool {
        guard !inodes.isEmpty else { return false }
        return try (Proc.list(pid, "fd") ?? []).contains { number in
            (try? Files.link(pathOfSymlink: "/proc/\(pid)/fd/\(number)"))
                .map { inodes.contains($0) } ?? false
        }
    }

    /// In ascending order, which is the one in which QEMU opens its NICs.
    private static func tapNumbers(_ pid: Int32) -> [Int32] {
        ((try? Files.list(path: "/proc/\(pid)/fd")) ?? []).compactMap { Int32($0) }.sorted()
            .filter { number in
                (try? Files.link(pathOfSymlink: "/proc/\(pid)/fd/\(number)")) == "/dev/net/tun"
            }
    }

    /// Since the host booted, in clock ticks: with its pid, what makes a process that process.
    static func startTime(_ pid: Int32) -> String? {
        guard let text = Proc.text("/proc/\(pid)/stat"), let end = text.lastIndex(of: ")") else {
            return nil
        }
        let fields = text[text.index(after: end)...].split(separator: " ")
        return fields.count > 19 ? String(fields[19]) : nil
    }
}

extension Launcher {
    /// Starts a second process like `old`, which waits for its guest.
    ///
    /// - Parameter machineType: of the running one.
    func startSecond(
        _ guest: GuestID, like old: Generation, machineType: String?, generation: Int,
        hypervisor: Hypervisor
    ) throws(AgentError) -> Generation {
        guard let origin = old.origin else {
            throw .hypervisor(reason: "how its QEMU was started is not known")
        }
        let line = origin.commandLine(generation: generation, machineType: machineType)
        let problems = QEMUOrigin.placeProblems(old) + line.problems
        guard problems.isEmpty else {
            throw .hypervisor(reason: problems.joined(separator: "; "))
        }
        let place = paths.generation(guest, generation, origin)
        var descriptors: [Int32] = []
        defer { for descriptor in descriptors { Descriptors.close(descriptor) } }
        do {
            if Files.exists(path: place.directory) { try Files.removeTree(path: place.directory) }
            try Files.makeDirectory(path: place.directory, mode: 0o700, parents: true)
            if chown(place.directory, origin.userID, origin.groupID) != 0 {
                throw UvError(code: -errno, operation: "give away", subject: place.directory)
            }
            for socket in line.sockets where Files.exists(path: socket.temporary) {
                try Files.remove(path: socket.temporary)
            }
            try inherit(line.inherited, from: old, &descriptors)
            let label = ProcessLabel(
                run: paths.run, guest: guest, generation: generation,
                hypervisorVersion: hypervisor.version,
                tapNumbers: Self.numbers(line) { if case .tap = $0 { true } else { false } },
                origin: origin,
                copyNumbers: Self.numbers(line) { if case .copy = $0 { true } else { false } })
            let command =
                Self.prefix(origin, old.process.pid) + [hypervisor.path]
                + Self.arguments(line, place, hypervisor)
            // Not our child: who supervises the first one has to see the end of this one too.
            let pid = try ChildProcess.spawnDaemon(
                executable: command[0], arguments: Array(command.dropFirst()),
                environment: environment(label, hypervisor), workingDirectory: origin.directory,
                log: place.log, descriptors: descriptors.map { .inherit($0) }, on: loop)
            joinControlGroup(pid, of: old.process.pid)
            return try Generation(
                label, paths: place, process: ProcessReference(pid: pid), on: loop)
        } catch let error as UvError {
            throw .hypervisor(reason: "\(hypervisor.path) could not be started: \(error)")
        } catch let error as AgentError {
            throw error
        } catch { throw .hypervisor(reason: "\(error)") }
    }

    private static func numbers(
        _ line: AdoptedCommandLine, _ isMeant: (AdoptedCommandLine.Inherited) -> Bool
    ) -> [Int32] {
        line.inherited.indices.filter { isMeant(line.inherited[$0]) }
            .map { AdoptedCommandLine.firstDescriptor + Int32($0) }
    }

    private static func arguments(
        _ line: AdoptedCommandLine, _ place: GenerationPaths, _ hypervisor: Hypervisor
    ) -> [String] {
        hypervisor.dataDirectories.flatMap { ["-L", $0] } + line.arguments
            + GuestCommandLine.monitor(GuestCommandLine.agentMonitor, place.monitor)
            + GuestCommandLine.monitor(GuestCommandLine.guardMonitor, place.guardMonitor)
            + GuestCommandLine.waiting
    }

    private func inherit(
        _ inherited: [AdoptedCommandLine.Inherited], from old: Generation,
        _ descriptors: inout [Int32]
    ) throws {
        var taps = old.tapNumbers[...]
        var copies = old.copyNumbers[...]
        for what in inherited {
            switch what {
            case .tap:
                guard let number = taps.popFirst(),
                    let name = Proc.taps(pid: old.process.pid, [number]).first?.name
                else { throw AgentError.hypervisor(reason: "a tap of its QEMU is not found") }
                let queue = try Tap.openQueue(name: name)
                descriptors.append(queue)
                try Tap.setAttached(queue, false)
            case .copy:
                guard let number = copies.popFirst() else {
                    throw AgentError.hypervisor(reason: "a socket of its QEMU is not found")
                }
                descriptors.append(try old.process.duplicateDescriptor(number))
            }
        }
    }

    /// The programs that bring QEMU to where the first one runs, and each become the next.
    private static func prefix(_ origin: QEMUOrigin, _ pid: Int32) -> [String] {
        var words: [String] = []
        let spaces = ["mnt", "net"].filter { QEMUOrigin.isElsewhere(pid, $0) }
        if !spaces.isEmpty {
            let options = ["mnt": "mount", "net": "net"]
            words.append("nsenter")
            words += spaces.map { "--\(options[$0] ?? $0)=/proc/\(pid)/ns/\($0)" }
            words += ["--wdns=\(origin.directory)", "--"]
        }
        if origin.userID != geteuid() {
            let groups = origin.groups.map { "\($0)" }.joined(separator: ",")
            words += [
                "setpriv", "--reuid=\(origin.userID)", "--regid=\(origin.groupID)",
                groups.isEmpty ? "--clear-groups" : "--groups=\(groups)", "--",
            ]
        }
        return words
    }

    /// Its limits are those of the first one, and who ends that one's unit ends this one too.
    private func joinControlGroup(_ pid: Int32, of old: Int32) {
        guard let theirs = try? ControlGroup.path(of: "\(old)"),
            (try? ControlGroup.path(of: "\(pid)")) != theirs
        else { return }
        try? Files.append(
            path: "\(theirs)/cgroup.procs", bytes: Array("\(pid)".utf8), durable: false)
    }
}

extension Generation {
    /// Of a process that is the next one of an adopted QEMU.
    var adoptedLine: AdoptedCommandLine? {
        number == ProcessLabel.foreignGeneration
            ? nil : origin?.commandLine(generation: number, machineType: nil)
    }

    /// Tells a supervisor that follows the pid file whose end it has to wait for. Before the other
    /// process ends: at its end the supervisor reads the file.
    ///
    /// - Parameter other: the pid that is in it now. Any other file is left alone: its path comes from
    ///   a process that may belong to somebody who must not write there.
    func takePidFile(from other: Int32?) {
        guard let origin, let other,
            let name = origin.commandLine(generation: number, machineType: nil).pidFile
        else { return }
        let path = name.hasPrefix("/") ? name : "\(origin.directory)/\(name)"
        guard Proc.number(path) == Int(other) else { return }
        try? Files.writeAtomically(
            path: path, bytes: Array("\(process.pid)\n".utf8), durable: false)
    }

    /// Its sockets take the names that the one before it had.
    func takeSocketNames() {
        for socket in adoptedLine?.sockets ?? [] where Files.exists(path: socket.temporary) {
            try? Files.rename(from: socket.temporary, to: socket.path)
        }
    }

    func removeTemporarySockets() {
        for socket in adoptedLine?.sockets ?? [] where Files.exists(path: socket.temporary) {
            try? Files.remove(path: socket.temporary)
        }
    }
}
