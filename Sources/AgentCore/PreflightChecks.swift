// The checks of Preflight's table, in its order.

extension Preflight {
    /// Kept free beyond what a second process needs.
    public static let roomMarginBytes: UInt64 = 64 << 20
    static let threadMargin = 16
    static let descriptorMargin = 32

    /// Devices of the host that a guest drives itself.
    static let passedThrough = [
        "vfio-", "usb-host", "scsi-generic", "scsi-block", "pci-assign", "xen-pci-passthrough",
    ]
    /// Formats for which QEMU keeps more than the file's contents in its own memory.
    static let unsupportedFormats: Set<String> = [
        "vmdk", "vdi", "vhdx", "vpc", "qcow", "qed", "parallels", "bochs", "cloop", "dmg", "vvfat",
    ]

    static func monitor(_ facts: PreflightFacts) -> [PreflightFinding] {
        guard let problem = facts.monitorProblem else { return [] }
        return [
            PreflightFinding(
                .monitor, .blocks, problem: problem,
                advice: "disconnect whoever uses it, or find out why QEMU hangs")
        ]
    }

    static func memory(_ facts: PreflightFacts) -> [PreflightFinding] {
        var found: [PreflightFinding] = []
        for backend in facts.backends where !backend.isShared {
            found.append(
                PreflightFinding(
                    .memory, .blocks,
                    problem: "\(backend.byteCount >> 20) MiB of RAM (\(backend.id)) are not "
                        + "shared and would have to be copied",
                    advice: "give the backend share=on and a file, and start the guest afresh"))
        }
        for backend in facts.backends where backend.isShared {
            guard let type = backend.type, type != "memory-backend-file" else { continue }
            found.append(
                PreflightFinding(
                    .backend, .blocks,
                    problem: "RAM \(backend.id) is a \(type), which a second QEMU cannot open",
                    advice: "make it a memory-backend-file with share=on, and start the guest "
                        + "afresh"))
        }
        for backend in facts.backends {
            guard let path = backend.path, let state = facts.ramFiles[backend.id], state != .same
            else { continue }
            found.append(
                PreflightFinding(
                    .ramfile, .blocks,
                    problem: "RAM \(backend.id): \(text(state, path)), so that a new QEMU would "
                        + "not find the guest's memory",
                    advice: state == .unreadable || state == .unwritable
                        ? "let the agent's user open it"
                        : "migrate the guest to another host, or start it afresh"))
        }
        return found
    }

    static func devices(_ facts: PreflightFacts) -> [PreflightFinding] {
        var found = facts.blockers.map {
            PreflightFinding(
                .blocker, .blocks, problem: "QEMU says: \($0)",
                advice: "remove that device or feature and start the guest afresh")
        }
        var seen: Set<String> = []
        for type in facts.deviceTypes where seen.insert(type).inserted {
            guard passedThrough.contains(where: { type.hasPrefix($0) }) else { continue }
            found.append(
                PreflightFinding(
                    .passthrough, .blocks,
                    problem: "a device of the host is passed through (\(type))",
                    advice: "unplug it with device_del, or use a paravirtual device instead"))
        }
        return found
    }

    /// Devices that came or went while the guest ran, which no command line has.
    static func hotPlug(_ facts: PreflightFacts) -> [PreflightFinding] {
        guard let new = facts.newDeviceTypes else { return [] }
        func count(_ types: [String]) -> [String: Int] {
            Dictionary(types.map { ($0, 1) }, uniquingKeysWith: +)
        }
        let running = count(facts.deviceTypes)
        let waiting = count(new)
        let types = Set(running.keys).union(waiting.keys).sorted()
        return types.compactMap { type in
            let more = running[type, default: 0] - waiting[type, default: 0]
            guard more != 0 else { return nil }
            return PreflightFinding(
                .hotplug, .blocks,
                problem: "a device of type \(type) was \(more > 0 ? "added" : "removed") while the "
                    + "guest ran, and a new QEMU would not know of it",
                advice: more > 0
                    ? "unplug it with device_del, or add it to what the guest is started with"
                    : "remove it from what the guest is started with, and start the guest afresh")
        }
    }

    /// What somebody else than the agent has written: a whole command line, or further arguments.
    static func commandLine(_ facts: PreflightFacts) -> [PreflightFinding] {
        facts.commandLineProblems.map {
            PreflightFinding(
                .commandline, .blocks, problem: "its QEMU cannot be started a second time: \($0)",
                advice: "change how it is started; until then it can be paused, not handed over")
        }
    }

    static func images(_ facts: PreflightFacts) -> [PreflightFinding] {
        var found: [PreflightFinding] = []
        for isBacking in [false, true] {
            for image in facts.images where image.isBacking == isBacking && image.state != .same {
                found.append(
                    PreflightFinding(
                        isBacking ? .backing : .image, .blocks,
                        problem: text(image.state, image.path),
                        advice: advice(image.state)))
            }
        }
        var seen: Set<String> = []
        for format in facts.imageFormats where seen.insert(format).inserted {
            guard unsupportedFormats.contains(format) else { continue }
            found.append(
                PreflightFinding(
                    .format, .blocks, problem: "images of format \(format) cannot change hands",
                    advice: "convert it to qcow2 or raw with `qemu-img convert`"))
        }
        for image in facts.images {
            for holder in image.foreignLocks {
                found.append(
                    PreflightFinding(
                        .lock, .blocks, problem: "\(holder) holds a lock on \(image.path)",
                        advice: "end that process, or wait for it"))
            }
        }
        return found
    }

    private static func text(_ state: PreflightFacts.FileState, _ path: String) -> String {
        switch state {
        case .same: "\(path) is fine"
        case .missing: "\(path) is not there any more"
        case .replaced: "\(path) is another file than the one that QEMU has open"
        case .unreadable: "\(path) cannot be read by the agent"
        case .unwritable: "\(path) cannot be written by the agent"
        }
    }

    private static func advice(_ state: PreflightFacts.FileState) -> String {
        switch state {
        case .unreadable, .unwritable: "let the agent's user open it"
        default:
            "put the file back that QEMU has open (/proc/PID/fd has it), or shut the guest down"
        }
    }

    static func host(_ facts: PreflightFacts) -> [PreflightFinding] {
        var found: [PreflightFinding] = []
        if let used = facts.privateBytes, let available = facts.availableBytes {
            let needed = used + roomMarginBytes
            if available < needed {
                found.append(
                    PreflightFinding(
                        .room, .blocks,
                        problem: "a second QEMU needs \(needed >> 20) MiB besides the guest's RAM, "
                            + "and \(available >> 20) MiB are available",
                        advice: "free memory on this host"))
            }
        }
        found += network(taps: facts.taps)
        if let room = facts.threadRoom, let used = facts.threadCount, room < used + threadMargin {
            found.append(
                PreflightFinding(
                    .pids, .blocks,
                    problem: "a second QEMU needs \(used + threadMargin) threads, and "
                        + "\(max(0, room)) more are allowed",
                    advice: "raise pids.max of the agent's cgroup, or kernel.threads-max and "
                        + "kernel.pid_max"))
        }
        if let room = facts.descriptorRoom {
            let needed = (facts.descriptorCount ?? 0) + descriptorMargin
            if room < needed {
                found.append(
                    PreflightFinding(
                        .descriptors, .blocks,
                        problem: "a second QEMU needs \(needed) descriptors, and \(max(0, room)) "
                            + "more are allowed",
                        advice: "raise the agent's open-files limit (LimitNOFILE), or fs.file-max"))
            }
        }
        return found
    }

    /// Flags of <linux/if_tun.h>.
    private static let multiQueue: UInt32 = 0x0100
    private static let virtioHeader: UInt32 = 0x4000

    private static func network(taps: [PreflightFacts.TapInterface]) -> [PreflightFinding] {
        taps.flatMap { tap in
            var found: [PreflightFinding] = []
            if tap.flags & multiQueue == 0 {
                found.append(
                    PreflightFinding(
                        .tap, .blocks, problem: "\(tap.name) has a single queue",
                        advice: "create it with `ip tuntap add \(tap.name) mode tap multi_queue`"))
            }
            if tap.flags & virtioHeader != 0 {
                found.append(
                    PreflightFinding(
                        .tap, .blocks,
                        problem: "\(tap.name) has virtio-net headers (vnet_hdr), and a second QEMU "
                            + "would cut the first one off",
                        advice: "open it without IFF_VNET_HDR"))
            }
            return found
        }
    }

    static func guestAgent(_ facts: PreflightFacts) -> [PreflightFinding] {
        switch facts.guestAgent {
        case nil, .answers: []
        case .absent:
            [
                PreflightFinding(
                    .guestagent, .warns,
                    problem: "it has no guest agent, so nobody sets its clock after a hold",
                    advice: "install qemu-guest-agent in it and set guestAgent: true")
            ]
        case .silent(let reason):
            [
                PreflightFinding(
                    .guestagent, .warns,
                    problem: "\(reason), so its clock would stay behind after a hold",
                    advice: "start qemu-guest-agent in it, and keep other programs off its socket")
            ]
        }
    }
}
