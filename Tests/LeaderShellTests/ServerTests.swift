import Coordination
import Fleet
import Foundation
import LogStore
import Logging
import SessionCore
import SessionShell
import Testing
import UvLoop
import Wire

@testable import LeaderShell

/// A real server on loopback with a real log, and real sessions to it, all on one loop.
private final class Stage {
    let loop: Loop
    let directory = NSTemporaryDirectory() + "fermata-server-\(UUID().uuidString)"
    let log = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
    var server: LeaderShell
    var address: SocketAddress!
    var term: UInt64 = 0

    init(issue: [(String, String)]) throws {
        loop = try Loop()
        let pki = directory + "/pki"
        try FileManager.default.createDirectory(
            atPath: pki, withIntermediateDirectories: true)
        try CertificateAuthority.create(cluster: "test", directory: pki, days: 1)
        for (role, name) in issue + [("server", "s1")] {
            _ = try CertificateAuthority.issue(
                role: role, name: name, cluster: "test", directory: pki, days: 1, addresses: [])
        }
        server = try Self.makeServer(loop, directory, log, port: 0)
        try start()
    }

    var auditPath: String { directory + "/audit.jsonl" }

    deinit {
        server.stop()
        try? FileManager.default.removeItem(atPath: directory)
    }

    private static func makeServer(
        _ loop: Loop, _ directory: String, _ log: Logger, port: UInt16
    ) throws -> LeaderShell {
        let credentials = try Credentials.load(
            prefix: directory + "/pki/server-s1", roles: [.server])
        return LeaderShell(
            credentials: credentials, listen: SocketAddress(ip: "127.0.0.1", port: port)!,
            store: SQLiteLogStore(directory: directory + "/data", loop: loop),
            softwareVersion: "test", loop: loop, log: log, auditPath: directory + "/audit.jsonl")
    }

    private func start() throws {
        var started = false
        server.start { [unowned self] result in
            started = true
            switch result {
            case .success(let (address, term)):
                self.address = address
                self.term = term ?? 0
            case .failure(let error): Issue.record("\(error)")
            }
        }
        run("the server to start") { started }
    }

    /// Stops the server and starts another on its log and port.
    func restart() throws {
        server.stop()
        server = try Self.makeServer(loop, directory, log, port: address.port)
        try start()
    }

    /// Runs the loop until `condition` holds; a minute is far more than any of it takes.
    func run(_ what: String, until condition: @escaping () -> Bool) {
        var gaveUp = false
        let limit = loop.after(.seconds(60)) { [loop] in
            gaveUp = true
            loop.stop()
        }
        let check = loop.every(.milliseconds(2)) { [loop] in if condition() { loop.stop() } }
        if !condition() { loop.run() }
        limit.cancel()
        check.cancel()
        #expect(!gaveUp, "waited a minute for \(what)")
    }

    func client(_ role: Role, _ name: String) throws -> SessionClient {
        let credentials = try Credentials.load(
            prefix: directory + "/pki/\(role.rawValue)-\(name)", roles: [role])
        return SessionClient(
            on: loop, servers: ["127.0.0.1:\(address.port)"], credentials: credentials,
            software: "test", logger: log)
    }

    func ask(_ client: SessionClient, _ message: Message) throws -> Message {
        run("a session") { client.isReady }
        var answer: Result<Message, RequestError>?
        client.request(message, timeout: .seconds(30)) { answer = $0 }
        run("an answer to \(message.kind)") { answer != nil }
        return try #require(answer).get()
    }
}

/// An agent's side of the wire: reports its guests and answers directives as told.
private final class ScriptedAgent {
    let client: SessionClient
    let host: HostID
    var report: HostReport
    var directives: [Directive] = []
    var committedReports: [StepID] = []
    var downs: [SessionDown] = []

    init(_ stage: Stage, _ name: String, sets: [String]) throws {
        client = try stage.client(.agent, name)
        host = HostID(checked: name)
        report = HostReport(
            host: host, agentVersion: "t", bootID: "b", acceptedToken: Token(0), sets: [],
            guests: sets.enumerated().map { offset, set in
                GuestReport(
                    id: GuestID(checked: "\(name)\(offset)"), set: SetID(checked: set),
                    updateDomain: nil, memoryBytes: 1, vcpuCount: 1, state: .running,
                    hypervisorVersion: "1", hasGuestAgent: true)
            })
        client.onReady = { [unowned self] _ in client.send(.hostReport(report)) }
        client.onDown = { [unowned self] down in downs.append(down) }
        client.onMessage = { [unowned self] message, correlation in
            switch message {
            case .directive(let directive):
                directives.append(directive)
                client.send(
                    .directiveAnswer(
                        step: directive.step, token: directive.token, answer: .accepted),
                    correlation: correlation)
            case .stepReportCommitted(let step, _): committedReports.append(step)
            default: break
            }
        }
        client.start()
    }

    func finish(_ directive: Directive) {
        client.send(
            .stepReport(
                StepReport(
                    step: directive.step, token: directive.token, outcome: .succeeded, reason: "",
                    phases: [],
                    holds: directive.guests.map {
                        HoldRecord(
                            guest: $0, outcome: .succeeded, reason: "",
                            heldAt: Timestamp(microseconds: 1), holdMicroseconds: 1,
                            resumedBy: .agent, clockErrorBeforeMicroseconds: nil,
                            clockErrorAfterMicroseconds: nil, clockNote: "",
                            hypervisorBefore: "1", hypervisorAfter: "2")
                    })))
    }
}

private let release = Release(
    id: ReleaseID(checked: "q2"), component: .hypervisor,
    hypervisor: Hypervisor(version: "2", path: "/q"), sha256: Array(repeating: 1, count: 32))

@Suite("Server over real sessions", .serialized)
struct ServerTests {
    @Test("a rollout goes from command to directive to report to event, across a restart")
    func rollout() throws {
        let stage = try Stage(issue: [
            ("agent", "a"), ("agent", "b"), ("operator", "al"), ("notifier", "n"),
        ])
        let a = try ScriptedAgent(stage, "a", sets: ["db"])
        let b = try ScriptedAgent(stage, "b", sets: ["db"])
        let alice = try stage.client(.operator, "al")
        alice.start()
        _ = try stage.ask(alice, .command(.addRelease(release)))
        while true {
            guard case .queryResult(.status(let status)) = try stage.ask(alice, .query(.status))
            else { break }
            if status.guestCount == 2, status.connectedHostCount == 2 { break }
        }
        let answer = try stage.ask(
            alice,
            .command(
                .startRollout(release: release.id, selection: .allHosts, policy: Policy())))
        guard case .commandAccepted(_, let rollout) = answer else {
            Issue.record("\(answer)")
            return
        }
        #expect(rollout == RolloutID(1))
        stage.run("the first directive") { a.directives.count + b.directives.count == 1 }
        let first = a.directives.isEmpty ? b : a

        // What was accepted survives the server; the same directive comes again, and only that.
        try stage.restart()
        #expect(stage.term == 2)
        stage.run("the directive again") { first.directives.count == 2 }
        #expect(first.directives[0] == first.directives[1])
        #expect(a.directives.count + b.directives.count == 2)

        first.finish(first.directives[0])
        let second = first === a ? b : a
        stage.run("the other set's turn") { second.directives.count == 1 }
        #expect(first.committedReports == [first.directives[0].step])
        #expect(second.directives[0].token > first.directives[0].token)
        second.finish(second.directives[0])

        let notifier = try stage.client(.notifier, "n")
        var events: [FleetEvent] = []
        notifier.onReady = { _ in
            notifier.send(.followEvents(afterSequence: 0, progress: false), correlation: 1)
        }
        notifier.onMessage = { message, _ in
            if case .eventBatch(let batch, _) = message { events += batch }
        }
        notifier.start()
        stage.run("both holds") {
            events.count {
                if case .holdFinished = $0.body { true } else { false }
            } == 2
        }
        #expect(events.map(\.sequence) == Array(1...UInt64(events.count)))
    }

    @Test("an agent that speaks for another host is closed")
    func wrongHost() throws {
        let stage = try Stage(issue: [("agent", "a")])
        let agent = try ScriptedAgent(stage, "a", sets: [])
        agent.report.host = HostID(checked: "b")
        stage.run("the session's end") { !agent.downs.isEmpty }
        #expect("\(agent.downs[0].problem)".contains("host a, not b"))
    }

    @Test("a lock is not released by hand while its agent is at work")
    func releaseWhileAtWork() throws {
        let stage = try Stage(issue: [("agent", "a"), ("operator", "al")])
        let agent = try ScriptedAgent(stage, "a", sets: ["db"])
        let alice = try stage.client(.operator, "al")
        alice.start()
        _ = try stage.ask(alice, .command(.addRelease(release)))
        var started = false
        while !started {
            let answer = try stage.ask(
                alice,
                .command(
                    .startRollout(release: release.id, selection: .allHosts, policy: Policy())))
            if case .commandAccepted = answer { started = true }
        }
        stage.run("the directive") { agent.directives.count == 1 }
        let answer = try stage.ask(
            alice, .command(.releaseLock(SetID(checked: "db"), reason: "impatience")))
        guard case .refused(let refusal) = answer else {
            Issue.record("\(answer)")
            return
        }
        #expect(refusal.code == .conflict)
        #expect(refusal.message.contains("at work"))
    }

    @Test("the same agent twice: the newer session is the one that counts")
    func replaced() throws {
        let stage = try Stage(issue: [("agent", "a"), ("operator", "al")])
        let older = try ScriptedAgent(stage, "a", sets: ["db"])
        stage.run("the first session") { older.client.isReady }
        let newer = try ScriptedAgent(stage, "a", sets: ["db", "web"])
        stage.run("the first session's end") { !older.downs.isEmpty }
        let alice = try stage.client(.operator, "al")
        alice.start()
        var count: UInt32 = 0
        while count != 2 {
            guard case .queryResult(.status(let status)) = try stage.ask(alice, .query(.status))
            else { break }
            count = status.guestCount
        }
        #expect(newer.client.isReady)
    }

    @Test("an agent that speaks of another host's step is closed, and the step goes on")
    func wrongStep() throws {
        let stage = try Stage(issue: [("agent", "a"), ("agent", "b"), ("operator", "al")])
        let a = try ScriptedAgent(stage, "a", sets: ["db"])
        let b = try ScriptedAgent(stage, "b", sets: ["web"])
        let alice = try stage.client(.operator, "al")
        alice.start()
        _ = try stage.ask(alice, .command(.addRelease(release)))
        let onlyA = Message.command(
            .startRollout(release: release.id, selection: .hosts([a.host]), policy: Policy()))
        while case .refused = try stage.ask(alice, onlyA) {}
        stage.run("the directive") { a.directives.count == 1 && b.client.isReady }
        let directive = a.directives[0]
        for message: Message in [
            .stepProgress(
                StepProgress(
                    step: directive.step, token: directive.token, phase: .held,
                    at: Timestamp(microseconds: 1))),
            .directiveAnswer(
                step: directive.step, token: directive.token, answer: .refused(reason: "no")),
            .stepReport(
                StepReport(
                    step: directive.step, token: directive.token, outcome: .failed, reason: "no",
                    phases: [], holds: [])),
        ] {
            b.downs = []
            stage.run("a session of b") { b.client.isReady }
            b.client.send(message)
            stage.run("its end") { !b.downs.isEmpty }
            #expect("\(b.downs[0].problem)".contains("is on host a"), "\(message.kind)")
            #expect(b.downs[0].problem.kind == .notPermitted)
            b.client.start()
        }
        a.finish(directive)
        stage.run("a's own report") { a.committedReports == [directive.step] }
    }

    @Test("what operators asked for is on record before they are answered, refused or not")
    func audit() throws {
        let stage = try Stage(issue: [("operator", "al"), ("agent", "a")])
        let alice = try stage.client(.operator, "al")
        alice.start()
        func lines() throws -> [String] {
            try String(contentsOfFile: stage.auditPath, encoding: .utf8)
                .split(separator: "\n").map(String.init)
        }
        _ = try stage.ask(alice, .command(.addRelease(release)))
        #expect(try lines().count == 1)
        _ = try stage.ask(alice, .command(.abortRollout(RolloutID(9), reason: "say \"no\"\n")))
        let record = try lines()
        #expect(record.count == 2)
        #expect(record[0].contains(#""identity":"fermata://test/operator/al""#))
        #expect(record[0].contains(#""command":"addRelease","release":"q2""#))
        #expect(record[0].contains(#""outcome":"accepted","index":"#))
        #expect(record[1].contains(#""reason":"say \"no\"\n""#))
        #expect(record[1].contains(#""outcome":"refused","code":"notFound""#))
        // A role that may not: its session is closed, and that is on record, too.
        let agent = try ScriptedAgent(stage, "a", sets: [])
        agent.report.host = HostID(checked: "b")
        stage.run("the agent's end") { !agent.downs.isEmpty }
        stage.run("the record") { ((try? lines().count) ?? 0) == 3 }
        #expect(try lines()[2].contains(#""code":"notPermitted""#))

        // Without room for the record the answer comes all the same, and the figures tell.
        try FileManager.default.removeItem(atPath: stage.auditPath)
        try FileManager.default.createDirectory(
            atPath: stage.auditPath, withIntermediateDirectories: true)
        _ = try stage.ask(alice, .command(.abortRollout(RolloutID(9), reason: "")))
        guard case .queryResult(.status(let status)) = try stage.ask(alice, .query(.status)) else {
            Issue.record("no status")
            return
        }
        let counters = status.traffic.counters
        #expect(counters.contains(Counter(name: "audit_failed", reason: "", count: 1)))
        #expect(counters.contains(Counter(name: "commands_accepted", reason: "", count: 1)))
        #expect(counters.contains(Counter(name: "commands_refused", reason: "notFound", count: 2)))
        #expect(status.traffic.sessionCount == 1)
    }

    @Test("certificates that end within 30 days are warned of, each once")
    func certificates() throws {
        let stage = try Stage(issue: [("operator", "al")])
        let alice = try stage.client(.operator, "al")
        alice.start()
        guard case .queryResult(.status(let status)) = try stage.ask(alice, .query(.status)) else {
            Issue.record("no status")
            return
        }
        #expect(
            status.traffic.certificates.map(\.identity)
                == [
                    "authority/ca", "authority/revocation-list", "server/s1", "operator/al",
                ].map { "fermata://test/\($0)" })
        #expect(status.traffic.certificates[1].serial == "1")
        for words in [
            "certificate fermata://test/operator/al ends in", "server-s1.pem ends soon",
            "ca.pem ends soon", "crl.pem ends soon", "pki renew operator al",
        ] {
            #expect(status.warnings.count { $0.contains(words) } == 1, "\(words)")
        }
    }
}
