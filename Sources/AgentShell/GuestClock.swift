// Sets a guest's clock and measures what is left.
//
//   measure ─► set ─► measure ─error ≤ 2 ms, or ≤ 20 ms from round 4 on─► done
//               ▲        │
//               └────────┴─ at most 8 times
//
// A measurement is the best of four `guest-get-time`: the one with the shortest round trip, half of
// which is taken off. Each set aims at the time it is to take effect and is corrected by the error
// that the set before it left.

internal import QMP
internal import UvLoop

struct GuestClock {
    /// Guest minus host, in microseconds.
    struct Outcome {
        var before: Int64?
        var after: Int64?
        /// Why it was not set or not measured; empty if it was.
        var note = ""
    }

    static let goodEnoughMicroseconds: Int64 = 2_000
    /// Good enough on a host so busy that better is not to be had soon.
    static let tolerableMicroseconds: Int64 = 20_000
    static let roundsBeforeTolerance = 4
    static let roundsMax = 8
    private static let samples = 4

    let channel: GuestAgentChannel

    /// - Parameter completion: called once.
    func correct(_ completion: @escaping (Outcome) -> Void) {
        measure { result in
            switch result {
            case .failure(let failure): completion(Outcome(note: failure.reason))
            case .success(let sample):
                set(
                    round: 1, correction: 0, rtt: sample.rtt, Outcome(before: sample.error),
                    completion)
            }
        }
    }

    private struct Sample {
        var error: Int64
        var rtt: Int64
    }

    private func set(
        round: Int, correction: Int64, rtt: Int64, _ outcome: Outcome,
        _ completion: @escaping (Outcome) -> Void
    ) {
        let target = WallClock.nowMicroseconds + rtt / 2 - correction
        let command = GuestCommand.setTime(nanoseconds: target * 1_000)
        channel.send(command, limit: .seconds(10)) { result in
            var outcome = outcome
            if case .failure(let failure) = result {
                outcome.note = "the clock could not be set: \(failure.reason)"
            }
            let wasSet = outcome.note.isEmpty
            measure { result in
                switch result {
                case .failure(let failure):
                    if outcome.note.isEmpty { outcome.note = failure.reason }
                    completion(outcome)
                case .success(let sample):
                    outcome.after = sample.error
                    let limit =
                        round < Self.roundsBeforeTolerance
                        ? Self.goodEnoughMicroseconds : Self.tolerableMicroseconds
                    let isGood = abs(sample.error) <= limit
                    if isGood || !wasSet || round >= Self.roundsMax { return completion(outcome) }
                    set(
                        round: round + 1, correction: correction + sample.error, rtt: sample.rtt,
                        outcome, completion)
                }
            }
        }
    }

    private func measure(_ completion: @escaping (Result<Sample, GuestAgentFailure>) -> Void) {
        sample(remaining: Self.samples, best: nil, completion)
    }

    private func sample(
        remaining: Int, best: Sample?,
        _ completion: @escaping (Result<Sample, GuestAgentFailure>) -> Void
    ) {
        let wall = WallClock.nowMicroseconds
        let start = HoldClock.nowMicroseconds
        channel.send(.getTime, limit: .seconds(5)) { result in
            switch result {
            case .failure(let failure): completion(.failure(failure))
            case .success(let value):
                guard let nanoseconds = value.integer else {
                    return completion(
                        .failure(GuestAgentFailure(reason: "guest-get-time gave no number")))
                }
                let rtt = HoldClock.nowMicroseconds - start
                let (error, overflow) = (nanoseconds / 1_000)
                    .subtractingReportingOverflow(wall + rtt / 2)
                guard !overflow else {
                    return completion(
                        .failure(GuestAgentFailure(reason: "guest-get-time is absurd")))
                }
                let mine = Sample(error: error, rtt: rtt)
                let shortest = best.map { $0.rtt <= rtt ? $0 : mine } ?? mine
                if remaining <= 1 { return completion(.success(shortest)) }
                sample(remaining: remaining - 1, best: shortest, completion)
            }
        }
    }
}
