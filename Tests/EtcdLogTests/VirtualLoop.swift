import Edges

/// Time that passes only when nothing is left to do in it.
final class VirtualClock {
    fileprivate(set) var nowMilliseconds: Int64 = 0
    fileprivate var dice: SplitMix
    private var events: [Event] = []
    private var count = 0

    private struct Event {
        var at: Int64
        var number: Int
        var body: () -> Void
    }

    init(seed: UInt64 = 1) { dice = SplitMix(state: seed) }

    fileprivate func add(at time: Int64, _ body: @escaping () -> Void) {
        count += 1
        let event = Event(at: max(time, nowMilliseconds), number: count, body: body)
        let index = events.lastIndex { ($0.at, $0.number) <= (event.at, event.number) }
        events.insert(event, at: index.map { $0 + 1 } ?? 0)
    }

    /// - Returns: whether `condition` came true within the limit.
    func run(for limit: Duration, until condition: () -> Bool = { false }) -> Bool {
        let end = nowMilliseconds + limit.wholeMilliseconds
        while !condition() {
            guard let next = events.first, next.at <= end else {
                nowMilliseconds = end
                return condition()
            }
            events.removeFirst()
            nowMilliseconds = next.at
            next.body()
        }
        return true
    }
}

struct SplitMix: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }
    mutating func roll(_ sides: Int) -> Int { Int.random(in: 0..<sides, using: &self) }
}

extension Duration {
    /// Rounded up.
    var wholeMilliseconds: Int64 { Int64((self / .milliseconds(1)).rounded(.up)) }
}

final class VirtualTimer: LoopTimer {
    fileprivate var body: (() -> Void)?
    fileprivate init(_ body: @escaping () -> Void) { self.body = body }
    func cancel() { body = nil }
}

/// A process's loop on a virtual clock; after ``die()`` nothing is called any more.
final class VirtualLoop: EventLoop {
    private let clock: VirtualClock
    private var isDead = false

    init(_ clock: VirtualClock) { self.clock = clock }

    func die() { isDead = true }

    @discardableResult
    func after(_ delay: Duration, _ body: @escaping () -> Void) -> VirtualTimer {
        let timer = VirtualTimer(body)
        add(delay) {
            let body = timer.body
            timer.body = nil
            body?()
        }
        return timer
    }

    @discardableResult
    func every(_ interval: Duration, _ body: @escaping () -> Void) -> VirtualTimer {
        let timer = VirtualTimer(body)
        again(timer, interval)
        return timer
    }

    private func again(_ timer: VirtualTimer, _ interval: Duration) {
        add(interval) { [weak self] in
            guard let body = timer.body else { return }
            body()
            self?.again(timer, interval)
        }
    }

    private func add(_ delay: Duration, _ body: @escaping () -> Void) {
        clock.add(at: clock.nowMilliseconds + delay.wholeMilliseconds) { [weak self] in
            if self?.isDead == false { body() }
        }
    }

    func soon(_ body: @escaping () -> Void) { after(.zero, body) }
    var nowMilliseconds: Int64 { clock.nowMilliseconds }
    var wallMicroseconds: Int64 { 1_700_000_000_000_000 + clock.nowMilliseconds * 1_000 }
    func random(in range: ClosedRange<Int64>) -> Int64 { .random(in: range, using: &clock.dice) }
    func randomBytes(_ count: Int) -> [UInt8] {
        (0..<count).map { _ in .random(in: 0...255, using: &clock.dice) }
    }
}
