// What every guest is told at this moment, folded from the leader's notices and events.
//
//   event                                     what becomes of the step's notice
//   ------------------------------------      ------------------------------------------------
//   stepNoticed                               it stands on the board
//   stepGranted                               … as started
//   noticeAcknowledged                        who has acknowledged is kept; no document changes
//   holdFinished                              the guest goes from it; the last one takes it along
//   noticeWithdrawn, stepEnded, …WithoutHold  it goes
//   rolloutChanged, to one that is over       all of its steps' go: of a step that guests were not told
//                                             of before, no event says that some were not held
//
// A document belongs to an *audience*: the guests of one set, or one guest without a set. Its
// incarnation is the sequence of the last event that changed it, + 1, so that every notifier that has
// seen these events gives the same one. A leader that was restored from a backup counts anew from
// below: then all numbers are raised by what is missing (`offset`).
public import Fleet

/// Who shares a document.
public enum Audience: Hashable, Comparable, Sendable {
    case set(SetID)
    case guest(GuestID)
}

/// A guest as far as the board needs it.
public struct BoardGuest: Hashable, Sendable {
    public var id: GuestID
    public var host: HostID
    public var set: SetID?
    public var updateDomain: UpdateDomain?
    /// Those from which it asks.
    public var addresses: [IPAddress]
    public var memoryBytes: UInt64
    public var vcpuCount: UInt32

    public init(
        id: GuestID, host: HostID, set: SetID?, updateDomain: UpdateDomain?,
        addresses: [IPAddress], memoryBytes: UInt64 = 0, vcpuCount: UInt32 = 0
    ) {
        self.id = id
        self.host = host
        self.set = set
        self.updateDomain = updateDomain
        self.addresses = addresses
        self.memoryBytes = memoryBytes
        self.vcpuCount = vcpuCount
    }

    /// What is no address is left out; the host's file has been checked.
    public init(_ view: GuestView) {
        self.init(
            id: view.report.id, host: view.host, set: view.report.set,
            updateDomain: view.updateDomain,
            addresses: view.report.addresses.compactMap { IPAddress($0) },
            memoryBytes: view.report.memoryBytes, vcpuCount: view.report.vcpuCount)
    }

    public var audience: Audience { self.set.map { .set($0) } ?? .guest(id) }
}

/// What came of an event.
public enum BoardOutcome: Hashable, Sendable {
    case unchanged
    case changed
    /// Events before this one are missing: the leader has to be asked for its notices again.
    case gap
}

/// A value: a copy can be read by another thread while this one goes on.
public struct NoticeBoard: Sendable {
    /// Sequence of the last event folded.
    public private(set) var cursor: UInt64
    /// Whether notices and guests are known, so that documents can be given out.
    public private(set) var isReady = false
    /// It lacks events: nothing that was kept is given out before it is loaded.
    private var isIncomplete = false
    /// If set, only guests of this host are known by their addresses.
    public let host: HostID?
    /// Of those guests, addresses that several claim: nobody is known by them.
    public private(set) var claimedTwice: Set<IPAddress> = []

    private(set) var notices: [StepID: Notice] = [:]
    private(set) var guests: [GuestID: BoardGuest] = [:]
    private var addresses: [IPAddress: GuestID] = [:]
    /// Steps on the board, ascending, for each audience that has any.
    private var steps: [Audience: [StepID]] = [:]
    private var documents: [Audience: [ScheduledEvent]] = [:]
    private var incarnations: [Audience: UInt64]
    /// Of every guest that has been known, also by an earlier process: where it was last.
    private var places: [GuestID: Audience]
    /// For guests that changed their audience: theirs must not go back by that.
    private var floors: [GuestID: UInt64]
    /// Of those without a number of their own.
    private var base: UInt64
    private var offset: UInt64
    private var changes = BoardChanges()

    /// - Parameter memory: what an earlier process has kept.
    public init(_ memory: BoardMemory = BoardMemory(), host: HostID? = nil) {
        self.host = host
        cursor = memory.cursor
        base = memory.base
        offset = memory.offset
        incarnations = Dictionary(
            memory.incarnations.map { ($0.audience, $0.number) }, uniquingKeysWith: max)
        places = Dictionary(
            memory.places.map { ($0.guest, $0.audience) }, uniquingKeysWith: { first, _ in first })
        floors = Dictionary(memory.floors.map { ($0.guest, $0.number) }, uniquingKeysWith: max)
        for notice in memory.notices { insert(notice) }
        renderAll()
        changes = BoardChanges()
    }

    /// Whether an earlier process, or this one, has numbered documents.
    private var hasHistory: Bool { base > 0 }

    // MARK: Reading

    public func guest(at address: IPAddress) -> BoardGuest? {
        addresses[address].flatMap { guests[$0] }
    }

    public func guest(_ id: GuestID) -> BoardGuest? { guests[id] }

    public func document(for guest: BoardGuest) -> EventDocument {
        EventDocument(
            incarnation: incarnation(for: guest), events: documents[guest.audience] ?? [])
    }

    public func incarnation(for guest: BoardGuest) -> UInt64 {
        incarnation(for: guest.id, of: guest.audience)
    }

    private func incarnation(for guest: GuestID, of audience: Audience) -> UInt64 {
        max(incarnation(of: audience), floors[guest] ?? 0)
    }

    /// Of those of its guests that have no higher number of their own.
    public func incarnation(of audience: Audience) -> UInt64 {
        max(incarnations[audience] ?? base, 1)
    }

    /// The notice of an event that this guest can see.
    public func notice(_ eventID: String, for guest: BoardGuest) -> Notice? {
        let step = documents[guest.audience]?.first { $0.eventID == eventID }?.step
        return step.flatMap { notices[$0] }
    }

    public func notice(of step: StepID) -> Notice? { notices[step] }

    /// Whether somebody is in a notice who is not among the guests: they have to be asked for again.
    public var knowsAllGuests: Bool {
        notices.values.allSatisfy { $0.guests.allSatisfy { guests[$0] != nil } }
    }

    // MARK: Folding

    /// Events are missing that nobody will send again. What is given out already stays so; if nothing is,
    /// nothing will be before ``load(_:sequence:)``.
    public mutating func lackEvents() { isIncomplete = true }

    /// Takes the leader's notices in place of all that is on the board.
    ///
    /// - Precondition: the guests are known, as for ``apply(_:)``; without them it cannot be told
    ///   whose documents change.
    /// - Parameter sequence: of the last event that they contain.
    public mutating func load(_ all: [Notice], sequence: UInt64) {
        if sequence < cursor { offset += cursor - sequence }
        cursor = sequence
        let isFirst = !hasHistory
        if isFirst { base = number(sequence) }
        let before = documents
        for step in notices.keys { changes.steps.insert(step) }
        notices = [:]
        steps = [:]
        for notice in all where !notice.guests.isEmpty { insert(notice.asTold) }
        renderAll()
        // The first board's documents all have the base's number.
        if !isFirst { number(differencesFrom: before) }
        isReady = !guests.isEmpty || isReady
        isIncomplete = false
        changes.cursor = true
    }

    /// Takes the inventory in place of the one known.
    ///
    /// - Returns: whether anything is different.
    @discardableResult
    public mutating func take(_ all: [BoardGuest]) -> Bool {
        let taken = Dictionary(all.map { ($0.id, $0) }, uniquingKeysWith: { first, _ in first })
        let wasReady = isReady
        isReady = isReady || hasHistory && !isIncomplete
        guard taken != guests else { return !wasReady && isReady }
        let before = documents
        let hadPlaces = !places.isEmpty
        for guest in all where places[guest.id] != guest.audience {
            if let old = places[guest.id] {
                floors[guest.id] = incarnation(for: guest.id, of: old) + 1
                changes.guests.insert(guest.id)
            }
            places[guest.id] = guest.audience
            changes.places.insert(guest.id)
        }
        guests = taken
        nameAddresses(all)
        steps = [:]
        for notice in notices.values { file(notice) }
        renderAll()
        // What was remembered has its numbers, as far as it was remembered where guests are.
        if wasReady || hadPlaces { number(differencesFrom: before) }
        return true
    }

    /// - Precondition: guests are known, and ``load(_:sequence:)`` has been called, or there was a
    ///   memory of it.
    public mutating func apply(_ event: FleetEvent) -> BoardOutcome {
        guard event.sequence > cursor else { return .unchanged }
        guard event.sequence == cursor + 1 else { return .gap }
        cursor = event.sequence
        changes.cursor = true
        if case .rolloutChanged(let rollout, let state, _) = event.body, state.isOver {
            return removeAll(of: rollout)
        }
        guard let step = event.body.noticedStep else { return .unchanged }
        let old = notices[step]
        guard let new = old.after(event) else {
            if let old { remove(old) }
            return render(old.map(audiences) ?? [])
        }
        if new == old || new.guests.isEmpty { return .unchanged }
        if let old { remove(old) }
        insert(new)
        return render(audiences(new).union(old.map(audiences) ?? []))
    }

    // MARK: Inside

    private func number(_ sequence: UInt64) -> UInt64 { sequence + 1 + offset }

    private mutating func insert(_ notice: Notice) {
        notices[notice.step] = notice
        changes.steps.insert(notice.step)
        file(notice)
    }

    private mutating func file(_ notice: Notice) {
        for audience in audiences(notice) {
            var list = steps[audience] ?? []
            let place = list.firstIndex { $0 >= notice.step } ?? list.endIndex
            if place < list.endIndex, list[place] == notice.step { continue }
            list.insert(notice.step, at: place)
            steps[audience] = list
        }
    }

    private mutating func remove(_ notice: Notice) {
        notices[notice.step] = nil
        changes.steps.insert(notice.step)
        for audience in audiences(notice) {
            steps[audience]?.removeAll { $0 == notice.step }
            if steps[audience]?.isEmpty == true { steps[audience] = nil }
        }
    }

    private mutating func removeAll(of rollout: RolloutID) -> BoardOutcome {
        let left = notices.values.filter { $0.step.rollout == rollout }
        for notice in left { remove(notice) }
        return render(left.reduce(into: []) { $0.formUnion(audiences($1)) })
    }

    private func audiences(_ notice: Notice) -> Set<Audience> {
        Set(notice.pairs.map { .set($0.set) } + notice.guests.map { audience($0, in: notice) })
    }

    /// A guest that is not known yet: that of a step which holds it alone is of the step's set.
    private func audience(_ guest: GuestID, in notice: Notice) -> Audience {
        if let known = places[guest] { return known }
        if notice.guests.count == 1, notice.pairs.count == 1 { return .set(notice.pairs[0].set) }
        return .guest(guest)
    }

    private func events(for audience: Audience) -> [ScheduledEvent] {
        (steps[audience] ?? []).compactMap { step in
            guard let notice = notices[step] else { return nil }
            let resources = notice.guests.filter { self.audience($0, in: notice) == audience }
            return resources.isEmpty ? nil : ScheduledEvent(notice, resources: resources)
        }
    }

    private mutating func renderAll() {
        documents = [:]
        for audience in steps.keys {
            let events = events(for: audience)
            if !events.isEmpty { documents[audience] = events }
        }
    }

    private mutating func render(_ audiences: Set<Audience>) -> BoardOutcome {
        var changed: Set<Audience> = []
        for audience in audiences {
            let events = events(for: audience)
            guard events != documents[audience] ?? [] else { continue }
            documents[audience] = events.isEmpty ? nil : events
            changed.insert(audience)
        }
        return raise(changed)
    }

    /// - Parameter changed: those whose document is another than before.
    @discardableResult
    private mutating func raise(_ changed: Set<Audience>) -> BoardOutcome {
        for audience in changed {
            incarnations[audience] = max(number(cursor), (incarnations[audience] ?? base) + 1)
            changes.audiences.insert(audience)
        }
        // Guests with a number of their own: that has to be another one now, too.
        for (guest, floor) in floors {
            guard let audience = places[guest], changed.contains(audience),
                floor >= incarnation(of: audience)
            else { continue }
            floors[guest] = floor + 1
            changes.guests.insert(guest)
        }
        return changed.isEmpty ? .unchanged : .changed
    }

    /// For changes whose event is not known: they are numbered as if it were the last one.
    private mutating func number(differencesFrom before: [Audience: [ScheduledEvent]]) {
        raise(Set(before.keys).union(documents.keys).filter { before[$0] != documents[$0] })
    }

    private mutating func nameAddresses(_ all: [BoardGuest]) {
        addresses = [:]
        claimedTwice = []
        for guest in all where host == nil || guest.host == host {
            for address in guest.addresses {
                if let other = addresses[address], other != guest.id {
                    claimedTwice.insert(address)
                }
                addresses[address] = guest.id
            }
        }
        for address in claimedTwice { addresses[address] = nil }
    }

    // MARK: Remembering

    /// What has to be kept since it was asked last; nil if nothing.
    public mutating func takeChanges() -> BoardMemory? {
        guard changes != BoardChanges() else { return nil }
        var memory = BoardMemory(cursor: cursor, base: base, offset: offset)
        memory.notices = changes.steps.sorted().compactMap { notices[$0] }
        memory.removed = changes.steps.sorted().filter { notices[$0] == nil }
        memory.incarnations = changes.audiences.sorted().map {
            BoardMemory.Incarnation(audience: $0, number: incarnations[$0] ?? base)
        }
        memory.floors = changes.guests.sorted().map {
            BoardMemory.Floor(guest: $0, number: floors[$0] ?? 0)
        }
        memory.places = changes.places.sorted().compactMap { guest in
            places[guest].map { BoardMemory.Place(guest: guest, audience: $0) }
        }
        changes = BoardChanges()
        return memory
    }
}

private struct BoardChanges: Hashable, Sendable {
    var cursor = false
    var steps: Set<StepID> = []
    var audiences: Set<Audience> = []
    var guests: Set<GuestID> = []
    var places: Set<GuestID> = []
}

/// What a board needs so that its numbers never go back: all of it, or what has changed.
public struct BoardMemory: Hashable, Sendable {
    public struct Incarnation: Hashable, Sendable {
        public var audience: Audience
        public var number: UInt64
        public init(audience: Audience, number: UInt64) {
            self.audience = audience
            self.number = number
        }
    }
    public struct Floor: Hashable, Sendable {
        public var guest: GuestID
        public var number: UInt64
        public init(guest: GuestID, number: UInt64) {
            self.guest = guest
            self.number = number
        }
    }
    public struct Place: Hashable, Sendable {
        public var guest: GuestID
        public var audience: Audience
        public init(guest: GuestID, audience: Audience) {
            self.guest = guest
            self.audience = audience
        }
    }
    public var cursor: UInt64
    /// 0 if no board has ever been loaded.
    public var base: UInt64
    public var offset: UInt64
    public var notices: [Notice] = []
    /// Steps whose notices are gone.
    public var removed: [StepID] = []
    public var incarnations: [Incarnation] = []
    public var floors: [Floor] = []
    /// Where each guest was last.
    public var places: [Place] = []

    public init(cursor: UInt64 = 0, base: UInt64 = 0, offset: UInt64 = 0) {
        self.cursor = cursor
        self.base = base
        self.offset = offset
    }
}

extension FleetEvent.Body {
    /// The step whose notice this may change.
    fileprivate var noticedStep: StepID? {
        switch self {
        case .stepNoticed(let notice): notice.step
        case .noticeAcknowledged(let step, _), .noticeWithdrawn(let step, _): step
        case .stepGranted(let step, _, _, _, _, _, _): step
        case .stepEnded(let step, _, _, _), .stepEndedWithoutHold(let step, _, _): step
        case .holdFinished(let hold): hold.step
        case .rolloutStarted, .rolloutChanged, .lockReleased: nil
        }
    }
}

extension Notice {
    /// A step without notice time is told as started, for an unknown time: the event that starts it
    /// does not say more, and every notifier has to say the same.
    fileprivate var asTold: Notice {
        guard isStarted, noticedAt == notBefore else { return self }
        var notice = self
        notice.deadlineMilliseconds = 0
        return notice
    }
}

extension Notice? {
    /// What stands on the board after the event; nil if nothing of this step does.
    fileprivate func after(_ event: FleetEvent) -> Notice? {
        if case .stepNoticed(let notice) = event.body { return notice }
        guard var notice = self else { return .granted(by: event) }
        switch event.body {
        case .noticeAcknowledged(_, let guest):
            if !notice.acknowledgedBy.contains(guest) {
                notice.acknowledgedBy = (notice.acknowledgedBy + [guest]).sorted()
            }
        case .stepGranted: notice.isStarted = true
        case .holdFinished(let hold):
            notice.guests.removeAll { $0 == hold.record.guest }
            if notice.guests.isEmpty { return nil }
        case .stepEnded, .stepEndedWithoutHold, .noticeWithdrawn: return nil
        case .stepNoticed, .rolloutStarted, .rolloutChanged, .lockReleased: break
        }
        return notice
    }

    private static func granted(by event: FleetEvent) -> Notice? {
        guard
            case .stepGranted(
                let step, let host, let guests, let pairs, let release, let component, let version
            ) = event.body
        else { return nil }
        return Notice(
            step: step, host: host, guests: guests, pairs: pairs, release: release,
            component: component, version: version, noticedAt: event.at, notBefore: event.at,
            deadlineMilliseconds: 0, isStarted: true, acknowledgedBy: [])
    }
}
