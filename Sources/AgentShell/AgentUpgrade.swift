// The agent replaces its own program. No guest is held, and none notices.
//
//   verify ─► `NEW --version`, `NEW agent … --check` ─► keep the old program as PATH.previous, watcher
//   started ─► NEW renamed to PATH ─► exec: same pid, new code
//                    the new agent: guests found, session with the leader ─► watcher told, succeeded
//
// Failure modes:
// - before the exec, and if the kernel refuses that: the old agent goes on, and says why; the watcher is
//   told that all is well.
// - the agent ends before it has replaced anything, and the program that runs already is the release's, or
//   there is no other one to go back to: it goes on, and the step has failed.
// - the new agent ends, or has no session with the leader after 30 s (it then ends itself), or hangs
//   for 60 s (the watcher kills it): the watcher brings PATH.previous back under PATH, and whoever
//   supervises the agent (systemd) starts that. It finds the step in its record and reports the failure.
// - the watcher dies: a new agent that hangs is brought back by nobody; one that ends goes back by
//   itself when it is started again, since it then has no channel to a watcher.

internal import AgentCore
internal import Fleet
internal import Glibc
internal import Logging
internal import UvLoop

extension HostChecks {
    /// This is the trial of a release: guests run already, and need no bridge to be there.
    public static var isTrialOfUpgrade: Bool { getenv(AgentUpgrade.trialVariable) != nil }
}

enum AgentUpgrade {
    static let trialVariable = "FERMATA_UPGRADE_TRIAL"
    static let channelVariable = "FERMATA_UPGRADE_CHANNEL"
    static let sessionLimit: Duration = .seconds(30)
    static let watchSeconds = 60

    static func previous(_ path: String) -> String { "\(path).previous" }

    static func ownArguments() throws(UvError) -> [String] {
        try words(path: "/proc/self/cmdline")
    }

    static func ownEnvironment() throws(UvError) -> [String: String] {
        var values: [String: String] = [:]
        for entry in try words(path: "/proc/self/environ") {
            guard let equals = entry.firstIndex(of: "=") else { continue }
            values[String(entry[..<equals])] = String(entry[entry.index(after: equals)...])
        }
        return values
    }

    /// Whether ending this program makes another one run than that with this digest.
    static func canGoBack(_ own: String, from sha256: [UInt8]) -> Bool {
        // The watcher may have done it already.
        guard (try? SHA256Digest.ofFile(own)) == sha256 else { return true }
        guard let before = try? SHA256Digest.ofFile(previous(own)) else { return false }
        return before != sha256
    }

    /// What tells that the program was replaced for this step: a `….previous` may be of an older one.
    static func mark(_ record: AcceptedStep) -> [UInt8] {
        Array("\(record.directive.step)\t\(record.directive.token)\n".utf8)
    }

    private static func words(path: String) throws(UvError) -> [String] {
        let bytes = try Files.read(path: path, byteCountMax: 4 << 20)
        return bytes.split(separator: 0).map { String(decoding: $0, as: UTF8.self) }
    }
}

extension AgentShell {
    /// From an accepted directive to the exec, or to a report of why not.
    func upgrade(_ record: AcceptedStep) {
        guard case .agent(_, let program) = record.directive.release.work else { return }
        logger.notice("replacing the agent", metadata: ["program": "\(program.path)"])
        let fail = { [self] reason in endUpgrade(record, .failed, reason) }
        if let problem = Artifact.problem(record.directive.release) { return fail(problem) }
        do {
            let own = guardProgram.executable
            guard own != program.path else {
                return fail("\(own) is the program that runs: put the new one under another name")
            }
            var arguments = try AgentUpgrade.ownArguments()
            arguments.removeFirst()
            try tryOut(program.path, ["--version"]) { [self] problem in
                if let problem { return fail("\(program.path) --version \(problem)") }
                do {
                    try tryOut(program.path, arguments + ["--check"]) { problem in
                        if let problem { return fail("\(program.path) agent --check \(problem)") }
                        do {
                            try self.become(program.path, own: own, record)
                        } catch { fail("\(error)") }
                    }
                } catch { fail("\(error)") }
            }
        } catch { fail("\(error)") }
    }

    private func tryOut(
        _ path: String, _ arguments: [String], _ completion: @escaping (String?) -> Void
    ) throws(UvError) {
        var environment = try AgentUpgrade.ownEnvironment()
        environment[AgentUpgrade.channelVariable] = nil
        environment[AgentUpgrade.trialVariable] = "1"
        try BoundedCommand(
            executable: path, arguments: arguments, environment: environment, limit: .seconds(20),
            on: loop
        ) { end, output in
            let said = lastWords(output)
            let saying = said.isEmpty ? "" : ": \(said)"
            switch end {
            case .exited(ExitStatus(code: 0, signal: 0)): completion(nil)
            case .exited(let status): completion("ended with \(status)\(saying)")
            case .tookTooLong: completion("took longer than 20 s\(saying)")
            }
        }
    }

    private func become(_ path: String, own: String, _ record: AcceptedStep) throws(UvError) {
        let bytes = try Files.read(path: path, byteCountMax: 1 << 30)
        let next = "\(own).next"
        try Files.writeAtomically(path: next, bytes: bytes, durable: true, mode: 0o755)
        try Files.replaceByLink(path: AgentUpgrade.previous(own), to: own)
        try Files.writeAtomically(
            path: paths.upgrade, bytes: AgentUpgrade.mark(record), durable: true)
        var environment = try AgentUpgrade.ownEnvironment()
        let arguments = try AgentUpgrade.ownArguments()
        let channel = try startWatcher(own)
        do throws(UvError) {
            try Files.rename(from: next, to: own)
            pause.reached("replaced")
            try Descriptors.setInherited(channel, true)
            environment[AgentUpgrade.channelVariable] = "\(channel)"
            throw becomeProgram(own, arguments: arguments, environment: environment)
        } catch {
            // The kernel does not take it: back at once, by ourselves. Then the watcher goes: at the
            // end of its channel alone it would kill this agent, and in a minute all the same.
            if (try? SHA256Digest.ofFile(own)) != (try? SHA256Digest.ofFile("/proc/self/exe")) {
                try? Files.rename(from: AgentUpgrade.previous(own), to: own)
            }
            AgentUpgrade.sayIsUp(channel)
            throw error
        }
    }

    /// - Returns: our end of its channel.
    private func startWatcher(_ own: String) throws(UvError) -> Int32 {
        let (ours, theirs) = try Descriptors.socketPair()
        defer { Descriptors.close(theirs) }
        let log = ChildProcess.Stdio.file(path: paths.guardLog, append: true)
        do {
            _ = try ChildProcess.spawn(
                executable: guardProgram.executable,
                arguments: [
                    "guard", "--upgrade-of", own, "--agent-process", "\(HostFacts.processID)",
                ],
                descriptors: [.ignore, log, log, .inherit(theirs)], detached: true, on: loop
            ) { _ in }
            return ours
        } catch {
            Descriptors.close(ours)
            throw error
        }
    }

    // MARK: In the agent that comes up afterwards

    /// Which program runs now decides what became of it.
    func recoverUpgrade(_ record: AcceptedStep) {
        guard case .agent(_, let program) = record.directive.release.work else { return }
        let channel = AgentUpgrade.takeChannel()
        guard let digest = try? SHA256Digest.ofFile("/proc/self/exe"), digest == program.sha256
        else {
            return endUpgrade(
                record, .failed,
                "the new agent did not come up, and the one before it runs again")
        }
        guard let channel else {
            let mark = try? Files.read(path: paths.upgrade, byteCountMax: 1_000)
            guard mark == AgentUpgrade.mark(record),
                AgentUpgrade.canGoBack(guardProgram.executable, from: program.sha256)
            else { return endUpgrade(record, .failed, "it ended before the exec") }
            return goBack("it ended before it was up")
        }
        // A new agent that cannot speak to the leader would be of no use: the old one could.
        let limit = loop.after(AgentUpgrade.sessionLimit) { [self] in
            goBack("it has no session with the server")
        }
        whenFirstReady = { [self] in
            limit.cancel()
            AgentUpgrade.sayIsUp(channel)
            endUpgrade(record, .succeeded, "")
        }
    }

    /// Ends this program, so that whoever supervises it starts the one before, which tells of it.
    private func goBack(_ reason: String) {
        logger.error("going back to the agent before this one: \(reason)")
        let own = guardProgram.executable
        // The watcher may have done so already.
        try? Files.rename(from: AgentUpgrade.previous(own), to: own)
        _exit(75)
    }

    private func endUpgrade(_ record: AcceptedStep, _ outcome: StepOutcome, _ reason: String) {
        try? Files.remove(path: paths.upgrade)
        if outcome == .succeeded { recordInstalled(record.directive.release) }
        feed(.stepEnded(record.report(outcome, reason)))
    }
}

extension AgentUpgrade {
    /// Lets the watcher end, which leaves the program and this process as they are.
    static func sayIsUp(_ channel: Int32) {
        _ = write(channel, "ready\n", 6)
        Descriptors.close(channel)
    }

    /// The watcher's channel, from the program before this one; nobody else gets it.
    static func takeChannel() -> Int32? {
        guard let text = getenv(channelVariable).map({ String(cString: $0) }),
            let descriptor = Int32(text)
        else { return nil }
        unsetenv(channelVariable)
        try? Descriptors.setInherited(descriptor, false)
        return descriptor
    }
}

/// Brings the program back that ran before, unless the new one says that it is up.
public enum UpgradeWatch {
    /// - Returns: the exit code.
    public static func run(
        program: String, agentProcess: Int32, channelDescriptor: Int32 = 3
    ) -> Int32 {
        do {
            let loop = try Loop()
            // It may have ended before this program has come so far. Then somebody else is our parent,
            // and its pid is nobody's or another's.
            let found = try? ProcessReference(pid: agentProcess)
            let agent = getppid() == agentProcess ? found : nil
            let stream = try SocketStream.adopt(descriptor: channelDescriptor, on: loop)
            var isUp = false
            stream.onBytes = { _ in
                isUp = true
                loop.stop()
            }
            stream.onEnd = { _ in loop.stop() }
            loop.after(.seconds(Int64(AgentUpgrade.watchSeconds))) { loop.stop() }
            for signal: Int32 in [1, 2, 15] { loop.onSignal(signal) {} }
            loop.run()
            guard !isUp else { return 0 }
            // The new one has perhaps done so itself.
            if Files.kind(path: AgentUpgrade.previous(program)) != nil {
                try Files.rename(from: AgentUpgrade.previous(program), to: program)
            }
            // If it hangs; a process that has ended is as good.
            try? agent?.send(signal: 9)
            return 0
        } catch { return 70 }
    }
}
