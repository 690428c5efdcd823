/// Where several servers find each other.
public struct ServerGroup: Hashable, Sendable {
    /// `host:port` where agents, people and other servers reach this one.
    public var advertise: String
    /// The same of the others.
    public var peers: [String]
    public init(advertise: String, peers: [String]) {
        self.advertise = advertise
        self.peers = peers
    }
    /// One that is alone.
    public static let alone = ServerGroup(advertise: "", peers: [])

    /// The leader first, if it is known.
    func list(leader: String?) -> [String] {
        var result: [String] = []
        for server in [leader ?? ""] + [advertise] + peers
        where !server.isEmpty && !result.contains(server) {
            result.append(server)
        }
        return result
    }
}
