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

    public init(
        id: GuestID, set: SetID?, updateDomain: UpdateDomain?, memoryBytes: UInt64,
        vcpuCount: UInt32, state: GuestState, hypervisorVersion: String, hasGuestAgent: Bool,
        handOverProblem: String = ""
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

    public init(
        host: HostID, agentVersion: String, bootID: String, acceptedToken: Token,
        sets: [SetDefinition], guests: [GuestReport]
    ) {
        self.host = host
        self.agentVersion = agentVersion
        self.bootID = bootID
        self.acceptedToken = acceptedToken
        self.sets = sets
        self.guests = guests
    }
}
