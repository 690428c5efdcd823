public import Fleet

/// What a release file says: commands that replace host software, with or without their digests.
public struct ReleaseDraft: Hashable, Sendable {
    /// A file and its digest, if the release file gives one.
    public struct File: Hashable, Sendable {
        public var path: String
        public var sha256: [UInt8]?
    }
    public struct Command: Hashable, Sendable {
        public var file: File
        public var arguments: [String]
        public var limitMilliseconds: UInt32
    }
    public var version: String
    public var holdsGuests: Bool
    public var artifact: File?
    public var prepare: Command?
    public var apply: Command
    public var check: Command?
    public var undo: Command?
    /// In ascending order of name.
    public var environment: [EnvironmentVariable]
    public var user: String
    public var workingDirectory: String

    /// - Parameter digest: the SHA-256 of a file whose digest the release file does not give.
    public func work<Failure: Error>(
        digest: (String) throws(Failure) -> [UInt8]
    ) throws(Failure) -> HostWork {
        var file: ReleaseFile?
        if let artifact {
            file = ReleaseFile(path: artifact.path, sha256: try Self.digest(artifact, digest))
        }
        return HostWork(
            version: version, holdsGuests: holdsGuests, prepare: try Self.command(prepare, digest),
            apply: try Self.command(apply, digest), check: try Self.command(check, digest),
            undo: try Self.command(undo, digest), environment: environment, user: user,
            workingDirectory: workingDirectory, artifact: file)
    }

    private static func command<Failure: Error>(
        _ command: Command, _ digest: (String) throws(Failure) -> [UInt8]
    ) throws(Failure) -> HostCommand {
        HostCommand(
            path: command.file.path, arguments: command.arguments,
            sha256: try self.digest(command.file, digest),
            limitMilliseconds: command.limitMilliseconds)
    }

    private static func command<Failure: Error>(
        _ command: Command?, _ digest: (String) throws(Failure) -> [UInt8]
    ) throws(Failure) -> HostCommand? {
        guard let command else { return nil }
        return try self.command(command, digest) as HostCommand
    }

    private static func digest<Failure: Error>(
        _ file: File, _ compute: (String) throws(Failure) -> [UInt8]
    ) throws(Failure) -> [UInt8] {
        if let sha256 = file.sha256 { return sha256 }
        return try compute(file.path)
    }

    /// Reads a release file; ``HostFile/parse(_:fileName:)`` says what holds for both.
    public static func parse(
        _ text: String, fileName: String
    ) -> Result<ReleaseDraft, HostFileProblems> {
        let advice = "begin with `version: VERSION`, and say how to apply it"
        return Reader.read(
            text, kind: "release file", fileName: fileName, emptyAdvice: advice
        ) { $0.release($1) }
    }
}

extension Reader {
    private static let commandExample = "{path: /opt/x/apply, limit: 20s}"

    fileprivate func release(_ value: Value) -> ReleaseDraft? {
        let known = [
            "version", "holdsGuests", "artifact", "prepare", "apply", "check", "undo",
            "environment", "user", "workingDirectory",
        ]
        guard
            let fields = fields(
                value, known: known, required: ["version", "apply"],
                example: "{version: \"3.2\", apply: \(Self.commandExample)}",
                examples: [
                    "version": "version: \"3.2\"", "apply": "apply: \(Self.commandExample)",
                ])
        else { return nil }
        let version = fields["version"].flatMap { self.version($0) }
        let holdsGuests = fields["holdsGuests"].map { self.bool($0) } ?? true
        let artifact = fields.nonEmpty("artifact").flatMap { self.artifact($0) }
        let apply = fields["apply"].flatMap { self.command($0) }
        let draft = ReleaseDraft(
            version: version ?? "", holdsGuests: holdsGuests ?? true, artifact: artifact,
            prepare: fields.nonEmpty("prepare").flatMap { self.command($0) },
            apply: apply
                ?? ReleaseDraft.Command(
                    file: ReleaseDraft.File(path: "/"), arguments: [], limitMilliseconds: 1),
            check: fields.nonEmpty("check").flatMap { self.command($0) },
            undo: fields.nonEmpty("undo").flatMap { self.command($0) },
            environment: fields.nonEmpty("environment").map { self.environment($0) } ?? [],
            user: fields["user"].flatMap { self.user($0) } ?? "",
            workingDirectory: fields["workingDirectory"].flatMap { self.path($0) } ?? "")
        checkHold(draft, at: fields["apply"] ?? value)
        guard version != nil, apply != nil else { return nil }
        return draft
    }

    /// The leader would refuse it too, but without the line.
    private func checkHold(_ draft: ReleaseDraft, at value: Value) {
        let work = draft.work { _ in [] }
        guard let problem = work.holdProblem(deadlineMilliseconds: Limits.deadlineMillisecondsMax)
        else { return }
        add(
            value.position, value.path, problem,
            "shorten the limits, move work into `prepare`, or say `holdsGuests: false`")
    }

    private func artifact(_ value: Value) -> ReleaseDraft.File? {
        guard
            let fields = fields(
                value, known: ["path", "sha256"], required: ["path"],
                example: "{path: /opt/x/x.deb}")
        else { return nil }
        return file(fields)
    }

    private func file(_ fields: Fields) -> ReleaseDraft.File? {
        let sha256 = fields["sha256"].flatMap { digest($0) }
        guard let path = fields["path"].flatMap({ self.path($0) }) else { return nil }
        return ReleaseDraft.File(path: path, sha256: sha256)
    }

    private func command(_ value: Value) -> ReleaseDraft.Command? {
        guard
            let fields = fields(
                value, known: ["path", "arguments", "limit", "sha256"],
                required: ["path", "limit"], example: Self.commandExample)
        else { return nil }
        let file = file(fields)
        let arguments = fields.nonEmpty("arguments").flatMap {
            list($0, countMax: Limits.commandWordsMax, example: "[--quiet, all]")?
                .compactMap { argument($0, example: "--quiet") }
        }
        let limit = fields["limit"].flatMap {
            duration(
                $0, in: .milliseconds(1) ... .milliseconds(Int64(Limits.commandMillisecondsMax)),
                shown: "1ms to 3600s")
        }
        guard let file, let limit else { return nil }
        let (seconds, attoseconds) = limit.components
        return ReleaseDraft.Command(
            file: file, arguments: arguments ?? [],
            limitMilliseconds: UInt32(seconds * 1_000 + attoseconds / 1_000_000_000_000_000))
    }

    private func environment(_ value: Value) -> [EnvironmentVariable] {
        guard let fields = fields(value, known: nil, example: "{LANG: C.UTF-8}") else { return [] }
        if fields.entries.count > Limits.commandWordsMax {
            add(
                value, "has \(fields.entries.count) variables",
                "keep to \(Limits.commandWordsMax)")
        }
        return fields.entries.sorted { $0.key < $1.key }.compactMap { name, value in
            guard EnvironmentVariable.isValidName(name) else {
                add(
                    value.position, value.path, "\(quoted(name)) is no name of a variable",
                    "use letters, digits and _; \(EnvironmentVariable.reservedPrefix)… is the "
                        + "agent's")
                return nil
            }
            return argument(value, example: "C.UTF-8").map {
                EnvironmentVariable(name: name, value: $0)
            }
        }
    }

    private func user(_ value: Value) -> String? {
        guard let text = text(value, example: "ovs") else { return nil }
        guard (1...63).contains(text.utf8.count), text.utf8.allSatisfy({ $0 > 0x20 && $0 != 0x7F })
        else {
            add(value, "is \(quoted(text)), which is no name of a user", "name one of the hosts'")
            return nil
        }
        return text
    }

    /// Text as a program gets it.
    private func argument(_ value: Value, example: String) -> String? {
        guard let text = text(value, example: example) else { return nil }
        guard !text.utf8.contains(0) else {
            add(value, "has a NUL byte in it", "remove it")
            return nil
        }
        guard text.utf8.count <= Limits.reasonByteCountMax else {
            add(
                value, "has \(text.utf8.count) bytes",
                "keep to \(Limits.reasonByteCountMax); put the rest into a file")
            return nil
        }
        return text
    }

    private func digest(_ value: Value) -> [UInt8]? {
        guard let text = text(value, example: "9f86d0…, 64 digits") else { return nil }
        let digits = text.utf8.compactMap { byte in
            byte < 0x80 ? Character(Unicode.Scalar(byte)).hexDigitValue : nil
        }
        guard digits.count == 64, text.utf8.count == 64 else {
            add(
                value, "is \(quoted(text)), which is no SHA-256",
                "write 64 hexadecimal digits (sha256sum FILE), or leave it out to compute it here")
            return nil
        }
        return stride(from: 0, to: 64, by: 2).map { UInt8(digits[$0] << 4 | digits[$0 + 1]) }
    }
}
