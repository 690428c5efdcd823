import Fleet
import Testing

@testable import Wire

/// Releases, directives and reports that break a rule of what a release does.
extension BadMessages {
    /// A directive with commands, broken by `change`.
    private static func bad(
        _ name: String, _ field: String, _ change: (inout PBHostWork) -> Void
    ) -> BadMessage {
        bad(name, .directive, "directive.release.host_work.\(field)", Samples.hostDirective.wire) {
            change(&$0.release.hostWork)
        }
    }

    static let works: [BadMessage] =
        commands + surroundings + [
            bad(
                "release without work", .directive, "directive.release.work", Samples.directive.wire
            ) { $0.release.work = nil },
            bad(
                "commands with a digest of a hypervisor", .directive, "directive.release.sha256",
                Samples.hostDirective.wire
            ) { $0.release.sha256 = Samples.directive.wire.release.sha256 },
            bad(
                "agent program without a file", .directive,
                "directive.release.agent_program.program",
                Samples.emptyDirective.wire
            ) { $0.release.agentProgram.clearProgram() },
            bad(
                "agent program at a relative path", .directive,
                "directive.release.agent_program.program.path", Samples.emptyDirective.wire
            ) { $0.release.agentProgram.program.path = "fermata" },
            bad(
                "agent program with short digest", .directive,
                "directive.release.agent_program.program.sha256", Samples.emptyDirective.wire
            ) { $0.release.agentProgram.program.sha256.removeLast() },
            bad(
                "agent program with guests", .directive, "directive.guests",
                Samples.emptyDirective.wire
            ) { $0.guests = ["db-0"] },
            bad(
                "host report with bad ability", .hostReport, "hostReport.abilities[1]",
                Samples.ableHostReport.wire
            ) { $0.abilities[1] = "host commands" },
            bad(
                "host report with software twice", .hostReport, "hostReport.software[1]",
                Samples.ableHostReport.wire
            ) { $0.software[1].component = "agent" },
            bad(
                "host report with software without a name", .hostReport,
                "hostReport.software[0].component", Samples.ableHostReport.wire
            ) { $0.software[0].component = "" },
        ]

    private static let commands: [BadMessage] = [
        bad("commands without apply", "apply") { $0.clearApply() },
        bad("command without a path", "apply.path") { $0.apply.path = "" },
        bad("command with a relative path", "check.path") { $0.check.path = "bin/check" },
        bad("command with NUL in its path", "undo.path") { $0.undo.path = "/bin/u\0" },
        bad("command with 65 arguments", "apply.arguments") {
            $0.apply.arguments = Array(repeating: "x", count: 65)
        },
        bad("command with NUL in an argument", "apply.arguments[1]") {
            $0.apply.arguments = ["x", "y\0z"]
        },
        bad("command with an argument of 4,097 bytes", "prepare.arguments[0]") {
            $0.prepare.arguments = [String(repeating: "x", count: 4_097)]
        },
        bad("command with short digest", "apply.sha256") { $0.apply.sha256.removeLast() },
        bad("command without a limit", "prepare.limit_milliseconds") {
            $0.prepare.limitMilliseconds = 0
        },
        bad("command with a limit of more than an hour", "prepare.limit_milliseconds") {
            $0.prepare.limitMilliseconds = 3_600_001
        },
    ]

    private static let surroundings: [BadMessage] = [
        bad("65 variables", "environment") { work in
            work.environment = (10..<75).map { number in .with { $0.name = "V\(number)" } }
        },
        bad("variable without a name", "environment[0].name") { $0.environment[0].name = "" },
        bad("variable that begins with a digit", "environment[0].name") {
            $0.environment[0].name = "1LANG"
        },
        bad("variable with an equals sign", "environment[1].name") {
            $0.environment[1].name = "OVS=1"
        },
        bad("variable of the agent", "environment[0].name") {
            $0.environment[0].name = "FERMATA_STEP"
        },
        bad("variable with NUL in its value", "environment[0].value") {
            $0.environment[0].value = "\0"
        },
        bad("variables out of order", "environment[1]") { $0.environment.reverse() },
        bad("variable twice", "environment[1]") { $0.environment[1].name = "LANG" },
        bad("relative working directory", "working_directory") { $0.workingDirectory = "var" },
        bad("user with NUL", "user") { $0.user = "a\0" },
        bad("artifact at a relative path", "artifact.path") { $0.artifact.path = "ovs.deb" },
        bad("artifact without a digest", "artifact.sha256") { $0.artifact.sha256 = .init() },
    ]
}
