// What the leader's inventory says of availability sets, as far as texts and filters need it: how large a
// set is, and who is in which. Events alone do not tell it; a notifier asks for it now and then.
public import Fleet

/// How large an availability set is, for the advice in a text.
public struct SetSize: Hashable, Sendable {
    public var guestCount: Int
    /// Update domains that have a guest.
    public var updateDomainCount: Int

    public init(guestCount: Int, updateDomainCount: Int) {
        self.guestCount = guestCount
        self.updateDomainCount = updateDomainCount
    }

    /// Whether a person has to be told that it does not do what a set is for.
    var needsAdvice: Bool { guestCount <= 1 || updateDomainCount <= 1 }
}

/// The sets as of one answer of the leader.
public struct SetBook: Hashable, Sendable {
    /// Only looked up.
    private var pairs: [GuestID: SetPair] = [:]
    private var sizes: [SetID: SetSize] = [:]

    /// Knows nothing.
    public init() {}

    public init(_ sets: [SetView]) {
        for view in sets {
            var guestCount = 0
            for domain in view.domains {
                guestCount += domain.guests.count
                let pair = SetPair(set: view.id, updateDomain: domain.updateDomain)
                for guest in domain.guests { pairs[guest] = pair }
            }
            sizes[view.id] = SetSize(
                guestCount: guestCount,
                updateDomainCount: view.domains.count { !$0.guests.isEmpty })
        }
    }

    /// Of all guests that there are.
    package init(_ guests: [BoardGuest]) {
        var domains: [SetID: Set<UpdateDomain>] = [:]
        var counts: [SetID: Int] = [:]
        for guest in guests {
            guard let set = guest.set, let updateDomain = guest.updateDomain else { continue }
            pairs[guest.id] = SetPair(set: set, updateDomain: updateDomain)
            counts[set, default: 0] += 1
            domains[set, default: []].insert(updateDomain)
        }
        for (set, count) in counts {
            sizes[set] = SetSize(
                guestCount: count, updateDomainCount: domains[set, default: []].count)
        }
    }

    /// - Returns: nil if it is not known; then nothing can be advised.
    public func size(of set: SetID) -> SetSize? { sizes[set] }

    /// Where a guest of a step belongs.
    ///
    /// - Parameters:
    ///   - guests: all of the step, with this one.
    ///   - all: of the step. A step that holds one guest says its pair; of several it does not say whose
    ///     each is.
    /// - Returns: its pair, or nil; and if that cannot be told, those that may be its.
    func place(
        of guest: GuestID, in guests: [GuestID], _ all: [SetPair]
    ) -> (pair: SetPair?, possible: [SetPair]) {
        if guests.count == 1 { return (all.first, []) }
        if let known = pairs[guest], all.contains(known) { return (known, []) }
        // Pairs that a guest is known for are not this one's, unless it shares them.
        let taken = guests.compactMap { pairs[$0] }
        return (nil, all.filter { !taken.contains($0) })
    }

    /// Whether what these events say of sets is worth asking for the inventory again: a set that it does
    /// not know, or of which something would be advised that may not be so any more.
    public func isDoubted(by events: [FleetEvent]) -> Bool {
        events.contains { event in
            switch event.body {
            case .stepNoticed(let notice): isDoubtful(notice.guests, notice.pairs)
            case .stepGranted(_, _, let guests, let pairs, _, _, _): isDoubtful(guests, pairs)
            default: false
            }
        }
    }

    private func isDoubtful(_ guests: [GuestID], _ all: [SetPair]) -> Bool {
        all.contains { sizes[$0.set]?.needsAdvice ?? true }
            || guests.contains { !place(of: $0, in: guests, all).possible.isEmpty }
    }
}
