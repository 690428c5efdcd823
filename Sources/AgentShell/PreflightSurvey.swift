// A whole preflight: a QEMU to change to is asked what it knows, then every guest is looked at.
//
// Happy path: the new QEMU is started without a guest (`-machine none`), asked for its machines and
// killed; the guests are inspected side by side; one report.
// Failure modes: a QEMU that does not start, or does not answer within 10 s, is a finding of each
// guest. Ends always, within 20 s.

internal import AgentCore
internal import Fleet
internal import HostConfiguration
internal import QMP
internal import UvLoop

enum PreflightSurvey {
    static func run(
        _ subjects: [PreflightSubject], release: Hypervisor?, host: HostFile, paths: HostPaths,
        on loop: Loop, completion: @escaping (PreflightReport) -> Void
    ) {
        ask(release, host, paths, loop) { startProblem, machines in
            var found: [Int: [PreflightFinding]] = [:]
            let finish = {
                guard found.count == subjects.count else { return }
                completion(
                    PreflightReport(
                        host: host.host,
                        guests: subjects.indices.map { index in
                            PreflightReport.Guest(
                                id: subjects[index].configuration.id, findings: found[index] ?? [])
                        }))
            }
            guard !subjects.isEmpty else { return finish() }
            for (index, subject) in subjects.enumerated() {
                PreflightInspection.run(subject, on: loop) { facts in
                    var facts = facts
                    facts.program?.startProblem = startProblem
                    facts.newMachineTypes = machines
                    found[index] = Preflight.findings(facts)
                    finish()
                }
            }
        }
    }

    private static func ask(
        _ release: Hypervisor?, _ host: HostFile, _ paths: HostPaths, _ loop: Loop,
        _ completion: @escaping (String, [PreflightFacts.MachineType]) -> Void
    ) {
        guard let release, Files.isExecutable(path: release.path) else { return completion("", []) }
        let launcher = Launcher(host: host, paths: paths, loop: loop)
        do {
            HypervisorProbe(try launcher.startProbe(release), loop, completion).begin()
        } catch { completion(error.description, []) }
    }
}

/// One QEMU without a guest.
private final class HypervisorProbe {
    private let generation: Generation
    private let loop: Loop
    private var completion: ((String, [PreflightFacts.MachineType]) -> Void)?
    private var timer: Timer?

    init(
        _ generation: Generation, _ loop: Loop,
        _ completion: @escaping (String, [PreflightFacts.MachineType]) -> Void
    ) {
        self.generation = generation
        self.loop = loop
        self.completion = completion
    }

    func begin() {
        timer = loop.after(.seconds(10)) { [self] in end("no answer within 10 s", []) }
        generation.onNotice = { [self] notice in
            switch notice {
            case .connected:
                generation.send([.queryMachines]) { [self] _, result in
                    switch result {
                    case .success(let value): end("", machineTypes(value))
                    case .failure(let failure): end(failure.description, [])
                    }
                }
            case .exited:
                let said = generation.paths.lastLogLine()
                end(said.isEmpty ? "it ended at once" : said, [])
            case .disconnected, .event: break
            }
        }
        generation.connect()
    }

    private func end(_ problem: String, _ machines: [PreflightFacts.MachineType]) {
        guard let body = completion else { return }
        completion = nil
        timer?.cancel()
        try? generation.kill()
        generation.close()
        try? Files.removeTree(path: generation.paths.directory)
        body(problem, machines)
    }
}

extension Launcher {
    /// Starts a QEMU that has no guest and executes nothing, to be asked what it knows. It carries
    /// no label, so that nobody takes it for a guest's.
    fileprivate func startProbe(_ hypervisor: Hypervisor) throws(AgentError) -> Generation {
        let name = randomName(byteCount: 4)
        let place = GenerationPaths(directory: paths.probe(name))
        do {
            try Files.makeDirectory(path: place.directory, mode: 0o700, parents: true)
            let log = ChildProcess.Stdio.file(path: place.log, append: true)
            var environment = ["PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
            if let directory = hypervisor.moduleDirectory {
                environment["QEMU_MODULE_DIR"] = directory
            }
            let child = try ChildProcess.spawn(
                executable: hypervisor.path,
                arguments: [
                    "-nodefaults", "-no-user-config", "-display", "none", "-S", "-machine",
                    "none,accel=\(host.accelerator)", "-qmp",
                    "unix:\(place.monitor),server=on,wait=off",
                ], environment: environment, workingDirectory: "/",
                descriptors: [.ignore, log, log], on: loop
            ) { _ in }
            let label = ProcessLabel(
                run: "", guest: GuestID(checked: "probe"), generation: 1, hypervisorVersion: "",
                tapNumbers: [])
            return try Generation(
                label, paths: place, process: ProcessReference(pid: child.pid), on: loop)
        } catch let error as AgentError {
            throw error
        } catch { throw .hypervisor(reason: "\(error)") }
    }
}
