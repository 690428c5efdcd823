// Preflight before a hold: while the guests run, before a new QEMU is started, and once more when it
// waits. What blocks ends the preparation with all reasons, so nothing of it is left for the hold.

internal import AgentCore
internal import Fleet
internal import QMP
internal import UvLoop

extension HoldRunner {
    /// What can be known before the new QEMU is started.
    ///
    /// - Parameter completion: called once, later, with why the guest cannot be handed over.
    func preflight(_ guest: StepGuest, _ completion: @escaping (String?) -> Void) {
        guard let hypervisor = directive.release.hypervisor else {
            return context.loop.soon { completion("the release is no QEMU") }
        }
        let subject = PreflightSubject(
            configuration: guest.keeper.configuration, generation: guest.old,
            hypervisor: hypervisor)
        PreflightInspection.run(subject, on: context.loop) { facts in
            guest.facts = facts
            completion(Preflight.blockingReason(Preflight.findings(facts)))
        }
    }

    /// Goes on with a guest that has passed a preflight, unless its step has ended meanwhile.
    func pass(_ guest: StepGuest, _ problem: String?, _ next: () -> Void) {
        guard guest.isPreparing, !machine.isFinished else { return }
        guard let problem else { return next() }
        feed(.guest(guest.id, .prepareFailed(reason: problem)))
        donePreparing(guest)
    }

    /// What only the new QEMU knows, now that it waits.
    func preflightNew(_ guest: StepGuest, _ completion: @escaping (String?) -> Void) {
        guard let new = guest.new, let facts = guest.facts else { return completion(nil) }
        // The memory and the threads that it needs, it has by now.
        var known = facts
        known.availableBytes = nil
        known.threadRoom = nil
        known.descriptorRoom = nil
        PreflightOfNew.run(new, known) {
            completion(Preflight.blockingReason(Preflight.findings($0)))
        }
    }
}

/// Keeps what the leader is told of each guest up to date: when a QEMU becomes a guest's, and once a
/// minute. Never while a step is at work.
final class PreflightWatch {
    private let loop: Loop
    private let keepers: [GuestKeeper]
    private let isBusy: () -> Bool
    /// The process that was looked at last.
    private var seen: [GuestID: ProcessReference] = [:]
    private var inspecting: Set<GuestID> = []

    static let period = Duration.seconds(60)

    init(_ keepers: [GuestKeeper], on loop: Loop, isBusy: @escaping () -> Bool) {
        self.keepers = keepers
        self.loop = loop
        self.isBusy = isBusy
    }

    func start() {
        loop.every(Self.period) { [self] in for keeper in keepers { look(at: keeper) } }
        for keeper in keepers { look(at: keeper) }
    }

    /// Looks at once if it runs on another QEMU than when it was looked at last.
    func changed(_ keeper: GuestKeeper) {
        guard let process = keeper.current?.process, seen[keeper.id] !== process else { return }
        look(at: keeper)
    }

    func look(at keeper: GuestKeeper) {
        guard keeper.state == .running, !isBusy(), let generation = keeper.current,
            inspecting.insert(keeper.id).inserted
        else { return }
        seen[keeper.id] = generation.process
        let subject = PreflightSubject(
            configuration: keeper.configuration, generation: generation,
            hypervisor: keeper.hypervisor)
        PreflightInspection.run(subject, on: loop) { [self] facts in
            inspecting.remove(keeper.id)
            // A guest that stands still is told of as such, by its state.
            guard facts.isRunning, keeper.current === generation else { return }
            // Of the QEMU that it runs on, only what a hand-over to any other would need counts.
            var facts = facts
            facts.program = nil
            keeper.found(Preflight.blockingReason(Preflight.findings(facts)) ?? "")
        }
    }
}
