internal import Fleet
internal import HostConfiguration
internal import QMP
internal import UvLoop

/// What a QEMU that was started by somebody else tells of itself; of our own guests the file says it.
struct AdoptedFacts {
    var version = ""
    var memoryBytes: UInt64 = 0
    var vcpuCount: UInt32 = 1
    /// Images that are files of the host, for flushing them before a hold.
    var disks: [Disk] = []

    /// - Parameter completion: called once; nil if its monitor fails.
    static func ask(_ generation: Generation, _ completion: @escaping (AdoptedFacts?) -> Void) {
        var facts = AdoptedFacts()
        let commands: [Command] = [
            .queryVersion, .queryMemorySizeSummary, .queryCPUsFast, .queryNamedBlockNodes,
        ]
        generation.send(commands) { index, result in
            guard case .success(let value) = result else {
                if index == commands.count - 1 { completion(nil) }
                return
            }
            switch index {
            case 0: facts.version = VersionReply(value)?.description ?? ""
            case 1:
                facts.memoryBytes = memoryBytes(value)
            case 2: facts.vcpuCount = UInt32(max(1, value.array?.count ?? 1))
            default:
                facts.disks = (value.array ?? []).compactMap(disk)
                completion(facts)
            }
        }
    }

    /// What QEMU says of its RAM; 0 if that is no number of bytes.
    static func memoryBytes(_ summary: JSON) -> UInt64 {
        let parts = ["base-memory", "plugged-memory"].map { summary[$0]?.integer ?? 0 }
        let (sum, isTooLarge) = parts[0].addingReportingOverflow(parts[1])
        return isTooLarge ? 0 : UInt64(max(0, sum))
    }

    private static func disk(_ node: JSON) -> Disk? {
        guard node["drv"]?.string == "file", let path = node["image"]?["filename"]?.string,
            path.hasPrefix("/")
        else { return nil }
        return Disk(path: path, format: .raw, readOnly: node["ro"]?.bool ?? false)
    }

    func hypervisor(of generation: Generation) -> Hypervisor {
        let path = try? Files.link(pathOfSymlink: "/proc/\(generation.process.pid)/exe")
        return Hypervisor(version: version, path: path ?? "")
    }
}
