internal import Fleet
internal import Glibc
public import HostConfiguration
internal import UvLoop

/// What can only be known on the host itself: whether the things that its file names are there.
public enum HostChecks {
    /// The longest path of a Unix socket: `sun_path` less its zero.
    public static let socketPathByteCountMax = 107

    /// Looks at everything and starts nothing.
    ///
    /// - Parameters:
    ///   - host: a checked file.
    ///   - fileName: as in the problems that parsing gave.
    ///   - includesBridges: also those that a guest needs when it is started. One that runs may be without
    ///     for a while, and then its agent has to start all the same.
    ///   - locate: line and column of a place such as `guests[1].disks[0].path`, if known.
    /// - Returns: every problem, in the order of the file's parts; empty if the host can be run.
    public static func problems(
        in host: HostFile, fileName: String, includesBridges: Bool = false,
        locate: (String) -> (line: Int, column: Int)? = { _ in nil }
    ) -> [Problem] {
        var found: [Problem] = []
        func add(_ path: String, _ message: String, _ advice: String) {
            let place = locate(path) ?? (1, 1)
            found.append(
                Problem(
                    file: fileName, line: place.line, column: place.column, path: path,
                    message: message, advice: advice))
        }
        for (key, path) in [
            ("runDirectory", host.runDirectory), ("stateDirectory", host.stateDirectory),
            ("memoryDirectory", host.memoryDirectory),
        ] {
            if let problem = directoryProblem(path) {
                add(key, "`\(key)`: \(problem)", "name a directory that the agent may write to")
            }
        }
        let hypervisor = host.hypervisor
        if Files.kind(path: hypervisor.path) != .regular {
            add("hypervisor.path", "there is no QEMU at \(hypervisor.path)", "correct the path")
        } else if !Files.isExecutable(path: hypervisor.path) {
            add("hypervisor.path", "\(hypervisor.path) is not executable", "correct its mode")
        }
        for (index, path) in hypervisor.dataDirectories.enumerated()
        where Files.kind(path: path) != .directory {
            add(
                "hypervisor.dataDirectories[\(index)]", "there is no directory \(path)",
                "correct the path")
        }
        if let path = hypervisor.moduleDirectory, Files.kind(path: path) != .directory {
            add("hypervisor.moduleDirectory", "there is no directory \(path)", "correct the path")
        }
        for (index, guest) in host.guests.enumerated() {
            // A part that is not written has the place of the nearest around it.
            let isList =
                locate("guests[\(index)].probe").map { $0 == locate("guests[\(index)]") ?? (0, 0) }
                ?? true
            for (number, probe) in guest.probes.enumerated() {
                guard let (key, problem) = probeProblem(probe) else { continue }
                let place = isList ? "probes[\(number)]" : "probe"
                add(
                    "guests[\(index)].\(place).\(key)", "guest \(guest.id): \(problem)",
                    "install it, or correct the probe")
            }
            for problem in guestProblems(guest, host)
                + (includesBridges ? bridgeProblems(guest) : [])
            {
                add("guests[\(index)]\(problem.path)", problem.message, problem.advice)
            }
        }
        let total = host.guests.reduce(UInt64(0)) { $0 &+ $1.memoryBytes }
        if total > HostFacts.memoryBytes {
            add(
                "guests",
                "the guests' memory is \(total >> 20) MiB in all, and the host has "
                    + "\(HostFacts.memoryBytes >> 20) MiB", "give them less, or move some elsewhere"
            )
        }
        return found
    }

    private struct Found {
        var path: String
        var message: String
        var advice: String
    }

    /// Of what `ip link set … master` would not take. An Open vSwitch bridge is no such: its taps are not on
    /// one by their host file.
    private static func bridgeProblems(_ guest: GuestConfiguration) -> [Found] {
        guest.nics.enumerated().compactMap { index, nic in
            guard case .tap(_, let bridge?, _) = nic else { return nil }
            let isThere = if_nametoindex(bridge) != 0
            guard !isThere || !isBridge(bridge) else { return nil }
            return Found(
                path: ".nics[\(index)].bridge",
                message: "guest \(guest.id): "
                    + (isThere ? "\(bridge) is no bridge" : "there is no bridge \(bridge)"),
                advice: isThere
                    ? "name a bridge of the kernel's own, or leave `bridge` out and connect the tap "
                        + "yourself" : "make it, as with `ip link add \(bridge) type bridge`")
        }
    }

    /// Also what cannot be told: sysfs may show another network namespace than the process is in.
    private static func isBridge(_ name: String) -> Bool {
        let place = "/sys/class/net/\(name)"
        guard let bytes = try? Files.read(path: "\(place)/ifindex", byteCountMax: 64),
            String(decoding: bytes, as: UTF8.self) == "\(if_nametoindex(name))\n"
        else { return true }
        return Files.kind(path: "\(place)/bridge") == .directory
    }

    private static func guestProblems(_ guest: GuestConfiguration, _ host: HostFile) -> [Found] {
        var found: [Found] = []
        for (key, path) in [
            ("kernel", guest.kernel), ("initrd", guest.initrd), ("firmware", guest.firmware),
        ] {
            guard let path else { continue }
            if !isFile(path) {
                found.append(
                    Found(
                        path: ".\(key)", message: "guest \(guest.id): there is no \(key) \(path)",
                        advice: "correct the path"))
            }
        }
        for (index, disk) in guest.disks.enumerated() where !isFile(disk.path) {
            found.append(
                Found(
                    path: ".disks[\(index)].path",
                    message: "guest \(guest.id): there is no disk \(disk.path)",
                    advice: "create it, or correct the path"))
        }
        if guest.memoryBytes > HostFacts.memoryBytes {
            found.append(
                Found(
                    path: ".memory",
                    message: "guest \(guest.id): \(guest.memoryBytes >> 20) MiB is more than the "
                        + "host's \(HostFacts.memoryBytes >> 20) MiB", advice: "give it less"))
        }
        let longest = HostPaths(
            run: host.runDirectory, state: host.stateDirectory, memory: host.memoryDirectory
        ).generation(guest.id, 99_999).guardMonitor
        if longest.utf8.count > socketPathByteCountMax {
            found.append(
                Found(
                    path: ".id",
                    message: "guest \(guest.id): its socket paths would have "
                        + "\(longest.utf8.count) bytes, and \(socketPathByteCountMax) is the most",
                    advice: "choose a shorter runDirectory or id"))
        }
        return found
    }

    /// - Returns: the key of the host file and what is wrong with it, or nil.
    private static func probeProblem(_ probe: Probe) -> (key: String, problem: String)? {
        switch probe.target {
        case .tcp: nil
        case .http:
            Files.isExecutable(path: HealthProbes.curl)
                ? nil : ("http", "\(HealthProbes.curl), which asks by HTTP, is not there")
        case .command(let path, _):
            Files.kind(path: path) == .regular && Files.isExecutable(path: path)
                ? nil : ("command", "there is no executable \(path)")
        }
    }

    private static func isFile(_ path: String) -> Bool {
        switch Files.kind(path: path) {
        case .regular, .blockDevice: Files.isReadable(path: path)
        default: false
        }
    }

    /// - Returns: nil if the directory can be used, or can be made.
    private static func directoryProblem(_ path: String) -> String? {
        var place = path
        while Files.kind(path: place) == nil, let slash = place.lastIndex(of: "/") {
            place = slash == place.startIndex ? "/" : String(place[..<slash])
        }
        guard Files.kind(path: place) == .directory else { return "\(place) is not a directory" }
        guard Files.isWritableDirectory(path: place) else {
            return place == path ? "\(path) is not writable" : "\(path) cannot be made in \(place)"
        }
        return nil
    }
}
