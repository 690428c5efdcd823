import Testing

@testable import Simulation

@Suite struct TimelineTests {
    let timeline = Timeline()
    /// What has happened, in order.
    final class Story { var words: [String] = [] }
    let story = Story()

    func place(drift: Int64 = 0) -> Place { Place("p", on: timeline, drift: drift) }

    func runAll(until end: Int64 = 1_000_000_000) { while timeline.step(until: end) {} }

    @Test("entries run in the order of their moment, then of their planning")
    func order() {
        var chance = Chance(seed: 5)
        var planned: [(at: Int64, number: Int)] = []
        let seen = Story()
        for number in 0..<500 {
            let at = chance.within(0...50)
            planned.append((at, number))
            timeline.after(at) { seen.words.append("\(at) \(number)") }
        }
        runAll()
        let expected = planned.sorted { ($0.at, $0.number) < ($1.at, $1.number) }
        #expect(seen.words == expected.map { "\($0.at) \($0.number)" })
        #expect(timeline.stepCount == 500)
    }

    @Test("nothing runs after the end that was given, and time never goes back")
    func end() {
        timeline.after(10) { [story, timeline] in
            story.words.append("at \(timeline.now)")
            timeline.after(-5) { story.words.append("again at \(timeline.now)") }
        }
        timeline.after(11) { [story] in story.words.append("late") }
        runAll(until: 10)
        #expect(story.words == ["at 10", "again at 10"])
        #expect(timeline.now == 10)
        timeline.clear()
        runAll()
        #expect(story.words.count == 2)
    }

    @Test("a killed process does nothing more, and says so at once")
    func kill() {
        let process = SimulatedProcess("x", at: place())
        process.run(after: 5) { [story] in story.words.append("never") }
        process.whenItDies { [story] in story.words.append("dies \($0)") }
        timeline.after(3) { process.kill() }
        runAll()
        #expect(story.words == ["dies true"])
        #expect(!process.edge("any"))
        process.run { [story] in story.words.append("never") }
        process.kill()
        runAll()
        #expect(story.words == ["dies true"])
    }

    @Test("who is killed at an edge does not do what comes after it")
    func edge() {
        let process = SimulatedProcess("x", at: place())
        process.atEdge = { [story, unowned process] edge in
            story.words.append(edge)
            if edge == "second" { process.kill() }
        }
        #expect(process.edge("first"))
        #expect(!process.edge("second"))
        #expect(!process.edge("third"))
        #expect(story.words == ["first", "second"])
    }

    @Test("a stopped process does late what it had planned, in order; a killed one does not")
    func freeze() {
        let process = SimulatedProcess("x", at: place())
        let loop = SimulatedLoop(process, Chance(seed: 1))
        process.run(after: 10) { [story] in story.words.append("one") }
        loop.after(.milliseconds(1)) { [story] in story.words.append("two") }
        process.freeze()
        timeline.after(5_000) { process.thaw() }
        timeline.after(4_999) { [story] in story.words.append("still") }
        runAll()
        #expect(story.words == ["still", "one", "two"])
        process.run { [story] in story.words.append("never") }
        process.freeze()
        runAll()
        process.kill()
        process.thaw()
        runAll()
        #expect(story.words.count == 3)
    }

    @Test("timers fire in milliseconds, repeat, and can be cancelled, also while stopped")
    func timers() {
        let process = SimulatedProcess("x", at: place())
        let loop = SimulatedLoop(process, Chance(seed: 1))
        loop.after(.microseconds(1)) { [story, timeline] in
            story.words.append("once at \(timeline.now)")
        }
        let repeating = loop.every(.milliseconds(10)) { [story, timeline] in
            story.words.append("again at \(timeline.now)")
        }
        timeline.after(25_000) { repeating.cancel() }
        let cancelled = loop.after(.milliseconds(30)) { [story] in story.words.append("never") }
        timeline.after(29_000) { process.freeze() }
        timeline.after(31_000) { cancelled.cancel() }
        timeline.after(32_000) { process.thaw() }
        runAll()
        #expect(story.words == ["once at 1000", "again at 10000", "again at 20000"])
    }

    @Test("clocks drift apart, wall clocks can be set, the hold clock cannot")
    func clocks() {
        let fast = place(drift: 100)
        let process = SimulatedProcess("x", at: fast)
        let loop = SimulatedLoop(process, Chance(seed: 1))
        loop.after(.seconds(10)) { [story, timeline] in
            story.words.append("\(timeline.now)")
        }
        runAll()
        // Its own ten seconds are over a millisecond early.
        #expect(story.words == ["9999000"])
        timeline.after(1_000) {}
        runAll()
        #expect(fast.holdMicroseconds == 10_000_000 + 1_000)
        let before = fast.wallMicroseconds
        fast.wallOffset -= 3_000_000
        #expect(fast.wallMicroseconds == before - 3_000_000)
        #expect(fast.holdMicroseconds == 10_000_000 + 1_000)
    }

    @Test("a lost computer takes its processes with it, and nobody is told")
    func power() {
        let place = place()
        let process = SimulatedProcess("x", at: place)
        process.whenItDies { [story] in story.words.append("dies \($0)") }
        place.lose()
        #expect(story.words == ["dies false"])
        #expect(!place.isUp && place.processes.isEmpty && place.bootNumber == 1)
        place.boot()
        #expect(place.isUp && place.bootNumber == 2)
        #expect(!process.isAlive)
    }
}
