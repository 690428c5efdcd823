// Those who talk to the leader and hold nothing: operators at random, and a notifier.

import Fleet
import SessionCore
import Wire

/// Somebody with a command line, who does what comes to mind.
final class OperatorSeat {
    var place: Place { process.place }
    private let process: SimulatedProcess
    private let loop: SimulatedLoop
    private unowned let world: World
    private let client: SessionClient
    private var chance: Chance
    private var lastRelease = 0
    /// The highest index that this operator was told.
    private var told: UInt64 = 0
    /// What is done in this turn has no effect: the scenario leaves it out.
    private var isLeftOut = false

    init(_ name: String, at place: Place, _ world: World, _ chance: Chance) {
        var chance = chance
        process = SimulatedProcess(name, at: place)
        loop = SimulatedLoop(process, chance.fork())
        self.world = world
        self.chance = chance
        let identity = PeerIdentity(cluster: World.cluster, role: .operator, name: name)!
        client = SessionClient(
            on: loop, servers: world.serverAddresses,
            dialer: SimulatedDialer(identity, process, world), software: "0",
            logger: world.logger(name))
        client.isUrgent = { true }
    }

    func letGo() {
        process.kill()
        client.stop()
    }

    func start() {
        client.start()
        planNext()
    }

    /// Only looks, once a second: whoever leads no more must not tell what was.
    func startLooking() {
        client.start()
        loop.every(.seconds(1)) { [self] in read() }
    }

    private func planNext() {
        let pause = chance.within(0...(2 * world.profile.commandMilliseconds * 1_000))
        process.run(after: max(200_000, pause)) { [self] in
            if world.faults.isOver { tidy() } else { act() }
            planNext()
        }
    }

    private func act() {
        isLeftOut = !world.keepsNextCommand()
        defer { isLeftOut = false }
        switch chance.below(16) {
        case 0...6: startRollout()
        case 7: abort()
        case 8: stepDown()
        case 9: releaseLock()
        case 10: pauseOrResume()
        case 11: cordonOrUncordon()
        case 12: goOn()
        case 13: acknowledge()
        default: read()
        }
    }

    private func pauseOrResume() {
        let open = world.truth.state.rollouts.open.map { $0 }.filter(\.state.isGoingOn)
        guard !open.isEmpty else { return }
        let rollout = chance.pick(open)
        let isPaused = rollout.state == .paused
        ask(
            isPaused
                ? .resumeRollout(rollout.id, reason: "")
                : .pauseRollout(rollout.id, reason: "lunch")
        ) { _, _ in }
    }

    private func cordonOrUncordon() {
        let host = chance.pick(world.hosts.map(\.id))
        ask(
            world.truth.state.hosts[host]?.cordon == nil
                ? .cordonHost(host, reason: "its disks") : .uncordonHost(host, reason: "")
        ) { _, _ in }
    }

    /// The first thing that is held back is so no more.
    private func goOn() {
        if let id = world.truth.state.rollouts.open.first(where: { $0.state == .paused })?.id {
            return ask(.resumeRollout(id, reason: "")) { _, _ in }
        }
        guard let host = world.truth.state.hosts.values.first(where: { $0.cordon != nil }) else {
            return
        }
        ask(.uncordonHost(host.report.host, reason: "")) { _, _ in }
    }

    /// After the faults: what a person would do about what is left.
    private func tidy() {
        releaseLock()
        if chance.oneIn(2) { acknowledge() }
        goOn()
        seeToGuests()
        read()
    }

    /// A guest that is gone, or that stands still although no step has it, is started anew by hand: here, with
    /// its host.
    private func seeToGuests() {
        let host = world.hosts.first { host in
            host.place.isUp && host.agent?.isInStep == false
                && host.guests.contains { !$0.isExecuting }
        }
        guard let host else { return }
        world.trace(process.name, "restarts host \(host.id)")
        host.losePower()
        world.timeline.after(5_000_000) { host.restorePower() }
    }

    private func ask(_ command: OperatorCommand, _ then: @escaping (UInt64, RolloutID?) -> Void) {
        guard !isLeftOut else { return }
        world.trace(process.name, "asks for \(command)".prefixed(160))
        client.request(.command(command), timeout: .seconds(20)) { [self] result in
            guard case .success(.commandAccepted(let index, let rollout)) = result else {
                if case .success(.refused(let refusal)) = result {
                    world.trace(process.name, "was refused: \(refusal.message)")
                }
                return
            }
            told = max(told, index)
            world.truth.operatorWasTold(.index(index))
            then(index, rollout)
        }
    }

    private func startRollout() {
        lastRelease += 1
        let release = makeRelease(
            "\(process.name)-r\(lastRelease)", "v\(process.name)\(lastRelease)")
        let policy = Policy(
            parallelism: UInt32(1 + chance.below(6)),
            deadlineMilliseconds: chance.pick([2_000, 5_000, 10_000, 30_000]),
            failuresMax: UInt32(1 + chance.below(4)),
            noticeMilliseconds: chance.oneIn(2) ? chance.pick([1_000, 4_000, 15_000]) : 0,
            acknowledgement: chance.oneIn(3) ? .ignored : .shortens)
        let selection: Selection
        if chance.oneIn(3) {
            var hosts = world.hosts.map(\.id)
            while hosts.count > 1, chance.oneIn(2) { hosts.remove(at: chance.below(hosts.count)) }
            selection = .hosts(hosts.sorted())
        } else {
            selection = .allHosts
        }
        ask(.addRelease(release)) { [self] _, _ in
            world.truth.operatorWasTold(.release(release.id))
            ask(.startRollout(release: release.id, selection: selection, policy: policy)) {
                [self] _, rollout in
                if let rollout { world.truth.operatorWasTold(.rollout(rollout)) }
            }
        }
    }

    private func makeRelease(_ name: String, _ version: String) -> Release {
        let id = ReleaseID(checked: name)
        let digest = [UInt8](repeating: 7, count: 32)
        func command(_ limit: UInt32) -> HostCommand {
            HostCommand(path: "/c", arguments: [], sha256: digest, limitMilliseconds: limit)
        }
        switch chance.below(5) {
        case 0...2:
            return Release(
                id: id, component: .hypervisor,
                hypervisor: Hypervisor(version: version, path: "/q"), sha256: digest)
        case 3:
            return Release(
                id: id, component: .network,
                work: .host(
                    HostWork(
                        version: version, holdsGuests: true,
                        prepare: chance.oneIn(2) ? command(5_000) : nil, apply: command(400),
                        check: chance.oneIn(2) ? command(200) : nil,
                        undo: chance.oneIn(4) ? nil : command(300))))
        default:
            return Release(
                id: id, component: .other("tools"),
                work: .host(
                    HostWork(
                        version: version, holdsGuests: false, apply: command(2_000),
                        undo: command(1_000))))
        }
    }

    private func abort() {
        let open = world.truth.state.rollouts.values.filter(\.state.isGoingOn).map(\.id)
        guard !open.isEmpty else { return }
        let id = chance.pick(open)
        ask(.abortRollout(id, reason: "for a reason")) { [self] _, _ in
            world.truth.operatorWasTold(.aborted(id))
        }
    }

    /// For a guest of a step, told or not.
    private func acknowledge() {
        let notices = world.truth.coordinator.notices().filter { !$0.guests.isEmpty }
        guard !notices.isEmpty else { return }
        let notice = chance.pick(notices)
        let guest = chance.pick(notice.guests)
        ask(.acknowledgeNotice(notice.step, guest: guest, noticedAt: nil)) { _, _ in }
    }

    private func stepDown() { ask(.stepDown) { _, _ in } }

    /// By name. A person makes sure that what is stuck executes, and that a host is really gone; one who is in
    /// a hurry does not, and the leader has to refuse while it may be at work.
    private func releaseLock() {
        let isHasty = !world.faults.isOver && chance.oneIn(2)
        for (set, lock) in world.truth.state.locks {
            let isSafe =
                isHasty
                || lock.holders.allSatisfy { holder in
                    guard let step = world.truth.state.step(holder.step) else { return true }
                    return holder.stuck
                        ? !step.plan.guests.contains(where: world.truth.isHeld)
                        : world.host(step.plan.host)?.place.isUp == false && chance.oneIn(3)
                }
            guard isSafe else { continue }
            return ask(.releaseLock(set, reason: "seen to it")) { _, _ in }
        }
    }

    private func read() {
        guard !isLeftOut else { return }
        let before = max(told, world.truth.toldIndex)
        client.request(.query(.status), timeout: .seconds(20)) { [self] result in
            guard case .success(.queryResult(.status(let view))) = result else { return }
            world.truth.operatorReads(index: view.index, after: before)
        }
    }
}

extension String {
    func prefixed(_ count: Int) -> String { String(prefix(count)) }
}
