// What the notifier remembers, as far as following and delivering need it. NotifierShell keeps it in
// SQLite; a simulation keeps it in memory and lets it forget what was not written yet.

public import Fleet

/// Up to where the leader's events are stored.
public struct FollowPosition: Hashable, Sendable {
    /// Of the last event stored; 0 if none.
    public var sequence: Int64
    /// How often the leader's events were seen to begin anew, plus 1. Only then may the name of a
    /// hold come back for another hold.
    public var history: Int64

    public init(sequence: Int64 = 0, history: Int64 = 1) {
        self.sequence = sequence
        self.history = history
    }
}

/// Events that the leader no longer had: those between the two numbers.
public struct EventGap: Hashable, Sendable {
    public var afterSequence: UInt64
    public var beforeSequence: UInt64

    public init(afterSequence: UInt64, beforeSequence: UInt64) {
        self.afterSequence = afterSequence
        self.beforeSequence = beforeSequence
    }
}

/// The record within one change of it, which comes true as a whole or not at all.
public protocol NoticeTransaction {
    func position() throws -> FollowPosition
    func save(_ position: FollowPosition) throws
    func save(_ gap: EventGap, history: Int64, noticedAt: Timestamp) throws
    /// - Returns: when the hold of that annotation began; nil if there is no such annotation.
    func heldAt(_ annotationID: String) throws -> Timestamp?
    func hasBulletin(_ id: String) throws -> Bool
    /// What was told of a step, oldest first.
    func bulletins(of step: StepID, history: Int64) throws -> [Bulletin]
    /// Of each guest of a rollout's steps what was told last, if that is that something is to come.
    func unfinished(of rollout: RolloutID, history: Int64) throws -> [Bulletin]
    /// Adds a bulletin, with its annotation if it has one, and a row of the outbox for each of the
    /// sinks, behind what is there.
    ///
    /// - Precondition: there is none with its id.
    func insert(
        _ bulletin: Bulletin, history: Int64, recordedAt: Timestamp, sinks: [SinkID]) throws
}

/// Bulletins, annotations, the outbox, and how far the leader's events are stored. One process follows;
/// others may put rows into the outbox again, or take dead ones out.
///
/// Everything is synchronous, and durable when it returns: what is acknowledged after that, the
/// leader forgets. Only marks need not be: after a power cut the newest may be gone.
public protocol NoticeRecord: AnyObject {
    associatedtype Transaction: NoticeTransaction
    /// Why the record cannot be used any more.
    associatedtype Failure: Error

    /// Sequence of the last event stored; 0 if none.
    func cursor() throws(Failure) -> UInt64
    /// Carries out all that `body` does, or nothing of it if anything throws.
    func change<Value>(_ body: (Transaction) throws -> Value) throws(Failure) -> Value
    /// What `sink` has not taken and is not dead, oldest first.
    ///
    /// - Parameter number: only what comes after this place in the outbox.
    func pending(_ sink: SinkID, after number: Int64, limit: Int) throws(Failure) -> [OutboxItem]
    /// Says of rows what came of them. One that has gone meanwhile, or is settled, is passed over.
    func mark(_ marks: [OutboxMark], at time: Timestamp) throws(Failure)
    /// Up to which event all bulletins of a sink are settled: the cursor if none is pending.
    func settledUpTo(_ sink: SinkID) throws(Failure) -> UInt64
    /// Marks as delivered what another notifier has delivered: all up to an event.
    func markDelivered(
        _ sink: SinkID, upTo sequence: UInt64, at time: Timestamp) throws(Failure)
}
