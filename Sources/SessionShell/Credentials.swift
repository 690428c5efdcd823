public import Edges
public import UvLoop
public import Wire

/// Why a process has no identity to show. Exit code 77.
public enum CredentialsError: Error, Hashable, Sendable, CustomStringConvertible {
    case tls(TLSError)
    /// The certificate's URI name is not `fermata://CLUSTER/ROLE/NAME`.
    case notAnIdentity(path: String, uri: String)
    case wrongRole(path: String, found: Role, wanted: [Role])
    /// Read again, the certificate is somebody else's.
    case identityChanged(path: String, was: PeerIdentity, now: PeerIdentity)
    /// Read again, the list has a lower number: an old copy, which lacks what was revoked since.
    case olderRevocationList(path: String, number: UInt64, loaded: UInt64)
    /// There was a list, and it is gone.
    case revocationListGone(path: String)

    public var message: String {
        switch self {
        case .tls(let error): error.description
        case .notAnIdentity(let path, let uri):
            "\(path) names \"\(uri)\", which is not fermata://CLUSTER/ROLE/NAME"
        case .wrongRole(let path, let found, let wanted):
            "\(path) is a certificate for the role \(found.rawValue), not for "
                + wanted.map(\.rawValue).joined(separator: " or ")
        case .identityChanged(let path, let was, let now):
            "\(path) is now a certificate for \(now), and this process is \(was)"
        case .olderRevocationList(let path, let number, let loaded):
            "\(path) is an older revocation list (number \(number)) than the one in use "
                + "(number \(loaded))"
        case .revocationListGone(let path):
            "there is no \(path) any more, and a revocation list is in use"
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
        case .identityChanged:
            "put this process's own certificate back, or stop it and start it as the other"
        case .olderRevocationList, .revocationListGone:
            "copy the authority's newest crl.pem beside ca.pem"
        }
    }

    public var description: String { advice.isEmpty ? message : "\(message): \(advice)" }
}

/// A process's certificate, key, authority and revocation list, loaded and checked.
public struct Credentials {
    /// Path without `.pem` and `.key`: `DIR/ROLE-NAME`.
    public let prefix: String
    /// What our certificate says that we are.
    public let identity: PeerIdentity
    /// For the side that our role plays: a server accepts, all others connect.
    public let context: TLSContext
    /// For connecting; a server connects to other servers, too.
    public let connectingContext: TLSContext

    /// Loads `PREFIX.pem`, `PREFIX.key`, the `ca.pem` beside them and, if there is one, the
    /// `crl.pem` beside that.
    ///
    /// - Parameter roles: those that the process can run as.
    public static func load(
        prefix: String, roles: [Role]
    ) throws(CredentialsError) -> Credentials {
        let certificatePath = "\(prefix).pem"
        let authorityPath = "\(directory(of: prefix))/ca.pem"
        let listPath = "\(directory(of: prefix))/crl.pem"
        let context: TLSContext
        let connectingContext: TLSContext
        do {
            func make(_ role: TLSContext.Role) throws(TLSError) -> TLSContext {
                try TLSContext(
                    role: role, certificatePath: certificatePath, keyPath: "\(prefix).key",
                    authorityPath: authorityPath, listPath: isThere(listPath) ? listPath : nil)
            }
            context = try make(roles == [.server] ? .server : .client)
            connectingContext = roles == [.server] ? try make(.client) : context
        } catch {
            throw .tls(error)
        }
        guard let identity = PeerIdentity(uri: context.identity.uri) else {
            throw .notAnIdentity(path: certificatePath, uri: context.identity.uri)
        }
        guard roles.contains(identity.role) else {
            throw .wrongRole(path: certificatePath, found: identity.role, wanted: roles)
        }
        return Credentials(
            prefix: prefix, identity: identity, context: context,
            connectingContext: connectingContext)
    }

    /// Reads the same files again, for the same process.
    ///
    /// - Throws: ``CredentialsError``; these credentials are as good as before then.
    public func loadAgain() throws(CredentialsError) -> Credentials {
        let new = try Self.load(prefix: prefix, roles: [identity.role])
        guard new.identity == identity else {
            throw .identityChanged(path: "\(prefix).pem", was: identity, now: new.identity)
        }
        switch context.setback(to: new.context) {
        case nil: return new
        case .gone: throw .revocationListGone(path: revocationListPath)
        case .older(let number, let loaded):
            throw .olderRevocationList(path: revocationListPath, number: number, loaded: loaded)
        }
    }

    private static func directory(of prefix: String) -> String {
        prefix.lastIndex(of: "/").map { String(prefix[..<$0]) } ?? "."
    }

    /// A symlink to nowhere counts: it is a mistake, and no reason to check nothing.
    private static func isThere(_ path: String) -> Bool {
        Files.exists(path: path) || (try? Files.link(pathOfSymlink: path)) != nil
    }

    // MARK: - What they say, for a status and for warnings

    public var authorityPath: String { "\(Self.directory(of: prefix))/ca.pem" }
    public var revocationListPath: String { "\(Self.directory(of: prefix))/crl.pem" }

    /// Our own certificate: its name, serial number and end.
    public var certificate: CertificateIdentity { context.identity }
    /// When the authority ends; of several, the first to end.
    public var authorityNotAfterUnixSeconds: Int64 { context.authorityNotAfterUnixSeconds }
    /// Whether there is a list, so that revoked peers are refused.
    public var hasRevocationList: Bool { !context.revocationLists.isEmpty }
    /// The number of the list in use, of the first authority; nil if there is none.
    public var revocationListNumber: UInt64? { context.revocationLists.first?.number }
    /// How many certificates it names.
    public var revokedCount: Int { context.revocationLists.reduce(0) { $0 + $1.entries.count } }
    /// When the next list was promised; nil if there is none, or it does not say.
    public var revocationListNotAfterUnixSeconds: Int64? {
        context.revocationLists.compactMap(\.notAfterUnixSeconds).min()
    }
    /// Whether a newer list was promised and is overdue. It is used all the same.
    public func isRevocationListOutdated(atUnixSeconds now: Int64) -> Bool {
        revocationListNotAfterUnixSeconds.map { $0 <= now } ?? false
    }
}
