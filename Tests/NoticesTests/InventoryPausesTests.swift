import Notices
import Testing

@Suite final class InventoryPausesTests {
    private var pauses = InventoryPauses()

    private func mayAsk(_ names: [String], _ now: Int64) -> Bool {
        pauses.mayAsk(for: names, nowMilliseconds: now)
    }

    /// How often it is asked while these ask every `interval` milliseconds.
    private func count(
        _ names: [String], from start: Int64, to end: Int64, every interval: Int64 = 1_000
    ) -> Int {
        stride(from: start, to: end, by: Int(interval)).count {
            pauses.mayAsk(for: names, nowMilliseconds: $0)
        }
    }

    @Test(
        "one that stays unknown is asked about at once, then ever more seldom, a minute apart")
    func grows() {
        let moments = (0..<1_800).filter {
            mayAsk(["10.0.0.1"], $0 * 1_000)
        }
        #expect(moments == [0, 2, 6, 14, 30] + stride(from: 62, to: 1_800, by: 60))
    }

    @Test("a new one is asked about as soon as two seconds have passed, and all after a change")
    func fresh() {
        #expect(count(["a"], from: 0, to: 60_000) == 5)
        #expect(!mayAsk(["a"], 60_000))
        #expect(mayAsk(["a", "b"], 60_000))
        #expect(!mayAsk(["c"], 61_999))
        #expect(mayAsk(["c"], 62_000))
        pauses.onChange()
        #expect(mayAsk(["a"], 64_000))
        pauses.onAsked(nowMilliseconds: 70_000)
        #expect(!mayAsk(["d"], 71_000))
    }

    @Test("with ever new addresses one asks every half minute, and what is kept is bounded")
    func crowd() {
        var asked = 0
        for second in Int64(0)..<600 {
            for number in 0..<20
            where pauses.mayAsk(
                for: ["\(second).\(number)"], nowMilliseconds: second * 1_000)
            {
                asked += 1
            }
        }
        #expect((45...55).contains(asked), "\(asked)")
    }

    @Test("while nothing is known, it is asked for every two seconds")
    func nothingKnown() {
        #expect(count([], from: 0, to: 100_000) == 50)
    }
}
