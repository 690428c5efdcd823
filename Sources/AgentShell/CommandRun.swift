// One command of a release on this host.
//
// Happy path: a group of its own; a shell of two lines puts itself into it, becomes the release's
// user and then the command; output into a file that is kept; exit code 0. What it has left running
// then is its own business, such as a daemon that it restarted.
// Failure modes: it cannot be started, ends otherwise, or is not done at its limit: the whole group is
// killed, and the completion comes once nothing of it is left. A group that does not die (a disk that
// hangs) is reported all the same after a second.

internal import AgentCore
internal import Fleet
internal import UvLoop

/// What is killed together.
enum ProcessGroup: Hashable {
    case control(ControlGroup)
    /// Where no cgroup can be made: what does not leave the session.
    case session(pid: Int32)

    /// For the guard's channel and a restarted agent.
    var text: String {
        switch self {
        case .control(let group): group.path
        case .session(let pid): "\(pid)"
        }
    }

    init?(text: String) {
        if text.hasPrefix("/") {
            self = .control(ControlGroup(path: text))
        } else if let pid = Int32(text), pid > 1 {
            self = .session(pid: pid)
        } else {
            return nil
        }
    }

    /// SIGKILL to all of it, and to nobody who is about to join: a shell that has been started and is not
    /// in its control group yet finds that gone, and ends.
    func kill() {
        switch self {
        case .control(let group):
            try? group.kill()
            group.removeIfEmpty()
        case .session(let pid): ProcessReference.signalGroup(pid, 9)
        }
    }

    var isPopulated: Bool {
        if case .control(let group) = self { group.isPopulated } else { false }
    }
}

final class CommandRun {
    let kind: CommandKind
    private let command: HostCommand
    private let loop: Loop
    private let output: String
    private var completion: ((String?) -> Void)?
    private(set) var group: ProcessGroup?
    private var limit: Timer?
    private var killReason: String?

    /// What the names of a host's groups begin with.
    static func groupNamePrefix(_ host: HostID) -> String { "fermata-\(host)-" }

    private static let script = """
        [ -z "$1" ] || echo 0 > "$1" || exit 126
        user=$2; shift 2
        [ -z "$user" ] || exec setpriv --reuid="$user" --regid="$(id -g "$user")" --init-groups -- "$@"
        exec "$@"
        """
    private static let endMicroseconds: Int64 = 1_000_000

    /// Starts it.
    ///
    /// - Parameters:
    ///   - environment: what the command gets besides the release's own variables.
    ///   - output: a file for what it says; its directory exists.
    ///   - grouped: called before it runs, and again when what has to be killed changes.
    ///   - completion: called once, later: nil if it ended with 0, or why it did not succeed.
    init(
        _ kind: CommandKind, _ command: HostCommand, of work: HostWork, groupName: String,
        environment: [String: String], output: String, on loop: Loop,
        grouped: (ProcessGroup) -> Void, completion: @escaping (String?) -> Void
    ) {
        self.kind = kind
        self.command = command
        self.loop = loop
        self.output = output
        self.completion = completion
        var variables = environment
        for variable in work.environment { variables[variable.name] = variable.value }
        var members = ""
        if let control = try? ControlGroup.make(name: groupName) {
            group = .control(control)
            members = control.membersPath
            grouped(.control(control))
        }
        let log = ChildProcess.Stdio.file(path: output, append: true)
        do {
            let child = try ChildProcess.spawn(
                executable: "/bin/sh",
                arguments: ["-c", Self.script, "sh", members, work.user, command.path]
                    + command.arguments,
                environment: variables,
                workingDirectory: work.workingDirectory.isEmpty ? "/" : work.workingDirectory,
                descriptors: [.ignore, log, log], detached: true, on: loop
            ) { [self] in ended($0) }
            if group == nil {
                group = .session(pid: child.pid)
                grouped(.session(pid: child.pid))
            }
        } catch {
            loop.soon { [self] in finish("it could not be started: \(error)") }
            return
        }
        let milliseconds = Int64(command.limitMilliseconds)
        limit = loop.after(.milliseconds(milliseconds)) { [self] in
            kill("it took longer than \(milliseconds) ms and was killed")
        }
    }

    /// Ends it with all that it has started; the completion comes once that is gone.
    func kill(_ reason: String) {
        guard completion != nil else { return }
        if killReason == nil { killReason = reason }
        group?.kill()
        awaitEmpty(since: HoldClock.nowMicroseconds)
    }

    private func ended(_ status: ExitStatus) {
        guard completion != nil, killReason == nil else { return }
        guard status != ExitStatus(code: 0, signal: 0) else { return finish(nil) }
        kill("it ended with \(status)" + said())
    }

    private func awaitEmpty(since: Int64) {
        guard group?.isPopulated == true else { return finish(killReason) }
        guard HoldClock.nowMicroseconds - since < Self.endMicroseconds else {
            return finish("\(killReason ?? "it was killed"), and does not end")
        }
        loop.after(.milliseconds(5)) { [self] in awaitEmpty(since: since) }
    }

    private func finish(_ problem: String?) {
        guard let completion else { return }
        self.completion = nil
        limit?.cancel()
        if case .control(let control) = group { control.removeIfEmpty() }
        loop.soon { completion(problem) }
    }

    private func said() -> String {
        guard let bytes = try? Files.readEnd(path: output, byteCount: 2_048) else { return "" }
        let last = lastWords(bytes)
        return last.isEmpty ? "" : ": \(last)"
    }
}
