import Fleet
import Notices
import Testing

@Suite struct ForwardingTests {
    private let proxies = TrustedProxies(
        ["10.1.0.1", "fd00::1"].compactMap { IPAddress($0) })

    private func asker(_ values: [String]) -> String? {
        let fields = values.map { HTTPField("x-FORWARDED-for", $0) } + [HTTPField("Host", "h")]
        let head = RequestHead(method: "GET", target: "/", fields: fields)
        #expect(head.withoutForwarding.fields == [HTTPField("Host", "h")])
        return proxies.asker(in: head)?.description
    }

    @Test("of what a proxy says the last counts that is not another proxy of ours")
    func last() {
        #expect(asker(["10.0.0.5"]) == "10.0.0.5")
        #expect(asker(["10.0.0.9, 10.0.0.5"]) == "10.0.0.5", "the first is what the client wrote")
        #expect(asker(["10.0.0.9", " 10.0.0.5 "]) == "10.0.0.5", "two headers are one list")
        #expect(asker(["10.0.0.9,\t10.0.0.5, 10.1.0.1,FD00::1"]) == "10.0.0.5")
        #expect(asker(["::ffff:10.0.0.5"]) == "10.0.0.5")
        #expect(asker(["fd00::5"]) == "fd00::5")
    }

    @Test("what cannot be read is nobody, and nothing before it is believed")
    func unreadable() {
        for values in [
            [], [""], ["unknown"], ["10.0.0.5, unknown"], ["10.0.0.5:80"], ["10.0.0.5,,x"],
            ["10.1.0.1"], ["10.0.0.5 10.0.0.6"],
        ] {
            #expect(asker(values) == nil, "\(values)")
        }
    }

    @Test("only those that are named are proxies")
    func named() {
        #expect(proxies.contains(IPAddress("10.1.0.1")) && proxies.contains(IPAddress("fd00:0::1")))
        #expect(!proxies.contains(IPAddress("10.1.0.2")) && !proxies.contains(nil))
        #expect(!TrustedProxies().contains(IPAddress("10.1.0.1")))
    }
}
