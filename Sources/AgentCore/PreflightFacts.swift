/// What is known of one guest, its QEMU, the QEMU to come and their host. Nil and empty mean that
/// it is not known, which is no fault of the guest.
public struct PreflightFacts: Hashable, Sendable {
    public struct Backend: Hashable, Sendable {
        /// QEMU's id of the object.
        public var id: String
        public var isShared: Bool
        public var byteCount: UInt64
        /// QEMU's type of it, such as `memory-backend-file`; nil if not known.
        public var type: String?
        /// Of a file backend.
        public var path: String?

        public init(
            id: String, isShared: Bool, byteCount: UInt64, type: String? = nil, path: String? = nil
        ) {
            self.id = id
            self.isShared = isShared
            self.byteCount = byteCount
            self.type = type
            self.path = path
        }
    }

    /// What lies at the path of a file that QEMU has open.
    public enum FileState: String, Hashable, Sendable {
        /// The very file, and the agent may open it as QEMU has.
        case same
        case missing
        /// Another file has taken the path.
        case replaced
        case unreadable
        case unwritable
    }

    public struct Image: Hashable, Sendable {
        public var path: String
        /// Whether it is only read through another image.
        public var isBacking: Bool
        public var state: FileState
        /// Of other processes, in conflict with QEMU's own.
        public var foreignLocks: [ImageLockHolder]

        public init(
            path: String, isBacking: Bool = false, state: FileState = .same,
            foreignLocks: [ImageLockHolder] = []
        ) {
            self.path = path
            self.isBacking = isBacking
            self.state = state
            self.foreignLocks = foreignLocks
        }
    }

    public struct TapInterface: Hashable, Sendable {
        public var name: String
        /// `tun_flags` of the interface, as in <linux/if_tun.h>.
        public var flags: UInt32

        public init(name: String, flags: UInt32) {
            self.name = name
            self.flags = flags
        }
    }

    /// A QEMU machine type, with the shorter word that stands for it in that QEMU.
    public struct MachineType: Hashable, Sendable {
        public var name: String
        public var alias: String?

        public init(name: String, alias: String? = nil) {
            self.name = name
            self.alias = alias
        }
    }

    /// 32 CPU features, as one CPUID leaf tells them.
    public struct FeatureWord: Hashable, Sendable {
        /// Such as `CPUID 7.0 EBX`.
        public var name: String
        public var bits: UInt32

        public init(name: String, bits: UInt32) {
            self.name = name
            self.bits = bits
        }
    }

    /// What is looked at of the QEMU that the guest is to change to.
    public struct Program: Hashable, Sendable {
        public var path: String
        public var exists: Bool
        /// Why it does not start; empty if it does, or was not tried.
        public var startProblem: String
        public var moduleDirectory: String?
        /// Names in the module directory; nil if it cannot be read.
        public var modules: [String]?
        public var missingDataDirectories: [String]
        /// Whether a data directory has `bios-256k.bin`; nil if none is named.
        public var hasFirmware: Bool?

        public init(
            path: String, exists: Bool = true, startProblem: String = "",
            moduleDirectory: String? = nil, modules: [String]? = nil,
            missingDataDirectories: [String] = [], hasFirmware: Bool? = nil
        ) {
            self.path = path
            self.exists = exists
            self.startProblem = startProblem
            self.moduleDirectory = moduleDirectory
            self.modules = modules
            self.missingDataDirectories = missingDataDirectories
            self.hasFirmware = hasFirmware
        }
    }

    public enum GuestAgent: Hashable, Sendable {
        case answers
        /// The host file says that the guest has none.
        case absent
        case silent(reason: String)
    }

    public var isRunning = true
    /// Why a monitor is of no use; nil if it answered.
    public var monitorProblem: String?
    public var backends: [Backend] = []
    /// Of file backends; by the id of the backend.
    public var ramFiles: [String: FileState] = [:]
    public var blockers: [String] = []
    /// QEMU's types of the guest's devices, such as `vfio-pci`.
    public var deviceTypes: [String] = []
    /// Of the waiting new QEMU; nil if not known.
    public var newDeviceTypes: [String]?
    /// Why a second QEMU cannot be started as somebody else has started the first.
    public var commandLineProblems: [String] = []
    public var images: [Image] = []
    /// Of the image formats in use, such as `qcow2`.
    public var imageFormats: [String] = []
    public var program: Program?
    /// The host file names a firmware of its own.
    public var hasOwnFirmware = false
    /// As the host file has it, such as `q35`.
    public var machineWord = ""
    /// The running one, such as `pc-q35-7.2`.
    public var machineType: String?
    /// Those that the new QEMU knows.
    public var newMachineTypes: [MachineType] = []
    /// What the waiting new QEMU has made of the host file's word.
    public var newMachineType: String?
    public var featureWords: [FeatureWord] = []
    public var newFeatureWords: [FeatureWord] = []
    /// RAM that the running QEMU has for itself, besides the guest's.
    public var privateBytes: UInt64?
    public var availableBytes: UInt64?
    public var threadCount: Int?
    /// How many more threads the host, or the agent's cgroup, allows.
    public var threadRoom: Int?
    public var descriptorCount: Int?
    /// How many more descriptors the agent, and a QEMU it starts, may open.
    public var descriptorRoom: Int?
    public var taps: [TapInterface] = []
    public var guestAgent: GuestAgent?

    public init() {}
}
