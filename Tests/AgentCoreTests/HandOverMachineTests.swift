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
    MIGRATION=cancelled(old): any -> timer:moveFailed
    MIGRATION=completed(new): all but left,moved,contNew,resumed -> timer:silence:old
    MIGRATION=completed(new): left,moved,contNew,resumed -> pid [moved] moved
    MIGRATION=completed(old): all but arrived,moved,contNew,resumed -> timer:silence:new
    MIGRATION=completed(old): arrived,moved,contNew,resumed -> pid [moved] moved
    MIGRATION=failed(old): any -> timer:moveFailed
    RESUME(new): contNew,contOld,resumed -> [continued] continued:new@2000
    RESUME(old): contNew,contOld,resumed -> continued:old@2000
    STOP(old): all but ready -> stopped@2000 [stopped]
    connected(new): all but ready,contNew,contOld,resumed -> new<queryMigrate
    connected(old): all but ready,contNew,contOld,resumed -> old<queryMigrate
    cont=lost(new): any -> continueFailed:new
    cont=lost(old): any -> continueFailed:old
    cont=no(new): any -> continueFailed:new
    cont=no(old): any -> continueFailed:old
    cont=ok(new): all but resumed -> [continued] continued:new@2000
    cont=ok(new): resumed -> [continued] continued:new@1000
    cont=ok(old): all but resumed -> continued:old@2000
    cont=ok(old): resumed -> continued:old@1000
    continue(new)!absent: any -> continueFailed:new
    continue(new)!disconnected: any -> wake:new continueFailed:new
    continue(new): any -> wake:new new<cont
    continue(old)!absent: any -> continueFailed:old
    continue(old)!disconnected: any -> wake:old continueFailed:old
    continue(old): any -> wake:old old<queryReadiness
    exited(new): any -> prepareFailed moveFailed exited:new
    exited(old): all but arrived,moved,contNew,resumed -> exited:old
    exited(old): arrived,moved,contNew,resumed -> exited:old moved
    kill(new): any -> kill:new
    kill(old)!bothEnding: any -> kill:old
    kill(old)!newEnding: any -> exited:new
    kill(old): any -> kill:old
    killFailed(new): any -> killFailed:new
    killFailed(old): any -> killFailed:old [killed]
    killed(new): any -> killed:new
    killed(old): any -> killed:old [killed]
    look=cancelled(old): any -> timer:moveFailed
    look=completed(new): all but left,moved,contNew,resumed -> timer:silence:old
    look=completed(new): left,moved,contNew,resumed -> pid [moved] moved
    look=completed(old): all but arrived,moved,contNew,resumed -> timer:silence:new
    look=completed(old): arrived,moved,contNew,resumed -> pid [moved] moved
    look=failed(old): any -> timer:moveFailed
    look=none(old): any -> moveFailed
    migrate=no: any -> moveFailed
    pause: any -> old<stop
    ready=executing: any -> old<cont
    ready=lost: any -> continueFailed:old
    ready=notYet: any -> continueFailed:old
    ready=standing: all but sent -> old<cont
    ready=standing: sent -> stopped@1000 old<cont
    refused: any -> moveFailed
    stop=lost: any -> stopFailed
    stop=no: any -> stopFailed
    stop=ok: any -> stopped@2000
    stopAndMove: any -> old<migrate
    timer:moveFailed: any -> moveFailed
    timer:silence(new): sent,stopped,left,arrived,paused -> new<queryMigrate
    timer:silence(old): sent,stopped,left,arrived,paused -> old<queryMigrate
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
            (
                "ready=executing",
                replied(.queryReadiness, .old, .readiness(.ready(isExecuting: true)))
            ),
            (
                "ready=standing",
                replied(.queryReadiness, .old, .readiness(.ready(isExecuting: false)))
            ),
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
        // States in which an input does the same are on one line; `any` is all of them.
        var lines: [String] = []
        for (name, input) in Self.inputs {
            var states: [String: [String]] = [:]
            for (state, path) in Self.paths {
                let outputs = Self.outputs(path, input).joined(separator: " ")
                if !outputs.isEmpty { states[outputs, default: []].append(state) }
            }
            for (outputs, states) in states {
                let others = Self.paths.map(\.0).filter { !states.contains($0) }
                let shown =
                    others.isEmpty
                    ? "any"
                    : others.count < states.count
                        ? "all but \(others.joined(separator: ","))" : states.joined(separator: ",")
                lines.append("\(name): \(shown) -> \(outputs)")
            }
        }
        let expected = table.split(separator: "\n").map(String.init)
        for line in lines where !expected.contains(line) {
            Issue.record("not in the table: \(line)")
        }
        for line in expected where !lines.contains(line) { Issue.record("did not happen: \(line)") }
    }

    private func continuedAt(_ inputs: [(Int64, HandOver.Input)]) -> [Int64] {
        var handOver = HandOver(budget: budget)
        return inputs.flatMap { at, input in
            handOver.handle(input, at: at, wall: epoch).compactMap { output in
                if case .event(.continued(_, let at)) = output { at } else { nil }
            }
        }
    }

    @Test("of another agent's step, one that goes on by itself is on record from then")
    func wentOnByItself() {
        let times = continuedAt([
            (1_000, .kill(.new, isOldAlive: true, isNewEnding: false)),
            (2_000, .event(.resume, .old, stamp: nil)),
            (900_000, .continueGuest(.old, .connected)),
            (900_100, replied(.queryReadiness, .old, .readiness(.ready(isExecuting: true)))),
            (900_200, replied(.cont, .old, .done)),
        ])
        #expect(times == [2_000])
    }

    @Test("a cont whose answer was lost with its connection is taken for the one that counted")
    func lostAnswer() {
        let times = continuedAt([
            (1_000, .stopAndMove), (5_000, .continueGuest(.new, .connected)),
            (305_000, replied(.cont, .new, .ended("it broke"))),
            (530_000, .continueGuest(.new, .connected)), (530_100, replied(.cont, .new, .done)),
        ])
        #expect(times == [5_000])
    }

    @Test("a QEMU that let a cont wait in vain did not continue its guest before that")
    func hung() {
        let limit = Int64(budget.replyLimit / .microseconds(1))
        let times = continuedAt([
            (1_000, .stopAndMove), (5_000, .continueGuest(.new, .connected)),
            (5_000 + limit, replied(.cont, .new, .ended("no reply"))),
            (30_000 + limit, .continueGuest(.new, .connected)),
            (30_100 + limit, replied(.cont, .new, .done)),
        ])
        #expect(times == [5_000 + limit])
    }
}
