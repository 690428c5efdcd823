internal import Fleet
import Glibc
internal import UvLoop

/// What a release names, as it is on this host: files, and what its commands run as and where.
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
            return problemOfDirectory(work.workingDirectory) ?? problemOfUser(work.user)
        }
    }

    private static func problemOfDirectory(_ path: String) -> String? {
        guard !path.isEmpty else { return nil }
        switch Files.kind(path: path) {
        case nil: return "the working directory \(path) does not exist: make it on this host"
        case .directory: return nil
        default: return "the working directory \(path) is not a directory"
        }
    }

    private static func problemOfUser(_ name: String) -> String? {
        guard !name.isEmpty else { return nil }
        guard let entry = getpwnam(name) ?? UInt32(name).flatMap({ getpwuid($0) }) else {
            return "there is no user \(name) on this host: make one, or correct the release"
        }
        guard geteuid() == 0 || entry.pointee.pw_uid == geteuid() else {
            return "the agent may not run commands as \(name): it does not run as root"
        }
        return nil
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
