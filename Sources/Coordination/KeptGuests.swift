import Fleet

// Guests as the state keeps them, and what follows from their records: the members of sets, the
// guests of hosts, and counts. None of that is in a snapshot; it comes back with the guests.

extension FleetState {
    /// Keeps the record of a guest, in place of an older one.
    ///
    /// - Precondition: an older one is of the same host.
    public mutating func keep(_ guest: GuestRecord) {
        let id = guest.report.id
        let known = guests[id]
        precondition(known == nil || known?.host == guest.host, "\(id) belongs to another host")
        guests[id] = guest
        if known == nil { hosts.update(guest.host) { insert(id, into: &$0.guests) } }
        if known?.isRunning == true { runningGuestCount -= 1 }
        if guest.isRunning { runningGuestCount += 1 }
        if known?.pair != guest.pair || known?.isWell != guest.isWell { move(id, known, guest) }
    }

    /// What becomes of the guests of a step that is over: those that are not confirmed and do not
    /// run are missing until they do.
    mutating func noteMissing(after report: StepReport, _ plan: PlannedStep) {
        for id in plan.guests {
            guard var guest = guests[id], guest.host == plan.host, !guest.isRunning,
                report.holds.first(where: { $0.guest == id })?.outcome.releasesLocks != true
            else { continue }
            guest.missingSince = report.step
            keep(guest)
        }
    }

    /// An operator has seen to the guests of a set.
    mutating func forgetMissing(of set: SetID) {
        for id in missingGuests(of: set) {
            guard var guest = guests[id] else { continue }
            guest.missingSince = nil
            keep(guest)
        }
    }

    /// Those that keep the set closed although no lock does, in ascending order.
    func missingGuests(of set: SetID) -> [GuestID] {
        guard let record = sets[set], record.unwellCount > 0 else { return [] }
        return record.members.keys.filter {
            guests[$0]?.missingSince != nil && guests[$0]?.isWell == false
        }
    }

    mutating func removeGuest(_ id: GuestID) {
        guard let known = guests.removeValue(forKey: id) else { return }
        hosts.update(known.host) { $0.guests.removeAll { $0 == id } }
        if known.isRunning { runningGuestCount -= 1 }
        move(id, known, nil)
    }

    private mutating func move(_ id: GuestID, _ from: GuestRecord?, _ to: GuestRecord?) {
        if let from, let set = from.pair?.set {
            sets.update(set) { $0.remove(id, isWell: from.isWell) }
        }
        if let to, let pair = to.pair {
            if sets[pair.set] == nil {
                sets[pair.set] = SetRecord(
                    updateDomainCount: Limits.updateDomainsDefault, definedBy: nil)
            }
            sets.update(pair.set) { $0.insert(id, pair.updateDomain, isWell: to.isWell) }
        }
        if let set = from?.pair?.set, set != to?.pair?.set { dropIfUnused(set) }
    }

    /// A set is there as long as a host defines it, a guest is in it, or it is locked.
    mutating func dropIfUnused(_ set: SetID) {
        if let record = sets[set], record.members.isEmpty, locks[set] == nil,
            record.definedBy == nil
        {
            sets.removeValue(forKey: set)
        }
    }
}

/// Into an array in ascending order.
private func insert(_ id: GuestID, into ids: inout [GuestID]) {
    var index = ids.endIndex
    while index > 0, id < ids[index - 1] { index -= 1 }
    ids.insert(id, at: index)
}

extension GuestRecord {
    var isRunning: Bool { report.state == .running }

    /// Whether guests of other update domains may be held. One that is `stopped` was shut down by
    /// somebody and does not count, unless it has been missing since a step.
    public var isWell: Bool {
        switch report.state {
        case .running: true
        case .stopped: missingSince == nil || mutated(.missingIsWell)
        case .starting, .held, .paused, .lost, .unknown: false
        }
    }
}
