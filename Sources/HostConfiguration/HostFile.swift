public import Fleet

/// Everything a host's file says, checked, with every default filled in.
///
/// - Source: the host file section of the command line's contract; `host-file.md` for people.
public struct HostFile: Hashable, Sendable {
    public var host: HostID
    /// Absolute path, of a directory that need not survive a reboot: sockets, logs, notes of steps.
    public var runDirectory: String
    /// Absolute path, of a durable directory: accepted token, step in flight, unsent reports.
    public var stateDirectory: String
    /// Absolute path, of the directory with the guests' RAM files.
    public var memoryDirectory: String
    /// QEMU's own word: `kvm`, `tcg`, or both in order of preference, such as `kvm:tcg`.
    public var accelerator: String
    /// What guests start on until a rollout has changed it.
    public var hypervisor: Hypervisor
    /// Only the sets that the file lists, in ascending order of id. Others have
    /// ``Limits/updateDomainsDefault`` update domains, unless another host's file says otherwise.
    public var sets: [SetDefinition]
    /// In the file's order; ids are unique.
    public var guests: [GuestConfiguration]

    public init(
        host: HostID, runDirectory: String, stateDirectory: String, memoryDirectory: String,
        accelerator: String, hypervisor: Hypervisor, sets: [SetDefinition],
        guests: [GuestConfiguration]
    ) {
        self.host = host
        self.runDirectory = runDirectory
        self.stateDirectory = stateDirectory
        self.memoryDirectory = memoryDirectory
        self.accelerator = accelerator
        self.hypervisor = hypervisor
        self.sets = sets
        self.guests = guests
    }

    public static func runDirectoryDefault(_ host: HostID) -> String { "/run/fermata/\(host)" }
    public static func stateDirectoryDefault(_ host: HostID) -> String {
        "/var/lib/fermata/\(host)"
    }
    public static func memoryDirectoryDefault(_ host: HostID) -> String {
        "/dev/shm/fermata-\(host)"
    }
    public static let acceleratorDefault = "kvm:tcg"
}

/// One guest as its host's file describes it.
public struct GuestConfiguration: Hashable, Sendable {
    public var id: GuestID
    public var set: SetID?
    /// Nil lets the leader place it. Never given without ``set``.
    public var updateDomain: UpdateDomain?
    /// Absolute path of the monitor's socket of a QEMU that somebody else starts, and that is taken
    /// over as it runs; nil for a guest that the agent starts. With it, what a QEMU is started with
    /// (memory, disks, NICs, …) is not in the file but found.
    public var adopt: String?
    /// A multiple of 1 MiB; 0 for a guest to be adopted, until it has been found.
    public var memoryBytes: UInt64
    public var vcpuCount: UInt32
    /// QEMU's `-M` word, such as `q35`.
    public var machine: String
    /// QEMU's `-cpu` word, such as `max`.
    public var cpu: String
    /// Absolute path (`-kernel`).
    public var kernel: String?
    /// Absolute path (`-initrd`). Never given without ``kernel``.
    public var initrd: String?
    /// `-append`. Never given without ``kernel``.
    public var commandLine: String?
    /// Absolute path (`-bios`).
    public var firmware: String?
    /// In the order in which the guest sees them.
    public var disks: [Disk]
    /// In the order in which the guest sees them.
    public var nics: [NIC]
    /// Further arguments for QEMU, passed on as they are.
    public var arguments: [String]
    /// Whether the guest runs the QEMU guest agent, on a port that Fermata adds.
    public var guestAgent: Bool
    /// What is asked of the guest before and after a hold, besides its agent.
    public var probes: [Probe]
    /// IP addresses by which a notifier knows that this guest asks, in canonical form.
    public var addresses: [String]

    public init(
        id: GuestID, set: SetID? = nil, updateDomain: UpdateDomain? = nil, adopt: String? = nil,
        memoryBytes: UInt64, vcpuCount: UInt32 = 1,
        machine: String = GuestConfiguration.machineDefault,
        cpu: String = GuestConfiguration.cpuDefault, kernel: String? = nil,
        initrd: String? = nil, commandLine: String? = nil, firmware: String? = nil,
        disks: [Disk] = [], nics: [NIC] = [], arguments: [String] = [], guestAgent: Bool = true,
        probes: [Probe] = [], addresses: [String] = []
    ) {
        self.id = id
        self.set = set
        self.updateDomain = updateDomain
        self.adopt = adopt
        self.memoryBytes = memoryBytes
        self.vcpuCount = vcpuCount
        self.machine = machine
        self.cpu = cpu
        self.kernel = kernel
        self.initrd = initrd
        self.commandLine = commandLine
        self.firmware = firmware
        self.disks = disks
        self.nics = nics
        self.arguments = arguments
        self.guestAgent = guestAgent
        self.probes = probes
        self.addresses = addresses
    }

    public static let machineDefault = "q35"
    public static let cpuDefault = "max"
}

/// A virtio block device backed by a file or a block device of the host.
public struct Disk: Hashable, Sendable {
    public enum Format: String, Hashable, Sendable, CaseIterable {
        case raw
        case qcow2
    }
    /// Absolute path.
    public var path: String
    public var format: Format
    public var readOnly: Bool
    public init(path: String, format: Format, readOnly: Bool = false) {
        self.path = path
        self.format = format
        self.readOnly = readOnly
    }
}

/// A virtio network device and what it is connected to.
public enum NIC: Hashable, Sendable {
    /// A multi-queue tap interface, which the agent creates or attaches to.
    /// `name` has at most 15 bytes; `bridge`, if given, is an interface that the tap joins.
    case tap(name: String, bridge: String?, mac: MACAddress)
    /// QEMU's user-mode network, with TCP ports of the host that lead to the guest.
    case user(forwards: [PortForward], mac: MACAddress)

    public var mac: MACAddress {
        switch self {
        case .tap(_, _, let mac), .user(_, let mac): mac
        }
    }
}

/// One TCP port of the host that leads to a port of a guest.
public struct PortForward: Hashable, Sendable, CustomStringConvertible {
    /// IPv4 address to listen on; empty means every address of the host.
    public var hostAddress: String
    public var hostPort: UInt16
    /// IPv4 address of the guest; empty means the first that user-mode networking gives out.
    public var guestAddress: String
    public var guestPort: UInt16

    public init(hostAddress: String, hostPort: UInt16, guestAddress: String, guestPort: UInt16) {
        self.hostAddress = hostAddress
        self.hostPort = hostPort
        self.guestAddress = guestAddress
        self.guestPort = guestPort
    }

    /// As in the host file, and as QEMU's `hostfwd=tcp:` wants it: `127.0.0.1:17000-:7000`.
    public var description: String { "\(hostAddress):\(hostPort)-\(guestAddress):\(guestPort)" }
}

/// Six bytes of an Ethernet address, unicast.
public struct MACAddress: Hashable, Sendable, CustomStringConvertible {
    /// Six bytes, the most significant first.
    public let bytes: [UInt8]

    /// The address of the NIC at `index` of a guest whose file names none.
    ///
    /// Always the same for the same guest, so that a guest keeps it from one generation to the
    /// next. Five bytes come from the names: QEMU's usual three would collide in a large fleet.
    public init(derivedFrom guest: GuestID, index: Int) {
        // FNV-1a, then the 64-bit finalizer of MurmurHash3, since FNV mixes its last bytes poorly.
        var hash: UInt64 = 0xcbf2_9ce4_8422_2325
        for byte in "\(guest)/\(index)".utf8 {
            hash = (hash ^ UInt64(byte)) &* 0x100_0000_01b3
        }
        hash = (hash ^ (hash >> 33)) &* 0xff51_afd7_ed55_8ccd
        hash = (hash ^ (hash >> 33)) &* 0xc4ce_b9fe_1a85_ec53
        hash ^= hash >> 33
        // 0x52 says: unicast, locally administered.
        bytes = [0x52] + (0..<5).map { UInt8(truncatingIfNeeded: hash >> (8 * UInt64($0))) }
    }

    /// Reads `52:54:00:00:00:01`, in either case.
    ///
    /// - Returns: nil unless `text` is six bytes in hexadecimal, unicast and not all zero.
    public init?(_ text: String) {
        let parts = text.utf8.split(separator: UInt8(ascii: ":"), omittingEmptySubsequences: false)
        guard parts.count == 6 else { return nil }
        var bytes: [UInt8] = []
        for part in parts {
            // The digits are checked too, since a number's own parser also takes a sign.
            let text = String(Substring(part))
            guard part.count == 2, text.allSatisfy({ $0.isASCII && $0.isHexDigit }),
                let byte = UInt8(text, radix: 16)
            else { return nil }
            bytes.append(byte)
        }
        guard bytes[0] & 1 == 0, bytes.contains(where: { $0 != 0 }) else { return nil }
        self.bytes = bytes
    }

    public var description: String {
        bytes.map { $0 < 16 ? "0\(String($0, radix: 16))" : String($0, radix: 16) }
            .joined(separator: ":")
    }
}
