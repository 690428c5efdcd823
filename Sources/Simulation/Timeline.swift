// Virtual time: everything that happens in a run is an entry of one queue, in the order of (moment, number of
// the entry). Nothing else orders anything, so a run is the same wherever it is repeated.
//
// A process is a set of callbacks on a loop of its own. Killed, it has no callback any more: what it had
// planned is dropped when its turn comes. Stopped (SIGSTOP), its callbacks wait and run when it is woken.
// A callback in whose middle the process is killed runs to its end, but whatever it does at an edge
// after that has no effect: see ``SimulatedProcess/isAlive``.

import Edges

/// The queue of all that will happen.
final class Timeline {
    struct Entry {
        var at: Int64
        var number: UInt64
        var process: SimulatedProcess?
        var timer: SimulatedTimer?
        var body: () -> Void

        func isBefore(_ other: Entry) -> Bool {
            at == other.at ? number < other.number : at < other.at
        }
    }

    /// Microseconds since the run began.
    private(set) var now: Int64 = 0
    /// Entries carried out.
    private(set) var stepCount = 0
    private var lastNumber: UInt64 = 0
    /// A binary heap: the earliest entry first.
    private var heap: [Entry] = []

    /// Something that belongs to no process: the network, a disk, a fault.
    func after(_ microseconds: Int64, _ body: @escaping () -> Void) {
        push(now + max(0, microseconds), nil, nil, body)
    }

    func push(
        _ at: Int64, _ process: SimulatedProcess?, _ timer: SimulatedTimer?,
        _ body: @escaping () -> Void
    ) {
        lastNumber += 1
        let entry = Entry(
            at: max(now, at), number: lastNumber, process: process, timer: timer, body: body)
        heap.append(entry)
        var index = heap.count - 1
        while index > 0 {
            let parent = (index - 1) / 2
            guard heap[index].isBefore(heap[parent]) else { break }
            heap.swapAt(index, parent)
            index = parent
        }
    }

    private func pop() -> Entry? {
        guard let first = heap.first, let last = heap.popLast() else { return nil }
        guard !heap.isEmpty else { return last }
        heap[0] = last
        var index = 0
        while true {
            let left = 2 * index + 1
            guard left < heap.count else { break }
            let right = left + 1
            let least =
                right < heap.count && heap[right].isBefore(heap[left]) ? right : left
            guard heap[least].isBefore(heap[index]) else { break }
            heap.swapAt(index, least)
            index = least
        }
        return first
    }

    /// Nothing happens any more.
    func clear() { heap = [] }

    /// Carries out the next entry.
    ///
    /// - Returns: false if there is none before `end`.
    func step(until end: Int64) -> Bool {
        while let first = heap.first, first.at <= end {
            guard let entry = pop() else { return false }
            now = entry.at
            if let process = entry.process {
                guard process.isAlive else { continue }
                if process.isFrozen {
                    process.wait(entry.timer, entry.body)
                    continue
                }
            }
            if let timer = entry.timer {
                guard !timer.isOver else { continue }
                timer.willFire()
            }
            stepCount += 1
            entry.body()
            return true
        }
        return false
    }
}

/// A computer: power, clocks, a place in the network.
final class Place {
    let name: String
    let timeline: Timeline
    private(set) var isUp = true
    /// Differs after each start of it.
    private(set) var bootNumber = 1
    /// Of its wall clock from true time, in microseconds.
    var wallOffset: Int64 = 0
    /// Of all its clocks, in millionths.
    let drift: Int64
    /// In the order of their start; dead ones are forgotten.
    private(set) var processes: [SimulatedProcess] = []

    init(_ name: String, on timeline: Timeline, drift: Int64) {
        self.name = name
        self.timeline = timeline
        self.drift = drift
    }

    /// 2026-01-01, in microseconds since 1970: where true time begins.
    static let epoch: Int64 = 1_767_225_600_000_000

    var wallMicroseconds: Int64 { Self.epoch + local(timeline.now) + wallOffset }
    /// The hold clock: neither stepped nor stopped.
    var holdMicroseconds: Int64 { local(timeline.now) }

    /// What its clocks make of a time that has passed.
    func local(_ microseconds: Int64) -> Int64 {
        microseconds + microseconds / 1_000_000 * drift
    }
    /// How long it really takes until its clocks have gone on by so much.
    func real(_ microseconds: Int64) -> Int64 {
        microseconds - microseconds / 1_000_000 * drift
    }

    func began(_ process: SimulatedProcess) {
        processes.removeAll { !$0.isAlive }
        processes.append(process)
    }

    func lose() {
        isUp = false
        for process in processes { process.die(isOrderly: false) }
        processes = []
    }

    func boot() {
        isUp = true
        bootNumber += 1
    }
}

/// A process of ours. A started-again one is another object.
final class SimulatedProcess {
    let name: String
    let place: Place
    let timeline: Timeline
    private(set) var isAlive = true
    private(set) var isFrozen = false
    private var waiting: [(SimulatedTimer?, () -> Void)] = []
    /// Told when it dies: streams end, monitors are closed. `true` if its computer lives on and says so
    /// to whoever is connected.
    private var onDeath: [(Bool) -> Void] = []
    /// Told at each edge, with the edge's name: where a run may kill it.
    var atEdge: (String) -> Void = { _ in }

    init(_ name: String, at place: Place) {
        self.name = name
        self.place = place
        timeline = place.timeline
        place.began(self)
    }

    /// Something that others can see is about to be done.
    ///
    /// - Returns: whether it is done: false if the process has died right before it.
    func edge(_ name: String) -> Bool {
        guard isAlive else { return false }
        atEdge(name)
        return isAlive
    }

    func kill() { die(isOrderly: true) }

    /// - Parameter isOrderly: its kernel closes what it had open.
    func die(isOrderly: Bool) {
        guard isAlive else { return }
        isAlive = false
        waiting = []
        let bodies = onDeath
        onDeath = []
        for body in bodies { body(isOrderly) }
        atEdge = { _ in }
    }

    func whenItDies(_ body: @escaping (Bool) -> Void) { onDeath.append(body) }

    func freeze() { isFrozen = true }

    func thaw() {
        isFrozen = false
        let bodies = waiting
        waiting = []
        for (timer, body) in bodies { timeline.push(timeline.now, self, timer, body) }
    }

    fileprivate func wait(_ timer: SimulatedTimer?, _ body: @escaping () -> Void) {
        waiting.append((timer, body))
    }

    /// In its next turn.
    func run(_ body: @escaping () -> Void) {
        guard isAlive else { return }
        timeline.push(timeline.now, self, nil, body)
    }

    /// Once its own clocks have gone on by so much.
    func run(after microseconds: Int64, _ body: @escaping () -> Void) {
        guard isAlive else { return }
        timeline.push(timeline.now + microseconds, self, nil, body)
    }
}

/// A timer of a ``SimulatedLoop``.
final class SimulatedTimer: LoopTimer {
    private(set) var isOver = false
    private let interval: Int64?
    private let process: SimulatedProcess
    private let body: () -> Void

    init(
        on process: SimulatedProcess, after microseconds: Int64, repeats: Bool,
        _ body: @escaping () -> Void
    ) {
        self.process = process
        self.body = body
        let real = process.place.real(microseconds)
        interval = repeats ? real : nil
        if process.isAlive { plan(real) } else { isOver = true }
    }

    private func plan(_ microseconds: Int64) {
        let timeline = process.timeline
        timeline.push(timeline.now + microseconds, process, self, body)
    }

    fileprivate func willFire() {
        if let interval { plan(interval) } else { isOver = true }
    }

    func cancel() { isOver = true }
}

/// What a process of a run has for a loop.
final class SimulatedLoop: EventLoop {
    let process: SimulatedProcess
    private var chance: Chance

    init(_ process: SimulatedProcess, _ chance: Chance) {
        self.process = process
        self.chance = chance
    }

    @discardableResult
    func after(_ delay: Duration, _ body: @escaping () -> Void) -> SimulatedTimer {
        let milliseconds = (Swift.max(0, delay.microseconds) + 999) / 1_000
        return SimulatedTimer(on: process, after: milliseconds * 1_000, repeats: false, body)
    }

    @discardableResult
    func every(_ interval: Duration, _ body: @escaping () -> Void) -> SimulatedTimer {
        SimulatedTimer(
            on: process, after: Swift.max(1_000, interval.microseconds), repeats: true, body)
    }

    func soon(_ body: @escaping () -> Void) { process.run(body) }

    var nowMilliseconds: Int64 { process.place.local(process.timeline.now) / 1_000 }
    var wallMicroseconds: Int64 { process.place.wallMicroseconds }
    func random(in range: ClosedRange<Int64>) -> Int64 { chance.within(range) }
    func randomBytes(_ count: Int) -> [UInt8] {
        (0..<count).map { _ in UInt8(truncatingIfNeeded: chance.next()) }
    }
}
