// The probes of a guest: one as `probe:`, or several as `probes:`.
extension Reader {
    private static let targetKeys = ["tcp", "http", "command"]
    private static let example = "{tcp: \"10.77.1.10:7000\", timeout: 5s}"

    func probes(_ fields: Fields) -> [Probe] {
        guard let value = fields["probes"] else {
            return fields["probe"].flatMap { probe($0) }.map { [$0] } ?? []
        }
        if let single = fields["probe"] {
            add(single, "is given beside `probes`", "move it into the list")
        }
        guard !value.isNull,
            let values = list(value, countMax: Probe.countMax, example: "[\(Self.example)]")
        else { return [] }
        var positions: [String: Position] = [:]
        return values.compactMap { value in
            guard let probe = probe(value) else { return nil }
            if let first = positions[probe.name] {
                add(
                    value, "is named \(quoted(probe.name)), as the probe in line \(first.line)",
                    "give it a `name` of its own")
            }
            positions[probe.name] = value.position
            return probe
        }
    }

    private func probe(_ value: Value) -> Probe? {
        guard
            let fields = fields(
                value,
                known: Self.targetKeys + [
                    "name", "status", "arguments", "timeout", "attempts", "interval",
                ], example: Self.example)
        else { return nil }
        let keys = Self.targetKeys.filter { fields[$0] != nil }
        guard keys.count == 1, let key = keys.first, let targetValue = fields[key] else {
            if keys.isEmpty {
                add(value, "says none of `tcp`, `http` and `command`", "write `\(Self.example)`")
            } else {
                add(value, "says both `\(keys[0])` and `\(keys[1])`", "make two `probes` of it")
            }
            return nil
        }
        for (name, owner) in [("status", "http"), ("arguments", "command")] where owner != key {
            if let odd = fields[name] { add(odd, "is given without `\(owner)`", "remove it") }
        }
        let timeout = fields["timeout"].map {
            duration($0, in: .milliseconds(10)...(.seconds(60)), shown: "10ms to 60s")
        }
        let attempts = fields["attempts"].map { integer($0, in: 1...1_000) }
        let interval = fields["interval"].map {
            duration($0, in: .milliseconds(10)...(.seconds(60)), shown: "10ms to 60s")
        }
        let name = fields["name"].map { probeName($0) }
        guard let (target, title) = target(key, targetValue, fields) else { return nil }
        return Probe(
            name: (name ?? nil) ?? title, target: target,
            timeout: (timeout ?? nil) ?? Probe.timeoutDefault,
            attempts: (attempts ?? nil).map { Int($0) },
            interval: (interval ?? nil) ?? Probe.intervalDefault)
    }

    /// - Returns: the target, and what a probe without a name is called.
    private func target(
        _ key: String, _ value: Value, _ fields: Fields
    ) -> (Probe.Target, String)? {
        switch key {
        case "tcp":
            guard let text = text(value, example: "10.77.1.10:7000") else { return nil }
            guard Words.isAddressAndPort(text) else {
                add(
                    value, "is \(quoted(text))",
                    "write a numeric address and a port, such as `10.77.1.10:7000` or `[::1]:7000`")
                return nil
            }
            return (.tcp(text), "tcp \(text)")
        case "http":
            let status = fields["status"].map { self.status($0) }
            guard let url = url(value) else { return nil }
            return (
                .http(url: url, status: (status ?? nil) ?? Probe.statusDefault), "http \(url)"
            )
        default:
            let arguments =
                fields.nonEmpty("arguments").flatMap { list($0, example: "[\"db-0\"]") }?
                .compactMap { line($0) } ?? []
            guard let path = path(value) else { return nil }
            return (.command(path: path, arguments: arguments), "command \(path)")
        }
    }

    private func probeName(_ value: Value) -> String? {
        guard let text = text(value, example: "web") else { return nil }
        guard (1...64).contains(text.utf8.count),
            text.unicodeScalars.allSatisfy({ $0.value >= 0x20 && $0.value != 0x7F })
        else {
            add(value, "is \(quoted(text))", "write 1 to 64 bytes on one line, such as `web`")
            return nil
        }
        return text
    }

    private func url(_ value: Value) -> String? {
        let example = "http://10.77.1.10/health"
        guard let text = text(value, example: example) else { return nil }
        let host = ["http://", "https://"].first { text.hasPrefix($0) }
            .map { text.dropFirst($0.count).prefix { !"/?#".contains($0) } }
        guard let host, !host.isEmpty, text.utf8.count <= 2_048,
            text.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F })
        else {
            add(value, "is \(quoted(text))", "write a URL such as `\(example)`")
            return nil
        }
        // It would stand in the list of processes, and in messages.
        guard !host.contains("@") else {
            add(
                value, "is \(quoted(text)), with a user's name or password in it",
                "use an address that needs none")
            return nil
        }
        return text
    }

    /// `200`, or `200-399`.
    private func status(_ value: Value) -> ClosedRange<Int>? {
        guard let text = text(value, example: "200-299") else { return nil }
        let ends = text.split(separator: "-", omittingEmptySubsequences: false).map { end in
            end.count == 3 && end.utf8.allSatisfy { $0 >= 0x30 && $0 <= 0x39 } ? Int(end) : nil
        }
        if ends.count <= 2, let first = ends.first ?? nil, let last = ends.last ?? nil,
            100 <= first, first <= last, last <= 599
        {
            return first...last
        }
        add(value, "is \(quoted(text))", "write a status or a range, such as `200` or `200-399`")
        return nil
    }
}
