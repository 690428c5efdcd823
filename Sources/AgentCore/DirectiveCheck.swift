public import Fleet

/// One guest of the host, as its agent sees it when a directive comes.
public struct HostGuest: Hashable, Sendable {
    public var id: GuestID
    public var state: GuestState
    /// Number of the QEMU process that it has; nil if there is none.
    public var generation: Int?
    /// Version label of that process; empty if there is none.
    public var hypervisorVersion: String

    public init(id: GuestID, state: GuestState, generation: Int?, hypervisorVersion: String) {
        self.id = id
        self.state = state
        self.generation = generation
        self.hypervisorVersion = hypervisorVersion
    }
}

/// Whether a host can carry out what it is told to.
public enum DirectiveCheck {
    /// Why it cannot; nil if it can.
    ///
    /// - Parameters:
    ///   - host: whose agent asks.
    ///   - guests: all that the host has.
    ///   - parts: what this host has needed before.
    public static func problem(
        _ directive: Directive, on host: HostID, guests: [HostGuest], parts: MeasuredParts
    ) -> String? {
        guard directive.host == host else {
            return "this is host \(host), not \(directive.host)"
        }
        let limits = Limits.deadlineMillisecondsMin...Limits.deadlineMillisecondsMax
        guard limits.contains(directive.deadlineMilliseconds) else {
            return "the deadline of \(directive.deadlineMilliseconds) ms is out of range"
        }
        guard directive.guests.count <= Limits.stepGuestsMax,
            Set(directive.guests).count == directive.guests.count
        else { return "a step has at most \(Limits.stepGuestsMax) guests, each once" }
        if let reason = scopeProblem(directive, guests) { return reason }
        if let reason = HoldBudget.problem(directive, parts) { return reason }
        for id in directive.guests {
            guard let guest = guests.first(where: { $0.id == id }) else {
                return "this host has no guest \(id)"
            }
            guard guest.generation != nil, guest.state == .running else {
                return "guest \(id) is \(guest.state.rawValue)"
            }
        }
        return nil
    }

    /// Why its guests are not those that this release holds; nil if they are.
    private static func scopeProblem(_ directive: Directive, _ guests: [HostGuest]) -> String? {
        switch directive.release.scope {
        case .guest:
            return directive.guests.isEmpty ? "a step of this component has a guest" : nil
        case .none:
            return directive.guests.isEmpty ? nil : "release \(directive.release.id) holds no guest"
        case .host:
            // One that runs and is not held would lose its network, and its set is not locked.
            for guest in guests where !directive.guests.contains(guest.id) {
                switch guest.state {
                case .stopped, .paused: break
                default:
                    return "guest \(guest.id) is \(guest.state.rawValue) and is not in the step"
                }
            }
            return nil
        }
    }
}
