import Fleet
import Testing

@testable import Wire

@Suite("The connection gate")
struct ConnectionGateTests {
    private func gate(_ total: Int, _ perAddress: Int, _ sessions: Int = 100) -> ConnectionGate {
        ConnectionGate(
            ConnectionGate.Bounds(
                halfOpenMax: total, halfOpenPerAddressMax: perAddress,
                sessionsPerAddressMax: sessions))
    }

    @Test("an address that is full loses its own oldest silent connection, and no other's")
    func perAddress() {
        var gate = gate(100, 2)
        #expect(gate.connected(1, address: "b") == .admit(dropping: nil))
        #expect(gate.connected(2, address: "a") == .admit(dropping: nil))
        #expect(gate.connected(3, address: "a") == .admit(dropping: nil))
        #expect(gate.connected(4, address: "a") == .admit(dropping: 2))
        gate.spoke(3)
        #expect(gate.connected(5, address: "a") == .admit(dropping: 4))
        gate.spoke(5)
        #expect(gate.connected(6, address: "a") == .refuse(reason: "halfOpenMax"))
        #expect(gate.connected(7, address: "b") == .admit(dropping: nil))
        #expect(gate.halfOpenCount == 4)
    }

    @Test("a full server puts out who has been silent longest, from wherever")
    func total() {
        var gate = gate(3, 3)
        for number in UInt64(1)...3 { _ = gate.connected(number, address: "a\(number)") }
        gate.spoke(1)
        #expect(gate.connected(4, address: "b") == .admit(dropping: 2))
        #expect(gate.connected(5, address: "b") == .admit(dropping: 3))
        gate.opened(1)
        #expect(gate.connected(6, address: "b") == .admit(dropping: nil))
        for number in UInt64(4)...6 { gate.spoke(number) }
        #expect(gate.connected(7, address: "c") == .refuse(reason: "halfOpenMax"))
    }

    @Test("who has been answered and falls silent is put out like others, after those before it")
    func answered() {
        var gate = gate(2, 2)
        _ = gate.connected(1, address: "a")
        gate.spoke(1)
        _ = gate.connected(2, address: "b")
        gate.answered(1)
        gate.answered(2)
        #expect(gate.connected(3, address: "c") == .admit(dropping: 2))
        #expect(gate.connected(4, address: "c") == .admit(dropping: 1))
        #expect(gate.connected(5, address: "c") == .admit(dropping: 3))
    }

    @Test("sessions count for their address until they end")
    func sessions() {
        var gate = gate(10, 10, 2)
        for number in UInt64(1)...2 {
            _ = gate.connected(number, address: "a")
            gate.spoke(number)
            gate.opened(number)
            gate.opened(number)
        }
        #expect(gate.halfOpenCount == 0)
        #expect(gate.connected(3, address: "a") == .refuse(reason: "sessionsMax"))
        #expect(gate.connected(4, address: "b") == .admit(dropping: nil))
        gate.ended(1)
        gate.ended(1)
        #expect(gate.connected(5, address: "a") == .admit(dropping: nil))
    }

    @Test("whatever comes, counts stay right and within bounds")
    func randomWalk() {
        var random = SplitMix(state: 11)
        var gate = gate(20, 5, 4)
        var live: [UInt64: (address: String, isSession: Bool)] = [:]
        for number in UInt64(1)...20_000 {
            let address = "a\(random.next() % 7)"
            switch gate.connected(number, address: address) {
            case .admit(let dropped):
                if let dropped {
                    #expect(live[dropped]?.isSession == false)
                    live[dropped] = nil
                }
                live[number] = (address, false)
            case .refuse: break
            }
            let some = live.keys.sorted()[Int(random.next() % UInt64(live.count))]
            switch random.next() % 5 {
            case 0: gate.spoke(some)
            case 3: gate.answered(some)
            case 1:
                gate.opened(some)
                live[some]?.isSession = true
            case 2:
                gate.ended(some)
                live[some] = nil
            default: break
            }
            let halfOpen = live.values.filter { !$0.isSession }
            #expect(gate.halfOpenCount == halfOpen.count && halfOpen.count <= 20)
            let counts = Dictionary(grouping: halfOpen, by: \.address).values.map(\.count)
            #expect(counts.allSatisfy { $0 <= 5 })
        }
    }

    @Test(
        "an IPv6 host is known by its /64",
        arguments: [
            ("10.0.0.1", "10.0.0.1"), ("::ffff:10.0.0.1", "10.0.0.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2"), ("2001:db8:1:2::6", "2001:db8:1:2"),
            ("2001:db8::6", "2001:db8:0:0"), ("::1", "0:0:0:0"), ("fe80::1%eth0", "fe80:0:0:0"),
        ])
    func keys(ip: String, key: String) {
        #expect(ConnectionGate.key(ofIP: ip) == key)
    }
}
