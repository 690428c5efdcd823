// The loop and what every handle on it shares.
//
// Happy path: a process makes one Loop, puts timers, listeners and streams on it, and calls run().
// Ownership: while a handle is open, libuv's `data` pointer holds a retain on the Swift object that
// owns the handle's memory; uv_close's callback drops it and frees the memory. So neither can
// go away before libuv has finished with the handle, whoever closes it and when.
// Failure modes: only init can fail (descriptors or memory exhausted).

import CUv
import Glibc

/// An object whose memory libuv knows: kept alive until uv_close's callback.
protocol LoopOwned: AnyObject {
    /// Closes the handle now, as if its owner had.
    func closeFromLoop()
}

func asHandle(_ pointer: UnsafeMutableRawPointer) -> UnsafeMutablePointer<uv_handle_t> {
    pointer.assumingMemoryBound(to: uv_handle_t.self)
}

/// Zeroed memory for a libuv handle or request.
func allocateZeroed<Raw>(_ type: Raw.Type) -> UnsafeMutablePointer<Raw> {
    let pointer = UnsafeMutablePointer<Raw>.allocate(capacity: 1)
    memset(pointer, 0, MemoryLayout<Raw>.size)
    return pointer
}

/// The object that a libuv `data` pointer stands for.
func owner<Owner: AnyObject>(
    _ data: UnsafeMutableRawPointer?, as type: Owner.Type
) -> Owner {
    guard let data else { preconditionFailure("a libuv handle of \(type) has lost its owner") }
    return Unmanaged<Owner>.fromOpaque(data).takeUnretainedValue()
}

/// Takes back the retain that a `data` pointer held.
func takeOwner<Owner: AnyObject>(
    _ data: UnsafeMutableRawPointer?, as type: Owner.Type
) -> Owner {
    guard let data else { preconditionFailure("a libuv handle of \(type) has lost its owner") }
    return Unmanaged<Owner>.fromOpaque(data).takeRetainedValue()
}

extension Duration {
    /// Whole milliseconds, rounded up, never negative.
    var millisecondsRoundedUp: UInt64 {
        let (seconds, attoseconds) = components
        guard seconds >= 0, attoseconds >= 0 else { return 0 }
        let part = (attoseconds + 999_999_999_999_999) / 1_000_000_000_000_000
        return UInt64(clamping: seconds).multipliedReportingOverflow(by: 1_000).partialValue
            + UInt64(part)
    }
}

/// An event loop. One per process; everything made on it belongs to the thread that runs it.
public final class Loop {
    let raw: UnsafeMutablePointer<uv_loop_t>
    /// Every stream of the loop reads into this one: bytes are valid during one callback only.
    let readBuffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 65_536, alignment: 16)
    /// Decrypted bytes; apart from `readBuffer`, whose bytes are being decrypted meanwhile.
    let plainBuffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 65_536, alignment: 16)

    private let idle = allocateZeroed(uv_idle_t.self)
    private let afterPoll = allocateZeroed(uv_check_t.self)
    private var soonBodies: [() -> Void] = []
    private var isRunning = false

    /// Also ignores SIGPIPE for the whole process: a dead peer is an error code, not our death.
    ///
    /// - Throws: ``UvError`` when the process is out of descriptors or memory.
    public init() throws(UvError) {
        raw = allocateZeroed(uv_loop_t.self)
        signal(SIGPIPE, SIG_IGN)
        let result = uv_loop_init(raw)
        guard result == 0 else {
            for pointer: UnsafeMutableRawPointer in [.init(raw), .init(idle), .init(afterPoll)] {
                pointer.deallocate()
            }
            readBuffer.deallocate()
            plainBuffer.deallocate()
            throw UvError(code: result, operation: "create", subject: "event loop")
        }
        uv_idle_init(raw, idle)
        uv_check_init(raw, afterPoll)
        idle.pointee.data = Unmanaged.passUnretained(self).toOpaque()
        afterPoll.pointee.data = Unmanaged.passUnretained(self).toOpaque()
        uv_check_start(afterPoll) { owner($0?.pointee.data, as: Loop.self).runSoonBodies() }
        uv_unref(asHandle(afterPoll))
    }

    deinit {
        // Every other handle holds the loop, so only these two are left.
        uv_close(asHandle(idle), nil)
        uv_close(asHandle(afterPoll), nil)
        // A stop that came while it did not run ends the next run at once.
        if uv_run(raw, UV_RUN_DEFAULT) != 0 { uv_run(raw, UV_RUN_DEFAULT) }
        let result = uv_loop_close(raw)
        precondition(result == 0, "a loop was dropped while it had open handles")
        idle.deallocate()
        afterPoll.deallocate()
        raw.deallocate()
        readBuffer.deallocate()
        plainBuffer.deallocate()
    }

    /// Runs callbacks until ``stop()`` or until nothing is active that could call one.
    public func run() {
        precondition(!isRunning, "Loop.run() called from inside the loop")
        isRunning = true
        uv_run(raw, UV_RUN_DEFAULT)
        isRunning = false
    }

    /// Makes ``run()`` return after the callbacks of this turn. It may be called again later.
    public func stop() { uv_stop(raw) }

    /// Closes everything that is still open and waits for it: streams end with `.closedHere`,
    /// timers do not fire. For an orderly exit and for tests; a process may also just exit.
    public func closeAll() {
        precondition(!isRunning, "Loop.closeAll() called from inside the loop")
        for _ in 0..<100 {
            uv_walk(
                raw,
                { handle, _ in
                    guard let handle, uv_is_closing(handle) == 0, let data = handle.pointee.data
                    else { return }
                    let object = Unmanaged<AnyObject>.fromOpaque(data).takeUnretainedValue()
                    (object as? any LoopOwned)?.closeFromLoop()
                }, nil)
            // A turn may have opened new handles (a callback that reconnects): walk again.
            if uv_run(raw, UV_RUN_NOWAIT) == 0 { return }
        }
    }

    /// Calls `body` once after `delay`, rounded up to whole milliseconds.
    ///
    /// - Returns: the timer, which the loop keeps alive until it has fired or is cancelled.
    @discardableResult
    public func after(_ delay: Duration, _ body: @escaping () -> Void) -> Timer {
        Timer(on: self, milliseconds: delay.millisecondsRoundedUp, repeats: false, body)
    }

    /// Calls `body` every `interval` (at least 1 ms), first after one interval.
    @discardableResult
    public func every(_ interval: Duration, _ body: @escaping () -> Void) -> Timer {
        Timer(on: self, milliseconds: max(1, interval.millisecondsRoundedUp), repeats: true, body)
    }

    /// Calls `body` whenever the process gets `signal`. Does not keep ``run()`` from returning.
    @discardableResult
    public func onSignal(_ signal: Int32, _ body: @escaping () -> Void) -> SignalWatch {
        SignalWatch(on: self, signal: signal, body)
    }

    /// Calls `body` after the current callbacks, before the loop waits for anything again.
    public func soon(_ body: @escaping () -> Void) {
        if soonBodies.isEmpty {
            // An active idle handle keeps the loop from blocking and from returning.
            uv_idle_start(idle) { owner($0?.pointee.data, as: Loop.self).runSoonBodies() }
        }
        soonBodies.append(body)
    }

    /// Calls `body` whenever `descriptor` is readable, at its end, or broken.
    ///
    /// The descriptor is made non-blocking, stays the caller's, and must outlive the watch.
    public func onReadable(
        descriptor: Int32, _ body: @escaping () -> Void
    ) throws(UvError) -> DescriptorWatch {
        try DescriptorWatch(on: self, descriptor: descriptor, body)
    }

    private func runSoonBodies() {
        guard !soonBodies.isEmpty else { return }
        // Bodies added meanwhile run in the next turn, so that they cannot starve input.
        var bodies: [() -> Void] = []
        swap(&bodies, &soonBodies)
        uv_idle_stop(idle)
        for body in bodies { body() }
    }
}
