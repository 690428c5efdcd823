import Testing

@testable import UvLoop

@Suite("The handshake queue")
struct HandshakeQueueTests {
    @Test("the urgent go first, and every fifth turn is another's")
    func order() {
        var order = TurnOrder<Int>(urgentTurnsMax: 4)
        for number in 0..<3 { order.add(number, isUrgent: false, isFinishing: false) }
        for number in 100..<110 { order.add(number, isUrgent: true, isFinishing: false) }
        var seen: [Int] = []
        while let next = order.next() { seen.append(next) }
        #expect(seen == [100, 101, 102, 103, 0, 104, 105, 106, 107, 1, 108, 109, 2])
        #expect(order.isEmpty)
    }

    @Test("of each kind those that have had a turn go before those that have not")
    func finishing() {
        var order = TurnOrder<Int>(urgentTurnsMax: 4)
        for number in 0..<2 { order.add(number, isUrgent: false, isFinishing: false) }
        order.add(10, isUrgent: false, isFinishing: true)
        order.add(100, isUrgent: true, isFinishing: false)
        order.add(110, isUrgent: true, isFinishing: true)
        var seen: [Int] = []
        while let next = order.next() { seen.append(next) }
        #expect(seen == [110, 100, 10, 0, 1])
    }

    @Test("first in, first out, also over many thousands")
    func fifo() {
        var fifo = Fifo<Int>()
        var expected = 0
        for number in 0..<10_000 {
            fifo.append(number)
            if number % 3 != 0 {
                #expect(fifo.removeFirst() == expected)
                expected += 1
            }
        }
        #expect(fifo.count == 10_000 - expected)
        while let next = fifo.removeFirst() {
            #expect(next == expected)
            expected += 1
        }
        #expect(expected == 10_000)
    }

    @Test("a turn that is cancelled is passed over, and the loop's other work is not kept waiting")
    func turns() throws {
        let loop = try Loop()
        let queue = HandshakeQueue(on: loop, slice: .zero, urgentTurnsMax: 4)
        var seen: [String] = []
        let first = queue.wait(isUrgent: false, isFinishing: false) { seen.append("first") }
        for name in ["second", "third"] {
            _ = queue.wait(isUrgent: false, isFinishing: false) {
                seen.append(name)
                loop.soon { seen.append("after \(name)") }
            }
        }
        first.cancel()
        #expect(seen.isEmpty)
        loop.run()
        #expect(
            seen == ["second", "third", "after second", "after third"]
                || seen == [
                    "second", "after second", "third", "after third",
                ])
    }
}
