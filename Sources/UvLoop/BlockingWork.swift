// Work that blocks, such as writing to a disk that may hang, on libuv's threads.

import CUv

extension Loop {
    /// Runs `body` on another thread, then `completion` here with what it gave.
    public func elsewhere<Value: Sendable>(
        _ body: @escaping @Sendable () -> Value, completion: @escaping (Value) -> Void
    ) {
        BlockingWork(body, completion).start(on: self)
    }
}

/// What libuv's `data` stands for, whatever the value is.
private class AnyBlockingWork {
    func run() { preconditionFailure("not work") }
    func finish() { preconditionFailure("not work") }
}

/// Keeps itself until its completion. Its value is the other thread's until that is done.
private final class BlockingWork<Value: Sendable>: AnyBlockingWork {
    private let body: @Sendable () -> Value
    private let completion: (Value) -> Void
    private let request = allocateZeroed(uv_work_t.self)
    private var value: Value?

    init(_ body: @escaping @Sendable () -> Value, _ completion: @escaping (Value) -> Void) {
        self.body = body
        self.completion = completion
    }

    deinit { request.deallocate() }

    func start(on loop: Loop) {
        request.pointee.data = Unmanaged<AnyBlockingWork>.passRetained(self).toOpaque()
        let result = uv_queue_work(
            loop.raw, request,
            { owner($0?.pointee.data, as: AnyBlockingWork.self).run() },
            { request, _ in takeOwner(request?.pointee.data, as: AnyBlockingWork.self).finish() })
        precondition(result == 0, "libuv takes no work")
    }

    override func run() { value = body() }
    override func finish() {
        if let value { completion(value) }
    }
}
