// Decides how a guest's clock is brought to the host's after a hold, from readings alone.
//
//   measuring ──error small──► watching ──one more reading──► done
//       ▲ │ error above the threshold
//       │ ▼
//     setting      at most 8 times
//
//  state      event                              next       what to do
//  measuring  read, too few or too coarse yet    same       read again
//  measuring  read, error ≤ threshold            watching   wait a moment, read
//  measuring  read, error > threshold            setting    set, if there are tries and time left
//  measuring  read, after a set that failed      done       note: why it could not be set
//  measuring  read, no tries or time left        watching   note: what is left and why
//  measuring  readFailed                         done       note: why
//  setting    set                                measuring  read
//  setting    setFailed                          measuring  read: it may have been set all the same
//  watching   read, until enough                 done       note if the clock moved meanwhile
//  watching   readFailed                         done       note: why
//  any        too old an answer, nonsense        as readFailed or setFailed of the owner
//
// A reading is bracketed by the host's time before and after; half of the round trip is taken for the
// way back. The truth is off from that by half of the round trip at most, whichever of the two ways
// was the slow one, so of some readings the one with the shortest round trip is believed, and an
// error that its round trip can explain is not corrected.
//
// What each set leaves is taken off the next: the time from our sending to the guest's setting is
// much the same each time. A large rest is no such delay but somebody else's hand on the clock.
//
// The guest's own time daemon is never fought: after the clock was good once, nothing is set again.

/// One `guest-get-time` and the host's times around it.
public struct ClockReading: Hashable, Sendable {
    /// Guest minus host in the middle of the round trip, in microseconds.
    public var errorMicroseconds: Int64
    public var roundTripMicroseconds: Int64

    /// - Parameters:
    ///   - guestNanoseconds: since 1970 (UTC), as the guest says; any number.
    ///   - sentAtMicroseconds: the host's wall clock when it was asked.
    ///   - roundTripMicroseconds: until the answer, on a clock that nobody sets; not negative.
    /// - Returns: nil if the guest's answer is too far from any date to be computed with.
    public init?(
        guestNanoseconds: Int64, sentAtMicroseconds: Int64, roundTripMicroseconds: Int64
    ) {
        let middle = sentAtMicroseconds + roundTripMicroseconds / 2
        let (error, overflow) = (guestNanoseconds / 1_000).subtractingReportingOverflow(middle)
        guard !overflow, error != .min else { return nil }
        errorMicroseconds = error
        self.roundTripMicroseconds = roundTripMicroseconds
    }

    public init(errorMicroseconds: Int64, roundTripMicroseconds: Int64) {
        self.errorMicroseconds = errorMicroseconds
        self.roundTripMicroseconds = roundTripMicroseconds
    }

    /// How far the truth can be from the error.
    var uncertaintyMicroseconds: Int64 { roundTripMicroseconds / 2 }
}

/// Computes the next thing to do for one guest's clock.
public struct ClockCorrection: Sendable {
    public enum Event: Hashable, Sendable {
        case read(ClockReading)
        case readFailed(reason: String)
        case set
        case setFailed(reason: String)
    }

    public enum Decision: Hashable, Sendable {
        /// Ask the guest for its time.
        case read
        /// Set it to the host's time at this moment plus so many microseconds.
        case set(aheadMicroseconds: Int64)
        /// The clock is as good as it gets. Ask for its time after the pause.
        case readAfter(microseconds: Int64)
        case done(Outcome)
    }

    /// Guest minus host, in microseconds.
    public struct Outcome: Hashable, Sendable {
        public var before: Int64?
        public var after: Int64?
        /// What is to be known of it besides; empty if all went well.
        public var note = ""
        public init(before: Int64? = nil, after: Int64? = nil, note: String = "") {
            self.before = before
            self.after = after
            self.note = note
        }
    }

    /// Below this nothing is set.
    public static let goodEnoughMicroseconds: Int64 = 2_000
    /// Good enough on a host so busy that better is not to be had soon.
    public static let tolerableMicroseconds: Int64 = 20_000
    static let setsBeforeTolerance = 4
    static let setsMax = 8
    /// Readings of one measurement: more while the shortest round trip is a long one.
    static let readingsMin = 4
    static let readingsMax = 12
    static let shortRoundTripMicroseconds: Int64 = 4_000
    /// What a set may leave and still be its own delay.
    static let delayMaxMicroseconds: Int64 = 100_000
    /// Long enough for a daemon's step, and for 40 ms of chrony's fastest slew.
    static let watchMicroseconds: Int64 = 500_000
    /// More than the two clocks' own rates part in that time, with room for a busy host.
    static let movedMicroseconds: Int64 = 5_000
    /// Of all of it, so that an agent that answers slowly but always cannot hold the lock for ever.
    static let limitMicroseconds: Int64 = 15_000_000

    private enum State: Hashable, Sendable { case measuring, setting, watching, done }

    private var state = State.measuring
    private let startedAt: Int64
    private var best: ClockReading?
    private var readingCount = 0
    private var setCount = 0
    private var delay: Int64 = 0
    private var settled: ClockReading?
    private var setProblem: String?
    private var outcome = Outcome()

    /// - Parameter now: the hold clock, in microseconds. Begin with a reading.
    public init(at now: Int64) { startedAt = now }

    /// Takes in what came of the decision before.
    ///
    /// - Parameter now: the hold clock, in microseconds.
    public mutating func handle(_ event: Event, at now: Int64) -> Decision {
        switch (state, event) {
        case (.measuring, .read(let reading)), (.watching, .read(let reading)):
            keep(reading)
            guard let best, isEnough(at: now) else { return .read }
            self.best = nil
            readingCount = 0
            outcome.after = best.errorMicroseconds
            return state == .watching ? finishWatching(best) : judge(best, at: now)
        case (.setting, .set):
            state = .measuring
            return .read
        case (.setting, .setFailed(let reason)):
            setProblem = reason
            state = .measuring
            return .read
        case (_, .readFailed(let reason)), (_, .setFailed(let reason)):
            if let setProblem { note("the clock could not be set: \(setProblem)") }
            note(outcome.before == nil ? "not measured: \(reason)" : "not read back: \(reason)")
            return finish()
        case (.setting, .read), (.measuring, .set), (.watching, .set), (.done, _):
            // The owner answers what it was asked.
            return finish()
        }
    }

    private mutating func keep(_ reading: ClockReading) {
        readingCount += 1
        if let best, best.roundTripMicroseconds <= reading.roundTripMicroseconds { return }
        best = reading
    }

    private func isEnough(at now: Int64) -> Bool {
        if readingCount >= Self.readingsMax || now - startedAt > Self.limitMicroseconds {
            return true
        }
        return readingCount >= Self.readingsMin
            && best.map { $0.roundTripMicroseconds <= Self.shortRoundTripMicroseconds } == true
    }

    private mutating func judge(_ reading: ClockReading, at now: Int64) -> Decision {
        let error = reading.errorMicroseconds
        if outcome.before == nil { outcome.before = error }
        let wanted =
            setCount < Self.setsBeforeTolerance
            ? Self.goodEnoughMicroseconds : Self.tolerableMicroseconds
        let explained = min(reading.uncertaintyMicroseconds, Self.tolerableMicroseconds)
        let isGood = abs(error) <= max(wanted, explained)
        if let setProblem {
            note(
                isGood
                    ? "the guest agent says that it could not set the clock: \(setProblem)"
                    : "the clock could not be set: \(setProblem)")
            return isGood ? watch(reading) : finish()
        }
        if isGood { return watch(reading) }
        if setCount >= Self.setsMax {
            note("the clock was set \(setCount) times and is still off")
            return watch(reading)
        }
        if now - startedAt > Self.limitMicroseconds {
            let seconds = Self.limitMicroseconds / 1_000_000
            note("the guest agent is too slow: the clock is not right after \(seconds) s")
            return finish()
        }
        // The error from before the first set says nothing about how long a set takes.
        if setCount > 0 {
            delay = abs(error) <= Self.delayMaxMicroseconds ? delay + error : 0
        }
        setCount += 1
        state = .setting
        // What was read before says nothing about what this leaves.
        outcome.after = nil
        return .set(aheadMicroseconds: reading.uncertaintyMicroseconds - delay)
    }

    private mutating func watch(_ reading: ClockReading) -> Decision {
        settled = reading
        state = .watching
        return .readAfter(microseconds: Self.watchMicroseconds)
    }

    private mutating func finishWatching(_ reading: ClockReading) -> Decision {
        guard let settled else { return finish() }
        let (moved, overflow) = reading.errorMicroseconds
            .subtractingReportingOverflow(settled.errorMicroseconds)
        let doubt = settled.uncertaintyMicroseconds + reading.uncertaintyMicroseconds
        if overflow || moved == .min || abs(moved) > max(Self.movedMicroseconds, doubt) {
            let distance = overflow ? "very far" : "\(moved > 0 ? "+" : "")\(moved / 1_000) ms"
            note(
                "something in the guest moves its clock, by \(distance) within half a second"
                    + (setCount > 0 ? " after it was set" : ""))
        }
        return finish()
    }

    private mutating func note(_ text: String) {
        outcome.note += outcome.note.isEmpty ? text : "; \(text)"
    }

    private mutating func finish() -> Decision {
        state = .done
        return .done(outcome)
    }
}
