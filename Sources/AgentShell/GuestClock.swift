// Carries out, through the guest agent, what ClockCorrection decides for a guest's clock.
//
// Happy path: read some times, set, read, wait a moment, read.
// Failure modes: no answer within the limit of a command, an error, no number: each is an event for
// ClockCorrection and becomes a note. An answer to an older question is dropped by the channel.

internal import AgentCore
internal import QMP
internal import UvLoop

final class GuestClock {
    private let channel: GuestAgentChannel
    private let loop: Loop
    private let completion: (ClockCorrection.Outcome) -> Void
    private var correction: ClockCorrection

    static let readLimit: Duration = .seconds(5)
    /// The guest agent runs `hwclock` in it.
    static let setLimit: Duration = .seconds(10)

    /// - Parameters:
    ///   - channel: open and idle; it stays the caller's.
    ///   - completion: called once.
    init(
        _ channel: GuestAgentChannel, on loop: Loop,
        completion: @escaping (ClockCorrection.Outcome) -> Void
    ) {
        self.channel = channel
        self.loop = loop
        self.completion = completion
        correction = ClockCorrection(at: HoldClock.nowMicroseconds)
    }

    func start() { read() }

    private func feed(_ event: ClockCorrection.Event) {
        switch correction.handle(event, at: HoldClock.nowMicroseconds) {
        case .read: read()
        case .readAfter(let microseconds):
            loop.after(.microseconds(microseconds)) { [self] in read() }
        case .set(let ahead): set(ahead)
        case .done(let outcome): completion(outcome)
        }
    }

    private func read() {
        let sentAt = WallClock.nowMicroseconds
        let start = HoldClock.nowMicroseconds
        channel.send(.getTime, limit: Self.readLimit) { [self] answer in
            let roundTrip = max(0, HoldClock.nowMicroseconds - start)
            switch answer {
            case .failure(let failure): feed(.readFailed(reason: failure.reason))
            case .success(let value):
                guard let nanoseconds = value.integer else {
                    return feed(.readFailed(reason: "guest-get-time gave no number"))
                }
                let reading = ClockReading(
                    guestNanoseconds: nanoseconds, sentAtMicroseconds: sentAt,
                    roundTripMicroseconds: roundTrip)
                feed(
                    reading.map { .read($0) }
                        ?? .readFailed(reason: "guest-get-time gave an absurd number"))
            }
        }
    }

    private func set(_ ahead: Int64) {
        let command = GuestCommand.setTime(
            nanoseconds: (WallClock.nowMicroseconds + ahead) * 1_000)
        channel.send(command, limit: Self.setLimit) { [self] answer in
            switch answer {
            case .success: feed(.set)
            case .failure(let failure): feed(.setFailed(reason: failure.reason))
            }
        }
    }
}
