public import UvLoop
public import Wire

/// Why a process has no identity to show. Exit code 77.
public enum CredentialsError: Error, Hashable, Sendable, CustomStringConvertible {
    case tls(TLSError)
    /// The certificate's URI name is not `fermata://CLUSTER/ROLE/NAME`.
    case notAnIdentity(path: String, uri: String)
    case wrongRole(path: String, found: Role, wanted: [Role])

    public var message: String {
        switch self {
        case .tls(let error): error.description
        case .notAnIdentity(let path, let uri):
            "\(path) names \"\(uri)\", which is not fermata://CLUSTER/ROLE/NAME"
        case .wrongRole(let path, let found, let wanted):
            "\(path) is a certificate for the role \(found.rawValue), not for "
                + wanted.map(\.rawValue).joined(separator: " or ")
        }
    }

    /// What to do; empty if the message says it.
    public var advice: String {
        switch self {
        case .tls: ""
        case .notAnIdentity:
            "give --credentials DIR/ROLE-NAME as made by `fermata pki issue`, not the authority's"
        case .wrongRole(_, _, let wanted):
            "issue one with `fermata pki issue \(wanted.first?.rawValue ?? "ROLE") NAME "
                + "--directory DIR` and give --credentials "
                + "DIR/\(wanted.first?.rawValue ?? "ROLE")-NAME"
        }
    }

    public var description: String { advice.isEmpty ? message : "\(message): \(advice)" }
}

/// A process's certificate, key and authority, loaded and checked.
public struct Credentials {
    /// Path without `.pem` and `.key`: `DIR/ROLE-NAME`.
    public let prefix: String
    /// What our certificate says that we are.
    public let identity: PeerIdentity
    /// For the side that our role plays: a server accepts, all others connect.
    public let context: TLSContext

    /// Loads `PREFIX.pem`, `PREFIX.key` and the `ca.pem` beside them.
    ///
    /// - Parameter roles: those that the process can run as.
    public static func load(
        prefix: String, roles: [Role]
    ) throws(CredentialsError) -> Credentials {
        let certificatePath = "\(prefix).pem"
        let directory = prefix.lastIndex(of: "/").map { String(prefix[..<$0]) } ?? "."
        let context: TLSContext
        do {
            context = try TLSContext(
                role: roles == [.server] ? .server : .client, certificatePath: certificatePath,
                keyPath: "\(prefix).key", authorityPath: "\(directory)/ca.pem")
        } catch {
            throw .tls(error)
        }
        guard let identity = PeerIdentity(uri: context.identity.uri) else {
            throw .notAnIdentity(path: certificatePath, uri: context.identity.uri)
        }
        guard roles.contains(identity.role) else {
            throw .wrongRole(path: certificatePath, found: identity.role, wanted: roles)
        }
        return Credentials(prefix: prefix, identity: identity, context: context)
    }
}
