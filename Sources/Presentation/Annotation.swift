public import Fleet

/// The record published after a hold: exactly one for each, named by the hold itself.
///
/// The fields are what ``FinishedHold`` says, flat, as they stand in JSON and in the notifier's
/// database.
public struct Annotation: Hashable, Sendable {
    /// The idempotency key, ``FinishedHold/holdID``.
    public var annotationID: String
    public var record: HoldRecord
    public var host: HostID
    public var pair: SetPair?
    public var step: StepID
    public var token: Token
    public var release: ReleaseID
    public var component: Component
    /// Version of the release.
    public var version: String
    /// When the notifier stored it first.
    public var recordedAt: Timestamp

    public init(hold: FinishedHold, recordedAt: Timestamp) {
        annotationID = hold.holdID
        record = hold.record
        host = hold.host
        pair = hold.pair
        step = hold.step
        token = hold.token
        release = hold.release
        component = hold.component
        version = hold.version
        self.recordedAt = recordedAt
    }

    /// What kind of annotation it is, such as `hypervisorUpdateSucceeded`.
    public var name: String {
        let outcome = record.outcome.rawValue
        return "\(component)Update\(outcome.prefix(1).uppercased())\(outcome.dropFirst())"
    }

    /// With our own words.
    public var json: JSON { json(text: text) }

    /// - Parameter text: for people, on one line.
    public func json(text: String) -> JSON { .object(members + [.init("text", .string(text))]) }

    /// Of ``json``, all but the text.
    package var members: [JSON.Member] {
        let members: [(String, JSON)] = [
            ("annotationId", .string(annotationID)),
            ("annotation", .string(name)),
            ("guest", .string(record.guest.rawValue)),
            ("host", .string(host.rawValue)),
            ("availabilitySet", JSON(pair?.set.rawValue)),
            ("updateDomain", JSON(pair?.updateDomain.number)),
            ("heldAt", .string(record.heldAt.rfc3339)),
            ("holdMilliseconds", JSON(microseconds: record.holdMicroseconds)),
            ("outcome", .string(record.outcome.rawValue)),
            ("reason", .string(record.reason)),
            ("component", .string(component.description)),
            ("release", .string(release.rawValue)),
            ("version", .string(version)),
            ("rollout", .string(step.rollout.description)),
            ("step", .string(step.description)),
            ("token", .unsigned(token.number)),
            ("resumedBy", .string(record.resumedBy.rawValue)),
            (
                "clockErrorMillisecondsBefore",
                JSON(
                    microseconds: record.clockErrorBeforeMicroseconds)
            ),
            ("clockErrorMillisecondsAfter", JSON(microseconds: record.clockErrorAfterMicroseconds)),
            ("clockNote", .string(record.clockNote)),
            ("hypervisorBefore", .string(record.hypervisorBefore)),
            ("hypervisorAfter", .string(record.hypervisorAfter)),
            ("recordedAt", .string(recordedAt.rfc3339)),
        ]
        return members.map { JSON.Member($0.0, $0.1) }
    }
}

// The plain words for the people whose workload runs in the guest.
extension Annotation {
    /// What happened to which guest, when, for how long, why, and what became of its memory and
    /// its clock: a few whole sentences on one line.
    public var text: String {
        ([whatHappened, outcomeText] + [resumerText, clockText, setText].compactMap(\.self))
            .joined(separator: " ")
    }

    /// When it was paused, for how long and what for.
    package var whatHappened: String {
        let start =
            "On \(record.heldAt.dateText) at \(record.heldAt.timeText(fractionDigits: 3)) UTC"
        let guest = "guest \(record.guest) on host \(host)"
        guard let length = record.holdMicroseconds else {
            return "\(start) \(guest) was paused \(purpose) and did not go on."
        }
        return "\(start) \(guest) was paused for \(spanText(microseconds: length)) \(purpose)."
    }

    private var purpose: String {
        purposeText(component: component, from: record.hypervisorBefore, to: version)
    }

    /// What became of the guest and its memory.
    package var outcomeText: String {
        let kept =
            "Its memory stayed in RAM, it was not rebooted, and its programs went on "
            + "where they had stopped."
        let why = record.reason.isEmpty ? "" : ": \(printable(record.reason))"
        switch record.outcome {
        case .succeeded:
            return record.reason.isEmpty ? kept : "\(kept) \(sentence(record.reason))"
        case .failed:
            return "\(sentence("The update was undone\(why)")) It runs on as before. \(kept)"
        case .unhealthy:
            let state = "It runs again, but could not be confirmed healthy\(why)"
            return "\(sentence(state)) \(stillClosed)"
        case .lost:
            return "\(sentence("It does not run any more\(why)")) \(stillClosed)"
        }
    }

    /// What follows for the set when the locks are kept.
    private var stillClosed: String {
        guard let pair else { return "Look at it before anything else is updated." }
        return "No other update domain of availability set \(pair.set) will be paused until it is "
            + "healthy or an operator releases the lock."
    }

    /// Who let it go on, if that was not its agent.
    package var resumerText: String? {
        guard record.holdMicroseconds != nil else { return nil }
        switch record.resumedBy {
        case .agent: return nil
        case .guard:
            return "The guard on its host let it go on, because the host's agent could not."
        case .restartedAgent:
            return "The host's agent was restarted during the pause and then let it go on."
        }
    }

    /// What its clock was and is.
    package var clockText: String? {
        let note = record.clockNote.isEmpty ? "" : ": \(printable(record.clockNote))"
        switch (record.clockErrorBeforeMicroseconds, record.clockErrorAfterMicroseconds) {
        case (let before?, let after?):
            let was = clockErrorText(microseconds: before)
            let left = clockErrorText(microseconds: after)
            let corrected = "Afterwards its clock was \(was); it was corrected and is now \(left)"
            return sentence(corrected + (note.isEmpty ? "" : " (\(printable(record.clockNote)))"))
        case (let before?, nil):
            let was = clockErrorText(microseconds: before)
            return sentence("Afterwards its clock was \(was) and was not corrected\(note)")
        case (nil, let after?):
            let left = clockErrorText(microseconds: after)
            return sentence("Its clock was corrected and is now \(left)")
        case (nil, nil):
            guard record.outcome != .lost else { return nil }
            return sentence("Its clock was not corrected\(note)")
        }
    }

    /// How its set is updated, or what a set would give it.
    package var setText: String? {
        guard let pair else {
            return "It belongs to no availability set: put two or more guests that back each other "
                + "up in one, and they will never be paused at the same time."
        }
        guard record.outcome.releasesLocks else { return nil }
        return "Availability set \(pair.set) is updated one update domain at a time; this was "
            + "update domain \(pair.updateDomain.number)."
    }
}

/// What a hold is for: `to update the QEMU under it from 7.2.18 to 7.2.22`.
///
/// - Parameter before: the version that ran before; empty if that is not known.
package func purposeText(component: Component, from before: String, to version: String) -> String {
    guard component == .hypervisor else {
        return "to update the \(component) software of its host to \(printable(version))"
    }
    let before = before.isEmpty ? "" : "from \(printable(before)) "
    return "to update the QEMU under it \(before)to \(printable(version))"
}
