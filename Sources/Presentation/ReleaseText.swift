public import Fleet

// Releases as text and as JSON; the audit record shows the same.

extension Release {
    /// The file that tells one release from another at a glance: the QEMU binary, the artifact or
    /// else the command that installs it, the agent's program.
    public var mainFile: ReleaseFile {
        switch work {
        case .hypervisor(let hypervisor, let sha256):
            ReleaseFile(path: hypervisor.path, sha256: sha256)
        case .host(let work):
            work.artifact ?? ReleaseFile(path: work.apply.path, sha256: work.apply.sha256)
        case .agent(_, let program): program
        }
    }

    /// What it is made of, as members of an object; `kind` says which of the others are there.
    public var workJSON: [JSON.Member] {
        switch work {
        case .hypervisor(let hypervisor, let sha256):
            [
                JSON.Member("kind", "hypervisor"), JSON.Member("path", .string(hypervisor.path)),
                JSON.Member("moduleDirectory", JSON(hypervisor.moduleDirectory)),
                JSON.Member("dataDirectories", JSON(hypervisor.dataDirectories)),
                JSON.Member("sha256", .string(hexText(sha256))),
            ]
        case .host(let work): work.members
        case .agent(_, let program):
            [
                JSON.Member("kind", "agentProgram"), JSON.Member("path", .string(program.path)),
                JSON.Member("sha256", .string(hexText(program.sha256))),
            ]
        }
    }
}

extension HostWork {
    fileprivate var members: [JSON.Member] {
        [
            JSON.Member("kind", "hostWork"), JSON.Member("holdsGuests", .bool(holdsGuests)),
            JSON.Member(
                "artifact",
                artifact.map {
                    ["path": .string($0.path), "sha256": .string(hexText($0.sha256))]
                } ?? .null
            ),
            JSON.Member("prepare", prepare?.json ?? .null), JSON.Member("apply", apply.json),
            JSON.Member("check", check?.json ?? .null), JSON.Member("undo", undo?.json ?? .null),
            JSON.Member(
                "environment",
                .object(environment.map { JSON.Member($0.name, .string($0.value)) })
            ),
            JSON.Member("user", .string(user)),
            JSON.Member("workingDirectory", .string(workingDirectory)),
        ]
    }
}

extension HostCommand {
    fileprivate var json: JSON {
        [
            "path": .string(path), "arguments": JSON(arguments),
            "sha256": .string(hexText(sha256)), "limitMilliseconds": JSON(limitMilliseconds),
        ]
    }
}

extension ReleaseView {
    public var json: JSON {
        let head: [JSON.Member] = [
            JSON.Member("id", .string(release.id.rawValue)),
            JSON.Member("component", .string(release.component.description)),
            JSON.Member("version", .string(release.version)),
        ]
        let tail: [JSON.Member] = [
            JSON.Member("addedAt", JSON(addedAt)), JSON.Member("addedBy", .string(addedBy)),
        ]
        return .object(head + release.workJSON + tail)
    }
}
