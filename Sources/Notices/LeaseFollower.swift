// Which of several notifiers delivers to the sinks that they share.
//
//   session there           claim
//   a lease, ours           mark what others have delivered, then open the shared sinks
//   a lease, another's      close them, mark what it says it has delivered
//   rows settled            report up to where, for each shared sink
//   no session for long     close them: the leader will give the lease to another
//
// Everything is stored by each of them, so that whoever is given the lease has what is to be delivered.

public import Edges
public import Fleet
public import Wire

public final class LeaseFollower<Record: NoticeRecord, Turns: EventLoop> {
    private let store: Record
    private let delivery: Delivery<Record, Turns>
    private let loop: Turns
    private let sinks: [SinkID]
    private var number: UInt64?
    private var reported: [SinkID: UInt64] = [:]
    private var goneSince: Int64?

    /// How long without a session it goes on: well before another could be given the lease.
    private static var aloneMilliseconds: Int64 { Int64(Limits.deliveryLeaseMilliseconds) / 2 }

    public init(store: Record, delivery: Delivery<Record, Turns>, loop: Turns) {
        self.store = store
        self.delivery = delivery
        self.loop = loop
        sinks = delivery.sinks.filter(\.isShared).map(\.id)
    }

    /// What to send when a session is there, and now and then, to hear how far others are.
    public func claim() -> [Message] {
        goneSince = nil
        return sinks.isEmpty ? [] : [.claimDeliveries]
    }

    /// The session is gone.
    public func onDown() { goneSince = goneSince ?? loop.nowMilliseconds }

    public func onLease(_ lease: DeliveryLease) throws(Record.Failure) {
        if !lease.isYours { delivery.openShared(false) }
        let now = Timestamp(microseconds: loop.wallMicroseconds)
        for entry in lease.delivered {
            guard let sink = sinks.first(where: { $0.rawValue == entry.sink }) else { continue }
            if number == nil || !lease.isYours {
                try store.markDelivered(sink, upTo: entry.sequence, at: now)
            }
            reported[sink] = entry.sequence
        }
        number = lease.isYours ? lease.number : nil
        if lease.isYours { delivery.openShared(true) }
    }

    /// To be called about once a second.
    ///
    /// - Returns: what to send.
    public func onTick() throws(Record.Failure) -> [Message] {
        if let goneSince, loop.nowMilliseconds - goneSince > Self.aloneMilliseconds, number != nil {
            number = nil
            delivery.openShared(false)
        }
        guard let number, goneSince == nil else { return [] }
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
