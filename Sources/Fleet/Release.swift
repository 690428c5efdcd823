/// What kind of host software a release replaces; decides which guests are held together.
public enum Component: Hashable, Sendable, CustomStringConvertible {
    /// QEMU itself: each guest is held alone and handed over to the new binary.
    case hypervisor
    case network
    case agent
    case kernel
    /// Any other host software, by name.
    case other(String)

    public init?(_ text: String) {
        switch text {
        case "hypervisor": self = .hypervisor
        case "network": self = .network
        case "agent": self = .agent
        case "kernel": self = .kernel
        default:
            guard Identifier<HostKind>.isValid(text) else { return nil }
            self = .other(text)
        }
    }

    public var description: String {
        switch self {
        case .hypervisor: "hypervisor"
        case .network: "network"
        case .agent: "agent"
        case .kernel: "kernel"
        case .other(let name): name
        }
    }
}

/// A QEMU installation on a host: the binary and where it finds its own files.
public struct Hypervisor: Hashable, Sendable {
    /// What people call it, such as `7.2.22`. Not interpreted.
    public var version: String
    /// Absolute path of the binary on the host.
    public var path: String
    /// Where its loadable modules are, if not where it was built for (`QEMU_MODULE_DIR`).
    public var moduleDirectory: String?
    /// Where it looks for firmware, in this order (`-L`); empty means the built-in ones.
    public var dataDirectories: [String]

    public init(
        version: String, path: String, moduleDirectory: String? = nil,
        dataDirectories: [String] = []
    ) {
        self.version = version
        self.path = path
        self.moduleDirectory = moduleDirectory
        self.dataDirectories = dataDirectories
    }
}

/// What is to be installed. For `hypervisor` the artifact is the QEMU binary at
/// `hypervisor.path`, already on each host; its digest is checked before anything is held.
public struct Release: Hashable, Sendable {
    public var id: ReleaseID
    public var component: Component
    /// For `hypervisor` releases, and only there.
    public var hypervisor: Hypervisor
    /// SHA-256 of the artifact, 32 bytes.
    public var sha256: [UInt8]

    public init(id: ReleaseID, component: Component, hypervisor: Hypervisor, sha256: [UInt8]) {
        self.id = id
        self.component = component
        self.hypervisor = hypervisor
        self.sha256 = sha256
    }

    public var version: String { hypervisor.version }
}

/// How careful a rollout is.
public struct Policy: Hashable, Sendable {
    /// Steps in flight at once, over all hosts; 1 ... ``Limits/parallelismMax``.
    public var parallelism: UInt32
    /// The longest a guest may be held, in milliseconds.
    public var deadlineMilliseconds: UInt32
    /// Failed steps after which no further step starts; 1 means stop on the first failure.
    public var failuresMax: UInt32

    public init(
        parallelism: UInt32 = Limits.parallelismDefault,
        deadlineMilliseconds: UInt32 = Limits.deadlineMillisecondsMax, failuresMax: UInt32 = 1
    ) {
        self.parallelism = parallelism
        self.deadlineMilliseconds = deadlineMilliseconds
        self.failuresMax = failuresMax
    }
}

/// Which hosts a rollout is for.
public enum Selection: Hashable, Sendable {
    case allHosts
    /// In ascending order, without repetition.
    case hosts([HostID])
}
