// The one way from another thread to the loop's. A process of ours has one loop thread; only a library
// that brings threads of its own, such as a web server, needs this.
import Glibc
import Synchronization

/// Values that any thread posts and the loop's thread takes, in the order in which they came.
public final class Mailbox<Value: Sendable>: Sendable {
    private let values = Mutex<[Value]>([])
    /// An eventfd: readable while there is something to take.
    private let descriptor: Int32

    public init() throws(UvError) {
        descriptor = eventfd(0, Int32(EFD_NONBLOCK.rawValue | EFD_CLOEXEC.rawValue))
        guard descriptor >= 0 else {
            throw UvError(code: -errno, operation: "create", subject: "mailbox")
        }
    }

    deinit { close(descriptor) }

    /// From any thread; never waits.
    public func post(_ value: Value) {
        let wasEmpty = values.withLock { values in
            values.append(value)
            return values.count == 1
        }
        if wasEmpty { eventfd_write(descriptor, 1) }
    }

    /// Calls `take` on the loop's thread for every value, also for those posted before.
    public func deliver(
        on loop: Loop, to take: @escaping (Value) -> Void
    ) throws(UvError) -> DescriptorWatch {
        try loop.onReadable(descriptor: descriptor) { [self] in
            var count: eventfd_t = 0
            eventfd_read(descriptor, &count)
            let taken = values.withLock { values in
                defer { values = [] }
                return values
            }
            for value in taken { take(value) }
        }
    }
}
