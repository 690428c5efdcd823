import Coordination
import Fleet
import Foundation
import Testing

/// Text scenarios: what was said to the coordinator, a line `----`, and what came of it.
///
/// The files are in Scenarios/. `FERMATA_REWRITE_SCENARIOS=1 swift test --filter Scenario` writes
/// what comes of it now; read the difference before you commit it.
@Suite("Coordinator: scenarios")
struct ScenarioTests {
    static let directory = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
        .appendingPathComponent("Scenarios")

    static var names: [String] {
        let all = (try? FileManager.default.contentsOfDirectory(atPath: directory.path)) ?? []
        return all.filter { $0.hasSuffix(".txt") }.sorted()
    }

    @Test("the files are there")
    func present() { #expect(Self.names.count >= 5) }

    @Test("what is written is what happens", arguments: names)
    func scenario(name: String) throws {
        let url = Self.directory.appendingPathComponent(name)
        let written = try String(contentsOf: url, encoding: .utf8)
        var stage = ScenarioStage()
        let actual = stage.play(written)
        #expect(stage.fleet.broken == [])
        if ProcessInfo.processInfo.environment["FERMATA_REWRITE_SCENARIOS"] == "1" {
            try actual.write(to: url, atomically: true, encoding: .utf8)
        } else {
            #expect(actual == written)
        }
    }
}

/// Plays a scenario and writes down what comes of it.
struct ScenarioStage {
    var fleet = Fixture()

    /// Comments and empty lines between steps stay as they are.
    mutating func play(_ text: String) -> String {
        var output: [String] = []
        var command: String?
        var inResult = false
        for line in text.components(separatedBy: "\n") {
            if line == "----" {
                inResult = true
                output.append(line)
                output += run(command ?? "")
                command = nil
            } else if inResult {
                guard line.isEmpty else { continue }
                inResult = false
                output.append(line)
            } else {
                if !line.isEmpty, !line.hasPrefix("#") { command = line }
                output.append(line)
            }
        }
        return output.joined(separator: "\n")
    }

    private mutating func run(_ line: String) -> [String] {
        let words = line.split(separator: " ").map(String.init)
        let rest = Array(words.dropFirst())
        switch words.first {
        case "host":
            return say(.reportHost(fleet.report(rest[0], Array(rest.dropFirst()))))
        case "guest-state", "guest-version":
            var report = fleet.coordinator.state.hosts[HostID(checked: rest[0])]!.report
            for index in report.guests.indices where report.guests[index].id.rawValue == rest[1] {
                if words[0] == "guest-state" {
                    report.guests[index].state = GuestState(rawValue: rest[2])!
                } else {
                    report.guests[index].hypervisorVersion = rest[2]
                }
            }
            return say(.reportHost(report))
        case "release":
            fleet.release(rest[0], version: rest[1])
            return ["ok"]
        case "host-release":
            return say(
                .addRelease(
                    Fixture.hostRelease(
                        rest[0], component: Component(rest[1])!, holdsGuests: rest.last != "none"),
                    by: "alice"))
        case "agent-release":
            return say(.addRelease(Fixture.agentRelease(rest[0]), by: "alice"))
        case "software":
            var report = fleet.coordinator.state.hosts[HostID(checked: rest[0])]!.report
            report.software = [
                InstalledSoftware(component: Component(rest[1])!, version: rest[2])
            ]
            return say(.reportHost(report))
        case "old-agent":
            var report = fleet.coordinator.state.hosts[HostID(checked: rest[0])]!.report
            report.abilities = []
            return say(.reportHost(report))
        case "plan": return plan(rest[0])
        case "finish-host":
            let host = HostID(checked: rest[0])
            let step = fleet.coordinator.state.step(fleet.coordinator.state.active[host]!)!
            let report = fleet.stepReport(
                step, StepOutcome(rawValue: rest[1])!, held: !rest.contains("not-held"))
            return say(.reportStep(report, host: host))
        case "start":
            return say(
                .startRollout(
                    release: ReleaseID(checked: rest[0]), selection: .allHosts,
                    policy: policy(rest), by: "alice"))
        case "schedule":
            return say(.schedule(connected: Set(rest.map { HostID(checked: $0) })))
        case "finish":
            let report = fleet.stepReport(
                rest[0], StepOutcome(rawValue: rest[1])!, held: !rest.contains("not-held"))
            return say(.reportStep(report, host: fleet.step(of: rest[0]).plan.host))
        case "answer":
            let step = fleet.step(of: rest[0])
            let answer: DirectiveAnswer =
                rest[1] == "stale"
                ? .staleToken(acceptedToken: Token(UInt64(rest[2])!))
                : .refused(reason: rest.dropFirst(2).joined(separator: " "))
            return say(
                .answerDirective(
                    step: step.id, token: step.token!, host: step.plan.host, answer: answer))
        case "abort":
            return say(.abortRollout(RolloutID(parsing: rest[0])!, reason: "lunch", by: "alice"))
        case "pause":
            return say(
                .pauseRollout(
                    RolloutID(parsing: rest[0])!, reason: rest.dropFirst().joined(separator: " "),
                    by: "alice"))
        case "resume":
            return say(.resumeRollout(RolloutID(parsing: rest[0])!, reason: "", by: "alice"))
        case "cordon":
            return say(
                .cordonHost(
                    HostID(checked: rest[0]), reason: rest.dropFirst().joined(separator: " "),
                    by: "alice"))
        case "uncordon":
            return say(.uncordonHost(HostID(checked: rest[0]), reason: "", by: "alice"))
        case "set":
            return fleet.coordinator.setViews().filter { $0.id.rawValue == rest[0] }
                .flatMap(\.warnings)
        case "remove":
            var report = fleet.coordinator.state.hosts[HostID(checked: rest[0])]!.report
            report.guests.removeAll { $0.id.rawValue == rest[1] }
            return say(.reportHost(report))
        case "release-lock":
            return say(
                .releaseLock(
                    SetID(checked: rest[0]), reason: rest.dropFirst().joined(separator: " "),
                    by: "alice"))
        case "locks": return locks()
        case "wait":
            fleet.now += Int64(rest[0])! * 1_000_000
            return ["ok"]
        case "acknowledge":
            return say(
                .acknowledgeNotice(
                    rest.count > 1
                        ? StepID(parsing: rest[1])! : fleet.step(of: rest[0]).id,
                    guest: GuestID(checked: rest[0]),
                    noticedAt: rest.count > 2 ? noticedAt(rest[1], rest[2]) : nil))
        case "takeover":
            return say(
                .startTerm(term: fleet.coordinator.state.term + 1, server: rest[0]))
        case "notices": return notices()
        case "next":
            let now = Timestamp(microseconds: fleet.now)
            let next = fleet.coordinator.nextNoticeAt(after: now)
            return [next.map { "in \(($0.microseconds - fleet.now) / 1_000_000) s" } ?? "never"]
        case "rollout": return rollout(rest)
        default: return ["unknown command: \(line)"]
        }
    }

    private func policy(_ words: [String]) -> Policy {
        var policy = Policy()
        for word in words {
            let parts = word.split(separator: "=")
            if word == "acknowledgement=ignored" { policy.acknowledgement = .ignored }
            guard parts.count == 2, let number = UInt32(parts[1]) else { continue }
            if parts[0] == "parallelism" { policy.parallelism = number }
            if parts[0] == "failures-max" { policy.failuresMax = number }
            if parts[0] == "notice" { policy.noticeMilliseconds = number * 1_000 }
        }
        return policy
    }

    /// - Parameter which: `this` one that stands, or an `earlier` one.
    private func noticedAt(_ step: String, _ which: String) -> Timestamp {
        let step = fleet.coordinator.state.step(StepID(parsing: step)!)!
        let now = step.notice!.noticedAt
        return which == "this" ? now : Timestamp(microseconds: now.microseconds - 1)
    }

    private func notices() -> [String] {
        let notices = fleet.coordinator.notices()
        return notices.isEmpty
            ? ["none"]
            : notices.map { notice in
                "\(notice.step) \(notice.guests.map(\.rawValue).joined(separator: "+"))"
                    + (notice.isStarted ? " started" : " noticed")
                    + notice.acknowledgedBy.map { " \($0)" }.joined()
            }
    }

    private mutating func say(_ command: Command) -> [String] {
        let before = fleet.coordinator.state.lastSequence
        switch fleet.run(command) {
        case .failure(let refusal):
            return ["refused (\(refusal.code.rawValue)): \(refusal.message)"]
                + (refusal.advice.isEmpty ? [] : ["  \(refusal.advice)"])
        case .success(let facts):
            if facts.isEmpty { return ["nothing"] }
            let events = fleet.coordinator.state.events.filter { $0.sequence > before }
            return facts.map { "fact: \(describe($0.body))" } + events.map { describe($0.body) }
        }
    }

    private func describe(_ body: Fact.Body) -> String {
        switch body {
        case .termStarted(let term, let server): "term \(term) of \(server)"
        case .hostReported(let report, let placements):
            "host \(report.host)"
                + placements.map {
                    " \($0.guest)=\($0.updateDomain)\($0.byLeader ? "(placed)" : "")"
                }.joined()
        case .releaseAdded(let release, _): "release \(release.id)"
        case .rolloutStarted(let started): "\(started.id) with \(started.steps.count) steps"
        case .rolloutAborted(let id, _, _): "\(id) aborted"
        case .stepNoticed(let id, let notBefore):
            "\(id) noticed for \((notBefore.microseconds - fleet.now) / 1_000_000) s: \(name(id))"
        case .noticeAcknowledged(let id, let guest): "\(id) acknowledged by \(guest)"
        case .noticeWithdrawn(let id, let reason): "notice of \(id) withdrawn: \(reason)"
        case .rolloutPaused(let id, _, _): "\(id) paused"
        case .rolloutResumed(let id, _, _): "\(id) resumed"
        case .hostCordoned(let host, _, _): "host \(host) cordoned"
        case .hostUncordoned(let host, _, _): "host \(host) uncordoned"
        case .stepGranted(let id, let token):
            "\(id) granted with token \(token): \(name(id))"
        case .stepRegranted(let id, let token): "\(id) has token \(token) now"
        case .stepCancelled(let id, let reason): "\(id) cancelled: \(reason)"
        case .stepFinished(let report): "\(report.step) finished: \(report.outcome.rawValue)"
        case .strayReported(let report, let host): "stray report of \(report.step) by \(host)"
        case .lockReleased(let set, let reason, let by): "\(set) released by \(by): \(reason)"
        case .eventsAcknowledged(let notifier, let sequence): "\(notifier) has \(sequence)"
        case .notifierForgotten(let notifier, _, _): "notifier \(notifier) forgotten"
        case .deliveryLeaseGranted(let notifier, let number): "\(notifier) has lease \(number)"
        case .deliveryLeaseGivenUp(let notifier): "\(notifier) gave up its lease"
        case .deliveriesReported(_, let sink, let sequence): "\(sink) has \(sequence)"
        }
    }

    private func name(_ id: StepID) -> String {
        let plan = fleet.coordinator.state.step(id)!.plan
        let pairs = plan.pairs.map(\.description).joined(separator: " ")
        return
            (plan.guests.isEmpty
            ? "host \(plan.host)" : plan.guests.map(\.rawValue).joined(separator: "+"))
            + (pairs.isEmpty ? "" : " \(pairs)")
    }

    private func describe(_ body: FleetEvent.Body) -> String {
        switch body {
        case .rolloutStarted(let id, let release, _): "event: \(id) started (\(release))"
        case .rolloutChanged(let id, let state, let reason):
            "event: \(id) is \(state.rawValue)" + (reason.isEmpty ? "" : ": \(reason)")
        case .stepNoticed(let notice):
            "event: \(notice.step) noticed to \(notice.guests.map(\.rawValue).joined(separator: "+"))"
        case .noticeAcknowledged(let id, let guest): "event: \(id) acknowledged by \(guest)"
        case .noticeWithdrawn(let id, let reason): "event: notice of \(id) withdrawn: \(reason)"
        case .stepGranted(let id, _, _, _, _, _, _): "event: \(id) granted"
        case .stepEnded(let id, _, let outcome, _):
            "event: \(id) over: \(outcome?.rawValue ?? "cancelled")"
        case .stepEndedWithoutHold(let id, _, let reason):
            "event: \(id) ended without a hold: \(reason)"
        case .holdFinished(let hold): "event: hold \(hold.holdID) \(hold.record.outcome.rawValue)"
        case .lockReleased(let set, _, _): "event: \(set) released"
        }
    }

    /// With every agent connected.
    private func plan(_ release: String) -> [String] {
        let result = fleet.coordinator.planView(
            ReleaseID(checked: release), .allHosts, Policy(),
            connected: Set(fleet.coordinator.state.hosts.keys))
        switch result {
        case .failure(let refusal): return ["refused: \(refusal.message)"]
        case .success(let plan):
            return plan.steps.map { step in
                "wave \(step.wave): host \(step.host)"
                    + step.guests.map { " \($0)" }.joined()
                    + step.pairs.map { " \($0)" }.joined()
            } + plan.skipped.map { "skipped \($0.name): \($0.reason)" } + plan.problems
        }
    }

    private func locks() -> [String] {
        let views = fleet.coordinator.lockViews()
        return views.isEmpty
            ? ["none"]
            : views.map { "\($0.set)/\($0.updateDomain)\($0.stuck ? " STUCK" : ""): \($0.reason)" }
    }

    private func rollout(_ words: [String]) -> [String] {
        let connected = Set(words.dropFirst().map { HostID(checked: $0) })
        guard
            let view = fleet.coordinator.rolloutView(
                RolloutID(parsing: words[0])!, connected: connected)
        else { return ["no such rollout"] }
        return [
            "\(view.id) \(view.state.rawValue)" + (view.reason.isEmpty ? "" : ": \(view.reason)")
        ]
            + view.steps.map { step in
                let guests =
                    step.guests.isEmpty
                    ? "host \(step.host)" : step.guests.map(\.rawValue).joined(separator: "+")
                return "\(step.id) \(guests) \(step.phase.rawValue)"
                    + (step.outcome.map { " \($0.rawValue)" } ?? "")
                    + (step.reason.isEmpty ? "" : ": \(step.reason)")
            }
    }
}
