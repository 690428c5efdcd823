import Fleet
import Logging
import Testing
import Wire

@testable import LeaderCore

/// Which of several notifiers is given the deliveries, through a server's front.
@Suite("Claims of deliveries")
struct DeliveryClaimsTests {
    private let loop = VirtualLoop()
    private let shared = MemoryLog()
    /// A server lives as long as its process, and not only until a test has named it last.
    private final class Processes {
        var servers: [ServerCore] = []
        let edges = ScriptedEdges()
    }
    private let processes = Processes()

    private func server(_ name: String = "a", isSingle: Bool = true) -> ServerCore {
        let store = MemoryStore(shared, loop)
        let server = ServerCore(
            identity: PeerIdentity(cluster: "test", role: .server, name: name)!,
            group: ServerGroup(advertise: "\(name):1", peers: name == "a" ? ["b:1"] : ["a:1"]),
            softwareVersion: "test", store: isSingle ? SingleStore(store) : store, loop: loop,
            log: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }, edges: processes.edges)
        server.start { _ in }
        processes.servers.append(server)
        return server
    }

    private func notifier(_ name: String, of server: ServerCore) -> ScriptedSession {
        let session = ScriptedSession(.notifier, name)
        server.onReady(session)
        return session
    }

    private func claim(
        _ session: ScriptedSession, _ correlation: UInt64 = 1, of server: ServerCore
    ) {
        server.onMessage(.claimDeliveries, correlation, of: session)
        loop.run(milliseconds: 0)
    }

    /// Holder, number and whether it is its own, as a notifier was told last, and under which claim.
    private func told(_ session: ScriptedSession) -> String {
        for (message, correlation) in session.sent.reversed() {
            if case .deliveryLease(let lease) = message {
                return "\(lease.holder) \(lease.number) \(lease.isYours) of \(correlation)"
            }
        }
        return "nothing"
    }

    private func end(_ session: ScriptedSession, of server: ServerCore) {
        session.close(.normal, reason: "")
        server.onDown(session, nil)
    }

    @Test("the first to claim has it, and all who claim are told")
    func first() {
        let server = server()
        loop.run(milliseconds: 0)
        let (n, m) = (notifier("n", of: server), notifier("m", of: server))
        claim(n, 5, of: server)
        #expect(told(n) == "n 1 true of 5" && told(m) == "nothing")
        claim(m, 7, of: server)
        #expect(told(m) == "n 1 false of 7")
        // Claiming again changes nothing, and is answered under the new claim.
        claim(n, 6, of: server)
        #expect(told(n) == "n 1 true of 6")
        loop.run(milliseconds: 3_600_000)
        #expect(told(m) == "n 1 false of 7")
    }

    @Test("one that is gone for 10 s loses it to the next, and not a moment before")
    func handOver() {
        let server = server()
        loop.run(milliseconds: 0)
        let (n, m) = (notifier("n", of: server), notifier("m", of: server))
        claim(n, of: server)
        claim(m, 3, of: server)
        loop.run(milliseconds: 60_000)
        end(n, of: server)
        loop.run(milliseconds: 9_999)
        #expect(told(m) == "n 1 false of 3")
        loop.run(milliseconds: 1)
        #expect(told(m) == "m 2 true of 3")
        // The one before comes back, and is told so; what it reports is refused.
        let again = notifier("n", of: server)
        claim(again, 9, of: server)
        #expect(told(again) == "m 2 false of 9")
        server.onMessage(.reportDelivered(number: 1, sink: "s", sequence: 0), 4, of: again)
        loop.run(milliseconds: 0)
        guard case .refused(let refusal) = again.sent.last?.message else {
            Issue.record("\(again.sent)")
            return
        }
        #expect(refusal.code == .conflict && refusal.message.contains("notifier m has lease 2"))
    }

    @Test("one that comes back within 10 s keeps it, under its number")
    func comesBack() {
        let server = server()
        loop.run(milliseconds: 0)
        let (n, m) = (notifier("n", of: server), notifier("m", of: server))
        claim(n, of: server)
        claim(m, 3, of: server)
        for _ in 0..<3 {
            end(n, of: server)
            loop.run(milliseconds: 9_000)
            let again = notifier("n", of: server)
            // It need not claim at once: it may have much to read before.
            loop.run(milliseconds: 60_000)
            #expect(told(m) == "n 1 false of 3")
            claim(again, 8, of: server)
            #expect(told(again) == "n 1 true of 8")
            end(again, of: server)
            loop.run(milliseconds: 9_000)
            #expect(told(m) == "n 1 false of 3")
            server.onReady(n)
        }
    }

    @Test("a new session of the holder's counts although the old one ends later")
    func twoSessions() {
        let server = server()
        loop.run(milliseconds: 0)
        let (n, m) = (notifier("n", of: server), notifier("m", of: server))
        claim(n, of: server)
        claim(m, 3, of: server)
        let newer = notifier("n", of: server)
        claim(newer, 4, of: server)
        end(n, of: server)
        loop.run(milliseconds: 60_000)
        #expect(told(newer) == "n 1 true of 4" && told(m) == "n 1 false of 3")
    }

    @Test("one that gives up hands over at once, and nobody claims for it")
    func givesUp() {
        let server = server()
        loop.run(milliseconds: 0)
        let (n, m) = (notifier("n", of: server), notifier("m", of: server))
        claim(n, of: server)
        claim(m, 3, of: server)
        server.onMessage(.reportDelivered(number: 1, sink: "s", sequence: 0), 4, of: n)
        server.onMessage(.giveUpDeliveries, 0, of: n)
        loop.run(milliseconds: 0)
        // Given up is a change of the holder too.
        #expect(told(m) == "m 3 true of 3")
        server.onMessage(.giveUpDeliveries, 0, of: n)
        loop.run(milliseconds: 60_000)
        #expect(told(m) == "m 3 true of 3")
        server.onMessage(.giveUpDeliveries, 0, of: m)
        loop.run(milliseconds: 60_000)
        let late = notifier("l", of: server)
        claim(late, 2, of: server)
        #expect(told(late) == "l 5 true of 2")
    }

    @Test("a claimant that is gone is passed over")
    func passedOver() {
        let server = server()
        loop.run(milliseconds: 0)
        let (n, m, l) = (
            notifier("n", of: server), notifier("m", of: server), notifier("l", of: server)
        )
        for session in [n, m, l] { claim(session, of: server) }
        end(n, of: server)
        end(m, of: server)
        loop.run(milliseconds: 10_000)
        #expect(told(l) == "l 2 true of 1")
    }

    /// What an operator is told who wants a notifier forgotten.
    private func forget(_ name: String, of server: ServerCore) -> String {
        let person = ScriptedSession(.operator, "bob")
        server.onReady(person)
        server.onMessage(
            .command(.forgetNotifier(NotifierID(checked: name), reason: "r")), 1, of: person)
        loop.run(milliseconds: 0)
        processes.edges.finishRecords()
        switch person.sent.last?.message {
        case .refused(let refusal): return "\(refusal.code): \(refusal.message) \(refusal.advice)"
        case .commandAccepted: return "forgotten"
        default: return "nothing"
        }
    }

    private func acknowledge(_ session: ScriptedSession, of server: ServerCore) {
        server.onMessage(.acknowledgeEvents(sequence: 0), 0, of: session)
        loop.run(milliseconds: 0)
    }

    @Test("one that is connected, or may be about to come back, is not forgotten")
    func forgetting() {
        let server = server()
        loop.run(milliseconds: 0)
        let n = notifier("n", of: server)
        // One that never acknowledged, such as for one host, keeps no events.
        #expect(forget("n", of: server).hasPrefix("notFound: "))
        acknowledge(n, of: server)
        #expect(
            forget("n", of: server).hasPrefix("conflict: notifier n is connected Stop it first"))
        end(n, of: server)
        loop.run(milliseconds: 9_999)
        #expect(forget("n", of: server).contains("only since 9 s Try again in 1 s."))
        loop.run(milliseconds: 1)
        #expect(server.state?.notifiers["n"] == 0)
        #expect(forget("n", of: server) == "forgotten")
        #expect(server.state?.notifiers.isEmpty == true)
        #expect(forget("n", of: server).hasPrefix("notFound: "))
        let again = notifier("n", of: server)
        acknowledge(again, of: server)
        #expect(server.state?.notifiers["n"] == 0 && again.closed == nil)
        #expect(
            processes.edges.entries.map { "\($0.line(atMicroseconds: 0))" }.count {
                $0.contains(#""command":{"command":"forgetNotifier","notifier":"n","reason":"r"}"#)
            } == 5)
    }

    @Test("the lease of one that is forgotten passes on as of any that is gone")
    func forgottenHolder() {
        let server = server()
        loop.run(milliseconds: 60_000)
        let (n, m) = (notifier("n", of: server), notifier("m", of: server))
        acknowledge(n, of: server)
        claim(n, of: server)
        claim(m, 3, of: server)
        server.onMessage(.reportDelivered(number: 1, sink: "s", sequence: 0), 4, of: n)
        end(n, of: server)
        #expect(forget("n", of: server) == "forgotten")
        loop.run(milliseconds: 9_999)
        #expect(told(m) == "n 1 false of 3")
        loop.run(milliseconds: 1)
        #expect(told(m) == "m 2 true of 3")
        #expect(server.state?.deliveryLease.delivered.map(\.sink) == ["s"])
    }

    @Test("a new leader gives the holder its 10 s from the start of the term")
    func takeOver() {
        let first = server("a", isSingle: false)
        loop.run(milliseconds: 10_000)
        let n = notifier("n", of: first)
        claim(n, of: first)
        #expect(told(n) == "n 1 true of 1")
        // Gone for nine seconds when the leader goes, too.
        end(n, of: first)
        loop.run(milliseconds: 9_000)
        first.stop()
        let second = server("b")
        loop.run(milliseconds: 0)
        #expect(second.role == .leader(term: 2))
        let m = notifier("m", of: second)
        claim(m, 3, of: second)
        loop.run(milliseconds: 9_999)
        #expect(told(m) == "n 1 false of 3")
        loop.run(milliseconds: 1)
        #expect(told(m) == "m 2 true of 3")
    }
}
