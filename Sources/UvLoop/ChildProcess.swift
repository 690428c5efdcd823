import CUv
import Glibc

/// How a process ended.
public struct ExitStatus: Hashable, Sendable, CustomStringConvertible {
    /// What it passed to exit, 0 if a signal ended it.
    public var code: Int64
    /// The signal that ended it, or 0.
    public var signal: Int32

    public init(code: Int64, signal: Int32) {
        self.code = code
        self.signal = signal
    }

    public var description: String {
        signal == 0 ? "exit code \(code)" : "killed by signal \(signal)"
    }
}

/// A process that we have started.
public final class ChildProcess: LoopOwned {
    /// What the child finds at a descriptor number.
    public enum Stdio: Hashable, Sendable {
        /// /dev/null for 0 to 2, nothing above.
        case ignore
        /// Our descriptor of this number; it stays ours too.
        case inherit(Int32)
        /// A file, created with mode 0640 if missing. Opened for writing, truncated unless `append`.
        case file(path: String, append: Bool)
    }

    public let pid: Int32

    private let loop: Loop
    private let raw: UnsafeMutablePointer<uv_process_t>
    private var onExit: ((ExitStatus) -> Void)?
    private var isClosing = false

    private init(
        on loop: Loop, _ raw: UnsafeMutablePointer<uv_process_t>,
        _ onExit: @escaping (ExitStatus) -> Void
    ) {
        self.loop = loop
        self.raw = raw
        self.onExit = onExit
        pid = raw.pointee.pid
        raw.pointee.data = Unmanaged.passRetained(self).toOpaque()
    }

    /// Starts a process. Signal dispositions are reset and no descriptor but those named is passed on.
    ///
    /// - Parameters:
    ///   - executable: a path, or a name to look for in PATH.
    ///   - arguments: without the program's own name.
    ///   - environment: nil passes on ours.
    ///   - descriptors: by number in the child; 0, 1 and 2 are /dev/null where not given.
    ///   - detached: makes it a session of its own: it outlives us, gets no signal meant for our
    ///     process group, and does not keep ``Loop/run()`` from returning.
    ///   - onExit: called once, unless the loop is gone before.
    /// - Throws: ``UvError`` also when the program cannot be executed (`ENOENT`, `EACCES`).
    public static func spawn(
        executable: String, arguments: [String], environment: [String: String]? = nil,
        workingDirectory: String? = nil, descriptors: [Stdio] = [], detached: Bool = false,
        on loop: Loop, onExit: @escaping (ExitStatus) -> Void
    ) throws(UvError) -> ChildProcess {
        let opened = try open(descriptors)
        defer { for descriptor in opened.toClose { Descriptors.close(descriptor) } }
        // What we have inherited or a library has opened without close-on-exec must not leak.
        try check(fermata_close_on_exec_from(3), "mark close-on-exec", "our descriptors")

        var stdio = opened.numbers.map { number in
            var entry = uv_stdio_container_t()
            entry.flags = number < 0 ? UV_IGNORE : UV_INHERIT_FD
            entry.data.fd = number
            return entry
        }
        let argv = CStrings([executable] + arguments)
        let envp = environment.map { environment in
            CStrings(environment.sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" })
        }
        let file = CStrings([executable])
        let directory = workingDirectory.map { CStrings([$0]) }
        let raw = allocateZeroed(uv_process_t.self)
        let result = stdio.withUnsafeMutableBufferPointer { stdio in
            var options = uv_process_options_t()
            options.file = UnsafePointer(file.pointers[0])
            options.args = argv.base
            options.env = envp?.base
            options.cwd = UnsafePointer(directory?.pointers[0])
            options.flags = detached ? UV_PROCESS_DETACHED.rawValue : 0
            options.stdio_count = Int32(stdio.count)
            options.stdio = stdio.baseAddress
            options.exit_cb = { raw, code, signal in
                owner(raw?.pointee.data, as: ChildProcess.self).didExit(
                    ExitStatus(code: code, signal: signal))
            }
            return withExtendedLifetime((argv, envp, file, directory)) {
                uv_spawn(loop.raw, raw, &options)
            }
        }
        guard result == 0 else {
            uv_close(asHandle(raw)) { $0.map { UnsafeMutableRawPointer($0).deallocate() } }
            throw UvError(code: result, operation: "start", subject: executable)
        }
        if detached { uv_unref(asHandle(raw)) }
        return ChildProcess(on: loop, raw, onExit)
    }

    private static func open(
        _ descriptors: [Stdio]
    ) throws(UvError) -> (numbers: [Int32], toClose: [Int32]) {
        var numbers: [Int32] = []
        var toClose: [Int32] = []
        for stdio in descriptors {
            switch stdio {
            case .ignore: numbers.append(-1)
            case .inherit(let descriptor): numbers.append(descriptor)
            case .file(let path, let append):
                let flags = O_WRONLY | O_CREAT | O_CLOEXEC | (append ? O_APPEND : O_TRUNC)
                let descriptor = Glibc.open(path, flags, 0o640)
                let code = -errno
                guard descriptor >= 0 else {
                    for descriptor in toClose { Descriptors.close(descriptor) }
                    throw UvError(code: code, operation: "open", subject: path)
                }
                numbers.append(descriptor)
                toClose.append(descriptor)
            }
        }
        return (numbers, toClose)
    }

    private func didExit(_ status: ExitStatus) {
        let onExit = onExit
        closeFromLoop()
        onExit?(status)
    }

    /// Only stops watching: the process lives on.
    func closeFromLoop() {
        guard !isClosing else { return }
        isClosing = true
        onExit = nil
        uv_close(asHandle(raw)) { handle in
            takeOwner(handle?.pointee.data, as: ChildProcess.self).raw.deallocate()
        }
    }
}

/// This process becomes another program: same pid, other code. Returns only with an error.
///
/// - Parameters:
///   - arguments: with the program's own name first.
///   - environment: all of it.
public func becomeProgram(
    _ path: String, arguments: [String], environment: [String: String]
) -> UvError {
    let argv = CStrings(arguments)
    let envp = CStrings(environment.sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" })
    // What this program has blocked or ignored is not the next one's wish.
    var none = sigset_t()
    sigemptyset(&none)
    sigprocmask(SIG_SETMASK, &none, nil)
    withExtendedLifetime((argv, envp)) { _ = execve(path, argv.base, envp.base) }
    return UvError(code: -errno, operation: "become", subject: path)
}

/// A zero-terminated array of zero-terminated strings.
private final class CStrings {
    var pointers: [UnsafeMutablePointer<CChar>?]
    let base: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>

    init(_ strings: [String]) {
        pointers = strings.map { strdup($0) } + [nil]
        base = .allocate(capacity: pointers.count)
        base.initialize(from: pointers, count: pointers.count)
    }

    deinit {
        for pointer in pointers { free(pointer) }
        base.deallocate()
    }
}
