// Handshakes are most of what a storm of reconnects costs a server: each takes the better part of a
// millisecond. This queue lets them go on one after the other, the urgent ones first, and gives way
// to the loop's other work every few milliseconds.
//
//   client's hello read ──▶ wait(isUrgent) ──turn──▶ our hello and certificate
//   client's certificate ─▶ wait(isUrgent) ──turn──▶ verified
//
// Failure modes: a peer that goes away while it waits gives up its place (Turn.cancel); one that says
// it is urgent and is not still lets every fifth turn pass to the others.

/// The order in which waiting peers get their turn: the urgent first, and of each kind first those
/// that have had one, so that a storm fills the sessions one after the other and does not
/// keep everybody half-way. Only computes.
struct TurnOrder<Element> {
    private struct Waiting {
        var finishing = Fifo<Element>()
        var beginning = Fifo<Element>()
        var isEmpty: Bool { finishing.isEmpty && beginning.isEmpty }

        mutating func removeFirst() -> Element? {
            finishing.isEmpty ? beginning.removeFirst() : finishing.removeFirst()
        }
    }

    private var urgent = Waiting()
    private var ordinary = Waiting()
    private var urgentInARow = 0
    private let urgentTurnsMax: Int

    /// - Parameter urgentTurnsMax: urgent turns after which an ordinary one comes, if one waits.
    init(urgentTurnsMax: Int) { self.urgentTurnsMax = urgentTurnsMax }

    var isEmpty: Bool { urgent.isEmpty && ordinary.isEmpty }

    /// - Parameter isFinishing: it has had a turn before.
    mutating func add(_ element: Element, isUrgent: Bool, isFinishing: Bool) {
        switch (isUrgent, isFinishing) {
        case (true, true): urgent.finishing.append(element)
        case (true, false): urgent.beginning.append(element)
        case (false, true): ordinary.finishing.append(element)
        case (false, false): ordinary.beginning.append(element)
        }
    }

    mutating func next() -> Element? {
        if !urgent.isEmpty, ordinary.isEmpty || urgentInARow < urgentTurnsMax {
            urgentInARow += 1
            return urgent.removeFirst()
        }
        urgentInARow = 0
        return ordinary.removeFirst()
    }
}

/// First in, first out, in constant time.
struct Fifo<Element> {
    private var elements: [Element?] = []
    private var start = 0

    var isEmpty: Bool { start == elements.count }
    var count: Int { elements.count - start }

    mutating func append(_ element: Element) { elements.append(element) }

    mutating func removeFirst() -> Element? {
        guard !isEmpty else { return nil }
        let element = elements[start]
        elements[start] = nil
        start += 1
        if start > 64, start * 2 > elements.count {
            elements.removeFirst(start)
            start = 0
        }
        return element
    }
}

/// See the top of this file. Belongs to the loop's thread.
public final class HandshakeQueue {
    final class Turn {
        fileprivate var body: (() -> Void)?
        fileprivate init(_ body: @escaping () -> Void) { self.body = body }
        /// The peer does not wait any more. Harmless when repeated.
        func cancel() { body = nil }
    }

    private let loop: Loop
    private let slice: Duration
    private var order: TurnOrder<Turn>
    private var isPlanned = false

    /// - Parameters:
    ///   - slice: time after which the loop's other work comes first again.
    ///   - urgentTurnsMax: urgent turns after which an ordinary one comes, if one waits.
    public init(on loop: Loop, slice: Duration, urgentTurnsMax: Int) {
        self.loop = loop
        self.slice = slice
        order = TurnOrder(urgentTurnsMax: urgentTurnsMax)
    }

    /// Calls `body` when its turn has come; never before this returns.
    func wait(isUrgent: Bool, isFinishing: Bool, _ body: @escaping () -> Void) -> Turn {
        let turn = Turn(body)
        order.add(turn, isUrgent: isUrgent, isFinishing: isFinishing)
        plan()
        return turn
    }

    private func plan() {
        guard !isPlanned, !order.isEmpty else { return }
        isPlanned = true
        loop.soon { [self] in
            isPlanned = false
            let end = ContinuousClock.now + slice
            while let turn = order.next() {
                guard let body = turn.body else { continue }
                turn.body = nil
                body()
                if ContinuousClock.now >= end { break }
            }
            plan()
        }
    }
}
