import Testing

@testable import AgentCore

/// A guest's clock, the ways to it, and who else has a hand on it. All in microseconds.
private struct SimulatedClock {
    var now: Int64 = 1_000_000
    /// Guest minus host.
    var error: Int64
    /// From the question to the guest's look at its clock, and back; one pair for each reading, again
    /// and again.
    var ways: [(there: Int64, back: Int64)] = [(200, 200)]
    /// From our sending to the guest's setting, and on to its answer.
    var setting: (there: Int64, back: Int64) = (400, 15_000)
    var failsToSet: String?
    /// Called as time passes, with how much: what a daemon does to the error meanwhile.
    var daemon: (inout SimulatedClock, Int64) -> Void = { _, _ in }
    var sets: [Int64] = []
    var readings = 0

    mutating func pass(_ span: Int64) {
        now += span
        daemon(&self, span)
    }

    mutating func read() -> ClockCorrection.Event {
        let (there, back) = ways[readings % ways.count]
        readings += 1
        let sentAt = now
        pass(there)
        let guest = now + error
        pass(back)
        return ClockReading(
            guestNanoseconds: guest * 1_000, sentAtMicroseconds: sentAt,
            roundTripMicroseconds: now - sentAt
        ).map { .read($0) } ?? .readFailed(reason: "absurd")
    }

    /// Plays until it is done.
    mutating func correct() -> ClockCorrection.Outcome {
        var correction = ClockCorrection(at: now)
        var event = read()
        for _ in 0..<1_000 {
            switch correction.handle(event, at: now) {
            case .read: event = read()
            case .readAfter(let span):
                pass(span)
                event = read()
            case .set(let ahead):
                sets.append(ahead)
                let target = now + ahead
                pass(setting.there)
                if failsToSet == nil { error = target - now }
                pass(setting.back)
                event = failsToSet.map { .setFailed(reason: $0) } ?? .set
            case .done(let outcome): return outcome
            }
        }
        Issue.record("it never ends")
        return ClockCorrection.Outcome()
    }
}

@Suite("Clock correction") struct ClockCorrectionTests {
    @Test("an error below the threshold is left alone, and published")
    func small() {
        for error: Int64 in [0, 1_900, -1_900] {
            var clock = SimulatedClock(error: error)
            #expect(clock.correct() == .init(before: error, after: error))
            #expect(clock.sets.isEmpty)
        }
    }

    @Test(
        "any error is corrected and read back",
        arguments: [-10_003_000, 3_600_000_000, -19_000, 2_100, -86_400_000_000 * 365 * 30]
            as [Int64])
    func corrected(_ error: Int64) throws {
        var clock = SimulatedClock(error: error)
        let outcome = clock.correct()
        #expect(outcome.before == error)
        #expect(abs(try #require(outcome.after)) <= 2_000)
        #expect(outcome.after == clock.error)
        #expect(outcome.note.isEmpty)
        #expect(clock.sets.count == 1)
    }

    @Test("what a set takes is learned, so that the next one aims ahead")
    func slowSet() throws {
        var clock = SimulatedClock(error: -20_000, setting: (there: 30_000, back: 10_000))
        let outcome = clock.correct()
        #expect(abs(try #require(outcome.after)) <= 2_000)
        #expect(clock.sets.count == 2)
        #expect(outcome.note.isEmpty)
    }

    @Test("of asymmetric ways the shortest round trip is believed")
    func asymmetric() throws {
        // One in four comes back quickly; the others would be up to 20 ms wrong, to either side.
        var clock = SimulatedClock(
            error: -30_000, ways: [(40_000, 100), (100, 40_000), (25_000, 2_000), (150, 250)])
        let outcome = clock.correct()
        #expect(outcome.before == -30_050)
        #expect(abs(try #require(outcome.after) - clock.error) <= 200)
        #expect(abs(clock.error) <= 2_200)
        #expect(outcome.note.isEmpty)
    }

    @Test("an error that a long round trip can explain is not corrected for ever")
    func alwaysSlow() throws {
        // All readings lie by 9 ms, and nobody can know.
        var clock = SimulatedClock(error: 0, ways: [(20_000, 2_000)])
        let outcome = clock.correct()
        #expect(clock.sets.isEmpty && clock.error == 0)
        #expect(outcome.after == 9_000)
        // More readings are taken in the hope of a better one.
        #expect(clock.readings == 2 * ClockCorrection.readingsMax)
    }

    @Test("a daemon that steps the clock away is told of, not fought")
    func steppingDaemon() throws {
        var hasStepped = false
        var clock = SimulatedClock(error: -50_000)
        clock.daemon = { clock, span in
            guard !clock.sets.isEmpty, span >= 100_000, !hasStepped else { return }
            hasStepped = true
            clock.error += 5_000_000
        }
        let outcome = clock.correct()
        #expect(clock.sets.count == 1)
        #expect(outcome.after == clock.error && clock.error > 4_900_000)
        #expect(
            outcome.note == "something in the guest moves its clock, by +5000 ms within half a "
                + "second after it was set")
    }

    @Test("a daemon that slews fast is told of; one that slews by 500 ppm is not worth a word")
    func slewingDaemon() throws {
        for (partsPerMillion, isTold) in [(-83_333, true), (500, false)] as [(Int64, Bool)] {
            var clock = SimulatedClock(error: -50_000)
            clock.daemon = { $0.error += $1 * partsPerMillion / 1_000_000 }
            let outcome = clock.correct()
            #expect(outcome.note.isEmpty != isTold, "\(outcome)")
            #expect(outcome.note.isEmpty || outcome.note.contains("by -4"), "\(outcome)")
            #expect(abs(try #require(outcome.after) - clock.error) < 500)
        }
    }

    @Test("a daemon that steps the clock back each time is given up on")
    func stubbornDaemon() throws {
        var clock = SimulatedClock(error: 3_600_000_000)
        // Within the set itself, so that no reading ever sees a good clock.
        clock.daemon = { clock, span in if span == 15_000 { clock.error = 3_600_000_000 } }
        let outcome = clock.correct()
        #expect(clock.sets.count == ClockCorrection.setsMax)
        // Such a rest is no delay of the set: it must not be aimed off by.
        #expect(clock.sets.allSatisfy { abs($0) < 1_000 })
        #expect(outcome.after == 3_600_000_000)
        #expect(outcome.note == "the clock was set 8 times and is still off")
    }

    @Test("a set that fails is named; the clock may be right all the same")
    func failedSet() {
        var clock = SimulatedClock(error: -50_000, failsToSet: "it is disabled")
        #expect(
            clock.correct()
                == .init(
                    before: -50_000, after: -50_000,
                    note: "the clock could not be set: it is disabled"))
        #expect(clock.sets.count == 1)
        // As with a guest that has no `hwclock`: set, and then an error.
        clock = SimulatedClock(error: -50_000, failsToSet: "hwclock failed")
        clock.daemon = { clock, span in if span == 400 { clock.error = 0 } }
        let outcome = clock.correct()
        #expect(
            outcome.note == "the guest agent says that it could not set the clock: hwclock failed")
        #expect(outcome.after == 0)
    }

    @Test("an agent that stops answering is named, with what is known so far")
    func noAnswer() {
        var correction = ClockCorrection(at: 0)
        #expect(
            correction.handle(.readFailed(reason: "silence"), at: 1)
                == .done(.init(note: "not measured: silence")))
        correction = ClockCorrection(at: 0)
        let reading = ClockReading(errorMicroseconds: 9_000, roundTripMicroseconds: 400)
        for _ in 1..<ClockCorrection.readingsMin {
            #expect(correction.handle(.read(reading), at: 1) == .read)
        }
        #expect(correction.handle(.read(reading), at: 1) == .set(aheadMicroseconds: 200))
        #expect(correction.handle(.set, at: 2) == .read)
        #expect(
            correction.handle(.readFailed(reason: "silence"), at: 3)
                == .done(.init(before: 9_000, note: "not read back: silence")))
        // The first thing that went wrong is not lost behind the second.
        correction = ClockCorrection(at: 0)
        for _ in 1..<ClockCorrection.readingsMin {
            #expect(correction.handle(.read(reading), at: 1) == .read)
        }
        #expect(correction.handle(.read(reading), at: 1) == .set(aheadMicroseconds: 200))
        #expect(correction.handle(.setFailed(reason: "silence"), at: 2) == .read)
        #expect(
            correction.handle(.readFailed(reason: "gone"), at: 3)
                == .done(
                    .init(
                        before: 9_000,
                        note: "the clock could not be set: silence; not read back: gone")))
    }

    @Test("an agent that is slow in everything cannot hold the guest's lock for long")
    func slowAgent() {
        var clock = SimulatedClock(error: -10_000_000, ways: [(4_900_000, 10_000)])
        let outcome = clock.correct()
        #expect(clock.now < 40_000_000)
        #expect(outcome.note.contains("too slow"), "\(outcome)")
    }

    @Test("any number that a guest can say is computed with, or refused")
    func extremes() {
        for nanoseconds in [Int64.min, .max, 0, -1] {
            let reading = ClockReading(
                guestNanoseconds: nanoseconds, sentAtMicroseconds: 1_800_000_000_000_000,
                roundTripMicroseconds: 400)
            guard let reading else { continue }
            var correction = ClockCorrection(at: 0)
            for _ in 1..<ClockCorrection.readingsMin {
                #expect(correction.handle(.read(reading), at: 1) == .read)
            }
            #expect(correction.handle(.read(reading), at: 1) == .set(aheadMicroseconds: 200))
        }
        #expect(
            ClockReading(
                guestNanoseconds: .min, sentAtMicroseconds: .max - 400, roundTripMicroseconds: 400)
                == nil)
    }
}
