import Fleet
import Testing

@testable import Notices

@Suite struct TemplateTests {
    private typealias Source = BulletinTemplates.Source

    /// The built-in ones with some of them, or others, instead.
    private func sources(_ texts: [(name: String, text: String)]) -> [Source] {
        let changed = texts.map {
            Source(path: "/t/\($0.name).mustache", name: $0.name, text: $0.text)
        }
        let rest = BulletinTemplates.builtInSources.filter { source in
            !changed.contains { $0.name == source.name }
        }
        return changed + rest
    }

    private func render(
        _ texts: [(name: String, text: String)], as format: BulletinFormat,
        _ bulletin: Bulletin = Samples.bulletin(.succeeded, record: Samples.record())
    ) throws -> String {
        let templates = try BulletinTemplates(sources(texts), directory: "/t")
        let renderer = BulletinRenderer(cluster: "demo", templates: templates)
        return String(
            decoding: try #require(renderer.render(bulletin, as: format)).body, as: UTF8.self)
    }

    @Test("an operator's template may say it in another language, from the plain fields")
    func own() throws {
        let text = """
            {{#set}}
            {{guest}} ({{set}}/{{updateDomain}}): {{holdMilliseconds}} ms{{#reason}}, {{.}}{{/reason}}
            {{/set}}
            {{^set}}{{guest}} allein{{/set}}
            {{>footer}}

            """
        let templates = [("text", text), ("footer", "{{cluster}} & {{rollout}}")]
        #expect(try render(templates, as: .text) == "db-0 (db/0): 14.2 ms\n\ndemo & rollout-1")
        let alone = Samples.bulletin(.succeeded, record: Samples.record(), pair: nil)
        #expect(try render(templates, as: .text, alone) == "db-0 allein\ndemo & rollout-1")
    }

    @Test("wherever there is text for people, it is the operator's")
    func everywhere() throws {
        let templates = [("text", "{{guest}}\n  steht  \n")]
        #expect(try render(templates, as: .json).hasSuffix(#""text":"db-0 steht"}"#))
        #expect(try render(templates, as: .resourceHealth).contains(#""summary":"db-0 steht""#))
        let renderer = BulletinRenderer(
            cluster: "demo", templates: try BulletinTemplates(sources(templates), directory: "/t"))
        let hold = Samples.bulletin(.succeeded, record: Samples.record())
        let listed = renderer.json(annotation: hold).compact
        #expect(listed.hasSuffix(#""text":"db-0 steht"}"#), "\(listed)")
    }

    @Test("every field that is listed can be used, and each is given by some bulletin")
    func fields() throws {
        let names = templateFieldNames.map(\.name)
        let text = names.map { "{{\($0)}}" }.joined(separator: "\n")
        _ = try BulletinTemplates(sources([("text", text)]), directory: "/t")
        let given = Samples.bulletins.map { _, bulletin in
            TemplateFields(
                bulletin, words: BulletinWords(bulletin), cluster: "demo",
                escaping: .none)
        }
        // Those of a fact are its own, and no sample was resumed by another than its agent.
        for name in names where !["label", "value", "resumer"].contains(name) {
            #expect(given.contains { $0.child(named: name) != nil }, "\(name)")
        }
        #expect(given.allSatisfy { $0.child(named: "nothing") == nil })
    }

    @Test("lists and where we are in them can be used")
    func lists() throws {
        let text = "{{#facts}}{{label}}={{value}}{{^last()}}; {{/last()}}{{/facts}}"
        #expect(try render([("text", text)], as: .text).hasPrefix("Guest=db-0; Host=a; "))
    }

    @Test("triple braces are no way around escaping, nor is an include")
    func escaping() throws {
        let failed = Samples.bulletin(
            .failed, record: Samples.record(.failed, reason: "<b>\u{301}'"))
        let page = "{{reason}}{{{reason}}}{{&reason}}{{>part}}"
        let templates = [("html", page), ("part", "{{reason}}")]
        let once = "&lt;b&gt;\u{301}&#39;"
        #expect(
            try render(templates, as: .html, failed) == once + once + once + once)
        #expect(
            try render([("text", "{{>part}}"), ("part", "{{reason}}")], as: .text, failed)
                == "<b>\u{301}'")
    }

    private func problem(
        _ texts: [(name: String, text: String)], without missing: String = ""
    ) -> String {
        do {
            _ = try BulletinTemplates(
                sources(texts).filter { $0.name != missing }, directory: "/t")
            return "none"
        } catch {
            return error.description
        }
    }

    @Test("what is wrong with a template is said with its file and line, before it is used")
    func problems() {
        #expect(problem([], without: "html") == "/t/html.mustache: this template is not there")
        #expect(problem([("htm", "x")]) == "/t/htm.mustache: no template includes this one")
        #expect(
            problem([("text", "a\nb {{gest}}")])
                == #"/t/text.mustache:2: there is no field "gest""#)
        #expect(
            problem([("text", "{{#set}}\n{{^reason}}\n{{typo}}{{/reason}}{{/set}}")])
                == #"/t/text.mustache:3: there is no field "typo""#)
        #expect(
            problem([("text", "\n{{>fotter}}")])
                == #"/t/text.mustache:2: there is no template "fotter.mustache" beside it"#)
        #expect(
            problem([("text", "{{#set}}\nx\n{{/sat}}")])
                == "/t/text.mustache:3: this ends another section than the one that is open")
        #expect(
            problem([("text", "one\n{{#set}}\nx")]) == "/t/text.mustache:3: a section has no end")
        #expect(
            problem([("text", "one\n{{guest}\nx")])
                == "/t/text.mustache:2: a tag has no end, or a character that no name has")
        #expect(
            problem([("text", "{{=<% %>=}}")])
                == "/t/text.mustache:1: only variables, sections, comments and {{>includes}} can be "
                + "used here")
        #expect(
            problem([("text", "{{>a}}"), ("a", "x\n{{>b}}"), ("b", "{{>a}}")])
                .hasSuffix("including \"a\" never ends")
        )
        #expect(problem([("text", "{{! a comment, {{ and all }}{{guest}}")]) == "none")
    }
}
