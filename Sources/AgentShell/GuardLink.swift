// The agent's end of its guard.
//
// Happy path: start the guard with one end of a socket pair, name the processes, wait for `armed`;
// then a line before each thing that changes who may be continued. The kernel has each line before
// the agent goes on, and the guard reads them all before it sees the end of the channel.
// Failure modes: it cannot be started, does not arm within 10 s, or ends: onFailure, once. One that
// does not end when it has been disarmed is killed: the next guard needs its lock and its monitors.

internal import AgentCore
internal import Fleet
internal import UvLoop

/// How to start a guard: the agent's own program, with the arguments that make it one.
public struct GuardProgram: Hashable, Sendable {
    public var executable: String
    public var arguments: [String]
    public init(executable: String, arguments: [String]) {
        self.executable = executable
        self.arguments = arguments
    }
}

final class GuardLink {
    struct Watched {
        var guest: GuestID
        var old: Generation
        /// Nil for a guest that is only paused.
        var new: Generation?
    }

    private let stream: SocketStream
    private let process: ProcessReference
    private let loop: Loop
    private var lines = LineBuffer()
    private var onArmed: (() -> Void)?
    private var onFailure: ((String) -> Void)?
    private var armTimer: Timer?
    /// It was disarmed, was let go, or has failed.
    private var isOver = false

    /// - Parameters:
    ///   - onArmed: called once, if it succeeds.
    ///   - onFailure: called at most once, also after it was armed.
    init(
        _ program: GuardProgram, directive: Directive, paths: HostPaths, watched: [Watched],
        on loop: Loop, onArmed: @escaping () -> Void, onFailure: @escaping (String) -> Void
    ) throws(UvError) {
        let (ours, theirs) = try Descriptors.socketPair()
        do {
            let log = ChildProcess.Stdio.file(path: paths.guardLog, append: true)
            let child = try ChildProcess.spawn(
                executable: program.executable, arguments: program.arguments,
                descriptors: [.ignore, log, log, .inherit(theirs)], detached: true, on: loop
            ) { _ in }
            process = try ProcessReference(pid: child.pid)
            self.loop = loop
            Descriptors.close(theirs)
        } catch {
            Descriptors.close(ours)
            Descriptors.close(theirs)
            throw error
        }
        stream = try SocketStream.adopt(descriptor: ours, on: loop)
        self.onArmed = onArmed
        self.onFailure = onFailure
        stream.onBytes = { [self] in receive($0) }
        stream.onEnd = { [self] in fail("its channel ended: \($0)") }
        armTimer = loop.after(.seconds(10)) { [self] in
            if self.onArmed != nil {
                kill()
                fail("it was not armed within 10 s")
            }
        }
        var text =
            "begin\t\(directive.deadlineMilliseconds)\t\(HostFacts.processID)\t\(paths.run)"
            + "\t\(directive.step)\t\(directive.token)\n"
        for entry in watched {
            text += GuardLine.Foreign(entry.old)?.line ?? ""
            let old = "\(entry.guest)\t\(entry.old.process.pid)\t\(entry.old.number)"
            if let new = entry.new {
                text += "guest\t\(old)\t\(new.process.pid)\t\(new.number)\n"
            } else {
                text += "alone\t\(old)\n"
            }
        }
        stream.write(Array((text + "arm\n").utf8))
    }

    func tell(_ message: GuardMessage) {
        stream.write(Array((GuardLine.encode(message) + "\n").utf8))
        if message == .disarm {
            isOver = true
            onFailure = nil
            armTimer?.cancel()
            stream.closeAfterWriting()
            loop.after(.microseconds(StuckGuard.stoppedMicroseconds)) { [self] in kill() }
        }
    }

    /// The step is over: disarms the guard, whether it is armed yet or not, if that was not done.
    func end() {
        if !isOver { tell(.disarm) }
    }

    /// Only while nobody is held.
    private func kill() { try? process.send(signal: 9) }

    /// What the guard kills if the agent ends while this command runs.
    func tell(_ kind: CommandKind, _ group: ProcessGroup) {
        stream.write(Array("group\t\(kind.rawValue)\t\(group.text)\n".utf8))
    }

    /// Lets the guard see the end of the channel, as if the agent had died.
    func close() {
        isOver = true
        onFailure = nil
        armTimer?.cancel()
        stream.close()
    }

    private func receive(_ bytes: UnsafeRawBufferPointer) {
        for line in lines.append(bytes) {
            let fields = GuardLine.fields(line)
            switch fields[0] {
            case "armed":
                armTimer?.cancel()
                let body = onArmed
                onArmed = nil
                body?()
            case "failed": fail(fields.dropFirst().joined(separator: " "))
            default: break
            }
        }
    }

    private func fail(_ reason: String) {
        isOver = true
        armTimer?.cancel()
        onArmed = nil
        let body = onFailure
        onFailure = nil
        stream.close()
        body?(reason)
    }
}
