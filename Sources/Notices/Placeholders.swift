/// Words in braces that stand for what a bulletin says: `{guest}`, `{host}`, `{set}`, `{updateDomain}`,
/// `{component}`, `{release}`, `{version}`, `{rollout}`, `{step}`, `{state}`.
public enum Placeholders {
    public static let names = [
        "guest", "host", "set", "updateDomain", "component", "release", "version", "rollout",
        "step",
        "state",
    ]

    /// The first word in braces that is none of ours; nil if there is none.
    public static func unknown(in template: String) -> String? {
        var found: String?
        _ = replace(template) { name in
            if found == nil, !names.contains(name) { found = name }
            return ""
        }
        return found
    }

    /// - Parameter isRegex: quotes what stands for itself nowhere in RE2.
    public static func fill(_ template: String, _ bulletin: Bulletin, isRegex: Bool = false)
        -> String
    {
        replace(template) { name in
            let value = value(name, bulletin)
            guard isRegex else { return value }
            return value.reduce(into: "") { text, character in
                if "\\.+*?()|[]{}^$".contains(character) { text.append("\\") }
                text.append(character)
            }
        }
    }

    private static func value(_ name: String, _ bulletin: Bulletin) -> String {
        switch name {
        case "guest": bulletin.guest.rawValue
        case "host": bulletin.host.rawValue
        case "set": bulletin.pair?.set.rawValue ?? ""
        case "updateDomain": bulletin.pair.map { "\($0.updateDomain.number)" } ?? ""
        case "component": bulletin.component.description
        case "release": bulletin.release.rawValue
        case "version": bulletin.version
        case "rollout": bulletin.step.rollout.description
        case "step": bulletin.step.description
        case "state": bulletin.state.rawValue
        default: "{\(name)}"
        }
    }

    private static func replace(_ template: String, _ body: (String) -> String) -> String {
        var output = ""
        var rest = template[...]
        while let open = rest.firstIndex(of: "{"), let close = rest[open...].firstIndex(of: "}") {
            output += rest[..<open]
            let name = rest[rest.index(after: open)..<close]
            // `{2,3}` of a regular expression is none of ours.
            let isName = !name.isEmpty && name.allSatisfy { $0.isASCII && $0.isLetter }
            output += isName ? body(String(name)) : String(rest[open...close])
            rest = rest[rest.index(after: close)...]
        }
        return output + rest
    }
}
