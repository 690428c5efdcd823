// What kind of worlds are drawn from seeds: how large they are, what goes wrong in them, and how often.

/// From what a world is drawn.
public struct Profile: Hashable, Sendable {
    public var name: String
    /// What it is, in half a line.
    public var words: String
    public var servers: ClosedRange<Int64>
    public var hosts: ClosedRange<Int64>
    public var guestsPerHost: ClosedRange<Int64>
    /// How long faults happen, in seconds of virtual time.
    public var seconds: ClosedRange<Int64>
    /// Between two faults that come by themselves, on average; 0 for none.
    public var faultMilliseconds: Int64
    /// Of the edges of a process that has work in a hold, one in so many is where it dies; 0 for none.
    public var edgeOdds: Int
    /// Between two commands of an operator, on average.
    public var commandMilliseconds: Int64
    /// Of the agents that die in a step, one in so many leaves its guard alone for a minute or two, and one
    /// in so many takes it along; and one QEMU in so many lingers after its end. 0 for none.
    public var aloneOdds: Int

    /// What is tried where nothing else is asked for: small clusters, much wrong.
    public static let mixed = Profile(
        name: "mixed", words: "three to eight hosts, up to five servers, much wrong; the default",
        servers: 1...5, hosts: 3...8, guestsPerHost: 1...4, seconds: 60...240,
        faultMilliseconds: 4_000, edgeOdds: 150, commandMilliseconds: 9_000)
    /// As small as can be, so that many seeds are tried: for `make test`.
    public static let small = Profile(
        name: "small", words: "the smallest clusters, for a minute: what the tests run",
        servers: 1...3, hosts: 3...4, guestsPerHost: 1...2, seconds: 40...70,
        faultMilliseconds: 4_000, edgeOdds: 100, commandMilliseconds: 7_000)
    /// Half as long, for a hundred thousand.
    public static let brief = Profile(
        name: "brief", words: "as small, for half as long, and twice as much wrong",
        servers: 1...3, hosts: 3...3, guestsPerHost: 1...2, seconds: 18...30,
        faultMilliseconds: 2_000, edgeOdds: 60, commandMilliseconds: 4_000)
    public static let large = Profile(
        name: "large", words: "40 to 200 hosts with up to 40 guests each",
        servers: 3...5, hosts: 40...200, guestsPerHost: 4...40, seconds: 60...120,
        faultMilliseconds: 500, edgeOdds: 2_000, commandMilliseconds: 9_000)
    /// Nothing goes wrong: what is broken then is broken always.
    public static let calm = Profile(
        name: "calm", words: "nothing goes wrong but what operators do",
        servers: 1...3, hosts: 3...8, guestsPerHost: 1...4, seconds: 60...120,
        faultMilliseconds: 0, edgeOdds: 0, commandMilliseconds: 9_000)
    /// Leaders fall all the time.
    public static let takeovers = Profile(
        name: "takeovers", words: "leaders fall all the time",
        servers: 3...5, hosts: 3...6, guestsPerHost: 1...3, seconds: 60...180,
        faultMilliseconds: 1_500, edgeOdds: 300, commandMilliseconds: 9_000)

    /// Many guests in few sets: steps wait long, and others pass them.
    public static let crowded = Profile(
        name: "crowded", words: "many guests in few sets: steps wait long, and others pass them",
        servers: 1...3, hosts: 3...3, guestsPerHost: 8...14, seconds: 60...120,
        faultMilliseconds: 8_000, edgeOdds: 600, commandMilliseconds: 7_000)

    /// Agents die in the middle of holds and do not come back for long, or their guards die with them.
    public static let alone = Profile(
        name: "alone", words: "agents die in holds and stay away, or take their guards along",
        servers: 1...1, hosts: 3...3, guestsPerHost: 1...3, seconds: 60...120,
        faultMilliseconds: 12_000, edgeOdds: 60, commandMilliseconds: 5_000, aloneOdds: 3)

    public static let all: [Profile] = [
        mixed, small, brief, large, calm, takeovers, crowded, alone,
    ]

    /// Somebody reads all the time.
    var hasOnlooker: Bool { name == "takeovers" }

    public init?(name: String) {
        guard let found = Self.all.first(where: { $0.name == name }) else { return nil }
        self = found
    }

    init(
        name: String, words: String, servers: ClosedRange<Int64>, hosts: ClosedRange<Int64>,
        guestsPerHost: ClosedRange<Int64>, seconds: ClosedRange<Int64>, faultMilliseconds: Int64,
        edgeOdds: Int, commandMilliseconds: Int64, aloneOdds: Int = 0
    ) {
        self.name = name
        self.words = words
        self.servers = servers
        self.hosts = hosts
        self.guestsPerHost = guestsPerHost
        self.seconds = seconds
        self.faultMilliseconds = faultMilliseconds
        self.edgeOdds = edgeOdds
        self.commandMilliseconds = commandMilliseconds
        self.aloneOdds = aloneOdds
    }
}

/// What a run contained.
public struct RunCounts: Hashable, Sendable {
    public var steps = 0
    public var facts = 0
    public var grants = 0
    public var holds = 0
    public var takeovers = 0
    public var faults = 0
    public var guardActions = 0
    public var annotations = 0
    /// In microseconds.
    public var longestHold: Int64 = 0

    public init() {}

    public mutating func add(_ other: RunCounts) {
        steps += other.steps
        facts += other.facts
        grants += other.grants
        holds += other.holds
        takeovers += other.takeovers
        faults += other.faults
        guardActions += other.guardActions
        annotations += other.annotations
        longestHold = max(longestHold, other.longestHold)
    }
}
