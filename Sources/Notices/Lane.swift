// One sink's way out. Only computes: what is due comes in, what is to be handed over and what is to be
// marked comes out; time and chance are handed in.
//
//              load            start                    settle: taken
//   (outbox) ───────▶ waiting ───────▶ in flight ──────────────────────────▶ mark delivered
//                        ▲                 │  settle: later, refused
//                        └─ due later ◀────┼──▶ mark with the time of the next attempt
//                                          └──▶ given up: mark dead
//
// - Of one guest only the oldest is started, so that it is told things in their order.
// - While the last attempts have failed, the lane rests after each, and then tries one: a receiver that
//   is away is asked once in a while, however much is due to it.
// - A refusal is that bulletin's own affair: the others go on.

public import Fleet

/// A row of the outbox: a bulletin that a sink has not taken.
public struct OutboxItem: Hashable, Sendable {
    /// Its place in the outbox, ascending.
    public var number: Int64
    public var bulletin: Bulletin
    /// That have failed, for whatever reason.
    public var attempts: Int
    /// Attempts at which its receiver refused it.
    public var refusals: Int
    /// nil if it was never tried.
    public var nextAttemptAt: Timestamp?

    public init(
        number: Int64, bulletin: Bulletin, attempts: Int = 0, refusals: Int = 0,
        nextAttemptAt: Timestamp? = nil
    ) {
        self.number = number
        self.bulletin = bulletin
        self.attempts = attempts
        self.refusals = refusals
        self.nextAttemptAt = nextAttemptAt
    }
}

/// What the record shall say of a row of the outbox.
public struct OutboxMark: Hashable, Sendable {
    public enum Change: Hashable, Sendable {
        case delivered
        case failed(attempts: Int, refusals: Int, nextAttemptAt: Timestamp, reason: String)
        case dead(attempts: Int, reason: String)
    }
    public var number: Int64
    public var change: Change

    public init(number: Int64, change: Change) {
        self.number = number
        self.change = change
    }
}

/// The moment, on both clocks.
public struct LaneTime: Hashable, Sendable {
    /// Of a clock that only goes forward.
    public var milliseconds: Int64
    /// For the record.
    public var wall: Timestamp
    public init(milliseconds: Int64, wall: Timestamp) {
        self.milliseconds = milliseconds
        self.wall = wall
    }
}

public struct Lane: Sendable {
    public let sink: Sink
    /// Everything up to here has been loaded.
    public private(set) var loadedUpTo: Int64 = 0

    private struct Waiting {
        var item: OutboxItem
        var dueAt: Int64
    }
    /// Ascending.
    private var waiting: [Waiting] = []
    /// By hand-over. Only looked up.
    private var inFlight: [Int: [OutboxItem]] = [:]
    private var busyGuests: Set<GuestID> = []
    private var lastHandOver = 0
    /// Attempts that failed since one has not; 0 while all is well.
    private var failedInRow = 0
    /// Hand-overs up to here began before the last failure: what comes of them is the same failure.
    private var failureSeenBy = 0
    private var restsUntil: Int64 = .min
    /// Why the last attempt failed; nil if it did not.
    public private(set) var problem: String?

    /// Loaded at once.
    public static let loadCountMax = 256
    /// Loaded and not settled. Beyond it those behind must wait, even if all of these belong to guests
    /// whose oldest is refused.
    public static let windowCountMax = 4_096

    public init(_ sink: Sink) { self.sink = sink }

    public var isIdle: Bool { waiting.isEmpty && inFlight.isEmpty }
    /// Nothing is on its way.
    public var isAtRest: Bool { inFlight.isEmpty }
    public var waitingCount: Int { waiting.count }

    /// How many more may be loaded now; 0 while there is enough to do.
    public var loadCount: Int {
        guard waiting.count < Self.loadCountMax / 2 || !hasStarted else { return 0 }
        return max(0, min(Self.loadCountMax, Self.windowCountMax - waiting.count))
    }
    /// Whether the last look found something to start.
    private var hasStarted = true

    /// Adds what comes after ``loadedUpTo`` in the outbox.
    public mutating func load(_ items: [OutboxItem], now: LaneTime) {
        for item in items where item.number > loadedUpTo {
            loadedUpTo = item.number
            // After a new beginning, what is on its way is not to go twice.
            guard !isInFlight(item.number) else { continue }
            var dueAt = Int64.min
            if let next = item.nextAttemptAt {
                // A clock that was set must keep it no longer than a wait of ours: a receiver that asked
                // for more is asked once more after a restart.
                let wait = (next.microseconds - now.wall.microseconds) / 1_000
                dueAt = now.milliseconds + min(max(wait, 0), sink.retry.longestMilliseconds)
            }
            waiting.append(Waiting(item: item, dueAt: dueAt))
            hasStarted = true
        }
    }

    /// What shall be handed over now.
    public mutating func start(now: LaneTime) -> (handOver: Int, items: [OutboxItem])? {
        guard now.milliseconds >= restsUntil else { return nil }
        guard inFlight.count < (failedInRow > 0 ? 1 : sink.inFlightMax) else { return nil }
        var passed: Set<GuestID> = []
        var chosen: [Int] = []
        for (index, entry) in waiting.enumerated() {
            let guest = entry.item.bulletin.guest
            if entry.dueAt > now.milliseconds || busyGuests.contains(guest)
                || passed.contains(guest)
            {
                // In a batch the order is that of the outbox, as in a file.
                if sink.batchCountMax > 1 { break }
                passed.insert(guest)
                continue
            }
            chosen.append(index)
            if chosen.count == sink.batchCountMax { break }
        }
        hasStarted = !chosen.isEmpty
        guard !chosen.isEmpty else { return nil }
        let items = chosen.map { waiting[$0].item }
        if chosen.last == chosen.count - 1 {
            waiting.removeFirst(chosen.count)
        } else {
            for index in chosen.reversed() { waiting.remove(at: index) }
        }
        lastHandOver += 1
        inFlight[lastHandOver] = items
        for item in items { busyGuests.insert(item.bulletin.guest) }
        return (lastHandOver, items)
    }

    /// What came of a hand-over.
    ///
    /// - Parameter chance: 0 to 1,000.
    /// - Returns: for the record; empty for a hand-over that is over already.
    public mutating func settle(
        _ handOver: Int, _ outcome: DeliveryOutcome, now: LaneTime, chance: Int64
    ) -> [OutboxMark] {
        guard let items = inFlight.removeValue(forKey: handOver) else { return [] }
        for item in items { busyGuests.remove(item.bulletin.guest) }
        hasStarted = true
        switch outcome {
        case .taken:
            failedInRow = 0
            problem = nil
            return items.map { OutboxMark(number: $0.number, change: .delivered) }
        case .later(let reason, let asked):
            problem = reason
            if handOver > failureSeenBy {
                failedInRow += 1
                failureSeenBy = lastHandOver
                restsUntil = .min
            }
            let wait = sink.retry.waitMilliseconds(
                attempts: failedInRow, askedMilliseconds: asked, chance: chance)
            restsUntil = max(restsUntil, now.milliseconds + wait)
            return again(items, reason, isRefused: false, asked, now, chance)
        case .refused(let reason):
            // Who refuses is there.
            failedInRow = 0
            problem = reason
            return again(items, reason, isRefused: true, nil, now, chance)
        }
    }

    private mutating func again(
        _ items: [OutboxItem], _ reason: String, isRefused: Bool, _ asked: Int64?, _ now: LaneTime,
        _ chance: Int64
    ) -> [OutboxMark] {
        items.map { item in
            var item = item
            item.attempts += 1
            if isRefused { item.refusals += 1 }
            guard !sink.retry.givesUp(attempts: item.attempts, refusals: item.refusals) else {
                return OutboxMark(
                    number: item.number, change: .dead(attempts: item.attempts, reason: reason))
            }
            let wait = sink.retry.waitMilliseconds(
                attempts: item.attempts, askedMilliseconds: asked, chance: chance)
            let next = Timestamp(microseconds: now.wall.microseconds + wait * 1_000)
            item.nextAttemptAt = next
            let place = waiting.firstIndex { $0.item.number > item.number } ?? waiting.endIndex
            waiting.insert(Waiting(item: item, dueAt: now.milliseconds + wait), at: place)
            return OutboxMark(
                number: item.number,
                change: .failed(
                    attempts: item.attempts, refusals: item.refusals, nextAttemptAt: next,
                    reason: reason))
        }
    }

    /// When to look again although nothing happens; nil if nothing waits for a moment.
    public func wakeAt(now: LaneTime) -> Int64? {
        guard !waiting.isEmpty, inFlight.count < (failedInRow > 0 ? 1 : sink.inFlightMax) else {
            return nil
        }
        if now.milliseconds < restsUntil { return restsUntil }
        return waiting.lazy.map(\.dueAt).filter { $0 > now.milliseconds }.min()
    }

    /// Forgets what waits and everything that it knew of the receiver: what is in flight comes to its
    /// end, and the outbox is read from its beginning.
    public mutating func beginAnew() {
        waiting = []
        loadedUpTo = 0
        failedInRow = 0
        restsUntil = .min
        hasStarted = true
    }

    private func isInFlight(_ number: Int64) -> Bool {
        inFlight.values.contains { $0.contains { $0.number == number } }
    }
}
