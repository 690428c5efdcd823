// What a release must be like, beyond what its types say. The command line checks it before it
// asks, the leader before it takes a release, and `Wire` what only a broken peer would send.

extension EnvironmentVariable {
    /// What begins so is set by the agent and means something to the commands.
    public static let reservedPrefix = "FERMATA_"

    /// A letter or `_`, then letters, digits and `_`: what every shell can read.
    public static func isValidName(_ text: String) -> Bool {
        guard let first = text.utf8.first, !isDigit(first), !text.hasPrefix(reservedPrefix)
        else { return false }
        return text.utf8.allSatisfy { byte in
            isDigit(byte) || byte == UInt8(ascii: "_")
                || (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte | 0x20)
        }
    }

    private static func isDigit(_ byte: UInt8) -> Bool {
        (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte)
    }
}

extension HostWork {
    /// Every command that there is, with its name, in the order in which they run.
    public var commands: [(name: String, command: HostCommand)] {
        var all: [(name: String, command: HostCommand)] = []
        if let prepare { all.append(("prepare", prepare)) }
        all.append(("apply", apply))
        if let check { all.append(("check", check)) }
        if let undo { all.append(("undo", undo)) }
        return all
    }

    /// How long guests are held at worst: ``apply``, ``check`` and ``undo`` up to their limits, and
    /// ``Limits/holdReserveMilliseconds``; 0 if none is held.
    public var holdMillisecondsMax: UInt64 {
        guard holdsGuests else { return 0 }
        return [apply, check, undo].reduce(UInt64(Limits.holdReserveMilliseconds)) {
            $0 + UInt64($1?.limitMilliseconds ?? 0)
        }
    }

    /// - Returns: why guests cannot be held for this within `deadlineMilliseconds`, with the
    ///   numbers; nil if they can.
    public func holdProblem(deadlineMilliseconds: UInt32) -> String? {
        guard holdMillisecondsMax > UInt64(deadlineMilliseconds) else { return nil }
        let parts = commands.filter { $0.name != "prepare" }.map {
            "\($0.name) \($0.command.limitMilliseconds) ms"
        }
        return "its hold may take \(holdMillisecondsMax) ms (\(parts.joined(separator: ", ")), and "
            + "\(Limits.holdReserveMilliseconds) ms to stop and resume guests), more than "
            + "\(deadlineMilliseconds) ms"
    }
}

extension Release {
    /// What an agent must be able to do for it; nil if all of them are.
    public var neededAbility: AgentAbility? {
        switch work {
        case .hypervisor: nil
        case .host: .hostCommands
        case .agent: .agentUpgrade
        }
    }

    /// - Returns: why it cannot be taken, or nil.
    public var refusal: Refusal? {
        switch (component, work) {
        case (.kernel, _):
            return Refusal(
                .notSupported, "component kernel is not supported",
                advice: "A kernel is not replaced under guests: move them away and reboot.")
        case (.hypervisor, .hypervisor), (.agent, .agent), (.agent, .host): break
        case (.hypervisor, _):
            return Refusal(
                .invalid, "a release of component hypervisor is a QEMU installation",
                advice: "Give its --path, --version and --sha256, or name another component.")
        case (_, .hypervisor), (_, .agent):
            return Refusal(
                .invalid, "a release of component \(component) is made of commands",
                advice: "Write them down in a release file and give it with --file.")
        case (_, .host): break
        }
        if version.isEmpty { return Refusal(.invalid, "release \(id) has no version") }
        if !isVersion(version) {
            return Refusal(
                .invalid, "the version of release \(id) is none: '\(version)'",
                advice: versionAdvice)
        }
        switch work {
        case .hypervisor(let hypervisor, let sha256):
            return Self.refusal(
                path: hypervisor.path,
                advice: "Give the path of the QEMU binary as the hosts see it.")
                ?? Self.refusal(sha256: sha256, of: hypervisor.path)
        case .host(let work): return Self.refusal(work)
        case .agent(_, let program): return Self.refusal(program)
        }
    }

    private static func refusal(_ work: HostWork) -> Refusal? {
        for (name, command) in work.commands {
            let limits = 1...Limits.commandMillisecondsMax
            guard limits.contains(command.limitMilliseconds) else {
                return Refusal(
                    .invalid, "the limit of \(name) is \(command.limitMilliseconds) ms",
                    advice: "Choose 1 to \(limits.upperBound) ms.")
            }
            guard command.arguments.count <= Limits.commandWordsMax else {
                return Refusal(
                    .invalid, "\(name) has \(command.arguments.count) arguments",
                    advice: "Give at most \(Limits.commandWordsMax); put the rest into its file.")
            }
            if let refusal = refusal(ReleaseFile(path: command.path, sha256: command.sha256)) {
                return refusal
            }
        }
        if let artifact = work.artifact, let refusal = refusal(artifact) { return refusal }
        if !work.workingDirectory.isEmpty, let refusal = refusal(path: work.workingDirectory) {
            return refusal
        }
        guard work.environment.count <= Limits.commandWordsMax else {
            return Refusal(
                .invalid, "the environment has \(work.environment.count) variables",
                advice: "Give at most \(Limits.commandWordsMax).")
        }
        for (offset, variable) in work.environment.enumerated() {
            guard EnvironmentVariable.isValidName(variable.name) else {
                return Refusal(
                    .invalid, "\(variable.name) cannot be the name of a variable",
                    advice: "Use letters, digits and _; FERMATA_… is the agent's.")
            }
            if offset > 0, work.environment[offset - 1].name >= variable.name {
                return Refusal(.invalid, "the variables are not in order at \(variable.name)")
            }
        }
        return work.holdProblem(deadlineMilliseconds: Limits.deadlineMillisecondsMax).map {
            Refusal(
                .invalid, $0,
                advice: "Shorten the limits, move work into prepare, or hold no guests.")
        }
    }

    private static func refusal(_ file: ReleaseFile) -> Refusal? {
        refusal(path: file.path) ?? refusal(sha256: file.sha256, of: file.path)
    }

    private static func refusal(
        path: String, advice: String = "Give the path as the hosts see it, beginning with /."
    ) -> Refusal? {
        path.hasPrefix("/")
            ? nil : Refusal(.invalid, "path \(path) is not absolute", advice: advice)
    }

    private static func refusal(sha256: [UInt8], of path: String) -> Refusal? {
        sha256.count == 32
            ? nil : Refusal(.invalid, "the SHA-256 has \(sha256.count) bytes, not 32 (\(path))")
    }
}

/// What a version may be, wherever one is written down: scripts split lines of output at spaces.
public func isVersion(_ text: String) -> Bool {
    (1...63).contains(text.utf8.count) && text.utf8.allSatisfy { $0 > 0x20 && $0 != 0x7F }
}

public let versionAdvice = "Use 1 to 63 characters without spaces."
