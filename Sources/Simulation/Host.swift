// A host as it really is: its guests, what its disk and its run directory hold, and who is at work on it. Whoever
// supervises the agent starts it again, as systemd would.

import AgentCore
import Fleet

/// What survives an agent's death, and a loss of power too.
struct AgentDisk {
    var records = AgentRecords()
    var installed: [InstalledSoftware] = []
    var parts = MeasuredParts()
    var hypervisors: [GuestID: String] = [:]
    /// Nothing can be written.
    var isFull = false
}

/// What survives an agent's death and is gone after a loss of power: the run directory.
struct RunDirectory {
    var step: StepID?
    var token: Token?
    var notes: [HoldNote] = []
    var guardNotes: [HoldNote] = []
    /// Guests that were started since the host began: none is ever started twice.
    var started: [GuestID] = []
    /// The generation that each guest was last left with.
    var current: [GuestID: Int] = [:]

    mutating func begin(_ step: StepID, _ token: Token) {
        (self.step, self.token) = (step, token)
        notes = []
        guardNotes = []
    }

    func read(_ step: StepID, _ token: Token) -> [HoldNote] {
        self.step == step && self.token == token ? notes + guardNotes : []
    }
}

final class SimulatedHost {
    let id: HostID
    let place: Place
    let guests: [SimulatedGuest]
    let definitions: [SetDefinition]
    var disk = AgentDisk()
    var run = RunDirectory()
    private(set) var agent: AgentProcess?
    private(set) var guardProcess: GuardProcess?
    private var chance: Chance
    unowned let world: World
    /// Its power was lost, or its QEMUs died by a fault: guests may begin from nothing.
    var mayRestartGuests = false
    /// A command of a release that runs.
    var command: SimulatedCommand?
    /// How long the supervisor takes, in microseconds.
    static let restartDelay: ClosedRange<Int64> = 100_000...1_500_000
    /// Until then the supervisor has given up.
    private var awayUntil: Int64?
    /// When an agent told its guard last that a guest, or the step, is over.
    var releasedAt: Int64 = 0

    init(
        _ id: HostID, at place: Place, guests: [SimulatedGuest], definitions: [SetDefinition],
        world: World, _ chance: Chance
    ) {
        self.id = id
        self.place = place
        self.guests = guests
        self.definitions = definitions
        self.world = world
        self.chance = chance
        for guest in guests {
            guest.onChange = { [unowned self] guest, change in
                self.world.truth.guestChanged(guest, change, on: self)
                agent?.guestChanged(guest)
            }
        }
    }

    func guest(_ id: GuestID) -> SimulatedGuest? { guests.first { $0.id == id } }

    // MARK: Processes

    func startAgent() {
        guard place.isUp, agent?.process.isAlive != true else { return }
        let process = SimulatedProcess("agent", at: place)
        let agent = AgentProcess(self, process, world: world, chance.fork())
        self.agent = agent
        world.faults.watch(process, .agent(self))
        process.whenItDies { [unowned self, unowned process] isOrderly in
            if let agent = self.agent, agent.process === process {
                self.agent = nil
                // It may be in the middle of a callback.
                place.timeline.after(0) { agent.letGo() }
            }
            if isOrderly { supervise() }
        }
        agent.start()
    }

    private func supervise() {
        place.timeline.after(chance.within(Self.restartDelay)) { [self] in
            if awayUntil == nil { startAgent() }
        }
    }

    /// Its agent has just died: the supervisor starts none before this is over.
    func stayAway(for duration: Int64) {
        let end = place.timeline.now + duration
        awayUntil = end
        place.timeline.after(duration) { [self] in if awayUntil == end { comeBack() } }
    }

    func comeBack() {
        guard awayUntil != nil else { return }
        awayUntil = nil
        supervise()
    }

    func guardBegan(_ process: GuardProcess) {
        guardProcess = process
        world.faults.watch(process.process, .guard(self))
    }

    func guardEnded(_ process: GuardProcess) {
        if guardProcess === process { guardProcess = nil }
    }

    func guardFinished(_ wasDisarmed: Bool) { if !wasDisarmed { world.counts.guardActions += 1 } }

    func killCommand() { command?.kill() }

    /// None of its guests is between the guard's `holding` and `released`.
    var holdsNobody: Bool { agent?.runner?.machine.heldGuests.isEmpty ?? true }

    // MARK: Power

    func losePower() {
        guard place.isUp else { return }
        world.truth.powerLost(self)
        place.lose()
        agent = nil
        guardProcess = nil
        command = nil
        awayUntil = nil
        for guest in guests { for qemu in guest.processes { qemu.vanish() } }
        run = RunDirectory()
        mayRestartGuests = true
    }

    func takeApart() {
        agent?.process.kill()
        agent?.letGo()
        agent = nil
        guardProcess = nil
        for guest in guests {
            guest.onChange = { _, _ in }
            for qemu in guest.processes { qemu.vanish() }
        }
    }

    func restorePower() {
        guard !place.isUp else { return }
        place.boot()
        startAgent()
    }

    var bootID: String { "\(place.name)-boot-\(place.bootNumber)" }
}

/// A command of a release: runs for a while, and ends well or not.
final class SimulatedCommand {
    let kind: CommandKind
    private var completion: ((String?) -> Void)?

    /// - Parameter completion: called once in a turn of `process`, unless that dies: nil if it ended well.
    init(
        _ kind: CommandKind, for duration: Int64?, problem: String?, limit: Int64,
        _ process: SimulatedProcess, _ completion: @escaping (String?) -> Void
    ) {
        self.kind = kind
        self.completion = completion
        if let duration { process.run(after: duration) { [self] in end(problem) } }
        process.run(after: limit) { [self] in end("it was killed at its limit") }
    }

    func kill() { end("it was cut short") }

    private func end(_ problem: String?) {
        let body = completion
        completion = nil
        body?(problem)
    }
}
