// Appends to files that the loop does not wait for.
//
// Happy path: libuv's thread pool writes and syncs, the loop calls back.
// Failure mode: the file cannot be written → the completion gets the error.

import CUv

extension Files {
    /// Adds `bytes` to the end of a file, which is made if need be, and syncs it, while the loop goes on.
    ///
    /// - Parameter completion: called once, later; nil is success.
    public static func append(
        path: String, bytes: [UInt8], on loop: Loop, completion: @escaping (UvError?) -> Void
    ) {
        DurableAppend(path, bytes, completion).start(on: loop)
    }
}

/// Keeps itself until its completion. Its `problem` is the other thread's until that is done.
private final class DurableAppend {
    private let path: String
    private let bytes: [UInt8]
    private let completion: (UvError?) -> Void
    private let request = allocateZeroed(uv_work_t.self)
    private var problem: UvError?

    init(_ path: String, _ bytes: [UInt8], _ completion: @escaping (UvError?) -> Void) {
        self.path = path
        self.bytes = bytes
        self.completion = completion
    }

    deinit { request.deallocate() }

    func start(on loop: Loop) {
        request.pointee.data = Unmanaged.passRetained(self).toOpaque()
        let result = uv_queue_work(
            loop.raw, request,
            { owner($0?.pointee.data, as: DurableAppend.self).write() },
            { request, _ in
                let work = takeOwner(request?.pointee.data, as: DurableAppend.self)
                work.completion(work.problem)
            })
        precondition(result == 0, "libuv takes no work")
    }

    private func write() {
        do throws(UvError) {
            try Files.append(path: path, bytes: bytes, durable: true)
        } catch {
            problem = error
        }
    }
}
