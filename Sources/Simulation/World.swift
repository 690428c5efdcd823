// One run: a cluster drawn from a seed, everything that happens to it, and what was seen.

import AgentCore
import Coordination
import Edges
import Fleet
import LeaderCore
import Logging
import Wire

public final class World {
    let scenario: Scenario
    var profile: Profile { scenario.profile }
    let timeline = Timeline()
    let network: Network
    let etcdPlace: Place
    private(set) var truth: Truth!
    private(set) var faults: Faults!
    private(set) var store: SharedStore!
    private(set) var servers: [ServerSeat] = []
    private(set) var hosts: [SimulatedHost] = []
    private(set) var notifier: NotifierSeat!
    private(set) var operators: [OperatorSeat] = []
    private var onlooker: OperatorSeat?
    var counts = RunCounts()
    /// Every commit is followed by a check of the whole state.
    let checksEverything: Bool
    private var chance: Chance
    private let tracing: Tracing
    private var recent: [String] = []
    private var lastCommand = 0
    private var keptCommands: [Int] = []

    /// What is told of a run while it goes on.
    public enum Tracing {
        case nothing
        /// The newest so many lines are kept.
        case newest(Int)
        case everything((String) -> Void)
    }

    static let cluster = "simulated"

    /// What the scenario sets is drawn all the same, so that the rest is as it would be without it.
    public init(_ scenario: Scenario, tracing: Tracing = .nothing) {
        self.scenario = scenario
        self.tracing = tracing
        let profile = scenario.profile
        var chance = Chance(seed: scenario.seed)
        let drawn = Int(chance.within(profile.hosts))
        let hostCount = scenario.hosts ?? drawn
        checksEverything = hostCount <= 8
        network = Network(on: timeline, chance.fork())
        etcdPlace = Place("etcd", on: timeline, drift: 0)
        self.chance = chance
        truth = Truth(self)
        let drawnSeconds = self.chance.within(profile.seconds)
        let seconds = scenario.seconds.map(Int64.init) ?? drawnSeconds
        faults = Faults(self, profile, end: seconds * 1_000_000, self.chance.fork())
        build(hostCount)
    }

    // MARK: Building

    private func place(_ name: String) -> Place {
        let place = Place(name, on: timeline, drift: chance.within(-150...150))
        place.wallOffset = chance.within(-2_000_000...2_000_000)
        network.add(place)
        return place
    }

    private func build(_ hostCount: Int) {
        let drawn = Int(chance.within(profile.servers))
        let serverCount = scenario.servers ?? drawn
        let names = (1...serverCount).map { "s\($0)" }
        let isShared = serverCount > 1 || chance.oneIn(3)
        store = SharedStore(self, isEtcd: isShared, chance.fork())
        for name in names {
            servers.append(ServerSeat(name, all: names, at: place(name), self, chance.fork()))
        }
        var layout = FleetLayout(hostCount: hostCount, scenario, chance.fork())
        for number in 1...hostCount {
            let name = "h\(number)"
            let place = place(name)
            let guests = layout.guests(of: number, at: place)
            let host = SimulatedHost(
                HostID(checked: name), at: place, guests: guests,
                definitions: layout.definitions(of: guests), world: self, chance.fork())
            hosts.append(host)
        }
        notifier = NotifierSeat(at: place("n1"), self, chance.fork())
        for number in 1...2 {
            operators.append(
                OperatorSeat("op\(number)", at: place("op\(number)"), self, chance.fork()))
        }
        if profile.hasOnlooker {
            onlooker = OperatorSeat("onlooker", at: place("onlooker"), self, chance.fork())
        }
    }

    var allPlaces: [Place] {
        servers.map(\.place) + hosts.map(\.place) + [notifier.place, etcdPlace]
            + operators.map(\.place)
    }

    var serverAddresses: [String] { servers.map(\.address) }
    func host(_ id: HostID) -> SimulatedHost? { hosts.first { $0.id == id } }
    var annotations: [TrueAnnotation] { notifier.annotations }

    // MARK: Running

    /// How long after the last fault all must be quiet.
    static let patience: Int64 = 900_000_000

    /// Runs to the end, or to the first violation.
    ///
    /// - Returns: what was broken; empty if nothing was.
    public func run() -> [Violation] {
        for server in servers { server.start() }
        for host in hosts { host.startAgent() }
        notifier.start()
        for seat in operators { seat.start() }
        onlooker?.startLooking()
        faults.start()
        let limit = faults.end + Self.patience
        var quietSince: Int64?
        while truth.violations.isEmpty, timeline.step(until: limit) {
            guard faults.isOver, timeline.stepCount % 64 == 0 else { continue }
            if isQuiet {
                let since = quietSince ?? timeline.now
                quietSince = since
                if timeline.now - since > 15_000_000 { break }
            } else {
                quietSince = nil
            }
        }
        if truth.violations.isEmpty {
            truth.checkEnd()
            for server in servers {
                guard let state = server.core?.state else { continue }
                truth.compare(state, of: server.name, mayBeAhead: server.isLeading)
            }
        }
        counts.steps = timeline.stepCount
        counts.annotations = annotations.count
        let violations = truth.violations
        takeApart()
        return violations
    }

    /// Everything holds everything: without this nothing of a run would ever go.
    private func takeApart() {
        timeline.clear()
        for server in servers { server.letGo(now: true) }
        for seat in operators { seat.letGo() }
        notifier.letGo(now: true)
        for host in hosts { host.takeApart() }
        for place in allPlaces { place.lose() }
        network.clear()
        timeline.clear()
    }

    /// Nothing is left to do, so far as can be seen.
    private var isQuiet: Bool {
        truth.heldGuests.isEmpty && truth.state.active.isEmpty
            && truth.state.rollouts.values.allSatisfy(\.state.isOver)
            && hosts.allSatisfy { $0.disk.records.reports.isEmpty && $0.agent?.isInStep == false }
            && notifier.hasAll(upTo: truth.state.lastSequence)
    }

    /// After the last fault: everybody is started who is not there.
    func mendAll() {
        store.trouble = .none
        network.delayDoublings = 3
        for server in servers { server.startIfDead() }
        for host in hosts {
            host.comeBack()
            host.startAgent()
        }
        notifier.startIfDead()
    }

    func clockWasSet(_ place: Place) {
        for host in hosts where host.place === place { truth.clockWasSet(host) }
    }

    // MARK: Telling

    /// Numbers a command that an operator is about to give.
    ///
    /// - Returns: false if the scenario leaves it out.
    func keepsNextCommand() -> Bool {
        lastCommand += 1
        guard scenario.commands.contains(lastCommand) else { return false }
        keptCommands.append(lastCommand)
        return true
    }

    /// After a run: what it had.
    public var extent: RunExtent {
        var extent = RunExtent()
        extent.servers = servers.count
        extent.hosts = hosts.count
        extent.guests = hosts.map(\.guests.count).max() ?? 0
        extent.seconds = Int(faults.end / 1_000_000)
        extent.faults = faults.happened
        extent.commands = keptCommands
        extent.end = timeline.now
        return extent
    }

    var isTracing: Bool {
        if case .nothing = tracing { false } else { true }
    }

    func trace(_ who: @autoclosure () -> String, _ what: @autoclosure () -> String) {
        switch tracing {
        case .nothing: return
        case .newest(let count):
            recent.append(line(who(), what()))
            if recent.count > 2 * count { recent.removeFirst(recent.count - count) }
        case .everything(let tell): tell(line(who(), what()))
        }
    }

    private func line(_ who: String, _ what: String) -> String {
        let seconds = timeline.now / 1_000_000
        let digits = String(timeline.now % 1_000_000 + 1_000_000).dropFirst()
        return "\(seconds).\(digits) #\(timeline.stepCount) \(who): \(what)"
    }

    /// The newest lines, if they were kept.
    public var newestLines: [String] { recent }

    /// A logger for production code: into the trace, or nowhere.
    func logger(_ who: String) -> Logger {
        guard isTracing else {
            return Logger(label: who) { _ in SwiftLogNoOpLogHandler() }
        }
        return Logger(label: who) { [unowned self] _ in TraceLogHandler { self.trace(who, $0) } }
    }
}

/// Takes what production code logs into the trace.
struct TraceLogHandler: LogHandler {
    var metadata: Logger.Metadata = [:]
    var logLevel = Logger.Level.info
    // The world and everything in it belong to one thread.
    nonisolated(unsafe) let tell: (String) -> Void

    init(_ tell: @escaping (String) -> Void) { self.tell = tell }

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    func log(event: LogEvent) {
        let all = (event.metadata ?? [:]).sorted { $0.key < $1.key }
        tell("\(event.message)" + all.map { " \($0.key)=\($0.value)" }.joined())
    }
}

/// Which guests live where, in which sets and update domains.
struct FleetLayout {
    private var chance: Chance
    private let scenario: Scenario
    private let setCount: Int
    private let domainCounts: [Int]
    private let named: [Bool]

    init(hostCount: Int, _ scenario: Scenario, _ chance: Chance) {
        var chance = chance
        self.scenario = scenario
        setCount = max(1, hostCount / 3 + chance.below(2))
        domainCounts = (0..<setCount).map { _ in 2 + chance.below(3) }
        named = (0..<setCount).map { _ in chance.below(3) > 0 }
        self.chance = chance
    }

    private func set(_ index: Int) -> SetID { SetID(checked: "set\(index + 1)") }

    mutating func guests(of host: Int, at place: Place) -> [SimulatedGuest] {
        let drawn = Int(chance.within(scenario.profile.guestsPerHost))
        let count = scenario.guests ?? drawn
        return (1...count).map { number in
            let id = GuestID(checked: "h\(host)g" + (number < 10 ? "0\(number)" : "\(number)"))
            guard chance.below(5) > 0 else {
                return SimulatedGuest(id, set: nil, domain: nil, at: place)
            }
            let index = chance.below(setCount)
            // Mostly one update domain a host, so that it can be held whole.
            let number = chance.below(6) > 0 ? host : chance.below(domainCounts[index])
            let domain =
                named[index] ? UpdateDomain(number % domainCounts[index]) : nil
            return SimulatedGuest(id, set: set(index), domain: domain, at: place)
        }
    }

    func definitions(of guests: [SimulatedGuest]) -> [SetDefinition] {
        (0..<setCount).filter { index in guests.contains { $0.set == set(index) } }.map {
            SetDefinition(id: set($0), updateDomainCount: domainCounts[$0])
        }.sorted { $0.id < $1.id }
    }
}
