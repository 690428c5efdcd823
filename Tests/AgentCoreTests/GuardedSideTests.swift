import Fleet
import Testing

@testable import AgentCore

private func replied(_ request: MonitorRequest, _ reply: MonitorReply) -> GuardedSide.Input {
    .replied(request, reply)
}

private func brief(_ output: GuardedSide.Output) -> String {
    switch output {
    case .wake: "wake"
    case .connect: "connect"
    case .send(let request, _): "\(request)"
    case .event(.continued(_, _, let at, let wasHeld)): "continued@\(at),\(wasHeld)"
    case .event(.continueFailed): "continueFailed"
    case .event(.stopped(_, let at, _)): "stopped@\(at)"
    case .event(let event): "\(event)"
    }
}

/// What every pair of state and input does; a pair that is not here does nothing.
private let table = """
    any continue -> wake ASK
    any continue!disconnected -> wake connect
    any connectFailed -> continueFailed
    any ready -> contAndLook
    any ready=notYet -> continueFailed
    any ready=lost -> continueFailed
    fresh look=executing -> continued@2000,false
    any look=standing -> continueFailed
    fresh STOP -> stopped@2000
    stopped STOP -> stopped@2000
    resumedByItself STOP -> stopped@2000
    any look=no -> continueFailed
    stopped look=executing -> continued@2000,false
    resumedByItself look=executing -> continued@1000,true
    asked look=executing -> continued@2000,false
    asked STOP -> stopped@2000 ASK
    any look=lost -> continueFailed
    hung look=executing -> continued@1000,true
    hung STOP -> stopped@2000 ASK
    resumed look=executing -> continued@1000,true
    resumed STOP -> stopped@2000 ASK
    stoppedLate look=executing -> continued@2000,false
    stoppedLate STOP -> stopped@2000 ASK
    stoppedLate RESUME -> continued@2000,true
    """

@Suite struct GuardedSideTests {
    private static let paths: [(String, [GuardedSide.Input])] = [
        ("fresh", []),
        ("stopped", [.event(.stop, stamp: nil)]),
        ("resumedByItself", [.event(.stop, stamp: nil), .event(.resume, stamp: nil)]),
        ("asked", [.continueGuest(isConnected: true)]),
        ("stoppedLate", [.continueGuest(isConnected: true), .event(.stop, stamp: nil)]),
        ("resumed", [.continueGuest(isConnected: true), .event(.resume, stamp: nil)]),
        (
            "hung",
            [
                .continueGuest(isConnected: true),
                replied(.queryReadiness, .readiness(.ready(isExecuting: false))),
                replied(.contAndLook, .ended("no answer")),
            ]
        ),
    ]
    private static let inputs: [(String, GuardedSide.Input)] = [
        ("continue", .continueGuest(isConnected: true)),
        ("continue!disconnected", .continueGuest(isConnected: false)),
        ("connectFailed", .connectFailed),
        ("STOP", .event(.stop, stamp: nil)), ("RESUME", .event(.resume, stamp: nil)),
        ("MIGRATION", .event(.migration(.completed), stamp: nil)),
        ("ready", replied(.queryReadiness, .readiness(.ready(isExecuting: false)))),
        ("ready=notYet", replied(.queryReadiness, .readiness(.notYet(reason: "")))),
        ("ready=lost", replied(.queryReadiness, .ended("gone"))),
        ("look=executing", replied(.contAndLook, .executing(true))),
        ("look=standing", replied(.contAndLook, .executing(false))),
        ("look=lost", replied(.contAndLook, .ended("gone"))),
        ("look=no", replied(.contAndLook, .refused("no"))),
        ("cont=no", replied(.cont, .refused("no"))),
    ]

    @Test("every pair of state and input does what the table says", arguments: Side.allCases)
    func everyPair(side: Side) {
        // The old one may still be in its migration's end, the new one never is.
        let ask = side == .old ? "queryReadiness" : "contAndLook"
        var expected = table.split(separator: "\n").map { line in
            line.hasSuffix("ASK") ? line.dropLast(3) + ask : String(line)
        }
        for (name, input) in Self.inputs {
            for (state, path) in Self.paths {
                var guarded = GuardedSide(
                    guestA, side, budget: HoldBudget(deadlineMilliseconds: 1_000))
                for (index, input) in path.enumerated() {
                    // The last one at 1 ms, and what is asked longer under way than it may be.
                    let at = 1_000 - Int64(path.count - 1 - index) * 200_000
                    _ = guarded.handle(input, at: at, wall: epoch)
                }
                let outputs = guarded.handle(input, at: 2_000, wall: epoch).map(brief)
                let what = "\(name) -> \(outputs.joined(separator: " "))"
                let isKnown =
                    outputs.isEmpty
                    ? !expected.contains { $0.hasPrefix("\(state) \(name) ->") }
                    : expected.contains("any \(what)") || expected.contains("\(state) \(what)")
                #expect(isKnown, "\(state) \(what)")
            }
        }
        expected.removeAll { $0.hasPrefix("any ") }
        #expect(expected.count == 15)
    }

    @Test("a connection that only breaks says nothing of when the guest went on")
    func broken() {
        var guarded = GuardedSide(guestA, .new, budget: HoldBudget(deadlineMilliseconds: 1_000))
        _ = guarded.handle(.continueGuest(isConnected: true), at: 5_000, wall: epoch)
        _ = guarded.handle(replied(.contAndLook, .ended("broken")), at: 6_000, wall: epoch)
        _ = guarded.handle(.continueGuest(isConnected: true), at: 7_000, wall: epoch)
        let outputs = guarded.handle(
            replied(.contAndLook, .executing(true)), at: 8_000, wall: epoch)
        #expect(outputs == [.event(.continued(guestA, .new, at: 8_000, wasHeld: false))])
    }

    @Test("a guest that the guard continued was held since it saw it stop, by the event's own time")
    func times() {
        var guarded = GuardedSide(guestA, .new, budget: HoldBudget(deadlineMilliseconds: 1_000))
        _ = guarded.handle(.continueGuest(isConnected: true), at: 5_000, wall: epoch)
        _ = guarded.handle(
            .event(.resume, stamp: epoch.microseconds - 300), at: 5_400, wall: epoch)
        let outputs = guarded.handle(
            replied(.contAndLook, .executing(true)), at: 9_000, wall: epoch)
        #expect(outputs == [.event(.continued(guestA, .new, at: 5_100, wasHeld: true))])
    }
}
