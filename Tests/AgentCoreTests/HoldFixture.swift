import AgentCore
import Fleet

let guestA = GuestID(checked: "a")
let guestB = GuestID(checked: "b")

func directive(_ guests: [GuestID] = [guestA], token: UInt64 = 1, step: UInt32 = 1) -> Directive {
    let release = Release(
        id: ReleaseID(checked: "r"), component: .hypervisor,
        hypervisor: Hypervisor(version: "new", path: "/new/qemu"),
        sha256: [UInt8](repeating: 1, count: 32))
    return Directive(
        step: StepID(rollout: RolloutID(1), number: step), token: Token(token),
        host: HostID(checked: "h"), release: release, guests: guests,
        deadlineMilliseconds: 10_000)
}

let epoch = Timestamp(microseconds: 1_700_000_000_000_000)

func machine(_ guests: [GuestID] = [guestA], concurrency: Int = 2) -> HoldMachine {
    HoldMachine(
        directive: directive(guests),
        plans: guests.map { GuestPlan(id: $0, hypervisorBefore: "old") }, acceptedAt: epoch,
        concurrency: concurrency)
}

func finalReport(in effects: [HoldEffect]) -> StepReport? {
    for case .finish(let report) in effects { return report }
    return nil
}

/// An effect in two or three words, for tables.
func brief(_ effect: HoldEffect) -> String? {
    switch effect {
    case .verifyArtifact: "verify"
    case .prepare: "prepare"
    case .armGuard: "arm"
    case .tellGuard(.holding): "guard:holding"
    case .tellGuard(.committing): "guard:committing"
    case .tellGuard(.undoing): "guard:undoing"
    case .tellGuard(.released): "guard:released"
    case .tellGuard(.disarm): "guard:disarm"
    case .setTimer(.prepare, _): "timer:prepare"
    case .setTimer(.abort, _): "timer:abort"
    case .setTimer(.retry, _): "timer:retry"
    case .setTimer(.confirm, _): "timer:confirm"
    case .switchQueues(_, let side): "queues:\(side)"
    case .stopAndMove: "move"
    case .kill(_, let side): "kill:\(side)"
    case .continueGuest(_, let side): "cont:\(side)"
    case .adoptNew: "adopt"
    case .discard(_, let side): "discard:\(side)"
    case .confirm(_, let side): "confirm:\(side)"
    case .finish(let report): "finish:\(report.outcome)"
    case .tellGuard(.running), .tellGuard(.ended), .setTimer, .pause, .run, .killCommand: nil
    case .cancelTimer, .note, .progress: nil
    }
}
