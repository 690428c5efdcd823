internal import AgentCore
internal import Fleet
internal import QMP
internal import UvLoop

/// What steps have installed on this host besides QEMU: a file for each component, with its version.
struct SoftwareRecords {
    let paths: HostPaths

    /// In ascending order of component.
    func read() -> [InstalledSoftware] {
        let names = ((try? Files.list(path: paths.software)) ?? []).filter { !$0.hasSuffix(".new") }
        return names.sorted().compactMap { name in
            guard let component = Component(name),
                let bytes = try? Files.read(
                    path: "\(paths.software)/\(name)", byteCountMax: Limits.reasonByteCountMax)
            else { return nil }
            return InstalledSoftware(
                component: component, version: String(decoding: bytes, as: UTF8.self))
        }
    }

    /// Durable, so that a host that has been restarted is not changed a second time.
    func write(_ software: InstalledSoftware) throws(UvError) {
        try Files.writeAtomically(
            path: "\(paths.software)/\(software.component)", bytes: Array(software.version.utf8),
            durable: true)
    }

    /// Nobody knows what is installed.
    func forget(_ component: Component) {
        try? Files.remove(path: "\(paths.software)/\(component)")
    }
}

/// What this host has needed for the parts of holds. Losing it costs some caution, so it is never fsynced.
struct PartsRecord {
    let path: String

    func read() -> MeasuredParts {
        guard let bytes = try? Files.read(path: path, byteCountMax: 65_536),
            let value = try? JSON.parse(bytes, byteCountMax: 65_536)
        else { return MeasuredParts() }
        func list(_ name: String) -> [Int64] { (value[name]?.array ?? []).compactMap(\.integer) }
        return MeasuredParts(
            pause: list("pause"), resume: list("resume"), handOver: list("handOver"))
    }

    func write(_ parts: MeasuredParts) {
        func list(_ values: [Int64]) -> JSON { .array(values.map { .integer($0) }) }
        let value: JSON = [
            "pause": list(parts.pause), "resume": list(parts.resume),
            "handOver": list(parts.handOver),
        ]
        try? Files.writeAtomically(path: path, bytes: value.bytes, durable: false)
    }
}
