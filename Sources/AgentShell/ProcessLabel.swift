// Which of the host's processes are our guests': what they say of themselves, and who they are.
//
// Anybody may start a process with such an environment, so it only counts from a process that runs as we
// do, or as whoever owns its generation's directory, which the agent made and gave away. Not asked is:
// - whether it listens on its monitor's socket: one that was started a moment ago does not yet, and to
//   overlook that one would start its guest twice. But of several that say the same, the one that listens
//   is meant: the others are a shell on its way to become QEMU, QEMU's own children, or a fake;
// - which program it executes: that of the host file may be a script, and is replaced by updates.
//
// Failure modes: a process that has ended meanwhile, or that we may not look into, is none of ours; what
// hinders the search itself (no descriptors, no memory) is thrown, since a guest that is not found counts
// as one that does not run.

internal import AgentCore
internal import Fleet
internal import QMP
internal import UvLoop

/// What a QEMU process says of itself in its environment.
struct ProcessLabel: Hashable {
    var run: String
    var guest: GuestID
    var generation: Int
    var hypervisorVersion: String
    var tapNumbers: [Int32]
    var origin: QEMUOrigin?
    var copyNumbers: [Int32] = []

    /// Of a process without a label, which somebody else has started.
    static let foreignGeneration = 0
    /// Each step adds one: a host that lives for a century does not come so far.
    static let generationMax = 1_000_000_000

    var environment: [String: String] {
        var values = [
            "FERMATA_RUN": run, "FERMATA_GUEST": guest.rawValue,
            "FERMATA_GENERATION": "\(generation)",
            "FERMATA_HYPERVISOR_VERSION": hypervisorVersion,
            "FERMATA_TAPS": tapNumbers.map { "\($0)" }.joined(separator: ","),
        ]
        if let origin {
            values["FERMATA_ORIGIN"] = origin.text
            values["FERMATA_COPIES"] = copyNumbers.map { "\($0)" }.joined(separator: ",")
        }
        return values
    }

    /// - Parameter run: of the agent that asks.
    /// - Returns: nil for a process that is none of ours, or gone.
    /// - Throws: ``UvError`` if that cannot be told.
    init?(pid: Int32, run: String) throws(UvError) {
        guard let bytes = try Proc.read(pid, "environ") else { return nil }
        var values: [String: String] = [:]
        for entry in bytes.split(separator: 0) where entry.starts(with: "FERMATA_".utf8) {
            guard let equals = entry.firstIndex(of: UInt8(ascii: "=")) else { continue }
            let name = String(decoding: entry[..<equals], as: UTF8.self)
            values[name] = String(decoding: entry[(equals + 1)...], as: UTF8.self)
        }
        // Nothing else of what somebody else's process says is looked at.
        guard values["FERMATA_RUN"] == run,
            let guest = values["FERMATA_GUEST"].flatMap({ GuestID($0) }),
            let generation = values["FERMATA_GENERATION"].flatMap({ Int($0) }),
            1...Self.generationMax ~= generation
        else { return nil }
        self.run = run
        self.guest = guest
        self.generation = generation
        hypervisorVersion = values["FERMATA_HYPERVISOR_VERSION"] ?? ""
        func numbers(_ name: String) -> [Int32] {
            (values[name] ?? "").split(separator: ",").compactMap { Int32($0) }
        }
        tapNumbers = numbers("FERMATA_TAPS")
        origin = values["FERMATA_ORIGIN"].flatMap { QEMUOrigin(text: $0) }
        copyNumbers = numbers("FERMATA_COPIES")
    }

    init(
        run: String, guest: GuestID, generation: Int, hypervisorVersion: String,
        tapNumbers: [Int32], origin: QEMUOrigin? = nil, copyNumbers: [Int32] = []
    ) {
        self.run = run
        self.guest = guest
        self.generation = generation
        self.hypervisorVersion = hypervisorVersion
        self.tapNumbers = tapNumbers
        self.origin = origin
        self.copyNumbers = copyNumbers
    }

    /// Every live process that belongs to a run directory's guests, by guest and generation, both
    /// ascending. Of several of the same guest and generation the last one is meant.
    ///
    /// - Throws: ``UvError`` if one could have been overlooked.
    static func processes(
        of paths: HostPaths
    ) throws(UvError) -> [(label: ProcessLabel, process: ProcessReference)] {
        var found: [(label: ProcessLabel, process: ProcessReference, listens: Int)] = []
        for pid in try Proc.pids() {
            guard let process = try Proc.reference(pid),
                var label = try ProcessLabel(pid: pid, run: paths.run),
                let status = try Proc.read(pid, "status"), !process.hasExited
            else { continue }
            let place = paths.generation(label.guest, label.generation)
            guard label.isBelieved(status, place) else { continue }
            found.append((label, process, 0))
        }
        for index in found.indices {
            let label = found[index].label
            let isAlone = !found.indices.contains {
                $0 != index && found[$0].label.guest == label.guest
                    && found[$0].label.generation == label.generation
            }
            guard !isAlone else { continue }
            let pid = found[index].process.pid
            let monitor = paths.generation(label.guest, label.generation).monitor
            let inodes = try ForeignProcess.inodes(of: monitor, seenBy: pid)
            found[index].listens = try ForeignProcess.listens(pid, on: inodes) ? 1 : 0
        }
        return found.sorted {
            ($0.label.guest, $0.label.generation, $0.listens, $0.process.pid)
                < ($1.label.guest, $1.label.generation, $1.listens, $1.process.pid)
        }.map { ($0.label, $0.process) }
    }

    /// Whether a process that says so can be one that this agent, or one before it, has started.
    ///
    /// What one that runs as somebody else says of the user of its successor is put right.
    private mutating func isBelieved(_ status: [UInt8], _ place: GenerationPaths) -> Bool {
        guard let user = Proc.numbers("Uid", of: status).first else { return false }
        if user == HostFacts.userID { return true }
        guard user == Files.owner(path: place.directory),
            let group = Proc.numbers("Gid", of: status).first
        else { return false }
        origin?.userID = user
        origin?.groupID = group
        origin?.groups = Proc.numbers("Groups", of: status)
        return true
    }
}

extension Proc {
    /// Of every process, ascending.
    static func pids() throws(UvError) -> [Int32] {
        try Files.list(path: "/proc").compactMap { Int32($0) }.sorted()
    }

    /// - Returns: nil if it has ended.
    static func reference(_ pid: Int32) throws(UvError) -> ProcessReference? {
        do {
            return try ProcessReference(pid: pid)
        } catch {
            // One that is just being reaped has other errors than ESRCH.
            guard error.name != "ESRCH", Files.exists(path: "/proc/\(pid)") else { return nil }
            throw error
        }
    }

    /// A file of a process.
    ///
    /// - Returns: nil if it has ended, if we may not look into it, or if it has more bytes there,
    ///   as no process of ours has.
    static func read(
        _ pid: Int32, _ name: String, byteCountMax: Int = 1 << 20
    ) throws(UvError) -> [UInt8]? {
        do {
            return try Files.read(path: "/proc/\(pid)/\(name)", byteCountMax: byteCountMax)
        } catch { return try absent(pid, error) }
    }

    /// The names in a directory of a process.
    ///
    /// - Returns: as of ``read(_:_:)``.
    static func list(_ pid: Int32, _ name: String) throws(UvError) -> [String]? {
        do {
            return try Files.list(path: "/proc/\(pid)/\(name)")
        } catch { return try absent(pid, error) }
    }

    private static func absent<Value>(_ pid: Int32, _ error: UvError) throws(UvError) -> Value? {
        let isExpected = ["ENOENT", "ESRCH", "EACCES", "EPERM", "EFBIG"].contains(error.name)
        guard !isExpected, Files.exists(path: "/proc/\(pid)") else { return nil }
        throw error
    }
}
