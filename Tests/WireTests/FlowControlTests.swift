import Fleet
import Testing

@testable import Wire

/// What a peer may ask for before it is answered.
@Suite("Flow control of the session machine")
struct FlowControlTests {
    private let limit = Limits.unansweredRequestsMax

    private func openServer(_ peer: PeerIdentity = Samples.operatorAlice) -> SessionMachine {
        var machine = SessionMachine(server: Samples.server, peer: peer)
        machine.start(at: 0)
        machine.receive(frames(.hello(Samples.hello(peer))), at: 0)
        _ = drain(&machine)
        machine.accept(Samples.accepted, at: 0)
        _ = drain(&machine)
        return machine
    }

    private func queries(_ correlations: ClosedRange<UInt64>) -> [UInt8] {
        correlations.flatMap { frames(.query(.status), correlation: $0) }
    }

    @Test("the 64th unanswered request stops the reading, and each answer lets one more in")
    func window() {
        var machine = openServer()
        machine.receive(queries(1...200), at: 0)
        #expect(drain(&machine).delivered.count == limit)
        #expect(!machine.wantsBytes && machine.state == .ready)
        for answered in 1...UInt64(200 - limit) {
            let sent = machine.send(
                .refused(Refusal(.notFound, "no")), correlation: answered)
            #expect(sent && machine.wantsBytes)
            #expect(drain(&machine).delivered.count == 1)
        }
        #expect(!machine.wantsBytes)
        _ = machine.send(.refused(Refusal(.notFound, "no")), correlation: 200)
        #expect(drain(&machine) == Seen(sentKinds: [.refused]) && machine.wantsBytes)
    }

    @Test(
        "64 other messages that are not acted on stop the reading, and each that is lets one more in"
    )
    func work() {
        var machine = openServer()
        machine.receive(
            (1...200).flatMap {
                frames(.followEvents(afterSequence: 0, progress: false), correlation: $0)
            }, at: 0)
        func deliver() -> Int {
            var count = 0
            while let action = machine.next() {
                guard case .deliver = action else { continue }
                count += 1
                machine.workBegan()
            }
            return count
        }
        #expect(deliver() == Limits.unfinishedWorkMax && !machine.wantsBytes)
        for _ in 0..<10 {
            machine.workEnded()
            #expect(machine.wantsBytes && deliver() == 1)
        }
        #expect(!machine.wantsBytes && machine.state == .ready)
    }

    @Test("what is left unread is no silence of the peer's, which goes on hearing us")
    func paused() {
        var machine = openServer()
        machine.receive(queries(1...64), at: 0)
        _ = drain(&machine)
        var pings = 0
        for moment in stride(from: Int64(0), through: 20_000, by: 250) {
            machine.tick(at: moment)
            pings += drain(&machine).sentKinds.count { $0 == .ping }
        }
        #expect(machine.state == .ready)
        #expect((19...20).contains(pings))
        // As soon as it is read again, its silence counts from then on.
        _ = machine.send(.refused(Refusal(.notFound, "no")), correlation: 1)
        for moment in stride(from: Int64(20_250), through: 24_000, by: 250) {
            machine.tick(at: moment)
            _ = drain(&machine)
        }
        #expect(machine.state == .closed && machine.fault == "timeout")
    }

    @Test("a correlation that waits for its answer, or none where one is needed, is a bad frame")
    func correlations() {
        for bytes in [
            queries(7...7) + queries(7...7), frames(.query(.status)),
            frames(.followEvents(afterSequence: 0, progress: false)),
        ] {
            var machine = openServer()
            machine.receive(bytes, at: 0)
            #expect(drain(&machine).end?.code == .badFrame)
            #expect(machine.fault == "badCorrelation")
        }
        var machine = openServer()
        machine.receive(queries(7...7), at: 0)
        _ = drain(&machine)
        _ = machine.send(.refused(Refusal(.notFound, "no")), correlation: 7)
        machine.receive(queries(7...7), at: 0)
        #expect(drain(&machine).delivered.count == 1)
    }

    @Test("an agent may report again and again without a correlation")
    func reports() {
        var machine = openServer(Samples.agent)
        for _ in 0..<3 { machine.receive(frames(.hostReport(Samples.hostReport)), at: 0) }
        #expect(drain(&machine).delivered.count == 3)
        for _ in 3..<limit { machine.receive(frames(.hostReport(Samples.hostReport)), at: 0) }
        _ = drain(&machine)
        #expect(!machine.wantsBytes)
        _ = machine.send(.hostReportCommitted(index: 1), correlation: 0)
        #expect(machine.wantsBytes)
    }

    @Test("nothing is read while a hello is decided on; its time counts from the connection")
    func deciding() {
        var machine = SessionMachine(server: Samples.server, peer: Samples.agent)
        machine.start(at: 4_000, connectedAt: 0)
        machine.receive(frames(.hello(Samples.hello())), at: 4_000)
        #expect(machine.wantsBytes)
        _ = drain(&machine)
        #expect(machine.state == .deciding && !machine.wantsBytes)
        machine.tick(at: 4_900)
        #expect(machine.state == .deciding)
        machine.tick(at: 5_000)
        #expect(machine.state == .closed && machine.fault == "timeout")
    }

    @Test("each close has a word for counting")
    func faults() {
        for (bytes, fault): ([UInt8], String) in [
            ([0, 0, 0, 3], "tooShort"), ([0xFF, 0, 0, 0], "tooLong"),
            (encodeFrame(Frame(kind: 35, correlation: 1, body: [0xFF])), "badMessage"),
            (encodeFrame(Frame(kind: 999, flags: .mandatory, body: [])), "unknownKind"),
            (frames(.hostReport(Samples.hostReport)), "notPermitted"),
            (frames(.hello(Samples.hello())), "wrongState"),
        ] {
            var machine = openServer()
            machine.receive(bytes, at: 0)
            _ = drain(&machine)
            #expect(machine.fault == fault)
        }
        var machine = openServer()
        machine.receive(frames(.close(.normal, reason: "")), at: 0)
        _ = drain(&machine)
        #expect(machine.fault.isEmpty)
    }
}
