// What the notifier remembers, as far as following and delivering need it. NotifierShell keeps it in
// SQLite; a simulation keeps it in memory and lets it forget what was not written yet.

public import Fleet
public import Presentation

/// Where annotations go.
public enum Sink: String, Hashable, Sendable, CaseIterable {
    /// One line of text for each annotation.
    case stdout
    /// One line of JSON for each annotation.
    case file
}

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

/// A line that a sink has not taken yet.
public struct PendingLine: Hashable, Sendable {
    /// Its place in the outbox, ascending.
    public var number: Int64
    public var annotationID: String
    /// Without a line feed.
    public var line: String

    public init(number: Int64, annotationID: String, line: String) {
        self.number = number
        self.annotationID = annotationID
        self.line = line
    }
}

/// A line for the outbox, for one sink.
public struct SinkLine: Hashable, Sendable {
    public var sink: Sink
    /// Without a line feed.
    public var line: String

    public init(sink: Sink, line: String) {
        self.sink = sink
        self.line = line
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
    /// Adds an annotation, and its lines to the outbox, behind what is there.
    ///
    /// - Parameter sequence: of its event.
    /// - Precondition: there is none with its id.
    func insert(_ annotation: Annotation, sequence: Int64, lines: [SinkLine]) throws
}

/// Annotations, the outbox, and how far the leader's events are stored. One process writes.
///
/// Everything is synchronous, and durable when it returns: what is acknowledged after that, the
/// leader forgets.
public protocol NoticeRecord: AnyObject {
    associatedtype Transaction: NoticeTransaction
    /// Why the record cannot be used any more.
    associatedtype Failure: Error

    /// Sequence of the last event stored; 0 if none.
    func cursor() throws(Failure) -> UInt64
    /// Carries out all that `body` does, or nothing of it if anything throws.
    func change<Value>(_ body: (Transaction) throws -> Value) throws(Failure) -> Value
    /// Lines that `sink` has not taken, oldest first.
    func pending(_ sink: Sink, limit: Int) throws(Failure) -> [PendingLine]
    /// Marks lines as taken; marking one again changes nothing.
    func markDelivered(_ lines: [PendingLine], at time: Timestamp) throws(Failure)
}
