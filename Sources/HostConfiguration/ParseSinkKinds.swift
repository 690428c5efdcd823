import Notices

// What each kind of sink has to say.
extension Reader {
    func kind(_ word: String, _ value: Value) -> SinkSettings.Kind? {
        switch word {
        case "webhook": webhook(value)
        case "grafana": grafana(value)
        case "alertmanager": alertmanager(value)
        case "journald": journald(value)
        case "syslog": syslog(value)
        case "file": file(value)
        case "mail": mail(value)
        default: command(value)
        }
    }

    private static let targetKeys = ["url", "headers", "headerFiles", "caFile", "timeout"]

    /// Keys that all which speak HTTP have.
    private func target(_ fields: Fields) -> HTTPTarget? {
        guard let value = fields["url"],
            let url = text(value, example: "https://example.org/hook")
        else { return nil }
        let rest = ["https://", "http://"].first { url.hasPrefix($0) }.map {
            url.dropFirst($0.count)
        }
        guard let rest, !rest.isEmpty, !rest.hasPrefix("/"),
            url.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F })
        else {
            add(value, "is \(quoted(url))", "begin it with http:// or https:// and a host")
            return nil
        }
        var target = HTTPTarget(url: url)
        target.headers =
            headers(fields.nonEmpty("headers"), isFile: false)
            + headers(fields.nonEmpty("headerFiles"), isFile: true)
        target.headers.sort { $0.name < $1.name }
        target.authorityFile = fields["caFile"].flatMap { path($0) }
        target.limitMilliseconds = limit(fields["timeout"]) ?? target.limitMilliseconds
        return target
    }

    private func headers(_ value: Value?, isFile: Bool) -> [HTTPTarget.Header] {
        guard let value, let fields = fields(value, known: nil, example: "{X-Team: db}")
        else { return [] }
        return fields.entries.sorted { $0.key < $1.key }.compactMap { name, value in
            guard !name.isEmpty,
                name.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F && $0 != UInt8(ascii: ":") })
            else {
                add(value, "is no name of a header", "use letters, digits and `-`")
                return nil
            }
            if isFile {
                return path(value).map { HTTPTarget.Header(name: name, value: .file($0)) }
            }
            guard let text = text(value, example: "db") else { return nil }
            guard !text.utf8.contains(where: { $0 < 0x20 || $0 == 0x7F }) else {
                add(value, "has control characters in it", "write it on one line")
                return nil
            }
            return HTTPTarget.Header(name: name, value: .text(text))
        }
    }

    private func format(_ value: Value?, _ usual: BulletinFormat) -> BulletinFormat {
        value.flatMap { word($0, BulletinFormat.allCases) } ?? usual
    }

    private func webhook(_ value: Value) -> SinkSettings.Kind? {
        guard
            let fields = fields(
                value, known: Self.targetKeys + ["secretFile", "format"], required: ["url"],
                example: "{url: https://example.org/hook}"), let target = target(fields)
        else { return nil }
        return .webhook(
            target,
            WebhookSettings(
                secretFile: fields["secretFile"].flatMap { path($0) },
                format: format(fields["format"], .json)))
    }

    private func grafana(_ value: Value) -> SinkSettings.Kind? {
        guard
            let fields = fields(
                value, known: Self.targetKeys + ["tokenFile", "dashboard", "tags"],
                required: ["url"], example: "{url: https://grafana.example.org}"),
            let target = target(fields)
        else { return nil }
        let tags = fields.nonEmpty("tags").flatMap { list($0, example: "[prod]") } ?? []
        return .grafana(
            target,
            GrafanaSettings(
                tokenFile: fields["tokenFile"].flatMap { path($0) },
                dashboard: fields["dashboard"].flatMap { text($0, example: "a1b2") },
                tags: tags.compactMap { text($0, example: "prod") }))
    }

    private func alertmanager(_ value: Value) -> SinkSettings.Kind? {
        guard
            let fields = fields(
                value, known: Self.targetKeys + ["tokenFile", "matchers", "duration"],
                required: ["url"], example: "{url: http://127.0.0.1:9093}"),
            let target = target(fields)
        else { return nil }
        let example = "[{name: instance, value: \"{guest}\"}]"
        let matchers = fields.nonEmpty("matchers").map { value in
            (list(value, example: example) ?? []).compactMap { matcher($0) }
        }
        if let matchers, matchers.isEmpty, let given = fields["matchers"] {
            add(given, "matches everything", "give one at least, as in `\(example)`")
        }
        return .alertmanager(
            target,
            SilenceSettings(
                matchers: matchers ?? SilenceSettings.matchersDefault,
                durationMilliseconds: limit(fields["duration"])
                    ?? SilenceSettings.durationMillisecondsDefault,
                tokenFile: fields["tokenFile"].flatMap { path($0) }))
    }

    private func matcher(_ value: Value) -> SilenceSettings.Matcher? {
        guard
            let fields = fields(
                value, known: ["name", "value", "regex"], required: ["name", "value"],
                example: "{name: instance, value: \"{guest}\"}"),
            let name = fields["name"].flatMap({ text($0, example: "instance") }),
            let template = fields["value"],
            let text = text(template, example: "{guest}")
        else { return nil }
        if let odd = Placeholders.unknown(in: text) {
            add(
                template, "has `{\(odd)}` in it, which is not known",
                "use one of \(Placeholders.names.joined(separator: ", "))")
        }
        return SilenceSettings.Matcher(
            name: name, value: text, isRegex: fields["regex"].flatMap { bool($0) } ?? false)
    }

    private func journald(_ value: Value) -> SinkSettings.Kind? {
        if value.isNull { return .journald(socket: JournalMessage.socketDefault) }
        guard let fields = fields(value, known: ["socket"], example: "{}") else { return nil }
        return .journald(
            socket: fields["socket"].flatMap { path($0) } ?? JournalMessage.socketDefault)
    }

    private func syslog(_ value: Value) -> SinkSettings.Kind? {
        let ways = ["unix", "udp", "tcp"]
        guard
            let fields = fields(
                value, known: ways + ["facility"], example: "{udp: 10.0.0.1:514}")
        else { return nil }
        let found = ways.filter { fields[$0] != nil }
        guard found.count == 1, let way = found.first, let place = fields[way] else {
            add(value, "says not exactly one way", "give one of unix, udp and tcp")
            return nil
        }
        let facility = fields["facility"].flatMap { integer($0, in: 0...23) }
        let transport: SyslogSettings.Transport?
        switch way {
        case "unix": transport = path(place).map { .unix($0) }
        case "udp": transport = hostAndPort(place, example: "10.0.0.1:514").map { .udp($0) }
        default: transport = hostAndPort(place, example: "10.0.0.1:514").map { .tcp($0) }
        }
        return transport.map {
            .syslog(
                SyslogSettings(
                    transport: $0,
                    facility: facility.map { Int($0) }
                        ?? SyslogSettings.facilityDefault))
        }
    }

    private func hostAndPort(_ value: Value, example: String) -> String? {
        guard let text = text(value, example: example) else { return nil }
        guard let colon = text.lastIndex(of: ":"), colon > text.startIndex,
            Words.port(text[text.index(after: colon)...]) != nil
        else {
            add(value, "is \(quoted(text))", "write host:port, such as `\(example)`")
            return nil
        }
        return text
    }

    private func file(_ value: Value) -> SinkSettings.Kind? {
        guard
            let fields = fields(
                value, known: ["path", "format", "size", "keep"], required: ["path"],
                example: "{path: /var/log/fermata.jsonl, size: 64MiB, keep: 5}"),
            let path = fields["path"].flatMap({ path($0) })
        else { return nil }
        let size = fields["size"].flatMap {
            self.size($0, in: (1 << 20)...(1 << 40), multipleOf: 1)
        }
        let keep = fields["keep"].flatMap { integer($0, in: 0...1_000) }
        return .file(
            FileSettings(
                path: path, format: format(fields["format"], .json), byteCountMax: size,
                oldCountMax: keep.map { Int($0) } ?? 5))
    }

    private func mail(_ value: Value) -> SinkSettings.Kind? {
        let known = ["server", "security", "from", "to", "user", "passwordFile", "caFile"]
        guard
            let fields = fields(
                value, known: known, required: ["server", "from", "to"],
                example: "{server: mail.example.org:587, from: f@example.org, to: [o@example.org]}")
        else { return nil }
        let server = fields["server"].flatMap { hostAndPort($0, example: "mail.example.org:587") }
        let from = fields["from"].flatMap { address($0) }
        let to = fields.nonEmpty("to").flatMap {
            list($0, example: "[ops@example.org]")?.compactMap { address($0) }
        }
        if let given = fields["to"], to?.isEmpty ?? true {
            add(given, "names nobody", "give an address")
        }
        guard let server, let from, let to else { return nil }
        return .mail(
            MailSettings(
                server: server,
                security: fields["security"].flatMap { word($0, MailSettings.Security.allCases) }
                    ?? .startTLS,
                from: from, to: to, user: fields["user"].flatMap { text($0, example: "fermata") },
                passwordFile: fields["passwordFile"].flatMap { path($0) },
                authorityFile: fields["caFile"].flatMap { path($0) }))
    }

    private func address(_ value: Value) -> String? {
        guard let text = text(value, example: "ops@example.org") else { return nil }
        let parts = text.split(separator: "@", omittingEmptySubsequences: false)
        guard parts.count == 2, !parts[0].isEmpty, !parts[1].isEmpty,
            text.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F }),
            !text.contains(where: { "<>,;\"()[]\\".contains($0) })
        else {
            add(value, "is \(quoted(text))", "write an address alone, such as ops@example.org")
            return nil
        }
        return text
    }

    private func command(_ value: Value) -> SinkSettings.Kind? {
        guard
            let fields = fields(
                value, known: ["path", "arguments", "timeout"], required: ["path"],
                example: "{path: /usr/local/bin/tell, arguments: [ops]}"),
            let path = fields["path"].flatMap({ path($0) })
        else { return nil }
        let arguments = fields.nonEmpty("arguments").flatMap { list($0, example: "[ops]") } ?? []
        return .command(
            CommandSettings(
                executable: path, arguments: arguments.compactMap { text($0, example: "ops") },
                limitMilliseconds: limit(fields["timeout"])
                    ?? CommandSettings.limitMillisecondsDefault))
    }
}
