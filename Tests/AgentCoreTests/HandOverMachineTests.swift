import Fleet
import Testing

@testable import AgentCore

private let budget = HoldBudget(deadlineMilliseconds: 10_000)

private func replied(_ request: MonitorRequest, _ side: Side, _ reply: MonitorReply)
    -> HandOver.Input
{ .replied(request, side, reply) }

/// An output in a word or two.
private func brief(_ output: HandOver.Output) -> String {
    switch output {
    case .event(let event):
        switch event {
        case .stopped(let at, _): "stopped@\(at)"
        case .continued(let side, let at): "continued:\(side)@\(at)"
        case .continueFailed(let side, _): "continueFailed:\(side)"
        case .killed(let side): "killed:\(side)"
        case .killFailed(let side, _): "killFailed:\(side)"
        case .exited(let side): "exited:\(side)"
        case .moveFailed: "moveFailed"
        case .prepareFailed: "prepareFailed"
        case .stopFailed: "stopFailed"
        default: "\(event)"
        }
    case .send(let request, let side, _): "\(side)<\(request)"
    case .wake(let side): "wake:\(side)"
    case .kill(let side): "kill:\(side)"
    case .handPidOver: "pid"
    case .setTimer(.moveFailed, _): "timer:moveFailed"
    case .setTimer(.silence(let side), _): "timer:silence:\(side)"
    case .reached(let point): "[\(point)]"
    }
}

private func completed(_ side: Side) -> HandOver.Input {
    .event(.migration(.completed), side, stamp: nil)
}

/// What every pair of state and input does; a pair that is not here does nothing.
private let table = """
    """

@Suite struct HandOverMachineTests {
    private static let paths: [(String, [HandOver.Input])] = {
        let stopped: [HandOver.Input] = [.stopAndMove, .event(.stop, .old, stamp: nil)]
        let moved = stopped + [completed(.old), completed(.new)]
        return [
            ("ready", []),
            ("sent", [.stopAndMove]),
            ("stopped", stopped),
            ("left", stopped + [completed(.old)]),
            ("arrived", stopped + [completed(.new)]),
            ("moved", moved),
            ("paused", [.pause, .event(.stop, .old, stamp: nil)]),
            ("contNew", moved + [.continueGuest(.new, .connected)]),
            (
                "contOld",
                stopped + [replied(.queryReadiness, .old, .readiness(.ready(isExecuting: false)))]
            ),
            (
                "resumed",
                moved + [
                    .continueGuest(.new, .connected), .event(.resume, .new, stamp: nil),
                ]
            ),
        ]
    }()

    private static let inputs: [(String, HandOver.Input)] = {
        var inputs: [(String, HandOver.Input)] = [
            ("stopAndMove", .stopAndMove), ("pause", .pause),
            ("kill(old)", .kill(.old, isOldAlive: true, isNewEnding: false)),
            ("kill(old)!newEnding", .kill(.old, isOldAlive: true, isNewEnding: true)),
            ("kill(old)!bothEnding", .kill(.old, isOldAlive: false, isNewEnding: true)),
            ("kill(new)", .kill(.new, isOldAlive: false, isNewEnding: false)),
            ("refused", .refused(lastWords: "bad")),
            ("timer:moveFailed", .timerFired(.moveFailed)),
            ("migrate=ok", replied(.migrate, .old, .done)),
            ("migrate=no", replied(.migrate, .old, .refused("no"))),
            ("migrate=lost", replied(.migrate, .old, .ended("gone"))),
            ("stop=ok", replied(.stop, .old, .done)),
            ("stop=no", replied(.stop, .old, .refused("no"))),
            ("stop=lost", replied(.stop, .old, .ended("gone"))),
            ("ready=executing", replied(.queryReadiness, .old, .readiness(.ready(isExecuting: true)))),
            ("ready=standing", replied(.queryReadiness, .old, .readiness(.ready(isExecuting: false)))),
            ("ready=notYet", replied(.queryReadiness, .old, .readiness(.notYet(reason: "")))),
            ("ready=lost", replied(.queryReadiness, .old, .ended("gone"))),
        ]
        for side in Side.allCases {
            inputs += [
                ("continue(\(side))", .continueGuest(side, .connected)),
                ("continue(\(side))!absent", .continueGuest(side, .absent)),
                ("continue(\(side))!disconnected", .continueGuest(side, .disconnected)),
                ("connected(\(side))", .connected(side)),
                ("STOP(\(side))", .event(.stop, side, stamp: nil)),
                ("RESUME(\(side))", .event(.resume, side, stamp: nil)),
                ("killed(\(side))", .killed(side, problem: nil)),
                ("killFailed(\(side))", .killed(side, problem: "no")),
                ("exited(\(side))", .exited(side, lastWords: "")),
                ("timer:silence(\(side))", .timerFired(.silence(side))),
                ("cont=ok(\(side))", replied(.cont, side, .done)),
                ("cont=no(\(side))", replied(.cont, side, .refused("no"))),
                ("cont=lost(\(side))", replied(.cont, side, .ended("gone"))),
                ("look=lost(\(side))", replied(.queryMigrate, side, .ended("gone"))),
            ]
            for status: MoveStatus in [
                .notBegun, .completed, .failed, .cancelled, .underWay("active"),
            ] {
                inputs.append(
                    ("MIGRATION=\(status)(\(side))", .event(.migration(status), side, stamp: nil)))
                inputs.append(
                    ("look=\(status)(\(side))", replied(.queryMigrate, side, .migration(status))))
            }
        }
        return inputs
    }()

    /// Everything before happened at 1000, the input happens at 2000.
    private static func outputs(_ path: [HandOver.Input], _ input: HandOver.Input) -> [String] {
        var handOver = HandOver(budget: budget)
        for input in path { _ = handOver.handle(input, at: 1_000, wall: epoch) }
        return handOver.handle(input, at: 2_000, wall: epoch).map(brief)
    }

    @Test("every pair of state and input does what the table says")
    func everyPair() {
        // What does the same in every state comes once, as `any`.
        var lines: [String] = []
        for (name, input) in Self.inputs {
            let all = Self.paths.map { ($0.0, Self.outputs($0.1, input)) }
            if all.allSatisfy({ $0.1 == all[0].1 }) {
                if !all[0].1.isEmpty { lines.append("any \(name) -> \(all[0].1.joined(separator: " "))") }
                continue
            }
            for (state, outputs) in all where !outputs.isEmpty {
                lines.append("\(state) \(name) -> \(outputs.joined(separator: " "))")
            }
        }
        let expected = table.split(separator: "\n").map(String.init)
        for line in lines where !expected.contains(line) {
            Issue.record("not in the table: \(line)")
        }
        for line in expected where !lines.contains(line) { Issue.record("did not happen: \(line)") }
    }
}
