internal import AgentCore
internal import Fleet
internal import UvLoop

/// What a restarted agent has to kill if a command was left running: one file, which is there only while a
/// command runs. A line of fields separated by tabs.
///
/// A pid or a path of before says nothing of who has it now, so everything has to match: otherwise the
/// process group of somebody else would be killed, or a daemon that an earlier command has left.
struct CommandGroupRecord: Hashable {
    var bootID: String
    var step: StepID
    var token: Token
    var kind: CommandKind
    var group: ProcessGroup
    /// Of the first process of a session, in clock ticks since the host booted; empty for a cgroup.
    var startTime: String

    init(_ group: ProcessGroup, _ kind: CommandKind, of directive: Directive) {
        bootID = HostFacts.bootID
        step = directive.step
        token = directive.token
        self.kind = kind
        self.group = group
        startTime = Self.startTime(group)
    }

    private static func startTime(_ group: ProcessGroup) -> String {
        guard case .session(let pid) = group else { return "" }
        return ForeignProcess.startTime(pid) ?? ""
    }

    /// The group, if it is that command's, of this boot, and still the same.
    static func group(
        in text: String, of kind: CommandKind, of directive: Directive
    ) -> ProcessGroup? {
        let fields = GuardLine.fields(text.filter { $0 != "\n" })
        guard fields.count == 6, let group = ProcessGroup(text: fields[4]) else { return nil }
        let now = CommandGroupRecord(group, kind, of: directive)
        if case .session = group, now.startTime.isEmpty { return nil }
        return GuardLine.fields(now.text.filter { $0 != "\n" }) == fields ? group : nil
    }

    var text: String {
        [bootID, "\(step)", "\(token)", kind.rawValue, group.text, startTime]
            .joined(separator: "\t") + "\n"
    }
}
