// The agent's ear on its own host: a Unix socket in the run directory, for the user of the agent
// only (mode 0600). One request a connection, one line of JSON each way; see PreflightReport and
// AgentHealth.
//
// Failure modes: a socket that a dead agent left is replaced; one that cannot be opened is logged,
// and the agent works without it. A client that says nothing for 5 s, says too much, or comes while
// eight others are served, is sent away.

internal import AgentCore
internal import Fleet
internal import Glibc
internal import Logging
internal import QMP
internal import UvLoop

final class ControlSocket {
    private unowned let agent: AgentShell
    private var listener: Listener?
    private var clientCount = 0

    static let clientsMax = 8
    static let requestLimit = Duration.seconds(5)

    /// - Returns: nil, after logging why, if it cannot be opened.
    static func open(for agent: AgentShell) -> ControlSocket? {
        let socket = ControlSocket(agent)
        // From its first moment nobody else may connect.
        let mask = umask(0o177)
        defer { umask(mask) }
        do {
            socket.listener = try Listener.unix(path: agent.paths.control, on: agent.loop) {
                [unowned socket] in socket.serve($0)
            }
            return socket
        } catch {
            agent.logger.error("`fermata preflight` cannot ask this agent: \(error)")
            return nil
        }
    }

    private init(_ agent: AgentShell) { self.agent = agent }

    func close() {
        listener?.close()
        listener = nil
    }

    private func serve(_ stream: SocketStream) {
        guard clientCount < Self.clientsMax else { return stream.close() }
        clientCount += 1
        var received: [UInt8]? = []
        let timer = agent.loop.after(Self.requestLimit) { stream.close() }
        stream.onEnd = { [self] _ in
            timer.cancel()
            clientCount -= 1
        }
        stream.onBytes = { [self] bytes in
            guard var request = received else { return }
            request.append(contentsOf: bytes)
            received = request
            guard let end = request.firstIndex(of: UInt8(ascii: "\n")) else {
                if request.count > PreflightRequest.byteCountMax { stream.close() }
                return
            }
            received = nil
            timer.cancel()
            answer(Array(request[..<end])) {
                stream.write($0)
                stream.closeAfterWriting()
            }
        }
    }

    private func answer(_ line: [UInt8], _ reply: @escaping ([UInt8]) -> Void) {
        if AgentHealth.isRequest(line) { return reply(agent.health.line) }
        guard let request = PreflightRequest(line: line) else {
            let refusal = PreflightRefusal(
                kind: .unavailable, message: "the agent does not understand the request",
                advice: "Use the same version of fermata for both.")
            return reply(PreflightAnswerLine.bytes(.failure(refusal)))
        }
        agent.survey(request) { reply(PreflightAnswerLine.bytes($0)) }
    }
}

extension AgentShell {
    var health: AgentHealth {
        AgentHealth(
            host: host.host, guestCount: keepers.count,
            runningGuestCount: keepers.count { $0.state == .running })
    }

    func survey(_ request: PreflightRequest, _ reply: @escaping (PreflightAnswer) -> Void) {
        // A hold shall not share its processors with questions that can wait.
        guard runner == nil else {
            return reply(
                .failure(
                    PreflightRefusal(
                        kind: .unavailable, message: "a step is at work on host \(host.host)",
                        advice: "Ask again when it is over; it runs its own preflight.")))
        }
        var subjects: [PreflightSubject] = []
        for id in request.guests.isEmpty ? keepers.map(\.id) : request.guests {
            guard let keeper = keepers.first(where: { $0.id == id }) else {
                return reply(.failure(.noSuchGuest(id, host.host)))
            }
            // Who asks has perhaps just mended something, and the leader shall know.
            preflight?.look(at: keeper)
            subjects.append(
                PreflightSubject(
                    configuration: keeper.configuration, generation: keeper.current,
                    hypervisor: request.release ?? keeper.hypervisor, asksGuestAgent: true))
        }
        PreflightSurvey.run(
            subjects, release: request.release, host: host, paths: paths, on: loop
        ) { reply(.success($0)) }
    }
}
