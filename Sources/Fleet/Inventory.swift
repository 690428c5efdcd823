/// What a guest's process does, as its agent sees it.
public enum GuestState: String, Hashable, Sendable, CaseIterable {
    /// Being started; not yet executing.
    case starting
    case running
    /// Held by a step.
    case held
    /// Not executing, and not because of Fermata.
    case paused
    /// There is no process.
    case stopped
    /// The process ended during a step, or left no state behind.
    case lost
    /// The agent cannot tell, for example because the monitor does not answer.
    case unknown
}

/// One guest as its host's agent reports it.
public struct GuestReport: Hashable, Sendable {
    public var id: GuestID
    public var set: SetID?
    /// The update domain that the host's file names; nil lets the leader choose.
    public var updateDomain: UpdateDomain?
    public var memoryBytes: UInt64
    public var vcpuCount: UInt32
    public var state: GuestState
    /// Version label of the QEMU that runs it; empty if none does.
    public var hypervisorVersion: String
    public var hasGuestAgent: Bool
    /// Why this guest cannot be handed over, in words; empty if it can.
    public var handOverProblem: String
    /// IP addresses by which a notifier knows who asks, as the host's file names them.
    public var addresses: [String]

    public init(
        id: GuestID, set: SetID?, updateDomain: UpdateDomain?, memoryBytes: UInt64,
        vcpuCount: UInt32, state: GuestState, hypervisorVersion: String, hasGuestAgent: Bool,
        handOverProblem: String = "", addresses: [String] = []
    ) {
        self.id = id
        self.set = set
        self.updateDomain = updateDomain
        self.memoryBytes = memoryBytes
        self.vcpuCount = vcpuCount
        self.state = state
        self.hypervisorVersion = hypervisorVersion
        self.hasGuestAgent = hasGuestAgent
        self.handOverProblem = handOverProblem
        self.addresses = addresses
    }
}

/// How many update domains a set has, as a host's file says.
public struct SetDefinition: Hashable, Sendable {
    public var id: SetID
    public var updateDomainCount: Int
    public init(id: SetID, updateDomainCount: Int) {
        self.id = id
        self.updateDomainCount = updateDomainCount
    }
}

/// Host software that a release has put on a host.
public struct InstalledSoftware: Hashable, Sendable {
    public var component: Component
    public var version: String
    public init(component: Component, version: String) {
        self.component = component
        self.version = version
    }
}

/// What an agent can carry out besides hypervisor steps; an older one says nothing here.
public enum AgentAbility: String, Hashable, Sendable, CaseIterable {
    /// ``Work/host(_:)``
    case hostCommands
    /// ``Work/agent(version:program:)``
    case agentUpgrade
}

/// All that an agent says of its host.
public struct HostReport: Hashable, Sendable {
    public var host: HostID
    public var agentVersion: String
    /// The kernel's boot id; differs after a reboot of the host.
    public var bootID: String
    /// The highest token this agent has ever accepted; 0 if none.
    public var acceptedToken: Token
    /// In ascending order of id.
    public var sets: [SetDefinition]
    /// In ascending order of id.
    public var guests: [GuestReport]
    /// In the order of their declaration. Names that this version does not know are left out.
    public var abilities: [AgentAbility]
    /// What steps of this agent have installed, in ascending order of component, each once.
    public var software: [InstalledSoftware]

    public init(
        host: HostID, agentVersion: String, bootID: String, acceptedToken: Token,
        sets: [SetDefinition], guests: [GuestReport], abilities: [AgentAbility] = [],
        software: [InstalledSoftware] = []
    ) {
        self.host = host
        self.agentVersion = agentVersion
        self.bootID = bootID
        self.acceptedToken = acceptedToken
        self.sets = sets
        self.guests = guests
        self.abilities = abilities
        self.software = software
    }
}
