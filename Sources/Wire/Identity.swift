import Fleet

/// Versions of the protocol that this code speaks.
public enum ProtocolVersion {
    public static let min: UInt32 = 1
    public static let max: UInt32 = 1
}

/// Who a peer is: the one URI name of its certificate, `fermata://CLUSTER/ROLE/NAME`.
///
/// - Source: proto-spec/README.md, "TLS and identity".
public struct PeerIdentity: Hashable, Sendable, CustomStringConvertible {
    public let cluster: String
    public let role: Role
    public let name: String

    /// - Returns: nil unless cluster and name are valid names (``Fleet/Identifier``).
    public init?(cluster: String, role: Role, name: String) {
        guard HostID.isValid(cluster), HostID.isValid(name) else { return nil }
        self.cluster = cluster
        self.role = role
        self.name = name
    }

    /// - Returns: nil unless `uri` is exactly `fermata://CLUSTER/ROLE/NAME` with a known role.
    ///   The authority's own name, `fermata://CLUSTER/authority/ca`, is nobody's identity.
    public init?(uri: String) {
        let scheme = "fermata://"
        guard uri.hasPrefix(scheme) else { return nil }
        let parts = uri.dropFirst(scheme.count).split(
            separator: "/", omittingEmptySubsequences: false)
        guard parts.count == 3, let role = Role(rawValue: String(parts[1])) else { return nil }
        self.init(cluster: String(parts[0]), role: role, name: String(parts[2]))
    }

    public var uri: String { "fermata://\(cluster)/\(role.rawValue)/\(name)" }
    public var description: String { uri }
}
