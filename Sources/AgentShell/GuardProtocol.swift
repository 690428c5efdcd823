// What agent and guard say to each other over their socket pair: lines of fields separated by tabs.
//
//   agent → guard   begin DEADLINE-MS AGENT-PID RUN-DIRECTORY STEP TOKEN
//                   guest ID OLD-PID OLD-GENERATION NEW-PID NEW-GENERATION      one for each
//                   alone ID OLD-PID OLD-GENERATION     instead, one for each guest that is only paused
//                   foreign PID START-TIME TAP-NUMBERS MONITOR          before, for generation 0
//                   arm
//   guard → agent   armed | failed REASON
//   agent → guard   holding ID SINCE-µs | committing ID | undoing ID | released ID | disarm
//                   running COMMAND | ended COMMAND | group COMMAND PATH-OR-PID
//
// Everything else that the guard needs (sockets, tap queues) follows from these and from the
// processes' environment. Both ends are of the same release of Fermata; there is no versioning.

internal import AgentCore
internal import Fleet

enum GuardLine {
    static func encode(_ message: GuardMessage) -> String {
        switch message {
        case .holding(let guest, let since): "holding\t\(guest)\t\(since)"
        case .committing(let guest): "committing\t\(guest)"
        case .undoing(let guest): "undoing\t\(guest)"
        case .released(let guest): "released\t\(guest)"
        case .running(let kind): "running\t\(kind.rawValue)"
        case .ended(let kind): "ended\t\(kind.rawValue)"
        case .disarm: "disarm"
        }
    }

    /// - Returns: nil for a line that is none.
    static func decode(_ fields: [String]) -> GuardMessage? {
        if fields == ["disarm"] { return .disarm }
        if fields.count == 2, let kind = CommandKind(rawValue: fields[1]) {
            if fields[0] == "running" { return .running(kind) }
            if fields[0] == "ended" { return .ended(kind) }
        }
        guard fields.count >= 2, let guest = GuestID(fields[1]) else { return nil }
        switch fields[0] {
        case "holding":
            guard fields.count == 3, let since = Int64(fields[2]) else { return nil }
            return .holding(guest, since: since)
        case "committing": return .committing(guest)
        case "undoing": return .undoing(guest)
        case "released": return .released(guest)
        default: return nil
        }
    }

    /// A process that somebody else has started: its environment says nothing of it.
    struct Foreign {
        let pid: Int32
        let startTime: String
        let tapNumbers: [Int32]
        let monitor: String

        init?(_ fields: [String]) {
            guard fields.count == 5, let pid = Int32(fields[1]) else { return nil }
            self.pid = pid
            startTime = fields[2]
            tapNumbers = fields[3].split(separator: ",").compactMap { Int32($0) }
            monitor = fields[4]
        }

        init?(_ generation: Generation) {
            guard generation.isForeign, let monitor = generation.paths.onlyMonitor,
                let startTime = ForeignProcess.startTime(generation.process.pid)
            else { return nil }
            pid = generation.process.pid
            self.startTime = startTime
            tapNumbers = generation.tapNumbers
            self.monitor = monitor
        }

        var line: String {
            let taps = tapNumbers.map { "\($0)" }.joined(separator: ",")
            return "foreign\t\(pid)\t\(startTime)\t\(taps)\t\(monitor)\n"
        }
    }

    static func fields(_ line: some StringProtocol) -> [String] {
        String(line).split(separator: "\t" as Character, omittingEmptySubsequences: false)
            .map { String($0) }
    }
}

/// Cuts a stream of bytes into lines.
struct LineBuffer {
    private var bytes: [UInt8] = []

    mutating func append(_ more: UnsafeRawBufferPointer) -> [String] {
        bytes.append(contentsOf: more)
        var lines: [String] = []
        while let end = bytes.firstIndex(of: UInt8(ascii: "\n")) {
            lines.append(String(decoding: bytes[..<end], as: UTF8.self))
            bytes.removeSubrange(...end)
        }
        return lines
    }
}
