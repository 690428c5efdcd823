import Fleet
import Foundation
import Logging
import SessionCore
import SessionShell
import UvLoop
import Wire

struct Shape {
    var hostCount: Int
    /// Of each host.
    var guestCount: Int
    var stepTime: Duration
    var holdsWholeHosts: Bool
}

/// The operator who asks for rollouts, and the hosts.
///
/// ```
/// idle ──request──▶ asked ──directive──▶ working ──report──▶ reported ──committed──▶ idle
///   ▲ refused, unknown │
///   └──────────────────┘ (a directive may come all the same)
/// ```
/// Failure mode: a request whose outcome is not known is asked again; the server refuses a second rollout
/// over the same host, and the directive of the first one comes.
final class ScriptedFleet {
    let loop: Loop
    let shape: Shape
    let release: Release
    let `operator`: SessionClient
    private(set) var hosts: [ScriptedHost] = []
    private var steps = 0
    private var locks = 0
    private var refused = 0
    private var isReady = false
    private var since = ContinuousClock.now

    init(servers: [String], pki: String, shape: Shape) throws {
        loop = try Loop()
        self.shape = shape
        _ = Descriptors.raiseLimit()
        let digest = [UInt8](repeating: 0, count: 32)
        let work: Work =
            shape.holdsWholeHosts
            ? .host(
                HostWork(
                    version: "2", holdsGuests: true,
                    apply: HostCommand(
                        path: "/bin/true", arguments: [], sha256: digest, limitMilliseconds: 1_000))
            )
            : .hypervisor(Hypervisor(version: "2", path: "/bin/true"), sha256: digest)
        release = Release(
            id: ReleaseID(checked: "bench"),
            component: shape.holdsWholeHosts ? .network : .hypervisor, work: work)
        let loop = loop
        func client(_ name: String) throws -> SessionClient {
            SessionClient(
                on: loop, servers: servers,
                credentials: try Credentials.load(
                    prefix: "\(pki)/\(name)", roles: [.agent, .operator]),
                software: "hosts-bench",
                logger: Logger(label: "bench") { _ in SwiftLogNoOpLogHandler() })
        }
        `operator` = try client("operator-bench")
        for number in 0..<shape.hostCount {
            hosts.append(ScriptedHost(try client("agent-h\(number)"), "h\(number)", self))
        }
    }

    func run() {
        let watch = try? loop.onReadable(descriptor: 0) { [self] in
            var bytes = [UInt8](repeating: 0, count: 256)
            guard read(0, &bytes, bytes.count) > 0 else { exit(0) }
            report()
        }
        `operator`.isUrgent = { true }
        `operator`.onReady = { [self] _ in
            `operator`.request(.command(.addRelease(release)), timeout: .seconds(10)) { _ in }
            for host in hosts { host.ask() }
        }
        `operator`.start()
        for host in hosts { host.start() }
        loop.run()
        watch?.cancel()
    }

    /// A host has a session and its report is in the log.
    func onConnected() {
        guard !isReady, hosts.allSatisfy(\.isConnected) else { return }
        isReady = true
        since = .now
        steps = 0
        locks = 0
        say("ready")
    }

    func onFinished(locks count: Int) {
        steps += 1
        locks += count
    }

    func onRefused() { refused += 1 }

    private func report() {
        let (whole, part) = (ContinuousClock.now - since).components
        say(
            "{\"steps\":\(steps),\"locks\":\(locks),\"refused\":\(refused),"
                + "\"seconds\":\(Double(whole) + Double(part) / 1e18)}")
    }

    func say(_ line: String) {
        print(line)
        fflush(nil)
    }
}

/// One host's agent, with guests that are never more than their names.
final class ScriptedHost {
    private let client: SessionClient
    private let id: HostID
    private unowned let fleet: ScriptedFleet
    private let guests: [GuestReport]
    private var acceptedToken = Token(0)
    private var term: UInt64 = 0
    private(set) var isConnected = false
    private var isAsked = false
    /// Its rollout was over before the answer that there is one had come.
    private var mustAskAgain = false
    /// Steps that its rollout still has to do.
    private var stepsLeft = 0
    private var rollout: RolloutID?
    private var working: Directive?
    /// Kept until it is committed, and sent again with every session, as a real agent does.
    private var unreported: StepReport?

    init(_ client: SessionClient, _ name: String, _ fleet: ScriptedFleet) {
        self.client = client
        self.fleet = fleet
        id = HostID(checked: name)
        guests = (0..<fleet.shape.guestCount).map { number in
            let number = String(1_000 + number)
            return GuestReport(
                id: GuestID(checked: "\(name)-\(number)"), set: SetID(checked: "\(name)-\(number)"),
                updateDomain: UpdateDomain(0), memoryBytes: 1 << 30, vcpuCount: 1, state: .running,
                hypervisorVersion: "1", hasGuestAgent: false)
        }
    }

    func start() {
        client.isUrgent = { [unowned self] in working != nil || unreported != nil }
        client.onReady = { [unowned self] accepted in
            term = accepted.term
            client.request(.hostReport(report), timeout: .seconds(30)) { [self] result in
                guard case .success(.hostReportCommitted) = result else { return }
                isConnected = true
                fleet.onConnected()
                if unreported != nil { sendReport() } else { ask() }
            }
        }
        client.onDown = { [unowned self] _ in isConnected = false }
        client.onMessage = { [unowned self] message, correlation in
            if case .directive(let directive) = message { take(directive, correlation) }
        }
        client.start()
    }

    private var report: HostReport {
        HostReport(
            host: id, agentVersion: "scripted", bootID: "b", acceptedToken: acceptedToken, sets: [],
            guests: guests, abilities: [.hostCommands])
    }

    /// Asks for a rollout over this host, unless it has work.
    func ask() {
        guard isConnected, working == nil, unreported == nil, fleet.operator.isReady
        else { return }
        guard !isAsked else {
            mustAskAgain = true
            return
        }
        isAsked = true
        fleet.operator.request(
            .command(
                .startRollout(
                    release: fleet.release.id, selection: .hosts([id]), policy: Policy())),
            timeout: .seconds(10)
        ) { [self] result in
            isAsked = false
            let isOver = mustAskAgain
            mustAskAgain = false
            if case .success(.commandAccepted) = result { return isOver ? ask() : () }
            fleet.onRefused()
            // Perhaps there is one already; its directive will tell.
            _ = fleet.loop.after(.milliseconds(200)) { [self] in ask() }
        }
    }

    private func take(_ directive: Directive, _ correlation: UInt64) {
        func answer(_ answer: DirectiveAnswer) {
            client.send(
                .directiveAnswer(step: directive.step, token: directive.token, answer: answer),
                correlation: correlation)
        }
        if directive.token < acceptedToken {
            return answer(.staleToken(acceptedToken: acceptedToken))
        }
        answer(.accepted)
        if directive.token == acceptedToken { return }
        acceptedToken = directive.token
        working = directive
        if rollout != directive.step.rollout {
            rollout = directive.step.rollout
            stepsLeft = fleet.shape.holdsWholeHosts ? 1 : fleet.shape.guestCount
        }
        guard fleet.shape.stepTime > .zero else { return finish(directive) }
        var now = timespec()
        clock_gettime(CLOCK_MONOTONIC, &now)
        fleet.say(
            "accepted \(now.tv_sec * 1_000_000 + now.tv_nsec / 1_000) \(term) \(directive.step)")
        _ = fleet.loop.after(fleet.shape.stepTime) { [self] in finish(directive) }
    }

    private func finish(_ directive: Directive) {
        working = nil
        unreported = StepReport(
            step: directive.step, token: directive.token, outcome: .succeeded, reason: "",
            phases: [],
            holds: directive.guests.map { guest in
                HoldRecord(
                    guest: guest, outcome: .succeeded, reason: "",
                    heldAt: Timestamp(microseconds: 1), holdMicroseconds: 12_500, resumedBy: .agent,
                    clockErrorBeforeMicroseconds: nil, clockErrorAfterMicroseconds: nil,
                    clockNote: "", hypervisorBefore: "1", hypervisorAfter: "1")
            })
        sendReport()
    }

    private func sendReport() {
        guard isConnected, let report = unreported else { return }
        client.request(.stepReport(report), timeout: .seconds(30)) { [self] result in
            guard case .success(.stepReportCommitted) = result, unreported == report else { return }
            unreported = nil
            fleet.onFinished(locks: report.holds.count)
            stepsLeft -= 1
            if stepsLeft <= 0 { ask() }
        }
    }
}
