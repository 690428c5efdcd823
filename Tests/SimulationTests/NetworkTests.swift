import Edges
import Testing
import Wire

@testable import Simulation

@Suite struct NetworkTests {
    let timeline = Timeline()
    let network: Network
    let here: Place
    let there: Place
    let client: SimulatedProcess
    let server: SimulatedProcess

    /// Both ends of a connection, and what they have got.
    final class Ends {
        var near: SimulatedStream?
        var far: SimulatedStream?
        var atNear: [String] = []
        var atFar: [String] = []
        var problem: Network.ConnectFailure?
    }

    init() {
        network = Network(on: timeline, Chance(seed: 1))
        here = Place("here", on: timeline, drift: 0)
        there = Place("there", on: timeline, drift: 0)
        network.add(here)
        network.add(there)
        client = SimulatedProcess("client", at: here)
        server = SimulatedProcess("server", at: there)
    }

    func pass(_ microseconds: Int64 = 1_000_000) {
        let end = timeline.now + microseconds
        timeline.after(microseconds) {}
        while timeline.step(until: end) {}
    }

    func listen(_ ends: Ends) {
        network.listen("there:1", server) { stream, identity in
            ends.far = stream
            ends.atFar.append("from \(identity.name)")
            stream.onBytes = { ends.atFar.append(String(decoding: $0, as: UTF8.self)) }
            stream.onEnd = { ends.atFar.append(word($0)) }
        }
    }

    func connect(_ ends: Ends, timeout: Int64 = 5_000_000) {
        let identity = PeerIdentity(cluster: "c", role: .operator, name: "o")!
        network.connect(client, to: "there:1", timeout: timeout, as: identity) { result in
            switch result {
            case .success(let stream):
                ends.near = stream
                stream.onBytes = { ends.atNear.append(String(decoding: $0, as: UTF8.self)) }
                stream.onEnd = { ends.atNear.append(word($0)) }
            case .failure(let problem): ends.problem = problem
            }
        }
    }

    func connected() -> Ends {
        let ends = Ends()
        listen(ends)
        connect(ends)
        pass()
        ends.atFar = []
        return ends
    }

    @Test("who connects is known by name; bytes arrive in order, both ways")
    func order() {
        let ends = Ends()
        listen(ends)
        connect(ends)
        pass()
        #expect(ends.atFar == ["from o"])
        let words = (1...50).map { "<\($0)>" }
        for word in words {
            ends.near?.write(Array(word.utf8))
            ends.far?.write(Array(word.utf8))
        }
        pass()
        #expect(ends.atFar.dropFirst().joined() == words.joined())
        #expect(ends.atNear.joined() == words.joined())
    }

    @Test("a living computer refuses, a dead one is silent")
    func refusal() {
        let ends = Ends()
        connect(ends)
        pass()
        guard case .refused = ends.problem else { return #expect(Bool(false)) }
        there.lose()
        ends.problem = nil
        connect(ends)
        pass(4_000_000)
        #expect(ends.problem == nil)
        pass(2_000_000)
        guard case .timedOut = ends.problem else { return #expect(Bool(false)) }
    }

    @Test("what a cut path holds up arrives in order once it is healed; the other way goes on")
    func oneWay() {
        let ends = connected()
        network.cut(here, there)
        #expect(network.isCut(here, there) && !network.isCut(there, here))
        for word in ["a", "b", "c"] { ends.near?.write(Array(word.utf8)) }
        ends.far?.write(Array("back".utf8))
        pass()
        #expect(ends.atFar.isEmpty)
        #expect(ends.atNear == ["back"])
        network.heal(here, there)
        ends.near?.write(Array("d".utf8))
        pass()
        #expect(ends.atFar.joined() == "abcd")
    }

    @Test("a path that was cut twice is healed twice; once too often does no harm")
    func twice() {
        let ends = connected()
        network.cut(here, there)
        network.cut(here, there)
        ends.near?.write(Array("a".utf8))
        network.heal(here, there)
        pass()
        #expect(network.isCut(here, there) && ends.atFar.isEmpty)
        network.heal(here, there)
        network.heal(here, there)
        pass()
        #expect(ends.atFar == ["a"])
        network.cut(here, there)
        #expect(network.isCut(here, there))
    }

    @Test("what is under way when a path is cut waits too")
    func underWay() {
        let ends = connected()
        ends.near?.write(Array("a".utf8))
        network.cut(here, there)
        pass()
        #expect(ends.atFar.isEmpty)
        network.heal(here, there)
        pass()
        #expect(ends.atFar == ["a"])
    }

    @Test("a death is told to the other end; on a cut path only once it is healed")
    func death() {
        let ends = connected()
        network.cut(there, here)
        ends.far?.write(Array("last".utf8))
        server.kill()
        pass()
        #expect(ends.atNear.isEmpty)
        network.heal(there, here)
        pass()
        #expect(ends.atNear == ["last", "failed"])
    }

    @Test("of a loss of power the other end learns nothing")
    func power() {
        let ends = connected()
        there.lose()
        ends.near?.write(Array("a".utf8))
        pass(60_000_000)
        #expect(ends.atNear.isEmpty && ends.atFar.isEmpty)
    }

    @Test("a stopped process is connected to, and takes what came once it is woken")
    func stopped() {
        let ends = Ends()
        listen(ends)
        server.freeze()
        connect(ends)
        pass()
        #expect(ends.near != nil && ends.far == nil)
        ends.near?.write(Array("a".utf8))
        pass()
        server.thaw()
        pass()
        #expect(ends.atFar == ["from o", "a"])
    }

    @Test("an orderly end comes after the last bytes")
    func close() {
        let ends = connected()
        ends.near?.write(Array("bye".utf8))
        ends.near?.close()
        pass()
        #expect(ends.atFar == ["bye", "end"])
        #expect(ends.atNear == ["closed"])
    }

    @Test("nothing is read while nobody wants bytes")
    func paused() {
        let ends = connected()
        ends.far?.onBytes = nil
        ends.near?.write(Array("a".utf8))
        ends.near?.close()
        pass()
        #expect(ends.atFar.isEmpty)
        ends.far?.onBytes = { ends.atFar.append(String(decoding: $0, as: UTF8.self)) }
        pass()
        #expect(ends.atFar == ["a", "end"])
    }
}

private func word(_ end: StreamEnd) -> String {
    switch end {
    case .endOfFile: "end"
    case .closedHere: "closed"
    default: "failed"
    }
}
