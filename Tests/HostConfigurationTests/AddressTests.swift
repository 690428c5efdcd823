import Fleet
import Testing

@testable import HostConfiguration

@Suite("IP addresses")
struct AddressTests {
    @Test("are read as people write them, and written in one way")
    func canonical() {
        for (text, canonical) in [
            ("10.0.0.5", "10.0.0.5"), ("0.0.0.0", "0.0.0.0"),
            ("255.255.255.255", "255.255.255.255"), ("::", "::"), ("::1", "::1"), ("1::", "1::"),
            ("FD00::5", "fd00::5"), ("fd00:0:0:0:0:0:0:5", "fd00::5"),
            ("2001:0db8:0000:0000:0001:0000:0000:0001", "2001:db8::1:0:0:1"),
            // Two groups of zeros are shortened, one is not; of several the longest, or the first.
            ("2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"), ("1:0:0:2:0:0:0:3", "1:0:0:2::3"),
            ("1:0:0:2:3:0:0:4", "1::2:3:0:0:4"), ("1:2:3:4:5:6:7::", "1:2:3:4:5:6:7:0"),
            ("::2:3:4:5:6:7:8", "0:2:3:4:5:6:7:8"), ("64:ff9b::10.0.0.5", "64:ff9b::a00:5"),
            ("1:2:3:4:5:6:10.0.0.5", "1:2:3:4:5:6:a00:5"),
            // An IPv4 address within IPv6 is one: a server that listens on both sees it so.
            ("::ffff:10.0.0.5", "10.0.0.5"), ("::FFFF:0a00:0005", "10.0.0.5"),
            ("0:0:0:0:0:ffff:10.0.0.5", "10.0.0.5"), ("::10.0.0.5", "::a00:5"),
        ] {
            #expect(IPAddress(text)?.description == canonical, "\(text)")
            #expect(IPAddress(canonical) == IPAddress(text), "\(text)")
        }
    }

    @Test("and nothing else is one")
    func refused() {
        for text in [
            "", " ", "10.0.0", "10.0.0.5.6", "10.0.0.", ".10.0.0", "10..0.5", "256.0.0.1",
            "1000.0.0.1", "010.0.0.5", "0x0a.0.0.5", "+1.0.0.5", "10.0.0.5 ", "10.0.0.5/8",
            "١.0.0.5", "a.b.c.d", ":", ":::", "1", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9",
            "1:2:3:4:5:6:7:8::", "1::2::3", ":1::2", "1::2:", "12345::", "g::", "-1::",
            "fe80::1%eth0", "[::1]", "::1/64", "::10.0.0.5:1", "10.0.0.5::", "1.2.3.4::5",
            "1:2:3:4:5:6:7:10.0.0.5", "::010.0.0.5", "::ffff:10.0.0", "::1\n", "：：1",
            "::" + String(repeating: "0", count: 60),
        ] {
            #expect(IPAddress(text) == nil, "\(text)")
        }
        #expect(IPAddress(bytes: [1, 2, 3]) == nil && IPAddress(bytes: []) == nil)
    }

    @Test("every address is read as it is written, and IPv4 comes before IPv6")
    func roundTrip() {
        var seed: UInt64 = 1
        var all: [IPAddress] = []
        for number in 0..<2_000 {
            var bytes: [UInt8] = []
            for _ in 0..<(number % 2 == 0 ? 4 : 16) {
                seed = seed &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
                // Many zeros, so that there are runs of them.
                bytes.append(seed >> 62 == 0 ? UInt8(truncatingIfNeeded: seed >> 40) : 0)
            }
            guard let address = IPAddress(bytes: bytes) else {
                Issue.record("\(bytes)")
                continue
            }
            #expect(IPAddress(address.description) == address)
            all.append(address)
        }
        let sorted = all.sorted()
        for (left, right) in zip(sorted, sorted.dropFirst()) {
            #expect(left.bytes.count <= right.bytes.count)
            guard left.bytes.count == right.bytes.count else { continue }
            #expect(!right.bytes.lexicographicallyPrecedes(left.bytes))
        }
    }
}

@Suite("The addresses of a guest in a host file")
struct GuestAddressTests {
    private func parse(_ guests: String) -> Result<HostFile, HostFileProblems> {
        HostFile.parse(
            "host: a\nhypervisor: {path: /q, version: v}\nguests:\n\(guests)\n", fileName: "h")
    }

    private func problems(_ guests: String) -> [String] {
        guard case .failure(let problems) = parse(guests) else { return [] }
        return "\(problems)".split(separator: "\n").map(String.init)
    }

    @Test("are kept in their order and in one spelling, of adopted guests too")
    func kept() throws {
        let file = try parse(
            """
            - {id: g, memory: 64MiB, addresses: [10.0.0.6, "FD00:0::5", "::ffff:10.0.0.5"]}
            - {id: h, adopt: /run/h/qmp, addresses: [10.0.0.7]}
            - {id: i, memory: 64MiB}
            """
        ).get()
        #expect(
            file.guests.map(\.addresses) == [
                ["10.0.0.6", "fd00::5", "10.0.0.5"], ["10.0.0.7"], [],
            ])
    }

    @Test("belong to one guest each, in whichever spelling")
    func once() {
        let found = problems(
            """
            - {id: g, memory: 64MiB, addresses: [10.0.0.5, 10.0.0.6]}
            - {id: h, memory: 64MiB, addresses: ["::ffff:10.0.0.6"]}
            - {id: i, memory: 64MiB, addresses: ["fd00::1", "fd00:0::1"]}
            """)
        #expect(found.count == 2)
        #expect(found.first?.contains("`::ffff:10.0.0.6`, as in line 4") == true, "\(found)")
        #expect(found.last?.contains("`fd00:0::1`, as in line 6") == true, "\(found)")
    }

    @Test("that are none are told, each with its place")
    func wrong() {
        let found = problems(
            """
            - {id: g, memory: 64MiB, addresses: [10.0.0.256, 10.0.0.0/8, "fe80::1%eth0", web]}
            - {id: h, memory: 64MiB, addresses: 10.0.0.5}
            """)
        #expect(found.count == 5, "\(found)")
        #expect(found.first?.contains("`10.0.0.256`, which is no IP address") == true, "\(found)")
        let many = (0...Limits.guestAddressesMax).map { "10.0.1.\($0)" }.joined(separator: ", ")
        let tooMany = problems("- {id: g, memory: 64MiB, addresses: [\(many)]}")
        #expect(tooMany.first?.contains("has 33 addresses") == true, "\(tooMany)")
    }
}
