import Fleet

/// What only one guest, disk or NIC of a host can have, and where it was seen first.
struct UsedResources {
    var guests: [GuestID: Position] = [:]
    /// Of adopted guests.
    var monitors: [String: Position] = [:]
    var taps: [String: Position] = [:]
    /// Whether the file gives it, instead of its being derived.
    var macs: [MACAddress: (position: Position, isGiven: Bool)] = [:]
    /// Whether the first is read-only, too.
    var disks: [String: (position: Position, readOnly: Bool)] = [:]
    /// By port, since an address may stand for all.
    var forwards: [UInt16: [(address: String, position: Position)]] = [:]
    /// Of guests, in canonical form.
    var addresses: [String: Position] = [:]
}

extension Reader {
    private static let guestKeys = [
        "id", "set", "updateDomain", "memory", "vcpus", "machine", "cpu", "kernel", "initrd",
        "commandLine", "firmware", "disks", "nics", "arguments", "guestAgent", "probe",
        "probes", "adopt", "addresses",
    ]
    /// What can be said of a guest whose QEMU somebody else starts.
    private static let adoptedKeys: Set<String> = [
        "id", "set", "updateDomain", "guestAgent", "probe", "probes", "adopt", "addresses",
    ]
    /// QEMU's longest option line; far below the kernel's limit for one argument.
    private static let textByteCountMax = 65_536

    func guest(
        _ value: Value, sets: [SetDefinition], runDirectory: String?, used: inout UsedResources
    ) -> GuestConfiguration? {
        guard
            let fields = fields(
                value, known: Self.guestKeys, required: ["id"],
                example: "{id: db-0, memory: 256MiB}")
        else { return nil }
        let id: GuestID? = fields["id"].flatMap { name($0, example: "db-0") }
        if let id, let idValue = fields["id"] {
            if let first = used.guests[id] {
                add(
                    idValue, "is \(quoted("\(id)")), as that of the guest in line \(first.line)",
                    "give each guest an id of its own")
            } else {
                used.guests[id] = idValue.position
            }
            checkSocketPath(idValue, id, runDirectory)
        }
        let (set, updateDomain) = placement(fields, sets)
        let addresses = addresses(fields, &used)
        if let monitor = fields["adopt"] {
            var guest = adopted(fields, monitor, id, set, updateDomain, &used)
            guest?.addresses = addresses
            return guest
        }
        if fields["memory"] == nil {
            add(
                value.position, "\(value.path).memory", "\(value.title) has no `memory`",
                "add it, as in `{id: db-0, memory: 256MiB}`")
        }
        let memoryBytes = fields["memory"].flatMap {
            size($0, in: 1 << 20...1 << 44, multipleOf: 1 << 20)
        }
        // QEMU's q35 takes 288 at most; 255 is the most without an x2APIC.
        let vcpuCount = fields["vcpus"].map { integer($0, in: 1...255) } ?? 1
        let machine = fields["machine"].map { word($0, example: "q35") }
        let cpu = fields["cpu"].map { word($0, example: "max") }
        let boot = boot(fields)
        let disks = entries(fields, "disks", example: "[{path: /disk.raw, format: raw}]") {
            disk($0, &used)
        }
        var index = -1
        let nics = entries(fields, "nics", example: "[{tap: fm-db0}]") { value -> NIC? in
            index += 1
            return nic(value, guest: id, index: index, &used)
        }
        let arguments = fields.nonEmpty("arguments").map { self.arguments($0) } ?? []
        let guestAgent = fields["guestAgent"].map { bool($0) } ?? true
        let probes = probes(fields)
        guard let id, let memoryBytes, let vcpuCount, let arguments, let guestAgent else {
            return nil
        }
        return GuestConfiguration(
            id: id, set: set, updateDomain: updateDomain, memoryBytes: memoryBytes,
            vcpuCount: UInt32(vcpuCount),
            machine: (machine ?? nil) ?? GuestConfiguration.machineDefault,
            cpu: (cpu ?? nil) ?? GuestConfiguration.cpuDefault, kernel: boot.kernel,
            initrd: boot.initrd, commandLine: boot.commandLine, firmware: boot.firmware,
            disks: disks, nics: nics, arguments: arguments, guestAgent: guestAgent,
            probes: probes, addresses: addresses)
    }

    /// A guest whose QEMU somebody else starts.
    private func adopted(
        _ fields: Fields, _ value: Value, _ id: GuestID?, _ set: SetID?,
        _ updateDomain: UpdateDomain?, _ used: inout UsedResources
    ) -> GuestConfiguration? {
        let others = fields.entries.filter { !Self.adoptedKeys.contains($0.key) }
        for (_, other) in others.sorted(by: { $0.key < $1.key }) {
            add(
                other, "is given for a guest that is adopted",
                "remove it: it is found from the QEMU that runs")
        }
        let monitor = path(value)
        if let monitor {
            if let first = used.monitors[monitor] {
                add(
                    value, "is \(quoted(monitor)), as that of the guest in line \(first.line)",
                    "name the monitor of this guest's QEMU")
            } else {
                used.monitors[monitor] = value.position
            }
            if monitor.utf8.count > 107 {
                add(
                    value, "has \(monitor.utf8.count) bytes, and a socket's path has 107 at most",
                    "start QEMU with a shorter one")
            }
        }
        let guestAgent = fields["guestAgent"].map { bool($0) } ?? true
        let probes = probes(fields)
        guard let id, let monitor, let guestAgent else { return nil }
        return GuestConfiguration(
            id: id, set: set, updateDomain: updateDomain, adopt: monitor, memoryBytes: 0,
            guestAgent: guestAgent, probes: probes)
    }

    /// By which a notifier knows who asks: two guests with one would read each other's notices.
    private func addresses(_ fields: Fields, _ used: inout UsedResources) -> [String] {
        guard let value = fields.nonEmpty("addresses") else { return [] }
        let values = list(value, example: "[10.0.0.5, \"fd00::5\"]") ?? []
        if values.count > Limits.guestAddressesMax {
            add(
                value, "has \(values.count) addresses",
                "name at most \(Limits.guestAddressesMax)")
        }
        var found: [String] = []
        for value in values {
            guard let text = text(value, example: "10.0.0.5") else { continue }
            guard let address = IPAddress(text) else {
                add(
                    value, "is \(quoted(text)), which is no IP address",
                    "write an IPv4 or IPv6 address, such as 10.0.0.5 or \"fd00::5\"")
                continue
            }
            if let first = used.addresses[address.description] {
                add(
                    value, "is \(quoted(text)), as in line \(first.line)",
                    "give each guest addresses of its own")
                continue
            }
            used.addresses[address.description] = value.position
            found.append(address.description)
        }
        return found
    }

    /// The kernel takes 107 bytes for a socket's path; the longest of a guest is
    /// `RUN/g/GUEST/GENERATION/guard`, with room for a million generations.
    private func checkSocketPath(_ value: Value, _ id: GuestID, _ runDirectory: String?) {
        guard let runDirectory else { return }
        let byteCount = "\(runDirectory)/g/\(id)/999999/guard".utf8.count
        guard byteCount > 107 else { return }
        add(
            value, "makes a socket's path of \(byteCount) bytes, and 107 is the most",
            "shorten the id or runDirectory by \(byteCount - 107) characters")
    }

    private func placement(
        _ fields: Fields, _ sets: [SetDefinition]
    ) -> (SetID?, UpdateDomain?) {
        let set: SetID? = fields["set"].flatMap { name($0, example: "db") }
        guard let value = fields["updateDomain"] else { return (set, nil) }
        guard fields["set"] != nil else {
            add(value, "is given without a set", "name the set, or remove the update domain")
            return (nil, nil)
        }
        let count =
            sets.first { $0.id == set }?.updateDomainCount
            ?? (set == nil ? Limits.updateDomainsMax : Limits.updateDomainsDefault)
        guard let number = integer(value, in: 0...Int64(Limits.updateDomainsMax - 1)) else {
            return (set, nil)
        }
        guard number < count else {
            let setName = set.map { "\($0)" } ?? ""
            add(
                value, "is \(number), and set \(setName) has only \(count), from 0 to \(count - 1)",
                "use one of these, or raise updateDomains of the set")
            return (set, nil)
        }
        return (set, UpdateDomain(Int(number)))
    }

    private func boot(
        _ fields: Fields
    ) -> (kernel: String?, initrd: String?, commandLine: String?, firmware: String?) {
        let kernel = fields["kernel"].flatMap { path($0) }
        for name in ["initrd", "commandLine"] {
            guard let value = fields[name], fields["kernel"] == nil else { continue }
            add(value, "is given without a kernel", "name the kernel, or remove this")
        }
        return (
            kernel, fields["initrd"].flatMap { path($0) },
            fields["commandLine"].flatMap { line($0) }, fields["firmware"].flatMap { path($0) }
        )
    }

    /// A list that may be missing; what cannot be read has added its problems.
    private func entries<Entry>(
        _ fields: Fields, _ name: String, example: String, _ read: (Value) -> Entry?
    ) -> [Entry] {
        guard let value = fields.nonEmpty(name) else { return [] }
        return list(value, example: example)?.compactMap(read) ?? []
    }

    // MARK: Disks

    private func disk(_ value: Value, _ used: inout UsedResources) -> Disk? {
        guard
            let fields = fields(
                value, known: ["path", "format", "readOnly"], required: ["path", "format"],
                example: "{path: /disk.qcow2, format: qcow2}")
        else { return nil }
        let path = fields["path"].flatMap { self.path($0) }
        let readOnly = fields["readOnly"].map { bool($0) } ?? false
        var format: Disk.Format?
        if let value = fields["format"], let text = text(value, example: "qcow2") {
            format = Disk.Format(rawValue: text)
            if format == nil { add(value, "is \(quoted(text))", "use `raw` or `qcow2`") }
        }
        if let path, let value = fields["path"] {
            let isReadOnly = readOnly ?? false
            if let first = used.disks[path] {
                if !first.readOnly || !isReadOnly {
                    add(
                        value, "is \(quoted(path)), as the disk in line \(first.position.line)",
                        "give each its own file, or make both read-only")
                }
            } else {
                used.disks[path] = (value.position, isReadOnly)
            }
        }
        guard let path, let format, let readOnly else { return nil }
        return Disk(path: path, format: format, readOnly: readOnly)
    }

    // MARK: NICs

    private func nic(
        _ value: Value, guest: GuestID?, index: Int, _ used: inout UsedResources
    ) -> NIC? {
        guard
            let fields = fields(
                value, known: ["tap", "bridge", "mac", "user"],
                example: "{tap: fm-db0, bridge: br0}")
        else { return nil }
        let mac = mac(value, fields, guest, index, &used)
        switch (fields["tap"], fields["user"]) {
        case (let tap?, nil):
            let name = interfaceName(tap)
            let bridge = fields["bridge"].map { interfaceName($0) }
            if let name {
                if let first = used.taps[name] {
                    add(
                        tap, "is \(quoted(name)), as the tap in line \(first.line)",
                        "give each NIC a tap of its own")
                } else {
                    used.taps[name] = tap.position
                }
                if let bridgeValue = fields["bridge"], bridge == name {
                    add(bridgeValue, "is the tap itself", "name the bridge that it is to join")
                }
            }
            guard let name, let mac else { return nil }
            return .tap(name: name, bridge: bridge ?? nil, mac: mac)
        case (nil, let user?):
            if let bridge = fields["bridge"] {
                add(bridge, "is given for a user-mode NIC", "remove it, or use a tap")
            }
            let forwards = forwards(user, &used)
            guard let forwards, let mac else { return nil }
            return .user(forwards: forwards, mac: mac)
        case (nil, nil):
            add(value, "says neither `tap` nor `user`", "add one of them")
            return nil
        case (_?, let user?):
            add(user, "is given beside a tap", "remove one of the two")
            return nil
        }
    }

    private func mac(
        _ value: Value, _ fields: Fields, _ guest: GuestID?, _ index: Int,
        _ used: inout UsedResources
    ) -> MACAddress? {
        var mac = guest.map { MACAddress(derivedFrom: $0, index: index) }
        if let macValue = fields["mac"] {
            guard let text = text(macValue, example: "52:54:00:00:00:01") else { return nil }
            mac = MACAddress(text)
            if mac == nil {
                add(
                    macValue, "is \(quoted(text)), which is no address of one NIC",
                    "write six bytes like `\"52:54:00:00:00:01\"`, the first one even")
            }
        }
        guard let mac else { return nil }
        let isGiven = fields["mac"] != nil
        if let first = used.macs[mac] {
            // Two derived ones are the same only for one guest that is there twice: told already.
            if isGiven || first.isGiven {
                add(
                    fields["mac"] ?? value,
                    "has \(quoted("\(mac)")), as in line \(first.position.line)",
                    "give each NIC an address of its own")
            }
        } else {
            used.macs[mac] = (value.position, isGiven)
        }
        return mac
    }

    private func interfaceName(_ value: Value) -> String? {
        guard let text = text(value, example: "fm-db0") else { return nil }
        guard Words.isInterfaceName(text) else {
            let tooLong = text.utf8.count > 15 ? ", with \(text.utf8.count) bytes" : ""
            add(
                value, "is \(quoted(text))\(tooLong)",
                "use 1 to 15 bytes, without spaces and the signs / : , %")
            return nil
        }
        return text
    }

    private func forwards(_ value: Value, _ used: inout UsedResources) -> [PortForward]? {
        guard !value.isNull else { return [] }
        let example = "{forwards: [\"127.0.0.1:17000-:7000\"]}"
        guard let fields = fields(value, known: ["forwards"], example: example) else { return nil }
        return entries(fields, "forwards", example: "[\"127.0.0.1:17000-:7000\"]") {
            forward($0, &used)
        }
    }

    private func forward(_ value: Value, _ used: inout UsedResources) -> PortForward? {
        guard let text = text(value, example: "127.0.0.1:17000-:7000") else { return nil }
        guard let forward = Words.portForward(text) else {
            add(
                value, "is \(quoted(text)), which is no port forward",
                "write it as HOSTADDRESS:PORT-GUESTADDRESS:PORT, such as `127.0.0.1:17000-:7000`")
            return nil
        }
        let everywhere = ["", "0.0.0.0"]
        let first = used.forwards[forward.hostPort]?.first {
            $0.address == forward.hostAddress || everywhere.contains($0.address)
                || everywhere.contains(forward.hostAddress)
        }
        if let first {
            add(
                value,
                "takes port \(forward.hostPort) of the host, as does line \(first.position.line)",
                "use another port")
        } else {
            used.forwards[forward.hostPort, default: []].append(
                (forward.hostAddress, value.position))
        }
        return forward
    }

    // MARK: The rest

    /// A word of QEMU's, possibly with options behind a comma.
    private func word(_ value: Value, example: String) -> String? {
        guard let text = text(value, example: example) else { return nil }
        guard !text.isEmpty, text.utf8.count <= 255,
            text.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F })
        else {
            add(value, "is \(quoted(text))", "write one word, such as `\(example)`")
            return nil
        }
        return text
    }

    /// Text for one argument of a process.
    func line(_ value: Value) -> String? {
        guard let text = text(value, example: "console=ttyS0") else { return nil }
        guard text.utf8.count <= Self.textByteCountMax else {
            add(
                value, "has \(text.utf8.count) bytes", "keep to \(Self.textByteCountMax)")
            return nil
        }
        // As an escape in quotes. QEMU would get only what stands before it.
        guard !text.utf8.contains(0) else {
            add(value, "is \(quoted(text)), with a NUL in it", "remove `\\0`")
            return nil
        }
        return text
    }

    private func arguments(_ value: Value) -> [String]? {
        guard let values = list(value, example: "[\"-device\", \"virtio-rng-pci\"]") else {
            return nil
        }
        return values.compactMap { value in
            guard let text = line(value) else { return nil }
            let option = text.hasPrefix("--") ? String(text.dropFirst()) : text
            if let advice = Self.reservedOptions[option] {
                add(value, "is \(quoted(text)), which Fermata gives itself", advice)
            }
            return text
        }
    }

    /// Options of QEMU that would contradict those which the agent gives.
    static let reservedOptions: [String: String] = {
        let remove = "remove it"
        var options = [
            "-m": "use `memory`", "-smp": "use `vcpus`", "-cpu": "use `cpu`",
            "-kernel": "use `kernel`", "-initrd": "use `initrd`", "-append": "use `commandLine`",
            "-bios": "use `firmware`", "-accel": "use `accelerator` of the host",
            "-enable-kvm": "use `accelerator` of the host", "-M": "use `machine`",
            "-machine": "use `machine`",
        ]
        for option in [
            "-incoming", "-S", "-qmp", "-qmp-pretty", "-daemonize", "-loadvm", "-snapshot",
            "-mem-path", "-preconfig",
        ] {
            options[option] = remove
        }
        return options
    }()
}
