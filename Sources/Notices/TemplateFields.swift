import Fleet
import Presentation

/// How a value is made safe for the document that it is put into.
///
/// Values are escaped here, scalar by scalar, and not by Mustache: it looks at whole characters and so
/// overlooks a `<` that a combining mark follows, and it knows no Markdown. `{{{x}}}` is therefore no
/// way around it.
enum ValueEscaping {
    case none
    case html
    case markdown

    func callAsFunction(_ value: String) -> String {
        switch self {
        case .none: printable(value)
        case .html: escapedHTML(printable(value))
        case .markdown: escapedMarkdown(printable(value))
        }
    }
}

/// - Returns: what a browser shows as `text`, inside an element and inside a quoted attribute.
func escapedHTML(_ text: String) -> String {
    var output = ""
    for scalar in text.unicodeScalars {
        switch scalar {
        case "&": output += "&amp;"
        case "<": output += "&lt;"
        case ">": output += "&gt;"
        case "\"": output += "&quot;"
        case "'": output += "&#39;"
        default: output.unicodeScalars.append(scalar)
        }
    }
    return output
}

/// - Returns: what Markdown shows as `text`, anywhere on a line and in a cell of a table. A line break
///   is none of it: the text is on one line.
func escapedMarkdown(_ text: String) -> String {
    var output = ""
    var isAtStart = true
    var isInNumber = false
    for scalar in text.unicodeScalars {
        switch scalar {
        case "\\", "`", "*", "_", "[", "]", "<", ">", "|", "~", "&": output += "\\"
        // At the front of a line they would begin a heading, a list or a quotation.
        case "#", "+", "-", "=": if isAtStart { output += "\\" }
        case ".", ")": if isInNumber { output += "\\" }
        default: break
        }
        let isDigit = ("0"..."9").contains(scalar)
        isInNumber = isDigit && (isAtStart || isInNumber)
        isAtStart = false
        output.unicodeScalars.append(scalar)
    }
    return output
}

/// What a template may name, and what it means. The operator's manual is printed from this.
package let templateFieldNames: [(name: String, meaning: String)] = [
    ("id", "the idempotency key"),
    ("state", "noticed, started, succeeded, failed or cancelled"),
    ("noticed", "section: the guest will be paused"),
    ("started", "section: its locks are held, the pause follows"),
    ("succeeded", "section: it runs on the new software"),
    ("failed", "section: the new software was not taken"),
    ("cancelled", "section: there is no pause"),
    ("unhealthy", "section, of failed: it runs and could not be confirmed healthy"),
    ("lost", "section, of failed: it does not run any more"),
    ("cluster", ""),
    ("guest", ""),
    ("host", ""),
    ("set", "its availability set; nothing for a guest without one"),
    ("updateDomain", "its number; nothing for a guest without a set"),
    ("rollout", ""),
    ("step", ""),
    ("token", "nothing before the grant"),
    ("release", ""),
    ("component", ""),
    ("version", "of the release"),
    ("at", "when the leader committed it, RFC 3339"),
    ("notBefore", "of a notice, RFC 3339"),
    ("heldAt", "when the guest was paused, RFC 3339"),
    ("holdMilliseconds", "how long; nothing if it never went on"),
    ("hold", "the same for people, such as 14.2 ms"),
    ("outcome", "succeeded, failed, unhealthy or lost"),
    ("reason", "nothing if there is none"),
    ("resumedBy", "agent, guard or restartedAgent"),
    ("clockErrorBefore", "such as 14.0 ms behind; nothing if not measured"),
    ("clockErrorAfter", "the same after it was corrected"),
    ("hypervisorBefore", ""),
    ("hypervisorAfter", ""),
    ("headline", "what it is about, in a few words"),
    ("happened", "sentence: what happens or happened, when and why"),
    ("memory", "sentence: what becomes of the guest and its memory"),
    ("resumer", "sentence: who let it go on, if that was not its agent"),
    ("clock", "sentence: what became of its clock"),
    ("advice", "sentence: how its set is updated, or what a set would give it"),
    ("sentences", "list of the sentences that apply; each is {{.}}"),
    ("facts", "list of what is known, each with {{label}} and {{value}}"),
    ("label", "of a fact"),
    ("value", "of a fact"),
]

/// What a template is given. A field that does not apply is not there, so that `{{#field}}` asks for it.
func templateFields(
    of bulletin: Bulletin, words: BulletinWords, cluster: String, escaping: ValueEscaping
) -> [String: Any] {
    var fields: [String: Any] = [:]
    func set(_ name: String, _ value: String?) {
        guard let value, !value.isEmpty else { return }
        fields[name] = escaping(value)
    }
    let record = bulletin.annotation?.record
    set("id", bulletin.id)
    set("state", bulletin.state.rawValue)
    for state in Bulletin.State.allCases { fields[state.rawValue] = bulletin.state == state }
    fields["unhealthy"] = record?.outcome == .unhealthy
    fields["lost"] = record?.outcome == .lost
    set("cluster", cluster)
    set("guest", bulletin.guest.rawValue)
    set("host", bulletin.host.rawValue)
    set("set", bulletin.pair?.set.rawValue)
    set("updateDomain", bulletin.pair.map { "\($0.updateDomain.number)" })
    set("rollout", bulletin.step.rollout.description)
    set("step", bulletin.step.description)
    set("token", bulletin.token?.description)
    set("release", bulletin.release.rawValue)
    set("component", bulletin.component.description)
    set("version", bulletin.version)
    set("at", bulletin.at.rfc3339)
    set("notBefore", bulletin.notBefore?.rfc3339)
    set("heldAt", record?.heldAt.rfc3339)
    set("holdMilliseconds", record?.holdMicroseconds.map { JSON.thousandths($0).compact })
    set("hold", record?.holdMicroseconds.map { spanText(microseconds: $0) })
    set("outcome", record?.outcome.rawValue)
    set("reason", record?.reason ?? bulletin.reason)
    set("resumedBy", record?.resumedBy.rawValue)
    set(
        "clockErrorBefore",
        record?.clockErrorBeforeMicroseconds.map { clockErrorText(microseconds: $0) })
    set(
        "clockErrorAfter",
        record?.clockErrorAfterMicroseconds.map { clockErrorText(microseconds: $0) })
    set("hypervisorBefore", record?.hypervisorBefore)
    set("hypervisorAfter", record?.hypervisorAfter)
    set("headline", words.headline)
    set("happened", words.happened)
    set("memory", words.memory)
    set("resumer", words.resumer)
    set("clock", words.clock)
    set("advice", words.advice)
    fields["sentences"] = words.sentences.map { escaping($0) }
    fields["facts"] = facts(of: bulletin).map { fact in
        ["label": escaping(fact.label), "value": escaping(fact.value)]
    }
    return fields
}

/// What a reader of a table of facts wants to see, in this order.
private func facts(of bulletin: Bulletin) -> [(label: String, value: String)] {
    let record = bulletin.annotation?.record
    let rows: [(String, String?)] = [
        ("Guest", bulletin.guest.rawValue),
        ("Host", bulletin.host.rawValue),
        (
            "Availability set",
            bulletin.pair.map { "\($0.set), update domain \($0.updateDomain.number)" }
        ),
        ("Not before", bulletin.notBefore.map { momentText($0) }),
        (
            "Paused at",
            record.map { "\($0.heldAt.dateText) \($0.heldAt.timeText(fractionDigits: 3)) UTC" }
        ),
        ("Paused for", record?.holdMicroseconds.map { spanText(microseconds: $0) }),
        ("Outcome", record?.outcome.rawValue ?? bulletin.state.rawValue),
        ("Reason", record?.reason ?? bulletin.reason),
        (
            "Clock error left",
            record?.clockErrorAfterMicroseconds.map { clockErrorText(microseconds: $0) }
        ),
        ("Software", "\(bulletin.component) \(bulletin.version)"),
        ("Release", bulletin.release.rawValue),
        ("Rollout", bulletin.step.rollout.description),
        ("Record", bulletin.id),
    ]
    return rows.compactMap { label, value in
        guard let value, !value.isEmpty else { return nil }
        return (label, value)
    }
}
