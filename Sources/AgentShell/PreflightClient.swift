// `fermata preflight` on a host: asks the agent, which has the monitors; without one, looks itself.
// It keeps away from the monitors of guests whose step was interrupted.
//
// Failure modes: an agent that does not answer within 40 s is a refusal, never a reason to take the
// monitors from it. Nobody listening on the socket, or no socket, means that no agent runs.

internal import AgentCore
internal import Fleet
public import HostConfiguration
internal import QMP
public import UvLoop

public enum PreflightClient {
    private static let limit = Duration.seconds(40)
    private static let monitorLimit = Duration.seconds(3)

    /// - Parameter completion: called once, later.
    public static func ask(
        _ request: PreflightRequest, host: HostFile, on loop: Loop,
        completion: @escaping (Result<PreflightReport, PreflightRefusal>) -> Void
    ) {
        let paths = HostPaths(
            run: host.runDirectory, state: host.stateDirectory, memory: host.memoryDirectory)
        SocketStream.connectUnix(path: paths.control, on: loop, timeout: .seconds(5)) { result in
            switch result {
            case .success(let stream):
                ControlClient.ask(request.line, over: stream, limit: limit, on: loop) { line in
                    let refusal = PreflightRefusal(
                        kind: .unavailable, message: "the agent gave no answer",
                        advice: "Look into its log; the guests are as they were.")
                    completion(
                        line.flatMap { PreflightAnswerLine.answer($0) } ?? .failure(refusal))
                }
            case .failure(let error):
                if let lock = try? Files.lock(path: paths.agentLock) {
                    // Not kept, so that an agent can start at any time: it waits for its monitors.
                    lock.release()
                    if let refusal = interruptedStep(host, paths) {
                        return completion(.failure(refusal))
                    }
                    look(request, host, paths, loop, completion)
                } else if Files.kind(path: paths.run) == .directory {
                    completion(
                        .failure(
                            PreflightRefusal(
                                kind: .unavailable,
                                message: "the agent of host \(host.host) cannot be asked: \(error)",
                                advice: "Run this as the agent's user; an agent that is just "
                                    + "starting answers when it is ready.")))
                } else {
                    look(request, host, paths, loop, completion)
                }
            }
        }
    }

    /// Held guests want the next agent to reach their monitors at once.
    private static func interruptedStep(_ host: HostFile, _ paths: HostPaths) -> PreflightRefusal? {
        let guardLock = try? Files.lock(path: paths.guardLock)
        guardLock?.release()
        guard guardLock == nil || Files.exists(path: paths.notes) else { return nil }
        return PreflightRefusal(
            kind: .unavailable, message: "a step on host \(host.host) is not finished",
            advice: "Start the agent: it finishes the step, and answers then.")
    }

    /// Without an agent: finds the processes as it would, and connects to their monitors.
    private static func look(
        _ request: PreflightRequest, _ host: HostFile, _ paths: HostPaths, _ loop: Loop,
        _ completion: @escaping (Result<PreflightReport, PreflightRefusal>) -> Void
    ) {
        var subjects: [PreflightSubject] = []
        var found: [(label: ProcessLabel, process: ProcessReference)]?
        for id in request.guests.isEmpty ? host.guests.map(\.id) : request.guests {
            guard let configuration = host.guests.first(where: { $0.id == id }) else {
                return completion(.failure(.noSuchGuest(id, host.host)))
            }
            let generation: Generation?
            do {
                // All of /proc is read: once, for all guests.
                let all = try found ?? ProcessLabel.processes(of: paths)
                found = all
                generation = try find(configuration, in: all, host, paths, loop)
            } catch {
                return completion(
                    .failure(
                        PreflightRefusal(
                            kind: .unavailable,
                            message: "\(id)'s QEMU cannot be looked for: \(error)",
                            advice: "Mend that, or ask the agent.")))
            }
            subjects.append(
                PreflightSubject(
                    configuration: configuration, generation: generation,
                    hypervisor: request.release ?? HypervisorRecord.read(paths.hypervisor(id))
                        ?? host.hypervisor,
                    isAgent: false, asksGuestAgent: true))
        }
        connect(subjects.compactMap(\.generation), loop) {
            PreflightSurvey.run(
                subjects, release: request.release, host: host, paths: paths, on: loop
            ) { report in
                for subject in subjects { subject.generation?.close() }
                completion(.success(report))
            }
        }
    }

    private static func find(
        _ configuration: GuestConfiguration,
        in found: [(label: ProcessLabel, process: ProcessReference)], _ host: HostFile,
        _ paths: HostPaths, _ loop: Loop
    ) throws -> Generation? {
        let id = configuration.id
        var mine = found.filter { $0.label.guest == id }
        if let monitor = configuration.adopt,
            case .success(let foreign) = try ForeignProcess.find(
                guest: id, monitor: monitor, run: paths.run)
        {
            mine.insert(foreign, at: 0)
        }
        let current = Proc.number(paths.current(id))
        guard let process = mine.last(where: { $0.label.generation == current }) ?? mine.last
        else { return nil }
        let launcher = Launcher(host: host, paths: paths, loop: loop)
        return try launcher.generation(process, monitor: configuration.adopt)
    }

    private static func connect(
        _ generations: [Generation], _ loop: Loop, _ completion: @escaping () -> Void
    ) {
        var isOver = false
        let end = {
            guard !isOver else { return }
            isOver = true
            completion()
        }
        let timer = loop.after(monitorLimit) { end() }
        let look = {
            guard generations.allSatisfy({ $0.isConnected || $0.hasExited }) else { return }
            timer.cancel()
            end()
        }
        for generation in generations {
            generation.onNotice = { _ in look() }
            generation.connect()
        }
        loop.soon(look)
    }
}
