import CUv

/// A timer on a ``Loop``.
public final class Timer: LoopOwned {
    private let loop: Loop
    private let raw = allocateZeroed(uv_timer_t.self)
    private var body: (() -> Void)?
    private let repeats: Bool

    init(on loop: Loop, milliseconds: UInt64, repeats: Bool, _ body: @escaping () -> Void) {
        self.loop = loop
        self.body = body
        self.repeats = repeats
        uv_timer_init(loop.raw, raw)
        raw.pointee.data = Unmanaged.passRetained(self).toOpaque()
        // libuv counts from the start of the turn; a long callback would make the timer early.
        uv_update_time(loop.raw)
        uv_timer_start(
            raw, { owner($0?.pointee.data, as: Timer.self).fire() }, milliseconds,
            repeats ? milliseconds : 0)
    }

    /// Stops it for good. Harmless when it has fired or been cancelled before.
    public func cancel() {
        guard body != nil else { return }
        body = nil
        uv_close(asHandle(raw)) { handle in
            takeOwner(handle?.pointee.data, as: Timer.self).raw.deallocate()
        }
    }

    private func fire() {
        let body = body
        if !repeats { cancel() }
        body?()
    }

    func closeFromLoop() { cancel() }
}

/// A watched signal.
public final class SignalWatch: LoopOwned {
    private let loop: Loop
    private let raw = allocateZeroed(uv_signal_t.self)
    private var body: (() -> Void)?

    init(on loop: Loop, signal: Int32, _ body: @escaping () -> Void) {
        self.loop = loop
        self.body = body
        uv_signal_init(loop.raw, raw)
        raw.pointee.data = Unmanaged.passRetained(self).toOpaque()
        let result = uv_signal_start(
            raw, { handle, _ in owner(handle?.pointee.data, as: SignalWatch.self).body?() }, signal)
        precondition(result == 0, "signal \(signal) cannot be watched")
        uv_unref(asHandle(raw))
    }

    /// Stops watching. Harmless when repeated.
    public func cancel() {
        guard body != nil else { return }
        body = nil
        uv_close(asHandle(raw)) { handle in
            takeOwner(handle?.pointee.data, as: SignalWatch.self).raw.deallocate()
        }
    }

    func closeFromLoop() { cancel() }
}

/// A watched descriptor.
public final class DescriptorWatch: LoopOwned {
    private let loop: Loop
    private let raw = allocateZeroed(uv_poll_t.self)
    private var body: (() -> Void)?
    /// A descriptor that is closed when the watch has ended, or -1.
    private let ownedDescriptor: Int32

    convenience init(
        on loop: Loop, descriptor: Int32, _ body: @escaping () -> Void
    ) throws(UvError) {
        try self.init(on: loop, descriptor: descriptor, owned: false, body)
    }

    /// - Parameter owned: whether the watch closes the descriptor, also when this throws.
    init(
        on loop: Loop, descriptor: Int32, owned: Bool, _ body: @escaping () -> Void
    ) throws(UvError) {
        self.loop = loop
        self.body = body
        ownedDescriptor = owned ? descriptor : -1
        let result = uv_poll_init(loop.raw, raw, descriptor)
        guard result == 0 else {
            raw.deallocate()
            if owned { Descriptors.close(descriptor) }
            throw UvError(code: result, operation: "watch", subject: "descriptor \(descriptor)")
        }
        raw.pointee.data = Unmanaged.passRetained(self).toOpaque()
        uv_poll_start(raw, Int32(UV_READABLE.rawValue)) { handle, _, _ in
            owner(handle?.pointee.data, as: DescriptorWatch.self).body?()
        }
    }

    /// Stops watching. Harmless when repeated.
    public func cancel() {
        guard body != nil else { return }
        body = nil
        uv_close(asHandle(raw)) { handle in
            let watch = takeOwner(handle?.pointee.data, as: DescriptorWatch.self)
            watch.raw.deallocate()
            if watch.ownedDescriptor >= 0 { Descriptors.close(watch.ownedDescriptor) }
        }
    }

    func closeFromLoop() { cancel() }
}
