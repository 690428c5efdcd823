public import Fleet

/// Follows one rollout through events, progress and views, and says what is new, once.
///
/// Events may come twice (after a reconnect) and progress may be missed; views, asked for now and
/// then, fill the gaps. Pure: whoever owns it does the asking and the printing.
public struct RolloutWatch: Sendable {
    public let rollout: RolloutID
    /// Newest event seen; after a reconnect, follow from here.
    public private(set) var sequence: UInt64 = 0
    /// The rollout's state once it is over.
    public private(set) var finalState: RolloutState?
    private var stepCount: Int?
    private var overSteps: Set<UInt32> = []
    private var activeSteps: [UInt32: StepPhase] = [:]

    public init(_ rollout: RolloutID) {
        self.rollout = rollout
    }

    /// One thing to show: a line of text for people and a line of JSON for programs.
    public struct Line: Hashable, Sendable {
        public var text: String
        public var json: JSON
    }

    /// - Returns: nil if the event is of something else or was seen before.
    public mutating func on(event: FleetEvent) -> Line? {
        guard event.sequence > sequence else { return nil }
        sequence = event.sequence
        guard let text = take(event.body) else { return nil }
        return Line(text: "\(event.at.timeText(fractionDigits: 3))  \(text)", json: event.json)
    }

    /// - Returns: nil if the progress is of another rollout or of a step that has moved on.
    public mutating func on(progress: StepProgress) -> Line? {
        let number = progress.step.number
        guard progress.step.rollout == rollout, !overSteps.contains(number),
            (activeSteps[number]?.rank ?? -1) < progress.phase.rank
        else { return nil }
        activeSteps[number] = progress.phase
        return Line(
            text: "\(progress.at.timeText(fractionDigits: 3))  step \(number)  \(progress.phase)",
            json: progress.json)
    }

    /// Learns from a view what events may not have told; it prints nothing by itself.
    public mutating func on(view: RolloutView) {
        guard view.id == rollout else { return }
        stepCount = view.steps.count
        for step in view.steps where step.phase == .finished || step.phase == .cancelled {
            end(step.id.number)
        }
        if view.state.isOver { finalState = view.state }
    }

    /// `rollout-1: 3 of 6 steps over; step 4 held`
    public var statusLine: String {
        let steps =
            stepCount.map { "\(overSteps.count) of \(counted($0, "step")) over" }
            ?? "\(counted(overSteps.count, "step")) over"
        let active = activeSteps.sorted { $0.key < $1.key }.prefix(4)
            .map { "step \($0.key) \($0.value)" }
        let more = activeSteps.count > active.count ? ", …" : ""
        return "\(rollout): \(steps)"
            + (active.isEmpty ? "" : "; \(active.joined(separator: ", "))\(more)")
    }

    private mutating func take(_ body: FleetEvent.Body) -> String? {
        switch body {
        case .rolloutStarted(rollout, let release, let count):
            stepCount = Int(count)
            return "\(rollout) started: release \(release), \(counted(count, "step"))"
        case .rolloutChanged(rollout, let state, let reason):
            if state.isOver { finalState = state }
            return "\(rollout) \(state)" + (reason.isEmpty ? "" : ": \(printable(reason))")
        case .stepNoticed(let notice) where notice.step.rollout == rollout:
            activeSteps[notice.step.number] = .noticed
            let names = notice.guests.map(\.rawValue).joined(separator: " ")
            return "step \(notice.step.number)  noticed: host \(notice.host), \(names), starts at "
                + "\(notice.notBefore.timeText(fractionDigits: 0)) or later"
        case .noticeAcknowledged(let step, let guest) where step.rollout == rollout:
            return "step \(step.number)  acknowledged by \(guest)"
        case .noticeWithdrawn(let step, let reason) where step.rollout == rollout:
            if activeSteps[step.number] == .noticed { activeSteps[step.number] = nil }
            return "step \(step.number)  notice withdrawn: \(printable(reason))"
        case .stepGranted(let step, let host, let guests, let pairs, _, _, _)
        where step.rollout == rollout:
            activeSteps[step.number] = .granted
            overSteps.remove(step.number)
            let names = guests.map(\.rawValue).joined(separator: " ")
            let locks = pairs.map(\.description).joined(separator: " ")
            return "step \(step.number)  granted: host \(host), "
                + (guests.isEmpty ? "no guest held" : names)
                + (locks.isEmpty ? "" : ", locks \(locks)")
        case .stepEndedWithoutHold(let step, let host, let reason) where step.rollout == rollout:
            end(step.number)
            return "step \(step.number)  ended without a hold: host \(host): \(printable(reason))"
        case .holdFinished(let hold) where hold.step.rollout == rollout:
            end(hold.step.number)
            return "step \(hold.step.number)  \(hold.text)"
        default: return nil
        }
    }

    private mutating func end(_ number: UInt32) {
        overSteps.insert(number)
        activeSteps[number] = nil
    }
}

extension StepPhase {
    /// The order in which a step reaches its phases.
    var rank: Int { Self.allCases.firstIndex(of: self) ?? 0 }
}

extension FinishedHold {
    /// `db-0 on host a held 14.2 ms, clock 14.0 ms behind > 0.4 ms behind: succeeded`
    var text: String {
        var output = "\(record.guest) on host \(host) held"
        output +=
            record.holdMicroseconds.map { " \(spanText(microseconds: $0))" }
            ?? " and not continued"
        if let after = record.clockErrorAfterMicroseconds {
            let before = record.clockErrorBeforeMicroseconds.map {
                "\(clockErrorText(microseconds: $0)), now "
            }
            output += ", clock \(before ?? "")\(clockErrorText(microseconds: after))"
        }
        output += ": \(record.outcome)"
        return record.reason.isEmpty ? output : "\(output): \(printable(record.reason))"
    }
}
