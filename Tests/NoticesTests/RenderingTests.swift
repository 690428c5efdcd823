import Fleet
import Foundation
import Presentation
import Testing

@testable import Notices

/// What each kind of bulletin looks like in each form, against the files in `Bulletins/`.
///
/// `FERMATA_REWRITE=1 swift test --filter GoldenBulletinTests` writes them anew; read what changed.
@Suite struct GoldenBulletinTests {
    private static let directory = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
        .appendingPathComponent("Bulletins")
    private let renderer = BulletinRenderer(cluster: "demo")

    @Test("every bulletin looks as it did", arguments: Samples.bulletins.map(\.name))
    func golden(name: String) throws {
        let bulletin = try #require(Samples.bulletins.first { $0.name == name }?.bulletin)
        var text = ""
        for format in BulletinFormat.allCases where format != .html {
            text += "---- \(format.rawValue)\n"
            let rendered = renderer.render(bulletin, as: format)
            #expect((rendered != nil) == format.tells(of: bulletin))
            guard let rendered else {
                text += "(nothing)\n"
                continue
            }
            text += "Content-Type: \(rendered.contentType)\n"
            for header in rendered.headers { text += "\(header.name): \(header.value)\n" }
            text += "Subject: \(renderer.subject(bulletin))\n\n"
            let body = String(decoding: rendered.body, as: UTF8.self)
            text += body.hasSuffix("\n") ? body : body + "\n"
        }
        try compare(text, with: "\(name).txt")
        let page = try #require(renderer.render(bulletin, as: .html))
        try compare(String(decoding: page.body, as: UTF8.self), with: "\(name).html")
    }

    private func compare(_ text: String, with name: String) throws {
        let file = Self.directory.appendingPathComponent(name)
        if ProcessInfo.processInfo.environment["FERMATA_REWRITE"] != nil {
            try Data(text.utf8).write(to: file)
        }
        #expect(try String(contentsOf: file, encoding: .utf8) == text, "\(name)")
    }
}

@Suite struct RenderingTests {
    private let renderer = BulletinRenderer(cluster: "demo")

    private func body(_ bulletin: Bulletin, _ format: BulletinFormat) throws -> String {
        let rendered = try #require(renderer.render(bulletin, as: format))
        return String(decoding: rendered.body, as: UTF8.self)
    }

    private func object(_ text: String) throws -> [String: Any] {
        try #require(JSONSerialization.jsonObject(with: Data(text.utf8)) as? [String: Any])
    }

    @Test("a silence is found by cluster, step and guest")
    func silence() throws {
        let bulletin = Samples.bulletin(.started)
        let marks = ["demo", "live"].map { SilenceMessage.mark(bulletin, cluster: $0) }
        #expect(marks == ["[fermata demo rollout-1.3 db-0]", "[fermata live rollout-1.3 db-0]"])
        let body = try #require(
            SilenceMessage.body(
                bulletin, cluster: "live", text: "It is held.", SilenceSettings(), now: bulletin.at)
        )
        #expect(body.compact.contains("[fermata live rollout-1.3 db-0] It is held."))
    }

    @Test("the JSON of a finished hold has every key of its annotation with the same value")
    func superset() throws {
        for (_, bulletin) in Samples.bulletins {
            guard let annotation = bulletin.annotation else { continue }
            let whole = try object(body(bulletin, .json))
            for (key, value) in try object(annotation.json.compact) {
                let other = try #require(whole[key], "\(key)")
                #expect("\(other)" == "\(value)", "\(key)")
            }
            #expect(try body(bulletin, .json).split(separator: "\n").count == 1)
        }
    }

    @Test("the built-in text of a finished hold is the annotation's")
    func text() throws {
        for (_, bulletin) in Samples.bulletins {
            guard let annotation = bulletin.annotation else { continue }
            #expect(try body(bulletin, .text) == annotation.text + "\n")
        }
    }

    @Test("an event keeps the rules of CloudEvents 1.0, in either mode")
    func cloudEvents() throws {
        var ids: Set<String> = []
        let formats: [BulletinFormat] = [.cloudEvent, .resourceHealth, .availabilityStatus]
        for (name, bulletin) in Samples.bulletins where !name.contains("-") && name != "ended" {
            for format in formats where format.tells(of: bulletin) {
                let rendered = try #require(renderer.render(bulletin, as: format))
                #expect(rendered.contentType == "application/cloudevents+json; charset=utf-8")
                let event = try object(String(decoding: rendered.body, as: UTF8.self))
                #expect(event["specversion"] as? String == "1.0")
                for name in ["id", "source", "type", "subject", "time"] {
                    #expect(try !#require(event[name] as? String, "\(name)").isEmpty)
                }
                for name in event.keys {
                    // Section 3.1: lower-case letters and digits, at most 20 of them.
                    #expect(name.utf8.count <= 20 && name.allSatisfy { isAttributeCharacter($0) })
                }
                #expect(Timestamp(rfc3339: event["time"] as? String ?? "") == bulletin.at)
                #expect(event["data"] is [String: Any])
                if bulletin.annotation == nil || name == "succeeded" {
                    let key = "\(event["source"] ?? "") \(event["id"] ?? "")"
                    #expect(ids.insert(key).inserted, "\(key) twice")
                }
            }
            let binary = try #require(renderer.render(bulletin, as: .cloudEventBinary))
            #expect(binary.contentType == "application/json; charset=utf-8")
            let structured = try object(body(bulletin, .cloudEvent))
            #expect(binary.headers.count == 7 && structured.count == 9)
            for header in binary.headers {
                #expect(header.value == structured[String(header.name.dropFirst(3))] as? String)
            }
            #expect(try String(decoding: binary.body, as: UTF8.self) == body(bulletin, .json))
        }
    }

    private func isAttributeCharacter(_ character: Character) -> Bool {
        ("a"..."z").contains(character) || ("0"..."9").contains(character)
    }

    @Test(
        "a header's value is percent-encoded as the HTTP binding asks",
        arguments: [
            ("plain-1.0/x", "plain-1.0/x"),
            ("Euro \u{20AC} \u{1F600}", "Euro%20%E2%82%AC%20%F0%9F%98%80"),
            ("100%\"\r\n", "100%25%22%0D%0A"), ("~!", "~!"),
        ])
    func percent(text: String, encoded: String) {
        #expect(percentEncoded(text) == encoded)
    }

    @Test("the cloud's fields stand where its consumers look for them")
    func resourceHealth() throws {
        func properties(_ bulletin: Bulletin, _ format: BulletinFormat) throws -> [String: Any] {
            let event = try object(body(bulletin, format))
            let data = try #require(event["data"] as? [String: Any])
            let info = try #require(data["resourceInfo"] as? [String: Any])
            let operational = try #require(data["operationalInfo"] as? [String: Any])
            let properties = try #require(info["properties"] as? [String: Any])
            let occurred = properties["occurredTime"] as? String
            #expect(operational["resourceEventTime"] as? String == occurred)
            #expect(properties["targetResourceId"] as? String == event["subject"] as? String)
            return properties
        }
        let succeeded = Samples.bulletin(.succeeded, record: Samples.record())
        let annotated = try properties(succeeded, .resourceHealth)
        #expect(annotated["annotationName"] as? String == "VirtualMachinePlannedFreezeSucceeded")
        #expect(annotated["impactType"] as? String == "Downtime Freeze")
        #expect(annotated["occurredTime"] as? String == "2026-04-11T22:26:58.137656Z")
        let states: [(Bulletin, String, String)] = [
            (Samples.bulletin(.started), "Available", "Unavailable"),
            (succeeded, "Unavailable", "Available"),
            (
                Samples.bulletin(.failed, record: Samples.record(.failed)), "Unavailable",
                "Available"
            ),
            (
                Samples.bulletin(.failed, record: Samples.record(.unhealthy)), "Unavailable",
                "Degraded"
            ),
            (Samples.bulletin(.cancelled), "Unavailable", "Available"),
        ]
        for (bulletin, before, after) in states {
            let change = try properties(bulletin, .availabilityStatus)
            #expect(change["previousAvailabilityState"] as? String == before)
            #expect(change["availabilityState"] as? String == after)
        }
        for bulletin in [
            Samples.bulletin(.noticed), Samples.bulletin(.cancelled, isGranted: false),
            Samples.bulletin(.failed, record: Samples.record(.lost, hold: nil)),
        ] {
            #expect(!BulletinFormat.availabilityStatus.tells(of: bulletin))
        }
        let ended = try properties(Samples.bulletin(.cancelled), .resourceHealth)
        #expect(ended["annotationName"] as? String == "VirtualMachinePlannedFreezeFailed")
        #expect(ended["impactType"] as? String == "Informational")
        let unstarted = Samples.bulletin(.cancelled, isGranted: false)
        #expect(!BulletinFormat.resourceHealth.tells(of: unstarted))
    }

    @Test("the advice knows how large the set is, and is not given with a guest that needs help")
    func advice() throws {
        let succeeded = Samples.bulletin(.succeeded, record: Samples.record())
        func advice(_ guests: Int, _ domains: Int, _ bulletin: Bulletin) throws -> String {
            var bulletin = bulletin
            bulletin.setSize = SetSize(guestCount: guests, updateDomainCount: domains)
            return try body(bulletin, .text)
        }
        #expect(try advice(1, 1, succeeded).contains("It is the only guest of availability set db"))
        #expect(try advice(3, 1, succeeded).contains("All 3 guests of availability set db are in"))
        #expect(try advice(3, 3, succeeded).contains("updated one update domain at a time"))
        #expect(try !advice(3, 3, succeeded).contains("put two or more guests"))
        #expect(try !body(succeeded, .text).contains("only guest"), "nothing is known of the set")
        let lost = Samples.bulletin(.failed, record: Samples.record(.lost, hold: nil))
        #expect(try !advice(1, 1, lost).contains("only guest"))
    }

    @Test("what a peer wrote cannot become markup, a header or a second line")
    func hostile() throws {
        let reason = "<script>alert('1')</script> \"&amp; <\u{301}b> # | *x* [y](z) `q`\r\nBcc: all"
        for bulletin in [
            Samples.bulletin(.cancelled, reason: reason, version: reason),
            Samples.bulletin(.failed, record: Samples.record(.failed, reason: reason)),
        ] {
            for format in BulletinFormat.allCases where format.tells(of: bulletin) {
                let rendered = try #require(renderer.render(bulletin, as: format))
                for header in rendered.headers {
                    #expect(header.value.utf8.allSatisfy { (0x21...0x7E).contains($0) })
                }
            }
            #expect(!renderer.subject(bulletin).contains { $0.isNewline })
            let html = try body(bulletin, .html)
            #expect(html.contains("&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt; &quot;&amp;"))
            #expect(html.contains("&quot;&amp;amp;"))
            #expect(!html.contains("<script") && html.contains("&lt;\u{301}b&gt;"))
            let markdown = try body(bulletin, .markdown)
            #expect(markdown.contains(#"\<script\>"#))
            #expect(markdown.contains(#"\*x\* \[y\](z) \`q\`"#))
            #expect(try body(bulletin, .text).split(separator: "\n").count == 1)
        }
    }

    private static let markdownValues = [
        ("a_b*c", #"a\_b\*c"#), ("# x", "\\# x"), ("- x", #"\- x"#), ("12. x", #"12\. x"#),
        ("7.2.22", #"7\.2.22"#), ("a-1.2", "a-1.2"), ("x | y", #"x \| y"#), ("&lt;", #"\&lt;"#),
        ("\\", "\\\\"), ("2026-04-11 at 1.5", "2026-04-11 at 1.5"),
    ]

    @Test("Markdown shows a value as it is, wherever it stands", arguments: markdownValues)
    func markdown(text: String, escaped: String) {
        #expect(escapedMarkdown(text) == escaped)
    }
}
