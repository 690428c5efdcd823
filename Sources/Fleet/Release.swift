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

/// One program that a release runs on a host, without a shell.
public struct HostCommand: Hashable, Sendable {
    /// Absolute path of a file that the host has already.
    public var path: String
    public var arguments: [String]
    /// SHA-256 of the file at ``path``, 32 bytes; checked before anything is held.
    public var sha256: [UInt8]
    /// After this it is killed with all that it has started; 1 ... ``Limits/commandMillisecondsMax``.
    public var limitMilliseconds: UInt32

    public init(path: String, arguments: [String], sha256: [UInt8], limitMilliseconds: UInt32) {
        self.path = path
        self.arguments = arguments
        self.sha256 = sha256
        self.limitMilliseconds = limitMilliseconds
    }
}

/// A variable of a command's environment.
public struct EnvironmentVariable: Hashable, Sendable {
    public var name: String
    public var value: String
    public init(name: String, value: String) {
        self.name = name
        self.value = value
    }
}

/// A file of a release, already on each host.
public struct ReleaseFile: Hashable, Sendable {
    /// Absolute path.
    public var path: String
    /// 32 bytes.
    public var sha256: [UInt8]
    public init(path: String, sha256: [UInt8]) {
        self.path = path
        self.sha256 = sha256
    }
}

/// Host software that is replaced by commands.
///
/// ```
/// prepare (guests run) ─► hold ─► apply ─► check ─► resume
///                                   └─ failed ─┴─► undo ─► resume
/// ```
public struct HostWork: Hashable, Sendable {
    /// What people call it. Not interpreted.
    public var version: String
    /// Whether every running guest of the host is held while ``apply``, ``check`` and ``undo`` run.
    public var holdsGuests: Bool
    /// Runs before the hold: what takes long and changes nothing yet.
    public var prepare: HostCommand?
    public var apply: HostCommand
    /// Ends with 0 if what ``apply`` did is right.
    public var check: HostCommand?
    /// Brings back what was before ``apply``, whether that got to its end, to its middle or was not begun.
    public var undo: HostCommand?
    /// In ascending order of name, each once. Of the agent's own environment a command gets nothing.
    public var environment: [EnvironmentVariable]
    /// Name of the user that the commands run as; empty means the agent's.
    public var user: String
    /// Absolute path; empty means `/`.
    public var workingDirectory: String
    /// What is installed, checked before anything is held; nil if the commands need no file.
    public var artifact: ReleaseFile?

    public init(
        version: String, holdsGuests: Bool, prepare: HostCommand? = nil, apply: HostCommand,
        check: HostCommand? = nil, undo: HostCommand? = nil,
        environment: [EnvironmentVariable] = [], user: String = "",
        workingDirectory: String = "", artifact: ReleaseFile? = nil
    ) {
        self.version = version
        self.holdsGuests = holdsGuests
        self.prepare = prepare
        self.apply = apply
        self.check = check
        self.undo = undo
        self.environment = environment
        self.user = user
        self.workingDirectory = workingDirectory
        self.artifact = artifact
    }
}

/// How a release is installed.
public enum Work: Hashable, Sendable {
    /// Each guest alone is handed over to this QEMU, whose binary has this SHA-256.
    case hypervisor(Hypervisor, sha256: [UInt8])
    /// Commands, with every guest of the host held or none.
    case host(HostWork)
    /// The agent replaces its own program by this file and goes on as it. No guest is held.
    case agent(version: String, program: ReleaseFile)

    public var version: String {
        switch self {
        case .hypervisor(let hypervisor, _): hypervisor.version
        case .host(let work): work.version
        case .agent(let version, _): version
        }
    }
}

/// Which guests a step holds.
public enum HoldScope: Hashable, Sendable {
    case none
    /// One by one.
    case guest
    /// All that run on the host, together.
    case host
}

/// What is to be installed. Its files are already on each host; their digests are checked before
/// anything is held.
public struct Release: Hashable, Sendable {
    public var id: ReleaseID
    public var component: Component
    public var work: Work

    public init(id: ReleaseID, component: Component, work: Work) {
        self.id = id
        self.component = component
        self.work = work
    }

    /// A release of QEMU.
    public init(id: ReleaseID, component: Component, hypervisor: Hypervisor, sha256: [UInt8]) {
        self.init(id: id, component: component, work: .hypervisor(hypervisor, sha256: sha256))
    }

    public var version: String { work.version }

    /// Of a release of QEMU.
    public var hypervisor: Hypervisor? {
        if case .hypervisor(let hypervisor, _) = work { hypervisor } else { nil }
    }

    public var scope: HoldScope {
        switch work {
        case .hypervisor: .guest
        case .host(let work): work.holdsGuests ? .host : .none
        case .agent: .none
        }
    }
}

/// How careful a rollout is.
public struct Policy: Hashable, Sendable {
    /// Steps in flight at once, over all hosts; 1 ... ``Limits/parallelismMax``.
    public var parallelism: UInt32
    /// The longest a guest may be held, in milliseconds.
    public var deadlineMilliseconds: UInt32
    /// Failed steps after which no further step starts; 1 means stop on the first failure.
    public var failuresMax: UInt32
    /// How long before a step its guests are told, in milliseconds; 0 for not at all, else
    /// ``Limits/noticeMillisecondsMin`` ... ``Limits/noticeMillisecondsMax``.
    public var noticeMilliseconds: UInt32
    public var acknowledgement: Acknowledgement

    public init(
        parallelism: UInt32 = Limits.parallelismDefault,
        deadlineMilliseconds: UInt32 = Limits.deadlineMillisecondsMax, failuresMax: UInt32 = 1,
        noticeMilliseconds: UInt32 = 0, acknowledgement: Acknowledgement = .shortens
    ) {
        self.parallelism = parallelism
        self.deadlineMilliseconds = deadlineMilliseconds
        self.failuresMax = failuresMax
        self.noticeMilliseconds = noticeMilliseconds
        self.acknowledgement = acknowledgement
    }
}

/// Which hosts a rollout is for.
public enum Selection: Hashable, Sendable {
    case allHosts
    /// In ascending order, without repetition.
    case hosts([HostID])
}
