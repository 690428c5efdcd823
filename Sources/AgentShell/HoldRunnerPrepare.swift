internal import AgentCore
internal import Fleet
internal import HostConfiguration
internal import QMP
internal import UvLoop

// Everything before the hold: while the guests of a step run, a new QEMU is started for each and made to
// wait. What fails here fails that guest's preparation, and nothing was touched.
extension HoldRunner {
    /// QEMUs that are being started at a time; more only make each slower.
    private var preparingMax: Int { max(2, HostFacts.cpuCount) }

    func prepareNext() {
        // A step that was abandoned meanwhile discards no QEMU that is started after that.
        while preparingCount < preparingMax, !preparing.isEmpty, !machine.isFinished {
            let guest = preparing.removeFirst()
            preparingCount += 1
            guest.isPreparing = true
            preflight(guest) { [self] in pass(guest, $0) { checkHealth(guest) } }
        }
    }

    func donePreparing(_ guest: StepGuest) {
        guard guest.isPreparing else { return }
        guest.isPreparing = false
        preparingCount -= 1
        prepareNext()
    }

    /// A guest that is ill already is not held: afterwards nobody could tell whose fault it is.
    private func checkHealth(_ guest: StepGuest) {
        HealthProbes.run(guest.keeper.configuration.probes, on: context.loop) { [self] problems in
            guard !machine.isFinished else { return }
            guard problems.isEmpty else {
                let reason = "it is unhealthy already before the hold: "
                feed(guest, .prepareFailed(reason: reason + problems.joined(separator: "; ")))
                return donePreparing(guest)
            }
            prepare(guest)
        }
    }

    private func prepare(_ guest: StepGuest) {
        do {
            guard let old = guest.old, old.isConnected,
                let hypervisor = directive.release.hypervisor
            else {
                throw AgentError.hypervisor(reason: "the monitor of its QEMU does not answer")
            }
            let new = try startNew(guest, old, hypervisor)
            guest.new = new
            watch(new, .new, of: guest)
            try guest.copyQueues(.old)
            guard try copyNewQueues(guest) else { return }
            guest.preparationsLeft = 3
            old.send([.migrateSetHandOverCapabilities]) { [self] _, result in
                step(guest, "the capabilities of its QEMU", result)
            }
            new.connect()
        } catch {
            onPrepareError(guest, error)
        }
    }

    private func startNew(
        _ guest: StepGuest, _ old: Generation, _ hypervisor: Hypervisor
    ) throws(AgentError) -> Generation {
        let configuration = guest.keeper.configuration
        guard configuration.adopt == nil else {
            return try context.launcher.startSecond(
                guest.id, like: old, machineType: guest.facts?.machineType,
                generation: guest.newNumber, hypervisor: hypervisor)
        }
        return try context.launcher.start(
            configuration, generation: guest.newNumber, hypervisor: hypervisor, isWaiting: true)
    }

    /// - Returns: false if the new QEMU is just ending: its descriptors are gone before the process
    ///   is, so nothing shows its end yet. The notice of it, which comes soon, tells why.
    private func copyNewQueues(_ guest: StepGuest) throws(UvError) -> Bool {
        do throws(UvError) {
            try guest.copyQueues(.new)
            return true
        } catch {
            guard error.name == "ESRCH" else { throw error }
            return false
        }
    }

    private func onPrepareError(_ guest: StepGuest, _ error: any Error) {
        // A QEMU that has ended already has no descriptors to copy: the notice of its end, which
        // comes next, tells why it did.
        if guest.newHasJustEnded, guest.old?.process.hasExited == false { return }
        feed(guest, .prepareFailed(reason: "\(error)"))
        donePreparing(guest)
    }

    /// Called when the monitor of the new QEMU is there, also after it was lost and came back.
    func configureNew(_ guest: StepGuest) {
        guard guest.isPreparing, let new = guest.new, guest.preparationsLeft > 0 else { return }
        let commands = [
            Command.migrateSetHandOverCapabilities,
            .migrateIncoming(uri: "unix:\(new.paths.incoming)"),
        ]
        new.send(commands) { [self] index, result in
            step(
                guest, index == 0 ? "the capabilities of the new QEMU" : "migrate-incoming", result)
        }
    }

    private func step(
        _ guest: StepGuest, _ what: String, _ result: Result<JSON, MonitorFailure>
    ) {
        guard guest.isPreparing else { return }
        if case .failure(let failure) = result {
            feed(guest, .prepareFailed(reason: "\(what): \(failure)"))
            return donePreparing(guest)
        }
        guest.preparationsLeft -= 1
        guard guest.preparationsLeft == 0 else { return }
        preflightNew(guest) { [self] problem in
            pass(guest, problem) {
                feed(guest, .prepared)
                donePreparing(guest)
            }
        }
    }
}
