// What must be so when the faults are over and everything has had its time.

import Coordination
import Fleet

extension Truth {
    /// After the faults have stopped and everything has had its time.
    func checkEnd() {
        for notice in coordinator.notices() {
            violate(
                "notices", "guests are still told of \(notice.step) at the end", kind: .liveness)
        }
        checkState()
        for accepted in accepted { check(accepted) }
        for guest in current.keys.sorted() {
            violate("no guest is held", "guest \(guest) is held at the end", kind: .liveness)
        }
        for rollout in state.rollouts.values where !rollout.state.isOver {
            let waiting = rollout.steps.filter { $0.status == .waiting || $0.status == .granted }
            violate(
                "every rollout ends",
                "\(rollout.id) is \(rollout.state.rawValue): "
                    + waiting.prefix(3).map { "\($0.id) on \($0.plan.host) is \($0.status)" }
                    .joined(separator: ", ") + "; " + whyItWaits(rollout.id),
                kind: .liveness)
        }
        for (set, lock) in state.locks where !lock.holders.contains(where: \.stuck) {
            violate(
                "no lock without an owner", "set \(set) is locked by \(lock.holders[0].step)",
                kind: .liveness)
        }
        checkAnnotations()
    }

    /// Its agent and its guard were both hindered in it: what neither could note nobody knows.
    private func isUncertain(_ hold: TrueHold) -> Bool {
        world.faults.hinderedBoth(
            hold.host, from: hold.began - 1_000_000, to: (hold.ended ?? hold.began) + 30_000_000)
    }

    private func whyItWaits(_ id: RolloutID) -> String {
        let view = coordinator.rolloutView(id, connected: Set(world.hosts.map(\.id)))
        return view?.steps.first { $0.phase == .waiting }?.reason ?? ""
    }

    private func checkAnnotations() {
        if let first = world.notifier.undelivered.first {
            violate("the outbox delivers each annotation", "\(first) never came to the sink")
        }
        let annotations = world.annotations
        var used = annotations.map { _ in false }
        for hold in holds where !hold.isForgotten {
            let matches = annotations.indices.filter {
                annotations[$0].guest == hold.guest && annotations[$0].step == hold.step
            }
            let held = "the hold of \(hold.guest) in \(hold.step)"
            guard let index = matches.first(where: { !used[$0] }) else {
                if isUncertain(hold), !hold.isFound { continue }
                violate(
                    "exactly one annotation per hold",
                    "\(held) has \(matches.isEmpty ? "none" : "one less than holds")")
                continue
            }
            used[index] = true
            let annotation = annotations[index]
            let off = annotation.heldAt.microseconds - hold.heldAt.microseconds
            let isDisturbed = world.faults.hasDisturbed(hold)
            if abs(off) > (isDisturbed ? Self.startTolerance : Self.calmTolerance),
                !hold.isTimeless
            {
                violate(
                    "exactly one annotation per hold",
                    "\(held) began \(off) µs before its annotation says")
            }
            if isUncertain(hold) || hold.isTimeless { continue }
            // Of one that ended soon after nobody need have seen that it had gone on.
            if hold.length != nil, annotation.holdMicroseconds == nil,
                !world.faults.hasKilledQEMU(of: hold.guest)
            {
                violate(
                    "exactly one annotation per hold", "\(held) has an annotation without a length")
            }
            if let length = hold.length, let told = annotation.holdMicroseconds,
                abs(told - length) > (isDisturbed ? Self.lengthTolerance : Self.calmTolerance)
            {
                violate(
                    "exactly one annotation per hold",
                    "\(held) took \(length) µs, its annotation says \(told) µs")
            }
        }
        for index in annotations.indices where !used[index] {
            let annotation = annotations[index]
            // One that is gone: whether it stood still before nobody knows.
            if annotation.holdMicroseconds == nil,
                world.faults.hasKilledQEMU(of: annotation.guest)
            {
                continue
            }
            violate(
                "exactly one annotation per hold",
                "there is one of guest \(annotation.guest) in \(annotation.step), which was not held"
            )
        }
    }

    /// In microseconds, of start and length of a hold in which nobody was hindered: QEMU says when it
    /// stopped and when it went on, and a `migrate` stops its guest 3 ms after it was sent, or later.
    static let calmTolerance: Int64 = 2_000
    /// Of any other: a STOP that was lost with a connection is noted with the moment of the command, which
    /// is earlier.
    static let startTolerance: Int64 = 60_000
    static let lengthTolerance: Int64 = 250_000
}

/// An annotation, as far as the checks need it.
struct TrueAnnotation {
    var guest: GuestID
    var step: StepID
    var heldAt: Timestamp
    var holdMicroseconds: Int64?
}
