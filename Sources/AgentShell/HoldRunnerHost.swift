internal import AgentCore
internal import Fleet
internal import QMP
internal import UvLoop

// A step whose guests are only paused, while commands change the host:
//   prepare    the release's `prepare`
//   guard      started with each guest's QEMU, armed
//   hold       every old QEMU: stop; each says STOP; `apply`, `check`, on failure `undo`; every QEMU:
//              cont; each says RESUME
// The guard and a restarted agent are told what to kill before a command can do anything.
extension HoldRunner {
    func pause(_ guest: StepGuest) {
        guard let old = guest.old else { return }
        for pid in [old.process.pid, 0] { Scheduling.prefer(pid) }
        tell(guest, .pause)
    }

    func run(_ kind: CommandKind) {
        guard case .host(let work) = directive.release.work,
            let command = work.commands.first(where: { $0.name == kind.rawValue })?.command
        else {
            return feed(.commandEnded(kind, problem: "the release does not have it"))
        }
        let directory = context.paths.output(directive.step, directive.token)
        do {
            try Files.makeDirectory(path: directory, mode: 0o750, parents: true)
        } catch { return feed(.commandEnded(kind, problem: error.description)) }
        self.command = CommandRun(
            kind, command, of: work,
            groupName: CommandRun.groupNamePrefix(directive.host)
                + "\(directive.step)-\(kind.rawValue)",
            environment: environment(kind, work), output: "\(directory)/\(kind.rawValue)",
            on: context.loop,
            grouped: { [self] group in
                guardLink?.tell(kind, group)
                let record = CommandGroupRecord(group, kind, of: directive)
                try? Files.writeAtomically(
                    path: context.paths.commandGroup, bytes: Array(record.text.utf8),
                    durable: false)
            },
            completion: { [self] problem in
                self.command = nil
                // Before its end is noted: what it has left running is not to be killed.
                forgetCommandGroup()
                feed(.commandEnded(kind, problem: problem))
            })
        context.pause.reached("running-\(kind.rawValue)")
    }

    /// Whatever was replaced under the guests of a host, their ports may have moved, and the network has to
    /// learn that from them. After a hand-over QEMU does it by itself.
    func announceMove(_ generation: Generation) {
        guard directive.release.scope == .host else { return }
        generation.announce { [self] problem in
            if let problem {
                context.logger.warning("\(problem)", metadata: ["guest": "\(generation.guest)"])
            }
        }
    }

    /// Guests that are handed over have been asked while they were prepared.
    func checkAllHealth(_ healthy: @escaping () -> Void) {
        guard directive.release.scope == .host else { return healthy() }
        var missing = guests.count
        var ill = ""
        for guest in guests {
            HealthProbes.run(guest.keeper.configuration.probes, on: context.loop) {
                [self] problems in
                missing -= 1
                if let problem = problems.first, ill.isEmpty { ill = "\(guest.id): \(problem)" }
                guard missing == 0, !machine.isFinished else { return }
                guard ill.isEmpty else {
                    return feed(.holdRefused(reason: "unhealthy already before the hold: \(ill)"))
                }
                healthy()
            }
        }
    }

    /// Also one that an agent before this one has started.
    func killCommand() {
        if let command { return command.kill("it was cut short") }
        guard let kind = machine.commandLeftRunning,
            let bytes = try? Files.read(path: context.paths.commandGroup, byteCountMax: 8_192)
        else { return }
        let text = String(decoding: bytes, as: UTF8.self)
        CommandGroupRecord.group(in: text, of: kind, of: directive)?.kill()
        forgetCommandGroup()
    }

    func forgetCommandGroup() { try? Files.remove(path: context.paths.commandGroup) }

    private func environment(_ kind: CommandKind, _ work: HostWork) -> [String: String] {
        var values = [
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "FERMATA_HOST": directive.host.rawValue, "FERMATA_STEP": "\(directive.step)",
            "FERMATA_COMMAND": kind.rawValue, "FERMATA_RELEASE": directive.release.id.rawValue,
            "FERMATA_COMPONENT": "\(directive.release.component)",
            "FERMATA_VERSION": directive.release.version,
        ]
        if let artifact = work.artifact { values["FERMATA_ARTIFACT"] = artifact.path }
        return values
    }
}
