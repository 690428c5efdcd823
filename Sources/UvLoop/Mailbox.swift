// The one way from another thread to the loop's. A process of ours has one loop thread; only a library
// that brings threads of its own, such as a web server, needs this.
import Glibc
import Synchronization

/// Values that any thread posts and the loop's thread takes, in the order in which they came.
public final class Mailbox<Value: Sendable>: Sendable {
    private let values = Mutex<[Value]>([])
    /// Connected: a byte in it says that there is something to take.
    private let reading: Int32
    private let writing: Int32

    public init() throws(UvError) {
        (reading, writing) = try Descriptors.socketPair()
    }

    deinit {
        Descriptors.close(reading)
        Descriptors.close(writing)
    }

    /// From any thread; never waits.
    public func post(_ value: Value) {
        let wasEmpty = values.withLock { values in
            values.append(value)
            return values.count == 1
        }
        // At most one byte is under way, so there is room for it.
        if wasEmpty { _ = write(writing, [1], 1) }
    }

    /// Calls `take` on the loop's thread for every value, also for those posted before.
    public func deliver(
        on loop: Loop, to take: @escaping (Value) -> Void
    ) throws(UvError) -> DescriptorWatch {
        try loop.onReadable(descriptor: reading) { [self] in
            var byte: UInt8 = 0
            _ = read(reading, &byte, 1)
            let taken = values.withLock { values in
                defer { values = [] }
                return values
            }
            for value in taken { take(value) }
        }
    }
}
