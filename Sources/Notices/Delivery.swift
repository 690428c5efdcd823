// Hands what the outbox holds to the sinks, each on a lane of its own.
//
//   outbox ──pending──▶ Lane ──start──▶ Receiver ──outcome──▶ Lane.settle ──▶ marks ──mark──▶ outbox
//                        ▲                                                     │ together, every 10 ms
//                        └──────── timer: due, or rested ◀─────────────────────┘
//
// A receiver answers when it likes: no lane waits for another, and following waits for none.
// Failure modes: the process dies between the receiver's answer and the mark → the bulletin goes once
// more, under the same idempotency key; the record cannot be written → onFailure, and nothing more goes.

public import Edges
import Fleet

/// What takes bulletins for a sink.
public protocol Receiver: AnyObject {
    /// Hands them over, all or nothing.
    ///
    /// - Parameters:
    ///   - items: at most as many as the sink's ``Sink/batchCountMax``, in order.
    ///   - completion: to be called once, now or later.
    func take(_ items: [OutboxItem], completion: @escaping (DeliveryOutcome) -> Void)
}

/// At least once for each bulletin and sink: a row is marked after its receiver has taken it.
public final class Delivery<Record: NoticeRecord, Turns: EventLoop> {
    /// The record cannot be written any more.
    public var onFailure: ((Record.Failure) -> Void)?
    /// Rows of these sinks were marked.
    public var onSettled: (() -> Void)?
    /// Asked before each hand-over to a shared sink, besides ``openShared(_:)``: this process may have
    /// stood still since. If not, nothing is handed over before the next ``openShared(_:)``.
    public var mayServeShared: () -> Bool = { true }

    private final class Way {
        var lane: Lane
        let receiver: any Receiver
        /// Closed while another notifier delivers for all.
        var isOpen: Bool
        /// Nothing more is in the outbox than was loaded.
        var isExhausted = false
        var isRunning = false
        var timer: Turns.TimerHandle?
        var toldProblem: String?

        init(_ sink: Sink, _ receiver: any Receiver) {
            lane = Lane(sink)
            self.receiver = receiver
            isOpen = !sink.isShared
        }
    }

    private let store: Record
    private let loop: Turns
    private let ways: [Way]
    private let tell: (FollowProblem) -> Void
    private let pause: (any PausePoint)?
    private var marks: [OutboxMark] = []
    private var flushing: Turns.TimerHandle?
    private var hasStopped = false
    /// Called when nothing is on its way any more; nothing new begins.
    private var finished: (() -> Void)?
    private var finishing: Turns.TimerHandle?
    private var isHeldBack = false
    private var wasHeldBack = false

    /// Marks that wait for others to be written with them, and for how long.
    private static var marksMax: Int { 512 }
    private static var markDelay: Duration { .milliseconds(10) }
    /// Hand-overs in one turn of the loop, so that others have theirs.
    private static var startsMax: Int { 64 }

    /// - Parameters:
    ///   - ways: the sinks and what takes for each; shared ones are closed until ``open(_:)``.
    ///   - tell: takes what an operator should know of.
    ///   - pause: where a test may make the process end.
    public init(
        store: Record, loop: Turns, ways: [(Sink, any Receiver)],
        tell: @escaping (FollowProblem) -> Void, pause: (any PausePoint)? = nil
    ) {
        self.pause = pause
        self.store = store
        self.loop = loop
        self.ways = ways.map { Way($0.0, $0.1) }
        self.tell = tell
    }

    /// All that get rows for what is new, also those that another notifier serves now.
    public var sinks: [Sink] { ways.map(\.lane.sink) }

    /// There is, or may be, something new in the outbox.
    public func wake() {
        for way in ways {
            way.isExhausted = false
            run(way)
        }
    }

    /// Hands nothing over before `body` has ended: what it has read there may not be durable yet.
    public func holdBack<Failure: Error>(
        while body: () throws(Failure) -> Void
    ) throws(Failure) {
        isHeldBack = true
        do {
            defer { isHeldBack = false }
            try body()
        }
        if wasHeldBack { wake() }
        wasHeldBack = false
    }

    /// Lets shared sinks be served from here, or no longer. What is on its way comes to its end.
    ///
    /// Whoever opens has marked what others have delivered.
    public func openShared(_ isOpen: Bool) {
        if isOpen { flush() }
        for way in ways where way.lane.sink.isShared {
            if way.isOpen != isOpen {
                way.isOpen = isOpen
                way.lane.beginAnew()
                way.isExhausted = false
            }
            run(way)
        }
    }

    /// Hands nothing more over, waits for what is on its way, and then is as after ``stop()``.
    ///
    /// - Parameter limit: what is not answered by then may go once more, under the same key.
    public func finish(within limit: Duration, completion: @escaping () -> Void) {
        finished = completion
        finishing = loop.after(limit) { [weak self] in self?.endFinishing() }
        endIfAtRest()
    }

    private func endIfAtRest() {
        guard finished != nil, hasStopped || ways.allSatisfy(\.lane.isAtRest) else { return }
        endFinishing()
    }

    private func endFinishing() {
        finishing?.cancel()
        let completion = finished
        finished = nil
        stop()
        completion?()
    }

    /// Writes down what has been delivered; nothing more goes out.
    public func stop() {
        flush()
        hasStopped = true
        for way in ways { way.timer?.cancel() }
        flushing?.cancel()
    }

    private var now: LaneTime {
        LaneTime(
            milliseconds: loop.nowMilliseconds,
            wall: Timestamp(microseconds: loop.wallMicroseconds))
    }

    private func run(_ way: Way) {
        guard way.isOpen, !way.isRunning, !hasStopped, finished == nil else { return }
        guard !isHeldBack else {
            wasHeldBack = true
            return
        }
        way.isRunning = true
        defer { way.isRunning = false }
        way.timer?.cancel()
        way.timer = nil
        for _ in 0..<Self.startsMax {
            guard fill(way), !hasStopped else { return }
            if way.lane.sink.isShared, !mayServeShared() { return }
            guard let (handOver, items) = way.lane.start(now: now) else {
                // One that finds nothing may find something further back.
                if way.lane.loadCount > 0, !way.isExhausted { continue }
                return wakeLater(way)
            }
            if mutated(.markedBeforeSent) {
                marks += items.map { OutboxMark(number: $0.number, change: .delivered) }
                flush()
            }
            pause?.reached("delivering-\(way.lane.sink.id)")
            way.receiver.take(items) { [weak self, unowned way] outcome in
                self?.settle(way, handOver, items, outcome)
            }
        }
        loop.soon { [weak self, weak way] in
            guard let self, let way else { return }
            run(way)
        }
    }

    /// - Returns: false if the record cannot be read.
    private func fill(_ way: Way) -> Bool {
        let count = way.lane.loadCount
        guard count > 0, !way.isExhausted else { return true }
        do throws(Record.Failure) {
            let items = try store.pending(
                way.lane.sink.id, after: way.lane.loadedUpTo, limit: count)
            way.isExhausted = items.count < count
            way.lane.load(items, now: now)
            return true
        } catch {
            fail(error)
            return false
        }
    }

    private func wakeLater(_ way: Way) {
        guard let at = way.lane.wakeAt(now: now) else { return }
        let wait = max(1, at - loop.nowMilliseconds)
        way.timer = loop.after(.milliseconds(wait)) { [weak self, weak way] in
            guard let self, let way else { return }
            way.timer = nil
            run(way)
        }
    }

    private func settle(
        _ way: Way, _ handOver: Int, _ items: [OutboxItem], _ outcome: DeliveryOutcome
    ) {
        if outcome == .taken { pause?.reached("taken-\(way.lane.sink.id)") }
        let chance = loop.random(in: 0...1_000)
        let settled = way.lane.settle(handOver, outcome, now: now, chance: chance)
        marks += settled
        for mark in settled {
            guard case .dead(_, let reason) = mark.change,
                let item = items.first(where: { $0.number == mark.number })
            else { continue }
            tell(.dead(way.lane.sink.id, bulletin: item.bulletin.id, reason: reason))
        }
        if let problem = way.lane.problem, problem != way.toldProblem {
            tell(.undelivered(way.lane.sink.id, reason: problem))
        }
        way.toldProblem = way.lane.problem
        if marks.count >= Self.marksMax {
            flush()
        } else if flushing == nil, !marks.isEmpty {
            flushing = loop.after(Self.markDelay) { [weak self] in self?.flush() }
        }
        endIfAtRest()
        run(way)
    }

    private func flush() {
        flushing?.cancel()
        flushing = nil
        guard !marks.isEmpty, !hasStopped else { return }
        do throws(Record.Failure) {
            try store.mark(marks, at: now.wall)
            marks = []
            pause?.reached("marked")
        } catch {
            return fail(error)
        }
        onSettled?()
    }

    private func fail(_ error: Record.Failure) {
        hasStopped = true
        onFailure?(error)
    }
}
