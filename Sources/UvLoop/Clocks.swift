import Glibc
import Synchronization

/// The clock that deadlines of holds are kept on: it runs while the host is suspended, and NTP
/// neither moves nor slews it.
public struct HoldClock {
    /// CLOCK_MONOTONIC_RAW + (CLOCK_BOOTTIME - CLOCK_MONOTONIC), in microseconds.
    /// Comparable between processes of one host since its boot; they agree to some microseconds.
    public static var nowMicroseconds: Int64 {
        let suspended = suspendedNanoseconds()
        // The difference of two clocks read one after the other jitters. It truly changes only in
        // a suspend, by far more, so a small change is noise and would make time go backwards.
        let known = lastSuspendedNanoseconds.load(ordering: .relaxed)
        let isNoise = abs(suspended - known) < 1_000_000
        if !isNoise { lastSuspendedNanoseconds.store(suspended, ordering: .relaxed) }
        return (nanoseconds(CLOCK_MONOTONIC_RAW) + (isNoise ? known : suspended)) / 1_000
    }

    private static let lastSuspendedNanoseconds = Atomic<Int64>(0)

    /// The best of some tries: being scheduled away between two reads would look like a suspend.
    private static func suspendedNanoseconds() -> Int64 {
        var best = Int64.max
        var suspended: Int64 = 0
        for _ in 0..<8 {
            let before = nanoseconds(CLOCK_MONOTONIC)
            let boot = nanoseconds(CLOCK_BOOTTIME)
            let after = nanoseconds(CLOCK_MONOTONIC)
            if after - before < best {
                best = after - before
                suspended = boot - (before + after) / 2
            }
            if best < 20_000 { break }
        }
        return suspended
    }
}

/// The time of day, as NTP and operators set it.
public struct WallClock {
    /// CLOCK_REALTIME: microseconds since 1970, UTC.
    public static var nowMicroseconds: Int64 { nanoseconds(CLOCK_REALTIME) / 1_000 }
}

private func nanoseconds(_ clock: Int32) -> Int64 {
    var time = timespec()
    let result = clock_gettime(clock, &time)
    precondition(result == 0, "clock \(clock) cannot be read")
    return Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec)
}
