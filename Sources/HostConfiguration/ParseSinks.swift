import Fleet
public import Notices

/// What a notifier's file of sinks says.
public struct SinksFile: Hashable, Sendable {
    /// In the file's order; names are unique.
    public var sinks: [SinkSettings]

    /// Reads a file of sinks; ``HostFile/parse(_:fileName:)`` says what holds for both.
    public static func parse(
        _ text: String, fileName: String
    ) -> Result<SinksFile, HostFileProblems> {
        let advice = "begin with `sinks:` and list them"
        return Reader.read(
            text, kind: "file of sinks", fileName: fileName, emptyAdvice: advice
        ) { $0.sinksFile($1) }
    }
}

extension Reader {
    private static let sinkExample = "{name: ops, webhook: {url: https://example.org/hook}}"
    private static let kinds = [
        "webhook", "grafana", "alertmanager", "journald", "syslog", "file", "mail", "command",
    ]

    fileprivate func sinksFile(_ value: Value) -> SinksFile? {
        guard
            let fields = fields(
                value, known: ["sinks"], required: ["sinks"],
                example: "sinks: [\(Self.sinkExample)]"),
            let values = fields.nonEmpty("sinks").map({
                list($0, example: "[\(Self.sinkExample)]")
            })
        else { return nil }
        var lines: [SinkID: Int] = [:]
        let sinks = (values ?? []).compactMap { value -> SinkSettings? in
            guard let sink = sink(value) else { return nil }
            if let line = lines[sink.sink.id] {
                add(value, "has the name of the sink in line \(line)", "give it another")
            }
            lines[sink.sink.id] = value.position.line
            return sink
        }
        return SinksFile(sinks: sinks)
    }

    private func sink(_ value: Value) -> SinkSettings? {
        guard
            let fields = fields(
                value, known: ["name", "only", "retry", "inFlight"] + Self.kinds,
                required: ["name"], example: Self.sinkExample)
        else { return nil }
        let id: SinkID? = fields["name"].flatMap { name($0, example: "ops") }
        if let given = fields["name"], id == .stdout || id == .file {
            add(given, "is a name that the notifier uses itself", "give it another")
        }
        let found = Self.kinds.filter { fields[$0] != nil }
        guard found.count == 1, let word = found.first, let body = fields[word] else {
            add(
                value, found.isEmpty ? "says no kind" : "says \(found.joined(separator: " and "))",
                "give one of \(Self.kinds.joined(separator: ", "))")
            return nil
        }
        guard let kind = kind(word, body), let id else { return nil }
        var sink = Sink(id: id, filter: filter(fields.nonEmpty("only"), kind))
        switch word {
        case "webhook": sink.inFlightMax = 16
        case "grafana", "alertmanager", "mail", "command": sink.inFlightMax = 4
        // Over TCP each waits for an acknowledgement, which a receiver may delay.
        case "syslog": sink.inFlightMax = 64
        case "file": sink.batchCountMax = LineReceiver.batchCountMax
        default: break
        }
        sink.isShared = word != "file" && word != "journald"
        if let number = fields["inFlight"] {
            if ["file", "journald", "syslog"].contains(word) {
                add(number, "has no meaning for \(word)", "remove it")
            }
            sink.inFlightMax = Int(integer(number, in: 1...256) ?? 1)
        }
        sink.retry = retry(fields.nonEmpty("retry"))
        return SinkSettings(sink: sink, kind: kind)
    }

    private func filter(_ value: Value?, _ kind: SinkSettings.Kind) -> BulletinFilter {
        let isSilence = kind.isSilence
        var filter = BulletinFilter(
            states: isSilence
                ? [.started, .succeeded, .failed, .cancelled] : kind.format.usualStates)
        var known = ["states", "sets", "guests", "hosts", "components", "outcomes"]
        if isSilence { known = ["sets", "guests", "hosts", "components"] }
        guard let value,
            let fields = fields(value, known: known, example: "{states: [failed], sets: [db]}")
        else { return filter }
        func each<Item>(_ name: String, _ read: (Value) -> Item?) -> [Item]? {
            fields.nonEmpty(name).flatMap { list($0, example: "[…]")?.compactMap(read) }
        }
        filter.states =
            each("states") { word($0, Bulletin.State.allCases) } ?? filter.states
        filter.sets = each("sets") { name($0, example: "db") } ?? []
        filter.guests = each("guests") { name($0, example: "db-0") } ?? []
        filter.hosts = each("hosts") { name($0, example: "a") } ?? []
        filter.components =
            each("components") { value in
                text(value, example: "hypervisor").flatMap { text in
                    let component = Component(text)
                    if component == nil {
                        add(value, "is \(quoted(text)), which is no component", Self.nameAdvice)
                    }
                    return component
                }
            } ?? []
        filter.outcomes = each("outcomes") { word($0, StepOutcome.allCases) } ?? []
        return filter
    }

    /// One of the words of an enumeration.
    func word<Item: RawRepresentable>(_ value: Value, _ all: [Item]) -> Item?
    where Item.RawValue == String {
        guard let text = text(value, example: all[0].rawValue) else { return nil }
        guard let item = all.first(where: { $0.rawValue == text }) else {
            let words = all.map(\.rawValue)
            let meant = Words.suggestion(for: text, among: words)
            add(
                value, "is \(quoted(text))",
                meant.map { "did you mean \(quoted($0))?" }
                    ?? "use one of \(words.joined(separator: ", "))")
            return nil
        }
        return item
    }

    private func retry(_ value: Value?) -> RetryPolicy {
        var policy = RetryPolicy()
        guard let value,
            let fields = fields(
                value, known: ["first", "longest", "attempts", "refusals"],
                example: "{first: 1s, longest: 60s}")
        else { return policy }
        policy.firstMilliseconds = limit(fields["first"]) ?? policy.firstMilliseconds
        policy.longestMilliseconds = max(
            limit(fields["longest"]) ?? policy.longestMilliseconds, policy.firstMilliseconds)
        let counts: ClosedRange<Int64> = 1...1_000_000
        policy.attemptsMax =
            fields["attempts"].flatMap { integer($0, in: counts) }.map { Int($0) }
            ?? policy.attemptsMax
        policy.refusalsMax =
            fields["refusals"].flatMap { integer($0, in: counts) }.map { Int($0) }
            ?? policy.refusalsMax
        return policy
    }

    /// In milliseconds.
    func limit(_ value: Value?) -> Int64? {
        value.flatMap {
            duration($0, in: .milliseconds(10)...(.seconds(86_400)), shown: "10ms to 86400s")
        }.map { duration in
            duration.components.seconds * 1_000
                + duration.components.attoseconds / 1_000_000_000_000_000
        }
    }
}
