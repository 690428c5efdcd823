// What goes wrong, biased to hurt: most of it happens to somebody who holds guests, leads, or has just been
// granted something.
//
// Every fault comes out of the seed and ends by itself; after `end` there is no new one, everything that is
// cut, stopped, full or without power comes back, and the run then waits until all is quiet.

import AgentCore
import Fleet

final class Faults {
    enum Role {
        case agent(SimulatedHost)
        case `guard`(SimulatedHost)
        case server(ServerSeat)
        case notifier
    }

    private unowned let world: World
    private var chance: Chance
    private let profile: Profile
    /// No new fault after this moment.
    private(set) var end: Int64
    private(set) var isOver = false
    /// What has to be undone at the end, by number, so that it is done in order.
    private var toMend: [(number: Int, body: () -> Void)] = []
    private var lastNumber = 0
    /// When something was hindered, in the run's own time; of a death, until it can have an effect no more.
    private typealias Span = (from: Int64, to: Int64)
    /// Of each host, when its agent and its guard were hindered.
    private var hindered: [HostID: (agent: [Span], guard: [Span])] = [:]
    /// Guests of which a QEMU was killed; only looked up.
    private var killedOf: Set<GuestID> = []
    /// Of all that came up: those that happened, and those that the scenario leaves out.
    private var numberOfFaults = 0
    private(set) var happened: [Int] = []
    private var hangs: [GuestID: [Span]] = [:]

    init(_ world: World, _ profile: Profile, end: Int64, _ chance: Chance) {
        self.world = world
        self.profile = profile
        self.end = end
        self.chance = chance
    }

    private var now: Int64 { world.timeline.now }

    func start() {
        planNext()
        world.timeline.after(end - now) { [self] in stop() }
    }

    private func planNext() {
        guard profile.faultMilliseconds > 0 else { return }
        let pause = chance.within(0...(2 * profile.faultMilliseconds * 1_000))
        world.timeline.after(pause) { [self] in
            guard !isOver else { return }
            strike()
            planNext()
        }
    }

    private func stop() {
        isOver = true
        world.trace("faults", "are over")
        let bodies = toMend.sorted { $0.number < $1.number }
        toMend = []
        for (_, body) in bodies { body() }
        world.mendAll()
    }

    /// Numbers, counts and tells a fault.
    ///
    /// - Returns: false if the scenario leaves it out. All that it needs is drawn by then, so that
    ///   what follows is drawn as ever.
    func happens(_ what: @autoclosure () -> String) -> Bool {
        numberOfFaults += 1
        let number = numberOfFaults
        guard world.scenario.faults.contains(number) else {
            world.trace("fault", "\(number) left out: \(what())")
            return false
        }
        happened.append(number)
        world.counts.faults += 1
        world.trace("fault", "\(number): \(what())")
        return true
    }

    /// The same, and sees to its end.
    private func begin(
        _ what: String, for duration: Int64? = nil, mend: (() -> Void)? = nil
    ) -> Bool {
        guard happens(what) else { return false }
        guard let duration, let mend else { return true }
        lastNumber += 1
        let number = lastNumber
        toMend.append((number, mend))
        world.timeline.after(duration) { [self] in
            guard let index = toMend.firstIndex(where: { $0.number == number }) else { return }
            let body = toMend.remove(at: index).body
            world.trace("mended", what)
            body()
        }
        return true
    }

    private func duration(_ shortest: Int64, _ doublings: Int) -> Int64 {
        chance.longTailed(shortest * 1_000, doublings: doublings)
    }

    // MARK: By themselves

    private func strike() {
        switch chance.below(20) {
        case 0, 1, 2: killServer()
        case 3: freezeServer()
        case 4, 5: cutServer()
        case 6: cutHost()
        case 7: etcdTrouble()
        case 8: losePower()
        case 9, 10: killAgent()
        case 11: freezeAgent()
        case 12: freezeGuard()
        case 13: hangQEMU()
        case 14: killQEMU()
        case 15: stepClock()
        case 16: fillDisk()
        case 17: notifierTrouble()
        case 18: slowNetwork()
        default: killBoth()
        }
    }

    /// One that holds, or is about to, if there is one.
    private func victim() -> SimulatedHost {
        let busy = world.hosts.filter { world.truth.state.active[$0.id] != nil }
        return !busy.isEmpty && chance.below(4) > 0 ? chance.pick(busy) : chance.pick(world.hosts)
    }

    private func seat() -> ServerSeat {
        if let leader = world.servers.first(where: { $0.isLeading }), chance.below(3) > 0 {
            return leader
        }
        return chance.pick(world.servers)
    }

    private func killServer() {
        let seat = seat()
        let delay = duration(200, 6)
        guard begin("server \(seat.name) is killed") else { return }
        seat.kill(restartAfter: delay)
    }

    private func freezeServer() {
        guard let process = seat().process else { return }
        freeze(process, "server \(process.place.name) is stopped", for: duration(1_000, 5))
    }

    private func freeze(
        _ process: SimulatedProcess, _ what: String, for duration: Int64,
        _ before: () -> Void = {}
    ) {
        guard begin(what, for: duration, mend: { process.thaw() }) else { return }
        before()
        process.freeze()
    }

    private func cutServer() {
        let seat = seat()
        let others: [Place]
        switch chance.below(4) {
        case 0: others = world.hosts.map(\.place)
        case 1: others = world.servers.map(\.place).filter { $0 !== seat.place }
        case 2: others = [world.etcdPlace]
        default: others = world.allPlaces.filter { $0 !== seat.place }
        }
        cut(seat.place, others, "server \(seat.name)", for: duration(500, 6))
    }

    private func cutHost() {
        let host = victim()
        cut(
            host.place, world.servers.map(\.place), "host \(host.id)", for: duration(500, 6))
    }

    private func cut(_ place: Place, _ others: [Place], _ what: String, for duration: Int64) {
        let there = chance.below(4) > 0
        let back = !there || chance.below(3) > 0
        let ways = (there ? "from" : "") + (back ? "to" : "")
        let isDone = begin(
            "\(what) is cut off (\(ways)) from \(others.count)", for: duration
        ) { [world] in
            for other in others {
                if there { world.network.heal(place, other) }
                if back { world.network.heal(other, place) }
            }
        }
        guard isDone else { return }
        for other in others {
            if there { world.network.cut(place, other) }
            if back { world.network.cut(other, place) }
        }
    }

    private func etcdTrouble() {
        let kind = chance.below(4)
        let names = ["has no quorum", "is full", "is slow", "loses answers"]
        let isDone = begin("the log's store \(names[kind])", for: duration(1_000, 5)) { [world] in
            world.store.trouble = .none
        }
        guard isDone else { return }
        world.store.trouble = [.noQuorum, .full, .slow, .losesAnswers][kind]
    }

    private func losePower() {
        let host = victim()
        guard host.place.isUp else { return }
        let isDone = begin("host \(host.id) loses power", for: duration(5_000, 4)) {
            host.restorePower()
        }
        if isDone { host.losePower() }
    }

    private func killAgent() {
        let host = victim()
        guard let agent = host.agent else { return }
        guard begin("the agent of \(host.id) is killed") else { return }
        hinder(host, agent: true)
        agent.process.kill()
    }

    private func freezeAgent() {
        let host = victim()
        guard let process = host.agent?.process else { return }
        let duration = duration(500, 6)
        freeze(process, "the agent of \(host.id) is stopped", for: duration) {
            [self] in hinder(host, agent: true, for: duration)
        }
    }

    private func freezeGuard() {
        let host = victim()
        guard let process = host.guardProcess?.process else { return }
        let duration = duration(500, 6)
        freeze(process, "the guard of \(host.id) is stopped", for: duration) {
            [self] in hinder(host, guard: true, for: duration)
        }
    }

    private func killBoth() {
        let host = victim()
        guard let agent = host.agent else { return }
        guard begin("agent and guard of \(host.id) are killed") else { return }
        hinder(host, agent: true, guard: true)
        host.guardProcess?.process.kill()
        agent.process.kill()
    }

    private func hangQEMU() {
        guard let qemu = someQEMU() else { return }
        let duration = duration(200, 6)
        let isDone = begin("a QEMU of \(qemu.guest.id) hangs", for: duration) { qemu.goOn() }
        guard isDone else { return }
        hangs[qemu.guest.id, default: []].append((now, now + duration))
        qemu.hang()
    }

    private func killQEMU() {
        guard chance.oneIn(2), let qemu = someQEMU() else { return }
        guard begin("QEMU \(qemu.generation) of \(qemu.guest.id) dies") else { return }
        killedOf.insert(qemu.guest.id)
        qemu.kill()
    }

    private func someQEMU() -> SimulatedQEMU? {
        let processes = victim().guests.flatMap(\.processes).filter(\.isAlive)
        return processes.isEmpty ? nil : chance.pick(processes)
    }

    private func stepClock() {
        let place = chance.pick(world.allPlaces)
        let offset = chance.within(-3_600_000_000...3_600_000_000)
        guard begin("the clock of \(place.name) is set by \(offset / 1_000_000) s") else { return }
        place.wallOffset += offset
        world.clockWasSet(place)
    }

    private func fillDisk() {
        let host = victim()
        let isDone = begin("the disk of \(host.id) is full", for: duration(1_000, 5)) {
            host.disk.isFull = false
        }
        if isDone { host.disk.isFull = true }
    }

    private func notifierTrouble() {
        let delay = duration(200, 6)
        guard begin("the notifier is killed") else { return }
        world.notifier.kill(restartAfter: delay)
    }

    private func slowNetwork() {
        let network = world.network
        let isDone = begin("the network is slow", for: duration(500, 5)) {
            network.delayDoublings = 3
        }
        if isDone { network.delayDoublings = 12 }
    }

    // MARK: At the worst moment

    /// A grant is durable, and its directive is not sent yet.
    func granted() {
        guard !isOver, profile.edgeOdds > 0, chance.oneIn(12),
            let leader = world.servers.first(where: { $0.isLeading })
        else { return }
        switch chance.below(3) {
        case 0:
            let delay = duration(200, 6)
            guard begin("server \(leader.name) dies with a grant") else { return }
            leader.kill(restartAfter: delay)
        case 1:
            cut(
                leader.place, world.hosts.map(\.place), "server \(leader.name), after a grant,",
                for: duration(500, 6))
        default:
            cut(
                leader.place, world.allPlaces.filter { $0 !== leader.place },
                "server \(leader.name), after a grant,", for: duration(500, 6))
        }
    }

    /// Sets up a process to be hindered at one of its edges.
    func watch(_ process: SimulatedProcess, _ role: Role) {
        guard profile.edgeOdds > 0 else { return }
        process.atEdge = { [unowned self, unowned process] edge in
            guard !isOver else { return }
            strike(process, role, edge)
        }
    }

    private func strike(_ process: SimulatedProcess, _ role: Role, _ edge: String) {
        switch role {
        case .agent(let host), .guard(let host):
            let isBusy = host.agent?.isInStep == true
            guard chance.oneIn(isBusy ? profile.edgeOdds : profile.edgeOdds * 40) else { return }
            let isAgent = if case .agent = role { true } else { false }
            hit(process, isAgent ? "the agent of \(host.id)" : "the guard of \(host.id)", edge) {
                [self] in hinder(host, agent: isAgent, guard: !isAgent, for: $0)
            }
            if isAgent, !process.isAlive, isBusy { leaveAlone(host) }
        case .server(let seat):
            guard chance.oneIn(profile.edgeOdds * 60) else { return }
            let delay = duration(200, 6)
            guard begin("server \(seat.name) dies at \(edge)") else { return }
            seat.kill(restartAfter: delay)
        case .notifier:
            guard chance.oneIn(profile.edgeOdds * 4) else { return }
            let delay = duration(200, 6)
            guard begin("the notifier dies at \(edge)") else { return }
            world.notifier.kill(restartAfter: delay)
        }
    }

    private func hit(
        _ process: SimulatedProcess, _ what: String, _ edge: String,
        _ before: (_ duration: Int64) -> Void
    ) {
        if chance.below(4) > 0 {
            guard begin("\(what) dies at \(edge)") else { return }
            before(0)
            process.kill()
        } else {
            let duration = duration(500, 6)
            freeze(process, "\(what) is stopped at \(edge)", for: duration) { before(duration) }
        }
    }

    /// Its agent has died in a step: the guard goes with it, or has to do without it.
    private func leaveAlone(_ host: SimulatedHost) {
        guard profile.aloneOdds > 0, let process = host.guardProcess?.process else { return }
        if chance.oneIn(profile.aloneOdds) {
            let delay = chance.within(0...20_000)
            guard begin("the guard of \(host.id) dies with its agent") else { return }
            world.timeline.after(delay) { [self] in
                guard process.isAlive else { return }
                hinder(host, guard: true)
                process.kill()
            }
        } else if !process.isFrozen, chance.oneIn(profile.aloneOdds) {
            let delay = chance.within(60_000_000...120_000_000)
            guard begin("the agent of \(host.id) does not come back") else { return }
            host.stayAway(for: delay)
        }
    }

    /// How long a killed QEMU lingers with its locks, if that is long: what it had takes its time to go. No
    /// longer than a guard that goes ahead without waiting for it can wait yet.
    func lingers(_ directive: Directive) -> Int64? {
        guard !isOver, profile.aloneOdds > 0, directive.deadlineMilliseconds >= 5_000,
            chance.oneIn(profile.aloneOdds)
        else { return nil }
        let duration = chance.within(260_000...450_000)
        return begin("a killed QEMU lingers") ? duration : nil
    }

    /// - Parameter duration: how long it stands still; 0 for a death.
    private func hinder(
        _ host: SimulatedHost, agent: Bool = false, `guard`: Bool = false, for duration: Int64 = 0
    ) {
        if agent {
            // A dead one is started again.
            let span = max(duration, SimulatedHost.restartDelay.upperBound)
            hindered[host.id, default: ([], [])].agent.append((now, now + span))
        }
        guard `guard` else { return }
        hindered[host.id, default: ([], [])].guard.append((now, now + duration))
        // Where nobody is left for long, nobody has promised anything.
        host.comeBack()
    }

    func hinderedGuard(_ host: HostID, since: Int64) -> Bool {
        hindered[host]?.guard.contains { $0.from >= since } == true
    }

    /// Agent and guard of this host, both at some time between these moments.
    func hinderedBoth(_ host: HostID, from: Int64, to: Int64) -> Bool {
        guard let (agent, `guard`) = hindered[host] else { return false }
        return Self.any(of: agent, from: from, to: to) && Self.any(of: `guard`, from: from, to: to)
    }

    private static func any(of spans: [Span], from: Int64, to: Int64) -> Bool {
        spans.contains { from <= $0.to && $0.from <= to }
    }

    /// Agent, guard or a QEMU was hindered in it, or shortly before or after.
    func hasDisturbed(_ hold: TrueHold) -> Bool {
        let (from, to) = (hold.began - 1_000_000, (hold.ended ?? now) + 1_000_000)
        let (agent, `guard`) = hindered[hold.host] ?? ([], [])
        return [agent, `guard`, hangs[hold.guest] ?? []].contains {
            Self.any(of: $0, from: from, to: to)
        } || killedOf.contains(hold.guest)
    }

    // MARK: Fates

    /// How the next hand-over goes.
    func handOverFate() -> HandOverFate {
        let after = chance.longTailed(10_000, doublings: 4)
        guard !isOver, profile.edgeOdds > 0 else { return .completes(after: after) }
        let fate: HandOverFate
        switch chance.below(16) {
        case 0: fate = .fails(after: after)
        case 1: fate = .splits(after: after)
        case 2: fate = .hangs
        case 3: fate = .completes(after: chance.longTailed(500_000, doublings: 6))
        default: return .completes(after: after)
        }
        return happens("a hand-over \(fate)") ? fate : .completes(after: after)
    }

    /// True once in `count`, while faults happen.
    func happens(oneIn count: Int) -> Bool {
        guard !isOver, profile.edgeOdds > 0 else { return false }
        return chance.oneIn(count) && happens("something small fails")
    }

    func takes(_ shortest: Int64, doublings: Int) -> Int64 {
        chance.longTailed(shortest, doublings: isOver ? 2 : doublings)
    }

    func hasKilledQEMU(of guest: GuestID) -> Bool { killedOf.contains(guest) }

    /// How much longer than its deadline a guest may be held because of what was done to it: only a
    /// QEMU that did not answer, and an agent and a guard that were both hindered, are an excuse.
    /// Each counts only if it was so in this hold.
    func excuse(for hold: TrueHold) -> Int64 {
        let began = hold.began - 1_000_000
        let hung = (hangs[hold.guest] ?? []).filter { $0.to >= began }
            .reduce(0) { $0 + $1.to - max($1.from, began) + 3_000_000 }
        let isAlone = hinderedBoth(hold.host, from: began, to: now)
        return max(hung, isAlone ? 45_000_000 : 0)
    }
}
