// Which of several notifiers delivers to the sinks that they share.
//
//   every 2 s, with a session   claim
//   a lease, ours               anew: mark what others have delivered; open the shared sinks, for as long
//                               as it is certain that nobody else can have been given them
//   a lease, another's          close them, mark what it says it has delivered
//   rows settled                report up to where, for each shared sink
//   no shared sinks             give up what an earlier process under this name may have had
//
// Everything is stored by each of them, so that whoever is given the lease has what is to be delivered.
//
// How long a lease is good for: the leader hands it on 10 s after it saw the end of its holder's session,
// or after a new term began. Both are later than the moment at which a claim was sent that it answered. So
// the time counts from there, on a clock that goes on while this process or its host stands still, and is
// looked at before each hand-over: one that was stopped for a minute knows it before it sends anything.

public import Edges
public import Fleet
public import Wire

public final class LeaseFollower<Record: NoticeRecord, Turns: EventLoop> {
    private let store: Record
    private let delivery: Delivery<Record, Turns>
    private let loop: Turns
    private let clock: () -> Int64
    private let sinks: [SinkID]
    private var number: UInt64?
    private var validUntil: Int64 = .min
    private var reported: [SinkID: UInt64] = [:]
    /// That may still be answered: oldest first.
    private var claims: [(correlation: UInt64, at: Int64)] = []
    private var hasSession = false
    private var hasGivenUp = false

    /// How often to claim with a session: several times within ``validMilliseconds``.
    public static var claimInterval: Duration { .seconds(2) }
    /// What is on its way when the time is over shall have come to its end before another begins.
    static var validMilliseconds: Int64 { Int64(Limits.deliveryLeaseMilliseconds) * 3 / 4 }
    private static var claimsMax: Int { 16 }

    /// - Parameter clock: milliseconds; goes on in a suspend.
    public init(
        store: Record, delivery: Delivery<Record, Turns>, loop: Turns, clock: @escaping () -> Int64
    ) {
        self.store = store
        self.delivery = delivery
        self.loop = loop
        self.clock = clock
        sinks = delivery.sinks.filter(\.isShared).map(\.id)
        delivery.mayServeShared = { [weak self] in self?.isValid ?? false }
    }

    /// Whether there is anything to claim for.
    public var hasSinks: Bool { !sinks.isEmpty }

    private var isValid: Bool { number != nil && clock() < validUntil }

    /// What to send when a session is there, and every ``claimInterval``: also to hear how far others are.
    ///
    /// - Parameter correlation: what it is to be sent under.
    public func claim(_ correlation: UInt64) -> [Message] {
        hasSession = true
        guard sinks.isEmpty else {
            claims.append((correlation, clock()))
            if claims.count > Self.claimsMax { claims.removeFirst() }
            return [.claimDeliveries]
        }
        defer { hasGivenUp = true }
        return hasGivenUp ? [] : [.giveUpDeliveries]
    }

    /// The session is gone. What is ours stays so for its time.
    public func onDown() {
        hasSession = false
        claims = []
        // What was sent last may not have come.
        reported = [:]
        hasGivenUp = false
    }

    /// - Parameter correlation: of the claim that it answers, or that it is a later word on.
    public func onLease(_ lease: DeliveryLease, correlation: UInt64) throws(Record.Failure) {
        if let claim = claims.first(where: { $0.correlation == correlation }), lease.isYours {
            validUntil = max(validUntil, claim.at + Self.validMilliseconds)
        }
        let isGood = lease.isYours && clock() < validUntil
        let isAnew = !isGood || lease.number != number
        if isAnew {
            number = nil
            delivery.openShared(false)
        }
        let now = Timestamp(microseconds: loop.wallMicroseconds)
        for entry in lease.delivered {
            guard let sink = sinks.first(where: { $0.rawValue == entry.sink }) else { continue }
            if isAnew { try store.markDelivered(sink, upTo: entry.sequence, at: now) }
            reported[sink] = max(entry.sequence, isAnew ? 0 : reported[sink] ?? 0)
        }
        guard isGood else { return }
        number = lease.number
        delivery.openShared(true)
    }

    /// To be called about twice a second.
    ///
    /// - Returns: what to send.
    public func onTick() throws(Record.Failure) -> [Message] {
        guard number != nil else { return [] }
        guard isValid else {
            number = nil
            delivery.openShared(false)
            return []
        }
        return try reports()
    }

    /// Of a process that ends, when nothing is on its way any more.
    ///
    /// - Returns: what to send.
    public func onEnd() throws(Record.Failure) -> [Message] {
        guard isValid else { return [] }
        return hasSession ? try reports() + [.giveUpDeliveries] : []
    }

    private func reports() throws(Record.Failure) -> [Message] {
        guard hasSession, let number else { return [] }
        var messages: [Message] = []
        for sink in sinks {
            let sequence = try store.settledUpTo(sink)
            guard sequence > reported[sink] ?? 0 else { continue }
            reported[sink] = sequence
            messages.append(
                .reportDelivered(number: number, sink: sink.rawValue, sequence: sequence))
        }
        return messages
    }
}
