// Work that may hang, such as a write to a disk or into a pipe that nobody serves.
//
// It has threads of its own, not libuv's: of those there are four for the whole process, which look up names
// as well, and exit() waits for what they are at. A thread of ours is nobody's: what hangs in it delays
// neither other work nor the end of the process.

import Glibc

/// Runs what it is given one after another, each beside the loop.
///
/// Happy path: a thread does the work and posts its value, the loop calls back and the thread has ended.
/// Failure modes: no thread can be had → the completion gets nil; the work hangs → what comes behind it
/// waits, and nothing else.
public final class BlockingWork<Value: Sendable> {
    private typealias Entry = (body: @Sendable () -> Value, completion: (Value?) -> Void)
    private let loop: Loop
    private let mailbox: Mailbox<Value>
    private var watch: DescriptorWatch?
    /// The first one is running.
    private var entries: [Entry] = []

    /// - Throws: ``UvError`` when the process is out of descriptors.
    public init(on loop: Loop) throws(UvError) {
        self.loop = loop
        mailbox = try Mailbox()
        watch = try mailbox.deliver(on: loop) { [weak self] in self?.finish($0) }
    }

    deinit { watch?.cancel() }

    /// Runs `body` on another thread, behind what was given before.
    ///
    /// - Parameter completion: called once, later, on the loop's thread; nil if no thread can be had.
    public func run(
        _ body: @escaping @Sendable () -> Value, completion: @escaping (Value?) -> Void
    ) {
        entries.append((body, completion))
        if entries.count == 1 { start() }
    }

    private func start() {
        guard let body = entries.first?.body else { return }
        let isStarted = LooseThread.start { [mailbox] in mailbox.post(body()) }
        if !isStarted { loop.soon { [weak self] in self?.finish(nil) } }
    }

    private func finish(_ value: Value?) {
        let entry = entries.removeFirst()
        start()
        entry.completion(value)
    }
}

/// A thread for which nobody waits, not even the end of the process.
public enum LooseThread {
    private final class Body {
        let run: @Sendable () -> Void
        init(_ run: @escaping @Sendable () -> Void) { self.run = run }
    }

    /// - Returns: false if the process has no room for one; `body` is not run then.
    @discardableResult
    public static func start(_ body: @escaping @Sendable () -> Void) -> Bool {
        var attributes = pthread_attr_t()
        pthread_attr_init(&attributes)
        defer { pthread_attr_destroy(&attributes) }
        pthread_attr_setdetachstate(&attributes, Int32(PTHREAD_CREATE_DETACHED))
        // Signals are the loop's thread's.
        var all = sigset_t()
        var before = sigset_t()
        sigfillset(&all)
        pthread_sigmask(SIG_BLOCK, &all, &before)
        defer { pthread_sigmask(SIG_SETMASK, &before, nil) }
        let data = Unmanaged.passRetained(Body(body))
        var thread = pthread_t()
        let result = pthread_create(
            &thread, &attributes,
            { data in
                if let data { Unmanaged<Body>.fromOpaque(data).takeRetainedValue().run() }
                return nil
            }, data.toOpaque())
        if result != 0 { data.release() }
        return result == 0
    }
}
