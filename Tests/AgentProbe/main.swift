// An agent without a leader, for tests that kill it: directives come from files, reports go to files.
//
//   AgentProbe agent HOST-FILE CONTROL-DIRECTORY
//   AgentProbe guard
//
// CONTROL/directive      taken and removed; body of a directive as on the wire
// CONTROL/commit         if it is there, reports are committed as they come
// CONTROL/answers        a line for each answer
// CONTROL/reports/N      every report that was sent, in order (body as on the wire)
// CONTROL/host           the last host report
// CONTROL/ready          written once the agent is ready

import AgentShell
import Fleet
import Glibc
import HostConfiguration
import Logging
import UvLoop
import Wire

final class FileLink: LeaderLink {
    var isUrgent: () -> Bool = { false }
    var onReady: (() -> Void)?
    var onDirective: ((Directive, @escaping (DirectiveAnswer) -> Void) -> Void)?
    var onReportCommitted: ((StepID, Token) -> Void)?
    private let directory: String
    private let loop: Loop
    private var count = 0

    init(_ directory: String, on loop: Loop) {
        self.directory = directory
        self.loop = loop
        try? Files.makeDirectory(path: "\(directory)/reports", parents: true)
        count = ((try? Files.list(path: "\(directory)/reports")) ?? []).count
    }

    func start() {
        onReady?()
        loop.every(.milliseconds(5)) { [self] in poll() }
    }
    func stop() {}

    private func poll() {
        let path = "\(directory)/directive"
        guard Files.exists(path: path),
            let body = try? Files.read(path: path, byteCountMax: 1 << 20)
        else { return }
        try? Files.remove(path: path)
        guard case .directive(let directive) = try? Message(kind: .directive, body: body) else {
            return
        }
        onDirective?(directive) { [self] answer in
            try? Files.append(
                path: "\(directory)/answers", bytes: Array("\(short(answer))\n".utf8),
                durable: false)
        }
    }

    private func short(_ answer: DirectiveAnswer) -> String {
        switch answer {
        case .accepted: "accepted"
        case .staleToken(let token): "stale \(token)"
        case .busy(let step): "busy \(step)"
        case .refused(let reason): "refused \(reason)"
        }
    }

    func send(_ report: HostReport) {
        try? Files.writeAtomically(
            path: "\(directory)/host", bytes: Message.hostReport(report).encodedBody(),
            durable: false)
    }
    func send(_ progress: StepProgress) {}
    func send(_ report: StepReport) {
        count += 1
        try? Files.writeAtomically(
            path: "\(directory)/reports/\(count)", bytes: Message.stepReport(report).encodedBody(),
            durable: false)
        guard Files.exists(path: "\(directory)/commit") else { return }
        loop.soon { [self] in onReportCommitted?(report.step, report.token) }
    }
}

func runAgent(_ hostFile: String, _ control: String) throws {
    let text = String(
        decoding: try Files.read(path: hostFile, byteCountMax: 1 << 20), as: UTF8.self)
    let host = try HostFile.parse(text, fileName: hostFile).get()
    let problems = HostChecks.problems(in: host, fileName: hostFile)
    guard problems.isEmpty else { throw HostFileProblems(problems) }
    let loop = try Loop()
    var log = Logger(label: "agent") { StreamLogHandler.standardError(label: $0) }
    log.logLevel = .debug
    let program = GuardProgram(
        executable: try Files.link(pathOfSymlink: "/proc/self/exe"), arguments: ["guard"])
    let agent = AgentShell(
        configuration: host, link: FileLink(control, on: loop), loop: loop, guardProgram: program,
        softwareVersion: "test", log: log)
    try agent.start {
        try? Files.writeAtomically(path: "\(control)/ready", bytes: [], durable: false)
    }
    withExtendedLifetime(agent) { loop.run() }
}

let arguments = CommandLine.arguments
switch arguments.dropFirst().first {
case "guard": exit(GuardShell.run())
case "agent" where arguments.count == 4:
    do {
        try runAgent(arguments[2], arguments[3])
    } catch {
        try? Files.append(path: "/dev/stderr", bytes: Array("\(error)\n".utf8), durable: false)
        exit(65)
    }
default: exit(64)
}
