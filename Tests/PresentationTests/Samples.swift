import Fleet

@testable import Presentation

/// Values that several tests render.
enum Samples {
    static let heldAt = Timestamp(microseconds: 1_775_946_418_123_456)
    static let step = StepID(rollout: RolloutID(1), number: 3)
    static let pair = SetPair(
        set: SetID(checked: "db"), updateDomain: .first)

    static func record(
        outcome: StepOutcome = .succeeded, reason: String = "", hold: Int64? = 14_200,
        resumedBy: Resumer = .agent, before: Int64? = -14_000, after: Int64? = -400,
        note: String = "", versionAfter: String = "7.2.22"
    ) -> HoldRecord {
        HoldRecord(
            guest: GuestID(checked: "db-0"), outcome: outcome, reason: reason, heldAt: heldAt,
            holdMicroseconds: hold, resumedBy: resumedBy, clockErrorBeforeMicroseconds: before,
            clockErrorAfterMicroseconds: after, clockNote: note, hypervisorBefore: "7.2.18",
            hypervisorAfter: versionAfter)
    }

    static func hold(_ record: HoldRecord = record(), pair: SetPair? = pair) -> FinishedHold {
        FinishedHold(
            record: record, host: HostID(checked: "a"), pair: pair, step: step, token: Token(7),
            release: ReleaseID(checked: "qemu-7.2.22"), component: .hypervisor, version: "7.2.22")
    }

    static func annotation(
        _ record: HoldRecord = record(), pair: SetPair? = pair
    ) -> Annotation {
        Annotation(
            hold: hold(record, pair: pair),
            recordedAt: Timestamp(microseconds: heldAt.microseconds + 1_000_000))
    }

    static func stepView(_ number: UInt32, phase: StepPhase, holds: [HoldRecord] = []) -> StepView {
        StepView(
            id: StepID(rollout: RolloutID(1), number: number), host: HostID(checked: "a"),
            guests: [GuestID(checked: "db-0")], pairs: [pair], phase: phase,
            token: phase == .waiting ? nil : Token(7), outcome: holds.first?.outcome,
            reason: phase == .waiting ? "waits for db/UD1" : "", grantedAt: nil, finishedAt: nil,
            phases: [], holds: holds)
    }

    static func rollout(_ state: RolloutState, steps: [StepView]) -> RolloutView {
        RolloutView(
            id: RolloutID(1), release: ReleaseID(checked: "qemu-7.2.22"), component: .hypervisor,
            version: "7.2.22", selection: .allHosts, policy: Policy(), state: state, reason: "",
            startedAt: heldAt, startedBy: "alice",
            finishedAt: state.isOver
                ? Timestamp(microseconds: heldAt.microseconds + 34_000_000) : nil,
            steps: steps, skipped: [])
    }
}

extension UpdateDomain {
    static var first: UpdateDomain {
        guard let first = UpdateDomain(0) else { preconditionFailure("0 is an update domain") }
        return first
    }
}
