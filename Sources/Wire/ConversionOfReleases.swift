// Releases and their work: between the vocabulary (`Fleet`) and the schema (`PB…`).
//
// What a person may have got wrong (which component goes with which work, whether the limits fit
// into a hold) is for the leader, who can say why; here is what only a broken peer sends.
public import Fleet

extension Hypervisor {
    public var wire: PBHypervisor {
        var wire = PBHypervisor()
        wire.version = version
        wire.path = path
        if let moduleDirectory { wire.moduleDirectory = moduleDirectory }
        wire.dataDirectories = dataDirectories
        return wire
    }
    public init(wire: PBHypervisor) throws(ConversionError) {
        self.init(
            version: try checkedText(wire.version, "version"),
            path: try checkedText(wire.path, "path"),
            moduleDirectory: wire.hasModuleDirectory
                ? try checkedText(wire.moduleDirectory, "module_directory") : nil,
            dataDirectories: try list(wire.dataDirectories, "data_directories") {
                text throws(ConversionError) in try checkedText(text, "")
            })
    }
}

extension Release {
    /// Of a SHA-256, in bytes.
    static let digestByteCount = 32

    public var wire: PBRelease {
        var wire = PBRelease()
        wire.id = id.rawValue
        wire.component = component.description
        switch work {
        case .hypervisor(let hypervisor, let sha256):
            wire.hypervisor = hypervisor.wire
            wire.sha256 = .init(sha256)
        case .host(let work): wire.hostWork = work.wire
        case .agent(let version, let program):
            wire.agentProgram = .with {
                $0.version = version
                $0.program = program.wire
            }
        }
        return wire
    }
    public init(wire: PBRelease) throws(ConversionError) {
        self.init(
            id: try checkedName(wire.id, "id"),
            component: try checkedComponent(wire.component, "component"),
            work: try Work(wire: wire))
    }
}

extension Work {
    fileprivate init(wire: PBRelease) throws(ConversionError) {
        if case .hypervisor(let hypervisor) = wire.work {
            self = .hypervisor(
                try required(true, hypervisor, "hypervisor", Hypervisor.init(wire:)),
                sha256: try checkedDigest([UInt8](wire.sha256), "sha256"))
            return
        }
        switch wire.work {
        case .hostWork(let work):
            self = .host(try required(true, work, "host_work", HostWork.init(wire:)))
        case .agentProgram(let program):
            self = try required(true, program, "agent_program") {
                program throws(ConversionError) in
                .agent(
                    version: try checkedText(program.version, "version"),
                    program: try required(
                        program.hasProgram, program.program, "program", ReleaseFile.init(wire:)))
            }
        case .hypervisor, nil: throw ConversionError(.missing, field: "work")
        }
        guard wire.sha256.isEmpty else {
            throw ConversionError(.contradiction("not empty without hypervisor"), field: "sha256")
        }
    }
}

extension ReleaseFile {
    public var wire: PBReleaseFile {
        var wire = PBReleaseFile()
        wire.path = path
        wire.sha256 = .init(sha256)
        return wire
    }
    public init(wire: PBReleaseFile) throws(ConversionError) {
        self.init(
            path: try checkedPath(wire.path, "path"),
            sha256: try checkedDigest([UInt8](wire.sha256), "sha256"))
    }
}

extension EnvironmentVariable {
    public var wire: PBEnvironmentVariable {
        var wire = PBEnvironmentVariable()
        wire.name = name
        wire.value = value
        return wire
    }
    public init(wire: PBEnvironmentVariable) throws(ConversionError) {
        guard Self.isValidName(try checkedText(wire.name, "name")) else {
            throw ConversionError(.invalidName(wire.name), field: "name")
        }
        self.init(name: wire.name, value: try checkedWord(wire.value, "value"))
    }
}

extension HostCommand {
    public var wire: PBHostCommand {
        var wire = PBHostCommand()
        wire.path = path
        wire.arguments = arguments
        wire.sha256 = .init(sha256)
        wire.limitMilliseconds = limitMilliseconds
        return wire
    }
    public init(wire: PBHostCommand) throws(ConversionError) {
        try checkCount(wire.arguments.count, max: Limits.commandWordsMax, "arguments")
        let limits = 1...Limits.commandMillisecondsMax
        guard limits.contains(wire.limitMilliseconds) else {
            throw outOfRange(
                Int64(wire.limitMilliseconds), Int64(limits.lowerBound), Int64(limits.upperBound),
                "limit_milliseconds")
        }
        self.init(
            path: try checkedPath(wire.path, "path"),
            arguments: try list(wire.arguments, "arguments") {
                text throws(ConversionError) in try checkedWord(text, "")
            },
            sha256: try checkedDigest([UInt8](wire.sha256), "sha256"),
            limitMilliseconds: wire.limitMilliseconds)
    }
}

extension HostWork {
    /// Sorts the environment, so that no sender can get it wrong.
    public var wire: PBHostWork {
        var wire = PBHostWork()
        wire.version = version
        wire.holdsGuests = holdsGuests
        if let prepare { wire.prepare = prepare.wire }
        wire.apply = apply.wire
        if let check { wire.check = check.wire }
        if let undo { wire.undo = undo.wire }
        wire.environment = environment.sorted { $0.name < $1.name }.map(\.wire)
        wire.user = user
        wire.workingDirectory = workingDirectory
        if let artifact { wire.artifact = artifact.wire }
        return wire
    }
    public init(wire: PBHostWork) throws(ConversionError) {
        try checkCount(wire.environment.count, max: Limits.commandWordsMax, "environment")
        let environment = try list(
            wire.environment, "environment", EnvironmentVariable.init(wire:))
        try checkAscending(environment, "environment") { $0.name }
        self.init(
            version: try checkedText(wire.version, "version"), holdsGuests: wire.holdsGuests,
            prepare: try optional(
                wire.hasPrepare, wire.prepare, "prepare", HostCommand.init(wire:)),
            apply: try required(wire.hasApply, wire.apply, "apply", HostCommand.init(wire:)),
            check: try optional(wire.hasCheck, wire.check, "check", HostCommand.init(wire:)),
            undo: try optional(wire.hasUndo, wire.undo, "undo", HostCommand.init(wire:)),
            environment: environment, user: try checkedWord(wire.user, "user"),
            workingDirectory: wire.workingDirectory.isEmpty
                ? "" : try checkedPath(wire.workingDirectory, "working_directory"),
            artifact: try optional(
                wire.hasArtifact, wire.artifact, "artifact", ReleaseFile.init(wire:)))
    }
}

// MARK: - Checks of one field each. `field` is the name in the schema.

/// A text that a program gets: the kernel would end it at a NUL byte.
private func checkedWord(_ text: String, _ field: StaticString) throws(ConversionError) -> String {
    guard !text.utf8.contains(0) else {
        throw ConversionError(.contradiction("has a NUL byte"), field: "\(field)")
    }
    return try checkedText(text, field)
}

private func checkedPath(_ text: String, _ field: StaticString) throws(ConversionError) -> String {
    guard !text.isEmpty else { throw ConversionError(.missing, field: "\(field)") }
    guard text.hasPrefix("/") else {
        throw ConversionError(.contradiction("not an absolute path"), field: "\(field)")
    }
    return try checkedWord(text, field)
}

private func checkedDigest(
    _ bytes: [UInt8], _ field: StaticString
) throws(ConversionError) -> [UInt8] {
    guard bytes.count == Release.digestByteCount else {
        throw ConversionError(
            .wrongByteCount(bytes.count, expected: Release.digestByteCount), field: "\(field)")
    }
    return bytes
}
