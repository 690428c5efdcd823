// Policies, selections, inventory: between the vocabulary (`Fleet`) and the schema (`PB…`).
public import Fleet

extension StepID {
    public var wire: PBStepRef {
        var wire = PBStepRef()
        wire.rollout = rollout.number
        wire.number = number
        return wire
    }
    public init(wire: PBStepRef) throws(ConversionError) {
        guard wire.number > 0 else { throw outOfRange(0, 1, Int64(UInt32.max), "number") }
        self.init(rollout: try checkedRollout(wire.rollout, "rollout"), number: wire.number)
    }
}

extension SetPair {
    public var wire: PBSetPair {
        var wire = PBSetPair()
        wire.set = set.rawValue
        wire.updateDomain = updateDomain.wire
        return wire
    }
    public init(wire: PBSetPair) throws(ConversionError) {
        self.init(
            set: try checkedName(wire.set, "set"),
            updateDomain: try checkedUpdateDomain(wire.updateDomain, "update_domain"))
    }
}

extension UpdateDomain {
    public var wire: UInt32 { UInt32(number) }
}

func checkedComponent(
    _ text: String, _ field: StaticString
) throws(ConversionError) -> Component {
    guard let component = Component(text) else {
        throw ConversionError(.invalidName(text), field: "\(field)")
    }
    return component
}

extension Policy {
    public var wire: PBPolicy {
        var wire = PBPolicy()
        wire.parallelism = parallelism
        wire.deadlineMilliseconds = deadlineMilliseconds
        wire.failuresMax = failuresMax
        wire.noticeMilliseconds = noticeMilliseconds
        wire.acknowledgement = acknowledgement.wire
        return wire
    }
    /// Takes any numbers: the coordination machine refuses bad ones with a reason for the person
    /// who asked, which a closed session would not give.
    public init(wire: PBPolicy) {
        self.init(
            parallelism: wire.parallelism, deadlineMilliseconds: wire.deadlineMilliseconds,
            failuresMax: wire.failuresMax, noticeMilliseconds: wire.noticeMilliseconds,
            acknowledgement: Acknowledgement(wire: wire.acknowledgement))
    }
}

extension Selection {
    public var wire: PBSelection {
        var wire = PBSelection()
        switch self {
        case .allHosts: wire.allHosts = true
        case .hosts(let hosts): wire.hosts = hosts.sorted().map(\.rawValue)
        }
        return wire
    }
    public init(wire: PBSelection) throws(ConversionError) {
        if wire.allHosts {
            guard wire.hosts.isEmpty else {
                throw ConversionError(.contradiction("not empty with all_hosts"), field: "hosts")
            }
            self = .allHosts
        } else {
            let hosts: [HostID] = try checkedNames(wire.hosts, "hosts")
            try checkAscending(hosts, "hosts") { $0 }
            self = .hosts(hosts)
        }
    }
}

extension GuestReport {
    public var wire: PBGuestReport {
        var wire = PBGuestReport()
        wire.id = id.rawValue
        if let set { wire.set = set.rawValue }
        if let updateDomain { wire.updateDomain = updateDomain.wire }
        wire.memoryBytes = memoryBytes
        wire.vcpuCount = vcpuCount
        wire.state = state.wire
        wire.hypervisorVersion = hypervisorVersion
        wire.hasGuestAgent_p = hasGuestAgent
        wire.handOverProblem = handOverProblem
        wire.addresses = addresses
        return wire
    }
    public init(wire: PBGuestReport) throws(ConversionError) {
        try checkCount(wire.addresses.count, max: Limits.guestAddressesMax, "addresses")
        self.init(
            id: try checkedName(wire.id, "id"),
            set: wire.hasSet ? try checkedName(wire.set, "set") : nil,
            updateDomain: wire.hasUpdateDomain
                ? try checkedUpdateDomain(wire.updateDomain, "update_domain") : nil,
            memoryBytes: wire.memoryBytes, vcpuCount: wire.vcpuCount,
            state: try GuestState.checked(wire.state, "state"),
            hypervisorVersion: try checkedText(wire.hypervisorVersion, "hypervisor_version"),
            hasGuestAgent: wire.hasGuestAgent_p,
            handOverProblem: cutText(wire.handOverProblem),
            addresses: try list(wire.addresses, "addresses") {
                text throws(ConversionError) in try checkedText(text, "")
            })
    }
}

extension SetDefinition {
    public var wire: PBSetDefinition {
        var wire = PBSetDefinition()
        wire.id = id.rawValue
        wire.updateDomainCount = UInt32(updateDomainCount)
        return wire
    }
    public init(wire: PBSetDefinition) throws(ConversionError) {
        self.init(
            id: try checkedName(wire.id, "id"),
            updateDomainCount: try checkedUpdateDomainCount(
                wire.updateDomainCount, "update_domain_count"))
    }
}

extension InstalledSoftware {
    public var wire: PBInstalledSoftware {
        var wire = PBInstalledSoftware()
        wire.component = component.description
        wire.version = version
        return wire
    }
    public init(wire: PBInstalledSoftware) throws(ConversionError) {
        self.init(
            component: try checkedComponent(wire.component, "component"),
            version: try checkedText(wire.version, "version"))
    }
}

extension HostReport {
    /// Sorts what the schema wants sorted, so that no sender can get it wrong.
    public var wire: PBHostReport {
        var wire = PBHostReport()
        wire.host = host.rawValue
        wire.agentVersion = agentVersion
        wire.bootID = bootID
        wire.acceptedToken = acceptedToken.number
        wire.sets = sets.sorted { $0.id < $1.id }.map(\.wire)
        wire.guests = guests.sorted { $0.id < $1.id }.map(\.wire)
        wire.abilities = abilities.map(\.rawValue)
        wire.software = software.sorted { $0.component.description < $1.component.description }
            .map(\.wire)
        return wire
    }
    public init(wire: PBHostReport) throws(ConversionError) {
        try checkCount(wire.guests.count, max: Limits.hostGuestsMax, "guests")
        // Each may define some sets that have no guest on it yet.
        try checkCount(wire.sets.count, max: Limits.hostGuestsMax, "sets")
        try checkCount(wire.software.count, max: Limits.hostSoftwareMax, "software")
        try checkCount(wire.abilities.count, max: Limits.agentAbilitiesMax, "abilities")
        let sets = try list(wire.sets, "sets", SetDefinition.init(wire:))
        let guests = try list(wire.guests, "guests", GuestReport.init(wire:))
        try checkAscending(sets, "sets") { $0.id }
        try checkAscending(guests, "guests") { $0.id }
        let abilities: [HostID] = try checkedNames(wire.abilities, "abilities")
        let software = try list(wire.software, "software", InstalledSoftware.init(wire:))
        try checkAscending(software, "software") { $0.component.description }
        self.init(
            host: try checkedName(wire.host, "host"),
            agentVersion: try checkedText(wire.agentVersion, "agent_version"),
            bootID: try checkedText(wire.bootID, "boot_id"),
            acceptedToken: try checkedAcceptedToken(wire.acceptedToken, "accepted_token"),
            sets: sets,
            guests: guests,
            abilities: AgentAbility.allCases.filter { ability in
                abilities.contains { $0.rawValue == ability.rawValue }
            }, software: software)
    }
}

extension Refusal {
    public var wire: PBRefused {
        var wire = PBRefused()
        wire.code = code.wire
        wire.message = message
        wire.advice = advice
        return wire
    }
    public init(wire: PBRefused) throws(ConversionError) {
        self.init(
            try Code.checked(wire.code, "code"), cutText(wire.message),
            advice: cutText(wire.advice))
    }
}
