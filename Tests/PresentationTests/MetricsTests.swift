import Fleet
import Testing

@testable import Presentation

@Suite("Figures for Prometheus")
struct MetricsTests {
    private func view(_ counters: [Counter]) -> StatusView {
        StatusView(
            cluster: "demo", server: "one", term: 3, index: 120, softwareVersion: "0.1.0",
            hostCount: 3, connectedHostCount: 2, guestCount: 6, runningGuestCount: 5, setCount: 2,
            lockedSetCount: 1, stuckSetCount: 0, activeRollouts: [RolloutID(1)],
            notifiers: [
                NotifierView(
                    name: "n\"1", acknowledgedSequence: 3, lastSequence: 5, connected: false),
                NotifierView(name: "n2", acknowledgedSequence: 5, lastSequence: 5),
            ],
            warnings: [],
            traffic: ServerTraffic(
                sessionCount: 7, halfOpenCount: 1, counters: counters,
                certificates: [
                    CertificateView(
                        identity: "fermata://demo/server/one", serial: "4a",
                        expiresAt: Timestamp(microseconds: 1_795_000_000_000_000))
                ]), keptEventCount: 4)
    }

    @Test("each family has its help and type once, and its samples below")
    func text() {
        let text = view([
            Counter(name: "connections_accepted", reason: "", count: 9),
            Counter(name: "connections_refused", reason: "expired", count: 2),
            Counter(name: "connections_refused", reason: "plaintext", count: 4),
        ]).metricsText
        for line in [
            "# TYPE fermata_guests_running gauge", "fermata_guests_running 5", "fermata_sessions 7",
            #"fermata_notifier_events_behind{notifier="n\"1"} 2"#,
            #"fermata_notifier_events_behind{notifier="n2"} 0"#,
            #"fermata_notifier_connected{notifier="n\"1"} 0"#,
            "# TYPE fermata_events_kept gauge", "fermata_events_kept 4",
            "fermata_certificate_expiry_timestamp_seconds"
                + #"{identity="fermata://demo/server/one",serial="4a"} 1795000000"#,
            "# TYPE fermata_connections_refused_total counter",
            "fermata_connections_accepted_total 9",
            #"fermata_connections_refused_total{reason="expired"} 2"#,
            #"fermata_connections_refused_total{reason="plaintext"} 4"#,
        ] {
            #expect(text.split(separator: "\n").count { $0 == line } == 1, "\(line)")
        }
        #expect(text.hasSuffix("\n") && !text.contains("\n\n"))
        // Of one of which it is not known, nothing is said.
        #expect(!text.contains(#"fermata_notifier_connected{notifier="n2"}"#))
    }

    @Test("a server's strange words cannot break the format")
    func strange() {
        let text = view([Counter(name: "x y\n{}", reason: "a\"b\\c\nd", count: 1)]).metricsText
        #expect(text.contains(#"fermata_x_y____total{reason="a\"b\\c\nd"} 1"#))
    }

    @Test("counters stand in JSON by name and reason")
    func json() {
        let json = view([
            Counter(name: "connections_accepted", reason: "", count: 9),
            Counter(name: "connections_refused", reason: "expired", count: 2),
            Counter(name: "connections_refused", reason: "plaintext", count: 4),
        ]).json.compact
        #expect(
            json.contains(
                #""counters":{"connections_accepted":{"all":9},"#
                    + #""connections_refused":{"expired":2,"plaintext":4}}"#))
    }
}
