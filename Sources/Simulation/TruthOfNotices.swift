// What guests were told, kept apart from the coordinator that is checked: who is granted must have been
// told in time, and guests of two update domains are never told to make room at once.

import Coordination
import Fleet

/// What was told of each step that is neither granted nor over.
struct TrueNotices {
    private struct Told {
        var pairs: [SetPair]
        var notBefore: Timestamp
        var acknowledged: Set<GuestID> = []
    }
    /// Ascending.
    private var steps: [StepID] = []
    /// Only looked up.
    private var told: [StepID: Told] = [:]

    /// - Returns: what is wrong with it, before the fact is folded into `state`.
    mutating func problems(of fact: Fact, _ state: FleetState) -> [String] {
        switch fact.body {
        case .stepNoticed(let id, let notBefore):
            guard let step = state.step(id), let policy = state.rollouts[id.rollout]?.policy else {
                return ["\(id) is noticed, but there is none"]
            }
            var problems = conflicts(id, step.plan.pairs, state)
            let length = notBefore.microseconds - fact.at.microseconds
            if length != Int64(policy.noticeMilliseconds) * 1_000 {
                problems.append("\(id) is noticed \(length) µs before")
            }
            if told[id] != nil { problems.append("\(id) is noticed twice") }
            forget(id)
            told[id] = Told(pairs: step.plan.pairs, notBefore: notBefore)
            steps.insert(id, at: steps.firstIndex { $0 > id } ?? steps.endIndex)
            return problems
        case .noticeAcknowledged(let id, let guest):
            guard told[id] != nil else { return ["\(id) is acknowledged, but nobody was told"] }
            told[id]!.acknowledged.insert(guest)
        case .noticeWithdrawn(let id, _):
            guard told[id] != nil else { return ["\(id) is withdrawn, but nobody was told"] }
            forget(id)
        case .stepCancelled(let id, _): forget(id)
        case .stepGranted(let id, _): return problemsOfGrant(id, at: fact.at, state)
        default: break
        }
        return []
    }

    private mutating func problemsOfGrant(
        _ id: StepID, at: Timestamp, _ state: FleetState
    ) -> [String] {
        guard let step = state.step(id), let policy = state.rollouts[id.rollout]?.policy else {
            return []
        }
        defer { forget(id) }
        let problems = conflicts(id, step.plan.pairs, state)
        guard policy.noticeMilliseconds > 0, !step.plan.guests.isEmpty else { return problems }
        guard let told = told[id] else {
            return problems + ["\(id) is granted, but nobody was told"]
        }
        let mayBeShort =
            policy.acknowledgement == .shortens
            && step.plan.guests.allSatisfy(told.acknowledged.contains)
        guard at < told.notBefore, !mayBeShort else { return problems }
        return problems + [
            "\(id) is granted \(told.notBefore.microseconds - at.microseconds) µs before its time"
        ]
    }

    /// Others that are told to make room in another update domain.
    private func conflicts(_ id: StepID, _ pairs: [SetPair], _ state: FleetState) -> [String] {
        steps.filter { $0 != id }.flatMap { other in
            told[other]!.pairs.filter { theirs in
                pairs.contains {
                    $0.set == theirs.set && $0.updateDomain != theirs.updateDomain
                }
            }.map { "\(id) is noticed or granted while \(other) is noticed for \($0)" }
        }
    }

    /// Steps that are cancelled with their rollout, or wait again because it is paused, have no fact
    /// of their own.
    mutating func forgetCancelled(_ state: FleetState) {
        for id in steps
        where state.step(id)?.status != .waiting || state.step(id)?.notice == nil { forget(id) }
    }

    private mutating func forget(_ id: StepID) {
        guard told.removeValue(forKey: id) != nil else { return }
        steps.removeAll { $0 == id }
    }
}
