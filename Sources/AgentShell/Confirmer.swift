// Looks after a guest that has just been continued.
//
// Happy path: port forwards of user-mode NICs (a new process only), then the guest agent's ping, then,
// at the same time, the clock and the rest of health: runstate and the guest's probes.
// Failure modes: each has a time limit; what failed is in the confirmation, in words. The guest is
// not touched again.

internal import AgentCore
internal import Fleet
internal import HostConfiguration
internal import QMP
internal import UvLoop

final class Confirmer {
    private let guest: GuestConfiguration
    private let generation: Generation
    private let addsForwards: Bool
    private let loop: Loop
    private let completion: (Confirmation) -> Void
    private var result = Confirmation(isHealthy: true)
    private var problems: [String] = []
    private var partsLeft = 0

    static let guestAgentLimit: Duration = .seconds(15)
    static let pingLimit: Duration = .seconds(5)
    private static let forwardTries = 200
    private static let stateTries = 20

    /// - Parameters:
    ///   - addsForwards: the process was started without its port forwards, and the one that had
    ///     them has been killed.
    ///   - completion: called once.
    init(
        _ guest: GuestConfiguration, on generation: Generation, addsForwards: Bool, loop: Loop,
        completion: @escaping (Confirmation) -> Void
    ) {
        self.guest = guest
        self.generation = generation
        self.addsForwards = addsForwards
        self.loop = loop
        self.completion = completion
    }

    func start() {
        var lines: [String] = []
        for forward in addsForwards ? forwards : [] {
            // It may be there already, if the agent was restarted after it had been added.
            let listening = forward.rule.prefix { $0 != "-" }
            generation.send([
                .humanMonitorCommand("hostfwd_remove \(forward.network) \(listening)")
            ]) { _, _ in }
            lines.append("hostfwd_add \(forward.network) \(forward.rule)")
        }
        add(lines[...], tries: Self.forwardTries)
    }

    private var forwards: [AdoptedCommandLine.Forward] {
        if let line = generation.adoptedLine { return line.forwards }
        return guest.nics.enumerated().flatMap { index, nic in
            guard case .user(let rules, _) = nic else { return [AdoptedCommandLine.Forward]() }
            return rules.map {
                AdoptedCommandLine.Forward(network: "net\(index)", rule: "tcp:\($0)")
            }
        }
    }

    /// The ports are free once the old process has ended; until then this is tried again.
    private func add(_ forwards: ArraySlice<String>, tries: Int) {
        guard let line = forwards.first else { return askAgent() }
        generation.send([.humanMonitorCommand(line)]) { [self] _, result in
            let text: String
            switch result {
            case .success(let value): text = value.string ?? ""
            case .failure(let failure): text = failure.description
            }
            if text.isEmpty { return add(forwards.dropFirst(), tries: Self.forwardTries) }
            if tries > 1 {
                loop.after(.milliseconds(25)) { [self] in add(forwards, tries: tries - 1) }
            } else {
                problems.append("a port could not be forwarded again (\(line)): \(text)")
                add(forwards.dropFirst(), tries: Self.forwardTries)
            }
        }
    }

    private func askAgent() {
        guard guest.guestAgent, !generation.paths.guestAgent.isEmpty else {
            result.clockNote = "not measured: the guest has no guest agent"
            partsLeft = 1
            return checkState()
        }
        partsLeft = 2
        let channel = GuestAgentChannel(path: generation.paths.guestAgent, on: loop)
        channel.open(limit: Self.guestAgentLimit) { [self] failure in
            if let failure { return agentFailed(failure, channel) }
            channel.send(.ping, limit: Self.pingLimit) { [self] answer in
                if case .failure(let failure) = answer { return agentFailed(failure, channel) }
                setClock(channel)
                checkState()
            }
        }
    }

    private func agentFailed(_ failure: GuestAgentFailure, _ channel: GuestAgentChannel) {
        channel.close()
        result.clockNote = "not measured: \(failure.reason)"
        problems.append(failure.reason)
        finishPart()
        checkState()
    }

    private func setClock(_ channel: GuestAgentChannel) {
        GuestClock(channel, on: loop) { [self] outcome in
            channel.close()
            result.clockErrorBeforeMicroseconds = outcome.before
            result.clockErrorAfterMicroseconds = outcome.after
            result.clockNote = outcome.note
            finishPart()
        }.start()
    }

    private func checkState(tries: Int = stateTries) {
        generation.send([.queryStatus], limit: .seconds(2)) { [self] _, answer in
            switch answer {
            // The hold may have cost it its connection, which comes back.
            case .failure(.ended) where tries > 1 && !generation.hasExited:
                loop.after(.milliseconds(100)) { [self] in checkState(tries: tries - 1) }
                return
            case .failure(let failure): problems.append(failure.description)
            case .success(let value):
                if let status = StatusReply(value), !status.running {
                    problems.append("its QEMU is in runstate \(status.state)")
                }
            }
            HealthProbes.run(guest.probes, on: loop) { [self] failed in
                problems += failed
                finishPart()
            }
        }
    }

    private func finishPart() {
        partsLeft -= 1
        if partsLeft == 0 { finish() }
    }

    private func finish() {
        result.isHealthy = problems.isEmpty
        result.reason = problems.joined(separator: "; ")
        completion(result)
    }
}
