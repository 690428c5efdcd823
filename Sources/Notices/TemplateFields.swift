import Fleet
import Mustache
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
    ("token", "of a hold that is over, else nothing"),
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

/// What a template is given. A field that does not apply is nil, so that `{{#field}}` asks for it. Each is
/// made when the template names it: most name few.
struct TemplateFields: MustacheParent {
    let bulletin: Bulletin
    let words: BulletinWords
    let cluster: String
    let escaping: ValueEscaping

    init(
        _ bulletin: Bulletin, words: BulletinWords, cluster: String, escaping: ValueEscaping
    ) {
        self.bulletin = bulletin
        self.words = words
        self.cluster = cluster
        self.escaping = escaping
    }

    func child(named name: String) -> Any? {
        if let state = Bulletin.State(rawValue: name) { return bulletin.state == state }
        switch name {
        case "unhealthy": return bulletin.annotation?.record.outcome == .unhealthy
        case "lost": return bulletin.annotation?.record.outcome == .lost
        case "sentences": return words.sentences.map { escaping($0) }
        case "facts":
            return facts(of: bulletin).map { fact in
                ["label": escaping(fact.label), "value": escaping(fact.value)]
            }
        default:
            guard let text = text(named: name), !text.isEmpty else { return nil }
            return escaping(text)
        }
    }

    private func text(named name: String) -> String? {
        switch name {
        case "id": bulletin.id
        case "state": bulletin.state.rawValue
        case "cluster": cluster
        case "guest": bulletin.guest.rawValue
        case "host": bulletin.host.rawValue
        case "set": bulletin.pair?.set.rawValue
        case "updateDomain": bulletin.pair.map { "\($0.updateDomain.number)" }
        case "rollout": bulletin.step.rollout.description
        case "step": bulletin.step.description
        case "token": bulletin.token?.description
        case "release": bulletin.release.rawValue
        case "component": bulletin.component.description
        case "version": bulletin.version
        case "at": bulletin.at.rfc3339
        case "notBefore": bulletin.notBefore?.rfc3339
        case "headline": words.headline
        case "happened": words.happened
        case "memory": words.memory
        case "resumer": words.resumer
        case "clock": words.clock
        case "advice": words.advice
        default: textOfHold(named: name)
        }
    }

    private func textOfHold(named name: String) -> String? {
        let record = bulletin.annotation?.record
        return switch name {
        case "heldAt": record?.heldAt.rfc3339
        case "holdMilliseconds": record?.holdMicroseconds.map { JSON.thousandths($0).compact }
        case "hold": record?.holdMicroseconds.map { spanText(microseconds: $0) }
        case "outcome": record?.outcome.rawValue
        case "reason": record?.reason ?? bulletin.reason
        case "resumedBy": record?.resumedBy.rawValue
        case "clockErrorBefore":
            record?.clockErrorBeforeMicroseconds.map { clockErrorText(microseconds: $0) }
        case "clockErrorAfter":
            record?.clockErrorAfterMicroseconds.map { clockErrorText(microseconds: $0) }
        case "hypervisorBefore": record?.hypervisorBefore
        case "hypervisorAfter": record?.hypervisorAfter
        default: nil
        }
    }
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
