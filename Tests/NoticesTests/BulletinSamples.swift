import Fleet
import Notices
import Presentation

extension Samples {
    static let heldAt = Timestamp(microseconds: 1_775_946_418_123_456)

    static func record(
        _ outcome: StepOutcome = .succeeded, reason: String = "", hold: Int64? = 14_200,
        heldAt: Timestamp = heldAt, guest: String = "db-0"
    ) -> HoldRecord {
        HoldRecord(
            guest: GuestID(checked: guest), outcome: outcome, reason: reason, heldAt: heldAt,
            holdMicroseconds: hold, resumedBy: .agent,
            clockErrorBeforeMicroseconds: hold == nil ? nil : -14_000,
            clockErrorAfterMicroseconds: hold == nil ? nil : -400, clockNote: "",
            hypervisorBefore: "7.2.18",
            hypervisorAfter: outcome == .succeeded ? "7.2.22" : "7.2.18")
    }

    static func pair(_ set: String = "db", _ number: Int = 0) -> SetPair {
        guard let updateDomain = UpdateDomain(number) else { preconditionFailure("\(number)") }
        return SetPair(set: SetID(checked: set), updateDomain: updateDomain)
    }

    static func annotation(_ record: HoldRecord = record(), pair: SetPair? = pair()) -> Annotation {
        Annotation(
            hold: FinishedHold(
                record: record, host: HostID(checked: "a"), pair: pair,
                step: StepID(rollout: RolloutID(1), number: 3), token: Token(7),
                release: ReleaseID(checked: "qemu-7.2.22"), component: .hypervisor,
                version: "7.2.22"),
            recordedAt: Timestamp(microseconds: heldAt.microseconds + 1_000_000))
    }

    /// As an event makes it: without a token if it is of no hold.
    ///
    /// - Parameters:
    ///   - record: makes it one of a finished hold.
    ///   - isGranted: for `cancelled`: after it was told as started.
    static func bulletin(
        _ state: Bulletin.State, record: HoldRecord? = nil, pair: SetPair? = pair(),
        reason: String = "", isGranted: Bool = true, version: String = "7.2.22"
    ) -> Bulletin {
        let annotation = record.map { Samples.annotation($0, pair: pair) }
        let step = StepID(rollout: RolloutID(1), number: 3)
        return Bulletin(
            id: annotation?.annotationID ?? "\(step)-db-0-\(state.rawValue)", state: state,
            sequence: 42, at: Timestamp(microseconds: heldAt.microseconds + 500_000),
            guest: GuestID(checked: "db-0"), host: HostID(checked: "a"), pair: pair, step: step,
            token: annotation?.token, release: ReleaseID(checked: "qemu-7.2.22"),
            component: .hypervisor,
            version: version,
            notBefore: state == .noticed
                ? Timestamp(microseconds: heldAt.microseconds + 900_000_000) : nil,
            wasStarted: state == .cancelled && isGranted, annotation: annotation,
            reason: reason)
    }

    /// One of each kind, by the name of its golden files.
    static let bulletins: [(name: String, bulletin: Bulletin)] = [
        ("noticed", bulletin(.noticed)),
        ("started", bulletin(.started)),
        ("succeeded", bulletin(.succeeded, record: record())),
        ("succeeded-without-set", bulletin(.succeeded, record: record(), pair: nil)),
        (
            "failed",
            bulletin(.failed, record: record(.failed, reason: "the new QEMU exited with status 1"))
        ),
        (
            "unhealthy",
            bulletin(.failed, record: record(.unhealthy, reason: "the guest agent is silent"))
        ),
        ("lost", bulletin(.failed, record: record(.lost, reason: "it was killed", hold: nil))),
        ("cancelled", bulletin(.cancelled, reason: "host a was cordoned", isGranted: false)),
        ("ended", bulletin(.cancelled, reason: "the artifact's digest is wrong")),
    ]
}
