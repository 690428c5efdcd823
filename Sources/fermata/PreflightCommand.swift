import AgentCore
import AgentShell
import ArgumentParser
import Fleet
import HostConfiguration
import Presentation
import UvLoop

struct PreflightCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "preflight", abstract: "Says whether a host's guests can be handed over.",
        discussion: """
            Run it on the host itself, as the agent's user. It asks the running agent; without one \
            it looks into the guests' QEMUs itself. Nothing is changed and no guest is held. The \
            same checks and two more run before every hold, and the server hears of what blocks a \
            guest.

            Each finding has a name that does not change, whether it blocks a hold or only warns, \
            what is wrong, and what would mend it. With --release-binary the QEMU to change to is \
            asked as well: whether it starts, and whether it knows the guests' machine types. Two \
            checks need it waiting beside the guest's own QEMU, and are made only when a step \
            prepares, before anybody is held: `processor` (CPU features that are missing or new) \
            and `hotplug` (devices that came or went since the guest was started).

              fermata preflight --host-file host.yaml
              fermata preflight --host-file host.yaml --guest db-0 \\
                  --release-binary /opt/qemu-new/bin/qemu --json

            Exit code: 0 if nothing blocks, 1 if something does, 65 for a bad host file or a guest \
            that it does not have, 69 if a step is at work or the agent does not answer.
            """)
    @Option(help: ArgumentHelp("The host's guests and directories, YAML.", valueName: "file"))
    var hostFile: String
    @Option(help: ArgumentHelp("Only this guest; may be repeated.", valueName: "guest"))
    var guest: [String] = []
    @Option(help: ArgumentHelp("The QEMU to change to.", valueName: "path"))
    var releaseBinary: String?
    @Option(help: ArgumentHelp("Its module directory (QEMU_MODULE_DIR).", valueName: "directory"))
    var moduleDirectory: String?
    @Option(help: ArgumentHelp("Where it finds firmware; may be repeated.", valueName: "directory"))
    var dataDirectory: [String] = []
    @OptionGroup var output: OutputOptions
    @Flag(help: "The same as --output json.")
    var json = false

    func validate() throws {
        if releaseBinary == nil, moduleDirectory != nil || !dataDirectory.isEmpty {
            throw ValidationError(
                "--module-directory and --data-directory belong to a --release-binary")
        }
        let paths = [releaseBinary, moduleDirectory].compactMap(\.self) + dataDirectory
        for path in paths where !path.hasPrefix("/") {
            throw ValidationError("\(path) is not an absolute path")
        }
    }

    func run() throws {
        let host = try parseHostFile(hostFile)
        let report = try ask(host, PreflightRequest(guests: try guests(), release: release(host)))
        if json {
            StandardOutput.write(report.json.pretty + "\n")
        } else {
            output.show(text: report.text, json: report.json)
        }
        if report.blocks { throw ExitCode(Exit.failed.rawValue) }
    }

    private func guests() throws(CommandFailure) -> [GuestID] {
        var ids: [GuestID] = []
        for name in guest {
            guard let id = GuestID(name) else {
                throw CommandFailure(
                    .usage, "\(name) is no guest's id",
                    advice: "Ids have letters, digits, dots, hyphens and underscores.")
            }
            if !ids.contains(id) { ids.append(id) }
        }
        return ids
    }

    /// What is not given is as it is for the host's own QEMU.
    private func release(_ host: HostFile) -> Hypervisor? {
        releaseBinary.map {
            Hypervisor(
                version: "", path: $0,
                moduleDirectory: moduleDirectory,
                dataDirectories: dataDirectory.isEmpty
                    ? host.hypervisor.dataDirectories : dataDirectory)
        }
    }

    private func ask(
        _ host: HostFile, _ request: PreflightRequest
    ) throws(CommandFailure) -> PreflightReport {
        let loop = try makeLoop()
        var answer: Result<PreflightReport, PreflightRefusal>?
        PreflightClient.ask(request, host: host, on: loop) {
            answer = $0
            loop.stop()
        }
        loop.run()
        switch answer {
        case .success(let report): return report
        case .failure(let refusal):
            throw CommandFailure(
                refusal.kind == .noSuchGuest ? .badInput : .unavailable, refusal.message,
                advice: refusal.advice)
        case nil:
            throw CommandFailure(.internalError, "the preflight ended without a result")
        }
    }
}

extension PreflightReport {
    var text: String {
        var table = TextTable(
            ["GUEST", "CHECK", "SEVERITY", "PROBLEM", "WHAT TO DO"].map { ($0, .left) })
        for guest in guests {
            for finding in guest.findings {
                table.add([
                    guest.id.rawValue, finding.check.rawValue, finding.severity.rawValue,
                    finding.problem, finding.advice,
                ])
            }
        }
        let blocked = guests.filter { $0.findings.contains { $0.severity == .blocks } }.count
        let summary =
            "\(guests.count - blocked) of \(guests.count) guests of host \(host) can be handed over\n"
        return guests.allSatisfy(\.findings.isEmpty) ? summary : table.text + summary
    }

    var json: JSON {
        .object([
            JSON.Member("host", .string(host.rawValue)),
            JSON.Member(
                "guests",
                .array(
                    guests.map { guest in
                        let blocks = guest.findings.contains { $0.severity == .blocks }
                        return .object([
                            JSON.Member("id", .string(guest.id.rawValue)),
                            JSON.Member("canBeHandedOver", .bool(!blocks)),
                            JSON.Member("findings", .array(guest.findings.map(\.json))),
                        ])
                    })),
        ])
    }
}

extension PreflightFinding {
    fileprivate var json: JSON {
        .object([
            JSON.Member("check", .string(check.rawValue)),
            JSON.Member("severity", .string(severity.rawValue)),
            JSON.Member("problem", .string(problem)), JSON.Member("advice", .string(advice)),
        ])
    }
}
