// What is really so, and whether it may be: the invariants of design.md, each checked when something happens
// that could break it.
//
//   1 one update domain   a guest is stopped by a step; the log locks or unlocks a set
//   2 deadline            a hold reaches its deadline
//   3 one runner          a process begins to execute a guest
//   4 memory intact       a process goes on with a device state; a guest begins from nothing
//   5 fencing             an agent keeps a token; an agent begins a step
//   6 annotations         at the end: one for each hold that there was, and no other
//   7 nothing lost        at the end, and when the log grows: what operators were told is in it
//   8 clock               a hold is confirmed
//   and: servers at one index have one state; locks and directives agree.
//
// The log itself is folded here by a coordinator of its own, as soon as a record is durable in the store:
// what servers believe is compared with that.

import AgentCore
import Coordination
import Fleet
import LeaderCore
import LogCore

/// Something that must never be, with its name in design.md.
public struct Violation: Error, Hashable, Sendable {
    public enum Kind: String, Sendable { case safety, liveness, crash }
    public var kind: Kind
    public var invariant: String
    public var text: String
}

/// A time in which a guest did not execute because a step had stopped it.
struct TrueHold {
    var guest: GuestID
    var host: HostID
    var step: StepID
    /// On the host's wall clock and hold clock.
    var heldAt: Timestamp
    var since: Int64
    /// Nil while it lasts, or if it never ended.
    var length: Int64?
    /// Its notes went with its host's power.
    var isForgotten = false
    /// A restarted agent found the guest as it stood still.
    var isFound = false
    /// Its host's wall clock was set meanwhile: nobody can say when it began.
    var isTimeless = false
    /// In the run's own time.
    var began: Int64
    var ended: Int64?
}

final class Truth {
    unowned let world: World
    /// The log, folded.
    private(set) var coordinator = Coordinator()
    private var recent = RecentStates()
    private(set) var violations: [Violation] = []
    private(set) var holds: [TrueHold] = []
    /// Index in `holds` of each guest that is held.
    private(set) var current: [GuestID: Int] = [:]
    private var hostOfStep: [HostID: Directive] = [:]
    /// The highest token with which each host's agent began anything, and the highest it kept.
    private var begun: [HostID: Token] = [:]
    private var kept: [HostID: Token] = [:]
    /// Steps that held the lock of a set when an operator opened it by name: that they are out of their
    /// holds is for him to know, until they end. Only looked up.
    private var givenUp: [SetID: Set<StepID>] = [:]
    /// When a step was seen to have been passed as often as may be; only looked up.
    private var agedAt: [StepID: Timestamp] = [:]
    /// Guests that were found not to be well after their newest hold.
    private var unhealthy: [(guest: GuestID, step: StepID, token: Token)] = []
    /// The highest index that any operator was told.
    private(set) var toldIndex: UInt64 = 0
    private var notices = TrueNotices()
    /// What operators were told.
    private(set) var accepted: [Accepted] = []

    enum Accepted {
        case release(ReleaseID)
        case rollout(RolloutID)
        case aborted(RolloutID)
        case index(UInt64)
    }
    /// Guests that a step had when their host lost power, or that it left without having seen to them: with
    /// the step. They are out until they execute, or until an operator has seen to their set.
    private var missing: [GuestID: StepID] = [:]
    /// Guests that executed when that step of theirs was over, or after, though its report may still be on
    /// its way: who is out again by then is so because of what happened after the step.
    private var cameBack: [GuestID: StepID] = [:]

    init(_ world: World) { self.world = world }

    var state: FleetState { coordinator.state }

    func violate(_ invariant: String, _ text: String, kind: Violation.Kind = .safety) {
        guard violations.count < 20 else { return }
        violations.append(Violation(kind: kind, invariant: invariant, text: text))
        world.trace("VIOLATION", "\(invariant): \(text)")
    }

    // MARK: The log

    /// Records that are durable from this moment on.
    func committed(_ records: [[UInt8]], firstIndex: UInt64) {
        guard firstIndex == state.index + 1 else {
            return violate(
                "fencing", "the log got record \(firstIndex) after record \(state.index)")
        }
        for record in records {
            do {
                let fact = try FactRecord.decode(record)
                world.trace("log", "\(state.index + 1): \(brief(fact))")
                before(fact)
                coordinator.apply(fact)
                if comparesServers(at: state.index) { recent.keep(state) }
                world.counts.facts += 1
                after(fact)
            } catch { violate("nothing lost", "a record cannot be read: \(error)") }
        }
        if world.checksEverything || state.index % 256 < UInt64(records.count) { checkState() }
    }

    /// Of large clusters only now and then: copies of a state cost something.
    func comparesServers(at index: UInt64) -> Bool { world.checksEverything || index % 16 == 0 }

    func checkState() {
        for problem in coordinator.brokenInvariants() { violate("coordinator", problem) }
    }

    private func before(_ fact: Fact) {
        for problem in notices.problems(of: fact, state) { violate("notices", problem) }
        switch fact.body {
        case .stepGranted(let id, _):
            checkFailures(id)
            checkDoor(id, fact.at)
            checkHeldBack(id)
        case .stepFinished(let report) where report.outcome.releasesLocks:
            // Its locks go: every guest must be out of its hold.
            for guest in state.step(report.step)?.plan.guests ?? [] where current[guest] != nil {
                violate(
                    "one update domain at a time",
                    "\(report.step) is over and its locks go, but guest \(guest) is held")
            }
            checkHealth(report)
        case .strayReported(let report, _):
            for set in givenUp.keys { givenUp[set]?.remove(report.step) }
        case .lockReleased(let set, _, _):
            checkOpened(set)
            for guest in state.sets[set]?.members.keys.map({ $0 }) ?? [] {
                missing.removeValue(forKey: guest)
            }
            givenUp[set, default: []].formUnion(state.locks[set]?.holders.map(\.step) ?? [])
        default: break
        }
    }

    /// Whoever opens a set by hand may be wrong about a host that he believes dead; the leader may not.
    private func checkOpened(_ set: SetID) {
        for holder in state.locks[set]?.holders ?? [] where !holder.stuck {
            guard let plan = state.step(holder.step)?.plan, let host = world.host(plan.host),
                host.place.isUp, let guest = plan.guests.first(where: isHeld),
                let number = current[guest], world.faults.excuse(for: holds[number]) == 0
            else { continue }
            violate(
                "one update domain at a time",
                "set \(set) was opened by hand while guest \(guest) is held by \(holder.step)")
        }
    }

    private func after(_ fact: Fact) {
        notices.forgetCancelled(state)
        switch fact.body {
        case .stepGranted(let id, _):
            world.counts.grants += 1
            if let plan = state.step(id)?.plan { checkGrant(id, plan) }
            for step in state.rollouts[id.rollout]?.steps ?? StepList()
            where step.bypassed >= Limits.bypassMax && agedAt[step.id] == nil {
                agedAt[step.id] = fact.at
            }
            world.faults.granted()
        case .termStarted: world.counts.takeovers += 1
        case .stepFinished(let report) where report.outcome.releasesLocks: noteMissing(report)
        case .stepFinished(let report) where !report.outcome.releasesLocks:
            // The sets stay as they are until somebody has seen to the guests.
            for pair in state.step(report.step)?.plan.pairs ?? []
            where state.locks[pair.set]?.holders.contains(where: { $0.step == report.step }) != true
            {
                violate(
                    "one update domain at a time",
                    "\(report.step) is \(report.outcome) and its lock of \(pair) has gone")
            }
        default: break
        }
    }

    /// Nothing starts in a rollout that is paused, nor on a host that is cordoned.
    private func checkHeldBack(_ id: StepID) {
        if state.rollouts[id.rollout]?.state == .paused {
            violate("a rollout stops", "\(id) was granted while \(id.rollout) is paused")
        }
        if let host = state.step(id)?.plan.host, state.hosts[host]?.cordon != nil {
            violate("a rollout stops", "\(id) was granted on host \(host), which is cordoned")
        }
    }

    /// A rollout goes no further after as many failures as it may have.
    private func checkFailures(_ id: StepID) {
        guard let rollout = state.rollouts[id.rollout],
            rollout.policy.failuresMax
                <= UInt32(rollout.steps.count(where: { $0.outcome.isFailure }))
        else { return }
        violate("a rollout stops", "\(id) was granted after as many failures as may be")
    }

    /// A step that has been passed often enough is not passed again, if it could start but for others;
    /// except by those whose guests were told before.
    private func checkDoor(_ id: StepID, _ at: Timestamp) {
        guard let granted = state.step(id), let rollout = state.rollouts[id.rollout],
            granted.bypassed < Limits.bypassMax, granted.notice == nil
        else { return }
        for step in rollout.steps where step.status == .waiting && step.bypassed >= Limits.bypassMax
        {
            let isAgainst = step.plan.pairs.contains { pair in
                granted.plan.pairs.contains {
                    $0.set == pair.set && $0.updateDomain != pair.updateDomain
                }
            }
            guard isAgainst, step.id != id else { continue }
            // Those of one round are granted together.
            guard agedAt[step.id] != at, couldStart(step) else { continue }
            violate(
                "nobody starves",
                "\(id) passes \(step.id), which \(step.bypassed) others have passed before")
        }
    }

    /// But for locks, and for others on its host and of its rollout.
    private func couldStart(_ step: StepRecord) -> Bool {
        let areRunning = step.plan.guests.allSatisfy {
            state.guests[$0]?.report.state == .running && state.guests[$0]?.host == step.plan.host
        }
        guard areRunning, state.hosts[step.plan.host]?.cordon == nil,
            !state.guests.values.contains(where: { guest in
                step.plan.pairs.contains {
                    isUnwell(guest, outside: $0)
                        || guest.missingSince != nil && isOther(guest, than: $0)
                }
            })
        else { return false }
        return world.servers.contains {
            $0.name == state.leader && $0.hasSession(of: step.plan.host)
        }
            && world.host(step.plan.host)?.agent?.isLongReady == true
    }

    private func isUnwell(_ guest: GuestRecord, outside pair: SetPair) -> Bool {
        isOther(guest, than: pair) && guest.report.state != .running
            && guest.report.state != .stopped
    }

    /// Of another update domain of the same set.
    private func isOther(_ guest: GuestRecord, than pair: SetPair) -> Bool {
        guard let own = guest.pair else { return false }
        return own.set == pair.set && own.updateDomain != pair.updateDomain
    }

    /// Whoever is not well after a hold keeps its set closed.
    private func checkHealth(_ report: StepReport) {
        for hold in report.holds where !hold.outcome.releasesLocks {
            violate(
                "one update domain at a time",
                "\(report.step) is \(report.outcome), but guest \(hold.guest) is \(hold.outcome)")
        }
        for guest in unhealthy.filter({ $0.step == report.step && $0.token == report.token }) {
            violate(
                "one update domain at a time",
                "\(report.step) is \(report.outcome), but guest \(guest.guest) does not answer")
        }
    }

    /// What was found out about a guest right after its hold.
    func confirmed(_ guest: GuestID, isHealthy: Bool, in directive: Directive) {
        unhealthy.removeAll { $0.guest == guest }
        if !isHealthy { unhealthy.append((guest, directive.step, directive.token)) }
    }

    /// Whoever does not execute when its step is over, and has not been seen well, is not there yet. If it
    /// is on record as running, its host fell silent after the step.
    private func noteMissing(_ report: StepReport) {
        guard let plan = state.step(report.step)?.plan, let host = world.host(plan.host),
            // One that its agent has refused has touched nobody.
            let kept = kept[host.id], kept >= report.token
        else { return }
        for guest in host.guests
        where plan.guests.contains(guest.id) && !guest.isExecuting
            && cameBack[guest.id] != report.step
            && state.guests[guest.id]?.report.state != .running
            && !report.holds.contains(where: { $0.guest == guest.id })
        {
            missing[guest.id] = report.step
        }
    }

    /// An agent is done with a step, and is about to say so.
    func stepEnds(_ step: StepID, on host: SimulatedHost) {
        for guest in host.guests where guest.isExecuting { cameBack[guest.id] = step }
    }

    /// Nobody of another update domain of its sets may be out.
    private func checkGrant(_ id: StepID, _ plan: PlannedStep) {
        for pair in plan.pairs {
            for (guest, step) in missing.sorted(by: { $0.key < $1.key }) {
                guard let record = state.guests[guest], isOther(record, than: pair)
                else { continue }
                violate(
                    "one update domain at a time",
                    "\(id) was granted \(pair) while guest \(guest) of the set has not executed "
                        + "since \(step)")
            }
            for guest in state.guests.values where isUnwell(guest, outside: pair) {
                violate(
                    "one update domain at a time",
                    "\(id) was granted \(pair) while guest \(guest.report.id) of the set is "
                        + "\(guest.report.state)")
            }
            for (guest, own, step) in held(outside: pair) {
                violate(
                    "one update domain at a time",
                    "\(id) was granted \(pair) while guest \(guest) of \(own) is held by \(step)")
            }
        }
    }

    /// Who is held of the other update domains of a set, and by which step, but for steps that an operator
    /// has given up.
    private func held(outside pair: SetPair) -> [(guest: GuestID, pair: SetPair, step: StepID)] {
        current.sorted { $0.key < $1.key }.compactMap { guest, index in
            guard let own = state.guests[guest]?.pair, own.set == pair.set,
                own.updateDomain != pair.updateDomain,
                givenUp[pair.set]?.contains(holds[index].step) != true
            else { return nil }
            return (guest, own, holds[index].step)
        }
    }

    /// A server has applied everything up to the state's index, wherever the log is by now.
    ///
    /// - Parameter mayBeAhead: of the log, by what it is appending.
    func compare(_ state: FleetState, of server: String, mayBeAhead: Bool = false) {
        let newest = coordinator.state.index
        guard state.index <= newest else {
            guard !mayBeAhead else { return }
            return violate(
                "servers agree",
                "\(server) is at index \(state.index), and the log ends with \(newest)")
        }
        if let known = recent.state(at: state.index), known != state {
            violate(
                "servers agree",
                "\(server) has another state at index \(state.index) of \(newest)")
        }
    }

    // MARK: Operators

    func operatorWasTold(_ accepted: Accepted) {
        self.accepted.append(accepted)
        if case .index(let index) = accepted { toldIndex = max(toldIndex, index) }
        check(accepted)
    }

    func check(_ accepted: Accepted) {
        switch accepted {
        case .release(let id):
            if state.releases[id] == nil { violate("nothing lost", "release \(id) is not there") }
        case .rollout(let id):
            if state.rollouts[id] == nil { violate("nothing lost", "\(id) is not there") }
        case .aborted(let id):
            if state.rollouts[id]?.state.isGoingOn == true {
                violate("nothing lost", "\(id) was aborted, and goes on")
            }
        case .index(let index):
            if state.index < index { violate("nothing lost", "record \(index) is not there") }
        }
    }

    /// Reads are linearizable: who asks after he was told has to see it.
    func operatorReads(index: UInt64, after told: UInt64) {
        if index < told {
            violate("linearizable reads", "a read shows index \(index), \(told) was acknowledged")
        }
    }

    // MARK: Notifiers

    /// Nobody is told of what a crash could take back.
    func notifierGets(upTo sequence: UInt64) {
        if sequence > state.lastSequence {
            violate(
                "nothing lost",
                "event \(sequence) was sent, and the log ends with \(state.lastSequence)")
        }
    }

    /// The log can be read and written, or it cannot be reached: what it says is never wrong.
    func serverEnds(_ server: String, _ error: LogStoreError) {
        if case .corrupt(_, let reason) = error {
            violate("nothing lost", "\(server) finds the log damaged: \(reason)")
        }
    }

    // MARK: Agents

    func agentKeeps(_ token: Token, on host: HostID) {
        if let known = kept[host], token < known {
            violate("fencing", "the agent of \(host) keeps token \(token) after \(known)")
        }
        kept[host] = token
    }

    func agentBegins(_ directive: Directive, on host: HostID) {
        if let known = begun[host], directive.token <= known {
            violate(
                "fencing",
                "the agent of \(host) begins \(directive.step) with token \(directive.token) "
                    + "after \(known)")
        }
        begun[host] = directive.token
        if directive.token.number >= state.nextToken {
            violate(
                "locks and directives agree",
                "\(host) begins \(directive.step) with token \(directive.token), which the log "
                    + "does not know")
        }
        if let keptToken = kept[host], keptToken < directive.token {
            violate(
                "fencing", "\(host) begins with token \(directive.token), which it has not kept")
        }
        hostOfStep[host] = directive
    }

    /// The host changes under its guests: none of those that the step holds may execute.
    func applies(_ directive: Directive, on host: SimulatedHost) {
        for guest in host.guests where guest.isExecuting && directive.guests.contains(guest.id) {
            violate(
                "memory intact",
                "guest \(guest.id) executes while \(directive.step) changes its host")
        }
    }

    /// What it is there for are agents that are dead, or hang with a guest in their hold.
    func guardKillsAgent(of host: SimulatedHost) {
        let now = world.timeline.now
        // One that stood still itself acts on what it knew.
        guard host.holdsNobody, now - host.releasedAt > 10_000,
            !world.faults.hinderedGuard(host.id, since: now - 60_000_000)
        else { return }
        violate("the guard waits", "the guard of \(host.id) kills an agent that holds nobody")
    }

    func agentFindsHeld(_ guest: GuestID) {
        if let number = current[guest] { holds[number].isFound = true }
    }

    // MARK: Guests

    func guestChanged(
        _ guest: SimulatedGuest, _ change: SimulatedGuest.Change, on host: SimulatedHost
    ) {
        world.trace(host.id.rawValue, "guest \(guest.id): \(change)")
        switch change {
        case .doubled: violate("one runner", "two processes execute guest \(guest.id)")
        case .unsettled:
            violate("one runner", "guest \(guest.id) is continued, and its other process lives")
        case .corrupted:
            violate("memory intact", "guest \(guest.id) goes on with a state of before")
        case .booted:
            missing.removeValue(forKey: guest.id)
            // An agent starts the guests of a step when that is over, not before.
            cameBack[guest.id] = hostOfStep[host.id]?.step
            if guest.bootCount > 1, !host.mayRestartGuests {
                violate("memory intact", "guest \(guest.id) was started from nothing")
            }
        case .stopped(.command): holdBegins(guest, host)
        case .stopped(.death), .answersOrNot: break
        case .gone:
            current.removeValue(forKey: guest.id)
            if !host.mayRestartGuests, !world.faults.hasKilledQEMU(of: guest.id) {
                violate("memory intact", "nothing is left of guest \(guest.id), without a fault")
            }
        case .resumed:
            missing.removeValue(forKey: guest.id)
            holdEnds(guest, host)
        }
    }

    private func holdBegins(_ guest: SimulatedGuest, _ host: SimulatedHost) {
        guard let directive = hostOfStep[host.id], directive.guests.contains(guest.id) else {
            return violate("locks and directives agree", "guest \(guest.id) is held by no step")
        }
        let number = holds.count
        holds.append(
            TrueHold(
                guest: guest.id, host: host.id, step: directive.step,
                heldAt: Timestamp(microseconds: host.place.wallMicroseconds),
                since: host.place.holdMicroseconds, began: world.timeline.now))
        current[guest.id] = number
        world.counts.holds += 1
        checkExclusion(guest, directive)
        checkDeadline(number, guest, host, directive, extra: 0)
    }

    private func checkExclusion(_ guest: SimulatedGuest, _ directive: Directive) {
        guard let set = guest.set, givenUp[set]?.contains(directive.step) != true else { return }
        guard let own = state.guests[guest.id]?.pair else { return }
        for (other, pair, step) in held(outside: SetPair(set: set, updateDomain: own.updateDomain))
        {
            violate(
                "one update domain at a time",
                "guest \(guest.id) of \(own) is held while guest \(other) of \(pair) is, since "
                    + "\(step)")
        }
        // A step that was given up by an operator has no lock any more.
        guard state.step(directive.step)?.status == .granted else { return }
        if state.locks[set]?.updateDomain != own.updateDomain {
            violate(
                "locks and directives agree",
                "guest \(guest.id) is held, and \(own) is not locked")
        }
    }

    private func checkDeadline(
        _ number: Int, _ guest: SimulatedGuest, _ host: SimulatedHost, _ directive: Directive,
        extra: Int64
    ) {
        let limit = Int64(directive.deadlineMilliseconds) * 1_000 + extra
        let left = holds[number].since + limit - host.place.holdMicroseconds
        host.place.timeline.after(host.place.real(max(0, left)) + 1_000) { [self] in
            guard current[guest.id] == number, holds[number].length == nil,
                guest.processes.contains(where: \.isWhole)
            else { return }
            let excuse = world.faults.excuse(for: holds[number])
            if excuse > extra {
                return checkDeadline(number, guest, host, directive, extra: excuse)
            }
            violate(
                "the deadline",
                "guest \(guest.id) is held for more than \(directive.deadlineMilliseconds) ms")
        }
    }

    private func holdEnds(_ guest: SimulatedGuest, _ host: SimulatedHost) {
        guard let number = current.removeValue(forKey: guest.id) else { return }
        let length = host.place.holdMicroseconds - holds[number].since
        holds[number].length = length
        holds[number].ended = world.timeline.now
        world.counts.longestHold = max(world.counts.longestHold, length)
    }

    func powerLost(_ host: SimulatedHost) {
        for guest in host.guests { current.removeValue(forKey: guest.id) }
        // They begin anew.
        unhealthy.removeAll { entry in host.guests.contains { $0.id == entry.guest } }
        // Of holds that are not yet reported the notes are gone.
        let kept = host.disk.records.reports
        // A step whose report is not durable is over once more after this.
        for guest in host.guests
        where !kept.contains(where: { $0.step == cameBack[guest.id] }) {
            cameBack.removeValue(forKey: guest.id)
        }
        for index in holds.indices
        where holds[index].host == host.id
            && (state.step(holds[index].step)?.status == .granted
                || host.disk.records.inFlight?.directive.step == holds[index].step)
            && !kept.contains(where: { $0.step == holds[index].step })
        {
            holds[index].isForgotten = true
        }
    }

    func clockWasSet(_ host: SimulatedHost) {
        for index in holds.indices
        where holds[index].host == host.id && state.step(holds[index].step)?.status == .granted {
            holds[index].isTimeless = true
        }
    }

    func isHeld(_ guest: GuestID) -> Bool { current[guest] != nil }
    var heldGuests: [GuestID] { current.keys.sorted() }
}

/// A fact in a few words, for a trace.
func brief(_ fact: Fact) -> String {
    switch fact.body {
    case .termStarted(let term, let server): "term \(term) of \(server)"
    case .hostReported(let report, _):
        "host \(report.host), token \(report.acceptedToken): "
            + report.guests.map { "\($0.id) \($0.state)" }.joined(separator: " ")
    case .releaseAdded(let release, _): "release \(release.id)"
    case .rolloutStarted(let started): "\(started.id) with \(started.steps.count) steps"
    case .rolloutAborted(let id, _, _): "\(id) aborted"
    case .stepNoticed(let id, let notBefore): "\(id) noticed for \(notBefore.microseconds)"
    case .noticeAcknowledged(let id, let guest): "\(id) acknowledged by \(guest)"
    case .noticeWithdrawn(let id, let reason): "notice of \(id) withdrawn: \(reason)"
    case .rolloutPaused(let id, _, _): "\(id) paused"
    case .rolloutResumed(let id, _, _): "\(id) resumed"
    case .hostCordoned(let host, _, _): "host \(host) cordoned"
    case .hostUncordoned(let host, _, _): "host \(host) uncordoned"
    case .stepGranted(let id, let token): "\(id) granted, token \(token)"
    case .stepRegranted(let id, let token): "\(id) granted again, token \(token)"
    case .stepCancelled(let id, let reason): "\(id) cancelled: \(reason)"
    case .stepFinished(let report):
        "\(report.step) \(report.outcome) \(report.reason) with \(report.holds.count) holds"
    case .strayReported(let report, let host): "\(report.step) stray from \(host)"
    case .lockReleased(let set, _, _): "lock of \(set) released"
    case .eventsAcknowledged(let notifier, let sequence): "\(notifier) has \(sequence)"
    case .notifierForgotten(let notifier, _, _): "notifier \(notifier) forgotten"
    case .deliveryLeaseGranted(let notifier, let number): "\(notifier) delivers, lease \(number)"
    case .deliveryLeaseGivenUp(let notifier): "\(notifier) delivers no more"
    case .deliveriesReported(_, let sink, let sequence): "\(sink) is delivered up to \(sequence)"
    }
}

extension StepOutcome? {
    fileprivate var isFailure: Bool { self != nil && self != .succeeded }
}
