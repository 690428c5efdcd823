import Fleet
import Testing

@testable import AgentCore

/// Every pair of a guest's state and an event, against HoldTable.swift, whose lines were read one
/// by one against the table in HoldMachine.swift. A failing test prints the line as it is.
@Suite struct HoldTableTests {
    /// The events that bring a one-guest step into each state.
    static let paths: [(String, [HoldEvent])] = {
        let prepared: [HoldEvent] = [.begin, .artifactVerified, .guest(guestA, .prepared)]
        let switching = prepared + [.guardArmed]
        let stopping = switching + [.guest(guestA, .queuesSwitched)]
        let moving = stopping + [.guest(guestA, .stopped(at: 100, wall: epoch))]
        let committing = moving + [.guest(guestA, .moved)]
        let continuing = committing + [.guest(guestA, .killed(.old))]
        let undoing = moving + [.guest(guestA, .moveFailed(reason: "refused"))]
        let killed = undoing + [.guest(guestA, .killed(.new))]
        let returning = killed + [.guest(guestA, .exited(.new))]
        return [
            ("preparing", [.begin, .artifactVerified]),
            ("prepared", prepared),
            ("switching", switching),
            ("stopping", stopping),
            ("moving", moving),
            ("orphaned", moving + [.guest(guestA, .exited(.old))]),
            ("committing", committing),
            ("continuing", continuing),
            ("undoing", undoing),
            ("killed", killed),
            ("returning", returning),
            ("confirmNew", continuing + [.guest(guestA, .continued(.new, at: 200))]),
            ("confirmOld", returning + [.guest(guestA, .continued(.old, at: 200))]),
            (
                "done",
                continuing + [
                    .guest(guestA, .continued(.new, at: 200)),
                    .guest(guestA, .confirmed(Confirmation(isHealthy: true))),
                ]
            ),
        ]
    }()

    static let events: [(String, HoldEvent)] = [
        ("begin", .begin),
        ("verified", .artifactVerified),
        ("refused", .artifactRefused(reason: "bad")),
        ("armed", .guardArmed),
        ("guardFailed", .guardFailed(reason: "gone")),
        ("prepareTimer", .timerFired(.prepare)),
        ("abortTimer", .timerFired(.abort(guestA))),
        ("retryTimer", .timerFired(.retry(guestA))),
        ("confirmTimer", .timerFired(.confirm(guestA))),
        ("prepared", .guest(guestA, .prepared)),
        ("prepareFailed", .guest(guestA, .prepareFailed(reason: "bad"))),
        ("switched", .guest(guestA, .queuesSwitched)),
        ("queuesFailed", .guest(guestA, .queuesFailed(reason: "bad"))),
        ("stopped", .guest(guestA, .stopped(at: 100, wall: epoch))),
        ("moved", .guest(guestA, .moved)),
        ("moveFailed", .guest(guestA, .moveFailed(reason: "bad"))),
        ("killedOld", .guest(guestA, .killed(.old))),
        ("killedNew", .guest(guestA, .killed(.new))),
        ("killOldFailed", .guest(guestA, .killFailed(.old, reason: "bad"))),
        ("killNewFailed", .guest(guestA, .killFailed(.new, reason: "bad"))),
        ("contOld", .guest(guestA, .continued(.old, at: 200))),
        ("contNew", .guest(guestA, .continued(.new, at: 200))),
        ("contOldFailed", .guest(guestA, .continueFailed(.old, reason: "bad"))),
        ("contNewFailed", .guest(guestA, .continueFailed(.new, reason: "bad"))),
        ("exitedOld", .guest(guestA, .exited(.old))),
        ("exitedNew", .guest(guestA, .exited(.new))),
        ("healthy", .guest(guestA, .confirmed(Confirmation(isHealthy: true)))),
        ("sick", .guest(guestA, .confirmed(Confirmation(isHealthy: false, reason: "sick")))),
    ]

    static func line(_ state: String, _ path: [HoldEvent], _ name: String, _ event: HoldEvent)
        -> String?
    {
        var hold = machine()
        for step in path { _ = hold.handle(step, at: 1_000, wall: epoch) }
        let before = hold.guests[0].state
        let effects = hold.handle(event, at: 2_000, wall: epoch)
        let after = hold.guests[0].state
        let shown = effects.compactMap(brief)
        if before == after, shown.isEmpty { return nil }
        let next: String
        switch after {
        case .done(let outcome): next = "done(\(outcome.rawValue))"
        case .confirming(let side): next = "confirming(\(side.rawValue))"
        default: next = "\(after)"
        }
        let list = shown.isEmpty ? "" : " " + shown.joined(separator: " ")
        return "\(state) \(name) -> \(next) |\(list)"
    }

    @Test("every pair of a guest's state and an event does what the table says")
    func everyPair() {
        var lines: [String] = []
        for (state, path) in Self.paths {
            for (name, event) in Self.events {
                if let line = Self.line(state, path, name, event) { lines.append(line) }
            }
        }
        let expected = holdTable.split(separator: "\n").map(String.init)
        for line in lines where !expected.contains(line) {
            Issue.record("not in the table: \(line)")
        }
        for line in expected where !lines.contains(line) { Issue.record("did not happen: \(line)") }
    }
}
