// Which connections a server lets wait for their handshake, so that no address and no flood takes
// the room of all others. Only computes.
//
//   state      event                        next      what happens
//   ---------  ---------------------------  --------  -------------------------------------------
//   –          connected, room              silent    it may stay
//   –          connected, no room           silent    the connection that has been silent longest
//                                                     goes, of the same address if that is full
//   –          connected, all have spoken   –         refused: halfOpenMax
//   –          connected, too many sessions –         refused: sessionsMax
//   silent     spoke                        waiting   it waits for us and is not put out
//   waiting    answered                     silent    we wait for it again
//   silent,    opened                       session   counts as a session of its address
//   waiting
//   any        ended                        –         its room is free
//
// "Silent" is a connection that we wait for. An honest one stops being silent within a round trip, so
// that whoever is put out has most likely no good intentions.
public import Fleet

/// See the table at the top of this file. Connections are known by numbers that are never reused.
public struct ConnectionGate: Sendable {
    public struct Bounds: Hashable, Sendable {
        public var halfOpenMax: Int
        public var halfOpenPerAddressMax: Int
        public var sessionsPerAddressMax: Int
        public init(
            halfOpenMax: Int = Limits.halfOpenMax,
            halfOpenPerAddressMax: Int = Limits.halfOpenPerAddressMax,
            sessionsPerAddressMax: Int = Limits.sessionsPerAddressMax
        ) {
            self.halfOpenMax = halfOpenMax
            self.halfOpenPerAddressMax = halfOpenPerAddressMax
            self.sessionsPerAddressMax = sessionsPerAddressMax
        }
    }

    public enum Verdict: Hashable, Sendable {
        /// It may stay; `dropping` is to be closed for it, and is forgotten here already.
        case admit(dropping: UInt64?)
        /// It is to be closed at once. The reason is one word, for counting.
        case refuse(reason: String)
    }

    /// Why a connection is refused or put out: too many of its kind are no sessions yet.
    public static let halfOpenReason = "halfOpenMax"
    /// Too many sessions of its address.
    public static let sessionsReason = "sessionsMax"

    fileprivate struct Connection {
        var address: String
        var state: State
        /// How often it has begun to be silent: an earlier place in a queue does not count.
        var silenceCount = 1
    }

    private struct Address {
        var halfOpenCount = 0
        var sessionCount = 0
        var silent = Silence()
        var isUnused: Bool { halfOpenCount == 0 && sessionCount == 0 }
    }

    fileprivate enum State { case silent, waiting, session }

    private let bounds: Bounds
    private var connections: [UInt64: Connection] = [:]
    private var addresses: [String: Address] = [:]
    private var silent = Silence()
    public private(set) var halfOpenCount = 0

    public init(_ bounds: Bounds = Bounds()) { self.bounds = bounds }

    /// - Parameter address: what ``key(ofIP:)`` makes of the peer's address.
    public mutating func connected(_ number: UInt64, address key: String) -> Verdict {
        precondition(connections[number] == nil, "connection \(number) is known already")
        var address = addresses[key] ?? Address()
        guard address.sessionCount < bounds.sessionsPerAddressMax else {
            return .refuse(reason: Self.sessionsReason)
        }
        var dropped: UInt64?
        if address.halfOpenCount >= bounds.halfOpenPerAddressMax {
            dropped = address.silent.oldest(in: connections)
            guard dropped != nil else { return .refuse(reason: Self.halfOpenReason) }
            addresses[key] = address
        } else if halfOpenCount >= bounds.halfOpenMax {
            dropped = silent.oldest(in: connections)
            guard dropped != nil else { return .refuse(reason: Self.halfOpenReason) }
        }
        if let dropped { ended(dropped) }
        connections[number] = Connection(address: key, state: .silent)
        address = addresses[key] ?? Address()
        address.halfOpenCount += 1
        address.silent.add(number, liveCount: address.halfOpenCount, in: connections)
        addresses[key] = address
        halfOpenCount += 1
        silent.add(number, liveCount: halfOpenCount, in: connections)
        return .admit(dropping: dropped)
    }

    /// The peer has sent its TLS hello, or shown a certificate that we trust. Nothing if the
    /// connection is not known any more.
    public mutating func spoke(_ number: UInt64) {
        guard connections[number]?.state == .silent else { return }
        connections[number]?.state = .waiting
    }

    /// The peer has been answered and has to speak again. Nothing unless it waited.
    public mutating func answered(_ number: UInt64) {
        guard let connection = connections[number], connection.state == .waiting else { return }
        connections[number]?.state = .silent
        connections[number]?.silenceCount += 1
        let key = connection.address
        let count = addresses[key]?.halfOpenCount ?? 0
        addresses[key]?.silent.add(number, liveCount: count, in: connections)
        silent.add(number, liveCount: halfOpenCount, in: connections)
    }

    /// It has become a session.
    public mutating func opened(_ number: UInt64) {
        guard let connection = connections[number], connection.state != .session else { return }
        connections[number]?.state = .session
        halfOpenCount -= 1
        addresses[connection.address]?.halfOpenCount -= 1
        addresses[connection.address]?.sessionCount += 1
    }

    /// It is gone. Harmless when repeated.
    public mutating func ended(_ number: UInt64) {
        guard let connection = connections.removeValue(forKey: number) else { return }
        let key = connection.address
        if connection.state == .session {
            addresses[key]?.sessionCount -= 1
        } else {
            halfOpenCount -= 1
            addresses[key]?.halfOpenCount -= 1
        }
        if addresses[key]?.isUnused == true { addresses[key] = nil }
    }

    /// What counts as one address: an IPv4 address, or the /64 that an IPv6 host can choose from.
    ///
    /// - Parameter ip: numeric; anything else stands for itself.
    public static func key(ofIP ip: String) -> String {
        guard ip.contains(":") else { return ip }
        // An IPv4 address in IPv6's clothes.
        if let last = ip.split(separator: ":").last, last.contains(".") { return String(last) }
        let halves = ip.split(separator: "%")[0].split(
            separator: "::", maxSplits: 1, omittingEmptySubsequences: false)
        let head = halves[0].split(separator: ":")
        guard halves.count == 2 else { return head.prefix(4).joined(separator: ":") }
        let tail = halves[1].split(separator: ":")
        let zeros = [Substring](repeating: "0", count: max(0, 8 - head.count - tail.count))
        return (head + zeros + tail).prefix(4).joined(separator: ":")
    }
}

/// Connections in the order in which they came. Those that are not silent any more are dropped when
/// they are met, or when they are most of what is kept.
private struct Silence: Sendable {
    private var places: [(number: UInt64, silenceCount: Int)] = []
    private var start = 0

    /// - Parameter liveCount: how many there can be at most; bounds what is kept.
    mutating func add(
        _ number: UInt64, liveCount: Int, in connections: [UInt64: ConnectionGate.Connection]
    ) {
        if places.count > 2 * liveCount + 16 {
            places = places[start...].filter { Self.isTaken($0, connections) }
            start = 0
        }
        places.append((number, connections[number]?.silenceCount ?? 1))
    }

    mutating func oldest(in connections: [UInt64: ConnectionGate.Connection]) -> UInt64? {
        while start < places.count {
            let place = places[start]
            start += 1
            if Self.isTaken(place, connections) { return place.number }
        }
        return nil
    }

    private static func isTaken(
        _ place: (number: UInt64, silenceCount: Int),
        _ connections: [UInt64: ConnectionGate.Connection]
    ) -> Bool {
        guard let connection = connections[place.number] else { return false }
        return connection.state == .silent && connection.silenceCount == place.silenceCount
    }
}
