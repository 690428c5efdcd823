import Fleet
import Testing

@testable import AgentCore

@Suite struct EventTimeTests {
    private let hour: Int64 = 3_600_000_000
    private let wall: Int64 = 1_800_000_000_000_000

    @Test("an event's stamp is a distance from now")
    func plain() {
        let time = EventTime(stamp: wall - 700, notBefore: 4_000, hold: 5_000, wall: wall)
        #expect(time.hold == 4_300)
        #expect(time.wall == Timestamp(microseconds: wall - 700))
    }

    @Test("without a stamp it is now")
    func none() {
        let time = EventTime(stamp: nil, notBefore: 4_000, hold: 5_000, wall: wall)
        #expect(time.hold == 5_000)
        #expect(time.wall == Timestamp(microseconds: wall))
    }

    @Test(
        "a wall clock stepped in the hold moves no hold time out of what is possible",
        arguments: [Int64(-1), 1])
    func stepped(_ direction: Int64) {
        // Stopped at 10,000, continued at 30,000, each seen 500 later; stepped in between.
        let stopped = EventTime(stamp: wall, notBefore: 9_000, hold: 10_500, wall: wall + 500)
        let after = wall + 20_500 + direction * hour
        let resumed = EventTime(stamp: after - 500, notBefore: 29_000, hold: 30_500, wall: after)
        #expect(resumed.hold - stopped.hold == 20_000)
        // Stepped between the event and our look at it: wrong by what passed between, and no more.
        let between = EventTime(
            stamp: wall + 20_000, notBefore: 29_000, hold: 30_500, wall: after)
        #expect((29_000...30_500).contains(between.hold))
        #expect((19_000...20_500).contains(between.hold - stopped.hold))
    }

    @Test("a stamp at the end of what a number holds is no crash", arguments: [Int64.min, .max])
    func extreme(_ stamp: Int64) {
        let time = EventTime(stamp: stamp, notBefore: 4_000, hold: 5_000, wall: wall)
        #expect((4_000...5_000).contains(time.hold))
    }
}
