// Runs a command to its end and keeps the end of what it says.
//
// Happy path: a session of its own, stdout and stderr into one pipe, exit, end of the pipe.
// Failure modes: it cannot be started; it is not done at its limit: the whole group is killed; it
// leaves something running in its session: killed as well; it says more than is kept: the rest is
// read and dropped, so that it never waits for us. What has made a session of its own escapes.

import CUv
import Glibc

/// A command with a time limit and bounded output.
public final class BoundedCommand {
    public enum End: Hashable, Sendable {
        case exited(ExitStatus)
        /// Killed, with all that it had started.
        case tookTooLong
    }

    /// What is kept of the output: the end, where a reason usually stands.
    public static let outputByteCountMax = 2_048
    /// How long the end of the process and of the pipe are awaited once all has been killed.
    private static let drainLimit: Duration = .milliseconds(500)

    private let loop: Loop
    private var output: [UInt8] = []
    private var reader: SocketStream?
    private var limitTimer: Timer?
    private var drainTimer: Timer?
    private var pid: Int32 = 0
    private var end: End?
    private var hasExited = false
    private var completion: ((End, [UInt8]) -> Void)?

    /// Starts it. It stays alive by itself until it has completed.
    ///
    /// - Parameters:
    ///   - executable: a path, or a name to look for in PATH.
    ///   - arguments: without the program's own name.
    ///   - environment: all of it; nil for ours.
    ///   - input: what it finds on stdin; nil for nothing.
    ///   - completion: called once, later, with the end and the last
    ///     ``outputByteCountMax`` bytes of stdout and stderr.
    /// - Throws: ``UvError`` if it cannot be started; `completion` is not called then.
    @discardableResult
    public init(
        executable: String, arguments: [String], environment: [String: String]? = nil,
        input: [UInt8]? = nil, limit: Duration, on loop: Loop,
        completion: @escaping (End, [UInt8]) -> Void
    ) throws(UvError) {
        self.loop = loop
        var ends: [Int32] = [-1, -1]
        // Close-on-exec is set for all of ours by whatever starts a process.
        _ = try checkErrno(Glibc.pipe(&ends), "create", "a pipe")
        defer { Descriptors.close(ends[1]) }
        let stdin: Int32
        do {
            stdin = try input.map { bytes throws(UvError) in try Descriptors.holding(bytes) } ?? -1
        } catch {
            Descriptors.close(ends[0])
            throw error
        }
        defer { if stdin >= 0 { Descriptors.close(stdin) } }
        do {
            reader = try SocketStream.reading(pipe: ends[0], on: loop)
        } catch {
            Descriptors.close(ends[0])
            throw error
        }
        do {
            let child = try ChildProcess.spawn(
                executable: executable, arguments: arguments, environment: environment,
                descriptors: [
                    stdin < 0 ? .ignore : .inherit(stdin), .inherit(ends[1]), .inherit(ends[1]),
                ], detached: true,
                on: loop
            ) { [self] in isOver(.exited($0)) }
            pid = child.pid
        } catch {
            reader?.close()
            throw error
        }
        self.completion = completion
        reader?.onBytes = { [self] in keep($0) }
        reader?.onEnd = { [self] _ in
            reader = nil
            finishIfDone()
        }
        limitTimer = loop.after(limit) { [self] in isOver(.tookTooLong) }
    }

    private func isOver(_ end: End) {
        limitTimer?.cancel()
        // As long as a member lives, no other group can get this number; one that nobody has any
        // more could only be given to another within the microseconds since the process was reaped.
        ProcessReference.signalGroup(pid, SIGKILL)
        if case .exited = end { hasExited = true }
        if self.end == nil {
            self.end = end
            drainTimer = loop.after(Self.drainLimit) { [self] in finish() }
        }
        finishIfDone()
    }

    private func keep(_ bytes: UnsafeRawBufferPointer) {
        output += bytes.suffix(Self.outputByteCountMax)
        if output.count > Self.outputByteCountMax {
            output.removeFirst(output.count - Self.outputByteCountMax)
        }
    }

    private func finishIfDone() {
        if hasExited, reader == nil { finish() }
    }

    private func finish() {
        guard let end, let completion else { return }
        self.completion = nil
        drainTimer?.cancel()
        reader?.onEnd = nil
        reader?.close()
        reader = nil
        completion(end, output)
    }
}

extension SocketStream {
    /// The reading end of a pipe.
    ///
    /// - Throws: ``UvError``; the descriptor then stays the caller's.
    static func reading(pipe descriptor: Int32, on loop: Loop) throws(UvError) -> SocketStream {
        let stream = SocketStream(on: loop, kind: .unix, peer: "pipe")
        let result = uv_pipe_open(stream.pipe, descriptor)
        guard result == 0 else {
            stream.close()
            throw UvError(code: result, operation: "open", subject: "a pipe")
        }
        return stream
    }
}
