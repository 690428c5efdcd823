internal import Fleet
internal import UvLoop

/// The files that a release names, as they are on this host.
enum Artifact {
    /// - Returns: what is wrong with one of them and what to do, or nil.
    static func problem(_ release: Release) -> String? {
        switch release.work {
        case .hypervisor(let hypervisor, let sha256):
            return problem(hypervisor.path, sha256, release, isProgram: true)
        case .agent(_, let program):
            return problem(program.path, program.sha256, release, isProgram: true)
        case .host(let work):
            if let file = work.artifact,
                let problem = problem(file.path, file.sha256, release, isProgram: false)
            {
                return problem
            }
            for (_, command) in work.commands {
                if let problem = problem(command.path, command.sha256, release, isProgram: true) {
                    return problem
                }
            }
            return nil
        }
    }

    private static func problem(
        _ path: String, _ sha256: [UInt8], _ release: Release, isProgram: Bool
    ) -> String? {
        switch Files.kind(path: path) {
        case nil: return "\(path) does not exist: install the release on this host"
        case .regular: break
        default: return "\(path) is not a file"
        }
        guard !isProgram || Files.isExecutable(path: path) else {
            return "\(path) is not executable: correct its mode"
        }
        do {
            guard try SHA256Digest.ofFile(path) == sha256 else {
                return "\(path) has another SHA-256 than release \(release.id): install the right "
                    + "file, or add the release again"
            }
        } catch { return "\(path) cannot be read: \(error)" }
        return nil
    }
}
