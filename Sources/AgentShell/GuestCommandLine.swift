internal import AgentCore
internal import Fleet
internal import HostConfiguration

/// QEMU's arguments for one generation of a guest. Both sides of a hand-over get the same devices
/// in the same order, so that their states fit.
struct GuestCommandLine {
    let guest: GuestConfiguration
    let accelerator: String
    let hypervisor: Hypervisor
    let paths: GenerationPaths
    let ramPath: String
    /// One number for each tap NIC, as the child finds it.
    let tapDescriptors: [Int32]
    /// Whether it is to wait for a guest instead of starting one.
    let isWaiting: Bool

    /// Without the program's own name.
    func arguments() -> [String] {
        var list = [
            "-name", guest.id.rawValue, "-nodefaults", "-no-user-config", "-display", "none",
            "-machine", "\(guest.machine),accel=\(accelerator),memory-backend=ram0",
            "-cpu", guest.cpu, "-smp", "\(guest.vcpuCount)", "-m", "\(guest.memoryBytes >> 20)M",
            "-object",
            "memory-backend-file,id=ram0,size=\(guest.memoryBytes),mem-path=\(QEMUValue.escape(ramPath)),share=on",
            "-rtc", "base=utc,clock=host",
        ]
        for directory in hypervisor.dataDirectories { list += ["-L", directory] }
        list += boot()
        list += Self.monitor(Self.agentMonitor, paths.monitor)
        list += Self.monitor(Self.guardMonitor, paths.guardMonitor)
        if guest.guestAgent { list += guestAgent() }
        for (index, disk) in guest.disks.enumerated() { list += block(disk, index) }
        var taps = tapDescriptors[...]
        for (index, nic) in guest.nics.enumerated() { list += network(nic, index, &taps) }
        list += guest.arguments
        if isWaiting { list += Self.waiting }
        return list
    }

    /// `-S` as a safety belt: whatever arrives, nothing executes before the agent's `cont`.
    static let waiting = ["-incoming", "defer", "-S"]
    /// QEMU's names of the two monitors.
    static let agentMonitor = "fermata-agent"
    static let guardMonitor = "fermata-guard"

    private func boot() -> [String] {
        var list: [String] = []
        if let firmware = guest.firmware { list += ["-bios", firmware] }
        if let kernel = guest.kernel { list += ["-kernel", kernel] }
        if let initrd = guest.initrd { list += ["-initrd", initrd] }
        if let commandLine = guest.commandLine { list += ["-append", commandLine] }
        if !guest.arguments.contains("-serial") {
            // Of a fixed size, so that a chatty guest cannot fill the run directory.
            list += ["-chardev", "ringbuf,id=console0,size=65536", "-serial", "chardev:console0"]
        }
        return list
    }

    static func monitor(_ id: String, _ path: String) -> [String] {
        [
            "-chardev", "socket,id=\(id),path=\(QEMUValue.escape(path)),server=on,wait=off",
            "-mon", "chardev=\(id),mode=control",
        ]
    }

    private func guestAgent() -> [String] {
        let path = QEMUValue.escape(paths.guestAgent)
        return [
            "-device", "virtio-serial-pci,id=serial0",
            "-chardev", "socket,id=ga0,path=\(path),server=on,wait=off",
            "-device", "virtserialport,bus=serial0.0,chardev=ga0,name=org.qemu.guest_agent.0",
        ]
    }

    private func block(_ disk: Disk, _ index: Int) -> [String] {
        let readOnly = disk.readOnly ? "on" : "off"
        return [
            "-blockdev",
            "driver=file,node-name=file\(index),filename=\(QEMUValue.escape(disk.path)),read-only=\(readOnly)",
            "-blockdev",
            "driver=\(disk.format.rawValue),node-name=disk\(index),file=file\(index),read-only=\(readOnly)",
            "-device", "virtio-blk-pci,id=blk\(index),drive=disk\(index)",
        ]
    }

    private func network(_ nic: NIC, _ index: Int, _ taps: inout ArraySlice<Int32>) -> [String] {
        var list: [String] = []
        switch nic {
        case .tap:
            list += ["-netdev", "tap,id=net\(index),fd=\(taps.popFirst() ?? -1)"]
        case .user(let forwards, _):
            // A waiting process must not take the ports away from the one that still runs.
            let rules = isWaiting ? "" : forwards.map { ",hostfwd=tcp:\($0)" }.joined()
            list += ["-netdev", "user,id=net\(index)\(rules)"]
        }
        // Without its boot ROM less than half of the state has to move.
        return list + [
            "-device", "virtio-net-pci,id=nic\(index),netdev=net\(index),mac=\(nic.mac),romfile=",
        ]
    }
}
