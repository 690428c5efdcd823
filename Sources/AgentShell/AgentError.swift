public import UvLoop

/// Why an agent cannot start, or something it needed did not work.
public enum AgentError: Error, Hashable, Sendable, CustomStringConvertible {
    /// The directory cannot be made or written to.
    case directory(path: String, UvError)
    /// Another agent works with the same directory.
    case inUse(path: String)
    /// A file of the agent's own state cannot be read back.
    case state(path: String, reason: String)
    /// An operating error on the way, with what was being done.
    case system(UvError)
    /// A QEMU could not be started or did not come up.
    case hypervisor(reason: String)

    public var description: String {
        switch self {
        case .directory(let path, let error):
            "\(path) cannot be used: \(error): make it a directory that the agent may write to"
        case .inUse(let path):
            "another agent holds \(path): stop it, or give this host its own directories"
        case .state(let path, let reason):
            "\(path) cannot be read: \(reason): restore it, or remove it if no step was in flight"
        case .system(let error): error.description
        case .hypervisor(let reason): reason
        }
    }
}
