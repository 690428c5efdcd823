// What a server has seen of its peers since it started: counts, and certificates that will end.

/// How often something happened, by reason.
public struct Counter: Hashable, Sendable {
    /// What, in snake case, such as `connections_refused`.
    public var name: String
    /// Why, in one word; empty if the name says it all.
    public var reason: String
    public var count: UInt64
    public init(name: String, reason: String, count: UInt64) {
        self.name = name
        self.reason = reason
        self.count = count
    }
}

/// A certificate and when it ends.
public struct CertificateView: Hashable, Sendable {
    /// Its URI name, `fermata://CLUSTER/ROLE/NAME`.
    public var identity: String
    /// Lower-case hexadecimal digits.
    public var serial: String
    public var expiresAt: Timestamp
    public init(identity: String, serial: String, expiresAt: Timestamp) {
        self.identity = identity
        self.serial = serial
        self.expiresAt = expiresAt
    }
}

/// A server's sessions in numbers.
public struct ServerTraffic: Hashable, Sendable {
    public var sessionCount: UInt32
    /// Connections that are no sessions yet.
    public var halfOpenCount: UInt32
    /// Ascending by name and reason; since the server started.
    public var counters: [Counter]
    /// The authority's and the server's own, then those of open sessions that end soon.
    public var certificates: [CertificateView]
    public init(
        sessionCount: UInt32 = 0, halfOpenCount: UInt32 = 0, counters: [Counter] = [],
        certificates: [CertificateView] = []
    ) {
        self.sessionCount = sessionCount
        self.halfOpenCount = halfOpenCount
        self.counters = counters
        self.certificates = certificates
    }
}
