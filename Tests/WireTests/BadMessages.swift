import Fleet
import SwiftProtobuf
import Testing

@testable import Wire

/// A body that must be refused, and the field that the refusal names.
struct BadMessage: Sendable, CustomTestStringConvertible {
    var name: String
    var kind: MessageKind
    var body: [UInt8]
    var field: String
    var testDescription: String { name }
}

/// Made from the good samples by breaking one thing each; also vectors.
enum BadMessages {
    static let all: [BadMessage] = session + agents + operators + events + works

    static func bad<Body: SwiftProtobuf.Message>(
        _ name: String, _ kind: MessageKind, _ field: String, _ body: Body,
        _ change: (inout Body) -> Void
    ) -> BadMessage {
        var body = body
        change(&body)
        guard let bytes: [UInt8] = try? body.serializedBytes() else {
            preconditionFailure("cannot encode \(name)")
        }
        return BadMessage(name: name, kind: kind, body: bytes, field: field)
    }

    private static let session: [BadMessage] = [
        BadMessage(
            name: "truncated varint", kind: .hostReportCommitted, body: [0x08, 0xFF],
            field: "hostReportCommitted"),
        BadMessage(
            name: "length beyond the end", kind: .close, body: [0x12, 0x05, 0x41], field: "close"),
        BadMessage(
            name: "text that is not UTF-8", kind: .close, body: [0x12, 0x02, 0xC3, 0x28],
            field: "close"),
        bad("hello with wrong magic", .hello, "hello.magic", Samples.hello().wire) {
            $0.magic = 0x5445_4C4E
        },
        bad("hello with version 0", .hello, "hello.version_min", Samples.hello().wire) {
            $0.versionMin = 0
        },
        bad("hello with reversed versions", .hello, "hello.version_min", Samples.hello().wire) {
            $0.versionMin = 3
            $0.versionMax = 2
        },
        bad("hello with short instance", .hello, "hello.instance", Samples.hello().wire) {
            $0.instance.removeLast()
        },
        bad("hello with bad cluster", .hello, "hello.cluster", Samples.hello().wire) {
            $0.cluster = "demo/x"
        },
        bad("hello with unknown role", .hello, "hello.role", Samples.hello().wire) {
            $0.role = "root"
        },
        bad("hello without name", .hello, "hello.name", Samples.hello().wire) { $0.name = "" },
        bad(
            "accepted without keepalive", .helloAccepted, "helloAccepted.keepalive_milliseconds",
            Samples.accepted.wire
        ) { $0.keepaliveMilliseconds = 0 },
        bad(
            "accepted with silence not above keepalive", .helloAccepted,
            "helloAccepted.silence_milliseconds", Samples.accepted.wire
        ) { $0.silenceMilliseconds = 1_000 },
    ]

    private static let agents: [BadMessage] = [
        bad("host report without host", .hostReport, "hostReport.host", Samples.hostReport.wire) {
            $0.host = ""
        },
        bad(
            "host report with a guest twice", .hostReport, "hostReport.guests[1]",
            Samples.hostReport.wire
        ) { $0.guests[1].id = "db-0" },
        bad(
            "host report with guests out of order", .hostReport, "hostReport.guests[1]",
            Samples.hostReport.wire
        ) { $0.guests.reverse() },
        bad(
            "host report with bad guest name", .hostReport, "hostReport.guests[0].id",
            Samples.hostReport.wire
        ) { $0.guests[0].id = "-db" },
        bad(
            "host report with UD 20", .hostReport, "hostReport.guests[0].update_domain",
            Samples.hostReport.wire
        ) { $0.guests[0].updateDomain = 20 },
        bad(
            "host report with unspecified state", .hostReport, "hostReport.guests[1].state",
            Samples.hostReport.wire
        ) { $0.guests[1].state = .unspecified },
        bad(
            "host report with unknown state", .hostReport, "hostReport.guests[1].state",
            Samples.hostReport.wire
        ) { $0.guests[1].state = .UNRECOGNIZED(99) },
        bad(
            "host report with a set of no UDs", .hostReport,
            "hostReport.sets[0].update_domain_count", Samples.hostReport.wire
        ) { $0.sets[0].updateDomainCount = 0 },
        bad("directive without step", .directive, "directive.step", Samples.directive.wire) {
            $0.clearStep()
        },
        bad(
            "directive of rollout 0", .directive, "directive.step.rollout", Samples.directive.wire
        ) { $0.step.rollout = 0 },
        bad("directive with token 0", .directive, "directive.token", Samples.directive.wire) {
            $0.token = 0
        },
        bad(
            "hypervisor directive without guests", .directive, "directive.guests",
            Samples.directive.wire
        ) {
            $0.guests = []
        },
        bad("directive without release", .directive, "directive.release", Samples.directive.wire) {
            $0.clearRelease()
        },
        bad(
            "directive with short digest", .directive, "directive.release.sha256",
            Samples.directive.wire
        ) { $0.release.sha256.removeLast() },
        bad(
            "directive with 30,001 ms", .directive, "directive.deadline_milliseconds",
            Samples.directive.wire
        ) { $0.deadlineMilliseconds = 30_001 },
        bad(
            "directive with 65 guests", .directive, "directive.guests", Samples.directive.wire
        ) { $0.guests = (10..<75).map { "g\($0)" } },
        bad(
            "directive answer without an answer", .directiveAnswer, "directiveAnswer.answer",
            PBDirectiveAnswer()
        ) {
            $0.step = Samples.step.wire
            $0.token = 1
        },
        bad(
            "step report with hold of negative length", .stepReport,
            "stepReport.holds[0].hold_microseconds", Samples.stepReport.wire
        ) { $0.holds[0].holdMicroseconds = -1 },
        bad(
            "step report with hold longer than clocks tell", .stepReport,
            "stepReport.holds[0].hold_microseconds", Samples.stepReport.wire
        ) { $0.holds[0].holdMicroseconds = 253_402_300_800_000_000 },
        bad(
            "step report with hold after the year 9999", .stepReport,
            "stepReport.holds[0].held_at_microseconds", Samples.stepReport.wire
        ) { $0.holds[0].heldAtMicroseconds = 253_402_300_800_000_000 },
        bad(
            "step report with clock error before all time", .stepReport,
            "stepReport.holds[0].clock_error_after_microseconds", Samples.stepReport.wire
        ) { $0.holds[0].clockErrorAfterMicroseconds = Int64.min },
        bad(
            "step progress before the year 1", .stepProgress, "stepProgress.at_microseconds",
            StepProgress(
                step: Samples.step, token: Token(1), phase: .held, at: Timestamp(microseconds: 0)
            ).wire
        ) { $0.atMicroseconds = -62_135_596_800_000_001 },
        bad(
            "host report with token 2^63", .hostReport, "hostReport.accepted_token",
            Samples.hostReport.wire
        ) { $0.acceptedToken = 1 << 63 },
        bad(
            "host report with 65 abilities", .hostReport, "hostReport.abilities",
            Samples.hostReport.wire
        ) { $0.abilities = (0..<65).map { "ability-\($0)" } },
        bad(
            "host report with a guest of 33 addresses", .hostReport,
            "hostReport.guests[0].addresses", Samples.hostReport.wire
        ) { $0.guests[0].addresses = (0..<33).map { "192.0.2.\($0)" } },
        bad(
            "step report with 65 phases", .stepReport, "stepReport.phases", Samples.stepReport.wire
        ) { $0.phases = Array(repeating: $0.phases[0], count: 65) },
        bad(
            "directive with 65 directories", .directive,
            "directive.release.hypervisor.data_directories", Samples.directive.wire
        ) { $0.release.hypervisor.dataDirectories = (0..<65).map { "/usr/share/\($0)" } },
        bad(
            "step report with unknown resumer", .stepReport, "stepReport.holds[1].resumed_by",
            Samples.stepReport.wire
        ) { $0.holds[1].resumedBy = .UNRECOGNIZED(4) },
        bad(
            "step report of step number 0", .stepReport, "stepReport.step.number",
            Samples.stepReport.wire
        ) { $0.step.number = 0 },
    ]

    private static let operators: [BadMessage] = [
        bad("command without a command", .command, "command.command", PBCommand()) { _ in },
        bad(
            "start with all hosts and some", .command, "command.start_rollout.selection.hosts",
            OperatorCommand.startRollout(
                release: Samples.release.id, selection: .allHosts, policy: Samples.policy
            ).wire
        ) {
            guard case .startRollout(var start) = $0.command else { return }
            start.selection.hosts = ["a"]
            $0.command = .startRollout(start)
        },
        bad(
            "start without selection", .command, "command.start_rollout.selection",
            OperatorCommand.startRollout(
                release: Samples.release.id, selection: .allHosts, policy: Samples.policy
            ).wire
        ) {
            guard case .startRollout(var start) = $0.command else { return }
            start.clearSelection()
            $0.command = .startRollout(start)
        },
        bad("query without a query", .query, "query.query", PBQuery()) { _ in },
        bad("query of rollout 0", .query, "query.rollout", PBQuery()) { $0.query = .rollout(0) },
        bad("refused without code", .refused, "refused.code", PBRefused()) {
            $0.message = "no"
        },
    ]

    private static let events: [BadMessage] = [
        bad("event without body", .eventBatch, "eventBatch.events[0].body", PBEventBatch()) {
            $0.events = [.with { $0.sequence = 1 }]
        },
        bad("event 0", .eventBatch, "eventBatch.events[0].sequence", PBEventBatch()) {
            $0.events = [Samples.events[0].wire]
            $0.events[0].sequence = 0
        },
        bad(
            "finished hold without record", .eventBatch,
            "eventBatch.events[0].hold_finished.record", PBEventBatch()
        ) {
            var hold = Samples.finishedHold.wire
            hold.clearRecord()
            $0.events = [Samples.events[4].wire]
            $0.events[0].body = .holdFinished(hold)
        },
    ]
}
